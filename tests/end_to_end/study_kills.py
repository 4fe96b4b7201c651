"""Kills two processes that share a study, at random moments, and compares its tables with those of an undisturbed one.

    python -m tests.end_to_end.study_kills --kills 10 --workdir runs/study_kills --output results/study_kills.json \\
        [--seed 0] [-- --config configs/quickstart_sweep.py --config.study.mode=vmap ...]

What follows `--` is given to `python -m fjt.sweep` (default: the quickstart study).  It is made twice, below
--workdir: `whole`, by one process, and `killed`, by two, of which one at a time gets a SIGKILL at a random moment and
comes again at once.  When the study is done before all kills were sent, it is made again from nothing.

What is compared: of every run parameters, predictions, losses and scores; of the report every file, byte for byte, made
from the two files that a study commits, in which the seconds, bytes of memory and rates that were measured are replaced
by 1, for no two runs measure the same.  Exit code 1 when something differs.
"""

import dataclasses
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from fjt.core import records
from fjt.reports import archive
from tests.end_to_end.kill_campaign import command, compiled_once, without_folders
from tests.end_to_end.process import ROOT, outcome

DEFAULT = ("--config", "configs/quickstart_sweep.py")
MEASURED = (
    "train_seconds",
    "compile_seconds",
    "hidden_seconds",
    "examples_per_second",
    "tokens_per_second",
    "peak_memory_bytes",
    "changes",
)


def main(argv):
    """The exit code of a command line."""
    return command(argv, "study_kills", __doc__, DEFAULT, campaign, kills=10, shown=("kills_sent", "runs", "equal"))


def campaign(options, arguments):
    """The record of a campaign."""
    rng, versions = random.Random(options.seed), records.versions()
    shutil.rmtree(options.workdir, ignore_errors=True)
    options.workdir.mkdir(parents=True)
    whole, killed = options.workdir / "whole", options.workdir / "killed"
    environment = compiled_once(options.workdir)

    def begin(folder):
        with open(options.workdir / "output", "a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "fjt.sweep", *arguments, "--workdir", str(folder)],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    start = time.monotonic()
    if begin(whole).wait() != 0:
        raise SystemExit(f"the undisturbed study failed; see {options.workdir / 'output'}")
    seconds = time.monotonic() - start
    wanted, tables = outcomes(whole), report_files(whole, options.workdir / "tables-whole")
    print(f"the undisturbed study: {len(wanted)} runs in {seconds:.0f} s", flush=True)

    kills, ends, pair = [], [], [begin(killed), begin(killed)]
    while True:
        moment = time.monotonic() + rng.uniform(0.0, 4 * seconds / options.kills)
        while time.monotonic() < moment and any(process.poll() is None for process in pair):
            time.sleep(0.02)
        alive = [i for i in (0, 1) if pair[i].poll() is None]
        for i in (0, 1):
            if pair[i].poll() not in (None, 0, -signal.SIGKILL):
                raise SystemExit(f"a process failed by itself; see {options.workdir / 'output'}")
        if len(kills) < options.kills and alive:
            i = rng.choice(alive)
            pair[i].kill()
            pair[i].wait()
            done = sum("DONE" in names for _, _, names in os.walk(killed))
            kills.append({"runs_done": done, "of_two_that_work": len(alive) == 2})
            print(f"kill {len(kills)}: {done} runs were done", flush=True)
            pair[i] = begin(killed)
        elif not alive:
            ends.append(compare(killed, wanted, tables, options.workdir / f"tables-{len(ends)}", len(kills)))
            if len(kills) == options.kills:
                break
            shutil.rmtree(killed)
            pair = [begin(killed), begin(killed)]
    return {
        "arguments": [without_folders(argument) for argument in arguments],
        "seed": options.seed,
        "kills_sent": len(kills),
        "runs": len(wanted),
        "report_files": len(tables),
        "equal": all(end["runs_differ"] == end["files_differ"] == [] for end in ends),
        "ends": ends,
        "kills": kills,
        "versions": versions,
    }


def outcomes(folder):
    """{name of a run: what must be the same bit for bit}."""
    return {
        str(path.parent.relative_to(folder)): outcome(path.parent) for path in sorted(folder.glob("*/**/result.json"))
    }


def report_files(folder, where):
    """{name: sha256} of the files of a report that is made, in another folder, from what a study commits."""
    found = archive.load(folder / "report")
    rows = tuple(row | {name: 1 for name in MEASURED if row[name] is not None} for row in found.rows)
    where.mkdir()
    archive.save(dataclasses.replace(found, rows=rows), where)
    command = [sys.executable, "-m", "fjt.report", str(where), "--output", str(where / "report")]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    made = where / "report"
    files = sorted(path for path in made.rglob("*") if path.is_file())
    return {str(path.relative_to(made)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def compare(folder, wanted, tables, where, kills):
    """What differs between a study that was disturbed and one that was not."""
    found, files = outcomes(folder), report_files(folder, where)
    differ = [name for name in {*found, *wanted} if found.get(name) != wanted.get(name)]
    others = [name for name in {*files, *tables} if files.get(name) != tables.get(name)]
    print(f"done after {kills} kills: {'equal' if not differ and not others else (differ, others)}", flush=True)
    return {"after_kills": kills, "runs_differ": sorted(differ), "files_differ": sorted(others)}


if __name__ == "__main__":
    sys.exit(main(sys.argv))
