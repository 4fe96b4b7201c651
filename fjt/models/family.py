"""The seam for model families: all that differs from one family of encoders to another is a field of `Family`."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from fjt.core import declared


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """The shape and the constants of an encoder, which a config.json gives under other names.

    family: the name of the Family.  positions: rows of its table of positions, None where it has none.
    first_position: the row of an example's first token.  types: the number of token types; with one, all are type 0.
    """

    family: str
    layers: int
    width: int
    heads: int
    inner: int
    vocab: int
    positions: int
    types: int
    epsilon: float
    activation: str
    stddev: float
    dropout_hidden: float
    dropout_attention: float
    dropout_classifier: float
    first_position: int = 0

    @property
    def max_tokens(self) -> int:
        """The number of tokens of the longest example."""
        return self.positions - self.first_position


class Site(NamedTuple):
    """A dense layer between the embeddings and the logits.

    inputs, outputs: its widths.  in_layers: whether it is in each layer, else it is once in the head.
    """

    inputs: int
    outputs: int
    in_layers: bool = True


@dataclasses.dataclass(frozen=True)
class Head:
    """A head of a family: what turns the vectors at the slots into logits.

    module: a Linen module with the fields `classes`, `config` and `dtype`; called with (h f[G, S, D], batch, noise,
    hooks), it returns logits f[G, S, C].  noise: None, or (key pair u32[], dropout rate f32[]).
    modules: {module below `head/`: PyTorch module}; a module has the same PyTorch name in all heads of a family.
    architecture: the class of PyTorch `transformers`.
    pretrained: the modules that a pretrained encoder's checkpoint holds.  The others are new for a task.
    tied: the encoder's leaf that the module is called with as its last argument; "" for none.
    """

    module: type[nn.Module]
    modules: Mapping[str, str]
    architecture: str
    pretrained: tuple[str, ...] = ()
    tied: str = ""


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of encoders: one instance per `model_type`, in a file of this folder, known by `families.register`.

    name: `model_type` in config.json.
    parse(raw) -> EncoderConfig of a config.json.  Raises KeyError for an entry that it lacks.
    describe(config) -> the entries of a config.json from which `parse` makes it: an export has no others.
    embeddings: a Linen module with the fields `config` and `dtype`; called with (batch, hooks), it returns
    f[G, R, L, D].
    block: the Linen module of a layer, called as `blocks.PostNormLayer` is.
    sites(config) -> {name: Site}: the dense layers but the last one; tuning methods can enter those that they know.
    prefix: what stands before the PyTorch names of the encoder's tensors, without its dot.
    modules: {module below `encoder/`: PyTorch module below the prefix}; `{i}` is a layer.
    heads: {name: Head}; a Problem names the one that it needs.
    tokenizer: the alternatives of files from which a tokenizer is built, the first one that is there is read.
    renamed: {module: module} of names in files that earlier versions of fjt wrote.
    entries: the keys of config.json that the family reads, besides those of `config_entries.ENTRIES`.
    sharding: ((pattern of a parameter's name, axis of the mesh for each of its axes), ...) where devices share a layer.
    """

    name: str
    parse: Callable[[dict[str, Any]], EncoderConfig]
    describe: Callable[[EncoderConfig], dict[str, Any]]
    embeddings: type[nn.Module]
    block: type[nn.Module]
    sites: Callable[[EncoderConfig], dict[str, Site]]
    prefix: str
    modules: Mapping[str, str]
    heads: Mapping[str, Head]
    tokenizer: tuple[tuple[str, ...], ...]
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    entries: declared.Table = dataclasses.field(default_factory=dict)
    sharding: tuple[tuple[str, tuple[str | None, ...]], ...] = ()

    def torch_module(self, module: str) -> str:
        """The PyTorch name of a module such as `encoder/layer_0/query` or `head/classifier`.

        Raises:
            KeyError: the family has no such module.
        """
        part, _, path = module.partition("/")
        if part == "head":
            return next(head.modules[path] for head in self.heads.values() if path in head.modules)
        first, _, rest = path.partition("/")
        layer = first.removeprefix("layer_")
        pattern = f"layer_{{i}}/{rest}" if layer != first else path
        return f"{self.prefix}.{self.modules[pattern].format(i=layer)}"

    def is_new(self, name: str) -> bool:
        """Whether a parameter is one of a head that a pretrained checkpoint does not hold."""
        part, _, path = name.partition("/")
        return part == "head" and not any(path.split("/")[0] in head.pretrained for head in self.heads.values())

    def pretrained_head(self) -> tuple[str, ...]:
        """The modules `head/...` that a pretrained checkpoint holds, such as a pooler."""
        return tuple(dict.fromkeys(f"head/{module}" for head in self.heads.values() for module in head.pretrained))

    def torch_parts(self) -> set[str]:
        """The first parts of the PyTorch names below the prefix, which stand alone in a file of a bare encoder."""
        prefix = f"{self.prefix}."
        head = [module for module in map(self.torch_module, self.pretrained_head()) if module.startswith(prefix)]
        return {module.removeprefix(prefix).split(".")[0] for module in (*self.modules.values(), *head)}

    def whole_name(self, name: str) -> str:
        """A PyTorch name with the prefix, which the names in a file of a bare encoder lack."""
        return f"{self.prefix}.{name}" if name.split(".")[0] in self.torch_parts() else name

    def saved_module(self, module: str) -> str:
        """The part of the PyTorch model that holds a module of the head and is saved whole, such as `classifier`."""
        return self.torch_module(module).removeprefix(f"{self.prefix}.").split(".")[0]
