"""fjt fine-tunes BERT-family encoders in JAX: exact, without padding, without work on frozen weights.

In Python: `fjt.train` and `fjt.sweep` run a config, `fjt.load_run` gives a finished run, `fjt.results` a table of them.

Axis letters, one meaning each: G groups (data shards x accumulation), R rows, L row length in tokens, E examples in a
group, S slots in a group, B examples in a batch, T tokens in a split, M slots in a split, N examples in a split,
D width, H heads, K head width, F inner width, V vocabulary, C outputs, J lanes.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fjt.api import train as train
    from fjt.core.errors import Ended as Ended
    from fjt.core.errors import UserError as UserError
    from fjt.experiment.finished import load_run as load_run
    from fjt.experiment.finished import results as results

_LAZY = {  # {name: module}, imported at their first use: `import fjt` stays quick
    "Ended": "fjt.core.errors",
    "UserError": "fjt.core.errors",
    "load_run": "fjt.experiment.finished",
    "results": "fjt.experiment.finished",
    "train": "fjt.api",
}


def __dir__() -> list[str]:
    return [*globals(), *_LAZY, "sweep"]


def __getattr__(name: str) -> Any:
    if name == "sweep":  # a module that can be called
        return importlib.import_module("fjt.sweep")
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'fjt' has no attribute {name!r}")
