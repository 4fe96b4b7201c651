"""A study's folder as `fjt.sweep` would leave it, made without training, and what a report reads of it."""

import json
import os
import zlib

import numpy as np
from scores import METRICS as SCORES

from configs import quickstart
from configs import study as study_config
from fjt.core.ragged import Ragged, flat, values_of
from fjt.data import squad
from fjt.data.glue import Task
from fjt.reports import archive, gather
from fjt.reports.cells import make_cells
from fjt.study import plans, spec
from fjt.tasks.entities import ENTITIES
from fjt.tasks.kinds import find_problem
from fjt.tasks.question_answering import QUESTION_ANSWERING

LABELS = {"choices": ("no", "yes"), "topics": tuple("abcdef"), "marks": ()}
LABELS["names"] = ("O", "B-loc", "I-loc", "B-per", "I-per")
LABELS["questions"] = ("answer", "no answer")
LABELS["choices+marks"] = ("choices.no", "choices.yes", "marks")
NAMES_IN = (0, 1, 2, 0, 0, 3, 4, 4, 0, 1, 3)  # ids of LABELS["names"], over and over
METRICS = {
    "choices": ("accuracy", "f1"),
    "topics": ("accuracy", "macro_f1"),
    "marks": ("pearson", "spearman"),
    "errors": ("mse",),
    "names": ("entity_f1", "token_accuracy"),
    "questions": ("f1", "exact_match"),
    "choices+marks": ("mean", "choices.accuracy", "marks.pearson"),
}
SEVERAL = find_problem("choices:classification:2:accuracy+marks:regression:1:pearson")
STUDY = {
    "seeds": 8, "first_seed": 0, "tuning_seeds": 2, "first_tuning_seed": 1000, "holdout": 0.1, "baseline": "full",
    "alpha": 0.05, "family": "task", "metric": "", "lanes": 16,
}  # fmt: skip
DIVERGED, BEGUN, MISSING = "diverged", "begun", "missing"
STEPS = 40

RESULT = {  # of a finished run, where nothing else is said
    "selected_step": STEPS, "split": "dev", "metrics": {}, "splits": {}, "failed": None,
    "best": {"step": None, "metrics": {}}, "trainable_params": 1000, "added_params": 0, "head_params": 10,
    "pooler_params": 0, "total_params": 5000, "flops_per_step": 1e9, "train_seconds": 10.0, "compile_seconds": 1.0,
    "examples_per_second": 100.0, "tokens_per_second": 1000.0, "token_efficiency": 0.9, "peak_memory_bytes": 2**30,
    "memory_kind": "host resident set", "params_sha256": "b" * 64, "frozen_sha256": "c" * 64,
}  # fmt: skip


def rng(*words):
    return np.random.default_rng(zlib.crc32("/".join(map(str, words)).encode()))


def truth(task, count=120):
    """Labels of a task's dev set: class ids, of which 0 is the most frequent, or scores."""
    if task == "choices":
        return np.int32(np.arange(count) % 5 >= 3)
    if task == "topics":
        return np.int32(np.arange(count) % 6)
    if task == "names":  # sentences of two to eight words
        sentences = [np.arange(2 + i % 7) + 5 * i for i in range(count)]
        return decoded(Ragged.of([np.array(NAMES_IN)[words % len(NAMES_IN)] for words in sentences], np.int32))
    if task == "questions":  # every third has no answer
        return squad.labels_of([("dark blue", i), ("blue", i + 5)] if i % 3 else [] for i in range(count))
    if task == "choices+marks":
        return both(truth("choices", count - count // 3), truth("marks", count // 3))
    return np.float32(rng(task).normal(size=count))


def both(choices, marks):
    """[m, 2]: labels or predictions of choices, and behind them of marks."""
    number = np.repeat([0, 1], (len(choices), len(marks)))
    return np.stack([number, np.concatenate([choices, marks])], axis=-1).astype(np.float32)


def decoded(tags):
    """The ids that `Entities.decode` gives to these tags."""
    logits = Ragged(np.eye(len(LABELS["names"]), dtype=np.float32)[tags.values], tags.offsets)
    return ENTITIES.decode(logits, Task("names", "entities", LABELS["names"], ())).values


def predictions(task, skill, *words, count=120):
    """What a run predicts that is right with this chance, or correlates so.  words: what it depends on, a seed last."""
    right, random = truth(task, count), rng(task, *words)
    if task == "choices":
        # Some examples are hard for all runs of a method, so that runs agree in part.
        hard = rng(task, "hard").uniform(size=count) > skill
        flip = np.where(hard, random.uniform(size=count) < 0.8, random.uniform(size=count) < 0.03)
        return np.where(flip, 1 - right, right)
    if task == "names":  # the first word of an entity is missed
        begins = np.flatnonzero(right.values % 2)
        missed = random.choice(begins, int(len(begins) * (1 - skill)), replace=False)
        return decoded(Ragged(np.where(np.isin(np.arange(len(right.values)), missed), 0, right.values), right.offsets))
    if task == "questions":  # an answer lacks a word, or none is given
        texts = np.where(random.uniform(size=count) < 0.5, "dark", "")
        wrong = squad.labels_of([[text]] if text else [] for text in texts)
        best = squad.labels_of([[text] for text in squad.texts_of(label)[:1]] for label in right)
        return np.where(random.uniform(size=count) < skill, best, wrong)
    if task == "choices+marks":
        counts = {"choices": count - count // 3, "marks": count // 3}
        return both(*(predictions(one, skill, *words, count=size) for one, size in counts.items()))
    if task == "topics":
        return np.where(random.uniform(size=count) < skill, right, (right + 1) % 6)
    return skill * right + np.sqrt(1 - skill**2) * random.normal(size=count)


def candidates(label):
    """The scores of answers that lead to a predicted label."""
    texts = squad.texts_of(label)
    return json.dumps([0.0, [1.0, 0, 1, texts[0]]] if texts else [1.0, [0.0, 0, 1, "other"]])


class MadeStudy:
    """Writes runs below a folder, and a plan of them with `finish`."""

    def __init__(self, folder, **study):
        self.folder, self.runs, self.active = folder, {}, []
        self.study = STUDY | study
        self.planned = self.study["seeds"]

    def cell(self, task, method, outcomes, axes=None, open_=None, chosen=None, **facts):
        """Adds a cell.  outcomes: {seed, or {key: seed} as items: predictions,         DIVERGED, BEGUN or MISSING}."""
        axes = axes or {}
        name = "/".join([task, method, *(f"{key}={_label(value)}" for key, value in axes.items())])
        for seed, outcome in outcomes.items():
            seeds = dict(seed) if isinstance(seed, tuple) else {"seed": seed}
            values = axes | {"task": task, "tune.method": [method]} | seeds
            self._add("runs", name, values, seeds, outcome, open_ or {}, chosen or {}, task, method, **facts)

    def trials(self, task, method, key, scores, axes=None, **facts):
        """Adds the tuning runs of a cell.  scores: {value of the key: {seed: a skill or DIVERGED}}."""
        axes = axes or {}
        name = "/".join([task, method, *(f"{key}={_label(value)}" for key, value in axes.items())])
        for value, of_seed in scores.items():
            for seed, skill in of_seed.items():
                tried = {key: value, "seed": seed}
                values = axes | {"task": task, "tune.method": [method], "data.holdout": 0.1} | tried
                outcome = skill
                if not isinstance(skill, str):
                    outcome = predictions(task, skill, name, "trial", value, seed)
                self._add("tuning", name, values, tried, outcome, {}, {key: value}, task, method, **facts)

    def _add(self, phase, cell, values, own, outcome, open_, chosen, task, method, **facts):
        name = "/".join([phase, cell, *(f"{key}={_label(value)}" for key, value in own.items())])
        self.runs[name] = {
            "name": name,
            "phase": phase,
            "cell": cell,
            "values": [list(item) for item in values.items()],
            "open": [[key, list(values)] for key, values in open_.items()],
        }
        self.active.append(name)
        if not (isinstance(outcome, str) and outcome == MISSING):
            write_run(self.folder / name, phase, task, method, outcome, values | chosen, **facts)

    def finish(self, **plan):
        """Writes plan.json; plan: other entries of it."""
        whole = {
            "command": "python -m fjt.sweep --config configs/made.py --workdir /somewhere/private/made "
            "--config.model.path=/somewhere/private/minilm --shard 0/2",
            "config": {},
            "study": self.study,
            "active": self.active,
            "declared": {key: self.study[key] for key in plans.DECLARED},
            "planned_seeds": {run["cell"]: self.planned for run in self.runs.values()},
            "runs": self.runs,
            "groups": [],
            "programs": 1,
            "seconds": 1.0,
        }
        (self.folder / "plan.json").write_text(json.dumps(whole | plan))
        return self.folder


def _label(value):
    return f"{value:g}" if isinstance(value, float) else str(value).replace("/", "_")


def write_run(
    path, phase, task, method, outcome, values, *, trained=1000, added=0, flops=1e9, seconds=10.0, device="a processor",
    jax="0.10.2", optimizer="adamw", looks=1, data="d" * 64, label_names=None, count=120,
):  # fmt: skip
    """Writes the files of one run."""
    os.makedirs(path / "predictions")
    rate = values.get("optim.learning_rate", 1e-3)
    model = values.get("model.path", "/somewhere/private/minilm")
    config = {
        "optim": {"name": optimizer, "learning_rate": rate},
        "model": {"name": "", "path": model},
        "train": {"select": "last", "batch_size": 32},
        "data": {"limit": 0},
        "seeds": {"subset": 0},
        "tune": {"method": [method]},
    }
    about = {"config": config, "contents": {}, "fingerprint": "f" * 64, "changes": []}
    (path / "config.json").write_text(json.dumps(about))
    environment = {"versions": {"fjt": "a" * 40, "jax": jax}, "platform": "cpu", "device": device, "devices": 1}
    (path / "env.json").write_text(json.dumps(environment))
    random = rng(path.parent.name, path.name, task, method)
    loss = 0.2 + np.exp(-np.arange(1, STEPS + 1) / 12) + 0.03 * random.normal(size=STEPS)
    state = outcome if isinstance(outcome, str) else "finished"
    steps = [
        {"step": i + 1, "loss": float(x), "grad_norm": 1.0}
        for i, x in enumerate(loss[: STEPS if state == "finished" else 7])
    ]
    (path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in steps))
    if state == BEGUN:
        return
    result = {
        "task": task,
        "method": [method],
        "steps": len(steps),
        "planned_steps": STEPS,
        "epochs": 1.0,
        "data_sha256": data if phase == "runs" else data[::-1].replace("d", "e"),
        "versions": environment["versions"],
    }
    if state == DIVERGED:
        result["failed"] = "the loss of step 8 is nan, its gradient's norm nan"
        (path / "result.json").write_text(json.dumps(result))
        return
    right, names = truth(task, count), label_names or LABELS.get(task, ())
    metrics = {"questions": QUESTION_ANSWERING, "choices+marks": SEVERAL}.get(task)
    metrics = metrics.metrics if metrics else SCORES
    scores = {
        name: metrics[name](np.float32(outcome) if right.dtype.kind == "f" else outcome, right)
        for name in METRICS[task]
    }
    result |= RESULT | {
        "metrics": scores,
        "splits": {"dev": scores},
        "trainable_params": trained,
        "added_params": added,
        "total_params": 5000 + added,
        "flops_per_step": flops,
        "train_seconds": seconds,
    }
    (path / "result.json").write_text(json.dumps(result))
    first = METRICS[task][0]
    count_looks = looks if phase == "runs" else 4
    rows = [
        {"step": STEPS * (i + 1) // count_looks, first: scores[first] * (0.7 + 0.3 * (i + 1) / count_looks)}
        for i in range(count_looks)
    ]
    (path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    fold = f"fold-{values['data.fold']}-" if "data.fold" in values else ""  # each has rows of its own
    values, arrays = values_of(outcome), {"id": np.array([f"{fold}row-{i}" for i in range(count)])}
    arrays |= {"label_names": np.array(names, str)}
    if task == "questions":
        arrays |= {"kind": np.array("question_answering")}
        logits = np.array([candidates(label) for label in values], values.dtype)
    elif task == "choices+marks":
        arrays |= {"kind": np.array(SEVERAL.name)}
        chosen = np.where(values[:, :1] == 0, np.eye(2)[np.where(values[:, 0] == 0, values[:, 1], 0).astype(int)], 0)
        logits = np.float32(np.concatenate([values[:, :1], chosen, values[:, 1:]], axis=1))
    elif right.dtype.kind == "f":
        logits = np.float32(values)[:, None]
    else:
        logits = np.eye(max(2, len(names)), dtype=np.float32)[values]
    if isinstance(right, Ragged):
        arrays, logits = arrays | {"kind": np.array("entities")}, Ragged(logits, right.offsets)
    np.savez(path / "predictions" / "dev.npz", **arrays, **flat("logits", logits), **flat("label", right))
    (path / "DONE").write_text("")


def write_study(folder):
    """The folder of a study of two tasks and three methods: trials, runs that collapsed and diverged."""
    made = MadeStudy(folder)
    rates = (1e-4, 1e-3, 1e-2)
    for task, skills in (("choices", (0.9, 0.85, 0.7)), ("marks", (0.88, 0.86, 0.6))):
        for method, skill in zip(("full", "lora", "head"), skills, strict=True):
            tried = rates[:2] if method == "head" else rates
            best = {"full": 1e-3, "lora": 1e-2, "head": 1e-3}[method]
            for axes in ({"tune.rank": 2}, {"tune.rank": 4}) if method == "lora" else ({},):
                size = {"full": 5000, "lora": 100 * axes.get("tune.rank", 0) + 10, "head": 10}[method]
                facts = {
                    "trained": size,
                    "added": size - 10 if method == "lora" else 0,
                    "flops": {"full": 3e9, "lora": 2e9, "head": 1e9}[method],
                }
                scores = {
                    rate: {seed: skill - 0.08 * abs(np.log10(rate / best)) for seed in (1000, 1001)} for rate in tried
                }
                made.trials(task, method, "optim.learning_rate", scores, axes, **facts)
                outcomes = {seed: predictions(task, skill, method, *axes.values(), seed) for seed in range(8)}
                if (task, method) == ("choices", "head"):
                    outcomes[2] = np.zeros(120, int)
                if task == "choices" and axes.get("tune.rank") == 4:
                    outcomes[5] = DIVERGED
                for seed, outcome in outcomes.items():
                    made.cell(
                        task,
                        method,
                        {seed: outcome},
                        axes,
                        {"optim.learning_rate": tried},
                        {"optim.learning_rate": best},
                        seconds=facts["flops"] / 1e8 + seed,
                        **facts,
                    )
    return made.finish()


def records_of(folder, tmp_path):
    """Records of a study's folder, by way of the two files."""
    archive.save(gather.read(folder), tmp_path)
    return archive.load(tmp_path)


def cells_of(folder, tmp_path):
    """(Records, {name: Cell}) of a study's folder."""
    found = records_of(folder, tmp_path)
    return found, {cell.name: cell for cell in make_cells(found)}


def make_pairs(folder, n, **study):
    """A study of two methods and n seeds, in which `head` is worse."""
    made = MadeStudy(folder, **study)
    for method, skill in (("full", 0.9), ("head", 0.7)):
        made.cell("choices", method, {seed: predictions("choices", skill, method, seed) for seed in range(n)})
    return made


def make(*products, **options):
    """(StudyConfig, base config, Runs) of products, with other options of config.study."""
    config = study_config.get_config(quickstart.get_config())
    config.study.products = products
    for key, value in options.items():
        config.study[key] = value
    made, base = spec.read(config)
    return made, base, spec.make_runs(made, base)
