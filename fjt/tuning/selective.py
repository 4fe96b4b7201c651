"""Methods that train some of the base parameters, chosen by layer or by kind, and add no lasting parameters.

Defaults: full tuning's learning rate 2e-5 and decay 0.01 are those of BERT's authors, the layer decay 0.95 is Zhang et
al. 2021's, mixout's 0.7 Lee et al. 2020's; the two layers of top_k are fjt's choice.  Other learning rates are measured
here (`fjt.experiment.recipes`).
"""

import math
import re
from collections.abc import Collection, Sequence

import jax.numpy as jnp

from fjt.core import prng, tree
from fjt.core.errors import UserError
from fjt.core.prng import Array
from fjt.core.tree import Tree
from fjt.models.family import EncoderConfig
from fjt.models.layers import Hooks, Site
from fjt.tuning import phases
from fjt.tuning.forms import PeftForm
from fjt.tuning.method import SITES, Key, Method, Options, Stages, Values, check_sites, layer_sites, leaf_at, places


def _top(names: Sequence[str], layers: int, options: Options) -> set[str]:
    if options["layers"] > layers:
        raise UserError(f"config.tune.layers={options['layers']}: the encoder has {layers} layers.")
    top = {f"encoder/layer_{i}" for i in range(layers - options["layers"], layers)}
    return {name for name in names if name.rsplit("/", 2)[0] in top}


def _pattern(names: Sequence[str], layers: int, options: Options) -> set[str]:
    if not options["train"]:
        raise UserError('config.tune.method=pattern needs config.tune.train, for example ("encoder/layer_1[01]/",).')
    return tree.match(options["train"], names, "tune.train")


def _biases(names: Sequence[str], layers: int, options: Options) -> set[str]:
    biases = {name for name in names if name.endswith("/bias")}
    if not options["sites"]:
        return biases
    # The names are the encoder's alone: config.tune.train_pooler decides about the pooler.
    check_sites(options["sites"], [site for site in SITES if any(f"/{site}/" in name for name in biases)], "bitfit")
    return {name for name in biases if name.rsplit("/", 2)[1] in options["sites"]}


def _norms(names: Sequence[str], layers: int, options: Options) -> set[str]:
    return {name for name in names if re.search(r"norm/(scale|bias)$", name)}


def _attention(names: Sequence[str], layers: int, options: Options) -> set[str]:
    return {name for name in names if re.search(r"layer_\d+/(query|key|value|attention_output)/", name)}


def _layer_decay(name: str, layers: int, options: Options) -> float:
    """layer_decay to the power of the distance from the head: 0 for the head, 1 for the highest layer, and so on."""
    layer = re.match(r"encoder/layer_(\d+)/", name)
    if layer:
        return options["layer_decay"] ** (layers - int(layer.group(1)))
    return options["layer_decay"] ** (layers + 1) if name.startswith("encoder/embeddings/") else 1.0


def _check_gradual(config: EncoderConfig, options: Options) -> None:
    del config
    for key, values in (("stage_rates", options["stage_rates"]), ("stage_epochs", (options["stage_epochs"],))):
        if not all(type(value) in (int, float) and 0 <= value < math.inf for value in values):
            raise UserError(f"config.tune.{key}={options[key]!r} should be finite and at least 0.")
        if options["stages"] and any(values):
            raise UserError(
                f"config.tune.{key}={options[key]!r}: the phases of config.tune.stages, or of the schedule file, have "
                "epochs and factors of their own. Give them there."
            )
    phases.check(options["stages"])


def _opened(names: Sequence[str], layers: int, options: Options) -> set[str]:
    patterns = [pattern for patterns, _, _ in options["stages"] for pattern in patterns]
    return tree.match(patterns, names, "tune.stages") if patterns else set(names)


def _gradual_stages(
    options: Options,
    trainable: Collection[str],
    missing: Collection[str],
    layers: int,
    steps: int,
    steps_per_epoch: int,
) -> Stages:
    """The stages of gradual unfreezing, by default those of Howard & Ruder (2018).

    Stage 0 trains the head and the parameters that the checkpoint lacked; each later stage opens the layer below, the
    last one the embeddings.
    """
    opening = ["^head/", *(f"^encoder/layer_{i}/" for i in reversed(range(layers))), "^encoder/embeddings/"]
    rates = options["stage_rates"] or (1.0,)
    by_layer = [
        ((pattern,), options["stage_epochs"], rates[min(stage, len(rates) - 1)])
        for stage, pattern in enumerate(opening)
    ]
    return phases.plan(options["stages"] or by_layer, trainable, missing, steps, steps_per_epoch)


def _add_mixout(key: Key, base: Tree, config: EncoderConfig, options: Options) -> Tree:
    """The pretrained kernels of all layers."""
    del key, options
    kernels = tree.flatten(base["encoder"])
    paths = [f"{path}/kernel" for _, path in places(config, layer_sites(config))]
    return tree.unflatten({path: jnp.asarray(kernels[path]) for path in paths})


def _mixout_hooks(leaves: Tree, values: Values, options: Options) -> Hooks:
    """In each step, a share of the kernels' entries has its pretrained value: W' = (mix - rate W0) / (1 - rate), whose
    mean is W (Lee et al. 2020, equation 4).  Without dropout nothing is mixed."""
    del options

    def kernel(site: Site, new: Array) -> Array:
        leaf = leaf_at(leaves, site)
        if leaf is None or site.noise is None:
            return new
        old, rate = leaf["kernel"], values["rate"]
        rows, columns = (jnp.arange(size) for size in old.shape)
        a, b = prng.fold(prng.fold(site.noise.whole, SITES.index(site.name)), rows)
        kept = prng.keep((a[:, None], b[:, None]), columns, rate)
        return old + prng.thin(new - old, kept, rate)

    return Hooks(kernel=kernel)


# PEFT adds a copy of each LayerNorm; the tensors of its checkpoints are these copies.
_PEFT_NORMS = PeftForm(
    "LN_TUNING",
    accepts=lambda about: about["peft_type"] == "LN_TUNING",
    read=lambda about, placed, whole, config: ({}, {}),
    write=lambda leaves, options, config, module: ({}, {"target_modules": r".*LayerNorm"}),
    wrapped="ln_tuning_layers",
    holds=lambda module: module.endswith("norm"),
)

METHODS = {
    "full": Method(
        "every parameter", {}, learning_rate=2e-5, weight_decay=0.01, pooler=True, alone=True,
        choose=lambda names, layers, options: set(names),
    ),
    "llrd": Method(
        "every parameter, a layer at config.tune.layer_decay of the rate of the one above (Howard & Ruder 2018)",
        {"layer_decay": 0.95}, learning_rate=5e-5, weight_decay=0.01, pooler=True, alone=True,
        choose=lambda names, layers, options: set(names), multiplier=_layer_decay,
    ),
    "gradual": Method(
        "the head, then one more layer a stage from the highest down (Howard & Ruder 2018), or config.tune.stages",
        {"stage_epochs": 0.0, "stage_rates": (), "stages": (), "schedule_file": None, "stage_patience": None},
        learning_rate=5e-5, weight_decay=0.01, pooler=True, alone=True, check=_check_gradual, stages=_gradual_stages,
        choose=_opened, chooses_all=True,
    ),
    "mixout": Method(
        "every parameter, entries of the kernels put back to the pretrained ones at random (Lee et al. 2020)",
        {"mixout_rate": 0.7}, learning_rate=2e-5, weight_decay=0.01, pooler=True, alone=True,
        choose=lambda names, layers, options: set(names), add=_add_mixout, fixed=".*", temporary=True,
        values=lambda options: {"rate": options["mixout_rate"]}, hooks=_mixout_hooks,
    ),
    "head": Method("the task head alone; the encoder is frozen", {}, learning_rate=1e-3, alone=True),
    "top_k": Method(
        "the highest config.tune.layers layers, pooler and head", {"layers": 2}, learning_rate=5e-5, pooler=True,
        choose=_top,
    ),
    "pattern": Method(
        "parameters whose names match config.tune.train, and the head", {"train": ()}, learning_rate=5e-5,
        choose=_pattern, chooses_all=True,
    ),
    "bitfit": Method(
        "biases (Ben Zaken et al. 2022): all of the encoder's, or those of config.tune.sites; the paper's small set is "
        "query and intermediate",
        {"sites": ()}, learning_rate=1e-3, choose=_biases,
    ),
    "layernorm": Method(
        "scales and biases of LayerNorm (Qi et al. 2022)", {}, learning_rate=1e-3, choose=_norms,
        peft=_PEFT_NORMS,
    ),
    "attention_only": Method(
        "query, key, value and output of the attention (Touvron et al. 2022)", {}, learning_rate=5e-5,
        choose=_attention,
    ),
}  # fmt: skip
