"""What a run decides by its scores or learns from other runs, it decides and learns alike in two processes."""

import json
import re

import numpy as np
import pytest
from pair import Pair
from process import read_rows, tiny

EACH_STEP = dict(eval__every_steps=1, eval__every_epochs=None, optim__warmup_fraction=0.0)
CASES = {
    "plateau": EACH_STEP
    | dict(tune__method="lora", optim__schedule="constant", optim__plateau_patience=2, optim__plateau_factor=0.25),
    "phases": EACH_STEP
    | dict(tune__method="gradual", train__epochs=5, optim__schedule="constant")
    | dict(tune__stages="((('head/',), 2, 1.0), (('layer_0/',), 1, 0.5), (('.',), 0, 1.0))", tune__stage_patience=2),
    "taught": dict(tune__method="lora", distill__weight=0.7, distill__hidden=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_two_processes_decide_as_one(name, finished, tables, cache, launch, tmp_path):
    options = dict(mesh__data=0, optim__learning_rate=1e-2, cache__dir=None) | CASES[name]
    if name == "taught":
        options["distill__runs"] = f"('{finished[0]}',)"
    arguments = tiny(tables, model__path=finished[0] / "export", **options)
    alone = launch(*arguments, f"--config.cache.dir={tmp_path}/cache", "--workdir", tmp_path / "one")
    assert alone.code == 0, alone.text
    own = [[f"--config.cache.dir={tmp_path}/cache-{i}"] for i in (0, 1)]
    both = Pair(arguments, tmp_path / "pair", tmp_path / "two", cache, own).finish()
    assert [one.code for one in both] == [0, 0], "\n".join(one.text for one in both)

    first, second = (read_rows(tmp_path / folder / "train.jsonl") for folder in ("one", "two"))
    assert [row["learning_rate"] for row in first] == [row["learning_rate"] for row in second]
    np.testing.assert_allclose([row["loss"] for row in second], [row["loss"] for row in first], rtol=2e-5)
    results = [json.loads((tmp_path / folder / "result.json").read_text()) for folder in ("one", "two")]
    same = ("steps", "selected_step", "trainable_params", "flops_per_step")
    assert [results[0][key] for key in same] == [results[1][key] for key in same]
    if name == "plateau":
        assert len({row["learning_rate"] for row in first}) > 1, "no score stood still, and nothing was decided"
    if name == "phases":
        begun = [re.findall(r"stage \d, from step \d+", text) for text in (alone.text, both[0].text)]
        assert begun[0] == begun[1] and len(begun[0]) == 2, begun
    if name == "taught":
        assert "predicting 96 training rows" in both[0].text and "learned from" in both[0].text, both[0].text
        assert "predicting" not in both[1].text
