"""Multiple choice: which of several continuations fits a text, from tables such as those of SWAG.

    python -m fjt.main --config configs/choice.py --config.model.path=MODEL \\
        --config.data.files.train=train.csv --config.data.files.dev=val.csv --workdir runs/swag

The columns are SWAG's: the choices `ending0` to `ending3` go on from `sent2`, which follows `sent1`; `label` is the
number of the right one, counted from 0.  Other tables name theirs; a single column of choices holds lists of them,
whose lengths may differ:

    --config.data.columns.text=question --config.data.columns.text_pair= --config.data.columns.choices="('choices',)"

Labels are numbers from 0 or from 1, or letters from A.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.task = "table"
    config.data.source = "files"
    config.data.kind = "multiple_choice"
    config.data.columns.text = "sent1"
    config.data.columns.text_pair = "sent2"
    config.data.columns.choices = ("ending0", "ending1", "ending2", "ending3")
    config.data.columns.label = "label"
    return config
