"""Several tasks at once on one encoder, each with outputs of its own: by default RTE, MRPC and CoLA.

    python -m fjt.main --config configs/multitask.py:rte+mrpc+cola --config.model.path=MODEL \\
        --config.data.source=files --config.data.dir=DIR --workdir runs/together

The best step is that with the best mean of the tasks' own metrics, `train.select` names another metric such as
"rte.accuracy".  By default an epoch has every example once; --config.train.task_temperature=2 evens the tasks out, and
--config.train.task_shares=0.4,0.3,0.3 fixes their shares.  --config.loss.task_weights=1,1,0.5 weights their losses.

Tables of your own have names of your own:

    ... --config configs/multitask.py:reviews+topics --config.data.source=files --config.data.holdout=0.1 \\
        --config.data.tables="(('reviews','train','reviews.csv'),('topics','train','topics.csv'))" \\
        --config.data.each="(('topics','columns.label','topic'),)"
"""

from ml_collections import ConfigDict

from configs import base


def get_config(tasks: str = "rte+mrpc+cola") -> ConfigDict:
    config = base.get_config()
    config.task = tasks
    return config
