"""The specification of a study: its products of options, the cells of the products, and the runs of each cell."""

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fjt.core import options, schema, settings
from fjt.core.errors import UserError, suggest
from fjt.core.options import EXPERIMENT, OTHER_UNIT, PATHS, TRACED, flatten
from fjt.core.schema import option

SEEDS = ("seed", "seeds.init", "seeds.data", "seeds.dropout")
FAMILIES = ("study", "task")
MODES = ("loop", "vmap")
PHASES = ("tuning", "runs")

# Options whose value is data, and whose absence is another program.
PARTS = ("optim.l1", "loss.focal", "loss.r_drop", "loss.mixup", "distill.hidden", "model.dropout.layers")


@dataclasses.dataclass(frozen=True)
class Choose:
    """Values of which the tuning runs choose one."""

    values: tuple[Any, ...]


def choose(*values: Any) -> Choose:
    """Values of a key in a product of which the tuning runs choose one for each cell."""
    return Choose(values)


@dataclasses.dataclass(frozen=True)
class StudyConfig:
    """The options of config.study."""

    products: tuple = option(
        (),
        'dicts of config keys and their values, ({"tune.method": ("full", "lora"), "task": ("rte", "mrpc")}, ...): all '
        "combinations of each dict are the cells of the study",
    )
    without: tuple = option(
        (), 'cells to leave out, those that have all values of a dict: ({"task": "rte", "tune.method": "full"}, ...)'
    )
    seeds: int = option(
        5, "runs per cell, each scored on dev once; intervals need 5, a test 6, three tests in a family 7", low=1
    )
    first_seed: int = option(0, "seed of the first run of each cell; the others follow it", low=0)
    tuning_seeds: int = option(2, "runs per trial where something is chosen; these never read dev", low=1)
    first_tuning_seed: int = option(1000, "seed of the first run of each trial; the others follow it", low=0)
    holdout: float = option(0.1, "share of the training rows that trials are scored on; more than 0, less than 1")
    baseline: str = option("", "method that the others are compared with, cell by cell; empty: no comparisons")
    metric: str = option(
        "",
        "metric of every task by which values are chosen and methods are compared with the baseline; empty: the first "
        "one of each task",
    )
    alpha: float = option(0.05, "chance of a false difference among the comparisons; more than 0, less than 1")
    family: str = option("study", "comparisons that share this chance (Holm's correction)", choices=FAMILIES)
    base: str = option(
        "",
        "NAME[:ARGUMENT] of a config whose encoder becomes model.path; it runs first unless the cache has its result; "
        "empty: model.path as given",
    )
    lanes: int = option(16, "largest number of runs that one process executes together", low=1)
    mode: str = option(
        "",
        "loop: one run after another; vmap: lanes of one program, which leave no checkpoints of their own; empty: vmap "
        "on an accelerator, loop on a CPU",
        choices=("", *MODES),
    )
    devices: float = option(
        1.0, "with --engine: accelerators per bundle, where the nodes have any; 0.5: two bundles share a GPU", low=0.01
    )
    cpus: float = option(1.0, "with --engine: processor cores that a bundle reserves", low=0.01)
    shared: bool = option(
        True,
        "with --engine: whether every node sees --workdir; False: the files of runs are sent to the driver, and the "
        "bundle of a lost worker starts again",
    )


OPTIONS = options.OPTIONS | schema.collect(StudyConfig, "study.")  # of configs of studies


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a study.

    Attributes:
        name: its folder below the study's, `runs/mrpc/lora/tune.rank=8/seed=3`.
        phase: one of PHASES.
        cell: the name without phase and seed.
        values: ((key, value), ...), the differences from the base config.
        open: ((key, values), ...) that the tuning runs choose from.
    """

    name: str
    phase: str
    cell: str
    values: tuple[tuple[str, Any], ...]
    open: tuple[tuple[str, tuple[Any, ...]], ...] = ()


def read(config: Any) -> tuple[StudyConfig, dict[str, Any]]:
    """(config.study, the config of its runs as a nested dict).

    Args:
        config: of a study, a ConfigDict or a dict.

    Raises:
        UserError: for a config without a study, and for options that are unknown, missing or not allowed.
    """
    if "study" not in config:
        raise UserError("The config has no study: configs of studies start from configs/study.py.")
    for key in ("products", "without"):
        if hasattr(config["study"].get(key), "items"):
            raise UserError(
                f"config.study.{key} is one dict and should be a tuple of dicts, ({{config key: values}},)."
            )
    study = schema.build(StudyConfig, config["study"], "study.", "study")
    if not 0 < study.alpha < 1 or not 0 < study.holdout < 1:
        raise UserError(f"config.study.alpha={study.alpha} and .holdout={study.holdout} should be between 0 and 1.")
    return study, schema.to_dicts({key: config[key] for key in config if key != "study"})


def make_runs(study: StudyConfig, base: Mapping[str, Any]) -> tuple[Run, ...]:
    """The Runs of a study: for each cell its trials, if something is chosen, and its seeds.

    Args:
        study: config.study.
        base: the config of the runs.

    Raises:
        UserError: unknown keys, values of a wrong type, products without a run, and runs that are given twice.
    """
    known, runs = flatten(base), []
    for product in study.products:
        if not hasattr(product, "items"):
            raise UserError(f"config.study.products: {product!r} should be a dict {{config key: values}}.")
        for key, values in product.items():
            check_key(key, known, "study.products")
            if not isinstance(values, (tuple, list, range, Choose)):
                raise UserError(f"config.study.products: {key}: {values!r} should be a tuple of values.")
            if not (values.values if isinstance(values, Choose) else values):
                raise UserError(f"config.study.products: {key} has no value; give at least one.")
    for excluded in study.without:
        _check_excluded(excluded, study.products, known)
    for product in study.products:
        runs += _runs_of(study, base, dict(product))
    if not runs:
        given = "config.study.without excludes all of them" if study.products else "config.study.products is empty"
        raise UserError(f"The study has no run: {given}.")
    tried = {run.cell for run in runs if run.phase == "tuning"}
    for run in runs:
        if run.open and run.cell not in tried:
            raise UserError(
                f"config.study.products: there are no trials for {run.name}: the seeds of a product with `choose` come "
                "from config.study.seeds, not from an axis of the product."
            )
    names = {}
    for run in runs:
        other = names.setdefault(run.name, run)
        if other is not run:
            raise UserError(f"config.study.products gives {run.name} twice.")
    _check_seeds(study, runs)
    return tuple(runs)


def check_key(key: str, known: Mapping[str, Any], place: str) -> None:
    """Checks that a study or a search can vary a key.

    Args:
        key: a dotted name.
        known: the flat config of a run.
        place: the option that has the key, below config.

    Raises:
        UserError: none can vary the key.
    """
    if key not in known:
        raise UserError(f"config.{place}: {key!r} is not an option of a run.{suggest(key, known)}")
    if key in options.OPTIONS and key not in EXPERIMENT:
        raise UserError(f"config.{place}: {key} is an option of execution; set it once, as config.{key}.")
    if key == "model.matmul_precision":
        raise UserError(f"config.{place}: {key} is the same for a whole process; set it once, as config.{key}.")


def _check_excluded(excluded: Any, products: Sequence[Mapping[str, Any]], known: dict[str, Any]) -> None:
    """Raises UserError for an entry of config.study.without that is not a dict, or that excludes no cell."""
    if not hasattr(excluded, "items"):
        raise UserError(f"config.study.without: {excluded!r} should be a dict {{config key: value}}.")
    for key in excluded:
        check_key(key, known, "study.without")
    if not any(_agrees(known | values, excluded) for product in products for values in _combinations(product, known)):
        raise UserError(f"config.study.without: no cell has {dict(excluded)!r}; correct or remove it.")


def _combinations(product: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """{key: value} of each combination of a product's axes; with data.folds alone, data.fold is an axis of all folds.

    Args:
        product: the product.
        known: the flat config of the study's runs.
    """
    axes = {key: values for key, values in product.items() if not isinstance(values, Choose)}
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        both = {**known, **values}
        if both.get("data.folds") is None or both.get("data.fold") is not None:
            yield values
        else:
            folds = OPTIONS["data.folds"].parse(both["data.folds"])
            yield from (values | {"data.fold": fold} for fold in range(folds))


def _agrees(whole: Mapping[str, Any], excluded: Mapping[str, Any]) -> bool:
    return all(label(whole[key]) == label(value) for key, value in excluded.items())


def _runs_of(study: StudyConfig, base: Mapping[str, Any], product: Mapping[str, Any]) -> Iterator[Run]:
    trials = {key: values.values for key, values in product.items() if isinstance(values, Choose)}
    valid = [key for key in TRACED if key not in SEEDS]
    for key, values in trials.items():
        if key not in valid:
            raise UserError(f"config.study.products: {key} cannot be chosen; choose among {', '.join(valid)}.")
        if key in (*PARTS, "train.ema", "train.swa") and 0 < sum(x in (None, ()) for x in values) < len(values):
            raise UserError(
                f"config.study.products: {key} cannot be chosen among {values}, since None leaves a part out of the "
                "program. Make it an axis of its own, or give the value that changes nothing."
            )
    tuning = range(study.first_tuning_seed, study.first_tuning_seed + study.tuning_seeds)
    reported = range(study.first_seed, study.first_seed + study.seeds)
    for values in _combinations(product, flatten(base)):
        seeds = {key: value for key, value in values.items() if key in SEEDS}
        cell = {key: value for key, value in values.items() if key not in SEEDS}
        if any(_agrees(flatten(base) | cell, excluded) for excluded in study.without):
            continue
        if trials and (flatten(base) | cell)["data.folds"] is not None:
            raise UserError(
                f"config.study.products: {', '.join(trials)} cannot be chosen in a cross-validation "
                "(config.data.folds), since trials hold rows out themselves. Give values, or leave the folds out."
            )
        folder = _folder(cell, base)
        for chosen in itertools.product(*trials.values()) if trials and not seeds else ():
            trial = dict(zip(trials, chosen, strict=True))
            for seed in tuning:
                yield _run("tuning", folder, trial | {"seed": seed}, cell | {"data.holdout": study.holdout})
        for own in [seeds] if seeds else [{"seed": seed} for seed in reported]:
            yield _run("runs", folder, own, cell, tuple(trials.items()))


def _run(
    phase: str,
    folder: str,
    own: dict[str, Any],
    shared: dict[str, Any],
    open_: tuple[tuple[str, tuple[Any, ...]], ...] = (),
) -> Run:
    """The Run of a cell.  own: the values that distinguish it from the cell's other runs, and name it."""
    name = "/".join([phase, folder, *(f"{key}={label(value)}" for key, value in own.items())])
    return Run(name, phase, folder, tuple((shared | own).items()), open_)


def _folder(cell: dict[str, Any], base: Mapping[str, Any]) -> str:
    """task/method/axis=value/..., of a cell."""
    flat = flatten(base) | cell
    others = [f"{key}={label(value)}" for key, value in cell.items() if key not in ("task", "tune.method")]
    return "/".join([label(flat["task"]) or "table", label(flat["tune.method"]), *others])


def label(value: Any) -> str:
    """A value in the form that it has in names of folders."""
    if isinstance(value, (tuple, list)):
        return "+".join(label(part) for part in value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+,-]+", "_", text)


def _check_seeds(study: StudyConfig, runs: Iterable[Run]) -> None:
    tuning = {dict(run.values)["seed"] for run in runs if run.phase == "tuning"}
    both = tuning & {dict(run.values).get("seed") for run in runs if run.phase == "runs"}
    if both:
        raise UserError(
            f"The seeds {sorted(both)} are used both for tuning and for reported runs; change "
            f"config.study.first_tuning_seed={study.first_tuning_seed}."
        )


def settings_of(run: Run, base: Mapping[str, Any], chosen: Iterable[tuple[str, Any]] = ()) -> options.Settings:
    """The Settings of a Run.

    A reported run in which scores on dev decide nothing is evaluated only at the end.

    Args:
        run: the run.
        base: the config of the study's runs, a nested dict.
        chosen: ((key, value), ...) for the open keys.

    Raises:
        UserError: for options that are not allowed.
    """
    config = schema.to_dicts(base)
    for key, value in (*run.values, *chosen):
        *sections, last = key.split(".")
        node = config
        for section in sections:
            node = node[section]
        if key == "tune.method" and isinstance(value, str):
            value = (value,)
        if key in OTHER_UNIT:
            node[OTHER_UNIT[key].split(".")[1]] = None
        node[last] = value
    decided = config["optim"]["plateau_patience"], config["tune"]["stage_patience"]
    if run.phase == "runs" and config["train"]["select"] == "last" and decided == (None, None):
        config["eval"] |= {"every_epochs": 0, "every_steps": None}
    if run.phase == "tuning":
        config["eval"] |= {"official_dev": False}
    return settings.from_config(config)


def static_options(experiment: options.ExperimentConfig) -> dict[str, Any]:
    """{dotted key: value} of the options that decide a run's compiled programs, shapes of batches apart.

    Args:
        experiment: without open options.
    """
    flat = flatten(dataclasses.asdict(experiment))
    kept = {key: value for key, value in flat.items() if key not in (*TRACED, *PATHS)}
    kept["optim.multipliers"] = bool(kept["optim.multipliers"])  # the factors are data; whether there are any is not
    kept |= {key: flat[key] not in (None, ()) for key in PARTS}  # likewise
    kept["average"] = flat["train.ema"] is not None or flat["train.swa"] is not None
    if kept["tune.max_rank"]:
        del kept["tune.rank"]
    return kept


def program_key(experiment: options.ExperimentConfig, contents: Mapping[str, str]) -> str:
    """A short hash of everything that decides a run's compiled programs, shapes of batches apart.

    Args:
        experiment: without open options.
        contents: {name: sha256} of data, weights and tokenizer, as for `fingerprint`.
    """
    text = json.dumps(static_options(experiment) | dict(contents), sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
