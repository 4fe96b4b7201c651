"""Every option of a study, beside those of the run that it varies; other configs of studies start from here.

    python -m fjt.sweep --config configs/quickstart_sweep.py --workdir runs/quickstart_sweep

A product is a dict {config key: values}: all combinations of them.  `choose(...)` in place of values makes trials, of
which the tuning runs choose one for each cell on held-out training rows.  With config.data.limit all seeds train on
one draw of rows; `"seeds.subset": (0, 1, 2)` in a product gives other draws, and `"data.folds": (5,)` all five folds
of a cross-validation.  The report in the study's folder opens with the verdict; `python -m fjt.report DIR` makes it
again.  `python -m fjt.sweep --help` shows every option.
"""

from ml_collections import ConfigDict

from configs import base
from fjt.core import schema
from fjt.study.spec import StudyConfig


def get_config(run: ConfigDict | None = None) -> ConfigDict:
    """The config of a study over a run's, by default that of configs/base.py."""
    config = base.get_config() if run is None else run
    config.study = schema.make_config(StudyConfig)
    config.output.export = False
    config.output.tables = False
    config.output.curve = False
    config.output.checkpoints = False
    config.log.tensorboard = False
    config.eval.test = False
    return config
