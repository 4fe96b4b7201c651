"""Runs of methods that add leaves: what they leave behind, and what it is good for."""

import csv
import json

import numpy as np
import pytest
import safetensors.numpy
from process import outcome, tiny

import fjt
from fjt.interop import adapter


def run(launch, tables, base, workdir, method, **options):
    options = dict(tune__method=method, model__path=base, optim__learning_rate=1e-2) | options
    done = launch(*tiny(tables, **options), "--workdir", workdir)
    assert done.code == 0, done.text
    return done


@pytest.fixture(scope="module")
def texts(tables):
    with open(tables / "dev.csv", encoding="utf-8", newline="") as file:
        return [row["text"] for row in csv.DictReader(file)]


def predicts_as_it_was(workdir, texts):
    """load_run's logits against those of the run itself."""
    with np.load(workdir / "predictions" / "dev.npz") as arrays:
        np.testing.assert_allclose(fjt.load_run(workdir).predict(texts)["logits"], arrays["logits"], atol=2e-5)


@pytest.mark.parametrize("method", ["lora", "('prompt','bitfit')"])
def test_exports_and_predictions(finished, tables, launch, texts, tmp_path, method):
    base, _ = finished
    merged = method == "lora"
    options = {} if merged else {"tune__prompt_length": 2, "model__max_length": 24}
    done = run(launch, tables, base, tmp_path / "run", method, **options)
    export = tmp_path / "run" / "export"
    assert (
        (export / "merged" / "config.json").exists() == merged == (export / "adapter" / "adapter_config.json").exists()
    )
    assert "PeftModel" in done.text if merged else "fjt.load_run" in done.text
    predicts_as_it_was(tmp_path / "run", texts)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    own = adapter.read(export / "adapter")
    assert sum(leaf.size for leaf in own.trained.values()) == result["trainable_params"]
    assert {"head/classifier/kernel", "head/classifier/bias"} <= set(own.trained)
    assert result["added_params"] == sum(x.size for n, x in own.trained.items() if n.startswith("adapters/"))
    assert own.base_sha256 and str(base) not in (export / "adapter" / "fjt_adapter.json").read_text()

    again = launch(*tiny(tables, model__path=tmp_path / "run"), "--plan")
    assert (again.code == 0) if merged else (again.code == 2 and "cannot be merged" in again.text)
    if merged:
        whole = safetensors.numpy.load_file(export / "merged" / "model.safetensors")
        assert sum(leaf.size for leaf in whole.values()) == result["total_params"] - result["added_params"]


def test_a_base_that_has_changed_is_refused(finished, tables, launch, texts, tmp_path):
    base, _ = finished
    run(launch, tables, base, tmp_path / "run", "pfeiffer")
    path = tmp_path / "run" / "export" / "adapter" / "fjt_adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_sha256": "0" * 64}))
    with pytest.raises(fjt.settings.UserError, match="are not those"):
        fjt.load_run(tmp_path / "run").predict(texts[:2])


def test_a_run_stopped_and_resumed_ends_with_the_same_bits(finished, tables, launch, tmp_path):
    """Stopped by an option, since a new leaf is a leaf like any other; kills have tests of their own."""
    base, _ = finished
    options = dict(tune__method="('lora','prefix')", tune__prefix_length=2, model__max_length=24)
    run(launch, tables, base, tmp_path / "whole", options.pop("tune__method"), **options)
    half = launch(
        *tiny(tables, tune__method="('lora','prefix')", model__path=base, optim__learning_rate=1e-2, **options),
        "--workdir", tmp_path / "parts", hook=stop_after_six,
    )  # fmt: skip
    assert half.code == 143, half.text
    run(launch, tables, base, tmp_path / "parts", "('lora','prefix')", **options)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")


def stop_after_six():
    """SIGTERM during step 6."""
    import os
    import signal

    import fjt.run

    feed = fjt.run._feed

    def counted(experiment, put, k):
        if k == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return feed(experiment, put, k)

    fjt.run._feed = counted
