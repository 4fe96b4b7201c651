"""Do tasks help each other?  One study of each task alone and of all of them together: by default RTE, MRPC and CoLA.

    python -m fjt.sweep --config configs/multitask_sweep.py:rte+mrpc+cola --config.model.path=MODEL \\
        --config.data.source=files --config.data.dir=DIR --workdir runs/together

The report has a section for each of the four; compare the accuracy of `rte` with `rte.accuracy` of `rte+mrpc+cola`.
"""

from ml_collections import ConfigDict

from configs import multitask, study


def get_config(tasks: str = "rte+mrpc+cola") -> ConfigDict:
    config = study.get_config(multitask.get_config(tasks))
    config.train.epochs = 3
    config.study.products = ({"task": (*tasks.split("+"), tasks)},)
    config.study.seeds = 5
    return config
