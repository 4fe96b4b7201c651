"""A bundle of lanes leaves the records that its runs leave alone, also where they end early, fail or are stopped."""

import contextlib
import ctypes
import dataclasses
import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small
from end_to_end.process import outcome, read_rows

from configs import quickstart
from fjt.core import console
from fjt.core.errors import UserError
from fjt.core.settings import from_config
from fjt.experiment.execute import run
from fjt.experiment.inputs import Inputs
from fjt.experiment.prepare import prepare
from fjt.experiment.solo import SoloRun
from fjt.study import planner, worker
from fjt.study.bundle import run_bundle
from fjt.training import schedules
from fjt.training.checkpoint import NotFinite
from fjt.training.protocols import Events
from fjt.training.stop import Stopped

LORA = {"tune.method": ("lora",), "tune.max_rank": 4, "tune.rank": 2, "optim.learning_rate": 3e-3}
# Other ranks, rates, seeds, lengths, and what they select; the third ends early, the fourth's numbers are not finite,
# the learning rate of the last one falls.
RUNS = (
    LORA | {"seed": 0},
    LORA | {"seed": 1, "tune.rank": 4, "optim.learning_rate": 1e-2, "train.select": "best"},
    LORA | {"seed": 2, "optim.learning_rate": 1e-7, "train.patience": 1},
    LORA | {"seed": 3, "optim.learning_rate": 1e38, "optim.clip_norm": 0.0},
    LORA
    | {
        "seed": 4,
        "train.steps": 8,
        "tune.alpha": 4.0,
        "eval.every_steps": 3,
        "eval.every_epochs": None,
        "optim.plateau_patience": 1,
        "optim.plateau_factor": 0.1,
    },
)
FAILS = 3
PROGRAMS = {}  # compiled once for all of this file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bundle")


def settings_of(folder, options):
    config = quickstart.get_config()
    config.data.limit, config.train.batch_size, config.train.steps, config.train.epochs = 96, 24, 12, None
    config.eval.every_epochs, config.eval.test, config.checkpoint.every_steps, config.mesh.data = 1, False, 3, 1
    config.model.scratch.layers, config.model.scratch.width, config.model.scratch.inner = 1, 32, 64
    config.output.curve = config.output.tables = config.output.export = config.log.tensorboard = False
    config.cache.dir = str(folder / "cache")
    for key, value in options.items():
        config.update_from_flattened_dict({key: value})
    return from_config(config)


@pytest.fixture(scope="module")
def experiments(folder):
    """The Experiments of RUNS over a base model that was trained for a few steps."""
    first = settings_of(folder, {"train.steps": 2, "output.export": True})
    (folder / "base").mkdir()
    run(prepare(first, view=console.Silent()), str(folder / "base"), view=console.Silent())
    all_settings = [settings_of(folder, options | {"model.path": str(folder / "base" / "export")}) for options in RUNS]
    inputs = Inputs(all_settings[0], console.Silent())
    made = [prepare(settings, view=console.Silent(), inputs=inputs) for settings in all_settings]
    rows = max((shape for experiment in made for shape in experiment.plan.shapes), key=lambda shape: shape.rows)
    return [prepare(settings, view=console.Silent(), inputs=inputs, shapes=(rows,)) for settings in all_settings]


@pytest.fixture(scope="module")
def alone(folder, experiments):
    """The work directories of RUNS, made one by one."""
    for i, experiment in enumerate(experiments):
        (folder / f"alone-{i}").mkdir()
        with contextlib.suppress(NotFinite):
            run(experiment, str(folder / f"alone-{i}"), compiled=PROGRAMS, view=console.Silent())
    return [folder / f"alone-{i}" for i in range(len(RUNS))]


def make_bundle(experiments, folder, over=(), view=None, events=None):
    """The work directories of RUNS, made as lanes."""
    workdirs = [folder / f"lane-{i}" for i in range(len(experiments))]
    for workdir in workdirs:
        workdir.mkdir(parents=True, exist_ok=True)
    run_bundle(
        experiments,
        [str(x) for x in workdirs],
        str(folder / "bundle"),
        over or [False] * len(RUNS),
        compiled=PROGRAMS,
        view=view or console.Silent(),
        events=events,
    )
    return workdirs


@pytest.fixture(scope="module")
def together(folder, experiments):
    return make_bundle(experiments, folder / "together")


def result(workdir):
    return json.loads((workdir / "result.json").read_text())


@pytest.mark.parametrize("i", range(len(RUNS)))
def test_a_lane_leaves_the_records_of_the_run_alone(alone, together, i):
    mine, theirs = result(together[i]), result(alone[i])
    for name in ("failed", "steps", "planned_steps", "epochs", "seed", "method", "data_sha256"):
        assert mine[name] == theirs[name], name
    rows, wanted = (read_rows(folder[i] / "train.jsonl") for folder in (together, alone))
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    for key in ("examples", "learning_rate"):
        assert [row[key] for row in rows] == [row[key] for row in wanted]
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in wanted], rtol=2e-6)
    if i == FAILS:
        assert mine["failed"] == theirs["failed"] and mine["failed"].startswith("the loss of step") and len(rows) < 12
        return
    for name in ("selected_step", "trainable_params", "added_params", "head_params", "frozen_sha256", "total_params"):
        assert mine[name] == theirs[name], name
    assert mine["best"]["step"] == theirs["best"]["step"]
    assert mine["flops_per_step"] == pytest.approx(theirs["flops_per_step"])
    for split, scores in theirs["splits"].items():
        assert mine["splits"][split] == pytest.approx(scores, abs=1e-12)
        with (
            np.load(together[i] / f"predictions/{split}.npz") as a,
            np.load(alone[i] / f"predictions/{split}.npz") as b,
        ):
            np.testing.assert_allclose(a["logits"], b["logits"], atol=1e-4)
            np.testing.assert_array_equal(a["id"], b["id"])
    evaluations, wanted = (read_rows(folder[i] / "eval.jsonl") for folder in (together, alone))
    assert [(row["step"], row["best"], row["accuracy"]) for row in evaluations] == [
        (row["step"], row["best"], row["accuracy"]) for row in wanted
    ]


def test_the_runs_end_as_they_are_meant_to(experiments, together):
    """What the comparison above would not tell if both ways did nothing."""
    steps = [result(workdir)["steps"] for workdir in together]
    rates = [row["learning_rate"] for row in read_rows(together[4] / "train.jsonl")]
    planned = schedules.learning_rates(experiments[4].settings.experiment.optim, 8)
    np.testing.assert_array_equal(np.float32(rates), planned * np.float32([1.0] * 6 + [0.1] * 2))
    assert steps[2] < 12 and steps[4] == 8 and steps[0] == steps[1] == 12
    assert (result(together[1])["selected_step"] < 12) and result(together[1])["lanes"] == len(RUNS)
    assert not os.path.exists(together[0].parent / "bundle" / "checkpoints")


class StopAt(console.Silent):
    """SIGTERM comes while a step is read."""

    def __init__(self, step):
        self.step = step

    def update(self, done, note=""):
        if done == self.step and note:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("step", [2, 8, 11])  # after the last one three lanes are over and two go on
def test_a_bundle_that_is_stopped_goes_on_to_the_same_bits(experiments, together, tmp_path, step):
    with pytest.raises(Stopped):
        make_bundle(experiments, tmp_path, view=StopAt(step))
    assert (tmp_path / "bundle" / "checkpoints").exists()
    over = [(tmp_path / f"lane-{i}" / "result.json").exists() for i in range(len(RUNS))]
    assert over[FAILS] and sum(over) == 1
    again = make_bundle(experiments, tmp_path, over)
    for i in range(len(RUNS)):
        if i != FAILS:
            assert outcome(again[i]) == outcome(together[i])


class SignalAt(Events):
    """SIGTERM at a moment, the first time that it comes."""

    def __init__(self, moment):
        self.moment = moment

    def _send(self, moment):
        if moment == self.moment:
            self.moment = ""
            os.kill(os.getpid(), signal.SIGTERM)

    def stage_ends(self, stepper):
        self._send("stage_ends")

    def export_begins(self):
        self._send("export_begins")


def test_a_run_without_checkpoints_that_is_stopped_after_its_last_step_does_not_train_again(
    experiments, alone, tmp_path
):
    settings = experiments[0].settings
    output = dataclasses.replace(settings.execution.output, checkpoints=False)
    execution = dataclasses.replace(settings.execution, output=output)
    experiment = dataclasses.replace(experiments[0], settings=dataclasses.replace(settings, execution=execution))
    (tmp_path / "run").mkdir()
    with pytest.raises(Stopped):
        run(experiment, str(tmp_path / "run"), compiled=PROGRAMS, view=console.Silent(), events=SignalAt("stage_ends"))
    assert (tmp_path / "run" / "checkpoints" / "12").exists()
    log = (tmp_path / "run" / "train.jsonl").read_bytes()
    run(experiment, str(tmp_path / "run"), compiled=PROGRAMS, view=console.Silent())
    assert (tmp_path / "run" / "train.jsonl").read_bytes() == log  # with the times of its steps
    assert outcome(tmp_path / "run") == outcome(alone[0])


@pytest.mark.parametrize("lanes", [False, True], ids=["alone", "lanes"])
def test_a_signal_while_results_are_written_is_raised_when_the_runs_have_ended(experiments, tmp_path, lanes):
    workdirs = [tmp_path / f"lane-{i}" for i in range(2 if lanes else 1)]
    workdirs[0].mkdir()
    events = SignalAt("export_begins")
    with pytest.raises(Stopped):
        if lanes:
            make_bundle(experiments[:2], tmp_path, [False, False], events=events)
        else:
            run(experiments[0], str(workdirs[0]), compiled=PROGRAMS, view=console.Silent(), events=events)
    assert all((workdir / "DONE").exists() for workdir in workdirs)
    assert not (tmp_path / "bundle" / "checkpoints").exists()


@pytest.mark.parametrize("lanes", [False, True], ids=["alone", "lanes"])
def test_runs_of_a_study_whose_log_lacks_rows_start_again_to_the_same_bits(
    experiments, alone, together, tmp_path, capsys, lanes
):
    """Of the lanes one lost its file; all go back, since they advance together."""
    members = [
        small.double(
            worker._Member, name=f"lane {i}", workdir=str(tmp_path / f"lane-{i}"), prepare=lambda view, made=made: made
        )
        for i, made in enumerate(experiments)
    ]
    progress = worker.Progress(console.Silent(), str(tmp_path), [], console)
    rest = small.double(planner.Shared, compiled=PROGRAMS), progress, set(), None
    with pytest.raises(Stopped):
        if lanes:
            make_bundle(experiments, tmp_path, view=StopAt(8))
        else:
            (tmp_path / "lane-0").mkdir()
            run(experiments[0], members[0].workdir, compiled=PROGRAMS, view=StopAt(8))
    (tmp_path / "lane-0" / ("eval.jsonl" if lanes else "train.jsonl")).write_bytes(b"")
    if lanes:
        worker._run_lanes(members, str(tmp_path / "bundle"), *rest)
    else:
        worker._run_member(members[0], *rest)
    assert outcome(tmp_path / "lane-0") == outcome((together if lanes else alone)[0])
    name = "lane 0 and 4 more" if lanes else "lane 0"
    assert f"{name}: starts again from step 0: {tmp_path}/lane-0/" in "".join(capsys.readouterr())


def test_runs_that_were_over_are_left_as_they_are(experiments, together, tmp_path):
    """A kill after some lanes were written: the others are made again, to the same bits."""
    for i in range(len(RUNS)):
        shutil.copytree(together[i], tmp_path / f"lane-{i}")
    before = {i: (tmp_path / f"lane-{i}" / "result.json").stat().st_mtime_ns for i in range(len(RUNS))}
    for name in ("DONE", "result.json", "train.jsonl"):
        (tmp_path / "lane-1" / name).unlink()
    again = make_bundle(experiments, tmp_path, [i != 1 for i in range(len(RUNS))])
    assert outcome(again[1]) == outcome(together[1])
    assert [i for i in before if (again[i] / "result.json").stat().st_mtime_ns != before[i]] == [1]


@dataclasses.dataclass
class SpoilLane(Events):
    """A part of a lane's state is infinite after a step; after the last evaluation without one."""

    lane: int
    part: str
    after: int | None

    def evaluation_begins(self, step, stepper):
        if step == self.after:
            self._spoil(stepper)

    def stage_ends(self, stepper):
        if self.after is None:
            self._spoil(stepper)

    def _spoil(self, stepper):
        state = stepper.lanes.state
        leaves = jax.tree.map(
            lambda x: x.at[self.lane].set(jnp.inf) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            getattr(state, self.part),
        )
        stepper.lanes = dataclasses.replace(stepper.lanes, state=dataclasses.replace(state, **{self.part: leaves}))


@pytest.mark.parametrize(
    ("lane", "part", "after", "failed"),
    [
        (1, "trainable", 4, "1,000 of the 1,000 predictions of dev are not finite after step 4"),
        (1, "opt_state", 4, "is not finite after step 4"),
        (0, "trainable", None, "1,000 of the 1,000 predictions of dev are not finite"),
    ],
    ids=["evaluation", "save", "end"],
)
def test_numbers_that_no_loss_shows_end_their_lane_alone(experiments, together, tmp_path, lane, part, after, failed):
    """Lane 1 keeps its best step; its infinite ones come before its first evaluation, and so its best."""
    found = make_bundle(experiments, tmp_path, events=SpoilLane(lane, part, after))
    assert failed in result(found[lane])["failed"] and "metrics" not in result(found[lane])
    assert not (found[lane] / "DONE").exists()
    for i in {0, 1, 2, 4} - {lane}:
        assert outcome(found[i]) == outcome(together[i])


def test_lanes_over_two_devices_and_two_parts_of_a_batch_are_the_runs_alone(folder, alone, tmp_path):
    options = {"model.path": str(folder / "base" / "export"), "mesh.data": 2, "train.accumulation": 2}
    all_settings = [settings_of(folder, RUNS[i] | options) for i in (0, 1)]
    made = [prepare(settings, view=console.Silent()) for settings in all_settings]
    shapes = [shape for one in made for shape in one.plan.shapes]
    shape = dataclasses.replace(
        shapes[0], rows=max(one.rows for one in shapes), examples=max(one.examples for one in shapes)
    )
    made = [prepare(settings, view=console.Silent(), shapes=(shape,)) for settings in all_settings]
    found = make_bundle(made, tmp_path, [False, False])
    for i in (0, 1):
        rows, wanted = read_rows(found[i] / "train.jsonl"), read_rows(alone[i] / "train.jsonl")
        np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in wanted], rtol=2e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tune.sites": ("query",)},
            r"another set of trainable parameters.*config\.tune\.sites: .* there, \('query',\)",
        ),
        ({"optim.b1": 0.8}, r"another optimizer\..*config\.optim\.b1: 0\.9 there, 0\.8 here"),
        ({"train.accumulation": 2}, r"another accumulation.*config\.train\.accumulation: 1 there, 2 here"),
        ({"model.dtype": "bfloat16"}, r"another model.*config\.model\.dtype: 'float32' there, 'bfloat16' here"),
        ({"optim.multipliers": (("head/", 2.0),)}, r"hyper-parameters.*config\.optim\.multipliers: False there, True"),
        ({"mesh.data": 2}, r"another shape of batches, another mesh \(config\.mesh\.data\)"),
    ],
)
def test_runs_that_cannot_share_a_program_are_refused(folder, experiments, tmp_path, changes, message):
    """With the option in which they differ, and before anything is written."""
    options = RUNS[1] | {"model.path": str(folder / "base" / "export")} | changes
    shapes = experiments[0].plan.shapes if not {"mesh.data", "train.accumulation"} & set(changes) else ()
    other = prepare(settings_of(folder, options), view=console.Silent(), shapes=shapes)
    with pytest.raises(UserError, match=f"(?s)lane-1 cannot share a program with .*lane-0: .*{message}"):
        make_bundle([experiments[0], other], tmp_path, [False, False])
    assert not list((tmp_path / "lane-0").iterdir()) and not list((tmp_path / "lane-1").iterdir())


class FlipByte(Events):
    """After the last step a byte of a frozen parameter on the device is another."""

    def __init__(self):
        self.changed = []

    def stage_ends(self, stepper):
        leaf = jax.tree.leaves(stepper.frozen if isinstance(stepper, SoloRun) else stepper.shared)[0]
        byte = ctypes.c_uint8.from_address(leaf.addressable_shards[0].data.unsafe_buffer_pointer())
        self.changed.append((byte, byte.value, leaf))
        byte.value ^= 1

    def mend(self):
        """The bytes as they were: it may be the memory that all experiments here share."""
        for byte, value, _ in self.changed:
            byte.value = value


@pytest.mark.parametrize("together", [False, True], ids=["alone", "lanes"])
def test_a_frozen_weight_that_changes_ends_the_run(experiments, tmp_path, together):
    events = FlipByte()
    (tmp_path / "lane-0").mkdir()
    try:
        with pytest.raises(RuntimeError, match="a frozen parameter has changed"):
            if together:
                make_bundle(experiments, tmp_path, events=events)
            else:
                run(
                    experiments[0],
                    str(tmp_path / "lane-0"),
                    compiled=PROGRAMS,
                    view=console.Silent(),
                    events=events,
                )
    finally:
        events.mend()
    assert len(events.changed) == 1 and not (tmp_path / "lane-0" / "DONE").exists()


def test_shapes_of_another_number_of_devices_are_refused(folder, experiments):
    options = RUNS[0] | {"model.path": str(folder / "base" / "export"), "mesh.data": 2}
    with pytest.raises(UserError, match=r"planned for 1 groups a batch .* there are 2 here"):
        prepare(settings_of(folder, options), view=console.Silent(), shapes=experiments[0].plan.shapes)


@pytest.mark.thorough
def test_a_gradual_run_without_checkpoints_selects_its_best_step(folder, experiments, tmp_path):
    """Its best step may end a stage, whose state the next stage's is not."""
    results = []
    for kept in (True, False):
        options = {
            "tune.method": ("gradual",),
            "optim.learning_rate": 1e-4,
            "train.select": "best",
            "eval.every_steps": 4,
            "eval.every_epochs": None,
            "output.checkpoints": kept,
        }
        settings = settings_of(folder, options | {"model.path": str(folder / "base" / "export")})
        (tmp_path / str(kept)).mkdir()
        run(
            prepare(settings, view=console.Silent()),
            str(tmp_path / str(kept)),
            compiled=PROGRAMS,
            view=console.Silent(),
        )
        results.append(outcome(tmp_path / str(kept)))
        assert (tmp_path / str(kept) / "checkpoints").exists() == kept
    assert results[0] == results[1] and results[0]["selected_step"] in (4, 8)


def test_lanes_with_other_penalties_losses_and_averages_are_the_runs_alone(folder, tmp_path):
    """One program for other strengths; what is evaluated, and selected, is the average over steps."""
    penalised = LORA | {"model.path": str(folder / "base" / "export"), "optim.decay_toward": "start"}
    runs = (
        {"optim.l1": 1e-4, "loss.focal": 0.5, "loss.r_drop": 1.0, "loss.mixup": 0.3, "train.ema": 0.7},
        {"optim.l1": 1e-2, "loss.focal": 2.0, "loss.r_drop": 4.0, "loss.mixup": 2.0, "train.swa": 0.5, "seed": 1}
        | {"train.select": "best"},
    )
    all_settings = [settings_of(folder, penalised | options) for options in runs]
    inputs = Inputs(all_settings[0], console.Silent())
    made = [prepare(settings, view=console.Silent(), inputs=inputs) for settings in all_settings]
    shapes = made[0].plan.shapes[:1]
    made = [prepare(settings, view=console.Silent(), inputs=inputs, shapes=shapes) for settings in all_settings]
    together = [tmp_path / f"lane-{i}" for i in (0, 1)]
    for i, experiment in enumerate(made):
        together[i].mkdir()
        (tmp_path / f"alone-{i}").mkdir()
        run(experiment, str(tmp_path / f"alone-{i}"), compiled=PROGRAMS, view=console.Silent())
    run_bundle(
        made, [str(x) for x in together], str(tmp_path / "bundle"), [False, False], compiled=PROGRAMS,
        view=console.Silent(),
    )  # fmt: skip
    for i in (0, 1):
        alone = tmp_path / f"alone-{i}"
        losses = [[row["loss"] for row in read_rows(one / "train.jsonl")] for one in (together[i], alone)]
        np.testing.assert_allclose(*losses, rtol=2e-6)
        with np.load(together[i] / "predictions/dev.npz") as a, np.load(alone / "predictions/dev.npz") as b:
            np.testing.assert_allclose(a["logits"], b["logits"], atol=1e-4)
        assert result(together[i])["selected_step"] == result(alone)["selected_step"]
