"""The checker of types in the tests: `checked` wraps each function of fjt when it is imported (see conftest.py)."""

import os

import beartype

checked = beartype.beartype(
    conf=beartype.BeartypeConf(
        is_pep484_tower=True,  # a whole number is a float, as pyright has it
        hint_overrides=beartype.FrozenDict({str: str | os.PathLike}),  # tests give pathlib's paths
    )
)
