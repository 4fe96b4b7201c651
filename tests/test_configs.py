"""Configs from Python and from any folder; what an option is called elsewhere."""

import subprocess
import sys

import numpy as np
import pytest
from absl.flags import FlagValues
from configured import config as default
from ml_collections import config_flags

from configs import glue
from fjt import configs, flags, main
from fjt.core.errors import UserError
from fjt.core.options import ALIASES, OPTIONS
from fjt.core.settings import from_config

OWN = """
from configs import quickstart
from neighbour import RATE

def get_config(task="agreement"):
    config = quickstart.get_config(task)
    config.optim.learning_rate = RATE
    return config
"""


@pytest.fixture
def own(tmp_path):
    """A config file outside of the repository, which imports fjt's and one beside it."""
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "neighbour.py").write_text("RATE = 0.25\n")
    yield tmp_path / "own.py"
    sys.modules.pop("neighbour", None)


@pytest.mark.parametrize("before", ["", "--config=", "--config "])
def test_a_config_of_the_home_or_of_a_remote_store(own, monkeypatch, before):
    """With a flag on the command line, and without from Python."""
    monkeypatch.setenv("HOME", str(own.parent))
    monkeypatch.setattr(sys, "argv", [])

    def load(name):
        if not before:
            return configs.load(name, {})[0]
        values = FlagValues()
        holder = config_flags.DEFINE_config_file("config", flag_values=values)
        return flags.parse(["main", *f"{before}{name}".split()], values, holder)

    assert load("~/own.py:agreement")["optim"]["learning_rate"] == 0.25
    with pytest.raises(UserError, match=r"config=gs://a/b\.py: fjt reads and writes files of this machine only"):
        load("gs://a/b.py")


def test_a_config_is_a_path_a_name_a_dict_or_the_defaults():
    wanted = from_config(glue.get_config("rte,lora"))
    for given in (
        "configs/glue.py:rte,lora",
        "glue:rte,lora",
        glue.get_config("rte,lora"),
        glue.get_config("rte,lora").to_dict(),
    ):
        assert from_config(configs.load(given, {})[0]) == wanted
    assert from_config(configs.load(None, {})[0]) == from_config(default())


def test_a_config_of_one_s_own_imports_fjt_s_and_its_neighbours(own, monkeypatch):
    before = list(sys.path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(configs.ROOT))])
    made, file = configs.load(f"{own}:hearsay", {})
    assert (made["task"], made["optim"]["learning_rate"], file) == ("hearsay", 0.25, str(own))
    assert sys.path == [path for path in before if path not in ("", str(configs.ROOT))]


@pytest.mark.thorough
def test_the_command_reads_it_from_another_folder(own, tmp_path):
    """As installed: fjt is on the path, its configs are not."""
    code = f"import sys; sys.path.append({str(configs.ROOT)!r}); from fjt import main; sys.path.pop(); "
    code += f"sys.exit(main.main(['main', '--config', {str(own)!r}, '--list']))"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_numbers_of_numpy_are_numbers():
    changes = {"seed": np.int64(3), "optim__learning_rate": np.float32(0.5), "model__frozen_dropout": np.bool_(True)}
    made = from_config(configs.load(None, changes)[0]).experiment
    assert (made.seed, made.optim.learning_rate, made.model.frozen_dropout) == (3, 0.5, True)


def test_changes_take_the_place_of_values():
    changes = {"optim__learning_rate": 1, "tune.method": "lora", "data__columns__labels": ["a", "b"], "train__steps": 7}
    made = from_config(configs.load({**default(), "train": {**default()["train"], "epochs": 3}}, changes)[0])
    assert made.experiment.optim.learning_rate == 1.0 and made.experiment.tune.method == ("lora",)
    assert made.experiment.data.columns.labels == ("a", "b")
    assert (made.experiment.train.steps, made.experiment.train.epochs) == (7, None)
    given = default()
    configs.load(given, changes)
    assert given == default()


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        ("configs/glu.py:rte", {}, r"The config configs/glu.py does not exist. Did you mean configs/glue.py"),
        ("glu:rte", {}, r"The config glu does not exist. Did you mean glue"),
        ("/nowhere/own.py", {}, r"/nowhere/own.py does not exist"),
        (None, {"lr": 1e-3}, r"lr is not an option. Did you mean optim.learning_rate\?"),
        (
            None,
            {"train__learning_rate": 1e-3},
            r"train.learning_rate is not an option. Did you mean optim.learning_rate",
        ),
        (None, {"output_dir": "x"}, r"output_dir is not an option. Did you mean the argument workdir\?"),
        ({**default(), "lr": 1e-3}, {}, r"config.lr is not an option. Did you mean optim.learning_rate\?"),
        (
            {**default(), "train": default()["train"] | {"num_epochs": 3}},
            {},
            r"train.num_epochs is .* mean train.epochs\?",
        ),
        (None, {"optim": {"lr": 1}}, r"optim is not an option. Did you mean optim.name"),
    ],
)
def test_what_is_not_there_is_named(config, changes, message):
    with pytest.raises(UserError, match=message):
        from_config(configs.load(config, changes)[0])


def test_a_file_that_is_no_config_is_refused(tmp_path):
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"empty.py has no function get_config"):
        configs.load(tmp_path / "empty.py", {})
    with pytest.raises(UserError, match=r"notes.txt is not a Python file"):
        configs.load(tmp_path / "notes.txt", {})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "x.py"),
        ("-config=x.py",),
        ("--config.seed=1",),
        ("--noconfig.data.header",),
        ("--noplan",),
        ("--", "-"),
        ("x",),
    ],
)
def test_what_exists_is_not_refused(arguments):
    flags._check_names(["main", *arguments], main.FLAGS, OPTIONS)


def test_every_alias_is_of_an_option_that_exists_and_none_is_an_option():
    assert set(ALIASES.values()) <= set(OPTIONS) and not set(ALIASES) & set(OPTIONS)


@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("--config.lr=1", "Did you mean optim.learning_rate?"),
        ("--config.learning_rate=1", "Did you mean optim.learning_rate?"),
        ("--config.optim.lr=1", "Did you mean optim.learning_rate?"),
        ("--config.train.lr=1", "Did you mean optim.learning_rate?"),
        ("--config.learning-rate=1", "Did you mean optim.learning_rate?"),
        ("--config.per_device_train_batch_size=8", "Did you mean train.batch_size?"),
        ("--config.batch_size=8", "Did you mean train.batch_size?"),
        ("--config.epochs=3", "Did you mean train.epochs?"),
        ("--config.num_train_epochs=3", "Did you mean train.epochs?"),
        ("--config.max_seq_length=3", "Did you mean model.max_length?"),
        ("--config.max_length=3", "Did you mean model.max_length?"),
        ("--config.model_name_or_path=x", "Did you mean model.path?"),
        ("--config.warmup_ratio=0.1", "Did you mean optim.warmup_fraction?"),
        ("--config.weight_decay=0.1", "Did you mean optim.weight_decay?"),
        ("--config.output_dir=x", "Did you mean --workdir?"),
        ("--output_dir=x", "Did you mean --workdir?"),
        ("--lr=1", "Did you mean --config.optim.learning_rate?"),
        ("--learning-rate=1", "Did you mean --config.optim.learning_rate?"),
        ("--optim.learning_rate=1", "Did you mean --config.optim.learning_rate?"),
        ("--data.files.train=x", "Did you mean --config.data.files.train?"),
        ("--pan", "Did you mean plan?"),
        ("--seed=1", "Did you mean --config.seed?"),
        ("--config.optim.learnin_rate=1", "Did you mean optim.learning_rate"),
    ],
)
def test_an_option_is_known_by_its_name_elsewhere(argument, hint):
    with pytest.raises(UserError) as refused:
        flags._check_names(["main", argument], main.FLAGS, OPTIONS)
    assert hint in str(refused.value)
