"""Four ways to tune an encoder that finds entities, with 1,000 training sentences each, every one at its recipe.

    python -m fjt.sweep --config configs/ner_methods.py --workdir runs/ner_methods --config.model.path=MODEL \\
        --config.data.files.train=train.conll --config.data.files.dev=dev.conll

Scores are F1 of whole entities; intervals resample sentences, or documents where the file marks them.
"""

from ml_collections import ConfigDict

from configs import ner, study

METHODS = ("full", "lora", "bitfit", "pfeiffer")


def get_config() -> ConfigDict:
    config = study.get_config(ner.get_config())
    config.data.limit = 1_000
    config.train.epochs = 4
    config.study.products = ({"tune.method": tuple((method,) for method in METHODS)},)
    config.study.seeds = 5
    config.study.baseline = "full"
    return config
