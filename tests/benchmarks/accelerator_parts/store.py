"""The records of a folder: <part>.json, written after every case, and the facts that they must share."""

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.benchmarks import common
from tests.benchmarks.accelerator_parts import stand_ins, tables

OPTIONAL = ("ml_collections", "rich", "tensorboardX", "tensorflow_datasets", "torch")
GRACE = 40.0  # seconds after the end at which a process that is still running is ended
MEMORY = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # the share of a GPU's memory that JAX takes
Row = dict[str, Any]


def missing() -> list[str]:
    """The optional packages that are not installed."""
    return [name for name in OPTIONAL if not stand_ins.installed(name)]


def code_facts() -> dict[str, str]:
    """{"commit", "sources"}: the commit, "unknown" without Git, and a hash of the files of fjt."""
    command = ["git", "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, cwd=common.ROOT, capture_output=True, text=True)
        commit = done.stdout.strip() if done.returncode == 0 else "unknown"
    except FileNotFoundError:
        commit = "unknown"
    digest = hashlib.sha256()
    for path in sorted((common.ROOT / "fjt").rglob("*.py")):
        digest.update(path.relative_to(common.ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return {"commit": commit, "sources": digest.hexdigest()[:16]}


class Store:
    """The records of a folder.

    Args:
        folder: where they are.
        facts: of this call: command, tiny, commit, sources.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts

    def path(self, part: str) -> Path:
        """The file of a part's record."""
        return self.folder / f"{part}.json"

    def read(self, part: str) -> dict[str, Any]:
        """The record of a part; one without rows before its first case."""
        path = self.path(part)
        return json.loads(path.read_text()) if path.exists() else {"part": part, **self.facts, "rows": {}}

    def device(self) -> dict[str, Any]:
        """The facts of the device that a worker has seen; {} before."""
        path = self.folder / "device.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def add(self, part: str, name: str, row: Row) -> None:
        """Keeps the row of a case, and writes the part's table."""
        record = self.read(part)
        record |= {"device": self.device(), "versions": common.versions(), "missing": missing()}
        record["rows"][name] = row
        common.write_json(self.path(part), record)
        (self.folder / f"{part}.md").write_text(tables.render(record))

    def conflict(self, part: str) -> str:
        """Why the rows of a part cannot stand with new ones; "" if they can."""
        record = self.read(part)
        for name in ("sources", "tiny"):
            if record[name] != self.facts[name]:
                return f"{self.path(part)} has rows with {name}={record[name]}, and this call has {self.facts[name]}"
        return ""


def attempt(case: Any, context: dict[str, Any]) -> Row | None:
    """The row of a case, which is run here; None if the time ended while it ran.

    Its status is passed, failed, skipped or error; its word says why.

    Args:
        case: of the plan.
        context: folder, store, tiny, and end: seconds since 1970 after which no case starts.
    """
    import importlib
    import traceback

    start = time.time()
    try:
        module = importlib.import_module(f"tests.benchmarks.accelerator_parts.{case.module}")
        row = module.run(case.options, context)
    except Skipped as error:
        row = {"status": "skipped", "word": str(error)}
    except subprocess.TimeoutExpired:
        return None
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        if "RESOURCE_EXHAUSTED" in words or "out of memory" in words.lower():
            row = {"status": "skipped", "word": "does not fit into the memory of the device", "too_large": True}
        else:
            row = {"status": "error", "word": words[:600], "traceback": traceback.format_exc().splitlines()[-12:]}
    return {
        "status": "passed",
        "word": "",
        **row,
        "options": case.options,
        "case_seconds": round(time.time() - start, 2),
    }


def rest(context: dict[str, Any]) -> float:
    """The seconds that a process started now may take."""
    return max(1.0, context["end"] + GRACE - time.time())


class Skipped(Exception):
    """The case cannot be run here; the text says why."""


def child_environment(**values: str) -> dict[str, str]:
    """The environment of a child process, with values added; XLA_FLAGS is appended to what is there."""
    environment = {MEMORY: "0.92"} | os.environ | values
    if "XLA_FLAGS" in values and os.environ.get("XLA_FLAGS"):
        environment["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} {values['XLA_FLAGS']}"
    return environment
