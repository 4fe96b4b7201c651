"""The splits of an experiment: from official files, an own table, TFDS or the synthetic language, faults refused."""

import dataclasses
import logging
import math
import os

import numpy as np

from fjt.core.errors import UserError, suggest
from fjt.data import glue, synthetic, tables, tfds
from fjt.data.glue import SPLITS, Split

log = logging.getLogger(__name__)

MANY_LABELS = 20  # more than these, in fewer than twice as many rows, look like scores


def names():
    """{name: one line} of every task, for `--list`."""
    return glue.names() | {task.name: task.description for task in synthetic.TASKS.values()}


def find_task(experiment):
    """The Task that `experiment.task` names, for its data.source; an own table's labels are still those of the config.

    Raises UserError for an unknown name, and for one that another source serves.
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
            hint = f"--config.data.source={' or '.join(others)} does."
            raise UserError(f"config.data.source={source!r} has no task {name!r}; {hint}")
        raise UserError(f"config.task={name!r} is unknown.{suggest(name, set().union(*served.values()))}")
    if source == "synthetic":
        return synthetic.TASKS[name]
    if name == glue.OWN_TABLE:
        return glue.own(experiment.data.kind, tuple(str(label) for label in experiment.data.label_names))
    return glue.TASKS[name]


def load(experiment, cache_dir):
    """(Task, {name: Split}) of the experiment, the splits in the order of `tasks.SPLITS`.

    Without files for them the optional splits (test sets, MNLI's diagnostics) are absent.  With data.holdout, `dev` is
    that share of train and the published dev set, if there is one, is `official_dev`: choosing and reporting are
    then done on different rows.  data.limit draws from what the holdout left; the rows of a smaller limit are among
    those of a larger one.  Both keep the order of the file.  cache_dir: for TFDS.  Raises UserError.
    """
    task = find_task(experiment)
    data, subset = experiment.data, experiment.seeds.subset
    if data.source == "synthetic":
        splits = dict(synthetic.load(task.name))  # a copy: load keeps its own
    elif data.source == "tfds":
        splits = tfds.load(task, data.dir or os.path.join(cache_dir, "tfds"), data.manual_dir, cache_dir)
    elif task.name == glue.OWN_TABLE:
        task, splits = _load_own(task, data)
    else:
        splits = _load_official(task, data)
    for name, split in splits.items():
        if not len(split):
            raise UserError(f"The {name} split of task {task.name!r} has no rows; give a file that has some.")
    if data.holdout:
        splits = _hold_out(splits, data.holdout, subset)
    elif "dev" not in splits:
        raise UserError(
            f"Task {task.name!r} has no dev split to choose by: "
            f"{'give --config.data.files.dev=FILE, or ' if task.name == glue.OWN_TABLE else ''}"
            "keep a share of train aside with --config.data.holdout=0.1."
        )
    train = splits["train"]
    if data.limit:
        if data.limit > len(train):
            raise UserError(
                f"config.data.limit={data.limit} is more than the {len(train)} training examples; 0 takes all."
            )
        train = _take(train, np.sort(_generator(subset, 1).permutation(len(train))[: data.limit]))
    if data.shuffle_labels:
        train = dataclasses.replace(train, label=_generator(subset, 2).permutation(train.label))
    _check_variety(task, train)
    splits["train"] = train
    return task, {name: splits[name] for name in SPLITS if name in splits}


def _generator(seed, purpose):
    return np.random.Generator(np.random.PCG64([seed, purpose]))


def _take(split, rows):
    def pick(values):
        return tuple(values[row] for row in rows)

    pair, cluster = (None if values is None else pick(values) for values in (split.text_pair, split.cluster))
    return Split(pick(split.id), pick(split.text), pair, split.label[rows], cluster)


def _hold_out(splits, share, seed):
    train = splits["train"]
    if len(train) < 2:
        raise UserError(f"config.data.holdout={share} cannot divide {len(train)} training example.")
    kept = min(max(round(share * len(train)), 1), len(train) - 1)
    order = _generator(seed, 0).permutation(len(train))
    official = {"official_dev": splits["dev"]} if "dev" in splits else {}
    parts = {"train": _take(train, np.sort(order[kept:])), "dev": _take(train, np.sort(order[:kept]))}
    return splits | official | parts


def _check_variety(task, train):
    if len(np.unique(train.label)) > 1:
        return
    what = train.label[0] if task.kind == "regression" else repr(task.label_names[train.label[0]])
    raise UserError(
        f"All {len(train)} training examples have the label {what}: there is nothing to learn. "
        "Check config.data.columns.label and config.data.limit."
    )


def _load_official(task, data):
    if not data.dir:
        raise UserError(
            f"config.data.dir is empty; --config.data.dir=DIR names the folder that holds {task.tables[0].path}."
        )
    if not os.path.isdir(data.dir):
        raise UserError(f"config.data.dir={data.dir!r} is no directory; it should hold {task.tables[0].path}.")
    if any(dataclasses.astuple(data.files)):
        raise UserError(f"config.data.files is for --config.task=table; task {task.name!r} reads config.data.dir.")
    splits = {}
    for name in dict.fromkeys(table.split for table in task.tables):
        places = [table for table in task.tables if table.split == name]
        table = next((t for t in places if os.path.isfile(os.path.join(data.dir, t.path))), None)
        if table:
            splits[name] = _read_official(task, table, os.path.join(data.dir, table.path))
        elif not places[0].optional:
            looked = " or ".join(os.path.join(data.dir, t.path) for t in places)
            raise UserError(
                f"The {name} split of task {task.name!r} is not there: {looked} does not exist; "
                f"config.data.dir should be the folder that holds {places[0].path}."
            )
    return splits


def _read_official(task, table, path):
    columns = {"text": table.text, "text_pair": table.text_pair, "label": table.label}
    rows = tables.read(
        path,
        {role: column for role, column in columns.items() if column},
        header=table.header,
        drop_short=table.drop_short,
        remedy="This is not the official file of the task; own tables are read with --config.task=table.",
    )
    dropped = [r for r, label in enumerate(rows.values.get("label", ())) if label in table.drop_labels]
    if dropped:
        log.warning("%s: %d rows without a gold label are left out.", path, len(dropped))
        rows = _without(rows, set(dropped))
    if table.drop_short and rows.numbers and rows.numbers[-1] + 1 > len(rows.numbers) + len(dropped):
        log.warning("%s: broken rows are left out (fewer fields than the header).", path)
    codes = table.codes or task.label_names
    return _split(rows, task.kind, codes, labelled=table.split.startswith(("train", "dev")))


def _without(rows, dropped):
    def keep(values):
        return [value for row, value in enumerate(values) if row not in dropped]

    values = {role: keep(column) for role, column in rows.values.items()}
    return tables.Rows(rows.path, values, keep(rows.numbers), keep(rows.lines))


def _load_own(task, data):
    if not data.files.train:
        raise UserError(f"config.data.files.train is empty; give a file ({' '.join(tables.SUFFIXES)}).")
    files = {name: _read_own(name, path, data) for name, path in dataclasses.asdict(data.files).items() if path}
    if task.kind == "classification" and not task.label_names:
        task = glue.own(task.kind, _label_names(files["train"]))
        labels, rows = len(task.label_names), len(files["train"].lines)
        if labels > MANY_LABELS and 2 * labels > rows:
            log.warning(
                "%s: %d different labels in %d rows. If they are scores, this is a regression: configs/classify.py:"
                "regression, or --config.data.kind=regression.",
                data.files.train,
                labels,
                rows,
            )
    splits = {n: _split(rows, task.kind, task.label_names, labelled=n != "test") for n, rows in files.items()}
    return task, splits


def _read_own(name, path, data):
    if not os.path.isfile(path):
        what = "is a directory; name the file in it" if os.path.isdir(path) else "does not exist"
        raise UserError(f"config.data.files.{name}={path!r} {what}.")
    columns = {role: column for role, column in dataclasses.asdict(data.columns).items() if column}
    for role in ("text", "label"):
        if role not in columns:
            raise UserError(f"config.data.columns.{role} is empty; it names a column of {path}.")
    if not data.header and path.lower().endswith((".csv", ".tsv")):
        for role, column in columns.items():
            if not column.isdecimal():
                raise UserError(
                    f"config.data.columns.{role}={column!r} should be a number from 0: with "
                    f"config.data.header=False {path} names no columns."
                )
    rows = tables.read(
        path,
        columns,
        header=data.header,
        optional={"train": ("cluster",), "test": ("label", "cluster")}.get(name, ()),  # dev is what a study scores on
        remedy="Name it with --config.data.columns.{role}=COLUMN; a file without a header is read with "
        "--config.data.header=False and columns by number.",
    )
    if not rows.lines:
        raise UserError(f"{path} (config.data.files.{name}) has no rows.")
    for row, text in enumerate(rows.values["text"]):
        if isinstance(text, str) and not text.strip():
            raise UserError(f"{rows.place(row)}: the text is empty. Mend or remove the row.")
    return rows


def _label_names(rows):
    """The labels of the train file, sorted: as numbers where all of them are."""
    found = {_spell(value) for value in rows.values["label"]} - {""}
    try:
        return tuple(sorted(found, key=lambda label: (float(label), label)))
    except ValueError:
        return tuple(sorted(found))


def _split(rows, kind, codes, labelled):
    """Split of rows that were read.  labelled: whether each row must have its label."""
    count = len(rows.lines)
    texts = {
        role: tuple(_text(value, rows, row, role) for row, value in enumerate(rows.values[role]))
        for role in ("text", "text_pair")
        if role in rows.values
    }
    labels = rows.values.get("label", [""] * count)
    if kind == "regression":
        label = np.array([_score(value, rows, row, labelled) for row, value in enumerate(labels)], np.float32)
    else:
        known = {code: number for number, code in enumerate(codes)}
        label = np.array([_class(value, rows, row, known, labelled) for row, value in enumerate(labels)], np.int32)
    ids = tuple(str(i) for i in rows.values.get("id", rows.numbers))
    cluster = tuple(map(_spell, rows.values["cluster"])) if "cluster" in rows.values else None
    return Split(ids, texts["text"], texts.get("text_pair"), label, cluster)


def _text(value, rows, row, role):
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:  # JSON may hold half of a surrogate pair
            raise UserError(f"{rows.place(row)}: the text is no valid Unicode: {value!r:.80}.") from None
        return value
    raise UserError(f"{rows.place(row)}: {value!r} stands where the text of config.data.columns.{role} belongs.")


def _spell(value):
    """A label as a str without outer blanks; '' for none.  2.0, as pandas writes integers beside gaps, is '2'."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _class(value, rows, row, ids, labelled):
    code = _spell(value)
    if code in ids:
        return ids[code]
    if code:
        known = ", ".join(list(ids)[:20]) + (", ..." if len(ids) > 20 else "")
        raise UserError(f"{rows.place(row)}: unknown label {code!r}; the labels are: {known}. Mend or remove the row.")
    if labelled:
        raise UserError(f"{rows.place(row)}: the row has no label; only test sets do without. Mend or remove the row.")
    return -1


def _score(value, rows, row, labelled):
    code = _spell(value)
    if not code and not labelled:
        return math.nan
    try:
        score = float(code)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise UserError(f"{rows.place(row)}: {value!r} stands where a score belongs. Mend or remove the row.")
    return score
