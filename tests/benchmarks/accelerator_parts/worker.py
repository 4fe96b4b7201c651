"""Runs cases one after another in this process, which opens the device: `accelerator` starts it.

    python -m tests.benchmarks.accelerator_parts.worker REQUEST.json

The request names folder, facts, keys of cases and the time at which no case starts any more (seconds since 1970).
"""

import json
import sys
import time
from pathlib import Path

from tests.benchmarks.accelerator_parts import plan, stand_ins
from tests.benchmarks.accelerator_parts.store import Store, attempt


def main(path: str) -> None:
    """Runs the cases of a request until its time."""
    request = json.loads(Path(path).read_text())
    stand_ins.install()
    store = Store(Path(request["folder"]), request["facts"])
    found = {case.key: case for case in plan.cases(plan.PARTS, request["facts"]["tiny"])}
    chosen = [found[key] for key in request["keys"]]
    if any(case.module != "torch_speed" for case in chosen):
        write_device(store)
    for case in chosen:
        if time.time() >= request["end"]:
            return
        print(f"{case.key} ...", flush=True)
        row = attempt(case, {"folder": store.folder, "store": store} | {k: request[k] for k in ("tiny", "end")})
        assert row is not None, "a case of a worker starts no process"
        store.add(case.part, case.name, row)
        print(f"{case.key}: {row['status']} {row['word']} ({row['case_seconds']:.0f} s)", flush=True)


def write_device(store: Store) -> None:
    """Writes device.json."""
    import jax

    from tests.benchmarks import common

    device = jax.devices()[0]
    limit = (device.memory_stats() or {}).get("bytes_limit")
    facts = {
        "platform": device.platform,
        "kind": device.device_kind,
        "count": len(jax.devices()),
        "memory_bytes": limit,
    }
    if device.platform == "cpu":
        facts["kind"] = common.device()
    common.write_json(store.folder / "device.json", facts)


if __name__ == "__main__":
    main(sys.argv[1])
