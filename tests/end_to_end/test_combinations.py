"""fjt.combine on two runs of one model: what is written is their mean, and can be used like a run."""

import json

import numpy as np
import pytest
from process import run


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


def test_an_ensemble_needs_no_models_and_mistakes_leave_no_folder(pair, launch, tmp_path):
    done = launch(*pair, "--how", "ensemble", "--output", tmp_path / "ensemble", program="fjt.combine")
    record = json.loads((tmp_path / "ensemble" / "combination.json").read_text())
    assert done.code == 0 and record["models_per_prediction"] == 2, done.text
    done = launch(pair[0], "--output", tmp_path / "soup", program="fjt.combine")
    assert done.code == 2 and "give two or more" in done.text and not (tmp_path / "soup").exists(), done.text
    done = launch(*pair, "--output", tmp_path / "ensemble", program="fjt.combine")
    assert done.code == 2 and "already exists" in done.text
