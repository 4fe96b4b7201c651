"""The encoder from which all runs of a study start, where a config of its own trains it."""

import os
from collections.abc import Mapping
from typing import Any

from fjt.core import console
from fjt.core.options import Settings
from fjt.experiment import outcome, run_records
from fjt.experiment.execute import run
from fjt.experiment.inputs import cache_dir
from fjt.experiment.prepare import prepare
from fjt.experiment.workdir import lock


def changes(base: Mapping[str, Any]) -> dict[str, Any]:
    """{key: value} of the options in which the encoder's run follows the study, or leaves files out.

    Args:
        base: the config of the study's runs.
    """
    made = {"cache.dir": base["cache"]["dir"], "log.tensorboard": False}
    made |= {f"mesh.{key}": value for key, value in base["mesh"].items()}
    return made | {f"output.{kind}": False for kind in ("curve", "tables", "checkpoints")}


def train(name: str, settings: Settings, view: console.View = console) -> str:
    """The directory of the encoder, in the cache; it is trained first unless the cache has it.

    Args:
        name: of its config.
        settings: of its run.
        view: where its beginning and its scores are shown.

    Raises:
        UserError: it cannot be run.
    """
    experiment = prepare(settings, view=console.Silent())
    folder = os.path.join(cache_dir(settings.execution), "bases", experiment.fingerprint[:16])
    with lock(folder, wait=True):
        if not run_records.is_done(folder):
            view.say(f"training the encoder of {name} first: {experiment.steps:,} steps on {experiment.task.name}")
            result = run(experiment, folder, view=console.Silent())
            scores = "  ".join(f"{metric} {value:.4f}" for metric, value in result["metrics"].items())
            view.say(f"  dev {scores}; saved in {folder}")
        outcome.clean_up(folder)  # a process that was killed after DONE leaves its checkpoints
        run_records.check_export(folder, run_records.read_result(folder))
    return os.path.join(folder, "export")
