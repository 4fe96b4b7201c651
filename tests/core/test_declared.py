"""The checker of other libraries' JSON files: types are JSON's, ranges are closed, what is not declared is listed."""

import json

import pytest

from fjt.core import declared
from fjt.core.declared import Entry
from fjt.core.errors import UserError

NAN, INFINITY = float("nan"), float("inf")
KINDS = {
    "whole": (declared.whole(1, 9), (1, 9), (0, 10, True, 2.0, "2", None, [2], {}, NAN)),
    "number": (declared.number(0.0, 0.5), (0, 0.5, 1e-9), (True, False, -0.1, 1, NAN, INFINITY, "0.1", None, [0])),
    "text": (declared.text(), ("", "a"), (1, None, ["a"], True)),
    "flag": (declared.flag(), (True, False), (0, 1, "true", None)),
    "table": (declared.table(), ({}, {"a": 1}), ([], None, "{}")),
    "texts": (declared.texts(), ([], ["a"]), ("a", [1], [None], {}, None)),
    "one of": (declared.one_of("a", "b"), ("a", "b"), ("c", ["a"], None, {})),
    "unset": (declared.unset("No."), (None, False, "", [], {}), (0, True, "no", [0], {"a": None})),
    "fixed": (declared.fixed(0.0), (0, 0.0), (False, 0.1, None, "0")),
    "fixed text": (declared.fixed("none"), ("none",), ("all", None, ["none"])),
    "either": (declared.either(declared.text(), declared.texts()), ("a", ["a"]), (1, [1], None)),
    "optional": (declared.optional(declared.whole(1, 9)), (None, 1), (0, "1", False)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_accepts_its_values_and_no_others(kind):
    entry, good, bad = KINDS[kind]
    for value in good:
        declared.check({"key": value, "other": 1}, {"key": entry}, "there.json")
    for value in bad:
        with pytest.raises(UserError, match=r"^there\.json: key=.* should be "):
            declared.check({"key": value}, {"key": entry}, "there.json")


def test_a_message_says_value_range_and_reason_and_is_short():
    entry = Entry(lambda value: False, "small", "It is too long.")
    with pytest.raises(UserError) as caught:
        declared.check({"key": ["x" * 5000]}, {"key": entry}, "a.json")
    assert str(caught.value).endswith("... should be small. It is too long.") and len(str(caught.value)) < 120


def test_what_is_needed_and_what_is_not_declared():
    entries = {"a": declared.text(needed=True), "b": declared.flag()}
    with pytest.raises(UserError, match=r"there lacks 'a'; it should be a string"):
        declared.check({"b": True}, entries, "there")
    assert declared.undeclared({"a": "", "z": 1, "y": None, "c": 0}, entries, "f") == (
        "f has keys that fjt does not read: c, z"
    )
    assert declared.undeclared({"a": ""}, entries, "f") == ""


@pytest.mark.parametrize("text", ["[1]", "null", '"a"', "{", "[" * 50_000, "9" * 5000, ""])
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json"):
        declared.read(tmp_path / "a.json", {})
    (tmp_path / "a.json").write_text(json.dumps({"a": 1}))
    assert declared.read(tmp_path / "a.json", {"a": declared.whole(1, 1)}) == {"a": 1}
