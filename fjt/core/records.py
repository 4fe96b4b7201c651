"""What a run leaves on disk: JSON, JSON lines, and the facts of the environment that it ran in."""

import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess


def write_json(path, value):
    """Writes a JSON file whole or not at all."""
    replace(path, json.dumps(plain(value), indent=2, sort_keys=False, allow_nan=False) + "\n")


def replace(path, text):
    """Writes a text file whole or not at all: beside it first, then renamed over it."""
    temporary = f"{path}.{os.getpid()}.tmp"  # two processes of a study may write one file
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path):
    """The value of a JSON file."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def plain(value):
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
    """A file of JSON lines that is cut to a step when opened, so a resumed run leaves no line twice."""

    def __init__(self, path, step):
        kept = [row for row in read_lines(path) if row["step"] <= step] if os.path.exists(path) else []
        replace(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._file = open(path, "a", encoding="utf-8")

    def write(self, row):
        """Appends a row; it holds its step under "step"."""
        self._file.write(json.dumps(plain(row), allow_nan=False) + "\n")
        self._file.flush()

    def close(self):
        self._file.close()


def read_lines(path):
    """The rows of a file of JSON lines; a last line that a kill cut off is left out."""
    rows = []
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.endswith("\n"):
                break
            rows.append(json.loads(line))
    return rows


PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy", "tensorflow-datasets")


def versions():
    """{package: version} of what a result may depend on, Python and fjt included."""
    found = {"fjt": commit(), "python": platform.python_version()}
    for package in PACKAGES:
        found[package] = importlib.metadata.version(package)
    return found


@functools.cache  # of the code that runs, whatever becomes of the checkout
def commit():
    """The git commit that fjt runs from, with "+changes" when the tree differs from it; "" outside a checkout."""
    folder = os.path.dirname(os.path.abspath(__file__))

    def git(*arguments):
        return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout

    try:
        changed = git("status", "--porcelain", "--untracked-files=no").strip()
        return git("rev-parse", "HEAD").strip() + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def cores():
    """The cores that this process may use: XLA divides a CPU's work by them, and the order of sums follows."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def processor():
    """The processor's model name."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()
