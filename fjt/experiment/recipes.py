"""Values for open options, by method, size of the training set, checkpoint and device, with the origin of each value.

A method's learning rate is close to the best of the few that were tried in one epoch of STS-B on MiniLM, divided by
NARROWER. The rates of full and mixout are those of BERT's authors; llrd, gradual, pattern and attention_only use the
rate of top_k. Scores of every method after five epochs are in results/methods/table.md.
"""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig, Settings, flatten
from fjt.core.settings import to_dict
from fjt.models.encoder import EncoderConfig
from fjt.tuning.partition import METHODS, find_methods

SMALL = 10_000  # training rows; a run on fewer has more epochs
EXAMPLES_TO_SEE = 20_000  # examples that a run on a small data set trains on, all epochs together
NARROW, NARROWER = 512, 5  # encoders below this width multiply the learning rate by 5 (measured on MiniLM, width 384)
SCRATCH_RATE = 1e-3  # learning rate from random weights
LION = 5  # divides the learning rate for lion, which is 3 to 10 times below AdamW's (Chen et al. 2023, section 5)
EVALUATIONS = 10  # evaluations per run on a large data set
LARGE = 50_000  # training rows; a run on as many is evaluated EVALUATIONS times instead of once per epoch

Filled = dict[str, tuple[Any, str]]  # {key: (value, origin)}


def resolve(
    settings: Settings, *, rows: int, config: EncoderConfig, scratch: bool, platform: str
) -> tuple[Settings, dict[str, str]]:
    """(settings without open values, {key: origin of the value that was filled in}).

    When several methods are combined, the recipe of the method with the lowest learning rate is used.

    Args:
        settings: the settings of a run, perhaps with open values.
        rows: number of training examples.
        config: the encoder.
        scratch: whether all weights are random.
        platform: JAX's name of the device.
    """
    experiment = settings.experiment
    methods = find_methods(experiment.tune)
    name = leading_method(methods)
    filled: Filled = {}

    def fill(section: str, key: str, value: Any, origin: str) -> None:
        node = experiment
        for part in section.split("."):
            node = getattr(node, part)
        if getattr(node, key) in (None, ()):
            filled[f"{section}.{key}"] = (value, origin)

    fill("optim", "learning_rate", *_learning_rate(experiment, name, config.width, scratch))
    fill("optim", "weight_decay", METHODS[name].weight_decay, f"recipe for {name}")
    for other, options in methods.items():
        for option in options:
            defaults = [METHODS[m].options[option] for m in methods if option in METHODS[m].options]
            # Otherwise each method uses its own default, or the option stays open.
            if defaults[0] is not None and all(value == defaults[0] for value in defaults):
                fill("tune", option, defaults[0], f"recipe for {other}")
    if experiment.train.steps is None:
        fill("train", "epochs", recipe_epochs(name, rows), f"recipe for {name} on {rows:,} rows")
    if experiment.eval.every_epochs is None and experiment.eval.every_steps is None:
        if rows < LARGE:
            fill("eval", "every_epochs", 1, f"recipe under {LARGE:,} rows")
        else:
            total = total_steps(_replace(experiment, filled), rows)
            fill("eval", "every_steps", max(1, math.ceil(total / EVALUATIONS)), f"{EVALUATIONS} times per run")
    fill("model", "dtype", "float32" if platform == "cpu" else "bfloat16", f"the {platform} device")
    source = "the new model" if scratch else "the checkpoint's config.json"
    for site in ("hidden", "attention", "classifier"):
        fill("model.dropout", site, getattr(config, f"dropout_{site}"), source)
    experiment = _replace(experiment, filled)
    return dataclasses.replace(settings, experiment=experiment), {key: origin for key, (_, origin) in filled.items()}


def leading_method(methods: Iterable[str]) -> str:
    """The method whose recipe is used when several are combined: the one with the lowest learning rate."""
    return min(methods, key=lambda method: METHODS[method].learning_rate)


def recipe_epochs(method: str, rows: int) -> int:
    """Number of epochs of a method's recipe on `rows` training examples."""
    epochs = 3 if rows >= SMALL else min(20, max(5, math.ceil(EXAMPLES_TO_SEE / rows)))
    return epochs if method == "full" else min(20, 2 * epochs)


def _learning_rate(experiment: ExperimentConfig, name: str, width: int, scratch: bool) -> tuple[float, str]:
    """(learning rate of a method's recipe, its origin)."""
    rate, origin = METHODS[name].learning_rate, f"recipe for {name}"
    if scratch and name == "full":
        rate, origin = SCRATCH_RATE, f"{origin}, random weights"
    elif width < NARROW:
        rate, origin = NARROWER * rate, f"{origin}, {NARROWER} times for a width under {NARROW}"
    if experiment.optim.name == "lion":
        rate, origin = rate / LION, f"{origin}, a {LION}th for lion"
    return rate, origin


def _replace(node: Any, filled: Filled, prefix: str = "") -> Any:
    """The settings with open values replaced by `filled`, whose keys start with `prefix`."""
    values = {}
    for field in dataclasses.fields(node):
        value, key = getattr(node, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            values[field.name] = _replace(value, filled, key + ".")
        elif key in filled:
            values[field.name] = filled[key][0]
    return dataclasses.replace(node, **values)


def total_steps(experiment: ExperimentConfig, rows: int) -> int:
    """Number of optimizer steps of a run on `rows` examples.  Its settings have no open values."""
    steps, epochs = experiment.train.steps, experiment.train.epochs
    if steps is not None:
        return steps
    assert epochs is not None
    return epochs * math.ceil(rows / experiment.train.batch_size)


def evaluation_steps(experiment: ExperimentConfig, rows: int) -> tuple[int, ...]:
    """The steps after which dev is evaluated, always including the last one."""
    total = total_steps(experiment, rows)
    every, epochs = experiment.eval.every_steps, experiment.eval.every_epochs
    if every is None:
        assert epochs is not None
        every = epochs * math.ceil(rows / experiment.train.batch_size)
    every = every or max(1, total)
    return tuple(sorted({*range(every, total, every), total}))


def evaluated_splits(experiment: ExperimentConfig, names: Iterable[str]) -> list[str]:
    """The splits among `names` that a run evaluates: dev during training, the others at the end."""
    left_out = {"train"} | ({"official_dev"} if not experiment.eval.official_dev else set())
    tests = () if experiment.eval.test else ("test", "ax")
    return [name for name in names if name not in left_out and not name.startswith(tests)]


def check_groups(batch_size: int, groups: int) -> None:
    """Raises UserError when a batch has fewer examples than groups."""
    if batch_size < groups:
        raise UserError(
            f"config.train.batch_size={batch_size} is less than {groups} (devices x config.train.accumulation). "
            "Increase the batch size or decrease the accumulation."
        )


def describe(settings: Settings, origins: dict[str, str]) -> list[tuple[str, Any, str]]:
    """(key, value, origin) of every option, for printing."""
    return [(key, value, origins.get(key, "")) for key, value in flatten(to_dict(settings)).items()]
