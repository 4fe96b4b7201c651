"""Where the spread over seeds comes from: one method, one task, five seeds of the new weights by five of the order.

    python -m fjt.sweep --config configs/seed_sweep.py:rte,lora --workdir runs/seed_sweep --config.model.path=MODEL \\
        --config.data.source=files --config.data.dir=DIR

The argument is `task,method[,method...]`.  Each of the 25 runs has dropout noise of its own, so the report splits the
variance into that of the new weights, that of the order, and the rest.
"""

from ml_collections import ConfigDict

from configs import glue, study

SEEDS = range(5)


def get_config(arg: str = "rte,lora") -> ConfigDict:
    config = study.get_config(glue.get_config(arg))
    config.study.products = tuple(
        {"seeds.init": (i,), "seeds.data": (j,), "seeds.dropout": (len(SEEDS) * i + j,)} for i in SEEDS for j in SEEDS
    )
    return config
