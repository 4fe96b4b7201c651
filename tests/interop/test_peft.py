"""PEFT's directories as they come: each key that changes what an adapter computes is computed or refused."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
import small

from fjt.core.errors import UserError
from fjt.interop import adapter as adapters
from fjt.interop import formats, peft

ROOT = "base_model.model."
RNG = np.random.default_rng(3)


def lora_tensors(rank=2, prefix="bert.", root=ROOT):
    """A LoRA of the queries of the small encoder."""
    width, tensors = small.CONFIG.width, {}
    for i in range(small.CONFIG.layers):
        name = f"{root}{prefix}encoder.layer.{i}.attention.self.query"
        tensors[f"{name}.lora_A.weight"] = RNG.normal(size=(rank, width)).astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = RNG.normal(size=(width, rank)).astype(np.float32)
    return tensors


def write(folder, tensors=None, **about):
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"]} | about
    (folder / peft.CONFIG).write_text(json.dumps({key: value for key, value in whole.items() if value is not ...}))
    safetensors.numpy.save_file(lora_tensors() if tensors is None else tensors, folder / peft.WEIGHTS)
    return folder


def read(folder):
    return formats.read(folder, small.CONFIG)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "OLoRA"),
        ("init_lora_weights", "corda"),
        ("init_lora_weights", "loftq"),
        ("init_lora_weights", "lora_ga"),
        ("init_lora_weights", "of next year"),
        ("init_lora_weights", None),
        ("use_qalora", True),
        ("use_bdlora", {"blocks": 2}),
        ("layer_replication", [[0, 1]]),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("alpha_pattern", {"query": 3}),
        ("target_parameters", ["query.weight"]),
        ("trainable_token_indices", [1, 2]),
        ("layers_to_transform", [0]),
        ("arrow_config", {"top_k": 1}),
        ("alora_invocation_tokens", [5]),
        ("kasa_config", {"beta": 1}),
        ("velora_config", {"rank": 1}),
        ("monteclora_config", {} | {"n": 1}),
        ("megatron_config", {"a": 1}),
        ("quantization_config", {"bits": 8}),
        ("bias", "all"),
        ("bias", True),
        ("r", "2"),
        ("r", 0),
        ("r", True),
        ("lora_alpha", "4"),
        ("lora_alpha", float("nan")),
        ("lora_dropout", 7),
        ("lora_dropout", None),
        ("use_rslora", "no"),
        ("use_dora", 1),
        ("rank_pattern", ["query"]),
        ("rank_pattern", {"query": "2"}),
        ("rank_pattern", {"*query": 2}),
        ("target_modules", "*query"),
        ("exclude_modules", "("),
        ("base_model_name_or_path", ["m"]),
        ("revision", 5),
        ("peft_type", ["LORA"]),
        ("peft_type", None),
        ("peft_type", "LOHA"),
    ],
)
def test_what_fjt_does_not_compute_is_refused_with_file_and_key(tmp_path, key, value):
    folder = write(tmp_path / "a", **{key: value})
    with pytest.raises(UserError, match=rf"a/adapter_config\.json: {key}=") as caught:
        read(folder)
    assert "cut off" not in str(caught.value)
    if key == "init_lora_weights":
        assert "path_initial_model_for_weight_conversion" in str(caught.value)


@pytest.mark.parametrize(
    "about",
    [
        {},
        {"r": ..., "lora_alpha": ...},
        {
            "init_lora_weights": True,
            "loftq_config": {},
            "rank_pattern": {},
            "alpha_pattern": {},
            "layer_replication": None,
        },
        {"init_lora_weights": False, "qalora_group_size": 16, "megatron_core": "megatron.core", "use_qalora": False},
        {"init_lora_weights": "Gaussian"},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        {"rank_pattern": {"query": 2}, "r": 16},
        {"rank_pattern": {"key": 5, r".*self\.query": 2, "query": 9}, "r": 16},
        {"target_modules": "all-linear"},
        {"target_modules": None, "exclude_modules": ["key", "uery"]},
        {"target_modules": r"bert\..*(query|key)"},
        {"target_modules": ["key", "self.query"], "exclude_modules": "query"},
    ],
)
def test_what_changes_nothing_is_read(tmp_path, about):
    rank = 8 if about.get("r") is ... else 2
    adapter = read(write(tmp_path / "a", lora_tensors(rank), **about))
    assert adapter.methods["lora"]["rank"] == rank and adapter.unread == ""
    assert adapter.methods["lora"]["alpha"] == (8.0 if rank == 8 else 4.0)


def test_a_rank_that_the_config_does_not_name_is_refused(tmp_path):
    for i, about in enumerate(({"r": 4}, {"rank_pattern": {"query": 4}}, {"rank_pattern": {"y": 2}, "r": 4})):
        with pytest.raises(UserError, match=r"layer\.0\.attention\.self\.query are of rank 2, but its config says 4"):
            read(write(tmp_path / str(i), **about))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target_modules", ["value", "uery"]),
        ("target_modules", "query"),  # a string is a regular expression of whole names
        ("target_modules", r".*layer\.1.*query"),
        ("exclude_modules", ["query"]),
        ("exclude_modules", r".*layer\.0.*"),
    ],
)
def test_a_config_that_leaves_out_modules_of_its_tensors_is_refused(tmp_path, key, value):
    with pytest.raises(UserError, match=rf"{key}=.* leaves out bert\.encoder\.layer\.0\.attention\.self\.query"):
        read(write(tmp_path / "a", **{key: value}))


@pytest.mark.parametrize("kind", ["PREFIX_TUNING", "PROMPT_TUNING"])
def test_a_context_of_another_length_than_its_config_s_is_refused(tmp_path, kind):
    width = small.CONFIG.width * (2 * small.CONFIG.layers if kind == "PREFIX_TUNING" else 1)
    about = {"peft_type": kind, "r": ..., "lora_alpha": ..., "target_modules": ...}
    tensors = {"prompt_embeddings": np.ones((3, width), np.float32)}
    read(write(tmp_path / "a", tensors, **about, num_virtual_tokens=3))
    with pytest.raises(UserError, match="has 3 rows, but its config says num_virtual_tokens=20"):
        read(write(tmp_path / "b", tensors, **about, num_virtual_tokens=20))


def test_keys_of_later_versions_are_listed(tmp_path):
    adapter = read(write(tmp_path / "a", new_in_peft=1, none=None))
    assert adapter.unread.endswith("a/adapter_config.json has keys that fjt does not read: new_in_peft")
    adapters.write(tmp_path, adapter)
    assert adapters.read(tmp_path).unread == ""  # the form of fjt itself has no such keys


def test_keys_without_the_family_s_prefix_are_read_as_those_with_it(tmp_path):
    tensors = lora_tensors()
    bare = {key.replace("bert.", ""): tensor for key, tensor in tensors.items()}
    found, expected = (read(write(tmp_path / name, x)).trained for name, x in (("bare", bare), ("whole", tensors)))
    assert {name: x.tobytes() for name, x in found.items()} == {name: x.tobytes() for name, x in expected.items()}


def test_a_pickled_adapter_names_the_option_that_saves_it_again(tmp_path):
    folder = write(tmp_path / "a")
    (folder / peft.WEIGHTS).rename(folder / peft.PICKLED)
    with pytest.raises(UserError, match=r"adapter_model\.bin.*safe_serialization=True"):
        read(folder)


def test_files_that_peft_saved_over_those_of_a_run_are_not_passed_over(tmp_path):
    """Of a higher rank in fjt's files too, which have columns that PEFT's lack."""
    folder = write(tmp_path, lora_tensors(rank=2))
    found = read(folder)
    wide = {name: np.pad(x, [(0, 2 * (n == 2)) for n in x.shape]) for name, x in found.trained.items()}
    adapters.write(folder, dataclasses.replace(found, trained=wide))
    assert read(folder).trained.keys() == wide.keys()
    write(tmp_path, lora_tensors(rank=2))
    with pytest.raises(UserError, match=r"two adapters: adapters/lora/.* Remove the files fjt_adapter"):
        read(folder)


def test_the_folders_below_are_named(tmp_path):
    write(tmp_path / "one" / "first")
    with pytest.raises(UserError, match=r"is not an adapter.*--config\.model\.adapter=.*one/first\.$"):
        read(tmp_path / "one")
    write(tmp_path / "one" / "second")
    with pytest.raises(UserError, match=r"several: first, second\."):
        read(tmp_path / "one")
    with pytest.raises(UserError, match="There is no directory"):
        read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: np.full_like(x, np.nan), "nan"),
        (lambda x: np.full(x.shape, 1e200), "beyond float32"),
        (lambda x: x.astype(np.int8), "of type int8"),
    ],
)
def test_tensors_that_cannot_be_used_are_named_with_their_file(tmp_path, change, words):
    tensors = lora_tensors()
    key = sorted(tensors)[0]
    with pytest.raises(UserError, match=rf"a/adapter_model\.safetensors.*the tensor {key}.*{words}"):
        read(write(tmp_path / "a", tensors | {key: change(tensors[key])}))


@pytest.mark.parametrize(("key", "value"), [("num_layers", 3), ("num_attention_heads", 2), ("token_dim", 64)])
def test_a_prefix_of_another_encoder_is_refused(tmp_path, key, value):
    """With other heads the same numbers would be another prefix, without a word."""
    flat = RNG.normal(size=(3, 2 * small.CONFIG.layers * small.CONFIG.width)).astype(np.float32)
    about = {"peft_type": "PREFIX_TUNING", "r": ..., "lora_alpha": ..., "num_virtual_tokens": 3}
    assert set(read(write(tmp_path / "a", {"prompt_embeddings": flat}, **about)).methods) == {"prefix"}
    with pytest.raises(UserError, match=rf"{key}={value} is of another encoder"):
        read(write(tmp_path / "b", {"prompt_embeddings": flat}, **about, **{key: value}))
