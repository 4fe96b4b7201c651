"""A stand-in for ml_collections where it is not installed: fjt's options import it, and the pure step does not need it.

It is enough for `fjt.core.settings.make_config`; config files and commands need the package itself.
"""

import importlib.util
import sys
import types
from typing import Any


class ConfigDict(dict):
    """A dict whose keys are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    __setattr__ = dict.__setitem__


def installed(name: str) -> bool:
    """Whether a package is installed; a stand-in does not count."""
    module = sys.modules.get(name)
    return importlib.util.find_spec(name) is not None if module is None else module.__spec__ is not None


def install() -> None:
    """Makes the stand-in importable as ml_collections if that is not installed."""
    if installed("ml_collections"):
        return
    package, inner = types.ModuleType("ml_collections"), types.ModuleType("ml_collections.config_dict")
    package.ConfigDict = inner.ConfigDict = ConfigDict  # pyright: ignore[reportAttributeAccessIssue]
    inner.placeholder = lambda kind: None  # pyright: ignore[reportAttributeAccessIssue]
    package.config_dict = inner  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules |= {"ml_collections": package, "ml_collections.config_dict": inner}
