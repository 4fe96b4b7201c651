"""Checkpoints: the same bits back, damage noticed and passed over, the best one never lost."""

import dataclasses
import json
import math
import os
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from jax.experimental import multihost_utils

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.training import checkpoint, placement
from fjt.training.optim import make_optimizer
from fjt.training.step import TrainState, init_state


def make_state(step, value=0.0):
    rng = np.random.default_rng(step)
    trainable = {
        "head": {"kernel": jnp.asarray(rng.normal(size=(64, 33)), jnp.float32), "bias": jnp.full((33,), value)}
    }
    state = init_state(trainable, small.make_hyper(), make_optimizer(small.ADAMW))
    grads = jax.tree.map(lambda x: jnp.sin(x), trainable)
    _, opt_state = make_optimizer(small.ADAMW)(small.make_hyper()).update(grads, state.opt_state, trainable)
    return jax.device_put(TrainState(jnp.uint32(step), trainable, opt_state), jax.devices()[0])


def abstract():
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), make_state(0))


def host(step, best=None):
    return checkpoint.HostState(best_step=best, best_score=0.1 + 0.2, metrics={"accuracy": 1 / 3}, examples=step * 32)


def save(folder, *steps, keep=10, best=None):
    """Saves some steps; best: {step: the best step so far}."""
    with checkpoint.Checkpoints(folder, keep) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), [host(step, (best or {}).get(step))])
        checkpoints.wait()
        return checkpoints.steps()


def restore(folder, step=None, lines=None):
    """(what restore gives, the lines it reports, the steps left)."""
    lines = [] if lines is None else lines
    with checkpoint.Checkpoints(folder, 10, lines.append) as checkpoints:
        return checkpoints.restore(lambda *_: abstract(), step), lines, checkpoints.steps()


def same_bits(one, two):
    leaves = zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True)
    return all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in leaves)


def test_the_same_bits_come_back(tmp_path):
    assert save(tmp_path, 3, 5) == [5, 3]
    (step, state, values), lines, _ = restore(tmp_path)
    assert step == 5 and not lines and values == [host(5)]
    assert same_bits(state, make_state(5)) and not same_bits(state, make_state(3))
    assert jax.tree.structure(state) == jax.tree.structure(make_state(5))
    (step, state, values), _, _ = restore(tmp_path, step=3)
    assert step == 3 and same_bits(state, make_state(3)) and values == [host(3)]


def test_nothing_to_restore(tmp_path):
    assert restore(tmp_path) == (None, [], [])
    assert restore(tmp_path / "new") == (None, [], [])


def data_files(folder, step):
    """The files of a checkpoint that hold its arrays, largest first."""
    files = [path for path in Path(folder, str(step)).rglob("*") if path.is_file() and path.parent.name == "d"]
    assert files
    return sorted(files, key=os.path.getsize, reverse=True)


def flip(folder, step):
    file = data_files(folder, step)[0]
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def truncate(folder, step):
    file = data_files(folder, step)[0]
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def lose(folder, step):
    for file in data_files(folder, step):
        file.unlink()


def empty_host(folder, step):
    for file in Path(folder, str(step), "host").iterdir():
        file.write_bytes(b"")


def change_host(folder, step):
    """Another number of the run's own state."""
    file = Path(folder, str(step), "host", "metadata")
    about = json.loads(file.read_text())
    about["host"]["best_score"] += 0.5
    file.write_text(json.dumps(about))


def rename_leaf(folder, step):
    """The name of a leaf, whose checksum is then not found."""
    file = Path(folder, str(step), "host", "metadata")
    about = json.loads(file.read_text())
    about["sums"] = {f"{name}x": value for name, value in about["sums"].items()}
    file.write_text(json.dumps(about))


@pytest.mark.parametrize("damage", [flip, truncate, lose, empty_host, change_host, rename_leaf])
def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path, damage):
    save(tmp_path, 3, 5)
    damage(tmp_path, 5)
    (step, state, values), lines, left = restore(tmp_path)
    assert step == 3 and same_bits(state, make_state(3)) and values == [host(3)] and left == [3]
    (line,) = lines
    assert line.startswith("the checkpoint of step 5 cannot be read") and line.endswith("trying the one before")
    assert save(tmp_path, 5) == [5, 3]  # the run comes by step 5 again
    assert same_bits(restore(tmp_path)[0][1], make_state(5))


def test_a_flipped_byte_is_seen_in_any_part_of_a_leaf(tmp_path):
    """Without the checksums some of these would come back as other numbers, silently."""
    save(tmp_path, 5)
    file = data_files(tmp_path, 5)[0]
    whole, refused = file.read_bytes(), 0
    for place in range(1, len(whole), len(whole) // 6):
        data = bytearray(whole)
        data[place] ^= 1
        file.write_bytes(data)
        try:
            (_, state, _), _, _ = restore(tmp_path, 5)
        except UserError as error:
            assert "step 5" in str(error) and "cannot be read" in str(error)
            refused += 1
        else:
            assert same_bits(state, make_state(5))  # a byte that nothing depends on
    assert refused
    file.write_bytes(whole)
    assert same_bits(restore(tmp_path, 5)[0][1], make_state(5))  # it was the bytes


def test_checksums_are_what_notices(tmp_path, monkeypatch):
    """A restored leaf that differs by its last bit is refused."""
    save(tmp_path, 5)
    digest = checkpoint.digest

    def nudged(leaf):
        return digest(np.nextafter(leaf, np.inf) if np.ndim(leaf) == 2 else leaf)

    monkeypatch.setattr(checkpoint, "digest", nudged)
    lines = []
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        restore(tmp_path, lines=lines)
    assert "do not give its checksum" in lines[0]


def test_checkpoints_of_version_0_1_0_are_read(tmp_path, monkeypatch):
    """They have a CRC-32 of each leaf's bytes."""

    def old(hosts):
        leaves = checkpoint._flatten(make_state(5))
        return {"host": whole(hosts), "checksums": {name: tree.crc32(leaf) for name, leaf in leaves.items()}}

    whole, json_save = checkpoint._to_json, checkpoint.ocp.args.JsonSave
    monkeypatch.setattr(checkpoint.ocp.args, "JsonSave", lambda item: json_save(old([host(5)])))
    save(tmp_path, 5)
    monkeypatch.undo()
    (step, state, values), lines, _ = restore(tmp_path)
    assert step == 5 and same_bits(state, make_state(5)) and values == [host(5)] and not lines
    flip(tmp_path, 5)
    with pytest.raises(UserError, match="none of the 1 checkpoints"):
        restore(tmp_path)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint32, jnp.bfloat16, np.bool_, np.float64])
def test_the_checksum_sees_every_bit_and_every_place(dtype):
    with jax.enable_x64(True):
        leaf = np.arange(2, 14).reshape(3, 4).astype(dtype)
        finite, total = checkpoint.digest(leaf)
        assert finite and checkpoint.digest(jnp.asarray(leaf)) == (finite, total)
        mesh = placement.make_mesh(2)
        halves = jax.device_put(leaf, placement.Layout(mesh, (), True).stored("x", leaf.shape))
        assert checkpoint.digest(halves) == (finite, total) and len(halves.sharding.device_set) == 2
        for bit in range(8 * leaf.dtype.itemsize if dtype is not np.bool_ else 1):
            changed = leaf.copy()
            changed.view(np.uint8)[1, bit // 8] ^= 1 << bit % 8
            assert checkpoint.digest(changed)[1] != total
        if dtype is not np.bool_:
            assert checkpoint.digest(leaf[::-1])[1] != total
        if np.issubdtype(leaf.dtype, np.floating):
            assert not checkpoint.digest(np.where(leaf == leaf[1, 1], np.nan, leaf))[0]


def test_every_checkpoint_damaged(tmp_path):
    save(tmp_path, 3, 5)
    flip(tmp_path, 3)
    truncate(tmp_path, 5)
    lines = []
    with pytest.raises(UserError, match=r"none of the 2 checkpoints .* starts from step 0"):
        restore(tmp_path, lines=lines)
    assert len(lines) == 2 and lines[0].endswith("trying the one before") and lines[1].endswith(")")
    assert sorted(path.name for path in tmp_path.with_name(f"{tmp_path.name}-unreadable").iterdir()) == ["3", "5"]
    assert restore(tmp_path)[0] is None


def test_leaves_of_another_version_are_refused_and_stay(tmp_path):
    """Before the pooler became a part of the head, leaves had other names: a whole checkpoint, and of no use here."""
    with checkpoint.Checkpoints(tmp_path, 10) as checkpoints:
        earlier = make_state(3)
        earlier = dataclasses.replace(earlier, trainable={"encoder": {"pooler": earlier.trainable["head"]}})
        checkpoints.save(3, earlier, [host(3)])
        checkpoints.wait()
    for step in (None, 3):
        lines = []
        with pytest.raises(checkpoint.OtherLeaves, match=r"step 3 .*pooler/bias.*another version of fjt wrote it"):
            restore(tmp_path, step, lines)
        assert lines == [] and os.listdir(tmp_path) == ["3"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_state_that_is_not_finite_is_not_saved(tmp_path, value):
    save(tmp_path, 3)
    with checkpoint.Checkpoints(tmp_path, 1) as checkpoints:
        with pytest.raises(checkpoint.NotFinite, match=r"head/bias is not finite after step 7"):
            checkpoints.save(7, make_state(7, value), [host(7)])
        checkpoints.wait()
        assert checkpoints.steps() == [3]
    assert same_bits(restore(tmp_path)[0][1], make_state(3))


def test_the_best_is_kept_beside_the_last_ones(tmp_path):
    assert save(tmp_path, 1, 2, 3, 4, 5, keep=2, best={k: 2 for k in range(2, 6)}) == [5, 4, 2]
    assert same_bits(restore(tmp_path, step=2)[0][1], make_state(2))
    # A new process, in which the best is known from the host's state alone.
    with checkpoint.Checkpoints(tmp_path, 2) as checkpoints:
        assert checkpoints.restore(lambda *_: abstract())[2][0].best_step == 2
        checkpoints.save(6, make_state(6), [host(6, 2)])
        checkpoints.wait()
        assert checkpoints.steps() == [6, 5, 2]
        checkpoints.save(7, make_state(7), [host(7, 7)])  # a better one: the old best may go
        checkpoints.wait()
        assert checkpoints.steps() == [7, 6]


def test_without_a_best_the_last_ones_are_kept(tmp_path):
    assert save(tmp_path, 1, 2, 3, keep=1) == [3]


def test_a_save_that_was_cut_off_is_cleared_away(tmp_path):
    save(tmp_path, 3)
    (partial,) = (tmp_path / f"5.orbax-checkpoint-tmp-{n}" for n in (1,))
    (partial / "state").mkdir(parents=True)
    (step, _, _), lines, left = restore(tmp_path)
    assert step == 3 and not lines and left == [3]
    assert save(tmp_path, 5) == [5, 3]


def test_a_folder_that_cannot_be_created_ends_the_save_at_once(tmp_path):
    """No thread waits for it: such a thread would hold the process for minutes."""
    before = set(threading.enumerate())
    with pytest.raises(UserError, match=r"could not be written into .*The ones before it are kept"):
        with checkpoint.Checkpoints(tmp_path / "checkpoints", 1) as checkpoints:
            (tmp_path / "checkpoints").rmdir()
            (tmp_path / "checkpoints").write_text("in the way")
            checkpoints.save(3, make_state(3), [host(3)])
            checkpoints.wait()
    assert not [
        thread.name
        for thread in set(threading.enumerate()) - before
        if not thread.daemon and "asyncio" not in thread.name
    ]


def test_better():
    assert checkpoint.better(0.5, None, False) and checkpoint.better(0.5, 0.4, False)
    assert not checkpoint.better(0.5, 0.5, False) and not checkpoint.better(0.4, 0.5, False)
    assert checkpoint.better(0.4, 0.5, True) and not checkpoint.better(0.5, 0.4, True)
    assert not any(
        checkpoint.better(score, None, lower) for score in (None, math.nan, math.inf) for lower in (False, True)
    )
    for best in (math.nan, math.inf, -math.inf):  # a first score that was not finite
        assert checkpoint.better(0.5, best, False) and checkpoint.better(0.5, best, True)


def test_removal_takes_the_folders_of_steps_alone(tmp_path):
    folder = tmp_path / "checkpoints"
    save(folder, 3, 6)
    (folder / "9.orbax-checkpoint-tmp-1").mkdir()
    checkpoint.remove(folder)
    assert not folder.exists()
    checkpoint.remove(folder)  # again, after a kill
    save(folder, 3)
    (folder / "model.pt").write_text("precious")
    (folder / "7-best").mkdir()
    (folder / "8").write_text("precious")
    (tmp_path / "4").mkdir()
    (folder / "4").symlink_to(tmp_path / "4")
    checkpoint.remove(folder)
    assert sorted(os.listdir(folder)) == ["4", "7-best", "8", "model.pt"]


def test_a_folder_that_is_a_link_is_left(tmp_path):
    save(tmp_path / "elsewhere", 3)
    (tmp_path / "checkpoints").symlink_to(tmp_path / "elsewhere")
    checkpoint.remove(tmp_path / "checkpoints")
    assert os.listdir(tmp_path / "elsewhere") == ["3"]


def test_late_calls_of_a_failed_save_print_nothing_and_other_errors_do(tmp_path, monkeypatch):
    """TensorStore's threads raise where Python can only print: with a full disk, dozens of tracebacks."""
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", printed.append)
    hook, late = sys.unraisablehook, RuntimeError("Event loop is closed")
    others = [RuntimeError("another"), OSError("Event loop is closed")]
    with checkpoint.Checkpoints(tmp_path, 1):
        for error in (late, *others):
            sys.unraisablehook(SimpleNamespace(exc_type=type(error), exc_value=error))
    assert [dropped.exc_value for dropped in printed] == others and sys.unraisablehook is hook


LAYOUTS = {
    "1": (1, 1, False),
    "4": (4, 1, False),
    "4 spread": (4, 1, True),
    "2 x 2": (2, 2, False),
    "2 x 2 spread": (2, 2, True),
}


def laid_out(name, state):
    """A state in a layout."""
    data, model, spread = LAYOUTS[name]
    rules = ((r"head/kernel", (None, "model")),)
    layout = placement.Layout(placement.make_mesh(data, model), rules, spread)
    return layout.put(jax.device_get(state)), layout


@pytest.mark.parametrize("saved_as", LAYOUTS)
def test_a_state_comes_back_in_any_layout_with_the_same_bits(tmp_path, saved_as):
    widths = {"head": {"kernel": jnp.arange(64.0 * 32).reshape(64, 32), "bias": jnp.full((32,), 0.5)}}
    state = init_state(widths, small.make_hyper(), make_optimizer(small.ADAMW))
    made, _ = laid_out(saved_as, state)
    with checkpoint.Checkpoints(tmp_path, 1, pytest.fail) as checkpoints:
        checkpoints.save(3, made, [host(3)])
        checkpoints.wait()
    for name in LAYOUTS:
        target, layout = laid_out(name, state)
        with checkpoint.Checkpoints(tmp_path, 1, pytest.fail) as checkpoints:
            step, found, _ = checkpoints.restore(lambda *_, layout=layout: layout.shapes(jax.eval_shape(lambda: state)))
        assert step == 3 and same_bits(jax.device_get(found), jax.device_get(state))
        assert jax.tree.map(lambda x: x.sharding, found) == jax.tree.map(lambda x: x.sharding, target)


def test_saving_takes_no_part_in_stopping(tmp_path, monkeypatch):
    """Orbax would report its steps to the counter of looks for a stop, and the stop would be lost."""
    told = []
    monkeypatch.setattr(multihost_utils, "reached_preemption_sync_point", told.append)
    with checkpoint.Checkpoints(tmp_path, 1, pytest.fail) as checkpoints:
        checkpoints.save(5, make_state(5), [host(5)])
        checkpoints.wait()
        assert not checkpoints._manager.reached_preemption(5)
    assert told == []
