"""A model card: its metadata as the Hugging Face hub reads them, and the interval next to a score."""

import numpy as np
import pytest
from huggingface_hub import ModelCard

from fjt.data.glue import TASKS
from fjt.interop import card
from fjt.tasks.classification import CLASSIFICATION


def test_interval_of_an_accuracy_is_about_the_binomial_one():
    """300 of 400 right: 0.75 +- 1.96 sqrt(0.75 * 0.25 / 400) = 0.708 to 0.792."""
    label = np.zeros(400, np.int32)
    logits = np.where(np.arange(400)[:, None] < 300, [[1.0, 0.0]], [[0.0, 1.0]]).astype(np.float32)
    low, high = card.interval(CLASSIFICATION, TASKS["rte"], "accuracy", logits, label)
    assert abs(low - 0.708) < 0.01 and abs(high - 0.792) < 0.01
    assert (low, high) == card.interval(CLASSIFICATION, TASKS["rte"], "accuracy", logits, label)


def test_unlabelled_rows_do_not_count():
    label = np.array([0, 1, -1, -1, 0, 1], np.int32)
    logits = np.float32(np.eye(2)[[0, 1, 1, 0, 0, 1]])
    assert card.interval(CLASSIFICATION, TASKS["rte"], "accuracy", logits, label) == (1.0, 1.0)


@pytest.mark.parametrize("base", ["models: mine #2", ""])
def test_the_hub_reads_the_card(tmp_path, base):
    """Whatever a folder is called: the name of a base model may have characters that mean something in YAML."""
    facts = {"task": TASKS["rte"], "base": base, "revision": "", "methods": {"lora": {"rank": 8}}}
    card.write(
        tmp_path, "peft", **facts, recipe={}, scores={"accuracy": (0.75, 0.7, 0.8, 5)}, examples={"train": 9, "dev": 5}
    )
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.library_name) == (base or None, "peft")
    assert data.tags == ["fjt", "rte", "lora"]
    (result,) = data.eval_results
    assert (result.dataset_name, result.dataset_split, result.metric_type, result.metric_value) == (
        "rte",
        "dev",
        "accuracy",
        0.75,
    )
    card.convert(tmp_path / "README.md", tmp_path / "other.md", "adapterhub")
    assert ModelCard.load(tmp_path / "other.md").data.library_name == "adapters"


def test_a_card_without_scores(tmp_path):
    facts = {"task": TASKS["rte"], "base": "", "revision": "", "methods": {"full": {}}}
    card.write(tmp_path, "hf", **facts, recipe={}, scores={}, examples={"train": 9})
    assert not ModelCard.load(tmp_path / "README.md").data.eval_results
