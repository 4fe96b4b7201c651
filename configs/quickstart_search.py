"""A small search without a network: learning rate, batch size and epochs of a small encoder, with 600 examples.

    python -m fjt.search configs/quickstart_search.py --workdir runs/quickstart_search --trials 16

The encoder starts from random weights, as in configs/quickstart.py, and learns whether a review praises.  A share of
the training rows is held out: it scores the trials, and the dev set stays unseen for the best of them.
"""

from ml_collections import ConfigDict

from configs import quickstart, search


def get_config() -> ConfigDict:
    config = search.get_config(quickstart.get_config("sentiment"))
    config.data.limit = 600
    config.data.holdout = 0.25
    config.search.space = (
        {
            "optim.learning_rate": ("log", 1e-4, 1e-1, 4),
            "train.batch_size": [16, 32],
            "train.epochs": ("int", 1, 3),
        },
    )
    return config
