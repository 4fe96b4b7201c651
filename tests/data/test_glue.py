"""Facts of the tasks, and what GLUE's server is handed."""

import numpy as np
import pytest
from scores import METRICS

from fjt.data import glue, sources


def test_all_eleven_tasks_have_facts():
    assert all(set(task.metrics) <= set(METRICS) for task in glue.TASKS.values())
    assert [task.name for task in glue.GLUE] == [
        "cola",
        "sst2",
        "mrpc",
        "stsb",
        "qqp",
        "mnli",
        "mnli_mismatched",
        "qnli",
        "rte",
        "wnli",
        "ax",
    ]
    named = {task.name: task.label_names for task in glue.GLUE}
    assert named["mnli"] == ("entailment", "neutral", "contradiction")
    assert named["rte"] == named["qnli"] == ("entailment", "not_entailment")
    assert named["wnli"] == ("not_entailment", "entailment")
    assert {"rte", "ag_news", "table", "sentiment"} <= set(sources.names())


SUBMISSIONS = {
    ("rte", "test"): ("RTE.tsv", [0, 1], ["entailment", "not_entailment"]),
    ("qnli", "test"): ("QNLI.tsv", [1, 0], ["not_entailment", "entailment"]),
    ("mnli", "test"): ("MNLI-m.tsv", [2, 1], ["contradiction", "neutral"]),
    ("mnli", "test_mismatched"): ("MNLI-mm.tsv", [0, 1], ["entailment", "neutral"]),
    ("mnli", "ax"): ("AX.tsv", [0, 1], ["entailment", "neutral"]),
    ("ax", "test"): ("AX.tsv", [0, 2], ["entailment", "contradiction"]),
    ("mnli_mismatched", "test"): ("MNLI-mm.tsv", [0, 1], ["entailment", "neutral"]),
    ("cola", "test"): ("CoLA.tsv", [0, 1], ["0", "1"]),
    ("sst2", "test"): ("SST-2.tsv", [0, 1], ["0", "1"]),
    ("mrpc", "test"): ("MRPC.tsv", [0, 1], ["0", "1"]),
    ("qqp", "test"): ("QQP.tsv", [0, 1], ["0", "1"]),
    ("wnli", "test"): ("WNLI.tsv", [0, 1], ["0", "1"]),
    ("stsb", "test"): ("STS-B.tsv", [5.2, -0.1], ["5.000", "0.000"]),
}


@pytest.mark.parametrize("name, split", SUBMISSIONS)
def test_submission(tmp_path, name, split):
    file, predictions, written = SUBMISSIONS[name, split]
    path = glue.write_submission(glue.TASKS[name], split, ("0", "1"), np.array(predictions), str(tmp_path / "out"))
    assert path == str(tmp_path / "out" / file)
    lines = (tmp_path / "out" / file).read_text().splitlines()
    assert lines == ["index\tprediction", *[f"{i}\t{value}" for i, value in enumerate(written)]]
    assert glue.write_submission(glue.TASKS[name], "dev", ("0",), np.array([0]), str(tmp_path)) is None
