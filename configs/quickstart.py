"""Without a network: a small BERT learns, from random weights, whether a sentence is grammatical.

    bash launch/local.sh --config configs/quickstart.py --workdir runs/quickstart

The text comes from the grammar of fjt/data/synthetic.py.  Half of the sentences have a verb that disagrees with
its subject ("The doctor near the pilots are tired."), so the words alone say nothing: what counts is which noun
is the subject.  A control, at chance by construction: `--config.data.shuffle_labels=True`.  Other tasks of the same
language, by `--config configs/quickstart.py:TASK`: `sentiment`, `hearsay`, and `paraphrase`, which is the hardest.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(task: str = "agreement") -> ConfigDict:
    config = base.get_config()
    config.task = task
    config.data.source = "synthetic"
    config.model.path = ""  # random weights, of the shape in model.scratch
    config.model.max_length = 64  # none of the synthetic texts is longer
    config.tune.method = ("full",)
    config.optim.learning_rate = 1e-3  # far above a fine-tuning rate: nothing here is pretrained
    config.optim.warmup_fraction = 0.1
    config.train.epochs = 3 if task == "agreement" else 4
    config.train.batch_size = 32
    config.eval.every_epochs = 1
    return config
