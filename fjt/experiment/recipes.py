"""Values for the options left open: by method, size of the training set, checkpoint and device; with their origin.

A method's rate is near the best of the few that were tried in one epoch of STS-B on MiniLM, over NARROWER; full's and
mixout's are BERT's authors', and llrd, gradual, pattern and attention_only take top_k's.  What each reaches in five
epochs is in results/methods/table.md.
"""

import dataclasses
import math

from fjt.core.errors import UserError
from fjt.core.options import flatten, to_dict
from fjt.tuning.partition import METHODS, find_methods

SMALL = 10_000  # rows under which a run makes more epochs
STEPS_WANTED = 20_000  # examples to see, in a small data set
NARROW, NARROWER = 512, 5  # encoders under this width take so many times the rate (measured on MiniLM, width 384)
SCRATCH_RATE = 1e-3
LION = 5  # its rate is 3 to 10 times smaller than AdamW's (Chen et al. 2023, section 5)
EVALUATIONS = 10  # over a run on a large data set
LARGE = 50_000


def resolve(settings, *, rows, config, scratch, platform):
    """(settings without open values, {key: where a filled value came from}).

    rows: training examples; config: EncoderConfig; scratch: whether all weights are random; platform: JAX's name.
    """
    experiment = settings.experiment
    methods = find_methods(experiment.tune)
    name = min(methods, key=lambda method: METHODS[method].learning_rate)  # of several, the most careful one
    method = METHODS[name]
    filled = {}

    def fill(section, key, value, origin):
        full = f"{section}.{key}"
        node = experiment
        for part in section.split("."):
            node = getattr(node, part)
        if getattr(node, key) in (None, ()):
            filled[full] = (value, origin)

    rate, why = method.learning_rate, f"recipe for {name}"
    if scratch and name == "full":
        rate, why = SCRATCH_RATE, f"{why}, random weights"
    elif config.width < NARROW:
        rate, why = NARROWER * rate, f"{why}, {NARROWER} times for a width under {NARROW}"
    if experiment.optim.name == "lion":
        rate, why = rate / LION, f"{why}, a {LION}th for lion"
    fill("optim", "learning_rate", rate, why)
    fill("optim", "weight_decay", method.weight_decay, f"recipe for {name}")
    for other, options in methods.items():
        for option in options:
            defaults = [METHODS[m].options[option] for m in methods if option in METHODS[m].options]
            if all(value == defaults[0] for value in defaults):  # else each method keeps its own
                fill("tune", option, defaults[0], f"recipe for {other}")
    if experiment.train.steps is None:
        epochs = 3 if rows >= SMALL else min(20, max(5, math.ceil(STEPS_WANTED / rows)))
        if name != "full":
            epochs = min(20, 2 * epochs)
        fill("train", "epochs", epochs, f"recipe for {name} on {rows:,} rows")
    if experiment.eval.every_epochs is None and experiment.eval.every_steps is None:
        if rows < LARGE:
            fill("eval", "every_epochs", 1, f"recipe under {LARGE:,} rows")
        else:
            total = total_steps(_replace(experiment, filled), rows)
            fill("eval", "every_steps", max(1, math.ceil(total / EVALUATIONS)), f"{EVALUATIONS} times a run")
    fill("model", "dtype", "float32" if platform == "cpu" else "bfloat16", f"the {platform} device")
    for site in ("hidden", "attention", "classifier"):
        fill(
            "model.dropout",
            site,
            getattr(config, f"dropout_{site}"),
            "BERT" if scratch else "the checkpoint's config.json",
        )
    experiment = _replace(experiment, filled)
    return dataclasses.replace(settings, experiment=experiment), {key: origin for key, (_, origin) in filled.items()}


def _replace(node, filled, prefix=""):
    values = {}
    for field in dataclasses.fields(node):
        value, key = getattr(node, field.name), prefix + field.name
        if dataclasses.is_dataclass(value):
            values[field.name] = _replace(value, filled, key + ".")
        elif key in filled:
            values[field.name] = filled[key][0]
    return dataclasses.replace(node, **values)


def total_steps(experiment, rows):
    """Optimizer steps of a run on `rows` examples."""
    if experiment.train.steps is not None:
        return experiment.train.steps
    return experiment.train.epochs * math.ceil(rows / experiment.train.batch_size)


def evaluation_steps(experiment, rows):
    """The steps after which dev is evaluated, the last one always among them."""
    total = total_steps(experiment, rows)
    every = experiment.eval.every_steps
    if every is None:
        every = experiment.eval.every_epochs * math.ceil(rows / experiment.train.batch_size)
    every = every or max(1, total)
    return tuple(sorted({*range(every, total, every), total}))


def evaluated_splits(experiment, names):
    """The splits among names that a run evaluates: dev as it goes, the others at its end."""
    left_out = {"train"} | ({"official_dev"} if not experiment.eval.official_dev else set())
    tests = () if experiment.eval.test else ("test", "ax")
    return [name for name in names if name not in left_out and not name.startswith(tests)]


def check_groups(batch_size, groups):
    """Raises UserError when a batch has fewer examples than groups."""
    if batch_size < groups:
        raise UserError(
            f"config.train.batch_size={batch_size} is less than {groups} (devices x config.train.accumulation)."
        )


def describe(settings, origins):
    """[(key, value, origin)] of every option, for people."""
    return [(key, value, origins.get(key, "")) for key, value in flatten(to_dict(settings)).items()]
