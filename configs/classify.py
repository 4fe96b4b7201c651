"""Your own table: CSV, TSV, JSON lines or Parquet; classes, or `configs/classify.py:regression` or `:multi_label`.

    python -m fjt.main --config configs/classify.py --config.model.path=MODEL \\
        --config.data.files.train=train.csv --config.data.files.dev=dev.csv --workdir runs/own

The columns are `text` and `label` unless `--config.data.columns.text=review` (text_pair, label, id) says otherwise;
without a header line: `--config.data.header=False --config.data.columns.text=2 --config.data.columns.label=0`.
Without a dev file, `--config.data.holdout=0.1` keeps a tenth of train aside.  Labels get their ids in sorted order, or
in that of `--config.data.label_names=bad,good`.  A .csv is quoted as usual, a .tsv not at all.

With `:multi_label` a row has any number of labels: a list, names with commas between them, or one column of 0 and 1 per
label, `--config.data.columns.labels=toxic,insult`.  A row without any label has the list [] or an empty text.  With
`:multi_regression` these columns hold scores.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(arg: str = "classification") -> ConfigDict:
    config = base.get_config()
    config.task = "table"
    config.data.source = "files"
    config.data.kind = arg
    return config
