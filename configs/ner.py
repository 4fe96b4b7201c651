"""Named entities and other spans of words, from CoNLL files (one word per line) or lists of words and tags.

    python -m fjt.main --config configs/ner.py --config.model.path=MODEL \\
        --config.data.files.train=train.conll --config.data.files.dev=dev.conll --workdir runs/ner

Words are in the first column and tags in the last one; `--config.data.columns.label=2` names another, counted from 0.
Tags may be IOB1, BIO, BIOES or BILOU.  In a .jsonl or .parquet file, the columns hold lists of words and of tags, and
are named.  Sentences longer than config.model.max_length are read in overlapping windows; each word is predicted once.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.task = "table"
    config.data.source = "files"
    config.data.kind = "entities"
    config.data.columns.text = "0"
    config.data.columns.label = "-1"
    return config
