"""A study whose axis is the run to learn from: two processes share it, one is killed, and its runs keep their bits."""

import json

import pytest
from process import Slow, finish, flags, outcome, start, tiny, wait_for

CONFIG = """
from configs import classify, study


def get_config():
    config = study.get_config(classify.get_config())
    config.study.products = (
        {{"tune.method": ("lora",), "tune.rank": (2,), "distill.runs": {teachers}}},
        {{"tune.method": ("head",), "distill.runs": {teachers}}},
    )
    config.study.seeds = 2
    config.study.tuning_seeds = 1
    return config
"""


@pytest.mark.slow
def test_a_killed_study_over_teachers(finished, tables, launch, cache, tmp_path):
    other = launch(*tiny(tables, seed=1), "--workdir", tmp_path / "other")
    assert other.code == 0, other.text
    teachers = (str(finished[0]),), (str(tmp_path / "other"),)
    (tmp_path / "own.py").write_text(CONFIG.format(teachers=teachers))
    options = dict(
        data__files__train=f"{tables}/train.csv",
        data__files__dev=f"{tables}/dev.csv",
        data__columns__id="key",
        model__path=finished[0] / "export",
        model__max_length=32,
        train__batch_size=24,
        train__steps=6,
        eval__official_dev=True,
        study__mode="vmap",
        checkpoint__every_steps=2,
        mesh__data=1,
        cache__dir=tmp_path / "cache",
    )
    given = ["--config", tmp_path / "own.py", *flags(**options), "--workdir"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = launch(*given, whole, program="fjt.sweep")
    assert done.code == 0 and done.text.count("predicting") >= 2, done.text

    def begin(name):
        return start([*given, killed], tmp_path / name, cache=cache, program="fjt.sweep", events=Slow(0.05))

    first, second = begin("first"), begin("second")
    assert wait_for(lambda: any(path.read_text().count("\n") > 3 for path in killed.glob("**/train.jsonl")), first)
    first.kill()
    first.join()
    for process, name in ((second, "second"), (begin("third"), "third")):
        ended = finish(process, tmp_path / name)
        assert ended.code == 0, ended.text

    runs = {path.parent.relative_to(whole): path.parent for path in whole.glob("runs/**/result.json")}
    assert len(runs) == 8
    learnt = set()
    for name, path in runs.items():
        assert outcome(killed / name) == outcome(path), name
        result = json.loads((path / "result.json").read_text())
        learnt.add(result["params_sha256"])
    assert len(learnt) == 8, "runs of other teachers or seeds end with the same weights"
