"""The keys of PEFT's adapter_config.json (peft 0.21): the type of each, and the values that fjt computes."""

import re
from typing import Any

from fjt.core.declared import (
    Entry,
    Table,
    either,
    fixed,
    flag,
    ignored,
    number,
    one_of,
    optional,
    text,
    texts,
    unset,
    whole,
)
from fjt.models.config_entries import QUANTIZED

TYPES = ("LORA", "VERA", "IA3", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING", "LN_TUNING")
# Starts that leave the base weights as they are.  PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA subtract the start from them.
STARTS = ("gaussian", "eva", "orthogonal", "mica")


def _leaves_base(start: Any) -> bool:
    return type(start) is bool or (type(start) is str and start.lower() in STARTS)


def _is_pattern(value: Any) -> bool:
    try:
        return type(value) is str and re.compile(value) is not None
    except re.error:
        return False


NAMES = optional(either(Entry(_is_pattern, "a regular expression"), texts()))
WEIGHTS_TELL = ignored()  # the file's tensors tell; one without a place in the model is refused
COMMON = {
    "peft_type": one_of(*TYPES),
    "task_type": optional(text()),
    "peft_version": optional(text()),
    "auto_mapping": ignored(),
    "base_model_name_or_path": optional(text()),
    "revision": optional(text()),
    "inference_mode": flag(),
    "runtime_config": ignored(),
    "modules_to_save": WEIGHTS_TELL,
    "target_modules": NAMES,
    "exclude_modules": NAMES,
    "quantization_config": unset(QUANTIZED),
}
LAYERED = {
    "bias": fixed("none"),
    "fan_in_fan_out": unset("The layers of fjt's encoders are plain dense layers."),
    "layers_to_transform": unset("A method is in all layers here."),
    "layers_pattern": unset("A method is in all layers here."),
}
RATE = number(0.0, 0.99)
COMPUTED_OTHERWISE = "fjt does not compute this kind of LoRA."
LORA = {
    "r": whole(1, 2**16),
    "lora_alpha": number(0.0, 1e6),
    "lora_dropout": RATE,
    "use_rslora": flag(),
    "use_dora": flag(),
    "rank_pattern": Entry(
        lambda x: (
            x is None
            or (type(x) is dict and all(_is_pattern(k) and type(rank) is int and rank > 0 for k, rank in x.items()))
        ),
        "a table of module names and ranks",
    ),
    "init_lora_weights": Entry(
        _leaves_base,
        f"true, false or one of {', '.join(STARTS)}",
        "With another start the base weights were changed when the adapter was made. Convert the adapter to plain "
        "LoRA: in peft, save_pretrained(..., path_initial_model_for_weight_conversion=START), where START is the "
        "adapter as it was before training.",
    ),
    "alpha_pattern": unset("Here all modules have the same alpha."),
    "lora_bias": unset("Here a LoRA has no bias."),
    "layer_replication": unset("fjt does not copy layers."),
    "target_parameters": unset("A method adapts modules here, not single parameters."),
    "trainable_token_indices": unset("fjt has no single trainable tokens."),
    "ensure_weight_tying": ignored(),  # of embeddings with an output layer, which a classifier has not
    "loftq_config": ignored(),  # settings of a start, which init_lora_weights names
    "eva_config": ignored(),
    "corda_config": ignored(),
    "lora_ga_config": ignored(),
    "qalora_group_size": ignored(),  # has an effect with use_qalora only
    "megatron_core": ignored(),  # has an effect with megatron_config only
} | dict.fromkeys(
    (
        "use_qalora",
        "use_bdlora",
        "megatron_config",
        "alora_invocation_tokens",
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "velora_config",
    ),
    unset(COMPUTED_OTHERWISE),
)
VERA = {
    "r": whole(1, 2**16, needed=True),
    "vera_dropout": RATE,
    "d_initial": number(-1e6, 1e6),
    "save_projection": flag(),
    "projection_prng_key": ignored(),  # the projections are in the file
    "init_weights": ignored(),
}
IA3 = {"feedforward_modules": NAMES, "init_ia3_weights": ignored()}
COUNT = optional(whole(1, 2**20))
CONTEXT = {
    "num_virtual_tokens": COUNT,
    "token_dim": COUNT,
    "num_transformer_submodules": optional(whole(1, 1)),
    "num_attention_heads": COUNT,
    "num_layers": COUNT,
    "encoder_hidden_size": COUNT,
    "prefix_projection": flag(),  # the file holds the projected prefix
    "init_weights": ignored(),
}
PROMPT = {
    "prompt_tuning_init": ignored(),
    "prompt_tuning_init_text": ignored(),
    "tokenizer_name_or_path": ignored(),
    "tokenizer_kwargs": ignored(),
    "encoder_reparameterization_type": ignored(),  # the file holds the prompt that the encoder made
    "encoder_num_layers": ignored(),
    "encoder_dropout": ignored(),
}
OWN = {
    "LORA": LAYERED | LORA,
    "VERA": LAYERED | VERA,
    "IA3": LAYERED | IA3,
    "LN_TUNING": {},
    "PREFIX_TUNING": CONTEXT,
    "PROMPT_TUNING": CONTEXT | PROMPT,
    "P_TUNING": CONTEXT | PROMPT,
}


def entries(kind: Any) -> Table:
    """The table of a `peft_type`; the common keys for one that is unknown."""
    return COMMON | (OWN[kind] if type(kind) is str and kind in OWN else {})
