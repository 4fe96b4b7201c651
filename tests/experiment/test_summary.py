"""What a run says of its costs before it begins."""

import jax
import numpy as np
import pytest
import small

from fjt.core import console, seeds, tree
from fjt.core.options import DataConfig, ExperimentConfig, ModelConfig, Settings
from fjt.data import batches, packing
from fjt.data.glue import Split, Task
from fjt.experiment import summary
from fjt.experiment.prepared import Experiment, Stage
from fjt.models.encoder import Model
from fjt.tasks.kinds import find_problem
from fjt.tuning import partition


def experiment_of(tune, count=16, length=24):
    """What summary reads of an Experiment: `count` texts of one length, each in a row of its own, one batch."""
    model, methods = Model(small.CONFIG, 2), partition.find_methods(tune)
    base = jax.jit(model.init)(seeds.make_key(0, "init"))
    added = partition.add_leaves(methods, seeds.make_key(0, "init"), base, small.CONFIG)
    params = jax.tree.map(np.asarray, base | ({"adapters": added} if added else {}))
    texts = batches.Examples(
        np.full(count * length, 7, np.int32),
        np.zeros(count * length, np.int8),
        np.arange(count + 1) * length,
        np.zeros(count, np.int32),
        0,
    )
    examples = batches.prepend(texts, partition.prompt_length(methods))
    plan = packing.plan(
        batches.lengths_of(examples, np.arange(count)[None]), one_a_row=True, most_shapes=1, width=small.CONFIG.width
    )
    return small.double(
        Experiment,
        settings=small.double(Settings, experiment=small.double(ExperimentConfig, tune=tune)),
        model=model,
        params=params,
        examples={"train": examples},
        plan=plan,
        trainable=partition.trainable_names(params, small.CONFIG, tune, ()),
        stages=(small.double(Stage, model=model),),
    )


@pytest.mark.parametrize("tune", [small.tune("lora"), small.tune("prompt", prompt_length=8)], ids=["lora", "prompt"])
def test_full_tuning_beside_a_method_has_no_prompt(tune):
    """The operations that full tuning of the same texts takes, not of texts with a prompt before them."""
    made, full = experiment_of(tune), experiment_of(small.tune("full"))
    base = {name for name in tree.flatten(made.params) if not name.startswith("adapters/")}
    assert base == full.trainable
    np.testing.assert_allclose(summary._full_flops(made, base), summary.step_flops(full), rtol=1e-6)


def test_scores_with_names_are_not_classes():
    """Their range is shown: no label of a row is one of the names."""
    label = np.array([[0.5, 2.0], [np.nan, -1.0]], np.float32)
    task = small.double(Task, kind="multi_regression", label_names=("a", "b"))
    split, problem = small.double(Split, label=label), find_problem("multi_regression")
    made = small.double(Experiment, task=task, splits={"train": split}, problem=problem)
    assert summary._classes(made) == "scores: -1 to 2"


def row(label, support, predicted, f1=0.5):
    return {"label": label, "precision": 0.25, "recall": 0.75, "f1": f1, "support": support, "predicted": predicted}


def test_each_class_has_its_line_and_those_never_predicted_a_warning(capsys):
    rows = [row("sport", 7, 9), row("rare", 3, 0, 0.0), row("absent", 0, 0, 0.0)]
    summary.show_classes({"split": "dev", "per_class": rows})
    printed = capsys.readouterr().out
    assert [line.split() for line in printed.splitlines()[2:5]] == [
        ["sport", "0.2500", "0.7500", "0.5000", "7", "9"],
        ["rare", "0.2500", "0.7500", "0.0000", "3", "0"],
        ["absent", "0.2500", "0.7500", "0.0000", "0", "0"],
    ]
    assert "warning: never predicted on dev: rare (3 examples)\n" in printed
    summary.show_classes({"split": "dev", "per_class": rows[:1]})
    assert "warning" not in capsys.readouterr().out


def test_of_many_classes_the_worst_stand_first(capsys):
    rows = [row(f"c{i:02}", 5, 5, f1=1 - i / 100) for i in range(30)]
    summary.show_classes({"split": "dev", "per_class": rows})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Classes on dev: 20 of 30, lowest f1 first"
    assert [line.split()[0] for line in lines[2:]] == [f"c{i:02}" for i in range(29, 9, -1)]
    summary.show_classes({"split": "dev", "per_class": []})  # scores
    summary.show_classes({"split": "dev"})  # of an earlier version
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("selected", "best", "kept"),
    [(9, 3, "the last one is kept: --config.train.select=best keeps the best"), (3, 3, "the best one is kept")],
)
def test_the_last_step_is_compared_with_the_best(capsys, selected, best, kept):
    result = {"selected_step": selected, "best": {"step": best, "metric": "mse", "metrics": {"mse": 0.25}}}
    evaluations = [{"step": 3, "mse": 0.25}, {"step": 6, "mse": 0.75}, {"step": 9, "mse": 0.5}]
    summary.show_choice(result, evaluations)
    assert capsys.readouterr().out == (
        f"  dev mse 0.2500 at step 3, the best, and 0.5000 at step 9, the last; {kept}\n"
    )


@pytest.mark.parametrize(
    "best", [{"step": 9, "metric": "f1", "metrics": {"f1": 1.0}}, {"step": 9, "metrics": {}}, {"step": None}]
)
def test_where_the_last_step_is_the_best_or_none_is_known_nothing_is_said(capsys, best):
    summary.show_choice({"selected_step": 9, "best": best}, [{"step": 9, "f1": 1.0}])
    summary.show_choice({"selected_step": 9, "best": best}, [])
    assert not capsys.readouterr().out


def first_lines(kind, label, names, monkeypatch):
    """The lines about the data of a run with these training labels."""
    task = Task("table", kind, names, ("accuracy",))
    label = np.array(label)
    split = Split(("",) * len(label), ("",) * len(label), None, label)
    experiment = small.double(ExperimentConfig, model=small.double(ModelConfig, path=""), data=DataConfig())
    made = small.double(
        Experiment, task=task, problem=find_problem(kind), splits={"train": split, "dev": split},
        model=Model(small.CONFIG, 2), settings=small.double(Settings, experiment=experiment),
    )  # fmt: skip
    lines = []
    monkeypatch.setattr(console, "say", lines.append)
    summary.show_data(made)
    return lines


def test_a_run_begins_with_its_classes_and_their_numbers_of_rows(monkeypatch):
    first, second = first_lines("classification", np.int32([0, 1, 1, 1]), ("no", "[/red]"), monkeypatch)
    assert first.startswith("table: 4 train, 4 dev") and second == "  classes: no 1, [/red] 3"
    assert first_lines("multi_label", np.int8([[1, 1], [0, 1]]), ("a", "b"), monkeypatch)[1] == "  classes: a 1, b 2"
    assert first_lines("regression", np.float32([0.5, -1, 4]), (), monkeypatch)[1] == "  scores: -1 to 4"


def test_of_ten_thousand_classes_a_few_are_listed(monkeypatch):
    names = tuple(f"class {i}" for i in range(10_000))
    _, line = first_lines("classification", np.int32([*range(9_999), 0, 0]), names, monkeypatch)
    assert line.startswith("  10,000 classes of 0 to 3 training rows: class 0 3, class 1 1, ")
    assert line.endswith(" and 9,980 more") and len(line) < 500
