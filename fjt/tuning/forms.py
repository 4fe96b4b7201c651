"""How a method is written in open formats: the fields of its row that PEFT and AdapterHub directories need.

Module names come from a function `module(path)`: the PyTorch name of a module below the encoder, such as
`layer_0/query`.  The files' layout, the head and everything else that all methods share are `fjt/interop`'s.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from fjt.core.declared import Table
from fjt.core.errors import UserError
from fjt.models.encoder import EncoderConfig

Tensors = dict[str, Float[np.ndarray, "..."]]
Module = Callable[[str], str]
PEFT = "base_model.model."  # before the name of every module of the base model
PROMPT = "prompt_embeddings"  # PEFT's key of learned context


def hold_all(options: dict) -> str | None:
    """None: the format holds a method with any options."""
    del options
    return None


def no_tensors(leaves: dict, options: dict, config: EncoderConfig, module: Module) -> tuple[Tensors, dict]:
    """Neither tensors nor config entries."""
    del leaves, options, config, module
    return {}, {}


@dataclasses.dataclass(frozen=True)
class PeftForm:
    """A method in a PEFT directory.

    type: `peft_type`.
    accepts(about) -> whether an adapter_config.json is read as this method; about: its entries.
    refuse(options) -> why PEFT cannot hold the method with these options, or None.
    write(leaves, options, config, module) -> ({key: tensor}, the method's entries of adapter_config.json).
    leaves: {the end of a key: leaf} of the tensors at a module; keys: the whole keys of all other tensors.
    read(about, placed, whole, config) -> (options, {path: leaf}); placed: {(path, leaf): tensor} of the tensors at
    modules, whole: {key: tensor} of the others.  Raises UserError for tensors that do not fit; the caller adds the
    directory's name.
    root: what stands before the names of the base model's modules that are saved whole.
    wrapped: the name under which PEFT keeps a base module that the method trains; holds(module): whether it is one.
    """

    type: str
    accepts: Callable[[dict], bool]
    read: Callable[[dict, dict, Tensors, EncoderConfig], tuple[dict, Tensors]]
    write: Callable[[dict, dict, EncoderConfig, Module], tuple[Tensors, dict]] = no_tensors
    refuse: Callable[[dict], str | None] = hold_all
    leaves: dict[str, str] = dataclasses.field(default_factory=dict)
    keys: tuple[str, ...] = ()
    root: str = PEFT
    wrapped: str = ""
    holds: Callable[[str], bool] = lambda module: False


@dataclasses.dataclass(frozen=True)
class HubForm:
    """A method in an AdapterHub directory.

    architecture: the config's; one directory holds one method of each.
    entries: the table of the architecture's config.
    pattern: a regular expression of the keys of the architecture's tensors.
    accepts(own) -> whether a config of the architecture is read as this method; own: its entries.
    facts: the entries by which the methods of an architecture are told apart, for messages.
    refuse(options) -> why AdapterHub cannot hold the method with these options, or None.
    write(leaves, options, config, module, name) -> ({key: tensor}, the "config" of adapter_config.json); name: the
    adapter's, which is part of the keys.
    read(own, tensors, config, module) -> (options without gating, {path: leaf}).  Raises UserError for tensors that do
    not fit; the caller adds the directory's name.
    """

    architecture: str
    pattern: str
    accepts: Callable[[dict], bool]
    write: Callable[[dict, dict, EncoderConfig, Module, str], tuple[Tensors, dict]]
    read: Callable[[dict, Tensors, EncoderConfig, Module], tuple[dict, Tensors]]
    refuse: Callable[[dict], str | None] = hold_all
    facts: tuple[str, ...] = ()
    entries: Table = dataclasses.field(default_factory=dict)


def no_place(key: str) -> UserError:
    """The error of a tensor that no module of the model takes."""
    return UserError(f"the tensor {key} has no place in this model.")


def check_entries(own: dict, expected: dict) -> None:
    """Raises UserError where a config differs from the only values that are supported.

    Args:
        own: entries of a config; one that it leaves out has the supported value.
        expected: {key: the supported value}.
    """
    for key, value in expected.items():
        if own.get(key, value) != value:
            raise UserError(f"{key}={own[key]!r} is not supported, only {value!r}.")
