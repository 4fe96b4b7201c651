"""The splits of an experiment from official files, an own table, TFDS or the synthetic language, with their checks."""

import collections
import dataclasses
import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from fjt.core import network
from fjt.core.errors import UserError, suggest
from fjt.core.options import DataConfig, ExperimentConfig
from fjt.core.ragged import Ragged, values_of
from fjt.data import augmentation, cleaning, glue, labels, reading, several, synthetic, tables, tfds
from fjt.data.glue import SPLITS, Split, Table, Task
from fjt.data.reading import LabelReader
from fjt.data.rows import Rows

log = logging.getLogger(__name__)

MANY_LABELS = 20  # more labels than this, in fewer than twice as many rows, are probably scores
USUAL_ROWS = 10  # where half of the labels have at least so many rows, a label with one row is probably a mistake


FindProblem = Callable[[str], LabelReader]


def names() -> dict[str, str]:
    """{name: one line} of every task, for `--list`."""
    return glue.names() | {task.name: task.description for task in synthetic.TASKS.values()}


def find_task(experiment: ExperimentConfig, find_problem: FindProblem) -> Task:
    """The Task that `experiment.task` names in its data.source.

    The labels of a user's own table are those of the config, () where the config names none.

    Args:
        experiment: the options.
        find_problem: the Problem of a kind's name (`fjt.tasks.kinds.find_problem`).

    Raises:
        UserError: the name is unknown, or another source has the task.
    """
    name, source = experiment.task, experiment.data.source
    served = {
        "files": {*glue.TASKS, glue.OWN_TABLE},
        "tfds": {task.name for task in glue.GLUE},
        "synthetic": set(synthetic.TASKS),
    }
    if name not in served[source]:
        others = [other for other in served if name in served[other]]
        if others:
            hint = f"--config.data.source={' or '.join(others)} has it."
            raise UserError(f"config.data.source={source!r} has no task {name!r}; {hint}")
        raise UserError(f"config.task={name!r} is unknown.{suggest(name, set().union(*served.values()))}")
    if source == "synthetic":
        return synthetic.TASKS[name]
    if name == glue.OWN_TABLE:
        names, problem = _named("label_names", experiment.data.label_names), find_problem(experiment.data.kind)
        _named("columns.labels", experiment.data.columns.labels)
        return Task(name, problem.name, names, problem.table_metrics)
    return glue.TASKS[name]


def load(
    experiment: ExperimentConfig, cache_dir: str, find_problem: FindProblem, blank: bool = False
) -> tuple[Task, dict[str, Split]]:
    """(Task, {name: Split}) of the experiment, the splits in the order of `glue.SPLITS`.

    Optional splits (test sets, MNLI's diagnostics) without files are absent.  With data.holdout, `dev` is that share
    of train, and the published dev set, if there is one, is `official_dev`: choosing and reporting then use different
    rows.  data.limit draws from the rows that the holdout left; the rows of a smaller limit are among those of a
    larger one.  Both keep the order of the file.

    data.clean drops training rows before either draws, so that held-out rows are clean too; then, with data.holdout,
    those that have a held-out text, so that none leaks into the rows that choose.

    Of several tasks (`fjt.data.several`), each is loaded for itself; then their splits are joined.

    Args:
        experiment: the options.
        cache_dir: folder for TFDS's data.
        find_problem: the Problem of a kind's name (`fjt.tasks.kinds.find_problem`).
        blank: whether texts of the user's own tables may be empty.

    Raises:
        UserError: the data cannot be read, or nothing can be learned from them.
    """
    experiments = several.each(experiment)
    if not several.is_several(experiment.task):
        task, splits = _load_one(experiments[experiment.task], cache_dir, find_problem, blank)
        return dataclasses.replace(task, name=experiment.task), splits
    loaded = {}
    for name, one in experiments.items():
        try:
            loaded[name] = _load_one(one, cache_dir, find_problem, blank)
        except network.Unreachable:
            raise
        except UserError as error:
            raise UserError(
                f"{name} (its files are in config.data.tables, other options of its own in config.data.each): {error}"
            ) from None
    task = several.join({name: task for name, (task, _) in loaded.items()})
    find_problem(task.kind)  # which refuses kinds that cannot be trained together
    return task, several.join_splits({name: splits for name, (_, splits) in loaded.items()})


def _load_one(
    experiment: ExperimentConfig, cache_dir: str, find_problem: FindProblem, blank: bool
) -> tuple[Task, dict[str, Split]]:
    cleaning.check(experiment.data.clean)
    task = find_task(experiment, find_problem)
    problem = find_problem(task.kind)
    data, subset = experiment.data, experiment.seeds.subset
    if data.source == "synthetic":
        splits = dict(synthetic.load(task.name))  # a copy, because load caches its result
    elif data.source == "tfds":
        splits = tfds.load(task, data.dir or os.path.join(cache_dir, "tfds"), data.manual_dir, cache_dir)
    elif task.name == glue.OWN_TABLE:
        task, splits = _load_own(task, data, problem, data.dir or os.path.join(cache_dir, "tfds"), blank)
    else:
        splits = _load_official(task, data, problem)
    for name, split in splits.items():
        if not len(split):
            raise UserError(f"The {name} split of task {task.name!r} has no rows; give a file with at least one row.")
    splits["train"], dropped = cleaning.clean(splits, data.clean)
    if data.holdout or data.folds or data.fold is not None:
        keeps = data.folds is None and data.fold is None
        splits = _hold_out(splits, data.holdout, subset) if keeps else _fold(splits, data, subset)
        splits["train"], more = cleaning.clean(splits, data.clean)
        dropped = {name: dropped[name] + count for name, count in more.items()}
    elif "dev" not in splits:
        raise UserError(
            f"Task {task.name!r} has no dev split to choose by. "
            f"{'Give --config.data.files.dev=FILE, or keep' if task.name == glue.OWN_TABLE else 'Keep'} "
            "a share of train aside with --config.data.holdout=0.1."
        )
    train = splits["train"]
    if data.limit:
        if data.limit > len(train):
            raise UserError(
                f"config.data.limit={data.limit} is more than the {len(train)} training examples; 0 uses all."
            )
        train = train.take(np.sort(_generator(subset, 1).permutation(len(train))[: data.limit]))
    if data.shuffle_labels:
        if problem.documents:
            raise UserError("config.data.shuffle_labels: documents have no labels. Leave the option out.")
        if problem.contexts:
            raise UserError("config.data.shuffle_labels: an answer is part of its own context. Leave the option out.")
        if problem.choices and len(set(map(len, train.choices or ()))) > 1:
            raise UserError("config.data.shuffle_labels: rows have different numbers of choices. Leave the option out.")
        train = dataclasses.replace(train, label=_shuffled(train.label, _generator(subset, 2)))
    _check_variety(task, train, problem)
    train = dataclasses.replace(train, dropped=tuple(dropped.items()))
    splits["train"] = _augmented(train, data, subset, problem)
    return task, {name: splits[name] for name in SPLITS if name in splits}


def _augmented(train: Split, data: DataConfig, seed: int, problem: LabelReader) -> Split:
    """The rows with the changed copies that config.data.augment asks for."""
    changes = augmentation.check(data.augment)
    if not changes:
        if data.augment_copies or data.synonyms:
            raise UserError(
                "config.data.augment_copies and .synonyms are for config.data.augment. Give it, or leave them."
            )
        return train
    if problem.words or problem.documents or problem.contexts or problem.choices:
        raise UserError(f"config.data.augment changes words of whole texts; {data.kind} has labels of their parts.")
    by_synonym = any(name == "synonym" for name, _ in changes)
    if data.synonyms and not any(name in ("synonym", "insert") for name, _ in changes):
        raise UserError("config.data.synonyms: config.data.augment has neither synonym nor insert. Leave the file out.")
    if by_synonym and not data.synonyms:
        raise UserError("config.data.augment has synonym, which needs a file: give --config.data.synonyms=FILE.")
    synonyms = augmentation.read_synonyms(data.synonyms) if data.synonyms else {}
    return augmentation.augment(train, changes, data.augment_copies or 1, seed, synonyms)


def _named(option: str, given: Sequence[Any]) -> tuple[str, ...]:
    """The canonical names of labels in an option.

    Raises UserError for a name that is empty or given twice, in which case one of two logits never learns.
    """
    place = f"config.data.{option}"
    names = tuple(labels.name_of(name, place) for name in given)
    if "" in names:
        raise UserError(f"{place}=({labels.some(names)}) holds an empty name. Remove it.")
    for name, count in collections.Counter(names).items():
        if count > 1:
            raise UserError(f"{place}=({labels.some(names)}) should hold {name!r} once, not {count} times.")
    return names


def _generator(seed: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, purpose]))


def _hold_out(splits: dict[str, Split], share: float, seed: int) -> dict[str, Split]:
    train = splits["train"]
    if len(train) < 2:
        raise UserError(f"config.data.holdout={share} cannot divide {len(train)} training example.")
    kept = min(max(round(share * len(train)), 1), len(train) - 1)
    order = _generator(seed, 0).permutation(len(train))
    official = {"official_dev": splits["dev"]} if "dev" in splits else {}
    parts = {"train": train.take(np.sort(order[kept:])), "dev": train.take(np.sort(order[:kept]))}
    return splits | official | parts


def _fold(splits: dict[str, Split], data: DataConfig, seed: int) -> dict[str, Split]:
    """The splits with one of config.data.folds parts of train as dev; a published dev set is official_dev.

    The parts of one seed are the same in all runs: each row is in dev once.  scikit-learn makes them.
    """
    train, folds, fold = splits["train"], data.folds, data.fold
    if folds is None or fold is None or fold >= folds:
        raise UserError(
            f"config.data.folds={folds} and config.data.fold={fold}: give both, the second from 0 to the first - 1; "
            "a study with data.folds alone runs all."
        )
    if data.holdout:
        raise UserError("config.data.holdout and config.data.folds both keep rows aside for dev; give one.")
    label, cluster = np.asarray(values_of(train.label)), train.cluster
    classes = label.ndim == 1 and label.dtype.kind == "i" and len(label) == len(train)
    sizes = np.bincount(label[label >= 0])[np.unique(label[label >= 0])] if classes else np.array([len(train)])
    groups = len(set(cluster)) if cluster else len(train)
    if sizes.min() < folds or groups < folds:
        what = f"the smallest class has {sizes.min()} rows" if sizes.min() < folds else f"there are {groups} clusters"
        raise UserError(f"config.data.folds={folds}: {what}. Take at most {min(sizes.min(), groups)} folds.")
    from sklearn import model_selection  # here, because it takes a second, which other runs can do without

    options: dict[str, Any] = {"n_splits": folds, "shuffle": True, "random_state": seed}
    if cluster:
        kinds = (model_selection.GroupKFold, model_selection.StratifiedGroupKFold)
    else:
        kinds = (model_selection.KFold, model_selection.StratifiedKFold)
    parts = kinds[classes](**options).split(np.zeros(len(train)), label if classes else None, cluster)
    rest, kept = list(parts)[fold]
    if not len(rest) or not len(kept):
        raise UserError(f"config.data.folds={folds}: fold {fold} has no rows of its own. Take fewer folds.")
    official = {"official_dev": splits["dev"]} if "dev" in splits else {}
    contents = json.dumps([train.id, cleaning.texts_of(train), label.tolist(), cluster])
    part = glue.Part(np.sort(kept), hashlib.sha256(contents.encode()).hexdigest())
    dev = dataclasses.replace(train.take(part.rows), part=part)
    return splits | official | {"train": train.take(np.sort(rest)), "dev": dev}


def _shuffled(label: Any, generator: np.random.Generator) -> Any:
    """The labels in random order; those of words, over all rows."""
    if isinstance(label, Ragged):
        return Ragged(generator.permutation(label.values), label.offsets)
    return generator.permutation(label)


def _check_variety(task: Task, train: Split, problem: LabelReader) -> None:
    values = values_of(train.label)
    if problem.choices or problem.documents:
        return  # the place of the right choice is nothing that a model sees; documents have no labels
    if len(values) and (values != values[0]).any():
        return
    raise UserError(
        f"All {len(train)} training examples have the label {problem.describe_label(train.label[0], task)!r}: there is "
        "nothing to learn. Check config.data.columns.label and config.data.limit."
    )


def _load_official(task: Task, data: DataConfig, problem: LabelReader) -> dict[str, Split]:
    if not data.dir:
        raise UserError(
            f"config.data.dir is empty; --config.data.dir=DIR names the folder that contains {task.tables[0].path}."
        )
    if not os.path.isdir(data.dir):
        raise UserError(f"config.data.dir={data.dir!r} is not a directory; it should contain {task.tables[0].path}.")
    if any(dataclasses.astuple(data.files)):
        raise UserError(f"config.data.files is for --config.task=table; task {task.name!r} reads config.data.dir.")
    splits = {}
    for name in dict.fromkeys(table.split for table in task.tables):
        places = [table for table in task.tables if table.split == name]
        table = next((t for t in places if os.path.isfile(os.path.join(data.dir, t.path))), None)
        if table:
            splits[name] = _read_official(task, table, os.path.join(data.dir, table.path), problem)
        elif not places[0].optional:
            looked = " or ".join(os.path.join(data.dir, t.path) for t in places)
            raise UserError(
                f"The {name} split of task {task.name!r} is missing: {looked} does not exist. "
                f"config.data.dir should be the folder that contains {places[0].path}."
            )
    return splits


def _read_official(task: Task, table: Table, path: str, problem: LabelReader) -> Split:
    columns = {"text": table.text, "text_pair": table.text_pair, "label": table.label}
    source = {f"cluster:{column}": column for column in table.cluster}
    rows = tables.read(
        path,
        {role: column for role, column in (columns | source).items() if column},
        header=table.header,
        optional=list(source),
        drop_short=table.drop_short,
        remedy="This is not the official file of the task; --config.task=table reads your own tables.",
    )
    if source and set(source) <= set(rows.values):
        parts = zip(*(rows.values[role] for role in source), strict=True)
        rows = dataclasses.replace(rows, values=rows.values | {"cluster": ["/".join(map(str, part)) for part in parts]})
    dropped = [r for r, label in enumerate(rows.values.get("label", ())) if label in table.drop_labels]
    if dropped:
        log.warning("%s: %d rows without a gold label are left out.", path, len(dropped))
        rows = _without(rows, set(dropped))
    if table.drop_short and rows.numbers and rows.numbers[-1] + 1 > len(rows.numbers) + len(dropped):
        log.warning("%s: broken rows are left out (fewer fields than the header).", path)
    codes = table.codes or task.label_names
    return reading.split(rows, problem, codes, required=table.split.startswith(("train", "dev")))


def _without(rows: Rows, dropped: Collection[int]) -> Rows:
    def keep(values: Sequence[Any]) -> list[Any]:
        return [value for row, value in enumerate(values) if row not in dropped]

    values = {role: keep(column) for role, column in rows.values.items()}
    return Rows(rows.path, values, keep(rows.numbers), keep(rows.lines), rows.faults)


def _load_own(
    task: Task, data: DataConfig, problem: LabelReader, tfds_dir: str, blank: bool
) -> tuple[Task, dict[str, Split]]:
    """A user's own table.

    Args:
        task: the task, perhaps without the names of its labels.
        data: the options.
        problem: reads the labels.
        tfds_dir: the folder of TFDS, where files are named as `tfds.read_columns` has it.
        blank: whether texts may be empty; those of train may also if config.data.clean drops them.
    """
    if not data.files.train:
        raise UserError(f"config.data.files.train is empty; give a file ({' '.join(tables.READ)}).")
    if (problem.words or problem.documents) and data.columns.text_pair:
        what = "document" if problem.documents else "list of words"
        raise UserError(f"config.data.columns.text_pair: {data.kind} has one {what} per row. Leave it out.")
    if data.all_pieces is not None and not problem.words:
        raise UserError(f"config.data.all_pieces={data.all_pieces}: {data.kind} labels no words. Leave it out.")
    for option, given in (("label_names", data.label_names), ("columns.labels", data.columns.labels)):
        if problem.documents and given:
            raise UserError(f"config.data.{option}: the documents of {data.kind} have no labels. Leave it out.")
    if problem.contexts and not data.columns.text_pair:
        raise UserError(f"config.data.columns.text_pair is empty; for {data.kind} it names the column of the contexts.")
    if problem.choices != bool(data.columns.choices):
        rule = "it names the columns of the choices" if problem.choices else "leave it out"
        raise UserError(f"config.data.columns.choices={data.columns.choices!r}: for {data.kind}, {rule}.")
    files = {
        name: _read_own(name, path, data, problem, tfds_dir)
        for name, path in dataclasses.asdict(data.files).items()
        if path
    }
    found = {} if task.label_names else problem.find_labels(reading.cells(files["train"], problem, required=True))
    task = dataclasses.replace(task, label_names=task.label_names or tuple(found))
    splits = {
        name: reading.split(
            rows, problem, task.label_names, name != "test", blank or (name == "train" and "empty" in data.clean)
        )
        for name, rows in files.items()
    }
    labels.check_set(found)
    label = splits["train"].label
    _warn_of_counts(task, files["train"], problem.count_labels(label, task), found, len(values_of(label)))
    return task, splits


def _warn_of_counts(
    task: Task, rows: Rows, counts: Int[np.ndarray, " C"], found: Mapping[str, str], total: int
) -> None:
    """Warns of labels that are probably scores, or probably mistakes.

    Args:
        task: with its label names.
        rows: of the training file.
        counts: number of training rows of each label.
        found: {label: place of its first row} where the config names no labels.
        total: number of labels: rows, or words.
    """
    if len(found) > MANY_LABELS and 2 * len(found) > total:
        log.warning(
            "%s: %d different labels in %d rows. If they are scores, this is a regression: configs/classify.py:"
            "regression, or --config.data.kind=regression.",
            rows.path,
            len(found),
            len(rows.lines),
        )
    elif len(counts) and np.median(counts) >= USUAL_ROWS:
        rare = [number for number in np.flatnonzero(counts < 2) if found.get(task.label_names[number]) != ""]
        for number in rare[: labels.LABELS_IN_MESSAGES]:  # "": a tag that completes a scheme
            name = task.label_names[number]
            log.warning(
                "%s: the label %r has %s, others have %d and more. Is it a mistake?",
                found.get(name, rows.path),
                name,
                "one row" if counts[number] else "no row",
                np.median(counts),
            )


def _read_own(name: str, path: str, data: DataConfig, problem: LabelReader, tfds_dir: str) -> Rows:
    if not (tfds.is_place(path) or os.path.isfile(path)):
        fault = "is a directory; name the file in it" if os.path.isdir(path) else "does not exist"
        raise UserError(f"config.data.files.{name}={path!r} {fault}.")
    columns = {role: column for role, column in dataclasses.asdict(data.columns).items() if column}
    named = [str(name) for name in columns.pop("choices", ())]
    if len(set(named)) < len(named):
        raise UserError(f"config.data.columns.choices=({labels.some(named)}) should hold each column once.")
    columns |= {f"{reading.CHOICE_COLUMNS}{name}": name for name in named}
    answers = columns.pop("labels", ())
    if answers or problem.documents:
        columns.pop("label", None)
        columns |= {f"{reading.LABEL_COLUMNS}{name}": str(name) for name in answers}
    for role in ("text",) if answers or problem.documents else ("text", "label"):
        if role not in columns:
            raise UserError(f"config.data.columns.{role} is empty; it names a column of {path}.")
    for role, column in columns.items():
        other = next((name for name in columns if name != role and columns[name] == column), "")
        if other in ("text", "text_pair"):
            raise UserError(
                f"config.data.columns: {column!r} is the column of {role.partition(':')[0]} and of {other}. Give "
                "each its own column."
            )
    if not data.header and path.lower().endswith((".csv", ".tsv")):
        for role, column in columns.items():
            if not column.isdecimal():
                raise UserError(
                    f"config.data.columns.{role.partition(':')[0]}={column!r} should be a number from 0: with "
                    f"config.data.header=False {path} names no columns."
                )
    optional = _optional(name, columns)
    if tfds.is_place(path):
        rows = tfds.read_columns(path, columns, tfds_dir, optional)
    else:
        rows = tables.read(
            path,
            columns,
            header=data.header,
            optional=optional,
            remedy="Name it with --config.data.columns.{role}=COLUMN; a file without a header is read with "
            "--config.data.header=False and columns by number.",
        )
    if not rows.lines and not rows.faults:
        raise UserError(f"{path} (config.data.files.{name}) has no rows.")
    return rows


def _optional(name: str, columns: Mapping[str, str]) -> tuple[str, ...]:
    """The roles of columns that a file may lack: labels in test, clusters in all but dev, which studies score."""
    answers = [role for role in columns if role.startswith(("label", reading.LABEL_COLUMNS))]
    return {"train": ("cluster",), "test": (*answers, "cluster")}.get(name, ())
