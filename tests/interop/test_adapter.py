"""What a run takes over from the adapter that it starts from."""

import dataclasses

import numpy as np
import pytest
import small

from fjt.core.errors import UserError
from fjt.interop import peft
from fjt.interop.adapter import Adapter, adopt, put, read, write
from fjt.tuning import partition


def adapter_of(tune, **trained):
    return Adapter(partition.find_methods(tune), trained, "base", "", "")


def adopted(adapter, *method, **options):
    return partition.find_methods(adopt(small.tune(*method, **options), adapter)[0])


@pytest.mark.parametrize(
    "tune",
    [
        small.tune("lora", rank=3, sites=("key",)),
        small.tune("lora", ranks=(2, 5)),
        small.tune("lora", "bitfit"),
        small.tune("houlsby", "compacter"),
        small.tune("prefix", "p_tuning"),
        small.tune("prefix", "p_tuning", projection=16),
    ],
)
def test_the_options_are_those_of_the_adapter(tune, tmp_path):
    """Also when two methods have another default each; read back from its files."""
    write(tmp_path, adapter_of(tune))
    again = read(tmp_path)
    assert again.methods == partition.find_methods(tune)
    assert adopted(again, *tune.method) == again.methods


@pytest.mark.parametrize(
    ("tune", "given", "words"),
    [
        (small.tune("lora", rank=3), {"rank": 4}, r"rank=4.*config\.model\.adapter, 3"),
        (small.tune("lora", ranks=(2, 5)), {"rank": 4}, "ranks by site"),
        (small.tune("lora", rank=3), {"ranks": (2, 5)}, r"ranks=\(2, 5\)"),
    ],
)
def test_options_that_would_change_its_shapes(tune, given, words):
    with pytest.raises(UserError, match=words):
        adopted(adapter_of(tune), *tune.method, **given)


def test_values_that_no_run_can_have():
    methods = partition.find_methods(small.tune("houlsby", "compacter"))
    methods["houlsby"] = methods["houlsby"] | {"activation": "relu"}
    with pytest.raises(UserError, match=r"several values of config\.tune\.activation"):
        adopted(Adapter(methods, {}, "base", "", ""), "houlsby", "compacter")


def test_the_dropout_rate_may_differ():
    assert adopted(adapter_of(small.tune("lora")), "lora", dropout=0.5)["lora"]["dropout"] == 0.5


def test_a_leaf_that_is_lacking():
    adapter = adapter_of(small.tune("vera"), **{"adapters/vera/a": np.zeros((2, 2), np.float32)})
    params = {f"adapters/vera/{name}": np.zeros((2, 2), np.float32) for name in "ab"}
    with pytest.raises(UserError, match=r"lacks adapters/vera/b"):
        put(adapter, params, keep_head=False, family="bert")
    assert set(put(Adapter({}, adapter.trained, "", "", ""), params, keep_head=False, family="bert")) == set(params)


def test_peft_cannot_hold_the_pooler_twice():
    """Its own weights beside a low-rank update of them: peft reads such a file without a word, and wrongly."""
    leaf, names = np.zeros((2, 2), np.float32), ("adapters/lora/pooler/a", "adapters/lora/pooler/b")
    tune = small.tune("lora", sites=("pooler",))
    alone = adapter_of(tune, **dict.fromkeys(names, leaf))
    both = adapter_of(tune, **dict.fromkeys((*names, "head/pooler/kernel"), leaf))
    assert peft.refusal(alone, small.CONFIG) is None and "pooler" in peft.refusal(both, small.CONFIG)
    gated = dataclasses.replace(alone, methods={"lora": alone.methods["lora"] | {"gating": True}})
    assert "no gated lora" in peft.refusal(gated, small.CONFIG)


@pytest.mark.parametrize(
    ("head", "types", "held"), [("token", 2, True), ("span", 2, False), ("span", 1, True), ("choice", 1, False)]
)
def test_peft_holds_learned_prompts_of_its_own_task_types_alone(head, types, held):
    """Its class for questions leaves token types out, and it has none for choices."""
    learned = Adapter({"prompt": partition.complete("prompt", {})}, {}, "", "", "")
    config = dataclasses.replace(small.CONFIG, types=types)
    assert (peft.refusal(learned, config, head) is None) == held
