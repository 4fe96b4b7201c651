"""The command, from its arguments to its work directory: the contract of a run."""

import csv
import fcntl
import json
import os
import re
import shutil

import numpy as np
import pytest
import safetensors.numpy
from process import read_rows, tiny

from fjt.data.glue import Task
from fjt.tasks.classification import CLASSIFICATION

RESULT_KEYS = """task model method seed steps epochs selected_step split metrics best trainable_params total_params
    train_seconds compile_seconds examples_per_second tokens_per_second token_efficiency flops_per_step
    peak_memory_bytes memory_kind params_sha256 frozen_sha256 data_sha256 failed versions""".split()


def read_result(workdir):
    return json.loads((workdir / "result.json").read_text())


def losses(workdir):
    return np.array([row["loss"] for row in read_rows(workdir / "train.jsonl")])


def test_files_of_a_run(finished):
    workdir, printed = finished
    for name in (
        "config.json",
        "env.json",
        "train.jsonl",
        "eval.jsonl",
        "result.json",
        "DONE",
        "curve.png",
        "predictions/dev.npz",
        "predictions/dev.tsv",
        "predictions/test.npz",
        "predictions/test.tsv",
        "export/config.json",
        "export/model.safetensors",
        "export/tokenizer.json",
    ):
        assert (workdir / name).exists(), name
    assert list((workdir / "tensorboard").glob("events.out.tfevents.*"))
    assert {"12"} <= {path.name for path in (workdir / "checkpoints").iterdir()}
    assert not list(workdir.glob("*.tmp"))
    result = read_result(workdir)
    assert set(RESULT_KEYS) <= set(result)
    assert (result["task"], result["method"], result["steps"], result["epochs"]) == ("table", ["full"], 12, 3.0)
    assert result["selected_step"] == 12 and result["split"] == "dev" and result["failed"] is None
    assert 0 < result["token_efficiency"] <= 1 and result["flops_per_step"] > 0 and result["examples_per_second"] > 0
    assert result["train_seconds"] > 0 and result["compile_seconds"] > 0 and result["peak_memory_bytes"] > 0
    assert "test" not in result["metrics"] and "accuracy" in printed
    shown = re.findall(
        r"training (\d+)/12  loss \S+  (?:dev accuracy \S+  macro_f1 \S+ (at step \d+)  )?\S+ examples/s", printed
    )
    assert shown == [("4", ""), ("8", "at step 4"), ("12", "at step 8")]
    config = json.loads((workdir / "config.json").read_text())
    assert config["config"]["train"]["batch_size"] == 24 and config["changes"] == []
    assert config["origins"]["optim.weight_decay"].startswith("recipe")
    assert [row["step"] for row in read_rows(workdir / "train.jsonl")] == list(range(1, 13))
    assert [row["step"] for row in read_rows(workdir / "eval.jsonl")] == [4, 8, 12]
    assert read_rows(workdir / "train.jsonl")[-1]["examples"] == 3 * 96


def test_predictions_hold_every_example_once_in_file_order(finished, tables):
    workdir, _ = finished
    for name, count in (("dev", 90), ("test", 21)):
        with np.load(workdir / "predictions" / f"{name}.npz") as arrays:
            assert arrays["id"].tolist() == [f"{name}-{i}" for i in range(count)]
            assert arrays["logits"].shape == (count, 2) and np.isfinite(arrays["logits"]).all()
            label, logits, names = arrays["label"], arrays["logits"], tuple(arrays["label_names"].tolist())
        assert names == ("acceptable", "unacceptable")
        with open(tables / f"{name}.csv", encoding="utf-8", newline="") as file:
            given = list(csv.DictReader(file))
        with open(workdir / "predictions" / f"{name}.tsv", encoding="utf-8", newline="") as file:
            shown = list(csv.DictReader(file, delimiter="\t"))
        assert [row["text"] for row in shown] == [row["text"] for row in given]
        assert [row["predicted"] for row in shown] == [names[i] for i in logits.argmax(axis=-1)]
        if name == "test":
            assert (label == -1).all() and not any(row["label"] for row in shown)
            continue
        assert [row["label"] for row in shown] == [row["label"] for row in given]
        assert [names[i] for i in label] == [row["label"] for row in given]
        scores = CLASSIFICATION.score(logits, label, Task("", "classification", names, ("accuracy", "macro_f1")))
        assert scores == read_result(workdir)["metrics"] == read_result(workdir)["splits"]["dev"]
        last = read_rows(workdir / "eval.jsonl")[-1]
        assert {metric: last[metric] for metric in scores} == scores


def test_the_scores_of_each_class_and_of_a_constant_stand_in_the_result(finished):
    workdir, printed = finished
    result = read_result(workdir)
    with np.load(workdir / "predictions" / "dev.npz") as arrays:
        label, predicted = arrays["label"], arrays["logits"].argmax(axis=-1)
    rows = {row["label"]: row for row in result["per_class"]}
    assert list(rows) == ["acceptable", "unacceptable"] and "Classes on dev" in printed
    for i, row in enumerate(rows.values()):
        assert (row["support"], row["predicted"]) == ((label == i).sum(), (predicted == i).sum())
    assert result["metrics"]["macro_f1"] == pytest.approx(np.mean([row["f1"] for row in rows.values()]))
    share = np.bincount(label).max() / len(label)
    assert result["constant"] == {"dev": {"accuracy": share, "macro_f1": pytest.approx(share / (1 + share))}}


@pytest.mark.thorough
def test_a_metric_of_one_s_own_chooses_the_step(tables, launch, tmp_path, monkeypatch):
    """The process imports it from the repository, its working directory, where this test file is."""
    name = "tests.end_to_end.own_metric:minus_predicted"
    done = launch(*tiny(tables, eval__metrics=name, train__select=name), "--workdir", tmp_path / "run")
    assert done.code == 0, done.text
    rows = {row["step"]: row[name] for row in read_rows(tmp_path / "run" / "eval.jsonl")}
    result = read_result(tmp_path / "run")
    assert result["metrics"][name] == max(rows.values()) == rows[result["selected_step"]]
    assert result["best"]["metric"] == name and f"best {name} so far" in done.text
    done = launch("--run", tmp_path / "run", program="fjt.evaluate")
    found = json.loads((tmp_path / "run" / "evaluation/dev/evaluation.json").read_text())["metrics"]
    assert done.code == 0 and found[name]["value"] == result["metrics"][name], done.text
    again = launch(*tiny(tables, eval__metrics=name), "--workdir", tmp_path / "run")
    assert again.code == 2 and f"config.train.select: '{name}' there, 'last' now" in again.text


def test_export_holds_the_selected_weights(finished):
    workdir, _ = finished
    config = json.loads((workdir / "export" / "config.json").read_text())
    assert config["id2label"] == {"0": "acceptable", "1": "unacceptable"}
    tensors = safetensors.numpy.load_file(workdir / "export" / "model.safetensors")
    assert sum(tensor.size for tensor in tensors.values()) == read_result(workdir)["total_params"]


def test_again_on_a_finished_run(finished, tables, launch):
    workdir, _ = finished
    result = (workdir / "result.json").read_bytes()
    rows = (workdir / "train.jsonl").read_bytes()
    before = [(workdir / name).read_bytes() for name in ("config.json", "env.json")]
    done = launch(*tiny(tables, log__tensorboard=True, log__every_steps=7), "--workdir", workdir)
    assert done.code == 0 and "finished" in done.text and "compiling 1" not in done.text
    assert (workdir / "result.json").read_bytes() == result and (workdir / "train.jsonl").read_bytes() == rows
    after = [(workdir / name).read_bytes() for name in ("config.json", "env.json")]
    assert after == before  # they describe what made the result, not this start


def test_a_config_that_was_edited_afterwards_is_damaged(finished, tables, launch, tmp_path):
    """Its options would be read as those of the result."""
    copy = shutil.copytree(finished[0], tmp_path / "copy", ignore=shutil.ignore_patterns("checkpoints"))
    recorded = json.loads((copy / "config.json").read_text())
    recorded["config"]["optim"]["learning_rate"] = 0.5
    (copy / "config.json").write_text(json.dumps(recorded))
    done = launch(*tiny(tables), "--workdir", copy)
    assert done.code == 2 and f"{copy}/config.json is damaged (it says config.optim.learning_rate=0.5, but" in done.text


def test_a_table_with_other_names_of_its_labels_is_another_one(finished, tables, launch, tmp_path):
    """Their numbers, and so all bits of the run, are the same."""
    for path in tables.glob("*.csv"):
        text = path.read_text().replace("unacceptable", "wrong").replace("acceptable", "right")
        (tmp_path / path.name).write_text(text.replace("right", "a right one"))
    done = launch(*tiny(tmp_path), "--workdir", finished[0])
    assert (
        done.code == 2 and "the labels acceptable, unacceptable, but the data now have a right one, wrong" in done.text
    )


def test_another_experiment_in_the_same_directory(finished, tables, launch):
    workdir, _ = finished
    before = (workdir / "config.json").read_bytes()
    done = launch(*tiny(tables, optim__learning_rate=1e-3, train__batch_size=12), "--workdir", workdir)
    assert done.code == 2 and "Traceback" not in done.text
    for word in (str(workdir), "config.optim.learning_rate: 0.003 there, 0.001 now", "config.train.batch_size"):
        assert word in done.text
    assert "config.seed" not in done.text and (workdir / "config.json").read_bytes() == before


def test_two_processes_on_one_directory(tables, launch, tmp_path):
    with open(tmp_path / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = launch(*tiny(tables), "--workdir", tmp_path)
    assert done.code == 2 and str(tmp_path) in done.text and "another process" in done.text


def test_list_plan_and_help(tables, launch, tmp_path):
    done = launch("--list")
    assert done.code == 0
    for word in ("sst2", "agreement", "top_k", "configs/glue.py", "layers=2"):
        assert word in done.text
    done = launch("--help")
    assert done.code == 0 and "--plan" in done.text and "optim.learning_rate = None (float)" in done.text
    done = launch(*tiny(tables), "--plan")
    assert done.code == 0 and "12 steps of 24 examples" in done.text and "compiling" not in done.text
    for word in ("optim.learning_rate", "recipe", "encoder/layer_0", "rows x tokens", "%"):
        assert word in done.text, word
    assert not list(tmp_path.iterdir())


def test_best_step_and_early_stop(tables, launch, tmp_path):
    """A rate of zero: no evaluation beats the first, so patience ends the run and the first step is the best."""
    options = dict(optim__learning_rate=0.0, train__select="best", train__patience=1, checkpoint__keep=1)
    done = launch(*tiny(tables, **options), "--workdir", tmp_path)
    assert done.code == 0, done.text
    assert [row["step"] for row in read_rows(tmp_path / "train.jsonl")] == list(range(1, 9))
    assert [row["best"] for row in read_rows(tmp_path / "eval.jsonl")] == [True, False]
    result = read_result(tmp_path)
    assert result["selected_step"] == result["best"]["step"] == 4
    first = read_rows(tmp_path / "eval.jsonl")[0]
    loss, collapsed = first["loss"], first["collapsed"]
    assert result["best"]["metrics"] == result["metrics"] | {"loss": loss, "collapsed": collapsed} and 0 < loss < 2
    assert result["collapsed"] is bool(collapsed)
    assert (result["steps"], result["epochs"]) == (8, 2.0)  # what was done, not what was planned
    assert "4" in {path.name for path in (tmp_path / "checkpoints").iterdir()}


def test_two_devices_give_the_losses_of_one(finished, tables, launch, tmp_path):
    """And with select=best, the result is about the best evaluation, which is not the last."""
    done = launch(*tiny(tables, mesh__data=2, train__select="best"), "--workdir", tmp_path)
    assert done.code == 0, done.text
    np.testing.assert_allclose(losses(tmp_path), losses(finished[0]), rtol=2e-6)
    assert json.loads((tmp_path / "env.json").read_text())["devices"] == 2
    rows, result = read_rows(tmp_path / "eval.jsonl"), read_result(tmp_path)
    best = max(rows, key=lambda row: (row["accuracy"], -row["step"]))
    assert result["selected_step"] == best["step"] == result["best"]["step"]
    assert result["metrics"] == {name: best[name] for name in ("accuracy", "macro_f1")}


@pytest.mark.parametrize("keep_head", [False, True])
def test_a_run_is_the_model_of_the_next(finished, tables, launch, tmp_path, keep_head):
    workdir, _ = finished
    options = dict(model__path=workdir, model__keep_head=keep_head, train__steps=0, train__epochs=None)
    done = launch(*tiny(tables, **options), "--workdir", tmp_path)
    assert done.code == 0, done.text
    old, new = (safetensors.numpy.load_file(x / "export" / "model.safetensors") for x in (workdir, tmp_path))
    for name in old:
        assert np.array_equal(old[name], new[name]) == (keep_head or not name.startswith("classifier")), name
    if keep_head:
        assert read_result(tmp_path)["metrics"] == read_result(workdir)["metrics"]
    else:
        assert "classifier" in done.text


def test_an_unfinished_run_is_no_model(finished, tables, launch, tmp_path):
    shutil.copytree(finished[0], tmp_path / "half")
    (tmp_path / "half" / "DONE").unlink()
    done = launch(*tiny(tables, model__path=tmp_path / "half"), "--workdir", tmp_path / "next")
    assert done.code == 2 and "not finished" in done.text and str(tmp_path / "half") in done.text


def test_origins_say_who_gave_a_value(finished):
    origins = json.loads((finished[0] / "config.json").read_text())["origins"]
    assert origins["train.batch_size"] == origins["optim.learning_rate"] == "command line"
    assert origins["optim.weight_decay"] == "recipe for full"
    assert origins["data.source"].endswith("configs/classify.py")  # what the file sets over configs/base.py
    assert "optim.b1" not in origins


def test_exports_can_be_read_by_others(finished):
    """safetensors writes for the owner alone; the umask decides here."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (finished[0] / "export").iterdir():
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_refused_start_leaves_no_folder(tables, launch, tmp_path):
    done = launch(*tiny(tables, model__path="./gone"), "--workdir", tmp_path / "run")
    assert done.code == 2 and not (tmp_path / "run").exists()
    (tmp_path / "mine").mkdir()
    assert launch(*tiny(tables, model__path="./gone"), "--workdir", tmp_path / "mine").code == 2
    assert (tmp_path / "mine").exists()
