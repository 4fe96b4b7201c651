"""A node without the study's folder plans and runs bundles from the records it is sent, to the bits of one process."""

import dataclasses
import json
import os
import signal

import pytest
from made_study import make

from fjt.core import records
from fjt.core.console import Silent
from fjt.core.errors import UserError
from fjt.experiment import run_records
from fjt.study import node, plans, spec
from fjt.training.stop import Stopped

TINY = {
    "data.limit": (96,), "model.scratch.layers": (1,), "model.scratch.width": (32,), "model.scratch.inner": (64,),
    "model.scratch.heads": (2,), "train.steps": (2,), "train.batch_size": (24,), "model.path": ("",),
}  # fmt: skip
CHOSEN = TINY | {"tune.method": ("bitfit",), "optim.learning_rate": spec.choose(1e-4, 1e-2)}
GIVEN = TINY | {"tune.method": ("full",), "optim.learning_rate": (1e-3,)}


SAME = ("params_sha256", "frozen_sha256", "data_sha256", "metrics", "steps", "selected_step", "collapsed")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def order_of(folder, cache, **study):
    """The Order of a study of two cells, of which one chooses its rate."""
    options, base, runs = make(CHOSEN, GIVEN, seeds=2, tuning_seeds=1, shared=False, **study)
    base["cache"]["dir"], base["mesh"]["data"] = str(cache), 1
    folder.mkdir()
    return node.Order(
        folder=str(folder),
        directory=str(folder.parent),
        study=options,
        base=base,
        encoder=None,
        runs=runs,
        command="python -m fjt.sweep",
        versions=records.versions(),
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory, cache):
    """The folder of the study, run by this process."""
    order = order_of(tmp_path_factory.mktemp("here") / "study", cache)
    host = node.Here(order, view=Silent())
    host.plan()
    _, bundles, _ = plans.load(order.folder)
    assert host.work(bundles)
    return order.folder


@pytest.fixture(scope="module")
def planned(tmp_path_factory, cache):
    """(Order, plan.json as a node sends it) of the study, planned elsewhere."""
    order = order_of(tmp_path_factory.mktemp("there") / "study", cache)
    answer = node.plan(order, {})
    assert not answer.mistake and set(answer.files) == {"plan.json"}
    return order, answer.files


def without_seconds(plan):
    """plan.json without the times, which are estimated by a measurement."""
    return plan | {"groups": [bundle | {"seconds": 0} for bundle in plan["groups"]]}


def test_bundles_run_elsewhere_are_those_that_run_here(here, planned):
    order, plan = planned
    node.put(order.folder, plan)
    runs, bundles, made = plans.load(order.folder)
    assert without_seconds(made) == without_seconds(plans.load(here)[2])
    answers, needed = {}, {bundle.id: plans.needs(bundle, bundles, runs) for bundle in bundles}
    assert sorted(len(some) for some in needed.values()) == [0, 0, 1]
    for bundle in bundles:
        answers[bundle.id] = node.work(order, bundle.id, plan, *(answers[one.id] for one in needed[bundle.id]))
        assert not answers[bundle.id].mistake
        node.put(order.folder, answers[bundle.id].files)
    for name in runs:
        there, own = os.path.join(order.folder, name), os.path.join(here, name)
        one, other = (run_records.read_result(folder) for folder in (there, own))
        assert {key: one[key] == other[key] for key in SAME} == dict.fromkeys(SAME, True)
        assert set(os.listdir(there)) == set(os.listdir(own)) - {".lock"}


def test_what_has_ended_is_neither_made_nor_sent_again(here, planned):
    """Half of a bundle is known; of its needs the records of an earlier command are there."""
    order, plan = planned
    runs, bundles, _ = plans.load(here)
    (bundle,) = [one for one in bundles if plans.needs(one, bundles, runs)]
    first, second = bundle.runs
    needs = [name for one in plans.needs(bundle, bundles, runs) for name in one.runs]
    answer = node.work(order, bundle.id, plan | node.records_of(here, [first, *needs]))
    assert not answer.mistake and {path.startswith(f"{second}/") for path in answer.files} == {True}


def test_a_bundle_without_its_needs_is_refused(planned):
    order, plan = planned
    node.put(order.folder, plan)
    runs, bundles, _ = plans.load(order.folder)
    (bundle,) = [one for one in bundles if plans.needs(one, bundles, runs)]
    (needed,) = plans.needs(bundle, bundles, runs)
    answer = node.work(order, bundle.id, plan)
    assert f"--bundles {needed.id}" in answer.mistake and "(On the node " in answer.mistake
    assert node.work(order, bundle.id, plan, answer) == node.Answer()
    assert plans.find([bundle.id, needed.id], order.folder, bundles, runs) == [needed, bundle]


def test_other_data_on_a_node_are_refused(planned):
    order, plan = planned
    made = json.loads(plan["plan.json"])
    for contents in made["contents"].values():
        contents["data"] = "0" * 64
    id_ = made["groups"][0]["id"]
    answer = node.work(order, id_, {"plan.json": json.dumps(made).encode()})
    assert "was planned over other contents" in answer.mistake and not answer.files


def test_another_version_on_a_node_is_refused(planned):
    order, plan = planned
    other = dataclasses.replace(order, versions=order.versions | {"jax": "0.0.1"})
    assert " instead of 0.0.1. Install" in node.plan(other, plan).mistake


def test_a_shared_folder_that_is_not_there_is_refused(planned, tmp_path):
    order, plan = planned
    study = dataclasses.replace(order.study, shared=True)
    answer = node.plan(dataclasses.replace(order, study=study, folder=str(tmp_path / "elsewhere")), plan)
    assert "is not there" in answer.mistake and "config.study.shared=False" in answer.mistake


def test_fjt_s_own_errors_are_not_the_user_s(planned, monkeypatch):
    order, plan = planned

    def fail(*_):
        raise KeyError("a fault of fjt")

    monkeypatch.setattr(node.Here, "plan", fail)
    with pytest.raises(KeyError):
        node.plan(order, plan)


def test_runs_that_ended_before_a_mistake_or_an_interruption_are_sent(here, planned, monkeypatch):
    order, plan = planned
    runs, bundles, _ = plans.load(here)
    (bundle,) = [one for one in bundles if plans.needs(one, bundles, runs)]
    needs = [name for one in plans.needs(bundle, bundles, runs) for name in one.runs]
    known, made = plan | node.records_of(here, needs), []
    whole = node.worker._run_member

    def run_one(member, *others):
        if made:
            raise error
        made.append(member.name)
        whole(member, *others)

    monkeypatch.setattr(node.worker, "_run_member", run_one)
    for error in (UserError("a mistake"), Stopped(signal.SIGINT), KeyboardInterrupt()):
        made.clear()
        answer = node.work(order, bundle.id, known)
        assert answer.ended == tuple(made) and f"{made[0]}/DONE" in answer.files
        assert answer.mistake.startswith("a mistake") == isinstance(error, UserError)
    made.clear()
    error = Stopped(signal.SIGTERM)  # of the node, which goes away: the engine starts the bundle again
    with pytest.raises(Stopped):
        node.work(order, bundle.id, known)


def test_temporary_folders_of_killed_nodes_are_removed(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(node.tempfile, "gettempdir", lambda: str(tmp_path))
    with node._temporary() as held:
        left = tmp_path / node.files.temporary_name()
        left.mkdir()
        with node._temporary() as other:
            assert os.path.isdir(held) and os.path.isdir(other) and not left.exists()
    assert not os.path.exists(held) and not os.path.exists(other)


def test_what_others_have_written_is_waited_for(tmp_path, monkeypatch):
    """A network file system shows it late."""
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            (tmp_path / "runs" / "a").mkdir(parents=True)
            (tmp_path / "runs" / "a" / "DONE").write_text("")

    monkeypatch.setattr(node.time, "sleep", sleep)
    node.await_seen(str(tmp_path), ["runs/a"])
    assert len(waits) == 3
    monkeypatch.setattr(node, "SEEN", -1.0)
    with pytest.raises(UserError, match="was written by another machine and is not seen here"):
        node.await_seen(str(tmp_path), [], b"{}")


def test_files_with_which_a_run_counts_as_ended_come_last(tmp_path, monkeypatch):
    written, whole = [], node.files.written

    def tell(path):
        written.append(os.path.basename(path))
        return whole(path)

    monkeypatch.setattr(node.files, "written", tell)
    node.put(tmp_path, {"r/DONE": b"", "r/result.json": b"{}", "r/predictions/dev.npz": b"0", "r/.fjt": b"", "a": b""})
    assert written[-2:] == ["result.json", "DONE"] and len(written) == 5
    assert node.collect(tmp_path, ["r", "a"]).keys() == {
        "a",
        "r/DONE",
        "r/result.json",
        "r/predictions/dev.npz",
        "r/.fjt",
    }


def test_needs_are_those_of_a_bundle_s_own_cells():
    def run(phase, cell, seed, open_=()):
        return spec.Run(f"{phase}/{cell}/seed={seed}", phase, cell, (("seed", seed),), open_)

    open_ = (("optim.learning_rate", (1e-3, 1e-2)),)
    made = [run("tuning", "t/a", 1), run("tuning", "t/b", 1), run("runs", "t/a", 0, open_), run("runs", "t/c", 0)]
    runs = {one.name: one for one in made}
    bundles = [plans.Bundle(str(i), one.phase, "loop", "", (), (one.name,), (), 1.0) for i, one in enumerate(made)]
    assert [[need.id for need in plans.needs(one, bundles, runs)] for one in bundles] == [[], [], ["0"], []]


def test_unknown_bundles_are_refused(tmp_path):
    bundles = [plans.Bundle("000-abcd", "runs", "loop", "", (), (), (), 1.0)]
    with pytest.raises(UserError, match=r"has no bundle .000-abce.\. Did you mean 000-abcd"):
        plans.find(["000-abce"], str(tmp_path), bundles, {})
