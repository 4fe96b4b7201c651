"""Runs of every kind of problem, stopped in the middle and started again, end with the bits of undisturbed ones."""

import json

import numpy as np
import pytest
import small
import squad_files
from process import StopAfterEvaluation, checkpoints_of, outcome

from configs import base, choice, multitask, ner, pretrain, squad
from fjt.core import settings
from fjt.data import conll
from fjt.experiment import workdir
from fjt.experiment.execute import run
from fjt.experiment.prepare import prepare
from fjt.training.stop import Stopped


def words(rng):
    return [str(word) for word in rng.choice(squad_files.FILLERS, rng.integers(3, 40))]


def write_entities(path, rng):
    rows = [words(rng) for _ in range(40)]
    path.write_text(conll.text([(word, "B-x" if word == "town" else "O") for word in row] for row in rows))


def write_questions(path, rng):
    squad_files.made(path, int(rng.integers(99)), 12, without=True, longest=60)


def write_rows(path, rng, more):
    rows = [{"text": " ".join(words(rng)[:8])} | more(rng) for _ in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_choices(path, rng):
    def more(rng):
        count = int(rng.integers(2, 5))
        return {"choices": squad_files.FILLERS[:count], "label": int(rng.integers(count))}

    write_rows(path, rng, more)


def write_targets(path, rng):
    write_rows(path, rng, lambda rng: {"a": rng.normal(), "b": rng.normal()})


def write_topics(path, rng):
    write_rows(path, rng, lambda rng: {"a": rng.normal(), "label": int(rng.integers(2))})


def write_documents(path, rng):
    path.write_text("\n\n".join(" ".join(words(rng)) for _ in range(40)))


KINDS = {  # (config, options, suffix, writer of a file)
    "entities": (ner, {}, "conll", write_entities),
    "question_answering": (squad, {"model.doc_stride": 8}, "json", write_questions),
    "multiple_choice": (
        choice,
        {"data.columns.text": "text", "data.columns.text_pair": "", "data.columns.choices": ("choices",)},
        "jsonl",
        write_choices,
    ),
    "multi_regression": (
        base,
        {"task": "table", "data.source": "files", "data.kind": "multi_regression", "data.columns.labels": ("a", "b")},
        "jsonl",
        write_targets,
    ),
    "topic:classification:2:accuracy+grade:regression:1:pearson": (
        multitask,
        {"task": "topic+grade", "data.source": "files", "train.task_shares": (0.25, 0.75)},
        "jsonl",
        write_topics,
    ),
    "masked_lm": (pretrain, {"mask.whole_words": True}, "txt", write_documents),
}


# Their slots and losses are much as those of others.
SLOW = ("question_answering", "multiple_choice", "multi_regression")


@pytest.mark.parametrize("kind", small.tiers(list(KINDS), *(k for k in KINDS if k not in SLOW), slow=SLOW))
def test_a_run_that_is_stopped_ends_with_the_same_bits(kind, tmp_path):
    config, options, suffix, write = KINDS[kind]
    made, rng = config.get_config(), np.random.default_rng(0)
    for name in ("train", "dev"):
        write(tmp_path / f"{name}.{suffix}", rng)
        options |= {f"data.files.{name}": str(tmp_path / f"{name}.{suffix}")}
    if "+" in kind:
        files = {name: options.pop(f"data.files.{name}") for name in ("train", "dev")}
        tables = tuple((task, name, path) for task in ("topic", "grade") for name, path in files.items())
        own = (("grade", "kind", "regression"), ("grade", "columns.label", "a"))
        options |= {"data.tables": tables, "data.each": own}
    options |= {
        "model.path": "", "model.scratch.vocab": squad_files.write_vocabulary(tmp_path / "vocab.txt"),
        "model.scratch.layers": 1, "model.scratch.width": 32, "model.scratch.heads": 2, "model.scratch.inner": 64,
        "model.max_length": 32, "train.epochs": 2, "train.batch_size": 16, "eval.every_epochs": 1, "mesh.data": 1,
        "optim.learning_rate": 1e-3, "cache.dir": str(tmp_path / "cache"), "output.export": False,
        "output.curve": False,
    }  # fmt: skip
    made.update_from_flattened_dict(options)
    experiment, compiled = prepare(settings.from_config(made)), {}
    assert experiment.problem.name == kind
    for name in ("whole", "stopped"):
        workdir.own(str(tmp_path / name))
    run(experiment, str(tmp_path / "whole"), compiled=compiled)
    with pytest.raises(Stopped):
        run(experiment, str(tmp_path / "stopped"), compiled=compiled, events=StopAfterEvaluation())
    assert not (tmp_path / "stopped" / "result.json").exists()
    run(experiment, str(tmp_path / "stopped"), compiled=compiled)
    found, expected = outcome(tmp_path / "stopped"), outcome(tmp_path / "whole")
    assert found == expected and len(expected["evaluations"]) == 2
    if kind != "entities":  # to save time
        assert len(checkpoints_of(tmp_path / "whole")) == 2
