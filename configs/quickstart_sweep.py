"""A small study without a network: four methods and five seeds on synthetic sentences, in minutes on two CPU cores.

python -m fjt.sweep --config configs/quickstart_sweep.py --workdir runs/quickstart_sweep
"""

from configs import quickstart, study


def get_config():
    config = study.get_config(quickstart.get_config())
    config.study.products = ({"tune.method": ("full", "head")},)
    config.study.seeds = 5
    config.study.baseline = "full"
    return config
