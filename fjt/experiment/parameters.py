"""The parameters that a run starts from: taken from a checkpoint, from an adapter, or drawn."""

import dataclasses
import functools
from typing import Any

import jax

from fjt.core import console, tree
from fjt.core.errors import UserError
from fjt.core.options import ExperimentConfig
from fjt.core.seeds import make_key
from fjt.data.glue import Task
from fjt.experiment.inputs import Inputs
from fjt.experiment.program_cache import damaged_removed
from fjt.interop import adapter as adapters
from fjt.models import kept_head, pretrained
from fjt.models.encoder import Model, abstract_params
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig
from fjt.tasks.kinds import find_problem
from fjt.training import placement
from fjt.tuning import partition


@dataclasses.dataclass(frozen=True)
class Parameters:
    """The parameters that a run starts from.

    Attributes:
        tree: all parameters, float32 on the host.
        trainable: the names that are trained, in the last stage at least.
        missing: the names that the checkpoint lacked.
        unused: the checkpoint's tensors that no parameter took.
    """

    tree: tree.Tree
    trainable: frozenset[str]
    missing: tuple[str, ...]
    unused: tuple[str, ...]


def build_parameters(
    experiment: ExperimentConfig,
    inputs: Inputs,
    model: Model,
    adapter: adapters.Adapter | None,
    view: console.View,
) -> Parameters:
    """The Parameters of a run.

    Args:
        experiment: options without open values.
        inputs: the data and the base model.
        model: the Model of the last stage.
        adapter: the adapter to start from, if any.
        view: where warnings are shown.

    Raises:
        UserError: the checkpoint, the adapter and the options do not fit together.
    """
    _, config, _, checkpoint = inputs.base
    family = find_family(config.family)
    methods = partition.find_methods(experiment.tune)
    assert experiment.seeds.init is not None, "seeds are resolved"
    key, abstract = make_key(experiment.seeds.init, "init"), abstract_params(model)
    loaded = load(experiment, inputs, abstract, adapter)
    from_adapter = adapter is not None and experiment.model.keep_head  # its head does not count as missing
    given = {name for name in loaded.missing if from_adapter and family.is_new(name)}
    missing = tuple(sorted(set(loaded.missing) - given))
    shapes, trainable = choose(experiment, config, abstract, missing, scratch=checkpoint is None)
    pooler = {f"{module}/kernel" for module in family.pretrained_head()} & set(tree.flatten(abstract))
    pooler -= {*trainable, *(adapter.trained if adapter else ())}
    if pooler and checkpoint and pretrained.untrained_pooler(checkpoint, model.head):
        view.warn(
            "the checkpoint's pooler looks untrained (its bias is zero) and stays frozen; "
            "--config.tune.train_pooler trains it"
        )
    with damaged_removed(view):
        drawn = placement.fetch(_init_missing(key, model=model, missing=frozenset(loaded.missing)))
        params = tree.merge(loaded.params, drawn)
        if "adapters" in shapes:
            params["adapters"] = placement.fetch(_init_added(key, params, methods=_hashable(methods), config=config))
    if adapter:
        params = _put_adapter(experiment, inputs.data[0], params, adapter, config.family)
    return Parameters(tree=params, trainable=trainable, missing=loaded.missing, unused=loaded.unused)


def choose(
    experiment: ExperimentConfig, config: EncoderConfig, base: tree.Tree, missing: tuple[str, ...], *, scratch: bool
) -> tuple[tree.Tree, frozenset[str]]:
    """(the shapes of all parameters, the names that are trained).

    Args:
        experiment: options without open values.
        config: of the encoder.
        base: the shapes of the base parameters.
        missing: names that the checkpoint lacks.
        scratch: whether there is no checkpoint.

    Raises:
        UserError: a method needs one, or nothing trains.
    """
    added = partition.abstract_leaves(partition.find_methods(experiment.tune), base, config)
    if added and scratch:
        raise UserError(
            "config.model.path is empty, so every weight is random and trains; "
            f"{' and '.join(added)} tunes a model that was trained before."
        )
    whole = base | ({"adapters": added} if added else {})
    return whole, frozenset(partition.trainable_names(whole, config, experiment.tune, missing))


def load(
    experiment: ExperimentConfig, inputs: Inputs, abstract: tree.Tree, adapter: adapters.Adapter | None
) -> pretrained.Loaded:
    """The base parameters of the checkpoint without those that are drawn anew; none without a checkpoint."""
    _, config, hf_config, checkpoint = inputs.base
    names = tree.flatten(abstract)
    if not checkpoint:
        return pretrained.Loaded(params={}, missing=tuple(names), unused=())
    keep_head = experiment.model.keep_head and not adapter
    problem = find_problem(inputs.data[0].kind)
    if find_family(config.family).heads[problem.head].tied and hf_config.get("tie_word_embeddings") is False:
        raise UserError(
            f"{inputs.path}: config.json has tie_word_embeddings=false, so its head has a table of words of its own. "
            f"{problem.name} reads that of the embeddings; use another model."
        )
    head = problem.head if keep_head else ""
    loaded = pretrained.take(checkpoint, abstract, inputs.path, head)
    again = partition.reinitialised(names, config, experiment.model.reinit_layers)
    if keep_head:
        kept_head.check_labels(hf_config, problem.output_names(inputs.data[0]), inputs.path)
    missing = tuple(sorted({*loaded.missing, *again}))
    return dataclasses.replace(loaded, params=tree.split(loaded.params, again)[1], missing=missing)


def _put_adapter(
    experiment: ExperimentConfig, task: Task, params: tree.Tree, adapter: adapters.Adapter, family: str
) -> tree.Tree:
    """The parameters with those of an adapter in their places.  family: the name of the encoder's family."""
    if experiment.model.keep_head:
        names = find_problem(task.kind).output_names(task)
        adapters.check_head(adapter, names, experiment.model.adapter, family)
    return tree.unflatten(adapters.put(adapter, tree.flatten(params), experiment.model.keep_head, family))


# Compiled once for all runs of a process that differ in nothing but the key.
@functools.partial(jax.jit, static_argnames=("model", "missing"))
def _init_missing(key: jax.Array, *, model: Model, missing: frozenset[str]) -> tree.Tree:
    return tree.split(model.init(key), missing)[0]


@functools.partial(jax.jit, static_argnames=("methods", "config"))
def _init_added(key: jax.Array, params: tree.Tree, *, methods: tuple[Any, ...], config: EncoderConfig) -> tree.Tree:
    return partition.add_leaves({name: dict(options) for name, options in methods}, key, params, config)


def _hashable(methods: dict[str, dict[str, Any]]) -> tuple[Any, ...]:
    return tuple((name, tuple(options.items())) for name, options in methods.items())
