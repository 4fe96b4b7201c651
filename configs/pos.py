"""One tag per word, such as parts of speech, from CoNLL-U or CoNLL files, or from lists of words and tags.

    python -m fjt.main --config configs/pos.py --config.model.path=MODEL \\
        --config.data.files.train=train.conllu --config.data.files.dev=dev.conllu --workdir runs/pos

Words and tags are the columns `form` and `upos` of a .conllu file.  Those of other files are named by
`--config.data.columns.text` and `--config.data.columns.label`: numbers from 0 in a .conll file, -1 for the last one.
"""

from ml_collections import ConfigDict

from configs import ner


def get_config() -> ConfigDict:
    config = ner.get_config()
    config.data.kind = "tagging"
    config.data.columns.text = "form"
    config.data.columns.label = "upos"
    return config
