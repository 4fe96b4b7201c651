"""One method or several at once: which leaves there are, which of them train, and what follows from it."""

import dataclasses
import re
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import tree
from fjt.core.errors import UserError, suggest
from fjt.models.families import find_family
from fjt.models.layers import Hooks, compose
from fjt.tuning import cost
from fjt.tuning.method import add_nothing, base_module, places, sites_of
from fjt.tuning.registry import METHODS


@dataclasses.dataclass(frozen=True)
class Adapt:
    """The hooks of a tuple of methods, as `Model.adapt`; equal by value, and then one program.

    chosen: ((name, ((option, value), ...)), ...), of the options only those that are built into the program.
    """

    chosen: tuple

    def __call__(self, adapters, values):
        """Hooks of the new leaves {method: tree} and their traced values {method: {name: f32[] or f32[7]}}."""
        hooks = [
            METHODS[name].hooks(adapters[name], values.get(name, {}), dict(options))
            for name, options in self.chosen
            if name in adapters
        ]
        return compose(*hooks) if hooks else Hooks()


def find_methods(tune):
    """{name: options} of TuneConfig, each with its defaults, in the order in which their hooks enter.

    That is the order of METHODS, whatever the order given: IA3 scales what LoRA has added to.

    Raises UserError for an unknown method, for a combination that says nothing, and for options that none reads.
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
                f"config.tune.method={tune.method}: {name} cannot be combined; leave it out, or give it alone."
            )
    given = {name: METHODS[name].exclusive for name in METHODS if name in tune.method}
    for part in given.values():
        several = [name for name, other in given.items() if part and other == part]
        if len(several) > 1:
            raise UserError(f"config.tune.method: {' and '.join(several)} change the same place; give one of them.")
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


def complete(name, given):
    """The options of a method: those given, its defaults for what is left open; no rank beside ranks."""
    options = {
        option: default if given.get(option) in (None, ()) else given[option]
        for option, default in METHODS[name].options.items()
    }
    if options.get("ranks"):
        del options["rank"]
    return options


def make_adapt(methods):
    """Model.adapt of {name: options}."""
    return Adapt(
        tuple((name, tuple((key, options[key]) for key in METHODS[name].built_in)) for name, options in methods.items())
    )


def check(methods, config, max_length):
    """Raises UserError for options that do not fit the encoder.

    methods: {name: options}; config: EncoderConfig; max_length: tokens of text.
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


def add_leaves(methods, key, base, config):
    """{method: new leaves} of those that add some.  base: base parameters, arrays or tracers; key: u32[2]."""
    added = {name: METHODS[name].add(key, base, config, options) for name, options in methods.items()}
    return {name: leaves for name, leaves in added.items() if leaves}


def traced_values(methods):
    """{method: {name: f32[] or f32[7]}} of what the step receives as data."""
    found = {name: METHODS[name].values(options) for name, options in methods.items()}
    return {name: {k: np.float32(v) for k, v in values.items()} for name, values in found.items() if values}


def can_merge(methods):
    """Whether `merged` gives a plain model.  methods: {name: options}."""
    return all(
        METHODS[name].add is add_nothing or (METHODS[name].merge and not options.get("gating"))
        for name, options in methods.items()
    )


def merged(methods, params, config):
    """Base parameters {encoder, head} that give the same logits without new leaves, float32.

    methods: {name: options}; params: {encoder, head[, adapters]} as numpy arrays.  Raises UserError where a method's
    leaves have no place in the base model.
    """
    flat = tree.flatten({name: params[name] for name in ("encoder", "head")})
    values = traced_values(methods)
    for name in methods:  # in the order of the hooks
        leaves = params.get("adapters", {}).get(name)
        if leaves is None:
            continue
        if METHODS[name].merge is None:
            raise UserError(f"The method {name} cannot be merged into the base model; its adapter is kept apart.")
        for site, path in places(config, sites_of(config)):
            leaf = _below(leaves, path)
            if leaf is None:
                continue
            leaf = leaf | {last: shared for last, shared in leaves.items() if is_fixed(f"adapters/{name}/{last}")}
            kernel, bias = f"{base_module(path)}/kernel", f"{base_module(path)}/bias"
            new = METHODS[name].merge(np.float64(flat[kernel]), flat[bias], leaf, values.get(name, {}), site)
            flat[kernel], flat[bias] = (np.float32(x) for x in new)
    return tree.unflatten(flat)


def _below(leaves, path):
    for part in path.split("/"):
        leaves = leaves.get(part) if leaves else None
    return leaves


def multipliers(methods, given, trainable, layers):
    """{name: f32}: what each trainable leaf's rate is multiplied by; {} when no method has factors and none is given:
    factors are data, so that a grid of them is one program, its 1.0 among them.

    methods: {name: options}; given: ((pattern, factor), ...) of config.optim.multipliers.  Raises UserError.
    """
    factors = dict.fromkeys(sorted(trainable), 1.0)
    for name, options in methods.items():
        if METHODS[name].multiplier:
            for leaf in factors:
                factors[leaf] *= METHODS[name].multiplier(leaf, layers, options)
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


def reinitialised(names, config, count):
    """The names of the highest `count` layers and the head, which start from random weights (Zhang et al. 2021)."""
    if count > config.layers:
        raise UserError(f"config.model.reinit_layers={count}: the encoder has {config.layers} layers.")
    top = [f"encoder/layer_{i}" for i in range(config.layers - count, config.layers)]
    top += find_family(config.family).pretrained_head()
    return {name for name in names if count and "/".join(name.split("/")[:2]) in top}


def is_fixed(name):
    """Whether a name is that of a new leaf that never trains."""
    found = re.fullmatch(r"adapters/(\w+)/(.+)", name)
    return bool(found) and bool(re.fullmatch(METHODS[found.group(1)].fixed, found.group(2)))


def lasting(params):
    """Parameters without the new leaves that act in training alone.  params: {encoder, head[, adapters]}."""
    kept = {name: leaves for name, leaves in params.get("adapters", {}).items() if not METHODS[name].temporary}
    return {name: params[name] for name in ("encoder", "head")} | ({"adapters": kept} if kept else {})


def count(methods, params):
    """The number of parameters of a tree, without those that its methods keep for other options.

    methods: {name: options}; params: a tree with all of their leaves that have such ones.
    """
    leaves = params.get("adapters", {})
    idle = sum(METHODS[name].idle(leaves[name], options) for name, options in methods.items() if name in leaves)
    return tree.count(params) - idle


def prompt_length(methods):
    """How many learned tokens stand before each example."""
    return sum(METHODS[name].prompt_length(options) for name, options in methods.items())


def trainable_names(params, config, tune, missing):
    """The set of names that train: what the methods choose and add, the head, and what the checkpoint lacked.

    params: tree of all parameters (shapes suffice); missing: names that the checkpoint lacked.  Raises UserError for a
    head that is new and told not to train, for a pooler that the family does not have, and where nothing trains.
    """
    methods, family, layers = find_methods(tune), find_family(config.family), config.layers
    names = list(tree.flatten(params))
    head = {name for name in names if family.is_new(name)}
    pooler = {name for name in names if name.startswith("head/")} - head
    if tune.train_pooler is not None and not pooler:
        raise UserError(
            f"config.tune.train_pooler={tune.train_pooler}: a model of type {family.name} has no pretrained pooler, "
            "its whole head is new and trains; leave the option out."
        )
    encoder = [name for name in names if name.startswith("encoder/")]
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
    chosen = chosen - head if tune.train_head is False else chosen | head
    if not (trains := chosen | new | set(missing)):
        raise UserError(f"Nothing trains: config.tune.method={tune.method} with config.tune.train_head=False.")
    return trains


def stages(
    methods: dict[str, dict],
    trainable: Collection[str],
    missing: Collection[str],
    layers: int,
    steps: int,
    steps_per_epoch: int,
) -> tuple[tuple[int, Collection[str], float], ...]:
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
        if METHODS[name].stages:
            return METHODS[name].stages(options, trainable, missing, layers, steps, steps_per_epoch)
    return ((0, trainable, 1.0),)


def has_stages(names: Collection[str]) -> bool:
    """Whether one of the methods of these names trains other parameters in later stages of a run."""
    return any(METHODS[name].stages for name in names)


def lowest_layer(trainable, layers):
    """The lowest layer that holds a trainable parameter: -1 for the embeddings, `layers` when none does."""
    return min((cost.place(name, layers)[0] for name in trainable), default=layers)


def split_below(params, layer, layers):
    """(the parameters that act below a layer and nowhere else, the others), each a nested dict."""
    return tree.split(params, {name for name in tree.flatten(params) if cost.place(name, layers)[0] < layer})


def abstract_leaves(methods, base, config):
    """The shapes of `add_leaves`."""
    return jax.eval_shape(lambda key, base: add_leaves(methods, key, base, config), jnp.zeros(2, jnp.uint32), base)
