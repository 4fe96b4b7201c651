"""The families of encoders by name.  A new one is a file of its own and a line here, or `register` from outside."""

from collections.abc import Iterable

from fjt.models.bert import BERT, scratch_config
from fjt.models.family import Family
from fjt.models.roberta import ROBERTA, XLM_ROBERTA

__all__ = ["FAMILIES", "find_family", "hub_files", "register", "rename", "scratch_config"]

FAMILIES: dict[str, Family] = {}


def register(family: Family) -> None:
    """Makes a Family known under its name."""
    FAMILIES[family.name] = family


for _family in (BERT, ROBERTA, XLM_ROBERTA):
    register(_family)


def find_family(name: str) -> Family:
    """The Family of a `model_type`.

    Raises:
        KeyError: it is unknown; `config_json.parse_config` says so to users.
    """
    return FAMILIES[name]


def rename(name: str) -> str:
    """The present name of a parameter in a file that an earlier version of fjt may have written."""
    module, _, leaf = name.rpartition("/")
    renamed = {old: new for family in FAMILIES.values() for old, new in family.renamed.items()}
    return f"{renamed.get(module, module)}/{leaf}"


def hub_files() -> list[str]:
    """The patterns of the files that a model hub's repository is read from."""
    files: Iterable[str] = (name for family in FAMILIES.values() for group in family.tokenizer for name in group)
    common = ("config.json", "*.safetensors", "model.safetensors.index.json", "tokenizer_config.json")
    return sorted({*common, "special_tokens_map.json", *files})
