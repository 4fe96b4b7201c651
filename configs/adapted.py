"""Does pre-training on your own texts help?  One study of tuning from a base model and from the run that adapted it.

    python -m fjt.main --config configs/pretrain.py --config.model.path=MODEL --workdir runs/adapted \\
        --config.data.files.train=texts.jsonl --config.data.holdout=0.02
    python -m fjt.sweep --config configs/adapted.py:MODEL,runs/adapted --workdir runs/compared \\
        --config.data.files.train=train.jsonl --config.data.files.dev=dev.jsonl

Both cells train on the same examples with the same five seeds; the report has the scores of each with their intervals.
A masked language model has no pooler, here as in PyTorch, so that the adapted one gets a new one; where MODEL has a
pooler, this is part of the difference.
"""

from ml_collections import ConfigDict

from configs import classify, study


def get_config(models: str = "") -> ConfigDict:
    config = study.get_config(classify.get_config())
    base, _, adapted = models.partition(",")
    config.study.products = ({"model.path": (base, adapted)},)
    config.study.seeds = 5
    return config
