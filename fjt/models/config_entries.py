"""The keys of config.json that all families have in common, each with its type and with what fjt computes."""

import re
from typing import Any

from fjt.core import declared
from fjt.core.declared import Entry, Table, ignored, one_of, optional, text, texts, unset

QUANTIZED = "fjt reads float weights only: save the model again without quantization."
# Keys whose values change nothing of what fjt computes.
WITHOUT_EFFECT = """
    _attn_implementation _commit_hash _name_or_path attn_implementation bos_token_id cls_token_id dtype
    eos_token_id finetuning_task mask_token_id output_attentions output_hidden_states output_past return_dict
    sep_token_id tokenizer_class torch_dtype torchscript unk_token_id
""".split()


def _is_label_table(value: Any) -> bool:
    return type(value) is dict and all(
        re.fullmatch("[0-9]{1,9}", key) and type(name) in (str, int, float) for key, name in value.items()
    )


LABELS = 'a table of ids and label names, such as {"0": "no", "1": "yes"}'
# fjt ignores the number, but `transformers` makes as many names when it reads a tokenizer.
COUNT = optional(declared.whole(0, 10**6))
CALIBRATION = "fjt_calibration"  # of an export: what `python -m fjt.calibrate` fitted; a new run starts without it
ENTRIES: Table = dict.fromkeys(WITHOUT_EFFECT, ignored()) | {
    "model_type": ignored(),  # it names the family, whose own table is `Family.entries`
    "position_embedding_type": one_of("absolute"),
    "is_decoder": unset("fjt fine-tunes encoders."),
    "is_encoder_decoder": unset("fjt fine-tunes encoders."),
    "quantization_config": unset(QUANTIZED),
    "compression_config": unset(QUANTIZED),
    "auto_map": unset("The model runs code of its own, which fjt does not; choose a model without it."),
    "id2label": optional(Entry(_is_label_table, LABELS)),
    "num_labels": COUNT,
    "_num_labels": COUNT,
    "label2id": optional(declared.table()),
    "architectures": optional(texts()),
    "problem_type": optional(text()),
    "transformers_version": optional(text()),
    CALIBRATION: optional(declared.table()),
}
