"""Files that a run writes: JSON, JSON lines, and the facts of the environment that it ran in."""

import contextlib
import functools
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np

from fjt.core import files
from fjt.core.errors import UserError

Path = files.Path
Form = Mapping[str, Any]  # {key: type, types or Form of its value}; "key?" may be missing; ANY stands for every key
ANY = "*"

REMEDY = "Restore the file, or write it again."


class Damaged(UserError):
    """A record is missing, cut off, or of another form."""


class Unresumable(Damaged):
    """A run cannot go on from its checkpoints: none can be read, or its logs lack rows of the steps before them."""


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file atomically: a reader sees the old file or the complete new one."""
    replace(path, json.dumps(plain(value), indent=2, sort_keys=False, allow_nan=False) + "\n")


def replace(path: Path, text: str) -> None:
    """Writes a text file atomically, in UTF-8."""
    files.write(path, text.encode("utf-8"))


def write_npz(path: Path, arrays: Mapping[str, Any]) -> None:
    """Writes arrays atomically as an .npz file."""
    with files.written(path) as file:
        np.savez(file, **arrays)


def read_json(path: Path, form: Form | None = None, remedy: str = REMEDY) -> Any:
    """The value of a JSON file: a dict.

    Args:
        path: the file.
        form: of the dict; other keys are allowed.
        remedy: the last sentence of the message.

    Raises:
        Damaged: the file is missing, cut off, no JSON, or of another form.
    """
    with reading(path, remedy), open(path, encoding="utf-8") as file:
        value = json.load(file)
        _check_form(value, form or {})
        return value


def read_npz(path: Path, names: Collection[str], remedy: str = REMEDY) -> dict[str, np.ndarray]:
    """{name: array} of an .npz file.

    Args:
        path: the file.
        names: the arrays that it must have; others may be there too.
        remedy: the last sentence of the message.

    Raises:
        Damaged: the file is missing, cut off, or lacks an array.
    """
    with reading(path, remedy), np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
        _check_form(arrays, dict.fromkeys(names, np.ndarray))
        return arrays


@contextlib.contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """A context that turns every exception into Damaged: damaged files raise many types of exceptions.

    Args:
        path: the file that is read.
        remedy: the last sentence of the message.
    """
    try:
        yield
    except FileNotFoundError:
        raise Damaged(f"{os.fspath(path)} is missing. {remedy}") from None
    except (MemoryError, UserError):
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0] or type(error).__name__
        raise Damaged(f"{os.fspath(path)} is damaged ({reason}). {remedy}") from None


def _check_form(value: Any, form: Form) -> None:
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__} instead of a table of keys")
    for key, kind in form.items():
        for name in value if key == ANY else [key.removesuffix("?")]:
            if name in value:
                _check_kind(name, value[name], kind)
            elif not key.endswith("?"):
                raise ValueError(f"it has no {name}")


def _check_kind(name: str, value: Any, kind: Any) -> None:
    types = dict if isinstance(kind, Mapping) else kind
    if not isinstance(value, types) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{name} has the wrong type")
    if isinstance(value, float) and not math.isfinite(value):  # which `plain` never writes
        raise ValueError(f"{name} is {value}")
    if isinstance(kind, Mapping):
        _check_form(value, kind)


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
        self._path, self._file = path, open(path, "a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        """Appends a row; its key "step" is the step that it belongs to."""
        with files.naming(self._path):
            self._file.write(json.dumps(plain(row), allow_nan=False) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Brings the rows to the disk, where a power cut leaves them."""
        with files.naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file, after one more attempt to write rows that did not fit on the disk."""
        with files.naming(self._path):
            self._file.close()


def read_lines(path: Path, form: Form | None = None, remedy: str = REMEDY) -> list[dict[str, Any]]:
    """The rows of a file of JSON lines, without a last line that was cut off when the process was killed.

    Args:
        path: the file.
        form: of each row, besides its "step"; other keys are allowed.
        remedy: the last sentence of the message.

    Raises:
        Damaged: the file is missing, or a line is no JSON or of another form.
    """
    rows = []
    with reading(path, remedy), open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                rows.append(json.loads(line))
                _check_form(rows[-1], {"step": int} | dict(form or {}))
            except (ValueError, RecursionError) as error:
                raise Damaged(f"{os.fspath(path)} is damaged in line {number} ({error}). {remedy}") from None
    return rows


PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "numpy", "tensorflow-datasets")


def versions() -> dict[str, str]:
    """{package: version} of all packages that a result may depend on, including Python and fjt."""
    version_of = {"fjt": commit(), "python": platform.python_version()}
    for package in PACKAGES:
        version_of[package] = _version(package)
    return version_of


@functools.cache  # the code that runs was loaded at the start: later changes of the checkout do not count
def commit() -> str:
    """The git commit of the checkout that fjt runs from, with "+changes" when its files differ from it.

    Outside a checkout of its own, such as an environment in another project's repository: the installed version, or "".
    """
    here = os.path.realpath(__file__)
    root = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    # A hook of git sets GIT_DIR and others, which name the repository of the hook.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*arguments: str) -> str:
        command = ["git", "-C", root, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    try:
        git("ls-files", "--error-unmatch", here)
        if os.path.realpath(git("rev-parse", "--show-toplevel").rstrip("\n")) == root:
            changes = git("status", "--porcelain", "--untracked-files=no").strip()
            return git("rev-parse", "HEAD").strip() + ("+changes" if changes else "")
    except (OSError, ValueError, subprocess.CalledProcessError):
        pass
    return _version("fjt")


def _version(package: str) -> str:
    """The version of an installed package, "" for one that is not."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
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
