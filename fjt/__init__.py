"""fjt fine-tunes BERT-family encoders in JAX: exact, without padding, without work on frozen weights.

Axis letters, one meaning each: G groups (data shards x accumulation), R rows, L row length in tokens,
E examples of a group, B examples of a batch, D width, H heads, K head width, F inner width, V vocabulary,
C classes, S lanes, N examples of a split.
"""

_LAZY = ("load_run", "results")  # from fjt.experiment.finished, at the first use: `import fjt` stays quick


def __dir__():
    return [*globals(), *_LAZY]


def __getattr__(name):
    if name in _LAZY:
        from fjt.experiment import finished

        return getattr(finished, name)
    raise AttributeError(f"module 'fjt' has no attribute {name!r}")
