"""A search: its trials are ordinary runs; killed or shared by processes, it has the trials of one undisturbed."""

import dataclasses
import functools
import json
import os
import random
import re
import signal

import pytest
from process import Slow, finish, flags, outcome, start, tiny, wait_for

from fjt.training.protocols import Events

CONFIG = """
from configs import classify, search


def get_config():
    config = search.get_config(classify.get_config())
    config.search.space = ({space},)
    return config
"""
NUMBERS = """{"optim.learning_rate": ("log", 2e-2, 2e-1), "optim.weight_decay": ("float", 0.0, 0.1)}"""
SPACE = """{"optim.learning_rate": ("log", 2e-2, 2e-1, 3), "tune.rank": (2, 4)}"""


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """A folder with train.csv and dev.csv, whose labels a few steps learn: which words are most of a text."""
    folder, draw = tmp_path_factory.mktemp("words"), random.Random(0)
    for name, rows in (("train", 96), ("dev", 60)):
        texts = [
            " ".join(draw.choices(("doctor", "near"), (1 + 7 * (i % 2), 8 - 7 * (i % 2)), k=8)) for i in range(rows)
        ]
        lines = [f"{i},{text},{'ab'[i % 2]}\n" for i, text in enumerate(texts)]
        (folder / f"{name}.csv").write_text("key,text,label\n" + "".join(lines))
    return folder


@pytest.fixture(scope="module")
def arguments(finished, words, tmp_path_factory):
    """arguments(*flags, space=SPACE, **options) of a search on the tiny table, over the weights of the finished run."""

    def function(*given, space=SPACE, **options):
        path = tmp_path_factory.mktemp("space") / "own.py"
        path.write_text(CONFIG.format(space=space))
        options = (
            dict(
                data__files__train=f"{words}/train.csv",
                data__files__dev=f"{words}/dev.csv",
                data__columns__id="key",
                model__path=finished[0] / "export",
                model__max_length=32,
                tune__method="lora",
                tune__max_rank=4,
                train__batch_size=24,
                train__steps=12,
                eval__every_steps=4,
                mesh__data=1,
                cache__dir=f"{words}/cache",
            )
            | options
        )
        return [path, *flags(**options), *given]

    return function


@dataclasses.dataclass
class DieInTrial(Events):
    """SIGKILL in a step of a trial."""

    trial: int
    step: int
    begun: int = -1

    def stage_begins(self, number):
        self.begun += 1

    def step_begins(self, step, stepper):
        if (self.begun, step) == (self.trial, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


def record(folder):
    return json.loads((folder / "search.json").read_text())


def trials(folder):
    return [(row["trial"], row["values"], row["score"], row["ended"]) for row in record(folder)["trials"]]


@pytest.fixture(scope="module")
def done(launch, arguments, tmp_path_factory):
    """(folder, what was printed) of a search of five trials, undisturbed."""
    folder = tmp_path_factory.mktemp("search") / "search"
    ended = launch(*arguments("--trials=5"), "--workdir", folder, program="fjt.search")
    assert ended.code == 0, ended.text
    return folder, ended.text


def test_a_search_leaves_its_trials_its_best_and_its_report(done):
    folder, text = done
    found = record(folder)
    assert [row["trial"] for row in found["trials"]] == list(range(5))
    scored = [row for row in found["trials"] if row["ended"] == "finished"]
    assert scored and found["best"]["score"] == max(row["score"] for row in scored)
    for row in scored:
        result = json.loads((folder / f"trials/{row['trial']:04d}" / "result.json").read_text())
        assert row["score"] == result["metrics"]["accuracy"] and row["evaluations_on_dev"] == 3
        config = json.loads((folder / f"trials/{row['trial']:04d}" / "config.json").read_text())["config"]
        assert config["optim"]["learning_rate"] == row["values"]["optim.learning_rate"]
        assert config["tune"]["rank"] == row["values"]["tune.rank"]
    assert found["dev"]["scores_compared"] == len(scored) and found["dev"]["evaluations"] == 15
    assert f"  {found['best']['flags']}\n" in text
    assert found["best"]["flags"].startswith("--config.optim.learning_rate=")
    assert {path.name for path in (folder / "report").rglob("*.*")} >= {"report.md", "report.html", "history.svg"}
    page = (folder / "report" / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?http|url\(http|<script|<link""", page), "it needs no network"


def test_a_trial_is_the_run_alone_and_a_finished_one_is_not_repeated(done, launch, arguments, words, tmp_path):
    folder, _ = done
    before = {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")}
    row = record(folder)["trials"][1]
    options = dict(part.removeprefix("--config.").split("=") for part in arguments()[1:])
    options |= {"optim.learning_rate": row["values"]["optim.learning_rate"], "tune.rank": row["values"]["tune.rank"]}
    options |= {"eval.official_dev": False, "eval.test": False, "output.export": False}
    alone = [f"--config.{key}={value}" for key, value in options.items()]
    ended = launch(*tiny(words)[:2], *alone, "--workdir", tmp_path / "alone")
    assert ended.code == 0, ended.text
    assert outcome(tmp_path / "alone") == outcome(folder / "trials/0001")
    again = launch(*arguments("--trials=5"), "--workdir", folder, program="fjt.search")
    assert again.code == 0 and "trial 0: " not in again.text, again.text
    assert "nothing left to do: 5 of 5 trials have ended\n" in again.text
    assert {path: path.stat().st_mtime_ns for path in folder.glob("trials/*/result.json")} == before


def killed_in_a_trial(trial, options, folder, cache, tmp_path):
    """A search in `folder`: killed in step 7 of a trial, and made to its end by the same command."""
    options = [*options, "--workdir", folder]
    killed = start(options, tmp_path / "killed", cache=cache, program="fjt.search", events=DieInTrial(trial, 7))
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    again = start(options, tmp_path / "again", cache=cache, program="fjt.search")
    ended = finish(again, tmp_path / "again")
    assert ended.code == 0 and f"trial {trial - 1}: " not in ended.text and f"trial {trial}: " in ended.text, ended.text
    assert f"continuing: {trial} of " in ended.text


def test_a_killed_search_has_the_same_trials(done, arguments, cache, tmp_path):
    folder = tmp_path / "search"
    killed_in_a_trial(2, arguments("--trials=5", checkpoint__every_steps=3), folder, cache, tmp_path)
    assert trials(folder) == trials(done[0])
    for number in range(5):
        assert outcome(folder / f"trials/{number:04d}") == outcome(done[0] / f"trials/{number:04d}")


@pytest.mark.slow
def test_a_killed_search_by_cma_es_has_the_same_trials(launch, arguments, cache, tmp_path):
    """Its proposals depend on the scores of whole generations; of two numbers, one has six trials."""
    options = arguments("--trials=9", "--sampler=cmaes", space=NUMBERS, checkpoint__every_steps=3, tune__rank=2)
    ended = launch(*options, "--workdir", tmp_path / "whole", program="fjt.search")
    assert ended.code == 0, ended.text
    killed_in_a_trial(8, options, tmp_path / "search", cache, tmp_path)
    assert trials(tmp_path / "search") == trials(tmp_path / "whole")


def test_another_search_in_the_folder_is_refused(done, launch, arguments):
    for given, message in (
        ((*arguments("--trials=5", "--seed=1"),), "seed: 0 there, 1 now"),
        ((*arguments("--trials=5", train__steps=7),), "config.train.steps: 12 there, 7 now"),
        ((*arguments("--trials=5", space=SPACE.replace("2e-1", "3e-1")),), "is another search"),
        ((*arguments("--sampler=tpo"),), "--sampler=tpo is unknown. Did you mean tpe?"),
        ((*arguments("--prune", "--lanes=2"),), "trials that run together end together"),
        ((*arguments("--trials=0"),), "--trials=0 should be at least 1"),
    ):
        ended = launch(*given, "--workdir", done[0], program="fjt.search")
        assert ended.code == 2 and message in ended.text, ended.text
        assert "Traceback" not in ended.text


@pytest.mark.slow
@pytest.mark.parametrize(("sampler", "space"), [("random", SPACE), ("cmaes", NUMBERS)])
def test_two_processes_share_a_search(arguments, cache, tmp_path, sampler, space):
    """One is killed; the other makes its trial; no trial is made twice and none is lost."""
    folder = tmp_path / "search"
    options = [*arguments("--trials=8", f"--sampler={sampler}", space=space, tune__rank=2), "--workdir", folder]
    begin = functools.partial(start, options, cache=cache, program="fjt.search", events=Slow(0.02))
    first, second = begin(tmp_path / "first"), begin(tmp_path / "second")
    assert wait_for(lambda: len(list(folder.glob("trials/*/train.jsonl"))) > 3, first)
    first.kill()
    first.join()
    ended = finish(second, tmp_path / "second")
    assert ended.code == 0, ended.text
    texts = (tmp_path / "first").read_text() + ended.text
    told = re.findall(r"^1/1  trials/(\d+)  accuracy", texts, re.M)
    assert len(told) == len(set(told)) and len(told) in (7, 8)  # the killed one may have ended one that it did not tell
    found = record(folder)["trials"]
    assert len(found) == 8 and all(row["ended"] in ("finished", "collapsed") for row in found)
    if sampler != "random":
        return
    alone = start([*options[:-1], tmp_path / "alone"], tmp_path / "third", cache=cache, program="fjt.search")
    assert finish(alone, tmp_path / "third").code == 0
    assert trials(tmp_path / "alone") == trials(folder), "random proposals do not depend on which trials have ended"


@pytest.mark.thorough
@pytest.mark.parametrize("storage", [pytest.param(False, marks=pytest.mark.slow), True])
def test_trials_that_are_behind_are_pruned(launch, arguments, tmp_path, storage):
    """In a grid whose last two points, in the order of this seed, have rates at which nothing is learnt."""
    space = """{"optim.learning_rate": (5e-2, 6e-2, 7e-2, 8e-2, 9e-2, 1e-7, 2e-7)}"""
    given = [
        "--trials=7",
        "--sampler=grid",
        "--seed=41",
        "--prune",
        *([f"--storage=sqlite:///{tmp_path}/db"] if storage else []),
    ]
    options = arguments(*given, space=space, tune__rank=2)
    ended = launch(*options, "--workdir", tmp_path / "search", program="fjt.search")
    assert ended.code == 0, ended.text
    rows = record(tmp_path / "search")["trials"]
    pruned = [row for row in rows if row["ended"] == "pruned"]
    assert [row["trial"] for row in pruned] == [5, 6]
    assert all(row["values"]["optim.learning_rate"] < 1e-6 for row in pruned)
    for row in pruned:
        workdir = tmp_path / "search" / f"trials/{row['trial']:04d}"
        assert row["score"] is None and not (workdir / "DONE").exists() and not (workdir / "checkpoints").exists()
    assert (tmp_path / "search" / "trials.log").exists() != storage
    before = trials(tmp_path / "search")
    assert launch(*options, "--workdir", tmp_path / "search", program="fjt.search").code == 0
    assert trials(tmp_path / "search") == before


@pytest.mark.thorough
@pytest.mark.parametrize("method", ["head", "gradual", "bitfit", "lora"])
def test_a_range_test_of_methods_with_a_feature_cache_with_stages_and_with_neither(
    launch, words, finished, tmp_path, method
):
    start = tiny(words, data__files__test=None, tune__method=method, model__path=finished[0] / "export")
    ended = launch(*start, "--output", tmp_path / "lr", "--steps=40", program="fjt.find_lr")
    record = json.loads((tmp_path / "lr" / "find_lr.json").read_text())
    assert ended.code == (2 if record["suggestion"] is None else 0), ended.text
    assert ("so no learning rate is suggested" in ended.text) == (ended.code == 2)
    points = record["points"]
    assert len(points) > 20 and (tmp_path / "lr" / "find_lr.png").stat().st_size > 1000
