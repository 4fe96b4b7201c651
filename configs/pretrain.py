"""Masked language modelling: goes on with the pre-training of a model on your own texts, or begins one from scratch.

    python -m fjt.main --config configs/pretrain.py --config.model.path=MODEL \\
        --config.data.files.train=train.txt --config.data.files.dev=dev.txt --workdir runs/adapted

In a .txt file, empty lines end a document; in a table, config.data.columns.text names the column of the documents, such
as the texts of a task.  Documents are cut into blocks of config.model.max_length tokens; blocks of several documents
share a row, and none sees another.  Without a dev file, --config.data.holdout=0.05 keeps a share of documents aside.

Each epoch masks other tokens, the same ones on any number of devices and after a resume; dev has the same masks in all
runs.  The next run starts from what this one has learned: --config.model.path=runs/adapted.

From scratch, of any size and with a vocabulary of the texts:

    python -m fjt.vocabulary --input train.txt --size 8000 --output vocabulary
    ... --config.model.path= --config.model.scratch.vocab=vocabulary --config.model.scratch.layers=4
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.task = "table"
    config.data.source = "files"
    config.data.kind = "masked_lm"
    return config
