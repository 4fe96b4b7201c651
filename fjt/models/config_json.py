"""Reading of config.json: the EncoderConfig of a Hugging Face directory, and the keys that fjt does not read."""

import os
from typing import Any

from fjt.core import declared, records
from fjt.core.errors import UserError, suggest
from fjt.models.config_entries import ENTRIES
from fjt.models.families import FAMILIES, find_family
from fjt.models.family import EncoderConfig
from fjt.models.layers import ACTIVATIONS


def read_config(path: str) -> tuple[EncoderConfig, dict[str, Any]]:
    """(EncoderConfig, contents of config.json) of a directory.

    Args:
        path: the directory.

    Raises:
        UserError: there is no config.json, or fjt does not support the model.
    """
    file = os.path.join(path, "config.json")
    raw = records.read_json(file, remedy="config.model.path should name a Hugging Face model directory.")
    return parse_config(raw, file), raw


def parse_config(raw: Any, file: str) -> EncoderConfig:
    """The EncoderConfig of the contents of a config.json.

    Args:
        raw: the contents.
        file: its name, for messages.

    Raises:
        UserError: fjt does not support the model.
    """
    declared.check(raw, {}, file)
    family = raw.get("model_type")
    if type(family) is not str or family not in FAMILIES:
        raise UserError(
            f"{file}: model_type {family!r} is not supported, only {', '.join(FAMILIES)}.{suggest(family, FAMILIES)}"
        )
    declared.check(raw, ENTRIES | FAMILIES[family].entries, file)
    try:
        config = FAMILIES[family].parse(raw)
    except KeyError as error:
        raise UserError(f"{file} lacks {error}.") from None
    if config.activation not in ACTIVATIONS:
        hint = suggest(config.activation, ACTIVATIONS)
        raise UserError(f"{file}: hidden_act {config.activation!r} is not supported.{hint}")
    if config.width % config.heads:
        raise UserError(f"{file}: hidden_size {config.width} is not a multiple of num_attention_heads {config.heads}.")
    if config.max_tokens < 3:
        raise UserError(
            f"{file}: max_position_embeddings {config.positions} is too small for a text: its first token is at "
            f"position {config.first_position}."
        )
    return config


def unread_keys(raw: dict[str, Any], place: str) -> str:
    """A sentence that lists the keys of a config.json that fjt does not read, "" without any.

    Args:
        raw: the contents of the config.json.
        place: its directory.
    """
    entries = ENTRIES | find_family(raw["model_type"]).entries
    return declared.undeclared(raw, entries, os.path.join(place, "config.json"))
