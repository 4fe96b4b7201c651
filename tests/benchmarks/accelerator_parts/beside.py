"""Examples per second of runs in processes of their own that share one device, all at the same time."""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import common
from tests.benchmarks.accelerator_parts import store


def run(options: dict, context: dict) -> dict:
    """The row of a case: all processes compile, wait for each other, and count their steps in the same seconds."""
    platform, count = context["store"].device().get("platform"), options["processes"]
    if platform == "tpu":
        raise store.Skipped("one process alone can use a TPU")
    share = f"{0.9 / count:.3f}"  # of a GPU's memory; other platforms do not read it
    environment = store.child_environment(**{store.MEMORY: share})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "tests.benchmarks.accelerator_parts.beside", json.dumps(options), name]
        with open(folder / "log", "w") as log:
            children = [
                subprocess.Popen([*command, str(i)], cwd=common.ROOT, env=environment, stdout=log, stderr=log)
                for i in range(count)
            ]
            try:
                end = time.monotonic() + store.rest(context)
                while len(list(folder.glob("ready-*"))) < count:
                    if time.monotonic() > end:
                        raise subprocess.TimeoutExpired(command, 0)
                    if any(child.poll() for child in children):
                        text = (folder / "log").read_text()
                        if "RESOURCE_EXHAUSTED" in text:
                            raise store.Skipped(f"{count} processes do not fit into the memory of the device")
                        raise RuntimeError(f"a process did not begin: {text[-500:]}")
                    time.sleep(0.05)
                (folder / "go").touch()
                codes = [child.wait(timeout=store.rest(context)) for child in children]
            finally:
                for child in children:
                    child.kill()
                    child.wait()
        if any(codes):
            raise RuntimeError(f"exit codes {codes}: {(folder / 'log').read_text()[-500:]}")
        counted = [common.read_json(folder / f"done-{i}") for i in range(count)]
    rate = sum(one["steps"] * options["rows"] / one["seconds"] for one in counted)
    return {"examples_per_second": rate, "steps": [one["steps"] for one in counted]}


def child(options: dict, folder: Path, number: str) -> None:
    """Takes steps of the run alone for some seconds after the file `go` appears."""
    import jax

    from tests.benchmarks.accelerator_parts import lanes

    make = lanes.maker_of(options)
    state, others = make.arguments(0)
    compiled = make.compile(state, others, 0)
    state, metrics = compiled(state, *others)
    jax.block_until_ready(metrics)
    (folder / f"ready-{number}").touch()
    while not (folder / "go").exists():
        time.sleep(0.001)
    start, taken = time.perf_counter(), 0
    while time.perf_counter() - start < options["seconds"]:
        for _ in range(4):
            state, metrics = compiled(state, *others)
        jax.block_until_ready(metrics)
        taken += 4
    common.write_json(folder / f"done-{number}", {"steps": taken, "seconds": time.perf_counter() - start})


if __name__ == "__main__":
    from tests.benchmarks.accelerator_parts import stand_ins

    stand_ins.install()
    child(json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
