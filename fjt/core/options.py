"""The settings of a run: frozen dataclasses made from a config, checked once, read everywhere below.

The fields mirror `configs/base.py`, which documents each of them and holds the defaults; none are kept here.
"""

import dataclasses
import hashlib
import json
import types
import typing

from fjt.core.errors import UserError, suggest


@dataclasses.dataclass(frozen=True)
class Seeds:
    init: int | None
    data: int | None
    dropout: int | None
    subset: int


@dataclasses.dataclass(frozen=True)
class Files:
    train: str
    dev: str
    test: str


@dataclasses.dataclass(frozen=True)
class Columns:
    text: str
    text_pair: str
    label: str
    labels: tuple
    id: str
    cluster: str | None


@dataclasses.dataclass(frozen=True)
class Data:
    source: str
    dir: str
    manual_dir: str
    files: Files
    columns: Columns
    header: bool
    kind: str
    label_names: tuple
    holdout: float
    limit: int
    shuffle_labels: bool


@dataclasses.dataclass(frozen=True)
class Scratch:
    layers: int
    width: int
    heads: int
    inner: int
    vocab: str


@dataclasses.dataclass(frozen=True)
class Dropout:
    hidden: float | None
    attention: float | None
    classifier: float | None


@dataclasses.dataclass(frozen=True)
class Model:
    path: str
    revision: str
    name: str
    keep_head: bool
    adapter: str
    scratch: Scratch
    max_length: int
    dtype: str | None
    matmul_precision: str
    dropout: Dropout
    frozen_dropout: bool
    reinit_layers: int


@dataclasses.dataclass(frozen=True)
class Tune:
    method: tuple
    train_pooler: bool | None
    train_head: bool | None
    budget: int
    layers: int | None
    layer_decay: float | None
    stage_epochs: float | None
    stage_rates: tuple
    mixout_rate: float | None
    train: tuple
    sites: tuple
    rank: int | None
    ranks: tuple
    max_rank: int | None
    alpha: float | None
    dropout: float | None
    rank_stabilized: bool | None
    vera_start: float | None
    reduction: float | None
    bottleneck_width: int | None
    activation: str | None
    adapter_norm: bool | None
    adapter_scale: float | None
    prefix_length: int | None
    projection: int | None
    shift_positions: bool | None
    prompt_length: int | None
    gating: bool | None


@dataclasses.dataclass(frozen=True)
class Optim:
    name: str
    learning_rate: float | None
    multipliers: tuple
    weight_decay: float | None
    schedule: str
    warmup_fraction: float
    final_fraction: float
    power: float
    cycles: int
    clip_norm: float
    b1: float
    b2: float
    eps: float
    momentum: float


@dataclasses.dataclass(frozen=True)
class Train:
    epochs: int | None
    steps: int | None
    batch_size: int
    accumulation: int
    packing: bool
    row_length: int
    select: str
    patience: int


@dataclasses.dataclass(frozen=True)
class Loss:
    label_smoothing: float
    class_weights: tuple


@dataclasses.dataclass(frozen=True)
class Eval:
    every_epochs: int | None
    every_steps: int | None
    threshold: float | None
    test: bool
    official_dev: bool


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What the result depends on; its fingerprint decides whether a work directory may be continued."""

    task: str
    seed: int
    seeds: Seeds
    data: Data
    model: Model
    tune: Tune
    optim: Optim
    train: Train
    loss: Loss
    eval: Eval


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every_steps: int | None
    keep: int


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: int


@dataclasses.dataclass(frozen=True)
class Log:
    every_steps: int
    tensorboard: bool


@dataclasses.dataclass(frozen=True)
class Output:
    export: bool
    tables: bool
    curve: bool
    checkpoints: bool


@dataclasses.dataclass(frozen=True)
class Cache:
    dir: str
    compilation: bool | None
    hidden: bool | None
    hidden_gib: float


@dataclasses.dataclass(frozen=True)
class Execution:
    """How the run is carried out; free to change between restarts."""

    checkpoint: Checkpoint
    mesh: Mesh
    log: Log
    output: Output
    cache: Cache


@dataclasses.dataclass(frozen=True)
class Settings:
    experiment: Experiment
    execution: Execution


# Names for several tuning methods at once, with options where they are left open: the mix-and-match adapter (He et al.
# 2022, section 4.6), and UniPELT (Mao et al. 2022); their prefixes are AdapterHub's, which holds both.
TOGETHER = {
    "mam": (("prefix", "parallel"), {"shift_positions": False}),
    "unipelt": (("prefix", "lora", "pfeiffer"), {"shift_positions": False, "gating": True}),
}

CHOICES = {
    "data.source": ("tfds", "files", "synthetic"),
    "model.dtype": ("float32", "bfloat16"),
    "model.matmul_precision": ("default", "high", "highest"),
    "optim.name": ("adamw", "adam", "sgd", "rmsprop", "adagrad", "adadelta", "adafactor", "lamb", "lion"),
    "optim.schedule": (
        "linear", "cosine", "constant", "cosine_restarts", "polynomial", "exponential", "inverse_sqrt",
    ),
    "train.select": ("last", "best"),
}  # fmt: skip

# Optimizers whose updates are not of the size of the rate, as those of AdamW are.
OTHER_SCALE = ("sgd", "adagrad", "adadelta", "lamb")

# (lowest, highest) allowed; None is open.
RANGES = {
    "data.holdout": (0.0, 0.99),
    "data.limit": (0, None),
    "model.max_length": (3, None),
    "model.dropout.hidden": (0.0, 0.99),
    "model.dropout.attention": (0.0, 0.99),
    "model.dropout.classifier": (0.0, 0.99),
    "model.reinit_layers": (0, None),
    "tune.layers": (0, None),
    "tune.layer_decay": (0.0, 1.0),
    "tune.mixout_rate": (0.0, 0.99),
    "tune.rank": (1, None),
    "tune.max_rank": (0, None),
    "tune.dropout": (0.0, 0.99),
    "tune.reduction": (1.0, None),
    "tune.bottleneck_width": (0, None),
    "tune.budget": (0, None),
    "tune.stage_epochs": (0.0, None),
    "tune.prefix_length": (1, None),
    "tune.projection": (0, None),
    "tune.prompt_length": (1, None),
    "optim.learning_rate": (0.0, None),
    "optim.weight_decay": (0.0, None),
    "optim.warmup_fraction": (0.0, 1.0),
    "optim.final_fraction": (0.0, 1.0),
    "optim.cycles": (1, None),
    "optim.clip_norm": (0.0, None),
    "train.epochs": (1, None),
    "train.steps": (0, None),
    "train.batch_size": (1, None),
    "train.accumulation": (1, None),
    "train.row_length": (0, None),
    "train.patience": (0, None),
    "loss.label_smoothing": (0.0, 0.99),
    "eval.every_epochs": (0, None),
    "eval.every_steps": (0, None),
    "eval.threshold": (0.0, 1.0),
    "checkpoint.every_steps": (1, None),
    "checkpoint.keep": (1, None),
    "mesh.data": (0, None),
    "log.every_steps": (1, None),
    "cache.hidden_gib": (0.0, None),
}


def flatten(config, prefix=""):
    """{dotted key: value} of a nested mapping, tables excluded."""
    flat = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def from_config(config):
    """Settings of a config with the keys of `configs/base.py`, types, choices and ranges checked.

    config: any nested mapping (ConfigDict or dict).  Raises UserError.
    """
    config = {key: config[key] for key in config}
    valid = [field.name for part in (Experiment, Execution) for field in dataclasses.fields(part)]
    for key in config:
        if key not in valid:
            raise UserError(f"config.{key} is no option.{suggest(key, valid)}")
    experiment = {f.name: config.pop(f.name, None) for f in dataclasses.fields(Experiment)}
    settings = Settings(
        _split_methods(_build(Experiment, experiment, "")),
        _build(Execution, config, ""),
    )
    _check(settings)
    return settings


def _split_methods(experiment):
    """ "lora,bitfit", as a command line may have it, is two methods, and so is a name for two."""
    given = [name for words in experiment.tune.method for name in str(words).split(",")]
    several = [TOGETHER.get(word, ((word,), {})) for word in given]
    filled = {"method": tuple(name for names, _ in several for name in names)}
    for _, options in several:
        filled |= {key: value for key, value in options.items() if getattr(experiment.tune, key) is None}
    return dataclasses.replace(experiment, tune=dataclasses.replace(experiment.tune, **filled))


def _build(cls, mapping, prefix):
    if mapping is None:
        raise UserError(f"config.{prefix[:-1]} is missing; configs start from configs/base.py, which has it.")
    fields = typing.get_type_hints(cls)
    for key in mapping:
        if key not in fields:
            raise UserError(f"config.{prefix}{key} is no option.{suggest(prefix + key, [prefix + f for f in fields])}")
    values = {}
    for name, kind in fields.items():
        key = prefix + name
        if dataclasses.is_dataclass(kind):
            values[name] = _build(kind, mapping.get(name), key + ".")
        elif name not in mapping:
            raise UserError(f"config.{key} is missing; configs start from configs/base.py, which has it.")
        else:
            values[name] = convert(mapping[name], kind, key)
    return cls(**values)


def convert(value, kind, key):
    optional = isinstance(kind, types.UnionType)
    if optional:
        if value is None:
            return None
        kind = typing.get_args(kind)[0]
    if kind is tuple and isinstance(value, (list, tuple)):
        return tuple(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UserError(f"config.{key}={value!r} should be of type {kind.__name__}.")
    if value != value:
        raise UserError(f"config.{key}={value!r} should be a number.")
    return value


def _check(settings):
    flat = flatten(to_dict(settings))
    for key, valid in CHOICES.items():
        value = flat[key]
        if value is not None and value not in valid:
            raise UserError(f"config.{key}={value!r} is unknown.{suggest(value, valid)}")
    for key, (low, high) in RANGES.items():
        value = flat[key]
        if value is None:
            continue
        if not value >= (low if low is not None else value) or (high is not None and value > high):
            wanted = f"at least {low}" if high is None else f"between {low} and {high}"
            raise UserError(f"config.{key}={value!r} should be {wanted}.")
    experiment = settings.experiment
    if experiment.optim.learning_rate is None and experiment.optim.name in OTHER_SCALE:
        raise UserError(
            f"config.optim.name={experiment.optim.name} takes rates of another scale than AdamW and has "
            "no recipe: give --config.optim.learning_rate."
        )
    if experiment.optim.schedule == "exponential" and not experiment.optim.final_fraction:
        raise UserError("config.optim.schedule=exponential never reaches 0: give config.optim.final_fraction.")
    for section, names in (("train", ("epochs", "steps")), ("eval", ("every_epochs", "every_steps"))):
        given = [n for n in names if getattr(getattr(experiment, section), n) is not None]
        if len(given) == 2:
            raise UserError(f"config.{section}.{names[0]} and config.{section}.{names[1]} are both set; give one.")
    for key in ("seeds.init", "seeds.data", "seeds.dropout", "seeds.subset", "seed"):
        if flat[key] is not None and not 0 <= flat[key] < 2**32:
            raise UserError(f"config.{key}={flat[key]} should be between 0 and {2**32 - 1}.")


def resolve_seeds(settings):
    """The settings with the three seeds that were left open set to `seed`."""
    experiment = settings.experiment
    seeds = experiment.seeds
    values = {
        name: experiment.seed if getattr(seeds, name) is None else getattr(seeds, name)
        for name in ("init", "data", "dropout")
    }
    seeds = dataclasses.replace(seeds, **values)
    return dataclasses.replace(settings, experiment=dataclasses.replace(experiment, seeds=seeds))


def to_dict(settings):
    """The nested dict of plain values that `from_config` would read back (config.json)."""
    tree = dataclasses.asdict(settings)
    return tree["experiment"] | tree["execution"]


# Where the data and the weights lie does not matter to a result: what they hold does, and is hashed by content.
PATHS = (
    "data.dir",
    "data.manual_dir",
    "data.files.train",
    "data.files.dev",
    "data.files.test",
    "model.path",
    "model.revision",
    "model.name",
    "model.adapter",
    "model.scratch.vocab",
    "data.source",
)


def fingerprint(experiment, contents):
    """sha256 of what a result depends on: the experiment without its paths, and the contents they led to.

    contents: {name: sha256} of data, weights and tokenizer.  Options that are unset do not enter, so that an option
    which a later version adds changes no fingerprint.
    """
    flat = flatten(dataclasses.asdict(experiment))
    kept = {key: value for key, value in flat.items() if key not in PATHS and key != "seed" and value not in (None, ())}
    text = json.dumps(kept | contents, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()
