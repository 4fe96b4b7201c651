"""Parameter trees: nested dicts of arrays whose leaves have names like `encoder/layer_0/query/kernel`."""

import hashlib
import re
import zlib
from collections.abc import Callable, Collection, Iterable
from typing import Any

import numpy as np

from fjt.core.errors import UserError

Tree = dict[str, Any]  # a value is another Tree or a leaf: an array, a shape, a sharding or anything that is not a dict


def flatten(tree: Tree, prefix: str = "") -> dict[str, Any]:
    """{name: leaf} of a nested dict, in sorted order of names at each level."""
    flat = {}
    for key in sorted(tree):
        name = f"{prefix}{key}"
        if isinstance(tree[key], dict):
            flat |= flatten(tree[key], f"{name}/")
        else:
            flat[name] = tree[key]
    return flat


def unflatten(flat: dict[str, Any]) -> Tree:
    """The nested dict of {name: leaf}."""
    tree: Tree = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def split(tree: Tree, chosen: Collection[str]) -> tuple[Tree, Tree]:
    """(the leaves whose name is in `chosen`, the other leaves), each a nested dict."""
    flat = flatten(tree)
    inside = {name: leaf for name, leaf in flat.items() if name in chosen}
    outside = {name: leaf for name, leaf in flat.items() if name not in chosen}
    return unflatten(inside), unflatten(outside)


def merge(*trees: Tree) -> Tree:
    """The nested dict with every leaf of the trees.  Raises ValueError when two trees have the same leaf."""
    merged: Tree = {}
    for tree in trees:
        for key, value in tree.items():
            if key not in merged:
                merged[key] = value
            elif isinstance(value, dict) and isinstance(merged[key], dict):
                merged[key] = merge(merged[key], value)
            else:
                raise ValueError(f"two trees have the leaf {key}")
    return merged


def map_names(function: Callable[[str, Any], Any], tree: Tree) -> Tree:
    """The tree of function(name, leaf)."""
    return unflatten({name: function(name, leaf) for name, leaf in flatten(tree).items()})


def match(patterns: Iterable[str], names: Collection[str], key: str) -> set[str]:
    """The names that match at least one of the patterns.

    Args:
        patterns: regular expressions, searched anywhere in a name; each must match at least one name.
        names: parameter names.
        key: the option that the patterns came from, for the message.

    Raises:
        UserError: a pattern is not a regular expression or matches no name.
    """
    matched = set()
    for pattern in patterns:
        try:
            matches = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise UserError(f"config.{key}: {pattern!r} is not a regular expression: {error}.") from None
        if not matches:
            examples = sorted(names)
            raise UserError(
                f"config.{key}: the pattern {pattern!r} matches no parameter. There are {len(examples)}, for example "
                f"{', '.join(examples[:: max(1, len(examples) // 6)][:6])}."
            )
        matched |= matches
    return matched


def count(tree: Tree) -> int:
    """Number of values in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())


def sha256(tree: Tree) -> str:
    """sha256 over (name, dtype, shape, little-endian C-order bytes) of the leaves in sorted order of full names."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        array = np.asarray(leaf)
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def crc32(leaf: Any) -> int:
    """CRC-32 checksum of one leaf's bytes."""
    return zlib.crc32(np.ascontiguousarray(np.asarray(leaf)).tobytes())
