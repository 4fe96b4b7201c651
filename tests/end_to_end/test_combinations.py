"""fjt.combine on two runs of one model: what is written is their mean, and can be used like a run."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import scipy.special
from process import run

from fjt.core.errors import UserError
from fjt.data.glue import Split
from fjt.experiment import combination, ensemble, labelled
from fjt.experiment.finished import load_run


@pytest.fixture(scope="module")
def pair(launch, tables, finished, tmp_path_factory):
    """The work directories of two seeds of a run."""
    folder = tmp_path_factory.mktemp("pair")
    for seed in (1, 2):
        run(launch, tables, finished[0] / "export", folder / str(seed), "lora", seed=seed)
    return [folder / name for name in "12"]


def weights(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "model.safetensors")


def test_the_mean_is_a_run_like_any_other(pair, launch, tmp_path):
    done = launch(*pair, "--how", "average", "--output", tmp_path / "soup", program="fjt.combine")
    assert done.code == 0 and "against the best part" in done.text, done.text
    found, parts = weights(tmp_path / "soup" / "model"), [weights(path / "export" / "merged") for path in pair]
    for name, leaf in found.items():
        np.testing.assert_allclose(leaf, (parts[0][name].astype(np.float64) + parts[1][name]) / 2, rtol=1e-6, atol=1e-9)
    record = json.loads((tmp_path / "soup" / "combination.json").read_text())
    result = json.loads((tmp_path / "soup" / "run" / "result.json").read_text())
    assert result["steps"] == 0 and record["score"] == result["metrics"][record["metric"]]
    assert [part["used"] for part in record["parts"]] == [True, True] and record["models_per_prediction"] == 1
    done = launch("--run", tmp_path / "soup" / "run", "--output", tmp_path / "page", program="fjt.evaluate")
    assert done.code == 0, done.text


@pytest.mark.slow
def test_a_greedy_soup_is_no_worse_than_its_best_part(pair, launch, tmp_path):
    done = launch(*pair, "--output", tmp_path / "soup", program="fjt.combine")
    record = json.loads((tmp_path / "soup" / "combination.json").read_text())
    assert done.code == 0 and record["score"] >= max(part["score"] for part in record["parts"]) - 1e-12, done.text


@pytest.fixture(scope="module")
def together(pair, launch, tmp_path_factory):
    """The folder of the pair's ensemble."""
    folder = tmp_path_factory.mktemp("together") / "ensemble"
    done = launch(*pair, "--how", "ensemble", "--output", folder, program="fjt.combine")
    assert done.code == 0, done.text
    return folder


def test_an_ensemble_predicts_the_mean_of_its_parts_in_one_pass(pair, together):
    """In one pass, and, where the models read texts of other lengths, one after another."""
    texts = ["a precious doctor", "near the end of it, nothing", "nothing"] * 3
    found, parts = load_run(together), [load_run(path) for path in pair]
    single = np.array([part.predict(texts)["probabilities"] for part in parts])
    expected, close = single.mean(axis=0), 1e-6
    assert np.abs(single[0] - single[1]).min() > 10 * close and np.ptp(expected[:3], axis=0).min() > 10 * close
    np.testing.assert_allclose(found.predict(texts)["probabilities"], expected, rtol=close)
    members = found._members
    shared, own, _ = members._placed
    assert members.together and "embeddings" in shared["encoder"] and "head" in own and "head" not in shared
    longer = dataclasses.replace(members.parts[1], options={**members.parts[1].options, "max_length": 40})
    apart = ensemble.Members((members.parts[0], longer), found.task)
    examples, logits = apart.predict(Split.unlabelled(map(str, range(len(texts))), texts))
    assert not apart.together and len(examples) == len(texts)
    np.testing.assert_allclose(scipy.special.softmax(logits, axis=1), expected, rtol=close)


def test_an_ensemble_is_read_like_a_run_from_where_its_parts_are(pair, together, tmp_path):
    record = json.loads((together / "combination.json").read_text())
    rows, found = labelled.stored(load_run(together), "dev"), load_run(together)
    assert found.problem.score(rows.scores, rows.label, rows.task)[record["metric"]] == record["score"]
    assert found.metrics[record["metric"]] == record["score"] and found.records == {"train": [], "eval": []}
    with pytest.raises(UserError, match="ensemble of 2 models"):
        found.export(tmp_path / "model")
    with pytest.raises(UserError, match=r"is an ensemble\. Give the runs"):
        combination.check([found, load_run(pair[0])])
    shutil.copytree(together, tmp_path / "deeper" / "moved")
    with pytest.raises(UserError, match=r"is not a run.* It is a part of the ensemble in"):
        load_run(tmp_path / "deeper" / "moved")


def test_an_ensemble_needs_no_models_and_mistakes_leave_no_folder(pair, together, launch, tmp_path):
    record = json.loads((together / "combination.json").read_text())
    assert record["models_per_prediction"] == 2
    done = launch(pair[0], "--output", tmp_path / "soup", program="fjt.combine")
    assert done.code == 2 and "give two or more" in done.text and not (tmp_path / "soup").exists(), done.text
    done = launch(*pair, "--output", together, program="fjt.combine")
    assert done.code == 2 and "already exists" in done.text
