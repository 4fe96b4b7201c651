"""Gradual unfreezing across its stages: stopped, killed, in other layouts and on other devices, ended early."""

import dataclasses
import json
import os
import re
import signal

import numpy as np
import pytest
from process import SignalInStep, keeps_its_model, outcome, predicts_as_it_was, read_rows, run, tiny

from fjt.core import tree
from fjt.training import placement
from fjt.training.protocols import Events


def test_across_its_stages(finished, even, launch, tmp_path):
    """Three stages of four steps: head and pooler, the layer, the embeddings.

    Asked to stop on a boundary, killed in the stage after it, which begins again from the boundary, asked within it.
    """
    base, _ = finished
    whole = run(launch, even, base, tmp_path / "whole", "gradual")
    assert "stage 1, from step 4" in whole.text and "stage 2, from step 8" in whole.text
    arguments = tiny(even, tune__method="gradual", model__path=base, optim__learning_rate=1e-2)
    for number, in_step, code, steps in (
        (signal.SIGTERM, 3, 143, 4),  # the last one of the first stage
        (signal.SIGKILL, 5, -9, None),
        (signal.SIGTERM, 5, 143, 6),
    ):
        half = launch(*arguments, "--workdir", tmp_path / "parts", events=SignalInStep(in_step, number))
        assert half.code == code, half.text
        assert steps is None or len((tmp_path / "parts" / "train.jsonl").read_text().splitlines()) == steps
        assert "resuming after step 4 " in half.text or in_step == 3
    last = run(launch, even, base, tmp_path / "parts", "gradual")
    assert "resuming after step 6 " in last.text
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    assert list(keeps_its_model(tmp_path / "whole"))[-2:] == [8, 12]  # of two stages
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("parts", "whole")]
    assert results[0]["flops_per_step"] == results[1]["flops_per_step"]
    full = json.loads((base / "result.json").read_text())
    assert results[1]["trainable_params"] == full["trainable_params"]
    assert results[1]["flops_per_step"] < 0.9 * full["flops_per_step"]


@pytest.mark.slow
def test_stopped_early_and_killed_in_its_export(finished, even, launch, tmp_path):
    """By patience, within stage 1: the same command ends with the stage's own leaves."""
    options = dict(train__patience=4, eval__every_steps=1, eval__every_epochs=None, optim__learning_rate=3e-2)
    arguments = tiny(even, tune__method="gradual", model__path=finished[0], **options)
    for name, events in (("whole", None), ("killed", KillInTheExport())):
        done = launch(*arguments, "--workdir", tmp_path / name, events=events)
        assert done.code == (-9 if events else 0), done.text
    assert launch(*arguments, "--workdir", tmp_path / "killed").code == 0
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")
    result = json.loads((tmp_path / "whole" / "result.json").read_text())
    assert 4 < result["steps"] < 12
    assert result["head_params"] + result["pooler_params"] < result["trainable_params"]


def test_that_ends_before_its_stages(finished, even, launch):
    """A stage of many epochs: what never opens is told before the run."""
    options = dict(tune__method="gradual", tune__stage_epochs=100.0, model__path=finished[0])
    done = launch(*tiny(even, **options), "--plan")
    assert done.code == 0 and "training ends before 21 leaves open, encoder/embeddings" in done.text
    assert "training ends before" not in launch(*tiny(even, **options | {"tune__stage_epochs": 1.0}), "--plan").text


@pytest.mark.slow
def test_with_layers_that_start_anew(finished, even, launch, tmp_path):
    """A stage that opens nothing, since all of it trains from the start."""
    run(launch, even, finished[0], tmp_path / "run", "gradual", model__reinit_layers=1)


@pytest.mark.slow
def test_on_other_devices_in_between_and_in_another_layout(finished, even, launch, tmp_path):
    """Stopped in the second stage and resumed on two devices; one example per row in two parts: the same losses."""
    base, _ = finished
    run(launch, even, base, tmp_path / "packed", "gradual")
    arguments = tiny(even, tune__method="gradual", model__path=base, optim__learning_rate=1e-2)
    half = launch(*arguments, "--workdir", tmp_path / "parts", events=SignalInStep(6, signal.SIGTERM))
    assert half.code == 143, half.text
    run(launch, even, base, tmp_path / "parts", "gradual", mesh__data=2)
    run(launch, even, base, tmp_path / "apart", "gradual", train__packing=False, train__accumulation=2)
    names = ("parts", "apart", "packed")
    *found, expected = ([row["loss"] for row in read_rows(tmp_path / name / "train.jsonl")] for name in names)
    assert len(expected) == 12
    for losses in found:
        np.testing.assert_allclose(losses, expected, rtol=2e-6)


def test_selects_a_step_of_an_earlier_stage(finished, even, launch, texts, tmp_path):
    """A rate of zero: the first stage ends with the best evaluation, and the result is about it."""
    run(launch, even, finished[0], tmp_path / "run", "gradual", train__select="best", optim__learning_rate=0.0)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["selected_step"], result["steps"]) == (4, 12)
    assert result["trainable_params"] == result["head_params"] + result["pooler_params"]
    predicts_as_it_was(tmp_path / "run", texts)


@pytest.mark.thorough
def test_phases_that_end_by_their_scores(finished, even, launch, tmp_path):
    """Each starts from the best step so far.  Killed at the first step of a phase, and stopped within one."""
    (tmp_path / "phases").write_text("head/ epochs=2\nlayer_0/ epochs=1 rate=0.5\nembeddings/\n")
    options = dict(tune__schedule_file=tmp_path / "phases", tune__stage_patience=2, optim__learning_rate=1e-2)
    options |= dict(eval__every_steps=1, eval__every_epochs=None, train__epochs=5)
    options |= dict(optim__schedule="constant", optim__warmup_fraction=0.0)
    arguments = tiny(even, tune__method="gradual", model__path=finished[0], **options)
    whole = launch(*arguments, "--workdir", tmp_path / "whole", events=Watch(-1, 0, str(tmp_path / "heads")))
    assert whole.code == 0, whole.text
    _, second, third = firsts = [0, *map(int, re.findall(r"stage \d, from step (\d+):", whole.text))]
    heads, early = (tmp_path / "heads").read_text().split(), 0
    best = {row["step"] for row in read_rows(tmp_path / "whole" / "eval.jsonl") if row["best"]}
    for first in (second, third):
        start = max(step for step in best if step <= first)
        assert heads[first] == heads[start] != heads[start - 1]
        early += start < first
    assert early and second < 8 and third < 12  # where they were to end
    rates = [row["learning_rate"] for row in read_rows(tmp_path / "whole" / "train.jsonl")]
    factors = [0.5 if second <= step < third else 1.0 for step in range(len(rates))]
    np.testing.assert_array_equal(np.float32(rates), np.float32(1e-2) * np.float32(factors))

    for number, step, code in ((signal.SIGKILL, second, -9), (signal.SIGTERM, third, 143)):
        half = launch(*arguments, "--workdir", tmp_path / "parts", events=SignalInStep(step, number))
        assert half.code == code, half.text
    assert f"resuming after step {second} " in half.text and f"stage 1, from step {second}:" in half.text
    last = launch(*arguments, "--workdir", tmp_path / "parts")
    assert last.code == 0 and f"resuming after step {third + 1} " in last.text, (firsts, last.text)
    assert outcome(tmp_path / "parts") == outcome(tmp_path / "whole")
    keeps_its_model(tmp_path / "whole")


@dataclasses.dataclass
class Watch(SignalInStep):
    """Writes the hash of the head before each step."""

    path: str = ""

    def step_begins(self, step, stepper):
        with open(self.path, "a") as file:
            file.write(f"{tree.sha256(placement.fetch(stepper.state.trainable['head']))}\n")
        super().step_begins(step, stepper)


class KillInTheExport(Events):
    """SIGKILL when the export begins."""

    def export_begins(self):
        os.kill(os.getpid(), signal.SIGKILL)
