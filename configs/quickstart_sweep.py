"""A small study without a network: four ways to tune an encoder, five seeds each, in minutes on two CPU cores.

    python -m fjt.sweep --config configs/quickstart_sweep.py --workdir runs/quickstart_sweep

The encoder learns agreement first (configs/quickstart.py; the cache keeps it); the study then asks which methods carry
it over to another task of the same synthetic language, with 600 examples.
"""

from configs import quickstart, study


def get_config():
    config = study.get_config(quickstart.get_config())
    config.task = "sentiment"
    config.data.limit = 600
    config.optim.learning_rate = None  # each method at its recipe
    config.train.epochs = 4
    config.tune.train_pooler = True
    config.study.base = "quickstart"
    config.study.products = ({"tune.method": ("full", "head", "bitfit", "lora")},)
    config.study.seeds = 5
    config.study.baseline = "full"
    return config
