"""A config.json as it comes: which ones fjt reads, and each way in which one is refused."""

import pytest
import small

from fjt.core.errors import UserError
from fjt.models import config_json, families

RAW = small.CONFIG_JSON


def test_config():
    assert config_json.parse_config(RAW, "config.json") == small.CONFIG
    config = config_json.parse_config(RAW | {"classifier_dropout": 0.3}, "config.json")
    assert config.dropout_classifier == 0.3
    fewest = {key: RAW[key] for key in list(RAW)[:7]}
    assert config_json.parse_config(fewest, "config.json").epsilon == 1e-12  # BERT's, not the usual 1e-5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "brt"}, ("'brt'", "not supported", "bert")),
        ({"model_type": None}, ("None", "bert")),
        ({"position_embedding_type": "relative_key"}, ("relative_key", "absolute")),
        ({"is_decoder": True}, ("is_decoder",)),
        ({"hidden_size": 30}, ("hidden_size 30", "num_attention_heads 4")),
        ({"hidden_act": "gelo"}, ("hidden_act 'gelo'", "Did you mean gelu")),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(change, words):
    with pytest.raises(UserError) as caught:
        config_json.parse_config(RAW | change, "there/config.json")
    assert all(word in str(caught.value) for word in ("there/config.json", *words))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", ["bert"]), ("model_type", {}), ("model_type", 7),
        ("num_hidden_layers", 10**9), ("num_hidden_layers", 0), ("num_hidden_layers", "2"), ("num_hidden_layers", 2.0),
        ("num_hidden_layers", True), ("num_hidden_layers", None), ("num_hidden_layers", [2]),
        ("hidden_size", "32"), ("hidden_size", -32), ("num_attention_heads", 0), ("num_attention_heads", {}),
        ("intermediate_size", 2**40), ("vocab_size", 10**30), ("vocab_size", 0), ("max_position_embeddings", None),
        ("max_position_embeddings", 2), ("type_vocab_size", 0), ("layer_norm_eps", "1e-12"), ("layer_norm_eps", -1),
        ("layer_norm_eps", float("nan")), ("hidden_dropout_prob", 7), ("hidden_dropout_prob", None),
        ("attention_probs_dropout_prob", float("inf")), ("classifier_dropout", "no"), ("classifier_dropout", 1.0),
        ("initializer_range", False), ("hidden_act", ["gelu"]), ("hidden_act", None), ("pad_token_id", "0"),
        ("num_labels", 10**30), ("num_labels", "2"), ("_num_labels", -1),
        ("id2label", ["no", "yes"]), ("id2label", {"no": 0}), ("id2label", "no"), ("label2id", [0]),
        ("architectures", "BertModel"), ("problem_type", ["both"]), ("quantization_config", {"bits": 4}),
        ("is_decoder", "yes"), ("add_cross_attention", True), ("pruned_heads", {"0": [1]}),
        ("auto_map", {"AutoModel": "own.Own"}), ("position_embedding_type", ["absolute"]),
    ],
)  # fmt: skip
def test_a_value_of_another_type_or_out_of_range_is_refused_with_file_and_key(key, value):
    with pytest.raises(UserError, match=rf"there/config\.json: {key}[ =]") as caught:
        config_json.parse_config(RAW | {key: value}, "there/config.json")
    assert "Error" not in str(caught.value)


@pytest.mark.parametrize("raw", [[1, 2], None, "bert", 5])
def test_a_config_that_is_no_table_is_refused(raw):
    with pytest.raises(UserError, match=r"there/config\.json should be a table"):
        config_json.parse_config(raw, "there/config.json")


def test_roberta_s_positions_start_behind_its_padding():
    raw = RAW | {"model_type": "roberta"}
    for pad in (None, 62, -1):
        with pytest.raises(UserError, match=r"c\.json"):
            config_json.parse_config(raw | {"pad_token_id": pad}, "c.json")
    assert config_json.parse_config(raw | {"pad_token_id": 60}, "c.json").max_tokens == 3
    assert config_json.parse_config(RAW | {"pad_token_id": None}, "c.json") == small.CONFIG  # BERT's is not read


def test_keys_that_are_not_read_are_listed_once():
    assert config_json.unread_keys(RAW | {"transformers_version": "5", "hidden_norm": None}, "m") == ""
    found = config_json.unread_keys(RAW | {"rope_theta": 1e4, "adapters": {}}, "m")
    assert found == "m/config.json has keys that fjt does not read: adapters, rope_theta"


def test_a_config_that_is_missing_broken_or_incomplete(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        config_json.read_config(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert",')
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        config_json.read_config(str(tmp_path))
    raw = {key: value for key, value in RAW.items() if key != "hidden_size"}
    with pytest.raises(UserError, match="lacks 'hidden_size'"):
        config_json.parse_config(raw, "config.json")


def test_scratch_config_is_one_that_fjt_reads():
    from configs import base
    from fjt.core import settings

    scratch = settings.from_config(base.get_config()).experiment.model.scratch
    config = config_json.parse_config(families.scratch_config(scratch, 1000, 64), "config.model.scratch")
    assert (config.layers, config.width, config.vocab, config.positions) == (2, 128, 1000, 64)
    assert config.epsilon == 1e-12
