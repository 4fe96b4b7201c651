"""An export that does not compute what the run computed is found before it is announced."""

import functools
import json
import shutil
from pathlib import Path

import configured
import numpy as np
import pytest
import roberta_files
import safetensors.numpy

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.data.synthetic import VOCAB
from fjt.experiment import predictor, readback
from fjt.experiment.prepare import prepare
from fjt.interop import adapter, exports, formats
from fjt.tuning import partition

BERT = {
    "model_type": "bert", "vocab_size": 0, "num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2,
    "intermediate_size": 24, "max_position_embeddings": 24, "initializer_range": 0.1, "num_labels": 7,
}  # fmt: skip
CHOSEN = {
    "task": "paraphrase", "data__source": "synthetic", "data__limit": 40, "model__max_length": 12,
    "model__dtype": "float32", "train__steps": 1, "train__epochs": None,
}  # fmt: skip
METHODS = {"full": {}, "lora": {}, "prefix": {"tune__prefix_length": 3}}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Of a method its run, which is made once."""
    return functools.cache(functools.partial(make_run, tmp_path_factory))


def make_run(tmp_path_factory, method):
    """(method, Experiment, all parameters, logits of dev) of a run that is not trained: its parameters are moved."""
    vocab = len(Path(VOCAB).read_text(encoding="utf-8").splitlines())
    base, cache = tmp_path_factory.mktemp("base"), str(tmp_path_factory.mktemp("cache"))
    roberta_files.write(base, BERT | {"vocab_size": vocab}, lambda folder: shutil.copy(VOCAB, folder / "vocab.txt"))
    chosen = CHOSEN | METHODS[method] | {"model__path": str(base), "cache__dir": cache, "tune__method": (method,)}
    settings = configured.build(**chosen)
    experiment = prepare(settings)
    rng = np.random.default_rng(0)
    params = tree.unflatten(
        {
            name: np.asarray(leaf + rng.normal(0, 0.2, leaf.shape) * (name in experiment.trainable), np.float32)
            for name, leaf in tree.flatten(experiment.params).items()
        }
    )
    methods = partition.find_methods(settings.experiment.tune)
    options = {"max_length": 12, "dtype": "float32", "matmul_precision": "highest"}
    whole = predictor.Predictor(experiment.model, params, experiment.tokenizer, methods, options, experiment.problem)
    return method, experiment, params, whole.logits(experiment.examples["dev"])


@pytest.fixture
def run(request, runs):
    """The run of a method."""
    return runs(request.param)


def change_json(file, **entries):
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))


def change_tensors(folder, change):
    (file,) = folder.glob("model.safetensors")
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file({name: change(name, tensor) for name, tensor in tensors.items()}, file)


def swap_head(folder):
    change_tensors(folder, lambda name, x: np.ascontiguousarray(x[::-1]) if name.startswith("classifier") else x)


def lose_finiteness(folder):
    change_tensors(folder, lambda name, x: np.full_like(x, np.nan) if name == "classifier.bias" else x)


def another(file, **entries):
    return lambda folder: change_json(folder / file, **entries)


CHANGES = {
    "another activation": (another("config.json", hidden_act="relu"), "its activation is 'relu'"),
    "another epsilon": (another("config.json", layer_norm_eps=0.1), "its epsilon is 0.1, but the run"),
    "the labels' vectors swapped": (swap_head, r"the logit -?\d+\.\d+ where the run computed -?\d"),
    "not finite": (lose_finiteness, "classifier.bias cannot be used, for example nan"),
    "no types": (another("tokenizer_config.json", model_input_names=["input_ids"]), "gives the token types"),
    "another side": (another("tokenizer_config.json", truncation_side="left"), "gives the tokens"),
}


def write(run, folder):
    _, experiment, params, _ = run
    exports.write(experiment, str(folder), params, {})


@pytest.mark.parametrize("run", METHODS, indirect=True)
def test_what_a_run_writes_is_what_it_computed(run, tmp_path):
    _, experiment, params, logits = run
    write(run, tmp_path)
    readback.check(experiment, str(tmp_path), params, logits)
    with pytest.raises(UserError, match="where the run computed"):
        readback.check(experiment, str(tmp_path), params, logits + 0.5)


TOKENS = ("no types", "another side")  # an adapter has no config.json and no model.safetensors


@pytest.mark.parametrize(
    ("run", "change"),
    [(method, change) for method in METHODS for change in CHANGES if method != "prefix" or change in TOKENS],
    indirect=["run"],
)
def test_an_export_of_something_else_is_refused(run, change, tmp_path):
    method, experiment, params, logits = run
    write(run, tmp_path)
    folder = {"full": tmp_path, "lora": tmp_path / "merged", "prefix": tmp_path / "adapter"}[method]
    make, message = CHANGES[change]
    make(folder)
    with pytest.raises(UserError, match=message) as refused:
        readback.check(experiment, str(tmp_path), params, logits)
    assert str(folder) in str(refused.value) and "config.output.export=False" in str(refused.value)


@pytest.mark.parametrize("run", METHODS, indirect=True)
def test_the_run_s_own_program_serves_an_export_with_its_parameters(run, tmp_path):
    method, experiment, params, logits = run
    write(run, tmp_path)
    given = []

    def evaluate(exported):
        given.append(exported)
        return np.where(np.arange(len(logits))[:, None] < 5, logits, np.nan)

    readback.check(experiment, str(tmp_path), params, logits, evaluate)
    assert len(given) == (1 if method == "full" else 2)  # of the adapter in both forms; merged parameters are others
    if method == "full":
        with pytest.raises(UserError, match="where the run computed"):
            readback.check(experiment, str(tmp_path), params, logits, lambda exported: evaluate(exported) + 1)


def other_tensors(folder):
    file = folder / "adapter_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    safetensors.numpy.save_file({name: x + 0.5 if "classifier" in name else x for name, x in tensors.items()}, file)


PEFT_CHANGES = {
    "another alpha": (another("adapter_config.json", lora_alpha=500), "the logit .* where the run computed"),
    "another scale": (another("adapter_config.json", use_rslora=True, lora_alpha=300), "where the run computed"),
    "other tensors": (other_tensors, "where the run computed"),
    "fewer targets": (another("adapter_config.json", target_modules=["query"]), "leaves out .*value"),
    "not JSON": (lambda folder: (folder / "adapter_config.json").write_text("{"), "cannot be read"),
}


@pytest.mark.parametrize("run", ["lora"], indirect=True)
@pytest.mark.parametrize("change", PEFT_CHANGES)
def test_peft_s_files_next_to_fjt_s_own_are_read_back_as_well(run, change, tmp_path):
    _, experiment, params, logits = run
    write(run, tmp_path)
    make, message = PEFT_CHANGES[change]
    make(tmp_path / "adapter")
    with pytest.raises(UserError, match=message) as refused:
        readback.check(experiment, str(tmp_path), params, logits, lambda exported: logits)
    assert str(tmp_path / "adapter") in str(refused.value)


@pytest.mark.parametrize("run", ["lora", "prefix"], indirect=True)
def test_an_export_in_another_form_is_read_back(run, tmp_path):
    _, experiment, _, _ = run
    write(run, tmp_path)
    task, options = experiment.task, {"max_length": 12, "dtype": "float32", "matmul_precision": "highest"}
    base, config = {name: experiment.params[name] for name in ("encoder", "head")}, experiment.model.config
    folder = str(tmp_path / "adapter")

    def read(reader):
        return lambda: predictor.read_over(folder, reader(), base, config, task, options)

    own = read(lambda: adapter.read(folder))()
    readback.check_conversion("new", read(lambda: formats.read_other(folder, config)), own, True)
    other_tensors(tmp_path / "adapter")
    with pytest.raises(UserError, match=r"The export new does not give the run.s predictions: it gives the logit"):
        readback.check_conversion("new", read(lambda: formats.read_other(folder, config)), own, True)
    (tmp_path / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"The export new .* cannot be read"):
        readback.check_conversion("new", read(lambda: formats.read_other(folder, config)), own, True)
