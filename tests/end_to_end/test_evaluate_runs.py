"""A finished run is evaluated, calibrated, and labels text as calibrated: the commands themselves."""

import csv
import json
import shutil

import numpy as np
import process
import pytest
import scipy.special
import transformers

import fjt
from fjt import calibrate, evaluate, predict
from fjt.experiment import calibrated
from fjt.models import config_json


@pytest.fixture
def run(finished, tmp_path):
    """A copy of the finished run: these commands write into it."""
    return shutil.copytree(finished[0], tmp_path / "run")


def command(door, *arguments):
    return door.main(["", *map(str, arguments)])


def test_stored_predictions_score_as_the_run_did_and_need_no_model(run, capsys):
    shutil.rmtree(run / "export")
    before = json.loads((run / "result.json").read_text())["metrics"]
    assert command(evaluate, "--run", run) == 0
    found = json.loads((run / "evaluation/dev/evaluation.json").read_text())
    assert {name: found["metrics"][name]["value"] for name in before} == pytest.approx(before)
    assert "90 examples; an interval needs 100" in capsys.readouterr().out  # of dev
    assert (run / "evaluation/dev/evaluation.html").exists()


def test_a_file_is_labelled_and_scores_as_the_stored_split_does(run, tables, tmp_path, capsys):
    data = tmp_path / "new.csv"
    with open(tables / "dev.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    with open(data, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "part"])
        writer.writerows([row["text"], row["label"], number % 3] for number, row in enumerate(rows))
    output = tmp_path / "out"
    assert command(evaluate, "--run", run, "--data", data, "--slice", "part", "--output", output) == 0
    assert command(evaluate, "--run", run) == 0
    found, stored = (
        json.loads((folder / "evaluation.json").read_text()) for folder in (output, run / "evaluation/dev")
    )
    values = [{name: one["value"] for name, one in record["metrics"].items()} for record in (found, stored)]
    assert values[0] == pytest.approx(values[1], abs=1e-5, nan_ok=True)
    assert [one["examples"] for one in found["slices"] if one["by"] == "part"] == [30, 30, 30]
    assert command(evaluate, "--run", run, "--data", data, "--against", run, "--output", output) == 0
    pair = json.loads((output / "evaluation.json").read_text())["against"]
    assert pair["churn"]["value"] == 0 and pair["mcnemar_p"] == 1
    capsys.readouterr()


def divide(run, folder):
    """Two folders as of the runs of two folds: each has half of a run's predictions."""
    for fold in range(2):
        own = shutil.copytree(run, folder / str(fold), ignore=shutil.ignore_patterns("export", "checkpoints"))
        config = json.loads((own / "config.json").read_text())
        config["config"]["data"] |= {"folds": 2, "fold": fold}
        (own / "config.json").write_text(json.dumps(config))
        with np.load(own / "predictions/dev.npz") as file:
            arrays = {name: file[name] for name in file.files}
        rows = np.flatnonzero(np.arange(len(arrays["id"])) % 3 // 2 == fold)
        own_rows = {name: arrays[name][rows] for name in ("id", "logits", "label")}
        np.savez(own / "predictions/dev.npz", **arrays | own_rows | {"row": rows, "table_sha256": np.array("x")})
        header, *lines = (own / "predictions/dev.tsv").read_text().splitlines()
        (own / "predictions/dev.tsv").write_text("\n".join([header, *(lines[row] for row in rows), ""]))
    return folder / "0", folder / "1"


def test_runs_of_two_folds_are_one_cross_validation(launch, tables, finished, tmp_path):
    for fold in (0, 1):
        options = dict(data__files__dev=None, data__folds=2, data__fold=fold, train__epochs=1, output__export=False)
        process.run(launch, tables, finished[0] / "export", tmp_path / str(fold), "head", **options)
    done = launch("--run", tmp_path / "1", tmp_path / "0", program="fjt.evaluate")
    assert done.code == 0, done.text
    found = json.loads((tmp_path / "0/evaluation/folds/evaluation.json").read_text())
    assert found["examples"] == len((tables / "train.csv").read_text().splitlines()) - 1, found


def test_the_folds_of_a_cross_validation_are_pooled(run, tmp_path, capsys):
    one, other = divide(run, tmp_path)
    assert command(evaluate, "--run", other, one) == 0
    printed = capsys.readouterr().out
    assert "90 examples of 2 folds" in printed and "mean score of these 2 trained models" in printed
    found = json.loads((one / "evaluation/folds/evaluation.json").read_text())
    assert command(evaluate, "--run", run) == 0
    whole = json.loads((run / "evaluation/dev/evaluation.json").read_text())
    assert [fold["examples"] for fold in found["folds"]] == [60, 30] and "seed" not in found
    assert found["averaged"] == ["roc_auc", "pr_auc"] and found["slices"][0] == whole["slices"][0]
    values, of_whole = ({name: cell["value"] for name, cell in one["metrics"].items()} for one in (found, whole))
    for name, value in values.items():
        mean = np.mean([fold["metrics"].get(name, np.nan) for fold in found["folds"]])
        assert value == pytest.approx(mean if name in found["averaged"] else of_whole[name])
    page = (one / "evaluation/folds/evaluation.html").read_text()
    assert page.count("<svg") == 2 and "<h2>Folds</h2>" in page.replace(' id="folds"', "")
    for arguments, message in (
        ((one, one), "both fold 0"),
        ((one, run), "is not a fold"),
        ((one, other, "--against", run), "--against is for one run"),
        ((one, other, "--split", "dev"), "--split is for one run"),
    ):
        assert command(evaluate, "--run", *arguments) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", "test"), "no row of it"),
        (("--split", "none"), "has predictions of dev"),
        (("--slice", "part"), "part"),
        (("--text", "x"), "--text names a column of --data"),
        (("--data", "none.csv"), "should be a file"),
        (("--output", "RUN/predictions"), "among fjt's own files"),
    ],
)
def test_a_mistake_is_a_line(run, arguments, message, capsys):
    arguments = [one.replace("RUN", str(run)) for one in arguments]
    assert command(evaluate, "--run", run, *arguments) == 2
    assert message in capsys.readouterr().err


def test_a_calibration_is_stored_read_and_applied(run, tmp_path, capsys):
    logits = np.load(run / "predictions/dev.npz")["logits"]
    assert command(predict, "--run", run, "--input", "-", "--output", tmp_path / "x.tsv", "--calibrated") == 2
    assert "fjt.calibrate --run" in capsys.readouterr().err
    assert command(calibrate, "--run", run, "--threshold", "macro_f1") == 0
    printed = capsys.readouterr().out
    record = json.loads((run / calibrated.RECORD).read_text())
    assert f"{record['before']['ece']:.4f}" in printed and f"{record['after']['ece']:.4f}" in printed
    export = json.loads((run / "export/config.json").read_text())
    assert export["fjt_calibration"]["scale"] == record["scale"]
    config, raw = config_json.read_config(str(run / "export"))
    assert config and not config_json.unread_keys(raw, "x")
    loaded = transformers.AutoConfig.from_pretrained(run / "export")
    assert loaded.num_labels == 2 and loaded.fjt_calibration["thresholds"] == record["thresholds"]

    with open(run / "predictions/dev.tsv", encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    (tmp_path / "new.txt").write_text("\n".join(texts) + "\n")
    output = tmp_path / "labelled.tsv"
    assert command(predict, "--run", run, "--input", tmp_path / "new.txt", "--output", output, "--calibrated") == 0
    with open(output, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    share = scipy.special.softmax(logits * record["scale"][0], axis=1)
    loaded = fjt.load_run(run)
    found, plain = loaded.predict(texts, calibrated=True), loaded.predict(texts)
    assert list(found["labels"]) == [row["predicted"] for row in rows] and "abstains" not in found
    assert found["probabilities"] == pytest.approx(share, abs=1e-4) and (found["logits"] == plain["logits"]).all()
    assert not np.allclose(found["probabilities"], plain["probabilities"], atol=1e-3)
    assert [float(row["p(unacceptable)"]) for row in rows] == pytest.approx(share[:, 1], abs=1e-4)
    near = np.abs(share[:, 1] - record["thresholds"][0]) < 1e-5
    chosen = np.where(share[:, 1] >= record["thresholds"][0], "unacceptable", "acceptable")
    assert all(row["predicted"] == one for row, one, skip in zip(rows, chosen, near, strict=True) if not skip)

    label = np.load(run / "predictions/dev.npz")["label"]
    assert command(evaluate, "--run", run, "--calibrated", "--output", tmp_path / "page") == 0
    assert "was calibrated on its rows of dev" in capsys.readouterr().out
    judged = json.loads((tmp_path / "page/evaluation.json").read_text())
    right = (share[:, 1] >= record["thresholds"][0]) == label
    assert judged["calibrated"] and judged["metrics"]["accuracy"]["value"] == pytest.approx(right.mean())
    loss = -np.log(share[np.arange(len(label)), label]).mean()
    assert judged["metrics"]["log_loss"]["value"] == pytest.approx(loss)
    shown = {row["id"]: row["predicted"] for row in judged["wrong"]}
    wrong = {f"dev-{row}": str(chosen[row]) for row in np.flatnonzero(~right)}
    assert shown and shown.items() <= wrong.items()

    record["confidence"] = float(np.median(share.max(axis=1)))
    (run / calibrated.RECORD).write_text(json.dumps(record | {"thresholds": []}))
    output = tmp_path / "some.jsonl"
    assert command(predict, "--run", run, "--input", tmp_path / "new.txt", "--output", output, "--calibrated") == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert {row["abstains"] for row in rows} == {True, False}
    assert all((row["predicted"] == "") == row["abstains"] for row in rows)
    found = loaded.predict(texts, calibrated=True)
    assert (found["labels"], found["abstains"]) == tuple(
        [row[key] for row in rows] for key in ("predicted", "abstains")
    )

    (run / calibrated.RECORD).write_text(json.dumps(record | {"params_sha256": "0"}))
    output = tmp_path / "other.tsv"
    assert command(predict, "--run", run, "--input", tmp_path / "new.txt", "--output", output, "--calibrated") == 2
    assert "of other weights" in capsys.readouterr().err
    with pytest.raises(fjt.UserError, match="of other weights"):
        loaded.predict(texts, calibrated=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "platt"), "temperature"),
        (("--threshold", "accuracy"), "balanced_accuracy"),
        (("--risk", "0.01"), "needs 50"),
        (("--risk", "2"), "needs 50"),
        (("--split", "test"), "no row of it"),
    ],
)
def test_a_calibration_that_cannot_be_fitted_is_a_line(run, arguments, message, capsys):
    assert command(calibrate, "--run", run, *arguments) == 2
    assert message in capsys.readouterr().err
    assert not (run / calibrated.RECORD).exists()
