"""Names, splits and hashes of parameter trees."""

import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from fjt.core import tree
from fjt.core.errors import UserError


def small_tree():
    rng = np.random.default_rng(0)
    return {
        "head": {"kernel": rng.normal(size=(2, 3)).astype(np.float32)},
        "encoder": {
            "layer_1": {"bias": np.arange(3, dtype=np.float32)},
            "layer_0": {"bias": np.ones(3, np.float32), "kernel": np.zeros((3, 3), np.float32)},
        },
    }


NAMES = ["encoder/layer_0/bias", "encoder/layer_0/kernel", "encoder/layer_1/bias", "head/kernel"]


def test_flatten_names_leaves_in_order_and_comes_back():
    flat = tree.flatten(small_tree())
    assert list(flat) == NAMES
    back = tree.unflatten(flat)
    assert back.keys() == small_tree().keys() and list(tree.flatten(back)) == NAMES
    np.testing.assert_array_equal(back["encoder"]["layer_1"]["bias"], [0, 1, 2])


def test_split_and_merge_are_inverse():
    inside, outside = tree.split(small_tree(), {"head/kernel", "encoder/layer_0/bias"})
    assert list(tree.flatten(inside)) == ["encoder/layer_0/bias", "head/kernel"]
    assert list(tree.flatten(outside)) == ["encoder/layer_0/kernel", "encoder/layer_1/bias"]
    assert tree.sha256(tree.merge(inside, outside)) == tree.sha256(small_tree())
    assert tree.split(small_tree(), set())[0] == {}
    assert tree.sha256(tree.merge({}, small_tree())) == tree.sha256(small_tree())


def test_merge_refuses_a_leaf_that_two_trees_hold():
    inside, _ = tree.split(small_tree(), {"encoder/layer_0/bias"})
    with pytest.raises(ValueError, match="bias"):
        tree.merge(inside, small_tree())
    with pytest.raises(ValueError, match="a"):
        tree.merge({"a": np.ones(1)}, {"a": {"b": np.ones(1)}})


def test_map_names_passes_full_names():
    seen = tree.map_names(lambda name, leaf: (name, leaf.ndim), small_tree())
    assert tree.flatten(seen)["head/kernel"] == ("head/kernel", 2)


def test_match_finds_anywhere_and_refuses_what_finds_nothing():
    assert tree.match(("layer_0", "^head"), NAMES, "tune.train") == {*NAMES[:2], "head/kernel"}
    assert tree.match((), NAMES, "tune.train") == set()
    with pytest.raises(UserError, match=r"config\.tune\.train.*'layer_7'.*matches no parameter.*4, for example enc"):
        tree.match(("layer_0", "layer_7"), NAMES, "tune.train")
    with pytest.raises(UserError, match=r"config\.tune\.train.*'layer_\['"):
        tree.match(("layer_[",), NAMES, "tune.train")


def test_count():
    assert tree.count(small_tree()) == 6 + 3 + 3 + 9
    assert tree.count({}) == 0


def test_sha256_is_over_path_dtype_shape_and_bytes():
    """By hand, in the order of full names ("a-b" before "a/b", which a sort of each level would turn round)."""
    one, two = np.array([[1.0, 2.0]], np.float32), np.array([3], np.int32)
    digest = hashlib.sha256()
    digest.update(b"a-b\0int32\0(1,)\0" + b"\x03\x00\x00\x00")
    digest.update(b"a/b\0float32\0(1, 2)\0" + b"\x00\x00\x80\x3f\x00\x00\x00\x40")
    assert tree.sha256({"a": {"b": one}, "a-b": two}) == digest.hexdigest()


def test_sha256_sees_each_part_and_only_these():
    def sha(name, leaf):
        return tree.sha256({"a": {name: leaf}})

    leaf = np.arange(6, dtype=np.float32).reshape(2, 3)
    same = [
        leaf.copy(),
        np.asfortranarray(leaf),
        leaf.astype(">f4"),
        np.repeat(leaf, 2, axis=1)[:, ::2],
        jnp.asarray(leaf),
    ]
    assert {sha("b", x) for x in same} == {sha("b", leaf)}
    flipped = leaf.copy()
    flipped.view(np.uint8)[1, 2] ^= 1
    others = [leaf.reshape(3, 2), leaf.astype(np.float64), leaf.view(np.int32), flipped, leaf.T]
    assert len({sha("b", leaf), sha("c", leaf), *(sha("b", x) for x in others)}) == 2 + len(others)


def test_crc32_sees_a_flipped_bit_and_not_the_memory_order():
    leaf = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert tree.crc32(leaf) == tree.crc32(np.asfortranarray(leaf)) == tree.crc32(jnp.asarray(leaf))
    flipped = leaf.copy()
    flipped.view(np.uint8)[0, 0] ^= 128
    assert tree.crc32(flipped) != tree.crc32(leaf)
