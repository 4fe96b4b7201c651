"""A study: planned, run by one process or several, killed, extended; each of its runs is the run alone."""

import csv
import functools
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import warnings

import numpy as np
import pytest
import ray_nodes
from process import Slow, finish, flags, outcome, read_rows, start, wait_for

CONFIG = """
from configs import classify, study
from fjt.study.spec import choose


def get_config():
    config = study.get_config(classify.get_config())
    config.study.products = {products}
    config.study.seeds = 2
    config.study.tuning_seeds = 1
    config.study.holdout = 0.25
    config.study.baseline = {baseline!r}
    return config
"""
PRODUCTS = """(
    {"tune.method": ("lora",), "tune.max_rank": (4,), "tune.rank": (2, 4), "optim.learning_rate": (1e-3, 1e-2)},
    {"tune.method": ("head",), "optim.learning_rate": choose(1e-4, 1e-2, 1e-1)},
)"""


def compilations_are_told():
    """Each program that is compiled ahead of a run prints a line."""
    from jax import stages

    whole = stages.Lowered.compile

    def compile_(self, *arguments, **options):
        print("compiled a program", flush=True)
        return whole(self, *arguments, **options)

    stages.Lowered.compile = compile_


@pytest.fixture(scope="module")
def arguments(finished, even, tmp_path_factory):
    """arguments(products, **options) of a study on the tiny table, over the weights of the finished run."""

    def function(products=PRODUCTS, **options):
        path = tmp_path_factory.mktemp("config") / "own.py"
        path.write_text(CONFIG.format(products=products, baseline="head" if products is PRODUCTS else ""))
        options = (
            dict(
                data__files__train=f"{even}/train.csv",
                data__files__dev=f"{even}/dev.csv",
                data__columns__id="key",
                model__path=finished[0] / "export",
                model__max_length=32,
                train__batch_size=24,
                train__steps=6,
                mesh__data=1,
                cache__dir=f"{even}/cache",
            )
            | options
        )
        return ["--config", str(path), *flags(**options)]

    return function


def runs_below(folder):
    """{name: work directory} of the runs of a study."""
    return {str(path.parent.relative_to(folder)): path.parent for path in sorted(folder.glob("*/**/config.json"))}


@pytest.fixture(scope="module")
def done(launch, arguments, tmp_path_factory):
    """(study's folder, what was printed) of the study, undisturbed."""
    folder = tmp_path_factory.mktemp("study") / "study"
    ended = launch(*arguments(), "--workdir", folder, program="fjt.sweep", hook=compilations_are_told)
    assert ended.code == 0, ended.text
    return folder, ended.text


def test_the_plan_says_how_many_programs_are_compiled(done):
    folder, text = done
    said = re.search(r"13 runs, 3 of them to choose -> (\d+) programs in (\d+) bundles", text)
    assert said, text
    assert "warning: 2 seeds of table/lora/tune.max_rank=4/tune.rank=2/optim.learning_rate=0.001: a 95 % inter" in text
    assert "warning: 2 seeds in a family of 4 tests: " in text and "Plan 8 seeds per cell" in text
    assert text.count("compiled a program") == int(said.group(1))
    # LoRA's 8 runs, of two ranks, two rates and two seeds, are one bundle.
    bundles = json.loads((folder / "plan.json").read_text())["groups"]
    assert sorted(len(bundle["runs"]) for bundle in bundles) == [2, 3, 8]


def test_every_run_ends_with_its_records_and_no_more(done):
    folder, text = done
    names = [
        f"runs/table/lora/tune.max_rank=4/tune.rank={r}/optim.learning_rate={x}/seed={s}"
        for r in (2, 4)
        for x in ("0.001", "0.01")
        for s in (0, 1)
    ]
    names += [f"runs/table/head/seed={s}" for s in (0, 1)]
    names += [f"tuning/table/head/optim.learning_rate={x}/seed=1000" for x in ("0.0001", "0.01", "0.1")]
    assert set(runs_below(folder)) == set(names)
    for name in names:
        assert f"  {name}  accuracy" in text
        assert {path.name for path in (folder / name).iterdir()} == {
            "config.json",
            "env.json",
            "train.jsonl",
            "eval.jsonl",
            "result.json",
            "predictions",
            "DONE",
            ".fjt",
            ".lock",
        }
    trial = json.loads((folder / names[-1] / "result.json").read_text())
    assert "official_dev" not in trial["splits"] and len(read_rows(folder / names[0] / "eval.jsonl")) == 1


def test_reported_runs_take_the_trial_that_scored_best(done):
    folder, _ = done
    scores = {}
    for rate in ("0.0001", "0.01", "0.1"):
        result = json.loads(
            (folder / f"tuning/table/head/optim.learning_rate={rate}/seed=1000/result.json").read_text()
        )
        scores[float(rate)] = result["metrics"]["accuracy"]
    config = json.loads((folder / "runs/table/head/seed=0/config.json").read_text())
    assert config["config"]["optim"]["learning_rate"] == max(scores, key=scores.get)
    assert config["origins"]["optim.learning_rate"] == "the tuning runs"
    assert config["config"]["data"]["holdout"] == 0.0


def test_a_study_ends_with_its_report(done, launch, tmp_path):
    """Its numbers are those of the runs, and the two files that it commits give the same again."""
    folder, text = done
    results = [json.loads((folder / f"runs/table/head/seed={s}/result.json").read_text()) for s in (0, 1)]
    scores = np.array([100 * result["metrics"]["accuracy"] for result in results])
    shown = f"{scores.mean():.2f} ± {scores.std(ddof=1):.2f}"
    assert re.search(rf"^  table  head +accuracy, points +{shown} +2/2\b", text, re.M), text
    assert text.rstrip().endswith(f"report: {folder}/report/report.html, {folder}/report/report.md")
    assert re.search(
        rf"^model of the best run on table: python -m fjt.reproduce {folder}/runs/table/\S+ --workdir", text, re.M
    )
    report = (folder / "report" / "report.md").read_text()
    assert "**10 of 10 reported runs finished**; seeds 0, 1." in report and "3 of 3 tuning runs finished" in report
    assert f"| head | 2/2 | {shown} |" in report and "Command: `python -m fjt.sweep --config own.py --config." in report
    again = launch(folder / "report", "--output", tmp_path / "again", program="fjt.report")
    assert again.code == 0, again.text
    files = {path.relative_to(tmp_path / "again"): path.read_bytes() for path in (tmp_path / "again").rglob("*.*")}
    assert len(files) > 10
    for name, content in files.items():
        assert content == (folder / "report" / name).read_bytes(), name
        assert not any(str(root).encode() in content for root in (folder, tmp_path, pathlib.Path.home())), name


@pytest.mark.parametrize(
    "name", ["runs/table/head/seed=1", "runs/table/lora/tune.max_rank=4/tune.rank=2/optim.learning_rate=0.01/seed=1"]
)
def test_a_run_of_a_study_is_the_run_alone(done, launch, name):
    """By `fjt.reproduce`, in a process of its own."""
    ended = launch(done[0] / name, program="fjt.reproduce")
    assert ended.code == 0 and f"{name}: the same bits" in ended.text, ended.text


@pytest.mark.slow
def test_full_tuning_and_prefixes_are_the_runs_alone(arguments, launch, tmp_path):
    """As LoRA and the head above: after another run of their method in the same process, at another rate."""
    products = """(
        {"tune.method": ("full",), "optim.learning_rate": (1e-3, 1e-2)},
        {"tune.method": ("prefix",), "tune.prefix_length": (2,), "optim.learning_rate": (1e-3, 1e-2)},
    )"""
    options = arguments(products, study__seeds=1, model__max_length=24)
    ended = launch(*options, "--workdir", tmp_path / "study", program="fjt.sweep")
    assert ended.code == 0, ended.text
    for cell in ("full", "prefix/tune.prefix_length=2"):
        name = f"runs/table/{cell}/optim.learning_rate=0.01/seed=0"
        ended = launch(tmp_path / "study" / name, program="fjt.reproduce")
        assert ended.code == 0 and f"{name}: the same bits" in ended.text, ended.text


def test_a_run_that_was_tampered_with_is_not_reproduced(done, launch, tmp_path):
    name = "runs/table/head/seed=1"
    shutil.copytree(done[0] / name, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["config"]["optim"]["learning_rate"] *= 1.01
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    ended = launch(tmp_path / "run", program="fjt.reproduce")
    assert ended.code == 2 and "cannot be prepared once more" in ended.text, ended.text
    rows = read_rows(tmp_path / "run" / "train.jsonl")
    shutil.copytree(done[0] / name, tmp_path / "other")
    rows[3]["loss"] *= 1.001
    (tmp_path / "other" / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = launch(tmp_path / "other", program="fjt.reproduce")
    assert ended.code == 1 and "different, from step 4 on" in ended.text, ended.text


def test_again_does_nothing_and_more_seeds_run_alone(done, launch, arguments, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(done[0], folder)
    before = {name: (path / "result.json").stat().st_mtime_ns for name, path in runs_below(folder).items()}
    again = launch(*arguments(study__alpha=0.1), "--workdir", folder, program="fjt.sweep", hook=compilations_are_told)
    assert again.code == 0 and "compiled" not in again.text and not re.search(r"^\d+/\d+  ", again.text, re.M), (
        again.text
    )
    assert "Scores on dev" in again.text  # the report is made again
    assert "warning: config.study.alpha was 0.05 and is 0.1" in again.text
    more = launch(*arguments(study__seeds=3), "--workdir", folder, program="fjt.sweep")
    assert more.code == 0, more.text
    new = set(runs_below(folder)) - set(before)
    assert len(new) == 5 and all(name.endswith("seed=2") for name in new)
    assert {
        name: (path / "result.json").stat().st_mtime_ns for name, path in runs_below(folder).items() if name in before
    } == before
    assert "3 seeds are in both cells, and 2 were planned of each" in (folder / "report" / "report.md").read_text()


def count(folder, name):
    """How many files of a name lie below a folder in which processes write."""
    return sum(name in files for _, _, files in os.walk(folder))


def test_what_the_config_no_longer_asks_for_is_not_run(done, launch, arguments, tmp_path):
    folder = tmp_path / "study"
    shutil.copytree(done[0], folder)
    left_out = folder / "runs/table/lora/tune.max_rank=4/tune.rank=2/optim.learning_rate=0.01/seed=1"
    asked_for = folder / "runs/table/lora/tune.max_rank=4/tune.rank=2/optim.learning_rate=0.001/seed=1"
    for path in (left_out, asked_for):
        shutil.rmtree(path)
    fewer = PRODUCTS.replace("(1e-3, 1e-2)}", "(1e-3,)}")
    assert fewer != PRODUCTS
    ended = launch(*arguments(fewer), "--workdir", folder, program="fjt.sweep")
    assert ended.code == 0, ended.text
    assert (asked_for / "DONE").exists() and not left_out.exists()


def same_outcomes(folder, wanted):
    found = runs_below(folder)
    assert set(found) == set(runs_below(wanted))
    for name, path in found.items():
        assert outcome(path) == outcome(wanted / name), name


@pytest.mark.slow
def test_two_processes_and_kills_end_as_one_undisturbed(done, arguments, cache, tmp_path):
    """Two share the study; one is killed in the middle of a run, comes again, and neither makes a run twice."""
    folder = tmp_path / "study"
    options = [*arguments(), "--workdir", folder]
    begin = functools.partial(start, options, cache=cache, program="fjt.sweep", events=Slow(0.01))
    first, second = begin(tmp_path / "first"), begin(tmp_path / "second")  # at once: one of them plans
    assert wait_for(lambda: count(folder, "train.jsonl") > 3, first)
    first.kill()
    first.join()
    third = begin(tmp_path / "third")
    texts = []
    for process, output in ((second, "second"), (third, "third")):
        ended = finish(process, tmp_path / output)
        assert ended.code == 0, ended.text
        texts.append(ended.text)
    told = re.findall(r"^\d+/13  (\S+)  accuracy", "\n".join([(tmp_path / "first").read_text(), *texts]), re.M)
    assert len(told) == len(set(told))
    assert len(told) in (12, 13)  # the killed one may have ended a run that it could not tell
    same_outcomes(folder, done[0])


GRID = """(
    {"tune.method": ("lora",), "tune.max_rank": (4,), "tune.rank": (1, 2, 4),
     "optim.learning_rate": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)},
)"""


@pytest.mark.thorough
@pytest.mark.parametrize("mode", [pytest.param("loop", marks=pytest.mark.slow), "vmap"])
def test_a_grid_compiles_what_the_plan_says(launch, arguments, tmp_path, mode):
    """Five rates, three ranks and two seeds: a program for each shape of steps and one for evaluation."""
    options = dict(study__mode=mode, study__lanes=30, train__steps=1)
    ended = launch(
        *arguments(GRID, **options), "--workdir", tmp_path / "study", program="fjt.sweep", hook=compilations_are_told
    )
    assert ended.code == 0, ended.text
    planned = re.search(r"30 runs -> (\d) programs in 1 bundles", ended.text).group(1)
    assert ended.text.count("compiled a program") == int(planned) <= 4
    assert count(tmp_path / "study", "DONE") == 30


@pytest.fixture(scope="module")
def lanes(launch, arguments, tmp_path_factory):
    """(study's folder, what was printed) of the study whose bundles are the lanes of one program."""
    folder = tmp_path_factory.mktemp("lanes") / "study"
    options = arguments(study__mode="vmap", checkpoint__every_steps=2, cache__dir=folder.parent / "cache")
    ended = launch(*options, "--workdir", folder, program="fjt.sweep", hook=compilations_are_told)
    assert ended.code == 0, ended.text
    return folder, ended.text


def test_lanes_are_the_runs_in_as_many_programs_as_planned(done, lanes):
    folder, text = lanes
    said = re.search(r"13 runs, 3 of them to choose -> (\d+) programs in 3 bundles of up to 8 lanes", text)
    assert said and text.count("compiled a program") == int(said.group(1)), text
    assert set(runs_below(folder)) == set(runs_below(done[0]))
    for name, path in runs_below(folder).items():
        one, other = (read_rows(where / "train.jsonl") for where in (path, done[0] / name))
        np.testing.assert_allclose([row["loss"] for row in one], [row["loss"] for row in other], rtol=2e-6)
        assert {entry.name for entry in path.iterdir()} == {entry.name for entry in (done[0] / name).iterdir()}


def test_a_lane_is_reproduced_within_tolerance(lanes, launch):
    ended = launch(lanes[0] / "runs/table/head/seed=1", program="fjt.reproduce")
    assert ended.code == 0 and "the same" in ended.text, ended.text


@pytest.mark.slow
def test_lanes_that_are_killed_end_as_undisturbed_ones(lanes, arguments, cache, tmp_path):
    folder = tmp_path / "study"
    options = [*arguments(study__mode="vmap", checkpoint__every_steps=2), "--workdir", folder]
    begin = functools.partial(start, options, cache=cache, program="fjt.sweep", events=Slow(0.01))
    first = begin(tmp_path / "first")
    lora = "runs/table/lora/tune.max_rank=4/tune.rank=4/optim.learning_rate=0.01/seed=1/train.jsonl"
    assert wait_for(lambda: (folder / lora).exists() and (folder / lora).read_text().count("\n") > 3, first)
    first.kill()
    first.join()
    assert list((folder / "groups").glob("*/checkpoints/*"))
    ended = finish(begin(tmp_path / "second"), tmp_path / "second")
    assert ended.code == 0, ended.text
    same_outcomes(folder, lanes[0])


@pytest.mark.thorough
def test_shards_divide_the_groups(done, launch, arguments, tmp_path):
    folder = tmp_path / "study"
    for shard in ("0/2", "1/2"):
        ended = launch(*arguments(), "--workdir", folder, "--shard", shard, program="fjt.sweep")
        assert ended.code == 0, ended.text
    ended = launch(*arguments(), "--workdir", folder, "--shard", "0/2", program="fjt.sweep")
    assert ended.code == 0, ended.text
    same_outcomes(folder, done[0])


def test_bundles_are_run_one_by_one(done, launch, arguments, tmp_path):
    """By the names that --plan prints; one whose tuning runs have not ended is refused, and names their bundle."""
    folder = tmp_path / "study"

    def sweep(*flags):
        return launch(*arguments(), "--workdir", folder, *flags, program="fjt.sweep")

    planned = sweep("--plan")
    assert planned.code == 0, planned.text
    rows = re.findall(r"^  (\d{3}-\w{8})  (\w+) +(\d+) .* (-|\d{3}-\w{8}) +(\S+)", planned.text, re.M)
    ((tuning, _, count, *_),) = [row for row in rows if row[1] == "tuning"]
    ((head, *_, needs, cell),) = [row for row in rows if row[3] != "-"]
    assert (count, needs, cell) == ("3", tuning, "table/head")
    early = sweep("--bundles", head)
    assert early.code == 2 and f"--bundles {tuning}" in early.text and not (folder / "runs").exists(), early.text
    for bundle, seen in ((tuning, 3), (head, 5)):
        ended = sweep(f"--bundles={bundle}")
        assert ended.code == 0 and "runs of other bundles are left" in ended.text, ended.text
        assert len(list(folder.glob("*/**/DONE"))) == seen
    ended = sweep()
    assert ended.code == 0, ended.text
    same_outcomes(folder, done[0])


@pytest.fixture(scope="module")
def nodes():
    """The address of a Ray of two nodes with one core each."""
    pytest.importorskip("ray")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's own
        with ray_nodes.cluster() as made:
            yield made.address


@pytest.mark.thorough
def test_ray_makes_the_study_that_one_process_makes(done, nodes, arguments, launch, tmp_path):
    """Each node takes one bundle at a time, so that bundles that overlap are on two nodes."""
    folder = tmp_path / "study"
    ended = launch(*arguments(), "--workdir", folder, "--engine", "ray", "--address", nodes, program="fjt.sweep")
    assert ended.code == 0 and "Ray has 2 nodes for bundles; each bundle reserves 1 CPU" in ended.text, ended.text
    same_outcomes(folder, done[0])
    assert without_measures(folder) == without_measures(done[0])
    assert ended.text.count("  accuracy 0.") == 13 and "report: " in ended.text
    spans = [
        [os.path.getmtime(folder / name / file) for name in bundle["runs"] for file in ("config.json", "DONE")]
        for bundle in json.loads((folder / "plan.json").read_text())["groups"]
    ]
    spans = sorted((min(times), max(times)) for times in spans)
    assert any(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))


MEASURED = ("seconds", "per_second", "memory_bytes")


def without_measures(folder):
    """The rows of a report's runs.csv, without times, rates and memory."""
    with open(folder / "report" / "runs.csv", newline="") as file:
        return [
            {key: value for key, value in row.items() if not key.endswith(MEASURED)} for row in csv.DictReader(file)
        ]


@pytest.mark.slow
def test_ray_is_interrupted_and_goes_on(done, nodes, arguments, cache, tmp_path):
    """Without a shared folder, runs that have ended are kept; a task's process that is killed comes again by itself."""
    folder, output = tmp_path / "study", tmp_path / "first"

    def begin(output):
        flags = ["--workdir", folder, "--engine", "ray", "--address", nodes]
        return start([*arguments(study__shared=False), *flags], output, program="fjt.sweep", cache=cache)

    first = begin(output)
    assert wait_for(lambda: any(folder.glob("*/**/DONE")), first)
    os.kill(first.pid, signal.SIGINT)
    ended = finish(first, output)
    assert ended.code == 130 and "stopped by SIGINT; the same command goes on" in ended.text, ended.text
    assert 0 < len(list(folder.glob("*/**/DONE"))) < 13
    second = begin(tmp_path / "second")
    assert wait_for(ray_nodes.task_pids, second)
    os.kill(ray_nodes.task_pids()[0], signal.SIGKILL)
    ended = finish(second, tmp_path / "second")
    assert ended.code == 0, ended.text
    same_outcomes(folder, done[0])
    assert without_measures(folder) == without_measures(done[0])


@pytest.mark.slow
def test_a_mistake_on_a_node_ends_the_study_and_keeps_what_has_ended(done, nodes, arguments, launch, even, tmp_path):
    """The data change after the plan was made; without a shared folder, so that no file of it is there."""
    folder, table = tmp_path / "study", tmp_path / "train.csv"
    shutil.copy(even / "train.csv", table)
    options = arguments(study__shared=False, data__files__train=table)
    flags = ["--workdir", folder, "--engine", "ray", "--address", nodes]
    planned = launch(*options, *flags, "--plan", program="fjt.sweep")
    assert planned.code == 0 and "Bundles that are left" in planned.text, planned.text
    plan = json.loads((folder / "plan.json").read_text())
    for contents in plan["contents"].values():
        contents["data"] = "0" * 64
    (folder / "plan.json").write_text(json.dumps(plan))
    ended = launch(*options, *flags, program="fjt.sweep")
    assert ended.code == 2 and "was planned over other contents" in ended.text and "Traceback" not in ended.text


@pytest.mark.thorough
def test_resources_that_no_node_has_are_refused(nodes, arguments, launch, tmp_path):
    flags = ["--workdir", tmp_path / "study", "--engine", "ray", "--address", nodes]
    for options, words in (
        ({"study__cpus": 3}, ["config.study.cpus=3", "They have 1 CPU; 1 CPU"]),
        ({"study__devices": 2}, ["config.study.devices=2", "no node of Ray has an accelerator"]),
    ):
        ended = launch(*arguments(**options), *flags, program="fjt.sweep")
        assert ended.code == 2 and all(word in ended.text for word in words), ended.text


@pytest.mark.thorough
def test_a_folder_that_a_node_does_not_see_is_refused(nodes, arguments, launch, tmp_path):
    """/proc/self/cwd is another folder for each process."""
    (tmp_path / "own").mkdir()
    flags = ["--workdir", "/proc/self/cwd/study", "--engine", "ray", "--address", nodes]
    hook = functools.partial(os.chdir, tmp_path / "own")
    ended = launch(*arguments(), *flags, program="fjt.sweep", hook=hook)
    assert ended.code == 2 and "is not seen by " in ended.text and "config.study.shared=False" in ended.text
    assert not list((tmp_path / "own" / "study" / "groups").iterdir())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--engine", "rya"], ["--engine=rya", "ray is"]),
        (["--engine", "ray"], ["needs the package ray", "pip install"]),
        (["--address", "auto"], ["--address=auto", "--engine=ray"]),
        (["--shard", "0/2", "--bundles", "000-aa"], ["--shard and --bundles", "give one"]),
        (["--shard", "2/2"], ["--shard=2/2", "i from 0 to n - 1"]),
        (["--bundles", "000-aa"], ["has no bundle '000-aa'", "Valid: 000-"]),
        (["--processes", "2"], ["--processes=2", "--engine=ray"]),
        (["--workdir", "gs://bucket/study"], ["gs://bucket/study", "files of this machine only"]),
    ],
)
def test_flags_that_do_not_fit(launch, arguments, tmp_path, flags, words):
    ended = launch(*arguments(), "--workdir", tmp_path / "study", *flags, program="fjt.sweep", hook=no_ray)
    assert ended.code == 2 and all(word in ended.text for word in words), ended.text
    assert ended.text.count("\n") <= 4 and not (tmp_path / "study" / "runs").exists()


def no_ray():
    """Ray cannot be imported."""
    import sys

    sys.modules["ray"] = None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train__batch_size": 12}, "is the study of another config.*config.train.batch_size: 24 there, 12 now"),
        ({"optim__name": "sgd"}, "sgd needs learning rates of another scale"),
    ],
)
def test_another_config_in_the_same_folder_is_refused(done, launch, arguments, options, message):
    ended = launch(*arguments(**options), "--workdir", done[0], program="fjt.sweep")
    assert ended.code == 2 and re.search(message, ended.text, re.S), ended.text


def test_a_baseline_that_is_no_method_is_refused_before_any_run(launch, arguments, tmp_path):
    ended = launch(*arguments(study__baseline="ful"), "--workdir", tmp_path / "study", program="fjt.sweep")
    assert ended.code == 2 and "config.study.baseline='ful' is not a method of this study" in ended.text, ended.text
    assert not (tmp_path / "study" / "runs").exists()


def test_a_product_that_is_no_tuple_is_refused(launch, arguments, tmp_path):
    products = '{"tune.method": ("lora",)}'
    ended = launch(*arguments(products), "--workdir", tmp_path / "study", program="fjt.sweep")
    assert ended.code == 2 and "Traceback" not in ended.text, ended.text
    assert "a dict with the key 'tune.method' where a dict is not allowed: config.study.products, " in ended.text


def test_two_runs_that_are_the_same_experiment_are_refused(launch, arguments, tmp_path):
    products = '({"tune.method": ("lora",)}, {"tune.method": ("lora",), "tune.rank": (8,)})'
    ended = launch(*arguments(products), "--workdir", tmp_path / "study", program="fjt.sweep")
    assert ended.code == 2 and "lora/seed=0 and runs/table/lora/tune.rank=8/seed=0 are the same" in ended.text


def test_a_run_that_diverges_is_counted_and_the_others_go_on(launch, arguments, tmp_path):
    products = '({"tune.method": ("full",), "optim.learning_rate": (1e38, 1e-3), "optim.clip_norm": (0.0,)},)'
    ended = launch(*arguments(products, study__seeds=1), "--workdir", tmp_path / "study", program="fjt.sweep")
    assert ended.code == 0 and len(re.findall("failed: .*not finite|failed: the loss", ended.text)) == 1, ended.text
    results = [json.loads((path / "result.json").read_text()) for path in runs_below(tmp_path / "study").values()]
    assert sorted(bool(result["failed"]) for result in results) == [False, True]
    again = launch(*arguments(products, study__seeds=1), "--workdir", tmp_path / "study", program="fjt.sweep")
    assert again.code == 0 and "failed" not in again.text
    (name,) = [name for name, path in runs_below(tmp_path / "study").items() if not (path / "DONE").exists()]
    same = launch(tmp_path / "study" / name, program="fjt.reproduce")
    assert same.code == 0 and f"{name}: the same bits, up to where " in same.text, same.text
    assert np.isfinite([result["metrics"]["accuracy"] for result in results if not result["failed"]]).all()
