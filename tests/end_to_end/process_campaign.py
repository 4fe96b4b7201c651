"""Disturbs a run in two processes, and checks that the same two commands bring it to the same bits.

    python -m tests.end_to_end.process_campaign --output results/process_faults.json [--seed 0] [--only KIND ...]

The run has 24 steps, a checkpoint after every third and four evaluations, in two processes on one machine with two
simulated devices each.  It is made once undisturbed.  Each fault has a run of its own, slowed down so that the fault
comes in the middle.  Then both commands are started again, until the run is done.

  kill  SIGKILL to one process or to both, every third time during a save
  stop  SIGSTOP to one process; when the other one has ended, the stopped one is killed
  term  SIGTERM to one process during training, evaluation or compilation
  int   SIGINT, likewise
  disk  a file system that is full after the first checkpoint (needs the right to mount one)
  flip  one wrong byte in the newest checkpoint of a stopped run: in its arrays, in any file, in its host state

Four checks follow each fault.  The finished run equals the undisturbed one, bit for bit.  A signal costs no step, and
any other fault at most one interval between checkpoints; where a save was not finished yet, the steps since its start
come on top.  The processes that still run end by themselves within 15 seconds, with the expected exit codes.

The record has one row per fault, with the exit codes of processes 0 and 1.  --only makes the faults of these kinds,
and keeps the record's other kinds if they are of the same seed and versions.  Exit code 1 if a check failed.
"""

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

from fjt.core import records
from tests.end_to_end.process import PATIENCE, ROOT, Slow, flags, outcome, read_rows, saving, start, tiny, write_tables

COUNTS = {"kill": 20, "stop": 5, "term": 10, "int": 5, "disk": 3, "flip": 3}
SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "int": signal.SIGINT}  # the other kinds send SIGTERM
AIMS = {  # of the faults of a kind, in turn
    "kill": ("save", "any", "training", "save", "any", "compilation"),
    "stop": ("training", "save", "evaluation"),
    "term": ("training", "evaluation", "compilation"),
    "int": ("training", "evaluation", "compilation"),
    "disk": ("checkpoint",),
    "flip": ("training",),
}
STEPS, EVERY, EVALUATE = 24, 3, 6  # steps: in all, between checkpoints, between evaluations
LIMIT = 15  # seconds in which the processes have to end
PAUSE = 0.15  # seconds added to each step, and three times as many to each evaluation
RUN = dict(train__epochs=None, train__steps=STEPS, train__select="best", mesh__data=0, checkpoint__every_steps=EVERY)
RUN |= dict(eval__every_epochs=None, eval__every_steps=EVALUATE)


@dataclasses.dataclass
class Marked(Slow):
    """Slow steps and evaluations.  Each moment is one line of a file: its name, and the number of steps taken."""

    path: str

    def stage_begins(self, number):
        self._mark("compilation", 0)

    def step_begins(self, step, stepper):
        self._mark("training", step)
        super().step_begins(step, stepper)

    def evaluation_begins(self, step, stepper):
        self._mark("evaluation", step)
        time.sleep(3 * self.seconds)

    def evaluation_ends(self, step):
        self._mark("evaluated", step)

    def save_begins(self, step):
        self._mark("saving", step)

    def _mark(self, name, step):
        with open(self.path, "a") as file:
            file.write(f"{name} {step}\n")


class Pair:
    """Two processes of one run.

    Args:
        arguments: of both.
        folder: a new folder for their outputs and their moments.
        workdir: the run's.
        cache: a folder for compiled programs, None for none.
        slow: whether the run is slowed down and marks its moments.
    """

    def __init__(self, arguments, folder, workdir, cache, slow):
        folder.mkdir(parents=True)
        with contextlib.closing(socket.socket()) as one:
            one.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{one.getsockname()[1]}"
        self._folder, self._workdir, self._since = folder, workdir, time.time()
        arguments = [*arguments, "--workdir", workdir, "--processes=2", f"--coordinator={address}"]
        self.processes = []
        for i in (0, 1):
            events = Marked(PAUSE, str(folder / f"moments-{i}")) if slow else None
            output = folder / f"output-{i}"
            self.processes.append(start([*arguments, f"--process={i}"], output, cache=cache, events=events))

    def moments(self, i=0):
        """[(name, number of steps taken)] of process i."""
        path = self._folder / f"moments-{i}"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [(name, int(step)) for name, step in (line.split() for line in lines if line.endswith("\n"))]

    def reached(self, name):
        """The largest number of steps at moments of a name, in either process."""
        return max((step for i in (0, 1) for found, step in self.moments(i) if found == name), default=0)

    def doing(self):
        """The activity of process 0: compilation, training, evaluation, save, finish or done."""
        if (self._workdir / "DONE").exists():
            return "done"
        if saving(self._workdir, self._since):
            return "save"
        name, step = (self.moments() or [("start", 0)])[-1]
        return {"evaluated": "training", "saving": "training"}.get(name, name) if step < STEPS else "finish"

    def wait(self, aim="", rng=random, seconds=0.0):
        """Waits for a random moment of the activity that a fault is aimed at, or until a process ends.

        seconds: of training in a whole run.
        """
        step, score = rng.randrange(2, STEPS - EVERY), EVALUATE * rng.randrange(1, STEPS // EVALUATE)
        condition, delay = {
            "": (lambda: False, 0),
            "any": (lambda: self.reached("training"), 1.5 * seconds),
            "compilation": (self.moments, 1.5),
            "training": (lambda: self.reached("training") >= step, PAUSE),
            "evaluation": (lambda: self.reached("evaluation") >= score, 3 * PAUSE),
            "save": (lambda: self.reached("training") >= step and saving(self._workdir, self._since), 0.03),
            "checkpoint": (lambda: (self._workdir / "checkpoints" / str(EVERY)).exists(), 6 * PAUSE),
        }[aim]
        end, delay, then = time.monotonic() + PATIENCE, rng.uniform(0, delay), None
        while time.monotonic() < end and all(one.is_alive() for one in self.processes):
            then = time.monotonic() + delay if then is None and condition() else then
            if then is not None and time.monotonic() >= then:
                return
            time.sleep(0.002)

    def end(self, numbers, since):
        """Seconds from a moment until these processes have ended.  All are killed 60 s after the limit."""
        for i in numbers:
            self.processes[i].join(max(0.0, since + LIMIT + 60 - time.monotonic()))
        seconds = time.monotonic() - since
        for one in self.processes:
            one.kill()
            one.join()
        if 255 in self.codes():  # multiprocessing's code where the server that forks the processes was lost
            for one in self.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one.pid, signal.SIGKILL)
            print("the server of the processes was lost; this fault is made again", flush=True)
            raise ChildProcessError
        return round(seconds, 1)

    def codes(self):
        return [one.exitcode for one in self.processes]

    def texts(self):
        """Everything that each process printed."""
        return [(self._folder / f"output-{i}").read_text() for i in (0, 1)]


class Campaign:
    """The faults.  folder: where everything is written, empty at first; seed: of their moments and places."""

    def __init__(self, folder, seed):
        self._folder, self._seed = folder, seed
        for name in ("tables", "compiled", "disk"):
            (folder / name).mkdir()
        write_tables(folder / "tables", tokens=13)
        whole = self._pair(folder / "output", folder / "whole")
        whole.wait()
        whole.end((0, 1), time.monotonic())
        if whole.codes() != [0, 0]:
            raise SystemExit("the undisturbed run failed:\n" + "\n".join(whole.texts()))
        self._seconds = json.loads((folder / "whole" / "result.json").read_text())["train_seconds"]
        self.wanted = outcome(folder / "whole")
        print(f"the undisturbed run: {STEPS} steps in {self._seconds:.1f} s", flush=True)

    def _pair(self, folder, workdir, compiled=True, slow=True):
        arguments = tiny(self._folder / "tables", **RUN)
        return Pair(arguments, folder, workdir, self._folder / "compiled" if compiled else None, slow)

    def fault(self, kind, index):
        """The row of one fault, after which the run was brought to its end."""
        here, disk = pathlib.Path(tempfile.mkdtemp(dir=self._folder)), self._folder / "disk"
        if kind != "disk":
            return self._fault(kind, index, here, here / "run")
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
        try:
            return self._fault(kind, index, here, disk / "run")
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)

    def _fault(self, kind, index, here, workdir):
        rng, checkpoints = random.Random(f"{self._seed} {kind} {index}"), workdir / "checkpoints"
        aim = AIMS[kind][index % len(AIMS[kind])]
        to = [[0], [1], [0, 1]][index // 3 % 3] if kind == "kill" else [] if kind == "disk" else [rng.randrange(2)]
        pair = self._pair(here / "fault", workdir, compiled=aim != "compilation")
        pair.wait(aim, rng, self._seconds)
        row, since = {"aim": aim, "hit": pair.doing(), "to": to}, time.monotonic()
        for i in to:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pair.processes[i].pid, SIGNALS.get(kind, signal.SIGTERM))
        if kind == "disk":
            _fill(workdir.parent / "filler")
        seconds = pair.end([i for i in (0, 1) if i not in to or kind not in ("kill", "stop")], since)
        codes, texts, over = pair.codes(), pair.texts(), (workdir / "DONE").exists()
        logged, begun = read_rows(workdir / "train.jsonl"), pair.reached("saving")
        taken = max([pair.reached("training"), *(line["step"] for line in logged)])
        unfinished = taken - begun if begun and not (checkpoints / str(begun)).exists() else 0
        (workdir.parent / "filler").unlink(missing_ok=True)
        if kind == "flip" and not over:
            newest = max(int(path.name) for path in checkpoints.iterdir() if path.name.isdecimal())
            row["file"] = _flip(checkpoints / str(newest), index, rng)
        again = []
        while not again or (again[-1] != [0, 0] and len(again) < 3):
            pair = self._pair(here / f"again-{len(again)}", workdir, slow=False)
            pair.wait()
            late = pair.end((0, 1), time.monotonic())
            seconds = late if kind == "flip" and not again else seconds
            again.append(pair.codes())
            texts = [before + now for before, now in zip(texts, pair.texts(), strict=True)]
        resumed = [int(step) for step in re.findall(r"resuming after step (\d+) ", pair.texts()[0])] or [0]
        lost, allowed = 0 if over else taken - resumed[-1], 0 if kind in ("term", "int") else EVERY + unfinished
        row |= {"after_step": taken, "codes": codes, "codes_again": again, "seconds": seconds}
        row |= {"steps_lost": lost, "steps_since_unfinished_save": unfinished}
        holds = {
            "the bits of the undisturbed run": (workdir / "DONE").exists() and outcome(workdir) == self.wanted,
            f"at most {allowed} steps lost": lost <= allowed,
            f"an end within {LIMIT} s": seconds <= LIMIT,
            "the exit codes": over or _expected(kind, to, codes, again),
        }
        row["failed"] = [name for name, held in holds.items() if not held]
        if row["failed"]:
            for path, name in ((self._folder, "DIR"), (ROOT, "."), (sys.prefix, "PYTHON"), (sys.base_prefix, "PYTHON")):
                texts = [text.replace(str(path), name) for text in texts]
            row["output"] = [text.splitlines()[-60:] for text in texts]
        return row


def _expected(kind, to, codes, again):
    """Whether the exit codes after a fault, and those of the same commands afterwards, are the expected ones."""
    refused = again[:-1]
    if kind in ("kill", "stop"):
        first = all(code != 0 and (code == -signal.SIGKILL) == (i in to) for i, code in enumerate(codes))
    elif kind == "disk":
        first = 2 in codes and 0 not in codes
    else:
        first = codes == [130 if kind == "int" and i in to else 143 for i in (0, 1)]
    refused_well = len(refused) <= (kind == "flip") and all(2 in pair and 0 not in pair for pair in refused)
    return first and refused_well and again[-1] == [0, 0]


def _fill(path):
    """Fills a file system by a file."""
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass


def _flip(folder, index, rng):
    """The name of the file of a checkpoint in which one byte was changed: of arrays, any, of the host state."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    host = [path for path in files if "host" in path.relative_to(folder).parts]
    arrays = [max(folder.glob("state/d/*"), key=lambda one: one.stat().st_size)]
    path = rng.choice([arrays, files, host][index % 3])
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= rng.randrange(1, 256)
    path.write_bytes(content)
    return str(path.relative_to(folder))


def summary(rows):
    """The part of the record about the faults of one kind."""
    return {
        "faults": len(rows),
        "hit": dict(sorted(collections.Counter(row["hit"] for row in rows).items())),
        "codes": dict(sorted(collections.Counter(str(row["codes"]) for row in rows).items())),
        "largest_seconds": max(row["seconds"] for row in rows),
        "largest_steps_lost": max(row["steps_lost"] for row in rows),
        "failed": sum(bool(row["failed"]) for row in rows),
        "made": rows,
    }


def main(argv):
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.end_to_end.process_campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(COUNTS), metavar="KIND")
    parser.add_argument("--most", type=int, default=100, metavar="N", help="at most N faults of each kind")
    options = parser.parse_args(argv[1:])
    os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    command = f"python -m tests.end_to_end.process_campaign --seed {options.seed}"
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(pathlib.Path(folder), options.seed)
        record = {"command": command, "arguments": flags(**RUN), "versions": records.versions()}
        record["params_sha256"] = campaign.wanted["params_sha256"]
        before = json.loads(options.output.read_text()) if options.only and options.output.exists() else {}
        kinds = before["kinds"] if record.items() <= before.items() else {}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        for kind in options.only or COUNTS:
            rows = []
            while len(rows) < min(COUNTS[kind], options.most):
                with contextlib.suppress(ChildProcessError):
                    rows.append(campaign.fault(kind, len(rows)))
                    print(f"{kind} {len(rows)}:", *(f"{name} {value};" for name, value in rows[-1].items()), flush=True)
            kinds[kind] = summary(rows)
            holds = not any(one["failed"] for one in kinds.values())
            records.write_json(options.output, record | {"holds": holds, "kinds": kinds})
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
