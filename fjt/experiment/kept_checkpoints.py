"""The checkpoints that a finished run kept, as models: the parts of a soup within one run."""

import os
from collections.abc import Sequence

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.experiment import combination, predictor
from fjt.experiment.again import prepare_again
from fjt.experiment.arguments import abstract_state
from fjt.experiment.combination import Dev, Part
from fjt.experiment.ensemble import Ensemble
from fjt.experiment.loaded_run import Run
from fjt.experiment.predictor import Predictor
from fjt.experiment.prepared import Experiment
from fjt.experiment.process import undisturbed
from fjt.experiment.solo import frozen_of
from fjt.training import placement
from fjt.training.checkpoint import Checkpoints, HostState
from fjt.training.step import TrainState
from fjt.tuning import partition

REMEDY = "Restore it; or move its folder away, and the checkpoints that are left are combined."


@undisturbed()
def of_run(run: Run) -> list[Part]:
    """The Part of each checkpoint that a run kept, in the order of their steps.

    The weights of a part are those that the run evaluated after that step: with `train.ema` or `train.swa` their
    average over steps; of parameters that a later stage opens, the values from before training.

    Args:
        run: a finished run; its export is not needed.

    Raises:
        UserError: there are fewer than two checkpoints, one cannot be read, their method cannot be merged, or what the
            run was trained from has changed.
    """
    if isinstance(run, Ensemble):
        raise UserError(f"{run.path} is an ensemble, which has no checkpoints. Give one of its runs.")
    methods = partition.find_methods(combination.settings_of(run).experiment.tune)
    if not partition.can_merge(methods):
        raise UserError(
            f"The checkpoints of {run.path} are not whole models, since {' and '.join(methods)} cannot be merged into "
            "the base model, and have no mean. Combine runs of other seeds by --how=ensemble."
        )
    folder = os.path.join(run.path, "checkpoints")
    if not os.path.isdir(folder):
        raise _too_few(folder, 0)
    with Checkpoints(folder, 1) as checkpoints:  # nothing is saved, so that none is removed
        steps = sorted(checkpoints.steps())
        if len(steps) < 2:
            raise _too_few(folder, len(steps))
        experiment = prepare_again(run.path, layout=False)
        models = {step: _read(experiment, checkpoints, step) for step in steps}
    dev = Dev(run, experiment.settings, experiment.splits["dev"])
    return [Part(f"step={step}", dev.predicted(own), lambda own=own: own) for step, own in models.items()]


def _too_few(folder: str, count: int) -> UserError:
    return UserError(
        f"{folder} has {count} checkpoints, and a mean needs two or more. Train in another --workdir with "
        "--config.output.checkpoints=True and --config.checkpoint.keep=5, say, the number of latest checkpoints that "
        "are kept; config.checkpoint.every_steps saves more often. Lanes of a study keep none."
    )


def _read(experiment: Experiment, checkpoints: Checkpoints, step: int) -> Predictor:
    """The Predictor of a checkpoint."""

    def shapes(step: int, hosts: Sequence[HostState]) -> TrainState:
        return abstract_state(experiment, step, hosts[0].stage_ends)

    restored = checkpoints.restore(shapes, step, REMEDY)
    assert restored is not None, "it was listed"
    trainable = placement.fetch(restored[1].result)
    options, config = experiment.settings.experiment, experiment.model.config
    params = partition.lasting(tree.merge(trainable, frozen_of(experiment, trainable)))
    merged = partition.merged(partition.find_methods(options.tune), params, config)
    return predictor.of_params(merged, config, experiment.task, experiment.tokenizer, vars(options.model))
