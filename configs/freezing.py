"""How much of the encoder has to train?  The head alone, the highest one, two or three layers, all, or all in turn.

    python -m fjt.sweep --config configs/freezing.py:rte --workdir runs/freezing --config.model.path=MODEL \\
        --config.data.source=files --config.data.dir=DIR

The argument is the task.  What enters the lowest layer that trains is computed once for all epochs, seeds and rates.
"""

from ml_collections import ConfigDict

from configs import glue, study
from fjt.study.spec import choose


def get_config(task: str = "rte") -> ConfigDict:
    config = study.get_config(glue.get_config(task))
    config.tune.train_pooler = True
    config.study.products = (
        {"tune.method": ("head",), "optim.learning_rate": choose(2.5e-4, 1e-3, 4e-3)},
        {"tune.method": ("top_k",), "tune.layers": (1, 2, 3), "optim.learning_rate": choose(5e-5, 2e-4, 8e-4)},
        {"tune.method": ("full", "llrd", "gradual"), "optim.learning_rate": choose(2e-5, 8e-5, 3e-4)},
    )
    config.study.seeds = 9
    config.study.baseline = "full"
    return config
