"""Whole commands on the device: a run, a killed one, LoRA on top of a run, a study as lanes.

python -m tests.benchmarks.accelerator_parts.smoke STEP [flags of fjt.main]     kills itself in that step
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks import common, same_bits
from tests.benchmarks.accelerator_parts import stand_ins, store

NEEDED = ("absl", "ml_collections", "rich", "orbax", "sklearn", "transformers")  # of fjt.main
LEARNS = 0.7  # accuracy; half of the sentences are acceptable
TINY = {
    "data.limit": 64, "model.scratch.layers": 1, "model.scratch.width": 32, "model.scratch.heads": 2,
    "model.scratch.inner": 64, "train.steps": 8, "eval.every_steps": 4, "train.batch_size": 16,
}  # fmt: skip
QUIET = {"log.tensorboard": False, "output.curve": False, "eval.test": False}


def run(options: dict, context: dict) -> dict:
    """The row of a case."""
    lacking = [name for name in NEEDED if not stand_ins.installed(name)]
    if lacking:
        raise store.Skipped(f"fjt.main needs {', '.join(lacking)}, not installed here")
    folders = {"quickstart": "quickstart", "resume": "killed", "lora": "lora", "study": "study"}
    shutil.rmtree(context["folder"] / "runs" / folders[options["what"]], ignore_errors=True)  # of a call cut off
    return {"quickstart": quickstart, "resume": resume, "lora": lora, "study": study}[options["what"]](context)


def quickstart(context: dict) -> dict:
    """The quickstart learns."""
    folder = context["folder"] / "runs" / "quickstart"
    code, text = command(context, main(context, folder))
    result = result_of(folder, code, text)
    accuracy = result["metrics"]["accuracy"]
    losses = [json.loads(line)["loss"] for line in (folder / "train.jsonl").read_text().splitlines()]
    passed = all(map(lambda x: x == x, losses)) if context["tiny"] else accuracy >= LEARNS
    word = "" if passed else f"accuracy {accuracy:.3f}, below {LEARNS}"
    return {"status": "passed" if passed else "failed", "word": word, "accuracy": accuracy} | times(result)


def resume(context: dict) -> dict:
    """The same run killed in the middle and called again: the same bits as the one that nothing disturbed."""
    whole, folder = context["folder"] / "runs" / "quickstart", context["folder"] / "runs" / "killed"
    if not (whole / "DONE").exists():
        raise store.Skipped("the quickstart has not finished")
    steps = same_bits.row_of(whole)["losses"]
    at = 6 if context["tiny"] else 2 * len(steps) // 3
    arguments = main(context, folder)
    killer = [*arguments[:2], "tests.benchmarks.accelerator_parts.smoke", str(at), *arguments[3:]]
    code, text = command(context, killer)
    if code != -signal.SIGKILL:
        raise RuntimeError(f"exit code {code} in place of a kill: {text}")
    taken = len((folder / "train.jsonl").read_text().splitlines())
    saved = len([path for path in (folder / "checkpoints").glob("*") if path.is_dir()])
    code, text = command(context, arguments)
    result = result_of(folder, code, text)
    one, two = (same_bits.row_of(path) for path in (whole, folder))
    one["params"], two["params"] = (common.read_json(p / "result.json")["params_sha256"] for p in (whole, folder))
    differing = [name for name in one if one[name] != two[name]]
    word = f"these differ: {', '.join(differing)}" if differing else ""
    row = {"status": "failed" if differing else "passed", "word": word}
    return row | {"killed_after_step": taken, "checkpoints": saved} | times(result)


def lora(context: dict) -> dict:
    """LoRA on the encoder of the quickstart."""
    base, folder = context["folder"] / "runs" / "quickstart", context["folder"] / "runs" / "lora"
    if not (base / "DONE").exists():
        raise store.Skipped("the quickstart has not finished")
    keys = {"model.path": base, "tune.method": "lora", "optim.learning_rate": 1e-3}
    code, text = command(context, main(context, folder, **keys))
    result = result_of(folder, code, text)
    accuracy = result["metrics"]["accuracy"]
    passed = context["tiny"] or accuracy >= LEARNS
    word = "" if passed else f"accuracy {accuracy:.3f}, below {LEARNS}"
    return {"status": "passed" if passed else "failed", "word": word, "accuracy": accuracy} | times(result)


def study(context: dict) -> dict:
    """A small study whose runs are lanes of one program per method."""
    base, folder = context["folder"] / "runs" / "quickstart", context["folder"] / "runs" / "study"
    if not (base / "DONE").exists():
        raise store.Skipped("the quickstart has not finished")
    keys = {"model.path": base, "study.base": "", "study.mode": "vmap", "study.seeds": 2, "train.epochs": 2}
    keys |= {"data.limit": 64 if context["tiny"] else 600, "log.tensorboard": False}
    config = ["fjt.sweep", "--config", "configs/quickstart_sweep.py", "--workdir", str(folder), *flags(keys)]
    code, text = command(context, [sys.executable, "-m", *config, *cache(context)])
    found = [common.read_json(path) for path in sorted(folder.glob("runs/**/result.json"))]
    if code or len(found) != 8:
        return {"status": "failed", "word": f"exit code {code}, {len(found)} of 8 runs finished: {text[-300:]}"}
    compiled = sum(result["compile_seconds"] for result in found)
    return {"runs": len(found), "compile_seconds": compiled, "train_seconds": sum(r["train_seconds"] for r in found)}


def main(context: dict, folder: Path, **keys: object) -> list[str]:
    """The command line of a run of the quickstart, with other keys."""
    keys = QUIET | (TINY if context["tiny"] else {}) | keys
    config = ["fjt.main", "--config", "configs/quickstart.py", "--workdir", str(folder)]
    return [sys.executable, "-m", *config, *flags(keys), *cache(context)]


def flags(keys: dict) -> list[str]:
    """--config flags of {key: value}."""
    return [f"--config.{key}={value}" for key, value in keys.items()]


def cache(context: dict) -> list[str]:
    """The flag of the folder for compiled programs, which a resumed run shares with the one that was killed."""
    return [f"--config.cache.dir={context['folder'] / 'runs' / 'cache'}"]


def command(context: dict, arguments: list[str]) -> tuple[int, str]:
    """(exit code, the end of its output) of a command."""
    start = time.time()
    done = subprocess.run(arguments, cwd=common.ROOT, capture_output=True, text=True, timeout=store.rest(context))
    print(f"  {' '.join(arguments[2:5])} ...: exit code {done.returncode}, {time.time() - start:.0f} s", flush=True)
    return done.returncode, (done.stdout + done.stderr)[-800:]


def result_of(folder: Path, code: int, text: str) -> dict:
    """The result of a run that has finished."""
    if code:
        raise RuntimeError(f"exit code {code}: {text}")
    return common.read_json(folder / "result.json")


def times(result: dict) -> dict:
    """What a row keeps of the result of a run."""
    names = ("compile_seconds", "train_seconds", "examples_per_second", "peak_memory_bytes", "memory_kind", "steps")
    return {name: result.get(name) for name in names}


def killed(step: int, arguments: list[str]) -> int:
    """The exit code of fjt.main, which does not return: it is killed when a step begins, after a save may have ended.

    Args:
        step: number of steps taken before.
        arguments: of fjt.main.
    """
    from fjt import main as fjt_main
    from fjt.training.protocols import Events

    @dataclasses.dataclass
    class Die(Events):
        def step_begins(self, at: int, stepper: object) -> None:
            if at == step:
                time.sleep(1.0)
                os.kill(os.getpid(), signal.SIGKILL)

    sys.argv = ["fjt.main", *arguments]  # config flags are read from there
    return fjt_main.main(sys.argv, Die())


if __name__ == "__main__":
    sys.exit(killed(int(sys.argv[1]), sys.argv[2:]))
