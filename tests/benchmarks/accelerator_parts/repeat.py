"""The same command twice, with and without XLA's deterministic operations: equal bits, and the time of a step."""

import json
import subprocess
import sys

from tests.benchmarks import common
from tests.benchmarks.accelerator_parts import store

FLAG = "--xla_gpu_deterministic_ops=true"


def run(options: dict, context: dict) -> dict:
    """The row of the case.  Equal bits are promised with the flag on a GPU, and without it on a CPU."""
    pairs = {"as it is": [once(options, context) for _ in range(2)]}
    if pairs["as it is"][0]["platform"] in ("gpu", "cuda"):
        pairs["deterministic"] = [once(options, context, XLA_FLAGS=FLAG) for _ in range(2)]
    found = {
        name: {"equal": one["bits"] == two["bits"], "seconds": min(one["seconds"], two["seconds"])}
        for name, (one, two) in pairs.items()
    }
    promised = "deterministic" if "deterministic" in found else "as it is"
    row = {"pairs": found, "status": "passed" if found[promised]["equal"] else "failed"}
    row["word"] = "" if found[promised]["equal"] else f"{promised}: two calls differ in their bits"
    if "deterministic" in found:
        row["price"] = found["deterministic"]["seconds"] / found["as it is"]["seconds"]
    return row


def once(options: dict, context: dict, **environment: str) -> dict:
    """{"platform", "bits", "seconds"} of one process."""
    command = [sys.executable, "-m", "tests.benchmarks.accelerator_parts.repeat", json.dumps(options)]
    done = subprocess.run(
        command, cwd=common.ROOT, env=store.child_environment(**environment), capture_output=True, text=True,
        timeout=store.rest(context),
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def child(options: dict) -> dict:
    """What a process computes: the hash of all losses and of the trained parameters, and seconds per step."""
    import hashlib

    import jax
    import numpy as np

    from fjt.core import tree
    from tests.benchmarks.accelerator_parts import steps, texts

    made = steps.make(options["shape"], "full", "float32" if options["shape"] == "tiny" else "bfloat16")
    size, length = (4, 32) if options["shape"] == "tiny" else (32, 128)
    examples = steps.examples_of(size * texts.BATCHES, length, made.model.config)
    all_batches, _ = steps.packed(examples, size, length, made.model.config.width)
    held, losses = {"state": made.state()}, []
    compiled = made.compile(all_batches[0], held["state"], made.frozen)

    def call(k: int) -> jax.Array:
        held["state"], metrics = compiled(held["state"], made.frozen, all_batches[k % len(all_batches)], made.hyper)
        losses.append(metrics["loss"])
        return metrics["loss"]

    seconds = steps.seconds_per_call(call, options["steps"], 2)
    digest = hashlib.sha256(np.asarray(jax.device_get(losses)).tobytes())
    for name, leaf in sorted(tree.flatten(jax.device_get(held["state"].trainable)).items()):
        digest.update(name.encode() + np.ascontiguousarray(leaf).tobytes())
    return {"platform": jax.default_backend(), "bits": digest.hexdigest(), "seconds": min(seconds)}


if __name__ == "__main__":
    from tests.benchmarks.accelerator_parts import stand_ins

    stand_ins.install()
    print(json.dumps(child(json.loads(sys.argv[1]))))
