"""What a study is: the cells of its products, their runs, and the groups of runs that share compiled programs."""

import dataclasses
import hashlib
import itertools
import json
import re

from fjt.core import options
from fjt.core.errors import UserError, suggest
from fjt.core.options import flatten

# What the step receives as data, or the host alone reads: runs that differ in these share every program.
LANE_DATA = (
    "seed", "seeds.init", "seeds.data", "seeds.dropout", "optim.learning_rate", "optim.weight_decay",
    "optim.schedule", "optim.warmup_fraction", "optim.final_fraction", "optim.power", "optim.cycles",
    "optim.clip_norm", "model.dropout.hidden", "model.dropout.attention", "model.dropout.classifier",
    "loss.label_smoothing", "loss.class_weights", "tune.alpha", "tune.dropout", "tune.rank_stabilized",
    "train.epochs", "train.steps", "train.select", "train.patience", "eval.every_epochs", "eval.every_steps",
)  # fmt: skip
SEEDS = ("seed", "seeds.init", "seeds.data", "seeds.dropout")
FAMILIES = ("study", "task")
MODES = ("loop", "vmap")
PHASES = ("tuning", "runs")


@dataclasses.dataclass(frozen=True)
class Choose:
    """Values of which the tuning runs choose one."""

    values: tuple


def choose(*values):
    """Values of a key in a product of which the tuning runs choose one for each cell."""
    return Choose(values)


@dataclasses.dataclass(frozen=True)
class Study:
    """The options of config.study, checked; configs/study.py documents each."""

    products: tuple
    without: tuple
    seeds: int
    first_seed: int
    tuning_seeds: int
    first_tuning_seed: int
    holdout: float
    baseline: str
    alpha: float
    family: str
    lanes: int
    mode: str
    base: str


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a study.

    name: its folder below the study's, `runs/mrpc/lora/tune.rank=8/seed=3`; phase: one of PHASES; cell: the same name
    without phase and seed; values: ((key, value), ...), what differs from the base config; open: ((key, values), ...)
    of what the tuning runs choose.
    """

    name: str
    phase: str
    cell: str
    values: tuple
    open: tuple = ()


def read(config):
    """(Study, the run's config as a nested dict) of a study's config.  Raises UserError."""
    base = {key: config[key] for key in config if key != "study"}
    if "study" not in config:
        raise UserError("The config has no study: configs of studies start from configs/study.py.")
    given, fields = dict(config["study"]), {f.name: f.type for f in dataclasses.fields(Study)}
    for key in given:
        if key not in fields:
            raise UserError(f"config.study.{key} is no option.{suggest(key, fields)}")
    for key in fields:
        if key not in given:
            raise UserError(f"config.study.{key} is missing; configs of studies start from configs/study.py.")
    for key in ("products", "without"):
        if hasattr(given[key], "items"):
            raise UserError(
                f"config.study.{key} is one dict and should be a tuple of dicts, ({{config key: values}},)."
            )
    study = Study(**{key: options.convert(given[key], kind, f"study.{key}") for key, kind in fields.items()})
    for key, low in (("seeds", 1), ("tuning_seeds", 1), ("lanes", 1), ("first_seed", 0), ("first_tuning_seed", 0)):
        if getattr(study, key) < low:
            raise UserError(f"config.study.{key}={getattr(study, key)} should be at least {low}.")
    if study.family not in FAMILIES:
        raise UserError(f"config.study.family={study.family!r} is unknown.{suggest(study.family, FAMILIES)}")
    if study.mode and study.mode not in MODES:
        raise UserError(f"config.study.mode={study.mode!r} is unknown.{suggest(study.mode, MODES)}")
    if not 0 < study.alpha < 1 or not 0 < study.holdout < 1:
        raise UserError(f"config.study.alpha={study.alpha} and .holdout={study.holdout} should be between 0 and 1.")
    return study, _plain(base)


def _plain(config):
    return {key: _plain(value) if hasattr(value, "items") else value for key, value in config.items()}


def make_runs(study, base):
    """The Runs of a study: of each cell its trials, where something is chosen, and its seeds.

    base: the run's config.  Raises UserError for keys that do not exist, values of a wrong type, products that leave
    no run, and runs that are given twice.
    """
    known, runs = flatten(base), []
    for product in study.products:
        if not hasattr(product, "items"):
            raise UserError(f"config.study.products: {product!r} should be a dict {{config key: values}}.")
        for key, values in product.items():
            check_key(key, known, "products")
            if not isinstance(values, (tuple, list, range, Choose)):
                raise UserError(f"config.study.products: {key}: {values!r} should be a tuple of values.")
            if not (values.values if isinstance(values, Choose) else values):
                raise UserError(f"config.study.products: {key} has no value.")
    for excluded in study.without:
        _check_excluded(excluded, study.products, known)
    for product in study.products:
        runs += _runs_of(study, base, dict(product))
    if not runs:
        given = "config.study.without leaves none of them" if study.products else "config.study.products is empty"
        raise UserError(f"The study has no run: {given}.")
    tried = {run.cell for run in runs if run.phase == "tuning"}
    for run in runs:
        if run.open and run.cell not in tried:
            raise UserError(
                f"config.study.products: nothing is tried for {run.name}: a product that chooses takes its seeds from "
                "config.study.seeds, not from an axis of its own."
            )
    names = {}
    for run in runs:
        other = names.setdefault(run.name, run)
        if other is not run:
            raise UserError(f"config.study.products gives {run.name} twice.")
    _check_seeds(study, runs)
    return tuple(runs)


def check_key(key, known, place):
    """Raises UserError for a key that no study can vary.

    known: the flat keys of a run's config; place: the option of config.study that has the key.
    """
    if key not in known:
        raise UserError(f"config.study.{place}: {key!r} is no option of a run.{suggest(key, known)}")
    if key.split(".")[0] in [field.name for field in dataclasses.fields(options.Execution)]:
        raise UserError(f"config.study.{place}: {key} is about how runs are executed; give it once, as config.{key}.")
    if key == "model.matmul_precision":
        raise UserError(f"config.study.{place}: {key} holds for a whole process; give it once, as config.{key}.")


def _check_excluded(excluded, products, known):
    """Raises UserError for a dict of config.study.without that is none, or that leaves no cell out."""
    if not hasattr(excluded, "items"):
        raise UserError(f"config.study.without: {excluded!r} should be a dict {{config key: value}}.")
    for key in excluded:
        check_key(key, known, "without")
    if not any(_agrees(known | values, excluded) for product in products for values in _combinations(product)):
        raise UserError(f"config.study.without: no cell has {dict(excluded)!r}; correct it or take it out.")


def _combinations(product):
    """{key: value} of each combination of a product's axes."""
    axes = {key: values for key, values in product.items() if not isinstance(values, Choose)}
    for combination in itertools.product(*axes.values()):
        yield dict(zip(axes, combination, strict=True))


def _agrees(whole, excluded):
    return all(label(whole[key]) == label(value) for key, value in excluded.items())


def _runs_of(study, base, product):
    trials = {key: values.values for key, values in product.items() if isinstance(values, Choose)}
    for key in trials:
        if key not in LANE_DATA or key in SEEDS:
            raise UserError(f"config.study.products: {key} cannot be chosen; choose among {', '.join(LANE_DATA[4:])}.")
    tuning = range(study.first_tuning_seed, study.first_tuning_seed + study.tuning_seeds)
    reported = range(study.first_seed, study.first_seed + study.seeds)
    for values in _combinations(product):
        seeds = {key: value for key, value in values.items() if key in SEEDS}
        cell = {key: value for key, value in values.items() if key not in SEEDS}
        if any(_agrees(flatten(base) | cell, excluded) for excluded in study.without):
            continue
        folder = _folder(cell, base)
        for chosen in itertools.product(*trials.values()) if trials and not seeds else ():
            trial = dict(zip(trials, chosen, strict=True))
            for seed in tuning:
                yield _run("tuning", folder, trial | {"seed": seed}, cell | {"data.holdout": study.holdout})
        for own in [seeds] if seeds else [{"seed": seed} for seed in reported]:
            yield _run("runs", folder, own, cell, tuple(trials.items()))


def _run(phase, folder, own, shared, open_=()):
    """own: what tells it from the runs of its cell, by which it is named."""
    name = "/".join([phase, folder, *(f"{key}={label(value)}" for key, value in own.items())])
    return Run(name, phase, folder, tuple((shared | own).items()), open_)


def _folder(cell, base):
    """task/method/axis=value/..., of a cell."""
    flat = flatten(base) | cell
    others = [f"{key}={label(value)}" for key, value in cell.items() if key not in ("task", "tune.method")]
    return "/".join([label(flat["task"]) or "table", label(flat["tune.method"]), *others])


def label(value):
    """A value as it stands in names of folders."""
    if isinstance(value, (tuple, list)):
        return "+".join(label(part) for part in value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^\w.+,-]+", "_", text)


def _check_seeds(study, runs):
    tuning = {dict(run.values)["seed"] for run in runs if run.phase == "tuning"}
    both = tuning & {dict(run.values).get("seed") for run in runs if run.phase == "runs"}
    if both:
        raise UserError(
            f"The seeds {sorted(both)} choose and are reported; move config.study.first_tuning_seed="
            f"{study.first_tuning_seed} away from the reported ones."
        )


def settings_of(run, base, chosen=()):
    """Settings of a Run.  base: the run's config, a nested dict; chosen: ((key, value), ...) for what is open.

    Reported runs that do not select a step on dev are evaluated at the end alone.  Raises UserError.
    """
    config = _copy(base)
    for key, value in (*run.values, *chosen):
        *sections, last = key.split(".")
        node = config
        for section in sections:
            node = node[section]
        if key == "tune.method" and isinstance(value, str):
            value = (value,)
        if key in ("train.epochs", "train.steps"):
            node["steps" if last == "epochs" else "epochs"] = None
        node[last] = value
    if run.phase == "runs" and config["train"]["select"] == "last":
        config["eval"] |= {"every_epochs": 0, "every_steps": None}
    if run.phase == "tuning":
        config["eval"] |= {"official_dev": False}
    return options.from_config(config)


def _copy(config):
    return {key: _copy(value) if isinstance(value, dict) else value for key, value in config.items()}


def program_key(experiment, contents):
    """A name for what decides the compiled programs of a run, shapes of batches apart.

    experiment: settings.Experiment without open options; contents: {name: sha256}, as its fingerprint takes them.
    """
    flat = flatten(dataclasses.asdict(experiment))
    kept = {key: value for key, value in flat.items() if key not in (*LANE_DATA, *options.PATHS)}
    kept["multipliers"] = len(kept.pop("optim.multipliers"))
    if kept["tune.max_rank"]:
        del kept["tune.rank"]
    text = json.dumps(kept | contents, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
