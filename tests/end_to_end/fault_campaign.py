"""Faults beside kills in training: in the last clean-up, full disks, lost terminals and pipes.  The same bits come.

    python -m tests.end_to_end.fault_campaign --workdir runs/faults --output results/faults.json [--seed 0]

A run is made once undisturbed.  Then it is made again and again, each time with one fault, and finished by the same
command:

  clean-up  SIGKILL at each of ten places after result.json is written, while checkpoints are removed (without
            config.output.checkpoints, as in studies)
  disk      a file system that is full five times for each kind of file: cache, log, checkpoint, predictions, export
            (needs the right to mount one)
  terminal  SIGHUP during training
  pipe      the reader of stdout leaves during training

After each fault the files of a folder of precious files beside the run, and some inside its parent, must be what they
were.  The record says for each fault how the process ended, what it said, and whether the finished run has the bits of
the undisturbed one.  Exit code 1 if one differs.
"""

import argparse
import hashlib
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time

from fjt.core import records
from tests.end_to_end.kill_campaign import compiled_once
from tests.end_to_end.process import ROOT, outcome, read_rows, tiny, write_tables

KINDS = {  # what exists when the disk becomes full: (a glob below the file system, or "" for the start)
    "cache": "",
    "log": "run/train.jsonl",
    "checkpoint": "run/checkpoints/4",
    "predictions": "run/predictions",
    "export": "run/export*",
}

# Counts the calls that change a folder once result.json is there, and kills the process at one of them.
KILLER = """
import os, signal, sys
at, number, workdir = int(sys.argv.pop(1)), 0, sys.argv[-1]

def wrapped(function):
    def call(*arguments, **options):
        global number
        if os.path.exists(os.path.join(workdir, "result.json")):
            if number == at:
                os.kill(os.getpid(), signal.SIGKILL)
            number += 1
        return function(*arguments, **options)
    return call

for name in ("unlink", "rmdir", "replace", "rename", "remove"):
    setattr(os, name, wrapped(getattr(os, name)))
import fjt.main
sys.argv[0] = "fjt.main"
code = fjt.main.main(sys.argv)
print("calls", number, file=sys.stderr)
sys.exit(code)
"""


def main(argv):
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.end_to_end.fault_campaign",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv[1:])
    shutil.rmtree(options.workdir, ignore_errors=True)
    options.workdir.mkdir(parents=True)
    campaign = Campaign(options.workdir.resolve(), random.Random(options.seed))
    faults = [*campaign.cleanups(10), *campaign.disks(5), campaign.terminal(), campaign.pipe()]
    equal = all(fault["equal"] and fault["precious"] for fault in faults)
    record = {"seed": options.seed, "equal": equal, "faults": faults, "versions": records.versions()}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    records.write_json(options.output, record)
    print(f"{sum(fault['equal'] for fault in faults)} of {len(faults)} faults led to the same bits")
    return 0 if equal else 1


class Campaign:
    """The faults, each a row of the record.  workdir: where everything is written."""

    def __init__(self, workdir, rng):
        self._folder, self._rng, self._environment = workdir, rng, compiled_once(workdir)
        (workdir / "tables").mkdir()
        write_tables(workdir / "tables")
        self._precious = workdir / "precious"
        for name in ("checkpoints/4/state", "export", "tensorboard", "predictions", "groups/a/checkpoints"):
            (self._precious / name).mkdir(parents=True)
            (self._precious / name / "precious.txt").write_text("precious")
        self._before = _digest(self._precious)
        self._run(self._arguments(workdir / "whole"))
        self._wanted = outcome(workdir / "whole")

    def cleanups(self, count):
        """Kills after result.json is written."""
        calls = self._killed_at(10**9, self._folder / "counted")[1]
        total = int(calls.rsplit("calls ", 1)[1])
        print(f"the last clean-up changes folders {total} times", flush=True)
        rows = []
        for place in sorted(self._rng.sample(range(total), min(count, total))):
            workdir = self._folder / f"clean-up-{place}"
            code, _ = self._killed_at(place, workdir)
            assert code == -signal.SIGKILL, code
            left = sorted(path.name for path in workdir.iterdir() if not path.name.startswith("."))
            rows.append(self._row("clean-up", workdir, code, f"at call {place + 1} of {total}", left=left))
        return rows

    def disks(self, count):
        """File systems that become full."""
        disk = self._folder / "disk"
        disk.mkdir()
        rows = []
        for kind, pattern in KINDS.items():
            for _ in range(count):
                subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
                try:
                    rows.append(self._full(kind, pattern, disk))
                finally:
                    subprocess.run(["umount", "-l", str(disk)], check=True)
        return rows

    def terminal(self):
        """SIGHUP during training."""
        workdir = self._folder / "terminal"
        process = self._start(self._arguments(workdir), slow=True)
        _wait(process, lambda: len(read_rows(workdir / "train.jsonl")) > 2)
        process.send_signal(signal.SIGHUP)
        text = process.communicate()[0]
        return self._row("terminal", workdir, process.returncode, text)

    def pipe(self):
        """The reader of stdout leaves during training."""
        workdir = self._folder / "pipe"
        process = self._start([*self._arguments(workdir), "--config.log.every_steps=1"], slow=True)
        for line in process.stdout:
            if line.startswith("training 3/"):
                break
        process.stdout.close()
        return self._row("pipe", workdir, process.wait(), "")

    def _arguments(self, workdir, *more):
        return [*tiny(self._folder / "tables"), *more, "--workdir", str(workdir)]

    def _start(self, arguments, program=("-m", "fjt.main"), slow=False):
        if slow:
            code = "import sys, time, fjt.main\nfrom fjt.training.protocols import Events\n"
            code += "Events.step_begins = lambda *_: time.sleep(0.2)\nsys.argv[0] = 'fjt.main'\n"
            program = ("-c", code + "sys.exit(fjt.main.main(sys.argv))")
        return subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _run(self, arguments):
        process = self._start(arguments)
        text = process.communicate()[0]
        assert process.returncode == 0, text

    def _killed_at(self, place, workdir):
        process = self._start(
            [place, *self._arguments(workdir, "--config.output.checkpoints=False")], program=("-c", KILLER)
        )
        text = process.communicate()[0]
        return process.returncode, text

    def _full(self, kind, pattern, disk):
        """One run on a file system that is full from a moment on, up to a few pages."""
        workdir, cache = disk / "run", f"--config.cache.dir={disk / 'cache'}"
        pages = 4 * self._rng.randrange(8 if pattern else 4)
        if not pattern:
            _resize(disk, pages)
        process = self._start(self._arguments(workdir, cache), slow=True)
        if pattern:
            _wait(process, lambda: any(disk.glob(pattern)))
            _resize(disk, pages)
        text = process.communicate(timeout=300)[0]
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        return self._row("disk", workdir, process.returncode, text, cache, full_at=kind, kib_left=pages)

    def _row(self, fault, workdir, code, text, *more, **about):
        said = [line.replace(str(self._folder), "DIR") for line in text.splitlines() if line.startswith("fjt: ")]
        checkpoints = ["--config.output.checkpoints=False"] if fault == "clean-up" else []
        partial = sorted(path.name for path in workdir.rglob("*.tmp*")) if workdir.exists() else []
        if code != 0:
            self._run(self._arguments(workdir, *checkpoints, *more))
        equal = outcome(workdir) == self._wanted
        left = sorted(path.name for path in workdir.rglob("*.tmp*"))
        row = {"fault": fault, "code": code, "said": said or text[-200:] if fault == "clean-up" else said, **about}
        row |= {"equal": equal, "precious": _digest(self._precious) == self._before}
        row |= {"temporary_files": [len(partial), len(left)], "traceback": "Traceback" in text}
        print({key: row[key] for key in row if key != "left"}, flush=True)
        return row


def _resize(disk, kib):
    """Leaves some KiB of a file system, on which a process may be writing."""
    for _ in range(100):
        used = shutil.disk_usage(disk).used // 1024
        size = f"remount,size={used + kib + 4}k"
        if subprocess.run(["mount", "-o", size, str(disk)], stderr=subprocess.DEVNULL).returncode == 0:
            return  # it fails when more than that is used by now
    raise AssertionError(f"{disk} could not be made smaller")


def _wait(process, condition):
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end and not condition():
        time.sleep(0.0005)


def _digest(folder):
    """{path: hash} of the files below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv))
