"""Runs of methods that add leaves: what they leave behind, and what it is good for."""

import json
import pathlib
import shutil
import signal

import numpy as np
import pytest
import safetensors.numpy
import small
from process import SignalInStep, outcome, predicts_as_it_was, run, tiny

import fjt
from fjt.interop import adapter, formats
from fjt.models import config_json, model_path


@pytest.mark.parametrize("method", small.tiers(["lora", "('prompt','bitfit')"], "lora", slow=("('prompt','bitfit')",)))
def test_exports_and_predictions(finished, even, launch, texts, tmp_path, method):
    base, _ = finished
    merged = method == "lora"
    options = {} if merged else {"tune__prompt_length": 2, "model__max_length": 24}
    done = run(launch, even, base, tmp_path / "run", method, **options)
    export = tmp_path / "run" / "export"
    assert (
        (export / "merged" / "config.json").exists() == merged == (export / "adapter" / "adapter_config.json").exists()
    )
    assert "PeftModel" in done.text if merged else "fjt.load_run" in done.text
    assert "of full tuning: operations of a step" in done.text
    predicts_as_it_was(tmp_path / "run", texts)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    own = adapter.read(export / "adapter")
    assert sum(leaf.size for leaf in own.trained.values()) == result["trainable_params"]
    assert {"head/classifier/kernel", "head/classifier/bias"} <= set(own.trained)
    assert result["added_params"] == sum(x.size for n, x in own.trained.items() if n.startswith("adapters/"))
    assert own.base_sha256 and str(base) not in (export / "adapter" / "fjt_adapter.json").read_text()

    again = launch(*tiny(even, model__path=tmp_path / "run"), "--plan")
    assert (again.code == 0) if merged else (again.code == 2 and "cannot be merged" in again.text)
    if merged:
        whole = safetensors.numpy.load_file(export / "merged" / "model.safetensors")
        assert sum(leaf.size for leaf in whole.values()) == result["total_params"] - result["added_params"]


@pytest.mark.thorough
def test_new_leaves_that_never_train(finished, even, launch, texts, tmp_path):
    """VeRA's projections are kept, and a run that starts there has the same; mixout's copies of the kernels are not."""
    base, _ = finished
    run(launch, even, base, tmp_path / "vera", "vera", tune__rank=6)
    predicts_as_it_was(tmp_path / "vera", texts)
    own = adapter.read(tmp_path / "vera" / "export" / "adapter")
    result = json.loads((tmp_path / "vera" / "result.json").read_text())
    assert result["added_params"] == 2 * (6 + 32) and own.trained["adapters/vera/a"].shape == (32, 6)
    options = dict(
        model__adapter=tmp_path / "vera",
        model__keep_head=True,
        train__steps=0,
        train__epochs=None,
        eval__every_epochs=None,
        seed=5,
    )
    run(launch, even, base, tmp_path / "again", "vera", **options)
    found, expected = (np.load(tmp_path / n / "predictions" / "dev.npz")["logits"] for n in ("again", "vera"))
    np.testing.assert_allclose(found, expected, atol=1e-5)

    run(launch, even, base, tmp_path / "mixout", "mixout")
    assert not (tmp_path / "mixout" / "export" / "adapter").exists()
    predicts_as_it_was(tmp_path / "mixout", texts)
    assert json.loads((tmp_path / "mixout" / "result.json").read_text())["added_params"] == 0


@pytest.fixture(scope="module")
def tuned(finished, even, launch, tmp_path_factory):
    """The work directory of a LoRA run."""
    workdir = tmp_path_factory.mktemp("tuned") / "run"
    run(launch, even, finished[0], workdir, "lora")
    return workdir


def test_the_card_says_what_it_is(finished, tuned, even):
    result = json.loads((tuned / "result.json").read_text())
    for folder, form in (("adapter", "peft"), ("merged", "transformers")):
        card = (tuned / "export" / folder / "README.md").read_text()
        for words in (
            f"library_name: {form}",
            "| lora.rank | 8 |",
            "96 train, 90 dev, 21 test",
            "| 90 |",
            f"| accuracy | {result['metrics']['accuracy']:.4f} |",
        ):
            assert words in card
        assert str(even) not in card and str(finished[0]) not in card
    whole = (finished[0] / "export" / "README.md").read_text()
    assert "none, random weights" in whole and "base_model" not in whole


def test_other_formats_by_command(launch, tuned, finished, tmp_path):
    """What the command writes as peft is what the run left; adapterhub and hf are read by fjt as well."""

    def export(form, run=tuned, output=None):
        output = tmp_path / form if output is None else output
        return launch("--run", run, "--format", form, "--output", output, program="fjt.export")

    assert export("peft").code == export("adapterhub").code == export("hf").code == 0
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "peft" / file).read_bytes() == (tuned / "export" / "adapter" / file).read_bytes()
    config = config_json.read_config(str(tmp_path / "hf"))[0]
    own = adapter.read(tuned / "export" / "adapter").trained
    for form in ("peft", "adapterhub"):
        found = formats.read(tmp_path / form, config).trained
        assert {name: x.tobytes() for name, x in found.items()} == {name: x.tobytes() for name, x in own.items()}
    for form, library in (("peft", "peft"), ("adapterhub", "adapters")):
        assert f"library_name: {library}\n" in (tmp_path / form / "README.md").read_text()
        assert (tmp_path / form / "tokenizer.json").exists()
    done = launch("--run", tuned, "--format", "peft", program="fjt.export")
    assert done.code == 0 and (tuned / "export-peft" / "adapter_config.json").exists(), done.text
    again = export("hf")
    assert again.code == 2 and "already exists" in again.text
    assert export("hf", output=f"{tmp_path}/slash/").code == 0 and (tmp_path / "slash" / "config.json").exists()
    for output, word in (("", "--output is empty"), ("/proc/x", "/proc/x")):
        refused = export("hf", output=output)
        assert refused.code == 2 and word in refused.text and "Traceback" not in refused.text
    shutil.rmtree(tmp_path / "peft")
    refused = export("peft", finished[0])
    assert refused.code == 2 and "only --format=hf" in refused.text
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("method", "file"),
    [
        ("pfeiffer", "adapter.safetensors"),
        pytest.param("unipelt", "adapter.safetensors", marks=pytest.mark.thorough),
        ("layernorm", "adapter_model.safetensors"),
    ],
)
def test_the_format_that_has_the_method(finished, even, launch, texts, tmp_path, method, file):
    base, _ = finished
    run(launch, even, base, tmp_path / "run", method)
    assert (tmp_path / "run" / "export" / "adapter" / file).exists()
    assert (tmp_path / "run" / "export" / "config.json").exists() == (method == "layernorm")
    predicts_as_it_was(tmp_path / "run", texts)
    options = ("--run", tmp_path / "run", "--format", "hf", "--output", tmp_path / "hf")
    done = launch(*options, program="fjt.export")
    refusal = "cannot be merged into the base model: its parameters act next to"
    assert (done.code == 0) if method == "layernorm" else (done.code == 2 and refusal in done.text)


@pytest.mark.parametrize("form", ["run", "fjt", "peft"])
def test_an_adapter_is_where_the_next_run_starts(finished, even, launch, tuned, tmp_path, form):
    """With no step taken, the dev predictions are those of the run that made it."""
    source = tuned
    if form != "run":
        source = tmp_path / "adapter"
        source.mkdir()
        for file in (tuned / "export" / "adapter").glob("fjt_*" if form == "fjt" else "adapter_*"):
            shutil.copy(file, source)
    options = dict(
        model__adapter=source, model__keep_head=True, train__steps=0, train__epochs=None, eval__every_epochs=None
    )
    done = run(launch, even, finished[0], tmp_path / "run", "lora", **options)
    assert "tune.rank = 8  (the adapter)" in done.text
    found, expected = (np.load(path / "predictions" / "dev.npz")["logits"] for path in (tmp_path / "run", tuned))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tune__method": "full"}, ["has the method lora", "--config.tune.method=lora"]),
        ({"tune__rank": 4}, ["config.tune.rank=4", "config.model.adapter, 8"]),
        ({"model__path": ""}, ["needs the model", "config.model.path"]),
        ({"model__adapter": "gone"}, ["config.model.adapter=gone is not an adapter"]),
    ],
)
def test_an_adapter_that_does_not_fit(finished, even, launch, tuned, tmp_path, options, words):
    options = dict(tune__method="lora", model__path=finished[0], model__adapter=tuned) | options
    done = launch(*tiny(even, **options), "--workdir", tmp_path / "run")
    assert done.code == 2 and "Traceback" not in done.text
    for word in words:
        assert word in done.text


@pytest.mark.parametrize("form", ["peft", "adapterhub"])
def test_an_adapter_over_another_base_of_the_same_name_is_told(finished, even, launch, tuned, tmp_path, form):
    """The files of other libraries carry the hash of the base's weights."""
    done = launch("--run", tuned, "--format", form, "--output", tmp_path / form, program="fjt.export")
    assert done.code == 0, done.text
    base = pathlib.Path(model_path.resolve(str(finished[0]), ""))
    other = shutil.copytree(base, tmp_path / "other" / base.name)
    weights = safetensors.numpy.load_file(other / "model.safetensors")
    name = "bert.embeddings.word_embeddings.weight"
    safetensors.numpy.save_file(weights | {name: 1.5 * weights[name]}, other / "model.safetensors")
    for path, told in ((base, False), (other, True)):
        options = dict(tune__method="lora", model__path=path, model__adapter=tmp_path / form)
        done = launch(*tiny(even, **options), "--plan")
        assert done.code == 0, done.text
        assert ("whose weights are not known to be those" in done.text.replace("\n", " ")) == told


def test_a_kept_head_may_stay_as_it_is(finished, even, launch, tuned, tmp_path):
    """It neither trains nor gets lost; a new head always trains."""
    options = dict(tune__train_head=False, model__adapter=tuned)
    run(launch, even, finished[0], tmp_path / "run", "lora", model__keep_head=True, **options)
    first, second = (adapter.read(where / "export" / "adapter").trained for where in (tuned, tmp_path / "run"))
    for name in ("head/classifier/kernel", "head/classifier/bias"):
        np.testing.assert_array_equal(second[name], first[name])
    name = "adapters/lora/layer_0/query/b"
    assert (second[name] != first[name]).any()
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["trainable_params"] == result["added_params"]
    refused = launch(*tiny(even, tune__method="lora", model__path=finished[0], **options), "--plan")
    assert refused.code == 2 and "config.tune.train_head=False leaves the head as it is, and it is new" in refused.text


def test_an_adapter_of_another_shape(finished, even, launch, tuned, tmp_path):
    """Another encoder: its width is named, and nothing is compiled."""
    broken = shutil.copytree(tuned / "export" / "adapter", tmp_path / "adapter")
    (broken / "adapter_config.json").unlink()
    tensors = safetensors.numpy.load_file(broken / "fjt_adapter.safetensors")
    name = "adapters/lora/layer_0/query/a"
    safetensors.numpy.save_file(tensors | {name: tensors[name][:16]}, broken / "fjt_adapter.safetensors")
    arguments = tiny(even, tune__method="lora", model__path=finished[0], model__adapter=broken)
    done = launch(*arguments, "--workdir", tmp_path / "run")
    assert done.code == 2 and f"{name} has shape (16, 8); this model needs (32, 8)" in done.text
    assert "compiling" not in done.text


@pytest.mark.thorough
def test_a_trained_pooler_goes_from_run_to_run(finished, even, launch, texts, tmp_path):
    """It is in the adapter that the second run starts from, which does not train it, and in that run's own."""
    base, _ = finished
    run(launch, even, base, tmp_path / "first", "pfeiffer", tune__train_pooler=True)
    run(
        launch,
        even,
        base,
        tmp_path / "second",
        "pfeiffer",
        model__adapter=tmp_path / "first",
        tune__train_pooler=False,
        model__keep_head=True,
    )
    first, second = (adapter.read(tmp_path / name / "export" / "adapter").trained for name in ("first", "second"))
    name = "head/pooler/kernel"
    np.testing.assert_array_equal(second[name], first[name])
    predicts_as_it_was(tmp_path / "second", texts)


def test_a_head_for_other_labels(finished, even, launch, tuned, tmp_path):
    """Names in another order, or no head at all: nothing is kept by chance."""
    broken = shutil.copytree(tuned / "export" / "adapter", tmp_path / "adapter")
    path = broken / "fjt_adapter.json"
    about = json.loads(path.read_text())
    options = dict(tune__method="lora", model__path=finished[0], model__adapter=broken, model__keep_head=True)

    def refused(*words):
        done = launch(*tiny(even, **options), "--plan")
        assert done.code == 2 and "Traceback" not in done.text
        for word in words:
            assert word in done.text

    path.write_text(json.dumps(about | {"label_names": about["label_names"][::-1]}))
    refused("keep_head", "in this order")
    path.write_text(json.dumps(about))
    tensors = safetensors.numpy.load_file(broken / "fjt_adapter.safetensors")
    own = {name: x for name, x in tensors.items() if not name.startswith("head/")}
    safetensors.numpy.save_file(own, broken / "fjt_adapter.safetensors")
    refused("keep_head", "has no head")
    path.write_text(path.read_text()[:50])
    refused("fjt_adapter.json is damaged", "write it again")


def test_a_base_that_has_changed_is_refused(finished, even, launch, texts, tmp_path):
    base, _ = finished
    run(launch, even, base, tmp_path / "run", "pfeiffer")
    path = tmp_path / "run" / "export" / "adapter" / "fjt_adapter.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_sha256": "0" * 64}))
    with pytest.raises(fjt.core.errors.UserError, match="differ from those of the base model"):
        fjt.load_run(tmp_path / "run").predict(texts[:2])


def test_a_base_that_has_moved_is_found_where_it_is_said_to_be(finished, even, launch, texts, tmp_path, monkeypatch):
    """The run was made over a relative path, and is loaded from another working directory."""
    base, _ = finished
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    shutil.copytree(base, tmp_path / "models" / "base")
    run(
        launch,
        even,
        "models/base",
        tmp_path / "run",
        "('prompt','bitfit')",
        tune__prompt_length=2,
        model__max_length=24,
    )
    predicts_as_it_was(tmp_path / "run", texts)
    monkeypatch.chdir(even)
    with pytest.raises(fjt.core.errors.UserError, match="give its present directory"):
        fjt.load_run(tmp_path / "run").predict(texts[:2])
    moved = fjt.load_run(tmp_path / "run", base=tmp_path / "models" / "base").predict(texts[:2])["logits"]
    with np.load(tmp_path / "run" / "predictions" / "dev.npz") as arrays:
        np.testing.assert_allclose(moved, arrays["logits"][:2], atol=2e-5)


@pytest.mark.thorough
def test_a_run_stopped_and_resumed_ends_with_the_same_bits(finished, even, launch, tmp_path):
    """Stopped by an option, since a new leaf is a leaf like any other; kills have tests of their own."""
    base, _ = finished
    options = dict(tune__method="('lora','prefix')", tune__prefix_length=2, model__max_length=24)
    run(launch, even, base, tmp_path / "whole", options.pop("tune__method"), **options)
    half = launch(
        *tiny(even, tune__method="('lora','prefix')", model__path=base, optim__learning_rate=1e-2, **options),
        "--workdir",
        tmp_path / "parts",
        events=SignalInStep(6, signal.SIGTERM),
    )
    assert half.code == 143, half.text
    run(launch, even, base, tmp_path / "parts", "('lora','prefix')", **options)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
