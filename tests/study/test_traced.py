"""Options that are declared traced change no compiled program, so that runs which differ in them can be lanes."""

import functools

import numpy as np
import pytest
from made_study import make

from configs import quickstart
from fjt.core import options, settings
from fjt.core.console import Silent
from fjt.experiment import arguments, programs
from fjt.experiment.execute import run
from fjt.experiment.inputs import Inputs
from fjt.experiment.prepare import prepare
from fjt.study import spec
from fjt.study.spec import choose, settings_of
from fjt.tasks.classification import CLASSIFICATION

# The method under which an option acts, where full tuning does not read it.
METHOD = {
    "tune.alpha": "lora",
    "tune.dropout": "lora",
    "tune.rank_stabilized": "lora",
    "tune.adapter_scale": "parallel",
    "tune.mixout_rate": "mixout",
    "tune.layer_decay": "llrd",
}
# Two values of each traced option; the first may be one that a program could be simplified for, such as 0 or 1.
TRACED = {
    "seed": (0, 7),
    "seeds.init": (0, 7),
    "seeds.data": (0, 7),
    "seeds.dropout": (0, 7),
    "model.dropout.hidden": (0.0, 0.3),
    "model.dropout.attention": (0.0, 0.3),
    "model.dropout.classifier": (0.0, 0.3),
    "model.dropout.layers": ((1.0,), (0.5,)),
    "tune.alpha": (0.0, 4.0),
    "tune.dropout": (0.0, 0.3),
    "tune.rank_stabilized": (False, True),
    "tune.adapter_scale": (1.0, 4.0),
    "tune.mixout_rate": (0.0, 0.5),
    "tune.layer_decay": (1.0, 0.8),
    "optim.learning_rate": (0.0, 1e-2),
    "optim.weight_decay": (0.0, 0.1),
    "optim.schedule": ("linear", "constant"),
    "optim.warmup_fraction": (0.0, 0.5),
    "optim.final_fraction": (0.0, 0.5),
    "optim.power": (1.0, 3.0),
    "optim.cycles": (1, 3),
    "optim.decay_fraction": (0.0, 0.5),
    "optim.plateau_patience": (1, 2),
    "optim.plateau_factor": (1.0, 0.1),
    "optim.l1": (0.0, 1e-3),
    "optim.clip_norm": (0.0, 2.0),
    "train.epochs": (1, 3),
    "train.steps": (2, 5),
    "train.select": ("last", "best"),
    "train.patience": (0, 2),
    "train.ema": (0.0, 0.9),
    "train.swa": (0.5, 1.0),
    "loss.label_smoothing": (0.0, 0.2),
    "loss.class_weights": ((), (1.0, 2.0)),
    "loss.focal": (0.0, 2.0),
    "loss.r_drop": (0.0, 4.0),
    "loss.mixup": (0.0, 1.0),
    "loss.task_weights": ((), (2.0, 0.5)),
    "distill.weight": (0.0, 0.7),
    "distill.temperature": (1.0, 4.0),
    "distill.hidden": (0.0, 1.0),
    "eval.every_epochs": (0, 2),
    "eval.every_steps": (0, 2),
    "eval.threshold": (0.0, 0.5),
    "eval.constrained": (False, True),
    "eval.null_threshold": (0.0, 1.0),
    "eval.answer_length": (1, 30),
}
PLATEAU = {"optim.plateau_patience": 1, "optim.plateau_factor": 1.0, "train.steps": 5, "eval.every_steps": 1}
# Other options that an option needs.
WITH = {
    "loss.task_weights": {"task": "agreement+hearsay", "loss.r_drop": None, "loss.mixup": None},
    "loss.r_drop": {"model.dropout.hidden": 0.1},
    "train.accumulation": {"loss.mixup": None},
    "distill.weight": {"distill.runs": ("run",), "distill.weight": 0.0},
    "distill.temperature": {"distill.runs": ("run",), "distill.temperature": 1.0},
    "distill.hidden": {"distill.runs": ("run",), "distill.hidden": 0.0},
    "optim.plateau_patience": PLATEAU,
    "optim.plateau_factor": PLATEAU,
    "train.ema": {"train.ema": 0.0},
    "train.swa": {"train.swa": 0.5},
}
# (key, two values, method) of options that are part of a program.
STATIC = (
    ("model.dtype", ("float32", "bfloat16"), "full"),
    ("optim.name", ("adamw", "lion"), "full"),
    ("optim.b1", (0.9, 0.8), "full"),
    ("train.batch_size", (24, 32), "full"),
    ("train.accumulation", (1, 2), "full"),
    ("optim.multipliers", ((), (("head/", 2.0),)), "full"),
    ("optim.decay_toward", ("zero", "start"), "full"),
    ("optim.l1", (None, 0.0), "full"),
    ("model.dropout.layers", ((), (1.0,)), "full"),
    ("loss.focal", (None, 0.0), "full"),
    ("loss.r_drop", (None, 0.0), "full"),
    ("loss.mixup", (None, 0.0), "full"),
    ("distill.runs", ((), ("run",)), "full"),
    ("train.ema", (None, 0.0), "full"),
    ("tune.rank", (2, 4), "lora"),
    ("tune.sites", (("query",), ("value",)), "lora"),
    ("tune.activation", ("relu", "gelu"), "parallel"),
)
TINY = {
    "data.limit": 96, "model.scratch.layers": 1, "model.scratch.width": 32, "model.scratch.inner": 64,
    "model.scratch.heads": 2, "model.path": "", "train.batch_size": 24, "train.steps": 2, "train.packing": False,
    "train.row_length": 64, "mesh.data": 1, "output.export": True,
}  # fmt: skip
# Of each pair the first value; steps, not epochs, and too few for a plateau.
APART = ("train.", "eval.", "optim.plateau", "distill.")
FIRST = {key: one for key, (one, _) in TRACED.items() if key not in METHOD and not key.startswith(APART)}


@pytest.fixture(scope="module", autouse=True)
def every_way_to_decode():
    """The tiny table is a classification, which is refused options of decoding that it does not read."""
    names = tuple(key.removeprefix("eval.") for key in TRACED if key.startswith("eval."))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(CLASSIFICATION), "decode_options", names)
        yield


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A cached function from a method and (key, value) pairs to an Experiment over one tiny trained encoder."""
    folder, inputs = tmp_path_factory.mktemp("traced"), []

    @functools.cache
    def experiment(method, changes, path=str(folder / "run" / "export")):
        config = quickstart.get_config()
        values = TINY | {"tune.method": (method,), "cache.dir": str(folder / "cache"), "model.path": path}
        values |= dict.fromkeys(("train.epochs", "eval.every_epochs", "eval.every_steps")) | dict(changes)
        if values["train.epochs"]:
            values["train.steps"] = None
        values["distill.runs"] = tuple(str(folder / name) for name in values.get("distill.runs", ()))
        config.update_from_flattened_dict(values)
        made = settings.from_config(config)
        if path and not inputs and not values["distill.runs"] and "task" not in values:
            inputs.append(Inputs(made, Silent()))
        same = path and not values["distill.runs"] and values.get("task", config.task) == quickstart.get_config().task
        return prepare(made, view=Silent(), inputs=inputs[0] if same else None)

    (folder / "run").mkdir()
    run(experiment("full", (), ""), str(folder / "run"), view=Silent())
    packed = arguments.pack_evaluated(experiment("full", ()), experiment("full", ()).stages[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(programs, "pack_evaluated", lambda *_: packed)  # the same for all of these: packed once
        yield experiment


@functools.cache
def _keys(experiment_of, method, changes):
    """(keys of the programs of a run alone, those of two lanes, the study's key for them)."""
    experiment = experiment_of(method, changes)
    taken = [np.unique(experiment.plan.shape_of)]
    alone, lanes = programs.program_keys(experiment, taken), programs.lanes_keys(experiment, 2, True)
    return alone, lanes, spec.program_key(experiment.settings.experiment, experiment.contents)


def test_every_traced_option_has_two_values_here():
    assert set(TRACED) == set(options.TRACED)
    assert all(one != other for one, other in TRACED.values())


@pytest.mark.parametrize("key", options.TRACED)
def test_a_traced_option_changes_no_program(key, prepared):
    """From all first values, one changes to its second."""
    method, (one, other) = METHOD.get(key, "full"), TRACED[key]
    first = FIRST | WITH.get(key, {}) | ({key: one} if key in METHOD else {})
    before, after = tuple(first.items()), tuple((first | {key: other}).items())
    assert prepared(method, before).fingerprint != prepared(method, after).fingerprint or key == "seed"
    assert _keys(prepared, method, before) == _keys(prepared, method, after)


@pytest.mark.parametrize(("key", "values", "method"), STATIC)
def test_a_static_option_changes_programs(key, values, method, prepared):
    first = FIRST | WITH.get(key, {})
    one, other = (_keys(prepared, method, tuple((first | {key: value}).items())) for value in values)
    assert all(a != b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("key", [key for key in options.TRACED if key not in spec.SEEDS])
def test_a_study_may_choose_among_values_of_a_traced_option(key):
    _, base, runs = make({"tune.method": (METHOD.get(key, "full"),), key: choose(*TRACED[key])}, seeds=1)
    trials = [run for run in runs if run.phase == "tuning"]
    made = [options.flatten(settings.to_dict(settings_of(run, base)))[key] for run in trials]
    assert set(made) == set(TRACED[key])
