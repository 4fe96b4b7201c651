"""Runs launch/slurm.sbatch under a Slurm of one node, which it starts and stops, and queues its jobs again under way.

    python -m tests.end_to_end.slurm_campaign --workdir runs/slurm --output results/slurm.json

As root, with Debian's slurmctld, slurmd, slurm-client and munge installed; nothing of the system's Slurm is touched.
The environment of the jobs is FJT_VENV (default: .venv).  Made and compared with undisturbed ones, bit for bit:

- a study as an array of two tasks, one of which is queued again while it trains;
- a run that is queued again while it compiles, before its first step, and then while it trains;
- a run in two processes that is queued again while it trains.

Exit code 1 when something differs.
"""

import argparse
import contextlib
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

from fjt.core import records
from tests.end_to_end.process import ROOT, outcome, read_rows
from tests.end_to_end.study_kills import outcomes

PATIENCE = 600.0  # seconds in which a job has to get somewhere
STUDY = ("--config", "configs/quickstart_sweep.py", "--config.study.seeds=3")
RUN = ("--config", "configs/quickstart.py", "--config.data.limit=4000", "--config.checkpoint.every_steps=20")
SLURM = """ClusterName=fjt
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
KillWait=15
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@contextlib.contextmanager
def slurm(folder):
    """A context with a Slurm of one node below a folder; its commands find it by SLURM_CONF, which is set."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(2)]
        for one in held:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in held]
    host = socket.gethostname().partition(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(SLURM.format(folder=folder, ports=ports, host=host))
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    os.environ["SLURM_CONF"] = str(conf)
    munged = ["munged", "--force", f"--key-file={folder}/munge.key", f"--socket={folder}/munge.socket"]
    munged += [f"--pid-file={folder}/munge.pid", f"--log-file={folder}/munge.log", f"--seed-file={folder}/munge.seed"]
    try:
        subprocess.run(munged, check=True)
        for daemon in ("slurmctld", "slurmd"):
            subprocess.run([daemon, "-f", conf], check=True)
        wait("the node is idle", lambda: "idle" in said("sinfo", "-h", "-o", "%t"))
        yield
    finally:
        for name in ("slurmd", "slurmctld", "munge"):
            with contextlib.suppress(OSError, ValueError):
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)


def said(*command):
    """What a command of Slurm prints."""
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout


def wait(what, ready):
    """Waits until ready() is true, and returns its value; raises SystemExit after PATIENCE."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := ready():
            return found
        time.sleep(0.1)
    raise SystemExit(f"waited {PATIENCE:.0f} s in vain until {what}\n{said('squeue', '-a')}")


def submit(folder, name, arguments, *options):
    """The number of a job; its output goes to a file in `folder`."""
    log = folder / f"{name}-%a.log" if any("--array" in option for option in options) else folder / f"{name}.log"
    command = ["sbatch", "--parsable", f"--output={log}", *options, "launch/slurm.sbatch", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout.strip()


def again(job):
    """Queues a job again, and lets it start as soon as it has ended: the seconds until then."""
    start = time.monotonic()
    subprocess.run(["scontrol", "requeue", job], check=True)
    wait(f"{job} has ended", lambda: re.search(r"JobState=PENDING", said("scontrol", "show", "job", job)))
    seconds = round(time.monotonic() - start, 1)
    time.sleep(2)  # a node refuses a job that begins in the second in which it ended it there
    subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
    return seconds


def finish(*jobs):
    """Waits for the end of jobs: how often each was started again."""
    restarts = []
    for job in jobs:
        wait(
            f"{job} is done",
            lambda job=job: re.search(r"JobState=(COMPLETED|FAILED)", said("scontrol", "show", "job", job)),
        )
        about = said("scontrol", "show", "job", job)
        if "JobState=COMPLETED" not in about:
            raise SystemExit(f"{job} failed:\n{about}")
        restarts.append(int(re.search(r"Restarts=(\d+)", about)[1]))
    return restarts


def steps(workdir):
    """Number of steps that a run has logged."""
    path = workdir / "train.jsonl"
    return len(read_rows(path)) if path.exists() else 0


def study(folder):
    """The record of a study as an array of two tasks."""
    whole, made = folder / "whole-study", folder / "study"
    command = [sys.executable, "-m", "fjt.sweep", *STUDY, "--workdir", str(whole)]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    array = submit(folder, "study", ["sweep", *STUDY, "--workdir", made], "--array=0-1", "--cpus-per-task=1")
    wait("a run of the study trains", lambda: any(steps(path.parent) > 5 for path in made.rglob("train.jsonl")))
    seconds = again(f"{array}_1")
    restarts = finish(f"{array}_0", f"{array}_1")
    wanted, found = outcomes(whole), outcomes(made)
    return {"runs": len(wanted), "restarts": restarts, "seconds_to_stop": [seconds], "equal": found == wanted}


def run(folder, name, options, arguments, whole, compiling):
    """The record of a run that is queued again, first while it compiles if that is asked for, then while it trains."""
    workdir, stops, before = folder / name, [], []
    job = submit(folder, name, [*arguments, "--workdir", workdir], *options)
    log = folder / f"{name}.log"
    if compiling:
        wait("it is about to compile", lambda: log.exists() and "writing to" in log.read_text())
        stops.append(again(job))
        before.append(steps(workdir))
    wait("it trains", lambda: steps(workdir) > 30)
    stops.append(again(job))
    before.append(steps(workdir))
    restarts = finish(job)
    resumed = [int(step) for step in re.findall(r"resuming after step (\d+)", log.read_text())]
    equal = outcome(workdir) == outcome(whole)
    lost = before[-1] - resumed[-1] if resumed else before[-1]
    return {"restarts": restarts, "seconds_to_stop": stops, "steps_before": before, "steps_lost": lost, "equal": equal}


def main(argv):
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    options = parser.parse_args(argv[1:])
    folder = options.workdir.resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ |= {"JAX_PLATFORMS": "cpu", "FJT_CACHE": str(folder / "cache")}
    with slurm(folder / "slurm"):
        record = {"versions": records.versions() | {"slurm": said("sbatch", "--version").split()[-1]}}
        for processes in (1, 2):
            whole = folder / f"whole-{processes}"
            count = ["--processes", "2"] if processes == 2 else []
            launcher = ["bash", "launch/local.sh", *count, *RUN, "--workdir", str(whole)]
            subprocess.run(launcher, check=True, cwd=ROOT, capture_output=True)
            name = "a run" if processes == 1 else "a run in two processes"
            flags = [f"--ntasks={processes}", "--cpus-per-task=1"]
            record[name] = run(folder, f"run-{processes}", flags, RUN, whole, compiling=processes == 1)
            print(name, record[name], flush=True)
        record["a study as an array"] = study(folder)
        print("a study as an array", record["a study as an array"], flush=True)
    records.write_json(options.output, record)
    return 0 if all(one["equal"] for name, one in record.items() if name != "versions") else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv))
