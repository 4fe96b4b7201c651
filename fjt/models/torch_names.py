"""The names and layouts of parameters in PyTorch."""

from typing import Any

import numpy as np
from jaxtyping import Shaped

from fjt.models.families import find_family

Tensor = Shaped[np.ndarray, "..."]
LEAVES = {"kernel": "weight", "bias": "bias", "scale": "weight", "embedding": "weight"}


def torch_name(name: str, family: str) -> str:
    """The PyTorch name of a base parameter, with the family's prefix for the encoder's parameters.

    Args:
        name: such as `encoder/layer_0/query/kernel`.
        family: name of the family.
    """
    module, leaf = name.rsplit("/", 1)
    return f"{find_family(family).torch_module(module)}.{LEAVES[leaf]}"


def to_torch(name: str, leaf: Any) -> Tensor:
    """A base parameter as PyTorch stores it: kernels [in, out] become weights [out, in]."""
    return np.ascontiguousarray(leaf.T) if name.endswith("/kernel") else np.asarray(leaf)


def from_torch(name: str, tensor: Tensor) -> Tensor:
    """The base parameter of a tensor as PyTorch stores it: the inverse of `to_torch`."""
    return np.ascontiguousarray(tensor.T if name.endswith("/kernel") else tensor)
