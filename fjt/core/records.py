"""Files that a run writes: JSON, JSON lines, and the facts of the environment that it ran in."""

import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from typing import Any

Path = str | os.PathLike[str]


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically: a reader sees the old file or the complete new one."""
    replace(path, json.dumps(plain(value), indent=2, sort_keys=False, allow_nan=False) + "\n")


def replace(path: Path, text: str) -> None:
    """Writes a text file atomically: to a temporary file in the same folder, then renamed to `path`."""
    temporary = f"{path}.{os.getpid()}.tmp"  # two processes of a study may write one file
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: Path) -> Any:
    """The value of a JSON file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def plain(value: Any) -> Any:
    """The value with numpy scalars as Python's, tuples as lists, and non-finite numbers as None."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class Log:
    """A file of JSON lines, open for appending.

    When opened it is cut after the rows of `step`, so that a resumed run writes no row twice.
    """

    def __init__(self, path: Path, step: int) -> None:
        rows = [row for row in read_lines(path) if row["step"] <= step] if os.path.exists(path) else []
        replace(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = open(path, "a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row; its key "step" is the step that it belongs to."""
        self._file.write(json.dumps(plain(row), allow_nan=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, without a last line that was cut off when the process was killed."""
    rows = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                break
            rows.append(json.loads(line))
    return rows


PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy", "tensorflow-datasets")


def versions() -> dict[str, str]:
    """{package: version} of all packages that a result may depend on, including Python and fjt."""
    version_of = {"fjt": commit(), "python": platform.python_version()}
    for package in PACKAGES:
        version_of[package] = importlib.metadata.version(package)
    return version_of


@functools.cache  # the code that runs was loaded at the start: later changes of the checkout do not count
def commit() -> str:
    """The git commit that fjt runs from, with "+changes" when the tree differs from it; "" outside a checkout."""
    folder = os.path.dirname(os.path.abspath(__file__))

    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        changes = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "HEAD").strip() + ("+changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def cores() -> int:
    """Number of cores that this process may use: XLA divides a CPU's work by them, which decides the order of sums."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()  # pyright: ignore[reportReturnType]  # None only where Python cannot ask the system


def processor() -> str:
    """The processor's model name."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def instructions() -> str:
    """The instruction set extensions of the processor, as the system names them; "" where it does not."""
    about = _cpuinfo()
    return about.get("flags") or about.get("Features") or ""


def _cpuinfo() -> dict[str, str]:
    """{name: value} of the first processor in /proc/cpuinfo; {} where there is no such file."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            first = file.read().split("\n\n")[0]
    except OSError:
        return {}
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in first.splitlines())}
