"""Every option of a study, beside those of the run that it varies; other configs of studies start from here.

    python -m fjt.sweep --config configs/quickstart_sweep.py --workdir runs/quickstart_sweep

A product is a dict {config key: values}: all combinations of them.  `choose(...)` in place of values makes trials, of
which the tuning runs choose one for each cell on held-out training rows.  The report in the study's folder says what
came of it; `python -m fjt.report DIR` makes it again.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(run=None):
    """The config of a study over a run's, by default that of configs/base.py."""
    config = base.get_config() if run is None else run
    config.study = study = ConfigDict()
    study.products = ()  # ({"tune.method": ("full", "lora"), "task": ("rte", "mrpc")}, ...): their union is the study
    study.without = ()  # ({"task": "rte", "tune.method": "full"}, ...): cells that have all these values are left out
    study.seeds = 5  # runs of each cell, each scored on dev once; intervals need 5, a test 6, three tests in a family 7
    study.first_seed = 0  # of the runs of a cell; the others follow it
    study.tuning_seeds = 2  # runs of each trial where something is chosen; these never see dev
    study.first_tuning_seed = 1_000
    study.holdout = 0.1  # share of the training rows that the trials are scored on
    study.baseline = ""  # a method that the others are compared with, cell by cell; empty: no comparisons
    study.alpha = 0.05  # of the comparisons: the chance of a false one
    study.family = "study"  # study | task: among which comparisons that chance is kept (Holm)
    study.base = ""  # NAME[:ARGUMENT] of a config that is run first, unless the cache has it: its encoder is model.path
    study.lanes = 16  # runs that one process takes at a time, at most
    study.mode = ""  # loop: one after another | vmap: as lanes of one program, which leave no checkpoints of their own;
    # empty: vmap on an accelerator, loop on a CPU
    config.output.export = False
    config.output.tables = False
    config.output.curve = False
    config.output.checkpoints = False
    config.log.tensorboard = False
    config.eval.test = False
    return config
