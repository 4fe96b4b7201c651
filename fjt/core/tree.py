"""Parameter trees: nested dicts of arrays whose leaves have names like `encoder/layer_0/query/kernel`."""

import hashlib
import re
import zlib

import numpy as np

from fjt.core.errors import UserError


def flatten(tree, prefix=""):
    """{name: leaf} of a nested dict, in sorted order of names at each level."""
    flat = {}
    for key in sorted(tree):
        name = f"{prefix}{key}"
        if isinstance(tree[key], dict):
            flat |= flatten(tree[key], f"{name}/")
        else:
            flat[name] = tree[key]
    return flat


def unflatten(flat):
    """The nested dict of {name: leaf}."""
    tree = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def split(tree, chosen):
    """(the leaves whose name is in `chosen`, the others), each a nested dict."""
    flat = flatten(tree)
    inside = {name: leaf for name, leaf in flat.items() if name in chosen}
    outside = {name: leaf for name, leaf in flat.items() if name not in chosen}
    return unflatten(inside), unflatten(outside)


def merge(*trees):
    """The nested dict that holds every leaf of trees that share no leaf."""
    merged = {}
    for tree in trees:
        for key, value in tree.items():
            if key not in merged:
                merged[key] = value
            elif isinstance(value, dict) and isinstance(merged[key], dict):
                merged[key] = merge(merged[key], value)
            else:
                raise ValueError(f"two trees hold the leaf {key}")
    return merged


def map_names(function, tree):
    """The tree of function(name, leaf)."""
    return unflatten({name: function(name, leaf) for name, leaf in flatten(tree).items()})


def match(patterns, names, key):
    """The set of names in which one of the regular expressions is found; each of them must find one.

    key: the option that the patterns came from, for the message.  Raises UserError.
    """
    matched = set()
    for pattern in patterns:
        try:
            found = {name for name in names if re.search(pattern, name)}
        except re.error as error:
            raise UserError(f"config.{key}: {pattern!r} is no regular expression: {error}.") from None
        if not found:
            some = sorted(names)
            raise UserError(
                f"config.{key}: the pattern {pattern!r} matches no parameter. There are {len(some)}, for example "
                f"{', '.join(some[:: max(1, len(some) // 6)][:6])}."
            )
        matched |= found
    return matched


def count(tree):
    """Number of values in all leaves."""
    return sum(int(np.prod(leaf.shape)) for leaf in flatten(tree).values())


def sha256(tree):
    """sha256 over (name, dtype, shape, little-endian C-order bytes) of the leaves in sorted order of full names."""
    digest = hashlib.sha256()
    for name, leaf in sorted(flatten(tree).items()):
        array = np.asarray(leaf)
        array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        digest.update(f"{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        digest.update(array.reshape(-1).view(np.uint8))
    return digest.hexdigest()


def crc32(leaf):
    """Checksum of one leaf's bytes."""
    return zlib.crc32(np.ascontiguousarray(np.asarray(leaf)).tobytes())
