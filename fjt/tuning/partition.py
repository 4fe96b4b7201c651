"""Which leaves train: the methods that choose among the base parameters, and what follows from the choice."""

import dataclasses
import re
from collections.abc import Callable

from fjt import tree
from fjt.settings import UserError, suggest


@dataclasses.dataclass(frozen=True)
class Method:
    """choose(names, layers, tune) -> the encoder's names that train; the head always does.

    options: the `config.tune` keys it reads, with their defaults.  pooler: whether it trains the pretrained
    pooler.  learning_rate, weight_decay: the recipe.  about: a line for `--list`.
    """

    choose: Callable
    options: dict
    pooler: bool
    learning_rate: float
    weight_decay: float
    about: str


def _top(names, layers, tune):
    if tune.layers > layers:
        raise UserError(f"config.tune.layers={tune.layers}: the encoder has {layers} layers.")
    top = {f"encoder/layer_{i}" for i in range(layers - tune.layers, layers)}
    return {name for name in names if name.rsplit("/", 2)[0] in top}


def _pattern(names, layers, tune):
    if not tune.train:
        raise UserError('config.tune.method=pattern needs config.tune.train, for example ("encoder/layer_1[01]/",).')
    return tree.match(tune.train, names, "tune.train")


METHODS = {
    "full": Method(lambda names, layers, tune: set(names), {}, True, 2e-5, 0.01, "every parameter"),
    "head": Method(
        lambda names, layers, tune: set(), {}, False, 1e-3, 0.0, "the task head alone; the encoder is frozen"
    ),
    "top_k": Method(_top, {"layers": 2}, True, 5e-5, 0.0, "the highest config.tune.layers layers, pooler and head"),
    "pattern": Method(
        _pattern, {"train": ()}, False, 5e-5, 0.0, "parameters whose names match config.tune.train, and the head"
    ),
}


def find_method(tune):
    """The Method of settings.Tune.  Raises UserError for an unknown one and for options it does not read."""
    if len(tune.method) != 1:
        raise UserError(
            f"config.tune.method={tune.method}: these methods cannot be combined; give one of {', '.join(METHODS)}."
        )
    name = tune.method[0]
    if name not in METHODS:
        raise UserError(f"config.tune.method={name!r} is unknown.{suggest(name, METHODS)}")
    every = {option for method in METHODS.values() for option in method.options}
    for option in sorted(every - set(METHODS[name].options)):
        if getattr(tune, option) not in (None, ()):
            raise UserError(f"config.tune.{option} is not read by the method {name}.")
    return METHODS[name]


def trainable_names(params, layers, tune, missing):
    """The set of names that train.

    params: tree of all parameters (shapes suffice); missing: names that the checkpoint lacked, which always train.
    """
    method = find_method(tune)
    names = list(tree.flatten(params))
    pooler = {name for name in names if name.startswith("encoder/pooler/")}
    encoder = [name for name in names if name.startswith("encoder/") and name not in pooler]
    chosen = method.choose(names if tune.method[0] == "pattern" else encoder, layers, tune)
    if method.pooler if tune.train_pooler is None else tune.train_pooler:
        chosen |= pooler
    elif tune.train_pooler is False:
        chosen -= pooler
    return chosen | {name for name in names if name.startswith("head/")} | set(missing)


def lowest_layer(trainable, layers):
    """The lowest layer that holds a trainable parameter: -1 for the embeddings, `layers` when none does."""
    lowest = layers
    for name in trainable:
        if name.startswith("encoder/embeddings/"):
            return -1
        layer = re.match(r"encoder/layer_(\d+)/", name)
        if layer:
            lowest = min(lowest, int(layer.group(1)))
    return lowest
