"""Means of weights and of predictions, and which runs a greedy soup takes."""

import dataclasses

import numpy as np
import pytest
import small
from small import double
from transformers import BertTokenizer

from fjt.core.errors import UserError
from fjt.data import synthetic
from fjt.data.glue import TASKS
from fjt.experiment import combination
from fjt.experiment.finished import Run
from fjt.experiment.labelled import Labelled
from fjt.experiment.predictor import Predictor
from fjt.reports import combination_report
from fjt.tasks.classification import CLASSIFICATION
from fjt.tasks.kinds import find_problem

MODEL = small.Model(small.CONFIG, 2)
TOKENIZER = BertTokenizer(vocab=synthetic.VOCAB)


def own(value, shape=(2, 2), tokenizer=TOKENIZER, max_length=16):
    options = {"max_length": max_length, "doc_stride": None, "matmul_precision": None}
    return Predictor(
        MODEL, {"head": {"kernel": np.full(shape, value, np.float32)}}, tokenizer, {}, options, CLASSIFICATION
    )


def test_the_mean_of_weights():
    made = combination.average([own(1.0), own(2.0), own(4.5)])
    np.testing.assert_array_equal(made.params["head"]["kernel"], np.full((2, 2), 2.5, np.float32), strict=True)
    third = own(0.1)
    same = combination.average([third, third, third]).params["head"]["kernel"]
    np.testing.assert_array_equal(same, third.params["head"]["kernel"])  # to the bit
    with pytest.raises(UserError, match="different shapes"):
        combination.average([own(1.0), own(1.0, (2, 3))])
    cased = BertTokenizer(vocab=synthetic.VOCAB, do_lower_case=False)
    for other in (own(1.0, max_length=24), own(1.0, tokenizer=cased)):
        with pytest.raises(UserError, match="read texts in different ways"):
            combination.average([own(1.0), other])


def rows(task, label, scores, names=None):
    task = TASKS[task] if names is None else dataclasses.replace(TASKS[task], label_names=names)
    ids = tuple(map(str, range(len(label))))
    return Labelled("dev", task, find_problem(task.kind), ids, None, np.array(label), np.array(scores, np.float32))


def test_the_mean_of_probabilities():
    """Probabilities of the second class 0.9 and 0.2 have the mean 0.55, and logits' mean would be on the other side."""
    first, second = ([[0.0, np.log(p / (1 - p))]] for p in (0.9, 0.2))
    made = combination.ensemble([rows("cola", [1], first), rows("cola", [1], second)])
    found = made.problem.decode(made.scores, made.task)
    np.testing.assert_allclose(found.probabilities, [[0.45, 0.55]], rtol=1e-6)
    certain = combination.ensemble([rows("cola", [1], [[0.0, 1e4]])] * 2)
    assert np.isfinite(certain.scores).all()
    scores = combination.ensemble([rows("stsb", [1.0], [[1.0]]), rows("stsb", [1.0], [[4.0]])])
    np.testing.assert_allclose(scores.scores, [[2.5]])
    other = dataclasses.replace(rows("cola", [1], first), id=("x",))
    for changed in (other, rows("cola", [0], first)):
        with pytest.raises(UserError, match="different dev rows"):
            combination.check_rows([rows("cola", [1], first), changed])
    combination.check_rows([rows("cola", [1], first), rows("cola", [1], second)])


def value(made):
    return made.params["head"]["kernel"][0, 0]


def test_a_greedy_soup_starts_from_the_best_part_and_keeps_what_does_not_hurt():
    """Means of part numbers 1 (best) and 2, then with 0: the made-up score likes means of at least 1.25."""
    models, ranks = [own(0.0), own(1.5), own(2.0)], [0.1, 0.5, 0.3]
    chosen, made = combination._greedy(models, ranks, lambda made: float(value(made) >= 1.25))
    assert chosen == [1, 2] and value(made) == 1.75
    chosen, _ = combination._greedy(models, [-0.1, -0.5, -0.3], lambda made: 0.0)
    assert chosen == [0, 2, 1]  # none hurts


def test_a_part_that_has_collapsed_is_not_the_best(tmp_path):
    """Ten rows, of which one part predicts all alike, with an accuracy that the other one does not reach."""
    label = [0] * 7 + [1] * 3
    alike, mixed = (np.eye(2)[x].astype(np.float32) for x in ([0] * 10, [1, 1, 1, 0, 0, 0, 1, 1, 1, 1]))
    alike, mixed = (rows("rte", label, x) for x in (alike, mixed))
    assert combination.score(alike, "accuracy") == 0.7 > combination.score(mixed, "accuracy") == 0.6
    assert combination.rank(alike, "accuracy") == -np.inf < combination.rank(mixed, "accuracy") == 0.6
    parts = [combination.Part(name, one, pytest.fail) for name, one in (("alike", alike), ("mixed", mixed))]
    runs = [
        double(Run, path=name, result={"selection": "accuracy", "train_seconds": 1.0, "total_params": 5})
        for name in "ab"
    ]
    found = combination_report.record(runs, parts, alike, "greedy", [1, 0])
    assert found["best_part"] == 1 and [part["collapsed"] for part in found["parts"]] == [True, False]
    assert found["collapsed"] and not found["below_its_parts"] and found["difference"]["value"] == pytest.approx(0.1)
    combination_report.write(found, str(tmp_path / "made"))
    page = (tmp_path / "made" / combination_report.PAGE).read_text()
    assert "0.7000 collapsed" in page and "the combination has collapsed" in page and "2.0 s" in page


def test_runs_that_cannot_be_combined():
    first, second = (Run(name, {}, {}, TASKS["cola"], False) for name in ("run-0", "run-1"))
    with pytest.raises(UserError, match="give two or more"):
        combination.check([first])
    with pytest.raises(UserError, match="give two or more"):
        combination.check([first, first])
    with pytest.raises(UserError, match="different task: sst2 and cola"):
        combination.check([first, dataclasses.replace(second, task=TASKS["sst2"])])
    combination.check([first, second])
