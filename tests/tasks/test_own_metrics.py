"""Metrics of one's own: whatever is wrong with one is said by its name before a run trains."""

import dataclasses
import hashlib
import statistics
import sys

import numpy as np
import pytest

from fjt.core.errors import UserError
from fjt.data.glue import Task
from fjt.tasks import own_metrics
from fjt.tasks.kinds import PROBLEMS, find_problem, lower_is_better

TASK = Task("table", "classification", ("a", "b", "c"), ("accuracy", "macro_f1"))
SOURCE = """
import dataclasses
import numpy as np

@dataclasses.dataclass
class Price:
    of_an_error: "float" = 2.0

def saved(predictions, labels):
    return -Price().of_an_error * np.sum(predictions != labels)

def one(predictions): return 0.0
def three(predictions, labels, weights): return 0.0
def kwargs(*, predictions, labels): return 0.0
def undefined(predictions, labels): return np.float32("nan")
def endless(predictions, labels): return -np.inf
def each(predictions, labels): return predictions == labels
def text(predictions, labels): return "0.5"
def nothing(predictions, labels): pass
def yes(predictions, labels): return True
def imaginary(predictions, labels): return 1j
def masked(predictions, labels): return np.ma.mean(np.ma.array(labels, mask=True))
def quits(predictions, labels): raise SystemExit(3)
def high(predictions, labels): return max(predictions[predictions > 0])
def fails(predictions, labels): return labels[10_000]
def spoils(predictions, labels):
    predictions[:] = labels[:] = 0
    return 1
names = ("saved",)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory, with costs.py in it."""
    (tmp_path / "costs.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(*names):
    return own_metrics.add(TASK, names)


def test_it_is_a_metric_of_the_task_like_the_others(here):
    task = load("costs:saved")
    logits, label = np.float32([[3, 1, 2], [0, 5, 1], [1, 2, 9], [4, 0, 0]]), np.int32([0, 2, 2, -1])
    scores = find_problem("classification").score(logits, label, task)
    assert list(scores) == ["accuracy", "macro_f1", "costs:saved"]
    assert scores["costs:saved"] == -2.0 and scores["accuracy"] == pytest.approx(2 / 3)
    assert type(scores["costs:saved"]) is float and not lower_is_better("costs:saved")


@pytest.mark.parametrize(
    ("kind", "logits", "label"),
    [
        ("classification", [[1, 0], [0, 1]], np.int32([0, 1])),
        ("regression", [[0.1], [0.7]], np.float32([0.5, 1.0])),
        ("multi_label", [[1, -1], [1, 1]], np.int8([[1, 0], [0, 1]])),
    ],
)
def test_it_gets_decoded_values_and_labels_of_every_kind(here, kind, logits, label):
    (here / "seen.py").write_text(
        "def shapes(p, y):\n    return 1.0 if p.shape == y.shape else 0.0\n"
        "def kinds(p, y):\n    return float(p.dtype.kind + y.dtype.kind in ('ff', 'ii'))\n"
    )
    task = dataclasses.replace(own_metrics.add(TASK, ("seen:shapes", "seen:kinds")), kind=kind, label_names=("a", "b"))
    scores = find_problem(kind).score(np.float32(logits), label, task, ("seen:shapes", "seen:kinds"))
    assert set(scores.values()) == {1.0} and set(PROBLEMS) >= {kind}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("saved", r"'saved' is not of the form module:function"),
        ("costs:", r"is not of the form module:function"),
        (":saved", r"is not of the form module:function"),
        ("../costs:saved", r"is not of the form module:function"),
        (7, r"7 is not of the form module:function"),
        ("cost:saved", r"no module cost in "),
        ("there.inner:saved", r"no module there.inner in "),
        ("costs:save", r"costs.py has no function 'save'. Did you mean saved\?"),
        ("costs:names", r"'costs:names' is of type tuple"),
        ("costs:one", r"takes \(predictions\). It should take two arguments"),
        ("costs:three", r"takes \(predictions, labels, weights\). It should take two"),
        ("costs:kwargs", r"It should take two arguments"),
        ("sys:exit", r"sys has no source file"),
        ("broken:saved", r"importing .*broken.py failed: SyntaxError: .*line 1"),
        ("stops:saved", r"importing .*stops.py failed: SystemExit: 3"),
        ("raises:saved", r"importing .*raises.py failed: ZeroDivisionError: .* \(line 2 of .*raises.py\)"),
        ("lacks:saved", r"importing .*lacks.py failed: ModuleNotFoundError: .*no_such_library"),
    ],
)
def test_what_cannot_be_imported_is_named(here, name, message):
    (here / "broken.py").write_text("def saved(:\n")
    (here / "stops.py").write_text("raise SystemExit(3)\n")
    (here / "raises.py").write_text("\n1 / 0\n")
    (here / "lacks.py").write_text("import no_such_library\n")
    with pytest.raises(UserError, match=message):
        load(name)
    assert not {"costs", "broken", "raises"} & set(sys.modules)


def test_a_metric_is_given_once(here):
    with pytest.raises(UserError, match=r"should hold 'costs:saved' once"):
        load("costs:saved", "costs:one", "costs:saved")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("undefined", "returned nan for 2 predictions"),
        ("endless", "returned -inf"),
        ("each", r"returned \[False, True\]"),
        ("text", "returned '0.5'"),
        ("nothing", "returned None"),
        ("yes", "returned True"),
        ("imaginary", "returned 1j"),
        ("masked", "returned nan"),
        ("quits", "costs:quits failed: SystemExit: 3"),
        ("fails", r"costs:fails failed: IndexError: .*\(line \d+ of .*costs.py\)"),
    ],
)
def test_what_is_not_a_finite_number_is_named(here, function, message):
    (metric,) = load(f"costs:{function}").own_metrics
    with pytest.raises(UserError, match=message):
        metric(np.array([0, 1]), np.array([1, 1]))


def test_it_cannot_change_the_arrays(here):
    (metric,) = load("costs:spoils").own_metrics
    predicted, label = np.array([0, 1]), np.array([1, 1])
    assert metric(predicted, label) == 1.0
    assert predicted.tolist() == [0, 1] and label.tolist() == [1, 1]


def test_the_contents_are_those_of_the_code_that_runs(here):
    """A changed file of the same size within the same second, and a module of the same name that Python knows."""
    place, path = here / "statistics.py", list(sys.path)
    for value in ("1.5", "2.5"):
        place.write_text(f"def score(p, y): return {value}\n")
        task = load("statistics:score")
        assert task.own_metrics[0](np.array([0]), np.array([0])) == float(value)
        assert own_metrics.contents(task) == {"metric statistics:score": hashlib.sha256(place.read_bytes()).hexdigest()}
    assert statistics.fmean([1, 2]) == 1.5 and sys.path == path


def test_a_module_of_a_package_may_import_its_neighbours(here):
    (here / "mine").mkdir()
    (here / "mine" / "__init__.py").write_text("")
    (here / "mine" / "half.py").write_text("HALF = 0.5\n")
    (here / "mine" / "scores.py").write_text("from .half import HALF\ndef half(p, y): return HALF\n")
    assert load("mine.scores:half").own_metrics[0](np.array([0]), np.array([0])) == 0.5


def test_its_measures_are_of_the_rows_and_undefined_where_it_fails(here):
    metrics = load("costs:saved", "costs:high").own_metrics
    predicted, label = np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0])
    found = own_metrics.measures(metrics, predicted, label)
    assert found.values() == {"costs:saved": -2.0, "costs:high": 1.0}
    some = found.score(np.array([[2, 0, 1, 1], [0, 0, 0, 4], [4, 0, 0, 0]]))
    assert some["costs:saved"].tolist() == [-2.0, -8.0, 0.0]
    assert some["costs:high"][:2].tolist() == [1.0, 1.0] and np.isnan(some["costs:high"][2])
    with pytest.raises(UserError, match="costs:fails failed"):
        own_metrics.measures(load("costs:fails").own_metrics, predicted, label)
