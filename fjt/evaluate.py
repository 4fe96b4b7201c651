"""Evaluation: every example of a split exactly once, packed, its logits brought back in file order."""

import dataclasses

import jax
import numpy as np

from fjt.data import batches, packing

TOKENS = 8192  # about this many tokens a chunk


@dataclasses.dataclass(frozen=True)
class Packed:
    """A split in chunks of one shape.  chunks: ((batch arrays, indices i64[B], place i64[B]), ...)."""

    shape: packing.Shape
    chunks: tuple
    size: int


def pack_splits(splits, *, groups, grid, width):
    """{name: Packed} of {name: Examples}, all in one shape, so one program serves them.

    groups: devices; grid: step of row lengths; width: of the encoder.
    """
    chosen = {}
    for name, examples in splits.items():
        size = int(np.clip(TOKENS // max(1.0, examples.lengths.mean()), groups, max(groups, len(examples))))
        chosen[name] = batches.chunk(examples.lengths, size)
    widest = max(indices.shape[1] for indices in chosen.values())
    lengths = np.concatenate(
        [_widen(batches.lengths_of(splits[name], indices), widest, 0) for name, indices in chosen.items()]
    )
    shape = packing.plan(lengths, groups=groups, grid=grid, most_shapes=1, width=width).shapes[0]
    return {name: _pack(splits[name], indices, shape) for name, indices in chosen.items()}


def _widen(array, width, value):
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=value)


def _pack(examples, indices, shape):
    chunks = []
    for chosen in indices:
        batch, place = batches.build(examples, chosen, shape)
        del batch["label"], batch["weight"]
        chunks.append((batch, chosen, place))
    return Packed(shape, tuple(chunks), len(examples))


def evaluate(function, params, packed, put, *, before=lambda: None):
    """Logits f32[N, C] in file order.

    function(params, batch) -> f[G, E, C]; put: places a batch on the devices; before: called ahead of each chunk,
    and may raise to stop.
    """
    pending, logits = None, None

    def collect(chunk_logits, chosen, place):
        nonlocal logits
        values = np.asarray(jax.device_get(chunk_logits), np.float32)
        values = values.reshape(-1, values.shape[-1])
        if logits is None:
            logits = np.full((packed.size, values.shape[-1]), np.nan, np.float32)
        real = chosen >= 0
        logits[chosen[real]] = values[place[real]]

    for batch, chosen, place in packed.chunks:
        before()
        result = function(params, put(batch))
        if pending is not None:
            collect(*pending)
        pending = result, chosen, place
    collect(*pending)
    return logits
