"""fjt fine-tunes BERT-family encoders in JAX: exact, without padding, without work on frozen weights.

Axis letters, one meaning each: G groups (data shards x accumulation), R rows, L row length in tokens, E examples in a
group, S slots in a group, B examples in a batch, T tokens in a split, M slots in a split, N examples in a split,
D width, H heads, K head width, F inner width, V vocabulary, C outputs, J lanes.
"""

from typing import Any

_LAZY = ("load_run", "results")  # imported from fjt.experiment.finished at their first use: `import fjt` stays quick


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from fjt.experiment import finished

        return getattr(finished, name)
    raise AttributeError(f"module 'fjt' has no attribute {name!r}")
