"""Disturbs a study on Ray, and compares its tables with those of the plain command.

    python -m tests.end_to_end.engine_campaign --kills 10 --workdir runs/engine --output results/engine_faults.json \\
        [--seed 0] [-- --config configs/quickstart_sweep.py ...]

What follows `--` is given to `python -m fjt.sweep` (default: the quickstart study).  It is made three times, below
--workdir: `whole`, by the plain command; `engine`, on a Ray of two nodes with one core each; and `killed`, there too,
while at random moments the process of a task gets a SIGKILL (--kills times), the driver a SIGKILL (three times) or a
Ctrl-C (twice), and a node is removed and another added (twice).  A driver that ended comes again at once.  When the
study is done before all faults were made, it is made again from nothing.

What is compared: see `tests.end_to_end.study_kills`.  Exit code 1 when something differs.  Needs the package ray.
"""

import collections
import os
import random
import shutil
import signal
import subprocess
import sys
import time

from fjt.core import records
from tests.end_to_end import ray_nodes
from tests.end_to_end.kill_campaign import command, compiled_once, without_folders
from tests.end_to_end.process import ROOT
from tests.end_to_end.study_kills import DEFAULT, compare, outcomes, report_files

OTHERS = {"driver killed": 3, "driver interrupted": 2, "node removed": 2}
WAIT = 20.0  # seconds for a task to be there that can be killed


def main(argv):
    """The exit code of a command line."""
    shown = ("faults", "codes", "seconds_to_stop", "runs", "equal")
    return command(argv, "engine_campaign", __doc__, DEFAULT, campaign, kills=10, shown=shown)


def campaign(options, arguments):
    """The record of a campaign."""
    rng, versions = random.Random(options.seed), records.versions()
    shutil.rmtree(options.workdir, ignore_errors=True)
    options.workdir.mkdir(parents=True)
    whole, killed = options.workdir / "whole", options.workdir / "killed"
    environment = compiled_once(options.workdir) | ray_nodes.ALONE

    def begin(folder, *flags):
        with open(options.workdir / "output", "a") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "fjt.sweep", *arguments, "--workdir", str(folder), *flags],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    if begin(whole).wait() != 0:
        raise SystemExit(f"the plain study failed; see {options.workdir / 'output'}")
    wanted, tables = outcomes(whole), report_files(whole, options.workdir / "tables-whole")
    left = ["task killed"] * options.kills + [kind for kind, times in OTHERS.items() for _ in range(times)]
    rng.shuffle(left)
    faults, ends, codes, stops = [], [], collections.Counter(), []
    with ray_nodes.cluster() as ray:
        node = next(iter(ray.worker_nodes))
        flags = ("--engine", "ray", "--address", ray.address)
        start = time.monotonic()
        if begin(options.workdir / "engine", *flags).wait() != 0:
            raise SystemExit(f"the undisturbed study on Ray failed; see {options.workdir / 'output'}")
        seconds = time.monotonic() - start
        print(f"the undisturbed study: {len(wanted)} runs in {seconds:.0f} s", flush=True)
        ends.append(compare(options.workdir / "engine", wanted, tables, options.workdir / "tables-engine", 0))
        driver = begin(killed, *flags)
        while left or driver is not None:
            moment = time.monotonic() + rng.uniform(0.2, 0.6) * seconds
            while time.monotonic() < moment and driver.poll() is None:
                time.sleep(0.05)
            if driver.poll() is not None:
                codes[driver.returncode] += 1
                if driver.returncode != 0:
                    raise SystemExit(f"the driver failed by itself; see {options.workdir / 'output'}")
                ends.append(compare(killed, wanted, tables, options.workdir / f"tables-{len(ends)}", len(faults)))
                if not left:
                    break
                shutil.rmtree(killed)
                driver = begin(killed, *flags)
            elif left:
                kind = left.pop()
                if kind == "node removed":
                    ray.remove_node(node, allow_graceful=False)
                    node = ray_nodes.add_node(ray)
                elif kind == "task killed":
                    end = time.monotonic() + WAIT
                    while not (pids := ray_nodes.task_pids()) and time.monotonic() < end:
                        time.sleep(0.05)
                    if not pids:
                        left.append(kind)
                        continue
                    os.kill(rng.choice(pids), signal.SIGKILL)
                else:
                    before, start = runs_done(killed), time.monotonic()
                    driver.send_signal(signal.SIGKILL if kind == "driver killed" else signal.SIGINT)
                    codes[driver.wait()] += 1
                    if kind == "driver interrupted":
                        stops.append(round(time.monotonic() - start, 2))
                        if driver.returncode != 128 + signal.SIGINT and before < len(wanted):
                            raise SystemExit(f"the driver ended with {driver.returncode} after a Ctrl-C")
                    driver = begin(killed, *flags)
                done = runs_done(killed)
                faults.append({"kind": kind, "runs_done": done})
                print(f"{len(faults)}: {kind}; {done} runs were done", flush=True)
    return {
        "arguments": [without_folders(argument) for argument in arguments],
        "seed": options.seed,
        "faults": dict(collections.Counter(fault["kind"] for fault in faults)),
        "codes": {str(code): times for code, times in codes.items()},
        "seconds_to_stop": stops,
        "runs": len(wanted),
        "report_files": len(tables),
        "equal": all(end["runs_differ"] == end["files_differ"] == [] for end in ends),
        "ends": ends,
        "made": faults,
        "versions": versions,
    }


def runs_done(folder):
    return sum("DONE" in names for _, _, names in os.walk(folder))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
