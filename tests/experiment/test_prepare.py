"""What a run is asked for is checked before anything is compiled: the metrics, and the one that chooses its step."""

import dataclasses

import numpy as np
import pytest
from small import CONFIG, double

from fjt.core.errors import UserError
from fjt.core.options import DataConfig, EvalConfig, ExperimentConfig, MaskConfig, ModelConfig, TrainConfig, TuneConfig
from fjt.data.glue import Split, Task
from fjt.experiment import prepare
from fjt.experiment.execute import course
from fjt.experiment.inputs import Inputs
from fjt.experiment.prepared import Experiment, Stage
from fjt.experiment.recipes import recipe_epochs
from fjt.tasks.kinds import find_problem

TASK = Task("table", "regression", (), ("pearson", "spearman", "mse"))
DEV = Split(("0", "1", "2"), ("a", "b", "c"), None, np.float32([0.5, 1.5, np.nan]))


def add_metrics(select="last", *metrics, dev=DEV, **others):
    experiment = ExperimentConfig(train=TrainConfig(select=select, patience=2), eval=EvalConfig(metrics=metrics))
    return experiment, complete(experiment, {"train": DEV, "dev": dev} | others)


def complete(experiment, splits):
    task = prepare._complete(experiment, TASK)
    prepare._try_metrics(experiment, task, splits)
    return task


@pytest.mark.parametrize(
    ("select", "metric", "lower"),
    [
        ("last", "pearson", False),
        ("best", "pearson", False),
        ("spearman", "spearman", False),
        ("mse", "mse", True),
        ("loss", "loss", True),
        ("mine:gain", "mine:gain", False),
    ],
)
def test_any_metric_chooses_the_best_step(tmp_path, monkeypatch, select, metric, lower):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def gain(predictions, labels): return 0.5\n")
    options, task = add_metrics(select, "mine:gain")
    settings = double(prepare.Settings, experiment=options)
    found = course(double(Experiment, settings=settings, task=task, evaluations=(3,)), 3, None)
    assert (found.metric, found.lower, found.patience) == (metric, lower, 2)


def test_runs_of_a_study_that_share_their_data_decode_each_in_its_own_way():
    """Inputs are read once for runs whose options of data are equal, so that their task knows of no threshold."""

    def decoded(kind, *options):
        task = Task("table", kind, ("a", "b"), ("micro_f1",))
        return [prepare._complete(ExperimentConfig(eval=EvalConfig(**given)), task) for given in options]

    sets = decoded("multi_label", {"threshold": 0.3}, {"threshold": 0.7}, {})
    assert [task.threshold for task in sets] == [0.3, 0.7, 0.5]
    assert [task.constrained for task in decoded("entities", {"constrained": True}, {})] == [True, False]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("classification", {"threshold": 0.3}),
        ("regression", {"constrained": True}),
        ("tagging", {"constrained": True}),
        ("entities", {"threshold": 0.3}),
        ("multi_label", {"null_threshold": 0.0}),
        ("classification", {"answer_length": 30}),
    ],
)
def test_a_way_to_decode_that_the_problem_has_not_is_refused(kind, options):
    (name,) = options
    with pytest.raises(UserError, match=rf"config.eval.{name}=.*table \({kind}\) has no {name}"):
        prepare._complete(ExperimentConfig(eval=EvalConfig(**options)), Task("table", kind, ("a", "b"), ("accuracy",)))


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("spearmen", r"config.train.select='spearmen' is unknown. Did you mean spearman"),
        ("accuracy", r"'accuracy' is unknown. "),
        ("", r"'' is unknown. Valid: best, last, loss, mse, pearson, spearman"),
        ("mine:gain", r"is unknown"),
    ],
)
def test_another_name_is_refused(select, message):
    with pytest.raises(UserError, match=message):
        add_metrics(select)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("np.ptp(p) and 1 / np.ptp(p) or np.nan", r"mine:score returned nan for 2 predictions"),  # of a constant
        ("1 / (p - y).sum()", r"mine:score returned (inf|-inf)"),  # of the labels
        ("p[2]", r"mine:score failed: IndexError"),
    ],
)
def test_a_metric_is_called_before_a_run_trains(tmp_path, monkeypatch, body, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(f"import numpy as np\nnp.seterr(all='ignore')\ndef score(p, y): return {body}\n")
    with np.errstate(all="ignore"), pytest.raises(UserError, match=message):
        add_metrics("last", "mine:score")
    without = dataclasses.replace(DEV, label=np.float32([np.nan] * 3))
    assert add_metrics("last", "mine:score", dev=without)[1].metrics[-1] == "mine:score"


def test_stages_that_end_by_their_scores_are_evaluated_at_their_ends():
    def evaluations(patience, stage_patience=1, labelled=True):
        experiment = ExperimentConfig(
            tune=TuneConfig(stage_patience=stage_patience),
            train=TrainConfig(steps=10, patience=patience),
            eval=EvalConfig(every_steps=4),
        )
        return prepare._evaluations(experiment, 32, [double(Stage, last=last) for last in (3, 8, 10)], labelled)

    assert evaluations(0) == (3, 4, 8, 10) and evaluations(1, None, False) == (4, 8, 10)
    with pytest.raises(UserError, match=r"stage_patience=1 counts scores on dev, which has no labels"):
        evaluations(0, labelled=False)
    with pytest.raises(UserError, match=r"leave out config.train.patience=2"):
        evaluations(2)


def test_masks_are_for_models_of_them():
    with pytest.raises(UserError, match=r"config.mask.rate=0.3: regression masks no tokens"):
        prepare._complete(ExperimentConfig(mask=MaskConfig(rate=0.3)), TASK)


def test_a_constant_is_scored_as_a_run_would_be():
    problem, label = find_problem("regression"), np.float32([0.0, 1.0])
    assert problem.compare(problem.constant(label), label, TASK) == {"pearson": 0.0, "spearman": 0.0, "mse": 0.25}


def test_a_metric_is_tried_on_every_split_that_is_evaluated(tmp_path, monkeypatch):
    """One that fails for a test file must not do so after the training; labels of train are not evaluated."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spread.py").write_text("def share(p, y): return 1.0 if (y == y[0]).all() else 1 / (len(y) - 2)\n")
    one = Split(("0",), ("a",), None, np.float32([2.0]))
    add_metrics("last", "spread:share", dev=one, test=one, odd=dataclasses.replace(one, label=np.float32([np.nan])))
    with pytest.raises(UserError, match=r"spread:share failed: ZeroDivisionError.* the labels of the test split"):
        add_metrics("last", "spread:share", dev=one, test=DEV)
    unread = ExperimentConfig(eval=EvalConfig(metrics=("spread:share",), test=False))
    complete(unread, {"train": DEV, "dev": one, "test": DEV})


class Fold(Inputs):
    """Inputs of a fold of a table of 1,316 rows, 1,052 of which train."""

    base = None, CONFIG, {}, None

    def __init__(self):
        pass

    def size_of(self, split):
        return {"train": 1052, "dev": 264}[split]


@pytest.mark.parametrize(("folds", "rows"), [(5, 1316), (None, 1052)])
def test_all_folds_take_the_recipe_of_the_whole_table(folds, rows):
    """Their numbers of rows differ by one, and may be on both sides of a step of the recipe."""
    given = prepare.Settings(experiment=ExperimentConfig(data=DataConfig(folds=folds), model=ModelConfig(path="")))
    found = prepare.resolve(given, Fold())[0].experiment.train.epochs
    assert found == recipe_epochs("full", rows) and recipe_epochs("full", 1316) != recipe_epochs("full", 1052)
