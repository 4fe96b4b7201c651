"""Kills a run at random moments until it is done, and says whether it ended as an undisturbed one does.

    python -m tests.end_to_end.kill_campaign --kills 20 --workdir runs/kills --output results/kills.json \\
        [--seed 0] [-- --config configs/quickstart.py --config.data.limit=2000 ...]

What follows `--` is given to `python -m fjt.main` (default: the quickstart on 2000 examples).  The run is made
twice, below --workdir: `whole`, which is timed and never disturbed, and `killed`, which gets SIGKILLs: of every five,
one is aimed at a save (sent while a checkpoint's temporary folder is there), one at an evaluation (sent when the last
step before it is logged and its score is not), three come at a random moment of what is left.  The files that a kill
leaves behind tell what it hit.  When the run is done before all kills were sent, it is made again from nothing.

The record holds each kill's moment and what it hit, and for each end whether parameters, predictions, losses and
scores are those of the undisturbed run, bit for bit.  Exit code 1 when one is not.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from fjt.core import records
from tests.end_to_end.process import ROOT, outcome, phase, read_rows, saving

DEFAULT = (
    "--config",
    "configs/quickstart.py",
    "--config.data.limit=2000",
    "--config.checkpoint.every_steps=20",
    "--config.log.tensorboard=False",
)
AIMS = ("random", "save", "random", "evaluation", "random")
POLL = 0.0005  # seconds


def main(argv):
    """The exit code of a command line."""
    return command(argv, "kill_campaign", __doc__, DEFAULT, campaign, kills=20, shown=("kills_sent", "hit", "equal"))


def command(argv, name, description, default, campaign, *, kills, shown):
    """The exit code of a campaign's command line; its record is written, and what of it is `shown` is printed.

    campaign(options, arguments) -> the record; default: the arguments where none follow `--`.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m tests.end_to_end.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = argv[1:]
    here = given.index("--") if "--" in given else len(given)
    options, arguments = parser.parse_args(given[:here]), given[here + 1 :] or list(default)
    # A shell lets its background jobs ignore Ctrl-C, and so would all processes that they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    record = campaign(options, arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    records.write_json(options.output, record)
    print(json.dumps({key: record[key] for key in shown}, indent=2))
    return 0 if record["equal"] else 1


def compiled_once(folder):
    """The environment of processes that keep what they compile in a folder: a restart then reaches its first step
    sooner, and kills fall on steps instead of compilation."""
    return os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str((folder / "compiled").resolve()),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def campaign(options, arguments):
    """The record of a campaign."""
    rng = random.Random(options.seed)
    shutil.rmtree(options.workdir, ignore_errors=True)
    options.workdir.mkdir(parents=True)
    whole, killed = options.workdir / "whole", options.workdir / "killed"
    environment = compiled_once(options.workdir)

    def begin(workdir):
        with open(options.workdir / "output", "a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "fjt.main", *arguments, "--workdir", str(workdir)],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    if begin(whole).wait() != 0:
        raise SystemExit(f"the undisturbed run failed; see {options.workdir / 'output'}")
    wanted = outcome(whole)
    evaluations = [row["step"] for row in read_rows(whole / "eval.jsonl")]
    result = json.loads((whole / "result.json").read_text())
    print(f"the undisturbed run: {result['steps']} steps in {result['train_seconds']:.0f} s", flush=True)

    kills, ends = [], []
    while len(kills) < options.kills:
        aim = AIMS[len(kills) % len(AIMS)]
        since = time.time()
        process = begin(killed)
        moment = _wait(process, killed, aim, rng, evaluations, result["train_seconds"], since)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        code = process.wait()
        if code == -signal.SIGKILL:
            rows = read_rows(killed / "train.jsonl")
            hit = phase(killed, evaluations, since)
            kills.append(
                {
                    "aim": aim,
                    "hit": hit,
                    "after_step": rows[-1]["step"] if rows else 0,
                    "seconds": round(moment, 2),
                }
            )
            print(f"kill {len(kills)}: aimed at {aim}, hit {hit}, after step {kills[-1]['after_step']}", flush=True)
        elif code != 0:
            raise SystemExit(f"the run failed by itself with code {code}; see {options.workdir / 'output'}")
        if (killed / "DONE").exists() and len(kills) < options.kills:
            ends.append(_compare(killed, wanted, len(kills)))
            shutil.rmtree(killed)
    if not (killed / "DONE").exists():
        code = begin(killed).wait()
        if code != 0:
            raise SystemExit(f"the run failed by itself with code {code}; see {options.workdir / 'output'}")
    ends.append(_compare(killed, wanted, len(kills)))
    return {
        "arguments": [without_folders(argument) for argument in arguments],
        "seed": options.seed,
        "kills_sent": len(kills),
        "hit": {name: sum(kill["hit"] == name for kill in kills) for name in sorted({k["hit"] for k in kills})},
        "equal": all(all(end["equal"].values()) for end in ends),
        "steps": result["steps"],
        "params_sha256": wanted["params_sha256"],
        "ends": ends,
        "kills": kills,
        "versions": result["versions"],
    }


def _wait(process, workdir, aim, rng, evaluations, train_seconds, since):
    """Seconds from the start to the moment at which the process should be killed, or at which it ended."""
    start = time.monotonic()
    first = _size(workdir)  # a change says that training goes on: a restart cuts the log, a step adds to it
    random_delay = rng.uniform(0.0, 1.5 * train_seconds)
    skipped = rng.randrange(3)  # saves or evaluations that are let pass
    begun = seen = None
    passed = 0
    while process.poll() is None:
        now = time.monotonic()
        if aim == "random":
            # The clock starts where training does, or one in four times with the process: starting is hit as well.
            if begun is None and (random_delay < 0.375 * train_seconds or _size(workdir) != first):
                begun = now
            if begun is not None and now - begun >= random_delay:
                return now - start
        elif aim == "save":
            folders = saving(workdir, since)
            if folders and folders != seen:
                seen, passed = folders, passed + 1
                if passed > skipped:
                    time.sleep(rng.uniform(0.0, 0.02))
                    return time.monotonic() - start
        else:
            rows = read_rows(workdir / "train.jsonl")[-1:]
            if rows and rows[0]["step"] in evaluations and rows[0]["step"] != seen and _size(workdir) != first:
                scores = read_rows(workdir / "eval.jsonl")
                if not scores or scores[-1]["step"] < rows[0]["step"]:
                    seen, passed = rows[0]["step"], passed + 1
                    if passed > skipped or seen == max(evaluations):
                        return time.monotonic() - start
        time.sleep(POLL)
    return time.monotonic() - start


def _size(workdir):
    """Bytes of train.jsonl."""
    try:
        return os.stat(workdir / "train.jsonl").st_size
    except FileNotFoundError:
        return 0


def _compare(workdir, wanted, kills):
    got = outcome(workdir)
    equal = {key: got[key] == wanted[key] for key in wanted}
    print(f"done after {kills} kills: {'equal' if all(equal.values()) else equal}", flush=True)
    return {"after_kills": kills, "equal": equal}


def without_folders(argument):
    """An argument without the folders of a path, which are this machine's; those of the repository stay."""
    name, equals, value = argument.rpartition("=")
    if value.startswith(("/", "~")) or ".." in value:
        path = pathlib.Path(value).expanduser().resolve()
        value = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    return name + equals + value


if __name__ == "__main__":
    sys.exit(main(sys.argv))
