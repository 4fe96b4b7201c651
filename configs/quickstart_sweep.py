"""A small study without a network: four ways to tune an encoder, five seeds each, in minutes on two CPU cores.

    python -m fjt.sweep --config configs/quickstart_sweep.py --workdir runs/quickstart_sweep

The encoder learns first whether a review praises (`configs/quickstart.py:sentiment`; the cache keeps it).  The study
then asks which methods carry that over to reviews that others report and believe or doubt, with 600 examples.  A minute
on two cores (AMD EPYC) once the encoder is there, under four with it.  Accuracy, mean and sd of five seeds: full 85.9 ±
4.5, head 81.8 ± 0.8, bitfit 83.0 ± 1.9, lora 90.6 ± 1.2.  A p for each of three comparisons takes seven seeds
(--config.study.seeds=7); five have intervals.
"""

from ml_collections import ConfigDict

from configs import quickstart, study


def get_config() -> ConfigDict:
    config = study.get_config(quickstart.get_config("hearsay"))
    config.data.limit = 600
    config.optim.learning_rate = None  # each method at its recipe
    config.train.epochs = 5
    config.tune.train_pooler = True
    config.study.base = "quickstart:sentiment"
    config.study.products = ({"tune.method": ("full", "head", "bitfit", "lora")},)
    config.study.seeds = 5
    config.study.baseline = "full"
    return config
