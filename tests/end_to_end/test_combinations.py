"""fjt.combine on two runs, and on the checkpoints of one: what is written is their mean, and can be used like a run."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import scipy.special
from process import keeps_its_model, run

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.core.options import TuneConfig
from fjt.data.glue import Split
from fjt.experiment import combination, ensemble, kept_checkpoints, labelled, predictor
from fjt.experiment.again import prepare_again
from fjt.experiment.finished import load_run, read_run
from fjt.experiment.inputs import Inputs
from fjt.models.torch_names import to_torch, torch_name


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


def trained(workdir, step):
    """{name: array} of what a checkpoint has of the parameters, as Orbax alone reads it."""
    folder = workdir / "checkpoints" / str(step) / "state"
    with ocp.PyTreeCheckpointer() as reader:
        leaves = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), reader.metadata(folder).item_metadata)
        state = reader.restore(folder, args=ocp.args.PyTreeRestore(restore_args=leaves))
    return tree.flatten(state["trainable"])


def test_the_mean_of_the_checkpoints_of_one_run(finished, launch, tmp_path):
    workdir, _ = finished
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    done = launch(workdir, "--checkpoints", "--how", "average", "--output", tmp_path / "soup", program="fjt.combine")
    assert done.code == 0 and "step=12 " in done.text and "against the best part" in done.text, done.text
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())
    found, parts = weights(tmp_path / "soup" / "model"), [trained(workdir, step) for step in steps]
    assert len(steps) > 1 and len(found) == len(parts[0])
    for name in parts[0]:
        mean = np.mean([part[name].astype(np.float64) for part in parts], axis=0)
        expected = to_torch(name, mean.astype(np.float32))
        np.testing.assert_allclose(found[torch_name(name, "bert")], expected, rtol=1e-6, atol=1e-9)
    scored, result = (json.loads((one / "result.json").read_text()) for one in (tmp_path / "soup" / "run", workdir))
    record = json.loads((tmp_path / "soup" / "combination.json").read_text())
    assert [part["name"] for part in record["parts"]] == [f"step={step}" for step in steps]
    assert record["train_seconds"] == result["train_seconds"] and record["models_per_prediction"] == 1
    assert scored["metrics"][record["metric"]] == record["score"] and record["of"] == "checkpoints"


def test_a_greedy_soup_of_checkpoints_is_no_worse_than_the_best_of_them(pair, tmp_path):
    """Of a method that is merged; the first part, the checkpoint with the best score on dev, is always in it."""
    assert list(keeps_its_model(pair[0]))[-2:] == [8, 12]
    found, parts = read_run(pair[0]), kept_checkpoints.of_run(read_run(pair[0]))
    settings, chosen = combination.soup(found, parts, True, str(tmp_path / "soup" / "model"))
    metric = found.result["selection"]
    scores = [combination.score(part.rows, metric) for part in parts]
    assert scores[chosen[0]] == max(scores) and settings.experiment.train.steps == 0
    given = combination.settings_of(found)
    dev = combination.Dev(found, given, Inputs(given).data[1]["dev"])
    soup = predictor.read(str(tmp_path / "soup" / "model"), found.task, found.config["model"])
    assert combination.score(dev.predicted(soup), metric) >= max(scores)


def test_checkpoints_that_cannot_be_combined(finished, pair, together, launch, tmp_path):
    for arguments, told in (
        ([*pair, "--how", "average"], "--checkpoints combines those of one RUN"),
        ([pair[0], "--how", "ensemble"], "--checkpoints combines by --how=average or greedy"),
    ):
        done = launch(*arguments, "--checkpoints", "--output", tmp_path / "soup", program="fjt.combine")
        assert done.code == 2 and told in done.text, done.text
    with pytest.raises(UserError, match="is an ensemble, which has no checkpoints"):
        kept_checkpoints.of_run(read_run(together))
    one = tmp_path / "one"
    shutil.copytree(pair[0], one)
    for step in sorted((one / "checkpoints").iterdir())[1:]:
        shutil.rmtree(step)
    with pytest.raises(UserError, match=r"has 1 checkpoints.*config\.checkpoint\.keep=5"):
        kept_checkpoints.of_run(read_run(one))
    shutil.rmtree(one / "checkpoints")
    with pytest.raises(UserError, match=r"has 0 checkpoints.*config\.output\.checkpoints=True"):
        kept_checkpoints.of_run(read_run(one))
    config = json.loads((one / "config.json").read_text())
    config["config"]["tune"] = dataclasses.asdict(TuneConfig(method=("prompt",)))
    (one / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="since prompt cannot be merged"):
        kept_checkpoints.of_run(read_run(one))


def test_checkpoints_of_a_run_on_more_devices_are_combined(pair, tmp_path):
    """Its layout is that of 64 devices; a soup takes those that are here."""
    shutil.copytree(pair[0], tmp_path / "many")
    path = tmp_path / "many" / "config.json"
    config = json.loads(path.read_text())
    config["config"]["mesh"]["data"] = 64
    config["shapes"] = [[64, *shape[1:]] for shape in config["shapes"]]
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"config\.mesh\.data"):
        prepare_again(str(tmp_path / "many"))
    many, one = (kept_checkpoints.of_run(read_run(folder)) for folder in (tmp_path / "many", pair[0]))
    assert [part.name for part in many] == [part.name for part in one]
    np.testing.assert_array_equal(many[0].rows.scores, one[0].rows.scores)
    settings, _ = combination.soup(read_run(tmp_path / "many"), many, False, str(tmp_path / "soup" / "model"))
    assert settings.execution.mesh.data == 0


def test_a_damaged_checkpoint_is_named_and_stays_where_it_is(finished, launch, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints" / "12"
    (largest,) = sorted(folder.rglob("d/*"), key=lambda path: path.stat().st_size)[-1:]
    contents = bytearray(largest.read_bytes())
    contents[len(contents) // 2] ^= 1
    largest.write_bytes(contents)
    done = launch(tmp_path / "run", "--checkpoints", "--output", tmp_path / "soup", program="fjt.combine")
    assert done.code == 2 and "the checkpoint of step 12 in" in done.text and "move its folder away" in done.text
    assert folder.is_dir() and largest.read_bytes() == contents and not (tmp_path / "soup").exists()
    shutil.rmtree(folder)
    assert "step=12" not in {part.name for part in kept_checkpoints.of_run(read_run(tmp_path / "run"))}
