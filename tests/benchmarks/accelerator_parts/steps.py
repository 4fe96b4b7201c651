"""Steps of fjt on random weights and texts: what the parts speed, lanes, memory and repeat have in common."""

import dataclasses
import functools
import re
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fjt.core import seeds, tree
from fjt.data import batches, packing
from fjt.models.encoder import Model, abstract_params
from fjt.models.family import EncoderConfig
from fjt.tasks.classification import CLASSIFICATION
from fjt.training.optim import make_optimizer
from fjt.training.step import init_state, train_step
from fjt.tuning import cost, partition
from tests import small
from tests.benchmarks.accelerator_parts import texts

# Dense peak rates in FLOP/s, (bfloat16, float32 as JAX computes it by default), by words in JAX's device_kind.
# NVIDIA: data sheets of the SXM boards unless PCIe is named, without sparsity; float32 products use TF32 by default.
# TPU: cloud.google.com/tpu/docs, per chip; the rate of float32 is not published.
PEAKS = {
    "H200": (989e12, 495e12),
    "H100 PCIe": (756e12, 378e12),
    "H100": (989e12, 495e12),
    "A100": (312e12, 156e12),
    "L40S": (362e12, 183e12),
    "L4": (121e12, 60e12),
    "TPU v6 lite": (918e12, None),
    "TPU v6e": (918e12, None),
    "TPU v5 lite": (197e12, None),
    "TPU v5e": (197e12, None),
    "TPU v5p": (459e12, None),
    "TPU v5": (459e12, None),
    "TPU v4": (275e12, None),
}
METHODS = {"full": {}, "lora": {"rank": 8}, "head": {}}


def peak_flops(kind: str, dtype: str) -> float | None:
    """The peak rate of a device in FLOP/s; None when it is not known."""
    for word, rates in PEAKS.items():
        if re.search(rf"\b{word}\b", kind):
            return rates[0 if dtype == "bfloat16" else 1]
    return None


def config_of(shape: str) -> EncoderConfig:
    """The EncoderConfig of one of `texts.SHAPES`, of the tests' small model, or of its first layer."""
    if shape in ("small", "smallest"):
        return dataclasses.replace(small.CONFIG, layers=2 if shape == "small" else 1)
    layers, width, heads, inner, vocab = texts.SHAPES[shape]
    sizes = dict(layers=layers, width=width, heads=heads, inner=inner, vocab=vocab, positions=texts.POSITIONS)
    return dataclasses.replace(small.CONFIG, stddev=0.02, **sizes)


def draw_params(model: Model, seed: int = 0) -> tree.Tree:
    """Random base parameters (numpy), drawn on the host: nothing is compiled, and no memory of the device is used."""
    rng = np.random.default_rng(seed)

    def one(name: str, leaf: Any) -> np.ndarray:
        if name.endswith(("/kernel", "/embedding")):
            return model.config.stddev * rng.standard_normal(leaf.shape, np.float32)
        return np.full(leaf.shape, float(name.endswith("/scale")), np.float32)

    return tree.map_names(one, abstract_params(model))


@dataclasses.dataclass(frozen=True)
class Made:
    """What a step is made of.

    Attributes:
        model: with the hooks of the method.
        parts: the keywords of `train_step`.
        trainable: numpy arrays.
        frozen: numpy arrays.
        hyper: dropout 0.1 everywhere.
    """

    model: Model
    parts: dict[str, Any]
    trainable: tree.Tree
    frozen: tree.Tree
    hyper: Any

    def state(self) -> Any:
        """The TrainState of step 0, on the device, in buffers of its own."""
        return init_state(jax.tree.map(jnp.array, self.trainable), self.hyper, self.parts["optimizer"])

    def compile(self, batch: Any, state: Any, frozen: Any, metrics: tuple[str, ...] = ()) -> Any:
        """The executable of a step; with metrics, of what these need: loss is the forward pass, grad_norm both."""
        step = functools.partial(train_step, **self.parts)
        if metrics:
            function = jax.jit(lambda *given: {name: step(*given)[1][name] for name in metrics})
        else:
            function = jax.jit(step, donate_argnums=0)
        return function.lower(state, frozen, batch, self.hyper).compile()


def make(shape: str, method: str, dtype: str, *, dropout: bool = True, attention: float = 0.1) -> Made:
    """What a step of a method is made of.

    Args:
        shape: a name for `config_of`.
        method: full, lora (rank 8 on query and value) or head.
        dtype: of the computation; parameters are float32.
        dropout: whether the program has dropout in the encoder; the head has it in any case.
        attention: dropout rate of attention, data of the same program.
    """
    config, tune = config_of(shape), small.tune(method, **METHODS[method])
    methods = partition.find_methods(tune)
    params = draw_params(Model(config, 2))
    added = jax.device_get(partition.add_leaves(methods, seeds.make_key(0, "init"), params, config))
    params |= {"adapters": added} if added else {}
    trained = frozenset(partition.trainable_names(params, config, tune, ()))
    lowest = partition.lowest_layer(trained, config.layers) if dropout else config.layers
    model = Model(config, 2, dtype=dtype, noisy_from=lowest, adapt=partition.make_adapt(methods))
    hyper = dataclasses.replace(small.make_hyper(rate=2e-5), methods=partition.traced_values(methods))
    hyper = dataclasses.replace(hyper, dropout_attention=np.float32(attention))
    trainable, frozen = tree.split(params, trained)
    parts = {"model": model, "loss": CLASSIFICATION.loss, "optimizer": make_optimizer(small.ADAMW)}
    return Made(model, parts, trainable, frozen, hyper)


def examples_of(count: int, longest: int, config: EncoderConfig, seed: int = 0) -> batches.Examples:
    """Random texts; see `texts.draw`."""
    ids, offsets, label = texts.draw(count, longest, config.vocab, seed)
    return batches.Examples(ids, np.zeros(len(ids), np.int8), offsets, label, 0)


def packed(examples: batches.Examples, size: int, length: int, width: int) -> tuple[list[Any], packing.Plan]:
    """(the texts' batches of one shape, on the device, and their Plan): rows of `length` tokens."""
    indices = texts.batches(examples.offsets, size)
    plan = packing.plan(batches.lengths_of(examples, indices), row_length=length, most_shapes=1, width=width)
    return [jax.device_put(batches.build(examples, one, plan.shapes[0])[0]) for one in indices], plan


def law(made: Made, lengths: np.ndarray, num_batches: int) -> float:
    """Operations of a step on real tokens, mean over batches, by `fjt.tuning.cost.step_flops`: matrix products alone.

    Attention costs as many keys per token as its own text has: the sum of l^2 over texts, in place of rows' lengths.

    Args:
        made: the step.
        lengths: tokens of each text of all batches.
        num_batches: their number.
    """
    tokens = float(lengths.sum())
    sizes = {name: leaf.shape for name, leaf in tree.flatten(made.trainable).items()}
    return cost.step_flops(
        made.model.config,
        sizes,
        tokens=tokens / num_batches,
        row_length=float(np.square(lengths.astype(np.float64)).sum()) / tokens,
        examples=len(lengths) / num_batches,
        classes=2,
    )


def seconds_per_call(call: Callable[[int], Any], each: int, rounds: int) -> list[float]:
    """Seconds per call in each round of `each` calls, which the device takes without waiting; the first is left out.

    Args:
        call: starts a call with its number, and returns arrays of it.
        each: calls in a round; the batches' number, so that rounds are alike.
        rounds: those that count.
    """
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        for k in range(each):
            last = call(k)
        jax.block_until_ready(last)
        found.append((time.perf_counter() - start) / each)
    return found[1:]


def summary(seconds: list[float]) -> dict[str, float]:
    """{"seconds": median, "lowest", "highest"} of rounds."""
    return {"seconds": statistics.median(seconds), "lowest": min(seconds), "highest": max(seconds)}
