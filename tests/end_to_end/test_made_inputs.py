"""Made inputs through the commands; `python -m tests.end_to_end.made_inputs` drives two thousand."""

import collections

import pytest

from tests.end_to_end import made_inputs
from tests.end_to_end.process import ROOT


@pytest.mark.thorough
def test_whatever_the_input_a_command_ends_as_it_should_and_what_it_wrote_is_read_back(tmp_path, monkeypatch):
    monkeypatch.setenv("FJT_CACHE", str(tmp_path / "cache"))
    driver = made_inputs.Driver(tmp_path, ROOT / "results" / "peft_ablation")
    made_inputs.drive_all(driver, 12)
    ended = sum(driver.counts.values(), collections.Counter())
    assert ended.total() >= 12 and ended[0] >= 2 and set(driver.counts) == set(made_inputs.STRATEGIES)

    for said in ((1, "Traceback"), (2, "no sentence"), (139, "fjt: ")):  # ends that are found
        with monkeypatch.context() as patch, pytest.raises(AssertionError):
            patch.setattr(made_inputs.Driver, "_call", lambda *_, said=said: said)
            driver.drive(("key", {"file": "config.json", "key": "hidden_size", "value": "a"}))
