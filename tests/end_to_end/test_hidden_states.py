"""Runs from kept hidden states: the same losses as from tokens, the same bits after a stop, clear refusals."""

import functools
import json
import os
import shutil
import signal

import numpy as np
import pytest
import small
from process import Slow, finish, outcome, read_rows, start, tiny, wait_for

from fjt.training.protocols import Events

METHODS = {
    "head": dict(),
    "top_k": dict(tune__layers=1),
    "gradual": dict(tune__stage_epochs=2),  # of four stages, the first two start from hidden states
}


@pytest.fixture(scope="module")
def encoder(even, launch, tmp_path_factory):
    """A work directory with an encoder of two layers to start from."""
    workdir = tmp_path_factory.mktemp("encoder") / "run"
    options = dict(model__scratch__layers=2, train__steps=0, train__epochs=None, eval__every_epochs=None)
    done = launch(*tiny(even, **options), "--workdir", workdir)
    assert done.code == 0, done.text
    return workdir


@pytest.fixture(scope="module")
def arguments(even, encoder):
    """arguments(method, folder, **options) of a run of six epochs, 24 steps, that keeps what it keeps in a folder."""

    def function(method, folder, **options):
        every = dict(model__path=encoder, train__epochs=6, cache__dir=folder, checkpoint__every_steps=None)
        options = METHODS.get(method, {}) | every | options
        return tiny(even, tune__method=method, **options)

    return function


@pytest.fixture(scope="module")
def kept(arguments, launch, tmp_path_factory):
    """kept(method) -> the work directory of an undisturbed run that nothing was asked of, in a folder with `hidden`."""

    @functools.cache
    def function(method):
        folder = tmp_path_factory.mktemp(method)
        done = launch(*arguments(method, folder), "--workdir", folder / "run")
        assert done.code == 0 and "is computed once: " in done.text, done.text
        assert "hidden states of train " in done.text
        return folder / "run"

    return function


def read_result(workdir):
    return json.loads((workdir / "result.json").read_text())


def losses(workdir):
    return np.array([row["loss"] for row in read_rows(workdir / "train.jsonl")])


@pytest.mark.parametrize("method", small.tiers(["head", "gradual"], "head", slow=("gradual",)))
def test_with_and_without(method, kept, arguments, launch, tmp_path):
    done = launch(*arguments(method, tmp_path, cache__hidden=False), "--workdir", tmp_path / "run")
    assert done.code == 0 and "is computed in each step: config.cache.hidden=False" in done.text, done.text
    assert not (tmp_path / "hidden").exists()
    one, other = kept(method), tmp_path / "run"
    assert len(set(losses(other))) == 24
    np.testing.assert_allclose(losses(one)[:20], losses(other)[:20], rtol=2e-6)
    found, expected = (read_rows(run / "eval.jsonl") for run in (one, other))
    assert [row["step"] for row in found] == [row["step"] for row in expected] == [4, 8, 12, 16, 20, 24]
    for a, b in zip(found, expected, strict=True):
        for name in ("accuracy", "macro_f1", "loss"):
            np.testing.assert_allclose(a[name], b[name], atol=1e-5)
    logits = [np.load(run / "predictions" / "test.npz")["logits"] for run in (one, other)]
    np.testing.assert_allclose(*logits, atol=1e-4)
    found, expected = read_result(one), read_result(other)
    for name in ("frozen_sha256", "data_sha256", "trainable_params", "total_params"):
        assert found[name] == expected[name], name
    assert found["hidden_seconds"] > 0 == expected["hidden_seconds"]
    assert found["flops_per_step"] < 0.9 * expected["flops_per_step"]
    splits = 4 if method == "gradual" else 3  # train and dev of two stages, or train, dev and test
    assert len(os.listdir(one.parent / "hidden")) == splits


@pytest.mark.thorough
def test_stopped_and_resumed(kept, arguments, launch, cache, tmp_path):
    """SIGTERM in each stage that starts from hidden states; the second time they are gone when it goes on."""
    for step in (5, 10):
        process = start(
            [*arguments("gradual", tmp_path), "--workdir", tmp_path / "run"],
            tmp_path / "output",
            cache=cache,
            events=Slow(0.1),
        )
        assert wait_for(lambda step=step: len(read_rows(tmp_path / "run" / "train.jsonl")) >= step, process)
        os.kill(process.pid, signal.SIGTERM)
        assert finish(process, tmp_path / "output").code == 143
        if step == 10:
            shutil.rmtree(tmp_path / "hidden")
    done = launch(*arguments("gradual", tmp_path), "--workdir", tmp_path / "run")
    assert done.code == 0 and "resuming after step" in done.text, done.text
    assert outcome(tmp_path / "run") == outcome(kept("gradual"))


class StopInTheSecondStage(Events):
    """SIGTERM comes when the hidden states of the second stage are about to be made."""

    def stage_begins(self, number):
        if number == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.thorough
def test_stopped_while_they_are_made(arguments, launch, cache, tmp_path):
    """At the start of a stage, between two checkpoints: nothing is lost and nothing is half-written."""
    options = dict(tune__stage_epochs=1.25, train__epochs=2, checkpoint__every_steps=None, cache__hidden=True)
    process = start(
        [*arguments("gradual", tmp_path, **options), "--workdir", tmp_path / "run"],
        tmp_path / "output",
        cache=cache,
        events=StopInTheSecondStage(),
    )
    done = finish(process, tmp_path / "output")
    assert done.code == 143 and (tmp_path / "run" / "checkpoints" / "5" / "state").is_dir(), done.text
    assert len(os.listdir(tmp_path / "hidden")) == 2
    done = launch(*arguments("gradual", tmp_path, **options), "--workdir", tmp_path / "run")
    assert done.code == 0 and "resuming after step 5" in done.text, done.text
    done = launch(*arguments("gradual", tmp_path, **options), "--workdir", tmp_path / "whole")
    assert done.code == 0 and "hidden states of train" not in done.text, done.text  # they lie there
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_two_devices_in_two_parts_each(kept, arguments, launch, tmp_path):
    options = dict(mesh__data=2, train__accumulation=2)
    done = launch(*arguments("gradual", tmp_path, **options), "--workdir", tmp_path / "run")
    assert done.code == 0 and "is computed once" in done.text, done.text
    np.testing.assert_allclose(losses(tmp_path / "run")[:20], losses(kept("gradual"))[:20], rtol=2e-6)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("full", {}, ("encoder/embeddings/", "no layer lies below")),
        ("top_k", {"cache__hidden_gib": 1e-5}, ("config.cache.hidden_gib=1e-05", "MiB")),
    ],
)
def test_what_cannot_be_kept_says_why(method, options, words, arguments, launch, tmp_path):
    done = launch(*arguments(method, tmp_path, cache__hidden=True, **options), "--plan")
    assert done.code == 2 and "config.cache.hidden=True" in done.text and "Traceback" not in done.text
    assert all(word in done.text for word in words), done.text
    done = launch(*arguments(method, tmp_path, **options), "--plan")
    assert done.code == 0 and "is computed once" not in done.text
    assert (words[0] in done.text) == (method == "top_k")  # of full tuning nothing is said
