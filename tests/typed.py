"""The checker of types in the tests: `checked` wraps each function of MODULES when it is imported (see conftest.py)."""

import os
import pathlib

import beartype

_ROOT = pathlib.Path(__file__).resolve().parent.parent
# No shape is declared in these, and they are called so often that the checker would take a minute of the suite.
_OFTEN = {"fjt.core.schema", "fjt.data.synthetic", "fjt.reports.archive"}
_NAMES = {".".join(path.relative_to(_ROOT).with_suffix("").parts) for path in (_ROOT / "fjt").rglob("*.py")}
MODULES = sorted(name for name in _NAMES - _OFTEN if not name.endswith("__init__"))

_check = beartype.beartype(
    conf=beartype.BeartypeConf(
        is_pep484_tower=True,  # a whole number is a float, as pyright has it
        hint_overrides=beartype.FrozenDict({str: str | os.PathLike}),  # tests give pathlib's paths
    )
)


def checked(function):
    """The function with its types checked at each call; one defined inside another stays as it is.

    It would be wrapped anew whenever the outer one is called, which cost a third of the time of a test that trains.
    """
    return function if "<locals>" in getattr(function, "__qualname__", "") else _check(function)
