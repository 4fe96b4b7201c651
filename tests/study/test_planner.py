"""How runs are divided into bundles: evenly, by what shares a batch, as many lanes as the device's memory holds."""

import dataclasses
import shutil

import numpy as np
import pytest
import safetensors.numpy
import small
from made_study import make

from fjt.core import memory
from fjt.core.console import Silent
from fjt.core.errors import UserError
from fjt.core.settings import resolve_seeds
from fjt.data import batches, conll
from fjt.data.glue import Task
from fjt.experiment.execute import run
from fjt.experiment.inputs import Inputs
from fjt.experiment.prepare import prepare
from fjt.study import planner, plans, worker
from fjt.study.spec import settings_of
from fjt.tasks import kinds
from fjt.tasks.classification import Classification

TINY = {
    "data.limit": (96,), "model.scratch.layers": (1,), "model.scratch.width": (32,), "model.scratch.inner": (64,),
    "model.scratch.heads": (2,), "train.steps": (2,), "train.batch_size": (24,), "optim.learning_rate": (1e-3, 2e-3),
}  # fmt: skip


class Said(Silent):
    """Keeps what is warned of."""

    def __init__(self):
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def plan(folder, *products, **options):
    """(Bundles, plan.json) of a study of tiny models."""
    study, base, runs = make(*(TINY | product for product in products), mode="vmap", **options)
    base["cache"]["dir"], base["mesh"]["data"] = str(folder / "cache"), 1
    (folder / "study").mkdir()
    _, bundles, made = planner.make_plan(str(folder / "study"), study, base, runs, planner.Shared(Silent()))
    return bundles, made


@pytest.fixture(scope="module")
def base_model(tmp_path_factory):
    """A directory of a tiny encoder, trained for two steps."""
    folder = tmp_path_factory.mktemp("base")
    _, base, (one,) = make({key: values[:1] for key, values in TINY.items()} | {"tune.method": ("full",)}, seeds=1)
    base["cache"]["dir"], base["mesh"]["data"], base["output"]["export"] = str(folder / "cache"), 1, True
    (folder / "run").mkdir()
    run(prepare(settings_of(one, base), view=Silent()), str(folder / "run"), view=Silent())
    return folder / "run" / "export"


PRODUCTS = [
    ({"tune.method": ("head",), "train.epochs": (1, 3)}, 2),  # one epoch does not pay for kept hidden states
    ({"tune.method": ("bitfit",), "train.epochs": (1, 3)}, 1),  # the lowest layer trains, so there is nothing to cache
    ({"tune.method": ("bitfit",), "train.steps": (1, 12), "train.batch_size": (8,)}, 1),
]


@pytest.mark.parametrize(("product", "bundles"), small.tiers(PRODUCTS, PRODUCTS[0]))
def test_what_is_compiled_is_what_was_planned(tmp_path, base_model, product, bundles):
    """Word for word, in runs of other lengths."""
    product = {"data.limit": (96,), "train.batch_size": (24,), "model.path": (str(base_model),)} | product
    study, base, runs = make(product | {"optim.learning_rate": (1e-3,)}, seeds=1, mode="loop")
    base["cache"]["dir"], base["mesh"]["data"] = str(tmp_path / "cache"), 1
    shared = planner.Shared(Silent())
    runs, made, _ = planner.make_plan(str(tmp_path), study, base, runs, shared)
    assert len(made) == bundles and worker.work(str(tmp_path), base, runs, made, shared)
    compiled = {planner.word_of(key) for key in shared.compiled if key[0] != "hidden states"}
    hidden = [key for key in shared.compiled if key[0] == "hidden states"]
    planned = {word for bundle in made for word in bundle.programs}
    assert compiled <= planned and len(planned - compiled) == len(hidden)


def seeds_of(bundle):
    return [name.rsplit("=", 1)[1] for name in bundle.runs]


@pytest.fixture(scope="module")
def of_four(tmp_path_factory):
    """(folder, Bundles, plan.json) of ten runs as at most four lanes."""
    folder = tmp_path_factory.mktemp("four")
    return folder, *plan(folder, {"tune.method": ("full",)}, seeds=5, lanes=4)


def test_lanes_are_divided_evenly_and_share_their_batches_where_they_can(of_four):
    folder, bundles, made = of_four
    assert [seeds_of(bundle) for bundle in bundles] == [["0", "0", "1"], ["1", "2", "2"], ["3", "3", "4", "4"]]
    assert {bundle.mode for bundle in bundles} == {"vmap"}
    assert made["bytes"] > 0
    programs = [set(bundle.programs) for bundle in bundles]  # of three lanes, of four: steps and evaluation
    assert programs[0] == programs[1] and len(programs[0] | programs[2]) == 4
    assert plans.load(str(folder / "study"))[1] == bundles


def test_no_more_lanes_than_the_memory_holds(of_four, tmp_path, monkeypatch):
    """With memory for four lanes, eight are halved."""
    made = of_four[2]
    monkeypatch.setattr(memory, "device_bytes", lambda: 1.01 * made["bytes"] / planner.MEMORY_SHARE)
    bundles, again = plan(tmp_path, {"tune.method": ("full",)}, seeds=4, lanes=8)
    assert [len(bundle.runs) for bundle in bundles] == [4, 4] and again["bytes"] <= made["bytes"]


def test_a_run_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 1000)
    with pytest.raises(UserError, match="one run alone does not fit into"):
        plan(tmp_path, {"tune.method": ("full",)}, seeds=1)


def test_methods_that_change_their_program_go_one_by_one(tmp_path):
    (bundle,), made = plan(tmp_path, {"tune.method": ("gradual",), "model.path": ("",), "seed": (7, 8)}, seeds=5)
    assert bundle.mode == "loop"
    assert set(made["planned_seeds"].values()) == {2}  # the axis's, not the study's


def test_the_same_experiment_is_found_whatever_came_first(tmp_path):
    """What is open may become another experiment; a run of before may not come again under another name."""
    head = {"tune.method": ("head",), "model.path": ("",)}
    base = TINY | {"optim.learning_rate": (1e-3,)}
    study, config, runs = make(base | head, seeds=1, mode="loop")
    config["cache"]["dir"], config["mesh"]["data"] = str(tmp_path / "cache"), 1
    config["tune"]["train_pooler"] = True
    planner.make_plan(str(tmp_path), study, config, runs, planner.Shared(Silent()))
    _, _, more = make(base | head, base | head | {"optim.b1": (config["optim"]["b1"],)}, seeds=1, mode="loop")
    with pytest.raises(UserError, match="are the same experiment"):
        planner.make_plan(str(tmp_path), study, config, more, planner.Shared(Silent()))


def test_an_untrained_pooler_trains_in_every_run_of_a_study_unless_asked_otherwise(tmp_path, base_model):
    model = tmp_path / "model"
    shutil.copytree(base_model, model)

    def plan_over(name, *products, train_pooler=None):
        said = Said()
        study, base, runs = make(*products, seeds=1, mode="loop")
        base["cache"]["dir"], base["mesh"]["data"] = str(tmp_path / "cache"), 1
        base["model"]["path"], base["tune"]["train_pooler"] = str(model), train_pooler
        (tmp_path / name).mkdir()
        runs, _, _ = planner.make_plan(str(tmp_path / name), study, base, runs, planner.Shared(said))
        trained = [settings_of(run, base).experiment.tune.train_pooler for run in runs.values()]
        assert trained == [
            settings_of(run, base).experiment.tune.train_pooler for run in plans.load(str(tmp_path / name))[0].values()
        ]
        return trained, said.warnings

    product = {"data.limit": (96,), "train.batch_size": (24,), "tune.method": ("full", "head")}
    assert plan_over("trained", product) == ([None, None], [])
    weights = safetensors.numpy.load_file(model / "model.safetensors")
    weights["bert.pooler.dense.bias"] = np.zeros_like(weights["bert.pooler.dense.bias"])
    safetensors.numpy.save_file(weights, model / "model.safetensors", {"format": "pt"})
    trained, (warning,) = plan_over("untrained", product)  # the same path in the same process: it is read again
    assert trained == [True, True] and f"{32 * 32 + 32:,} parameters" in warning and str(model) in warning
    assert plan_over("asked", product, train_pooler=False) == ([False, False], [])
    other = product | {"tune.method": ("head",), "tune.train_pooler": (False,)}
    assert plan_over("some", product, other)[0] == [True, True, False]
    _, base, runs = make(product, seeds=1, mode="loop")  # the plan of a study whose model has gone since
    base["cache"]["dir"], base["mesh"]["data"] = str(tmp_path / "cache"), 1
    base["model"]["path"] = str(model)
    base["model"]["adapter"] = "there"  # which brings a pooler of its own
    assert not any(
        planner.POOLER in run.values for run in planner._train_poolers(runs, base, planner.Shared(Silent()), {})
    )
    known = plans.load(str(tmp_path / "untrained"))[2]["runs"]
    shutil.rmtree(model)
    again = planner._train_poolers(runs, base, planner.Shared(Silent()), known)
    assert [planner.POOLER in run.values for run in again] == [True, True]


def test_runs_of_other_contents_are_refused_before_any_is_made(tmp_path, base_model):
    """The path may be another; what it leads to may not, whether runs are new or were planned before."""
    copy, other, folder = tmp_path / "copy", tmp_path / "other", tmp_path / "study"
    for path in (copy, other):
        shutil.copytree(base_model, path)
    weights = safetensors.numpy.load_file(other / "model.safetensors")
    weights = {name: array + np.float32(0.5) for name, array in weights.items()}
    safetensors.numpy.save_file(weights, other / "model.safetensors")
    folder.mkdir()

    def plan_over(path, seeds):
        product = {"data.limit": (96,), "train.batch_size": (24,), "tune.method": ("full",)}
        study, base, runs = make(product, seeds=seeds, mode="loop")
        base["cache"]["dir"], base["mesh"]["data"] = str(tmp_path / "cache"), 1
        base["model"]["path"] = str(path)
        return planner.make_plan(str(folder), study, base, runs, planner.Shared(Silent()))[2]

    assert list(plan_over(base_model, 1)["contents"]) == ["runs/agreement/data.limit=96"]
    assert len(plan_over(copy, 2)["runs"]) == 2
    for seeds in (2, 3):  # none is new, one is
        with pytest.raises(UserError, match=f"not read the same weights, with config.model.path='{other}'"):
            plan_over(other, seeds)
    for seed in range(2):
        run = folder / f"runs/agreement/full/data.limit=96/train.batch_size=24/seed={seed}"
        run.mkdir(parents=True)
        (run / "DONE").write_text("")
    assert len(plan_over(other, 2)["runs"]) == 2  # nothing is left to read it
    with pytest.raises(UserError, match="not read the same weights"):
        plan_over(other, 3)


def test_a_metric_of_the_study_is_one_of_every_task_and_stays_what_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def cost(p, y): return -1.0\n")
    product = {key: values[:1] for key, values in TINY.items()} | {"tune.method": ("full",)}
    own = {"eval.metrics": (("mine:cost",),)}
    with pytest.raises(UserError, match=r"'acuracy' is not a metric of the task agreement. Did you mean acc"):
        plan(tmp_path, product, metric="acuracy")
    shutil.rmtree(tmp_path / "study")
    bundles, made = plan(tmp_path, product | own, metric="mine:cost")
    assert made["declared"]["metric"] == "mine:cost" and len(bundles) == 1
    (contents,) = made["contents"].values()
    assert set(contents) == {"data", "weights", "tokenizer", "metric mine:cost"}
    (tmp_path / "mine.py").write_text("def cost(p, y): return -2.0\n")
    (tmp_path / "study").rename(tmp_path / "before")
    study, base, runs = make(product | own | {k: v[:1] for k, v in TINY.items()}, mode="vmap", metric="mine:cost")
    base["cache"]["dir"], base["mesh"]["data"] = str(tmp_path / "cache"), 1
    with pytest.raises(UserError, match=r"would not read the same metric mine:cost, with config.eval.metrics"):
        planner.make_plan(str(tmp_path / "before"), study, base, runs, planner.Shared(Silent()))


def test_the_shapes_of_a_bundle_hold_every_slot(monkeypatch):
    """A kind whose examples have a slot per token, so that all batches have more slots than examples."""
    monkeypatch.setitem(kinds.PROBLEMS, "tags", small.double(Classification, one_slot=False))
    _, base, (one,) = make({key: values[:1] for key, values in TINY.items()} | {"tune.method": ("full",)}, seeds=1)
    settings = resolve_seeds(settings_of(one, base))
    texts = small.make_examples(96)
    each, tokens = np.diff(texts.offsets), len(texts.token_ids)
    position = np.arange(tokens, dtype=np.int32) - np.repeat(texts.offsets[:-1], each).astype(np.int32)
    label = np.zeros(tokens, np.int32)
    examples = dataclasses.replace(texts, label=label, slot_token=position, slot_offsets=texts.offsets)
    data = small.double(Task, kind="tags"), {"train": texts}
    inputs = small.double(Inputs, data=data, examples={"train": examples}, base=("", small.CONFIG, {}, None))
    members = [(one, settings, settings.experiment)]
    shapes, (shape_of,) = planner._shapes(settings, members, inputs, most=1)
    assert settings.experiment.seeds.data is not None
    indices = batches.Schedule(96, 24, settings.experiment.seeds.data).batches(0, 2)
    for chosen, number in zip(indices, shape_of, strict=True):
        batch, _ = batches.build(examples, chosen, shapes[number])
        assert batch["weight"].sum() == each[chosen].sum() > 24


def test_sentences_of_several_windows_are_planned_by_window(tmp_path):
    """The batches of a study are of windows; these sentences have many."""
    rng = np.random.default_rng(0)
    sentences = [[(f"w{rng.integers(9)}", "ab"[rng.integers(2)]) for _ in range(n)] for n in (60, 3, 50, 4, 70, 5)]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.conll").write_text(conll.text(sentences))
    product = {
        "task": ("table",), "data.source": ("files",), "data.kind": ("tagging",), "data.limit": (0,),
        "data.files.train": (str(tmp_path / "train.conll"),), "data.files.dev": (str(tmp_path / "dev.conll"),),
        "data.columns.text": ("0",), "data.columns.label": ("1",), "model.max_length": (12,), "train.steps": (9,),
        "train.batch_size": (4,), "optim.learning_rate": (1e-3,),
    }  # fmt: skip
    bundles, _ = plan(tmp_path, product, seeds=2)
    assert sum(len(bundle.runs) for bundle in bundles) == 2
    assert all(shape.slots > shape.examples for bundle in bundles for shape in bundle.shapes)
