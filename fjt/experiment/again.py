"""A run that has ended, prepared once more from its own config.json."""

import dataclasses
import os

from fjt.core import records
from fjt.core.errors import UserError
from fjt.core.options import MeshConfig
from fjt.core.settings import from_record
from fjt.data.packing import Shape
from fjt.experiment import run_records
from fjt.experiment.prepare import prepare
from fjt.experiment.prepared import Experiment
from fjt.experiment.program_cache import configure_jax


def prepare_again(folder: str, *, keep: bool = False, layout: bool = True) -> Experiment:
    """The Experiment of a run's config.json.

    Args:
        folder: the work directory of the run.
        keep: whether it writes its model and tables; it writes no other outputs.
        layout: whether its batches have the shapes of the run's, which takes as many devices; else all devices here.

    Raises:
        UserError: the data, the models that it starts or learns from, or the config have changed since the run; or its
            layout needs other devices.
    """
    recorded = run_records.read_config(folder)
    settings = from_record(recorded["config"])
    execution = settings.execution
    output = dataclasses.replace(execution.output, export=keep, tables=keep, curve=False, checkpoints=False)
    execution = dataclasses.replace(execution, output=output, log=dataclasses.replace(execution.log, tensorboard=False))
    if not layout:
        execution = dataclasses.replace(execution, mesh=MeshConfig())
    configure_jax(settings)
    with records.reading(os.path.join(folder, "config.json"), "Restore the file."):
        shapes = tuple(Shape(*shape) for shape in recorded["shapes"])
    experiment = prepare(dataclasses.replace(settings, execution=execution), shapes=shapes if layout else ())
    if experiment.fingerprint != recorded["fingerprint"]:
        changed = [key for key in experiment.contents if experiment.contents[key] != recorded["contents"].get(key)]
        if changed:
            reason = f"the contents of its {' and '.join(changed)} have changed. Restore the files that it read"
        else:
            reason = "its config was changed, or this version of fjt interprets it differently (see env.json)"
        raise UserError(f"{folder} cannot be prepared once more: {reason}.")
    return experiment
