"""Masked language models: from a text to tokens at masks, to the next run, and the same masks in every layout."""

import json
import shutil

import numpy as np
import pytest
import small
import squad_files
from process import ROOT

import fjt
from configs import classify, pretrain
from fjt.core import console, settings, tree
from fjt.core.errors import UserError
from fjt.experiment import workdir
from fjt.experiment.arguments import build_batch
from fjt.experiment.execute import run as train
from fjt.experiment.features import States
from fjt.experiment.inputs import Inputs
from fjt.experiment.prepare import prepare
from fjt.models import pretrained
from fjt.study import planner
from fjt.study.spec import Run

CYCLE = "red green blue white black grey".split()
SMALL = {
    "model.path": "", "model.scratch.layers": 2, "model.scratch.width": 64, "model.scratch.heads": 4,
    "model.scratch.inner": 128, "model.max_length": 24, "train.batch_size": 16, "eval.every_epochs": 24,
}  # fmt: skip


def write_texts(path, seed, count):
    """Documents in which the colours follow each other in one order, so that neighbours tell a masked one."""
    rng, texts = np.random.default_rng(seed), []
    for _ in range(count):
        first, length = rng.integers(len(CYCLE)), rng.integers(8, 60)
        texts.append(" ".join(CYCLE[(first + k) % len(CYCLE)] for k in range(length)))
    path.write_text("\n\n".join(texts) + "\n")
    return str(path)


def write_vocabulary(folder):
    words = [*CYCLE, *squad_files.NAMES]
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")
    return str(folder / "vocab.txt")


@pytest.fixture(scope="module")
def run(tmp_path_factory, launch):
    """The work directory of a run from scratch; its texts and vocabulary are beside it."""
    folder = tmp_path_factory.mktemp("masked")
    config = SMALL | {
        "data.files.train": write_texts(folder / "train.txt", 0, 250), "mesh.data": 1, "train.epochs": 24,
        "data.files.dev": write_texts(folder / "dev.txt", 1, 30), "model.scratch.vocab": write_vocabulary(folder),
        "optim.learning_rate": 3e-3, "cache.dir": folder / "cache",
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    done = launch("--config", f"{ROOT}/configs/pretrain.py", *flags, "--workdir", folder / "run")
    assert done.code == 0, done.text
    assert "tokens are predicted" in done.text and "AutoModelForMaskedLM" in done.text
    return folder / "run"


def test_masked_tokens_are_learned_and_scored(run):
    result = json.loads((run / "result.json").read_text())
    assert list(result["metrics"]) == ["accuracy", "perplexity"]
    assert result["metrics"]["perplexity"] < 2 and result["metrics"]["accuracy"] > 0.8
    assert 5.5 < result["constant"]["dev"]["perplexity"] < 6.1, "six words, about as frequent"
    header, *rows = [line.split("\t") for line in (run / "predictions" / "dev.tsv").read_text().splitlines()]
    true, found = (
        [word for row in rows for word in row[header.index(name)].split()] for name in ("label", "predicted")
    )
    assert set(true) <= set(CYCLE) and len(true) == len(found)
    same = np.mean([a == b for a, b in zip(true, found, strict=True)])
    assert same == pytest.approx(result["metrics"]["accuracy"], abs=1e-12)
    about = json.loads((run / "export" / "config.json").read_text())
    assert about["architectures"] == ["BertForMaskedLM"] and "id2label" not in about


def test_masks_of_new_texts_are_filled(run, launch, tmp_path):
    found = fjt.load_run(run).predict(
        ["red [MASK] blue white [MASK] grey red green blue white", "[MASK] red green blue white black grey", "red"]
    )
    assert found["labels"] == [["green", "black"], ["grey"], []]
    candidates = found["candidates"][0][1]
    assert [len(found["candidates"][0]), len(candidates), candidates[0][0]] == [2, 5, "black"]
    assert candidates[0][1] == pytest.approx(found["probabilities"][0][1], abs=1e-6) and 0.5 < candidates[0][1] <= 1
    (tmp_path / "new.txt").write_text("red green blue [MASK] black grey red green\n")
    done = launch(
        "--run", run, "--input", tmp_path / "new.txt", "--output", tmp_path / "a.jsonl", program="fjt.predict"
    )
    assert done.code == 0, done.text
    (row,) = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert row["predicted"] == ["white"] and row["candidates"][0][0][0] == "white"
    with pytest.raises(UserError, match=r"No text has a mask, \[MASK\], at which a token could be predicted"):
        fjt.load_run(run).predict(["red"])
    for texts, counts in (  # fewer masks than texts, than blocks of a text, and beside unknown words alone
        (["red", "blue", "red [MASK] blue", "black"], [0, 0, 1, 0]),
        ([" ".join(CYCLE * 30 + ["[MASK]"])], [1]),
        (["zzz [MASK]", "[MASK]"], [1, 1]),
    ):
        assert list(map(len, fjt.load_run(run).predict(texts)["labels"])) == counts


def test_the_next_run_starts_from_what_was_learned(run, tmp_path):
    rows = [{"text": " ".join(CYCLE[i % 6 : i % 6 + 3]), "label": i % 2} for i in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = classify.get_config()
    rows = str(tmp_path / "rows.jsonl")
    made.update_from_flattened_dict({
        "data.files.train": rows, "data.files.dev": rows, "model.path": str(run), "cache.dir": str(tmp_path / "cache"),
        "model.max_length": 24, "tune.method": ("bitfit",),
    })  # fmt: skip
    experiment = prepare(settings.from_config(made))
    theirs = pretrained.read_checkpoint(str(run / "export")).tensors
    ours = tree.flatten(experiment.params)["encoder/embeddings/word/embedding"]
    assert ours.tolist() == theirs["bert.embeddings.word_embeddings.weight"].tolist()
    assert all(name.startswith("head/") for name in experiment.missing)
    assert {"head/pooler/kernel", "head/classifier/kernel"} <= set(experiment.missing) <= experiment.trainable
    assert {name.split(".")[0] for name in experiment.unused} == {"cls"}
    again = pretrain.get_config()
    again.update_from_flattened_dict({
        "data.files.train": str(run.parent / "dev.txt"), "data.holdout": 0.5, "model.path": str(run),
        "cache.dir": str(tmp_path / "cache"), "model.max_length": 24, "tune.method": ("bitfit",),
    })  # fmt: skip
    experiment = prepare(settings.from_config(again))
    assert experiment.missing == () and experiment.unused == ()
    assert not any(name.startswith("head/") for name in experiment.trainable), "its head is as pretrained as the rest"


def made_config(folder, **options):
    made = pretrain.get_config()
    options = SMALL | {
        "data.files.train": write_texts(folder / "train.txt", 0, 60), "train.steps": 16, "mesh.data": 1,
        "data.files.dev": write_texts(folder / "dev.txt", 1, 12), "model.scratch.vocab": write_vocabulary(folder),
        "optim.learning_rate": 1e-3, "cache.dir": str(folder / "cache"), "output.export": False,
        "output.curve": False, "model.scratch.layers": 1, "eval.every_steps": 8, "eval.every_epochs": None,
    } | {key.replace("__", "."): value for key, value in options.items()}  # fmt: skip
    made.update_from_flattened_dict(options)
    return settings.from_config(made)


def masks(experiment, step):
    """{(example, position): (token, label)} of the slots of a batch."""
    shape = experiment.stages[0].shapes[experiment.plan.shape_of[step]]
    cached = States(experiment, experiment.stages[0], lambda: None, {})
    batch, *_ = build_batch(experiment, shape, cached, step)
    found = {}
    for g, s in np.argwhere(batch["weight"] > 0):
        example = int(batch["example"][g, batch["slot_example"][g, s]])
        token = int(batch["token_ids"][g].reshape(-1)[batch["slot_token"][g, s]])
        found[example, int(batch["slot_position"][g, s])] = token, int(batch["label"][g, s])
    return found


def test_masks_do_not_depend_on_the_layout_and_change_with_epoch_and_seed(tmp_path):
    plain = prepare(made_config(tmp_path))
    each = plain.schedule.steps_per_epoch
    steps = range(each, 2 * each)  # all of the second epoch
    reference = {place: token for step in steps for place, token in masks(plain, step).items()}
    assert {token for token, label in reference.values() if token != label} > {4}
    assert {example for example, _ in reference} == set(range(len(plain.texts["train"]))), "by their numbers in train"
    for options in (
        {"mesh__data": 4},
        {"train__packing": False},
        {"train__accumulation": 2},
        {"tune__method": ("full",), "model__dropout__hidden": 0.0},
    ):
        other = prepare(made_config(tmp_path, **options))
        assert {p: t for step in steps for p, t in masks(other, step).items()} == reference, options
    first = {place: token for step in range(each) for place, token in masks(plain, step).items()}
    assert first.keys() != reference.keys() and len(first) == len(reference)
    seeded = prepare(made_config(tmp_path, seed=1))
    assert {place for step in steps for place in masks(seeded, step)} != reference.keys()
    whole = prepare(made_config(tmp_path, mask__whole_words=True, mask__rate=0.3))
    assert whole.examples["dev"].token_ids.tolist() == plain.examples["dev"].token_ids.tolist()
    assert seeded.examples["dev"].token_ids.tolist() == plain.examples["dev"].token_ids.tolist()
    assert plain.examples["dev"].token_ids.tolist() != plain.texts["dev"].token_ids.tolist()


def test_losses_are_those_of_one_device_and_of_packed_rows(tmp_path):
    losses = []
    for name, given in (("plain", {}), ("other", {"mesh__data": 4, "train__packing": False})):
        (tmp_path / name).mkdir()
        workdir.own(str(tmp_path / name / "run"))
        train(prepare(made_config(tmp_path / name, **given)), str(tmp_path / name / "run"))
        rows = [json.loads(line) for line in (tmp_path / name / "run" / "train.jsonl").read_text().splitlines()]
        scores = [json.loads(line) for line in (tmp_path / name / "run" / "eval.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows] + [row["loss"] for row in scores])
    assert len(losses[0]) == 18 and losses[0][0] != losses[0][1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=2e-6)


def test_a_study_has_the_shapes_of_its_runs(tmp_path):
    made = made_config(tmp_path)
    experiment = prepare(made)
    inputs, one = Inputs(made, console.Silent()), small.double(Run, open=())
    shapes, _ = planner._shapes(made, [(one, made, experiment.settings.experiment)], inputs, 3)
    assert shapes == experiment.plan.shapes, "slots for masks alone"


STUDY = """
from configs import pretrain, study

def get_config():
    config = study.get_config(pretrain.get_config())
    config.study.products = ({"tune.method": (("full",), ("bitfit",))}, {"optim.learning_rate": (1e20,)})
    config.study.seeds, config.study.baseline = 2, "full"
    return config
"""


@pytest.mark.slow
def test_a_study_of_masks_ends_with_its_report(run, launch, tmp_path):
    (tmp_path / "masks.py").write_text(STUDY)
    config = {
        "data.files.train": run.parent / "train.txt", "data.files.dev": run.parent / "dev.txt", "model.path": run,
        "model.max_length": 24, "train.steps": 4, "train.batch_size": 16, "cache.dir": run.parent / "cache",
        "mesh.data": 1, "data.limit": 60,
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in config.items()]
    done = launch("--config", tmp_path / "masks.py", *flags, "--workdir", tmp_path / "study", program="fjt.sweep")
    assert done.code == 0, done.text
    assert json.loads((tmp_path / "study" / "plan.json").read_text())["groups"], "some runs are lanes"
    text = (tmp_path / "study" / "report" / "report.md").read_text()
    assert "Scores: perplexity" in text and "Scores: accuracy" in text and "30 dev documents" in text
    assert "always the frequencies of dev's tokens" in text, "runs that diverged count as these"


def test_a_head_with_a_table_of_its_own_is_refused(run, tmp_path):
    shutil.copytree(run / "export", tmp_path / "model")
    about = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(json.dumps(about | {"tie_word_embeddings": False}))
    with pytest.raises(UserError, match="tie_word_embeddings=false, so its head has a table of words of its own"):
        prepare(made_config(tmp_path, model__path=str(tmp_path / "model")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data__columns__text_pair": "b"}, "masked_lm has one document per row"),
        ({"data__shuffle_labels": True}, "documents have no labels"),
        (
            {"loss__class_weights": (1.0,)},
            r"config.loss.class_weights=\(1.0,\): table \(masked_lm\) has no class_weights",
        ),
        ({"mask__replaced": 0.95}, "more than 1 together"),
        ({"data__label_names": ("a", "b")}, "config.data.label_names: the documents of masked_lm have no labels"),
        ({"train__select": "f1"}, "config.train.select='f1' is unknown"),
    ],
)
def test_options_that_do_not_fit(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        prepare(made_config(tmp_path, **options))
