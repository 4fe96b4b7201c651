"""An export as fjt reads it: the model, its parameters and its tokenizer, and the logits that they give to texts."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from fjt.core import tree
from fjt.data import batches, tokenization
from fjt.data.batches import Examples
from fjt.data.glue import Split, Task
from fjt.data.tokenization import tokenizer_sha256
from fjt.experiment.layout import row_grid
from fjt.interop.adapter import Adapter
from fjt.models import pretrained
from fjt.models.encoder import Model, abstract_params
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig
from fjt.tasks.kinds import find_problem
from fjt.tasks.problem import Problem
from fjt.training import evaluate, placement
from fjt.training.step import Reduce, eval_step
from fjt.tuning import partition


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A model with its tokenizer.

    Attributes:
        model: computes the logits.
        params: its parameters, numpy arrays.
        tokenizer: of its texts.
        methods: {name: options} of its tuning methods.
        options: "max_length", "doc_stride", "dtype" and "matmul_precision" of the run.
        problem: the kind of problem.
    """

    model: Model
    params: tree.Tree = dataclasses.field(repr=False)
    tokenizer: Any = dataclasses.field(repr=False)
    methods: dict[str, dict[str, Any]]
    options: Mapping[str, Any]
    problem: Problem

    @functools.cached_property
    def form(self) -> tuple[Any, ...]:
        """All but the values of the parameters: equal for models that compute alike and read texts alike."""
        shapes = jax.tree.map(np.shape, (self.params, partition.traced_values(self.methods)))
        options = [self.options[name] for name in ("max_length", "doc_stride", "matmul_precision")]
        prompt = partition.prompt_length(self.methods)
        return self.model, shapes, options, prompt, tokenizer_sha256(self.tokenizer)

    def read(self, split: Split) -> Examples:
        """The Examples of a split."""
        stride = (self.options["doc_stride"] or 0) if self.problem.contexts else None
        length, documents = self.options["max_length"], self.problem.documents
        return tokenization.tokenize(split, self.tokenizer, length, stride=stride, documents=documents)

    def with_room(self, examples: Examples) -> Examples:
        """The examples with room for the learned tokens of the tuning methods."""
        return batches.prepend(examples, partition.prompt_length(self.methods))

    def tokenize(self, split: Split) -> Examples:
        """The Examples of new texts, as the model reads them."""
        return self.with_room(self.problem.pick_slots(self.read(split), self.tokenizer))

    def predict(self, split: Split) -> tuple[Examples, Float[np.ndarray, "M C"]]:
        """(the Examples of new texts, the logits of their slots)."""
        examples = self.tokenize(split)
        return examples, self.logits(examples)

    @functools.cached_property
    def program(self) -> Callable[..., Any]:
        """function(params, batch, values of the methods) that returns logits on every device."""
        return _program(self.model, self.problem.reduce, placement.make_mesh(0))

    def logits(self, examples: Examples) -> Float[np.ndarray, "M C"]:
        """The logits of the slots of Examples, float32 on the host, in file order."""
        return self.evaluate(self._with_values(self.program), self._placed, examples)

    def vectors(self, examples: Examples) -> Float[np.ndarray, "M D"]:
        """The output of the last layer at the slots of Examples, float32 on the host, in file order."""
        model, mesh = dataclasses.replace(self.model, start=self.model.config.layers), placement.make_mesh(0)
        program = jax.jit(model.hidden, out_shardings=placement.replicated(mesh))
        return self.evaluate(self._with_values(program), self._placed, examples)

    def _with_values(self, program: Callable[..., Any]) -> Callable[[Any, evaluate.Batch], Any]:
        """A function (params, batch) of one of (params, batch, values of the methods)."""
        values = partition.traced_values(self.methods)
        return lambda params, batch: program(params, batch, values)

    def evaluate(
        self, function: Callable[[Any, evaluate.Batch], Any], params: Any, examples: Examples
    ) -> Float[np.ndarray, "M ..."]:
        """The results of a function for the slots of Examples, float32 on the host, in file order.

        Args:
            function: (params, batch) -> f[G, S, ...], of a model like this one.
            params: of the function, on the devices.
            examples: as `tokenize` returns them.
        """
        mesh = placement.make_mesh(0)
        packed = evaluate.pack_splits(
            {"new": examples},
            groups=mesh.size,
            own=placement.own_groups(mesh, mesh.size),
            grid=max(32, row_grid(placement.platform(mesh))),
            width=self.model.config.width,
            one_slot=self.model.one_slot,
            labels=self.problem.reduces,
        )["new"]
        with jax.default_matmul_precision(self.options["matmul_precision"]):
            put = functools.partial(placement.put_batch, mesh=mesh)
            return evaluate.evaluate(function, params, _roomy(packed), put)

    @functools.cached_property
    def _placed(self) -> tree.Tree:
        return placement.put_whole(self.params, placement.make_mesh(0))


@functools.lru_cache(maxsize=4)  # the models of one process: its programs are compiled once
def _program(model: Model, reduce: Reduce, mesh: jax.sharding.Mesh) -> Callable[..., Any]:
    return jax.jit(functools.partial(eval_step, model=model, reduce=reduce), out_shardings=placement.replicated(mesh))


def _roomy(packed: evaluate.Packed) -> evaluate.Packed:
    """The chunks in a shape rounded up to powers of two, so that calls with other texts reuse a compiled program."""

    def above(number: int) -> int:
        return 1 << (number - 1).bit_length()

    sizes = {name: getattr(packed.shape, name) for name in ("rows", "examples", "slots")}
    shape = dataclasses.replace(packed.shape, **{name: size and above(size) for name, size in sizes.items()})
    return dataclasses.replace(packed, shape=shape, chunks=dataclasses.replace(packed.chunks, shape=shape))


def read(folder: str, task: Task, options: Mapping[str, Any]) -> Predictor:
    """The Predictor of a Hugging Face directory with a head for a task.

    Args:
        folder: the directory.
        task: the task.
        options: see `Predictor`.

    Raises:
        UserError: a file is missing or damaged.
    """
    checkpoint = pretrained.read_checkpoint(folder)
    model = _make_model(checkpoint.config, task, {}, options)
    params = pretrained.take(checkpoint, abstract_params(model), folder, model.head).params
    return of_params(params, checkpoint.config, task, _read_tokenizer(folder, checkpoint.config), options)


def of_params(
    params: tree.Tree, config: EncoderConfig, task: Task, tokenizer: Any, options: Mapping[str, Any]
) -> Predictor:
    """The Predictor of a whole model.

    Args:
        params: its parameters {encoder, head}, numpy arrays.
        config: of the encoder.
        task: the task.
        tokenizer: of its texts.
        options: see `Predictor`.
    """
    model = _make_model(config, task, {}, options)
    return Predictor(model, params, tokenizer, {}, options, find_problem(task.kind))


def of_task(whole: Predictor, task: Task, columns: slice) -> Predictor:
    """The Predictor of one of several tasks.

    Args:
        whole: of all of them.
        task: the task alone.
        columns: of its outputs among those of all tasks.
    """
    problem, model = find_problem(task.kind), dataclasses.replace(whole.model, classes=columns.stop - columns.start)
    flat, shapes = tree.flatten(whole.params), tree.flatten(abstract_params(model))
    flat |= {name: flat[name][..., columns] for name in shapes if flat[name].shape != shapes[name].shape}
    return dataclasses.replace(whole, model=model, params=tree.unflatten(flat), problem=problem)


def read_over(
    folder: str, own: Adapter, base: tree.Tree, config: EncoderConfig, task: Task, options: Mapping[str, Any]
) -> Predictor:
    """The Predictor of an adapter over its base model.

    Args:
        folder: the adapter's directory.
        own: its contents.
        base: the parameters {encoder, head} of the base model.
        config: of the base model.
        task: the task.
        options: see `Predictor`.

    Raises:
        UserError: a file is missing or damaged.
    """
    model = _make_model(config, task, own.methods, options)
    params = tree.unflatten(tree.flatten(base) | own.trained)
    tokenizer = _read_tokenizer(folder, config)
    return Predictor(model, params, tokenizer, own.methods, options, find_problem(task.kind))


def read_base(checkpoint: pretrained.Checkpoint, folder: str, task: Task) -> tree.Tree:
    """The parameters {encoder, head} of a base model without a head for the task.  folder: its directory."""
    model = _make_model(checkpoint.config, task, {}, {"dtype": "float32"})
    return pretrained.take(checkpoint, abstract_params(model), folder).params


def _make_model(
    config: EncoderConfig, task: Task, methods: dict[str, dict[str, Any]], options: Mapping[str, Any]
) -> Model:
    problem = find_problem(task.kind)
    return Model(
        config,
        problem.num_outputs(task) or config.vocab,
        dtype=options["dtype"],
        adapt=partition.make_adapt(methods),
        one_slot=problem.one_slot,
        head=problem.head,
    )


def _read_tokenizer(folder: str, config: EncoderConfig) -> Any:
    tokenizer = tokenization.load_tokenizer(folder, find_family(config.family).tokenizer)
    tokenization.check_vocabulary(tokenizer, config.vocab, folder)
    tokenization.fit_types(tokenizer, config.types, folder)
    return tokenizer
