"""The default config with some values changed."""

from configs import base
from fjt.core import settings


def config(**changes):
    """The default config as nested dicts; changes have `__` for dots."""
    made = base.get_config().to_dict()
    for key, value in changes.items():
        node = made
        *parents, last = key.split("__")
        for parent in parents:
            node = node[parent]
        node[last] = value
    return made


def build(**changes):
    return settings.from_config(config(**changes))
