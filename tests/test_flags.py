"""The command line's values of options that are tuples."""

import sys

import pytest
from absl.flags import FlagValues
from ml_collections import config_flags

from configs import base
from fjt import flags
from fjt.core.errors import UserError
from fjt.core.options import OPTIONS, flatten

FILE = base.__file__


def parsed(monkeypatch, *arguments, file=FILE):
    """{key: value} of a command line."""
    monkeypatch.setattr(sys, "argv", [])  # `parse` sets it
    values = FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=values)
    return flatten(flags.parse(["main", "--config", file, *arguments], values, holder))


TUPLES = {
    "names": ("data.label_names=no,yes", ("no", "yes")),
    "blanks": ("data.label_names=no, not yet ,yes", ("no", "not yet", "yes")),
    "one name": ("data.label_names=no", ("no",)),
    "numbers": ("data.label_names=0,1", (0, 1)),
    "text beside numbers": ("data.label_names=0,one", ("0", "one")),
    "a comma in quotes": ("data.label_names=('a, b','c')", ("a, b", "c")),
    "an empty name stays, to be refused": ("data.label_names=no,,yes", ("no", "", "yes")),
    "columns": ("data.columns.labels=joy,anger", ("joy", "anger")),
    "methods": ("tune.method=lora,bitfit", ("lora", "bitfit")),
    "sites": ("tune.sites=query,value", ("query", "value")),
    "patterns": (r"tune.train=layer_\d{1,2}/query,head", (r"layer_\d{1,2}/query", "head")),
    "ranks": ("tune.ranks=4,8", (4, 8)),
    "weights": ("loss.class_weights=balanced", ("balanced",)),
}


@pytest.mark.parametrize("case", TUPLES)
def test_a_tuple_is_given_with_commas(case, monkeypatch):
    (argument, expected), key = TUPLES[case], TUPLES[case][0].partition("=")[0]
    assert parsed(monkeypatch, f"--config.{argument}")[key] == expected
    assert parsed(monkeypatch, f"--config.{key}", argument.partition("=")[2])[key] == expected


def test_every_tuple_of_the_options_takes_commas(monkeypatch):
    keys = [key for key, one in OPTIONS.items() if one.kind is tuple]
    found = parsed(monkeypatch, *(f"--config.{key}=a,b" for key in keys))
    assert keys and all(found[key] == ("a", "b") for key in keys)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('config.tune.method = "head"', "TypeError: Could not override field 'method'"),
        ("return nothing", "NameError: name 'nothing' is not defined"),
        ("x = = 1", "SyntaxError: invalid syntax"),
    ],
)
def test_an_exception_in_a_config_file_is_its_line_and_the_reason(tmp_path, monkeypatch, line, reason):
    path = tmp_path / "own.py"
    lines = ["from configs import classify", "", "", "def get_config():", "    config = classify.get_config()"]
    path.write_text("\n".join([*lines, f"    {line}", "    return config", ""]))
    with pytest.raises(UserError) as refused:
        parsed(monkeypatch, file=str(path))
    assert str(refused.value).startswith(f"{path}:6: {reason}") and "\n" not in str(refused.value)
