"""The config of a run with every option at its default; other configs start from here and set what they change.

`python -m fjt.main --help` shows each option with its default and meaning; `fjt/core/options.py` declares them.
A value of None is filled from a recipe for the method and the size of the training set: the run prints and records
which values came from a recipe and which from you.
"""

from ml_collections import ConfigDict

from fjt.core import settings


def get_config() -> ConfigDict:
    return settings.make_config()
