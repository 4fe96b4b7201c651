"""One method or several methods combined: their leaves, the trainable parameters, and what both imply."""

import dataclasses
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import tree
from fjt.core.errors import UserError, suggest
from fjt.core.options import TuneConfig
from fjt.core.tree import Tree
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig
from fjt.models.layers import Hooks, compose
from fjt.models.torch_names import torch_name
from fjt.tuning import cost
from fjt.tuning.method import Key, Options, Stages, Values, add_nothing, base_module, places, sites_of
from fjt.tuning.registry import METHODS

Methods = dict[str, Options]  # {name: options}, in the order of the hooks


@dataclasses.dataclass(frozen=True)
class Adapt:
    """The hooks of several methods, as `Model.adapt`.  Equal values share a program.

    Attributes:
        chosen: ((name, ((option, value), ...)), ...), only the options that are built into the program.
    """

    chosen: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]

    def __call__(self, adapters: Tree, values: Mapping[str, Values]) -> Hooks:
        """The Hooks of the methods.

        Args:
            adapters: {method: tree of new leaves}.
            values: {method: {name: f32[] or f32[7]}}.
        """
        hooks = [
            METHODS[name].hooks(adapters[name], values.get(name, {}), dict(options))
            for name, options in self.chosen
            if name in adapters
        ]
        return compose(*hooks) if hooks else Hooks()


def find_methods(tune: TuneConfig) -> Methods:
    """{name: options} of the chosen methods, each with its defaults, in the order of their hooks.

    That is the order of METHODS, whatever the order in the config: IA3 scales the sum that LoRA has added to.

    Args:
        tune: the options.

    Raises:
        UserError: an unknown method, methods that cannot be combined, or options that no method reads.
    """
    if not tune.method:
        raise UserError(f"config.tune.method is empty; give one of {', '.join(METHODS)}.")
    for name in tune.method:
        if name not in METHODS:
            raise UserError(f"config.tune.method={name!r} is unknown.{suggest(name, METHODS)}")
    if len(set(tune.method)) < len(tune.method):
        raise UserError(f"config.tune.method={tune.method} names a method twice.")
    for name in METHODS:
        if name in tune.method and METHODS[name].alone and len(tune.method) > 1:
            raise UserError(
                f"config.tune.method={tune.method}: {name} cannot be combined with other methods; leave it out, or "
                "give it alone."
            )
    given = {name: METHODS[name].exclusive for name in METHODS if name in tune.method}
    for part in given.values():
        several = [name for name, other in given.items() if part and other == part]
        if len(several) > 1:
            raise UserError(
                f"config.tune.method: {' and '.join(several)} change the same part of the model; give one of them."
            )
    read = {option for name in tune.method for option in METHODS[name].options}
    for option in sorted({option for method in METHODS.values() for option in method.options} - read):
        if getattr(tune, option) not in (None, ()):
            raise UserError(
                f"config.tune.{option} is not read by the method{'s' * (len(tune.method) > 1)} "
                f"{' and '.join(tune.method)}."
            )
    if tune.ranks and tune.rank is not None:
        raise UserError("config.tune.ranks gives each site its rank; leave out config.tune.rank.")
    return {name: complete(name, vars(tune)) for name in METHODS if name in tune.method}


def complete(name: str, given: Mapping[str, Any]) -> Options:
    """The options of a method: the given ones, and its defaults for open ones; without rank if there are ranks.

    Args:
        name: of the method.
        given: {option: value}; None and () are open.
    """
    options = {
        option: default if given.get(option) in (None, ()) else given[option]
        for option, default in METHODS[name].options.items()
    }
    if options.get("ranks"):
        del options["rank"]
    return options


def make_adapt(methods: Methods) -> Adapt:
    """The `Model.adapt` of methods."""
    return Adapt(
        tuple((name, tuple((key, options[key]) for key in METHODS[name].built_in)) for name, options in methods.items())
    )


def check(methods: Methods, config: EncoderConfig, max_length: int) -> None:
    """Checks that the options of methods fit the encoder.

    Args:
        methods: {name: options}.
        config: of the encoder.
        max_length: tokens of text.

    Raises:
        UserError: an option does not fit, or learned tokens and text need too many positions.
    """
    for name, options in methods.items():
        METHODS[name].check(config, options)
    taken = {}
    for name, options in methods.items():
        method = METHODS[name]
        if positions := method.prompt_length(options) + method.shift(options):
            taken[f"config.tune.{method.size}={positions}"] = positions
    if sum(taken.values()) + max_length > config.max_tokens:
        where = " and ".join([f"config.model.max_length={max_length}", *taken])
        raise UserError(f"{where} {'are together' if taken else 'is'} above the model's {config.max_tokens} positions.")


def add_leaves(methods: Methods, key: Key, base: Tree, config: EncoderConfig) -> Tree:
    """{method: new leaves} of the methods that add leaves.

    Args:
        methods: {name: options}.
        key: of the seed.
        base: base parameters, arrays or tracers.
        config: of the encoder.
    """
    added = {name: METHODS[name].add(key, base, config, options) for name, options in methods.items()}
    return {name: leaves for name, leaves in added.items() if leaves}


def traced_values(methods: Methods) -> dict[str, Values]:
    """{method: {name: f32[] or f32[7]}} that the step receives as data."""
    found = {name: METHODS[name].values(options) for name, options in methods.items()}
    return {name: {k: np.float32(v) for k, v in values.items()} for name, values in found.items() if values}


def can_merge(methods: Methods) -> bool:
    """Whether `merged` returns a plain model."""
    return all(
        METHODS[name].add is add_nothing or (METHODS[name].merge and not options.get("gating"))
        for name, options in methods.items()
    )


def merged(methods: Methods, params: Tree, config: EncoderConfig) -> Tree:
    """Base parameters {encoder, head} in float32 that give the same logits without new leaves.

    Args:
        methods: {name: options}.
        params: {encoder, head[, adapters]} as numpy arrays.
        config: of the encoder.

    Raises:
        UserError: a method cannot be merged.
    """
    flat = tree.flatten({name: params[name] for name in ("encoder", "head")})
    values = traced_values(methods)
    for name in methods:  # in the order of the hooks
        leaves = params.get("adapters", {}).get(name)
        if leaves is None:
            continue
        merge = METHODS[name].merge
        if merge is None:
            raise UserError(f"The method {name} cannot be merged into the base model; its adapter is kept apart.")
        for site, path in places(config, sites_of(config)):
            leaf = _below(leaves, path)
            if leaf is None:
                continue
            leaf = leaf | {last: shared for last, shared in leaves.items() if is_fixed(f"adapters/{name}/{last}")}
            kernel, bias = f"{base_module(path)}/kernel", f"{base_module(path)}/bias"
            new = merge(np.asarray(flat[kernel], np.float64), flat[bias], leaf, values.get(name, {}), site)
            flat[kernel], flat[bias] = (np.asarray(x, np.float32) for x in new)
    return tree.unflatten(flat)


def _below(leaves: Tree, path: str) -> Any:
    node: Any = leaves
    for part in path.split("/"):
        node = node.get(part) if node else None
    return node


def check_patterns(patterns: Iterable[Any], names: Collection[str], family: str, key: str) -> None:
    """Checks that no pattern is written in PyTorch's names of parameters.

    Args:
        patterns: regular expressions.
        names: of all parameters.
        family: name of the family of the encoder.
        key: the option that the patterns came from, for the message.

    Raises:
        UserError: a pattern matches names of PyTorch and none of fjt; the message has fjt's names.
    """
    torch = {name: torch_name(name, family) for name in names if not name.startswith("adapters/")}
    for pattern in patterns:
        for spelling in _spellings(pattern) if isinstance(pattern, str) and not _search(pattern, names) else ():
            found = [name for name, other in torch.items() if _search(spelling, [other])]
            if found:
                more = f" and {len(found) - 3} more" if len(found) > 3 else ""
                raise UserError(
                    f"config.{key}: the pattern {pattern!r} is written in PyTorch's names; here these parameters are "
                    f"called {', '.join(found[:3])}{more}."
                )


def _spellings(pattern: str) -> Iterator[str]:
    """A pattern, and without the prefixes that other models put before the names; both with today's leaf names."""
    pattern = re.sub(r"\bgamma\b", "weight", re.sub(r"\bbeta\b", "bias", pattern.removeprefix("^")))
    while pattern:
        yield pattern
        pattern = pattern.partition(".")[2].removeprefix("*")


def _search(pattern: str, names: Iterable[str]) -> bool:
    try:
        return any(re.search(pattern, name) for name in names)
    except re.error:
        return False


def multipliers(
    methods: Methods, given: Iterable[Any], trainable: Collection[str], layers: int
) -> dict[str, np.float32]:
    """{name: factor of the learning rate} of each trainable leaf; {} if no method has factors and none is given.

    Factors are data, so that a grid of them, 1.0 included, is one program.

    Args:
        methods: {name: options}.
        given: ((pattern, factor), ...) of config.optim.multipliers.
        trainable: names of the trainable leaves.
        layers: number of layers of the encoder.

    Raises:
        UserError: an entry is not a pattern and a factor, or matches no leaf.
    """
    factors = dict.fromkeys(sorted(trainable), 1.0)
    for name, options in methods.items():
        if multiplier := METHODS[name].multiplier:
            for leaf in factors:
                factors[leaf] *= multiplier(leaf, layers, options)
    for pair in given:
        if not (
            isinstance(pair, (tuple, list)) and len(pair) == 2 and isinstance(pair[1], (int, float)) and pair[1] >= 0
        ):
            raise UserError(f"config.optim.multipliers: {pair!r} should be a pattern and a factor, ('head/', 10.0).")
        for leaf in tree.match([pair[0]], trainable, "optim.multipliers"):
            factors[leaf] *= pair[1]
    if not given and not any(METHODS[name].multiplier for name in methods):
        return {}
    return {name: np.float32(factor) for name, factor in factors.items()}


def reinitialised(names: Iterable[str], config: EncoderConfig, count: int) -> set[str]:
    """The names in the highest `count` layers and the head, which start from random weights (Zhang et al. 2021).

    Args:
        names: of the base parameters.
        config: of the encoder.
        count: number of layers; 0 for no parameter.

    Raises:
        UserError: the encoder has fewer layers.
    """
    if count > config.layers:
        raise UserError(f"config.model.reinit_layers={count}: the encoder has {config.layers} layers.")
    top = [f"encoder/layer_{i}" for i in range(config.layers - count, config.layers)]
    top += find_family(config.family).pretrained_head()
    return {name for name in names if count and "/".join(name.split("/")[:2]) in top}


def is_fixed(name: str) -> bool:
    """Whether a parameter is a new leaf that never trains."""
    found = re.fullmatch(r"adapters/(\w+)/(.+)", name)
    return bool(found) and bool(re.fullmatch(METHODS[found.group(1)].fixed, found.group(2)))


def lasting(params: Tree) -> Tree:
    """Parameters without the new leaves that act only in training.  params: {encoder, head[, adapters]}."""
    kept = {name: leaves for name, leaves in params.get("adapters", {}).items() if not METHODS[name].temporary}
    return {name: params[name] for name in ("encoder", "head")} | ({"adapters": kept} if kept else {})


def count(methods: Methods, params: Tree) -> int:
    """The number of parameters of a tree, without those that only other options of its methods use.

    Args:
        methods: {name: options}.
        params: a tree with all leaves of these methods, or with none.
    """
    leaves = params.get("adapters", {})
    idle = sum(METHODS[name].idle(leaves[name], options) for name, options in methods.items() if name in leaves)
    return tree.count(params) - idle


def prompt_length(methods: Methods) -> int:
    """The number of learned tokens before each example."""
    return sum(METHODS[name].prompt_length(options) for name, options in methods.items())


def trainable_names(params: Tree, config: EncoderConfig, tune: TuneConfig, missing: Collection[str]) -> set[str]:
    """The names of the trainable parameters: those that the methods choose and add, the head, and missing ones.

    Args:
        params: all parameters, or their shapes.
        config: of the encoder.
        tune: the options.
        missing: names that the checkpoint lacked.

    Raises:
        UserError: a new head must not train, the family has no pooler to train, or nothing trains.
    """
    methods, family, layers = find_methods(tune), find_family(config.family), config.layers
    names = list(tree.flatten(params))
    head = {name for name in names if family.is_new(name)}
    pooler = {name for name in names if name.startswith("head/")} - head
    if tune.train_pooler is not None and not pooler:
        raise UserError(
            f"config.tune.train_pooler={tune.train_pooler}: this run's head on a model of type {family.name} has no "
            "pretrained pooler, all of it is new and trains; leave the option out."
        )
    encoder = [name for name in names if name.startswith("encoder/")]
    check_patterns(tune.train, names, config.family, "tune.train")
    opening = [pattern for patterns, _, _ in tune.stages for pattern in patterns]
    check_patterns(opening, names, config.family, "tune.stages")
    for options in methods.values():
        for site, path in places(config, options.get("sites", ())):
            if f"{base_module(path)}/kernel" not in names:
                raise UserError(f"config.tune.sites names {site!r}, which the head of this run does not have.")
    chosen, trains_pooler = set(), tune.train_pooler
    for name, options in methods.items():
        given = [n for n in names if not n.startswith("adapters/")] if METHODS[name].chooses_all else encoder
        chosen |= METHODS[name].choose(given, layers, options)
    if any(METHODS[name].pooler for name in methods) if trains_pooler is None else trains_pooler:
        chosen |= pooler
    elif trains_pooler is False:
        chosen -= pooler
    if tune.train_head is False and head & set(missing):
        raise UserError(
            "config.tune.train_head=False leaves the head as it is, and it is new here: start from one by "
            "config.model.keep_head, or let it train."
        )
    new = {name for name in names if name.startswith("adapters/") and not is_fixed(name)}
    if not (head or chosen or new or missing) and trains_pooler is None:
        chosen = pooler  # all of the head, which is a pretrained one
    chosen = chosen - head if tune.train_head is False else chosen | head
    if not (trains := chosen | new | set(missing)):
        raise UserError(f"Nothing trains: config.tune.method={tune.method} with config.tune.train_head=False.")
    return trains


def stages(
    methods: Methods,
    trainable: Collection[str],
    missing: Collection[str],
    layers: int,
    steps: int,
    steps_per_epoch: int,
) -> Stages:
    """((first step, names that train, factor of the learning rate), ...) of a run: one stage for most methods.

    Args:
        methods: {name: options}.
        trainable: the names that train in some stage.
        missing: the names that the checkpoint lacked.
        layers: the number of layers of the encoder.
        steps: optimizer steps of the run.
        steps_per_epoch: optimizer steps per epoch.
    """
    for name, options in methods.items():
        if divide := METHODS[name].stages:
            return divide(options, trainable, missing, layers, steps, steps_per_epoch)
    return ((0, trainable, 1.0),)


def opened(plan: Stages) -> tuple[frozenset[str], ...]:
    """The names that begin to train in each of the stages; () of a run with one stage."""
    found: tuple[frozenset[str], ...] = ()
    for _, names, _ in plan:
        found = (*found, frozenset(names).difference(*found))
    return found if len(plan) > 1 else ()


def has_stages(names: Collection[str]) -> bool:
    """Whether one of the methods of these names trains other parameters in later stages of a run."""
    return any(METHODS[name].stages for name in names)


def lowest_layer(trainable: Iterable[str], layers: int) -> int:
    """The lowest layer with a trainable parameter: -1 for the embeddings, `layers` if there is none."""
    return min((cost.place(name, layers)[0] for name in trainable), default=layers)


def split_below(params: Tree, layer: int, layers: int) -> tuple[Tree, Tree]:
    """(the parameters that act only below a layer, the others), each a nested dict."""
    return tree.split(params, {name for name in tree.flatten(params) if cost.place(name, layers)[0] < layer})


def abstract_leaves(methods: Methods, base: Tree, config: EncoderConfig) -> Tree:
    """The shapes of `add_leaves`."""
    return jax.eval_shape(lambda key, base: add_leaves(methods, key, base, config), jnp.zeros(2, jnp.uint32), base)
