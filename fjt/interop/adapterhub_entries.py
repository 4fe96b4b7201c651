"""The keys of AdapterHub's adapter_config.json (adapters 1.3): the type of each, and the values that fjt computes.

Which values tell one method from another is in its row, `fjt.tuning.forms.HubForm`.
"""

from typing import Any

from fjt.core import declared
from fjt.core.declared import Entry, Table, ignored, optional, text, unset
from fjt.core.declared import whole as integer
from fjt.models.config_entries import QUANTIZED

OUTER = {
    "config": declared.table(needed=True),
    "model_type": optional(text()),
    "model_name": optional(text()),
    "model_class": optional(text()),
    "hidden_size": optional(integer(1, 2**16)),
    "name": optional(text()),
    "version": optional(text()),
    "quantization_config": unset(QUANTIZED),
}
COMMON = {"architecture": optional(text()), "init_weights": ignored(), "init_weights_seed": ignored()}
UNION: Table = {
    "architecture": ignored(),
    "configs": Entry(lambda x: type(x) is list and all(type(part) is dict for part in x), "a list of tables", "", True),
}


def _is_ids(value: Any) -> bool:
    if type(value) is not dict or not all(type(i) is int for i in value.values()):
        return False
    return sorted(value.values()) == list(range(len(value)))


HEAD = {"label2id": optional(Entry(_is_ids, "a table of labels and their ids, from 0 on"))}
