"""Config files: found, run and changed, for the commands and for Python."""

import contextlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from fjt.core import files
from fjt.core.errors import UserError, suggest
from fjt.core.options import OPTIONS, OTHER_UNIT, flatten, unknown
from fjt.core.schema import Option, to_dicts

ROOT = pathlib.Path(__file__).resolve().parent.parent

ARGUMENTS = {"output_dir": "workdir", "logging_dir": "workdir", "resume_from_checkpoint": "workdir"}  # of Trainer

Config = dict[str, Any]  # nested, with every option of a run, and of a study where there is one


def load(config: Any, changes: Mapping[str, Any], options: Mapping[str, Option] = OPTIONS) -> tuple[Config, str]:
    """(a config as a nested dict, its file or "").

    Args:
        config: a ConfigDict or nested dict; the path of a config file, or the name of one in configs/, with its
            argument after a colon; None for configs/base.py.
        changes: {key: value}, with `.` or `__` between the parts of a key.
        options: {key: Option} of such configs.

    Raises:
        UserError: the file or a key does not exist, or the file is not on this machine.
    """
    if config is None or isinstance(config, str | os.PathLike):
        path, _, argument = files.local_path("base" if config is None else config, "config").partition(":")
        path = find(path)
        made = run(path, *[argument] if argument else [])
    else:
        path, made = "", config
    if not isinstance(made, Mapping | ConfigDict):
        given = f"get_config of {path} returned {made!r:.80}" if path else f"config is {made!r:.80}"
        raise UserError(f"{given}. It should be a ConfigDict or a dict.")
    whole = to_dicts(made)
    for key, value in changes.items():
        _change(whole, key.replace("__", "."), value.item() if isinstance(value, np.generic) else value, options)
    for key, other in OTHER_UNIT.items():  # a duration in another unit than the file's takes its place
        given = {name.replace("__", ".") for name in changes}
        if key in given and other not in given:
            _change(whole, other, None, options)
    return whole, path


def _change(config: Config, key: str, value: Any, options: Mapping[str, Option]) -> None:
    if key not in options:
        hint = f" Did you mean the argument {ARGUMENTS[key]}?" if key in ARGUMENTS else unknown(key, options)
        raise UserError(f"{key} is not an option.{hint}")
    *sections, last = key.split(".")
    for section in sections:
        config = config.setdefault(section, {})
    config[last] = (value,) if options[key].kind is tuple and isinstance(value, str) else value


def find(name: str) -> str:
    """The path of a config file, given as a path, as a path from the folder of fjt, or as a name in configs/.

    Raises:
        UserError: the file does not exist.
    """
    for path in (name, ROOT / name, ROOT / "configs" / f"{name}.py"):
        if os.path.isfile(path):
            return str(path)
    known = sorted(path.stem for path in (ROOT / "configs").glob("*.py"))
    paths = [f"configs/{stem}.py" for stem in known]
    raise UserError(f"The config {name} does not exist.{suggest(name, paths if name.endswith('.py') else known)}")


def run(path: str, *arguments: str) -> Any:
    """What `get_config` of a config file returns.  Raises UserError for a file without one."""
    spec = importlib.util.spec_from_file_location("fjt_config", path)
    if spec is None or spec.loader is None:
        raise UserError(f"The config {path} is not a Python file. Its name should end in .py.")
    module = importlib.util.module_from_spec(spec)
    with importable(path):
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise UserError(f"The config {path} has no function get_config, which returns the options.")
        return module.get_config(*arguments)


@contextlib.contextmanager
def importable(path: str = "") -> Iterator[None]:
    """A context in which a config file can import `configs` of fjt, and its neighbours, from wherever it is."""
    before = list(sys.path)
    sys.path += [str(ROOT), *([os.path.dirname(os.path.abspath(path))] if path else [])]
    try:
        yield
    finally:
        sys.path[:] = before


def origins(config: Any, given: Mapping[str, str], file: str) -> dict[str, str]:
    """{key: origin} of the options that differ from their defaults.

    Args:
        config: of a run or a study.
        given: {key: origin} of those that did not come from the file.
        file: the config file.
    """
    found = {}
    for key, value in flatten(config).items():
        if key in given:
            found[key] = given[key]
        elif key in OPTIONS and value != OPTIONS[key].default and value is not None:
            found[key] = file or "the config"
    return found
