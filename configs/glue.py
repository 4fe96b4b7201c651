"""GLUE: fine-tune on one of its eleven tasks, by name, optionally with methods.

From the official TSV files (DIR/SST-2/train.tsv, DIR/MNLI/dev_matched.tsv, ...) and a model directory:

    python -m fjt.main --config configs/glue.py:rte --config.model.path=MODEL \\
        --config.data.source=files --config.data.dir=DIR --workdir runs/rte

With a network, `python -m fjt.main --config configs/glue.py:rte --workdir runs/rte` takes the data through TFDS and
bert-base-uncased from the hub.  The argument is `task[,method...]`: `configs/glue.py:mrpc,head`; alone, it is sst2.

    cola             Matthews correlation          qnli  accuracy
    sst2             accuracy                      rte   accuracy
    mrpc             F1, accuracy                  wnli  accuracy
    stsb             Pearson, Spearman             ax    Matthews correlation; trains on MNLI, dev is MNLI's
    qqp              F1, accuracy                        matched set, test the diagnostics (labelled in
    mnli             accuracy; both dev sets             diagnostic-full.tsv only)
    mnli_mismatched  accuracy; trains on MNLI, dev and test are the mismatched sets

The first metric of a task chooses the best step.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "sst2") -> ConfigDict:
    config = base.get_config()
    config.task, *methods = arg.split(",")
    if methods:
        config.tune.method = tuple(methods)
    return config
