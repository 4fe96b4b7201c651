"""A config read as Settings, and Settings written and hashed."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from fjt.core import schema
from fjt.core.errors import UserError
from fjt.core.options import (
    EXPERIMENT,
    OPTIONS,
    OTHER_SCALE,
    OTHER_UNIT,
    TOGETHER,
    ExecutionConfig,
    ExperimentConfig,
    Settings,
    flatten,
    unknown,
)


def make_config() -> ConfigDict:
    """The ConfigDict of a run with every option at its default."""
    config = schema.make_config(ExperimentConfig)
    config.update(schema.make_config(ExecutionConfig))
    return config


def from_config(config: Any) -> Settings:
    """The settings of a config, with its keys, types and values checked.

    Args:
        config: every option by its name, nested: a ConfigDict or a dict.

    Raises:
        UserError: for an unknown or missing key, a value that is not allowed, and options that contradict each other.
    """
    config = {key: config[key] for key in config}
    experiment, execution = (
        [field.name for field in dataclasses.fields(c)] for c in (ExperimentConfig, ExecutionConfig)
    )
    schema.check_keys([name for name in config if hasattr(config[name], "items")], [*experiment, *execution])
    for key in flatten(config):
        if key not in OPTIONS:
            raise UserError(f"config.{key} is not an option.{unknown(key, OPTIONS)}")
    settings = Settings(
        _split_methods(schema.build(ExperimentConfig, {key: config[key] for key in experiment if key in config})),
        schema.build(ExecutionConfig, {key: config[key] for key in execution if key in config}),
    )
    _check(settings.experiment)
    return settings


def from_record(config: Mapping[str, Any]) -> Settings:
    """As `from_config`, of a run's config.json: options that a later version added have their defaults."""
    return from_config(_over(schema.to_dicts(make_config()), config))


def _over(base: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The nested values of `base`, with those that are given in their places."""
    both = {key: _over(base[key], given[key]) for key in base.keys() & given.keys() if hasattr(base[key], "items")}
    return {**base, **given, **both}


def _split_methods(experiment: ExperimentConfig) -> ExperimentConfig:
    """The experiment with "lora,bitfit", as a command line may have it, and names for several methods taken apart."""
    words = [name for text in experiment.tune.method for name in str(text).split(",")]
    several = [TOGETHER.get(word, ((word,), {})) for word in words]
    filled = {"method": tuple(name for names, _ in several for name in names)}
    for _, options in several:
        filled |= {key: value for key, value in options.items() if getattr(experiment.tune, key) is None}
    return dataclasses.replace(experiment, tune=dataclasses.replace(experiment.tune, **filled))


def _check(experiment: ExperimentConfig) -> None:
    """Raises UserError for options that contradict each other."""
    optim = experiment.optim
    if optim.learning_rate is None and optim.name in OTHER_SCALE:
        raise UserError(
            f"config.optim.name={optim.name} needs learning rates of another scale than AdamW and has no recipe: "
            "give --config.optim.learning_rate."
        )
    if optim.schedule == "exponential" and not optim.final_fraction:
        raise UserError("config.optim.schedule=exponential never reaches 0: give config.optim.final_fraction.")
    if experiment.train.ema is not None and experiment.train.swa is not None:
        raise UserError("config.train.ema and config.train.swa are two averages of the weights; give one.")
    flat = flatten(dataclasses.asdict(experiment))
    for one, other in OTHER_UNIT.items():
        if flat[one] is not None and flat[other] is not None:
            raise UserError(f"config.{one} and config.{other} are both set; give one.")


def resolve_seeds(settings: Settings) -> Settings:
    """The settings in which the seeds for init, data and dropout that were None are `seed`."""
    experiment = settings.experiment
    seeds = {name: getattr(experiment.seeds, name) for name in ("init", "data", "dropout")}
    unset = {name: experiment.seed for name, value in seeds.items() if value is None}
    experiment = dataclasses.replace(experiment, seeds=dataclasses.replace(experiment.seeds, **unset))
    return dataclasses.replace(settings, experiment=experiment)


def to_dict(settings: Settings) -> dict[str, Any]:
    """The nested dict of plain values that `from_config` reads back (config.json)."""
    tree = dataclasses.asdict(settings)
    return tree["experiment"] | tree["execution"]


def fingerprint(experiment: ExperimentConfig, contents: Mapping[str, str]) -> str:
    """The sha256 of everything a result depends on: the experiment's fingerprinted options and the contents it reads.

    Options that are unset are left out, so that an option that a later version adds changes no fingerprint.

    Args:
        experiment: with its seeds resolved.
        contents: {name: sha256} of data, weights and tokenizer.
    """
    flat = flatten(dataclasses.asdict(experiment))
    skipped = {key for key, one in EXPERIMENT.items() if one.place or not one.fingerprinted}
    kept = {key: value for key, value in flat.items() if key not in skipped and value not in (None, ())}
    text = json.dumps(kept | dict(contents), sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()
