"""`python -m fjt.inspect` as a process: its files, exit codes and mistakes; and runs on data that it says to clean."""

import json

import made_faults
import process
import pytest


@pytest.fixture
def inspect(launch, tmp_path):
    """inspect(*arguments) -> Done of the command on the tables train, dev and test of tmp_path."""
    flags = ["--config", process.ROOT / "configs/classify.py", "--config.model.path=", "--config.train.steps=2"]
    flags += [f"--config.model.scratch.vocab={made_faults.vocabulary(tmp_path)}"]
    flags += [f"--config.data.files.{name}={tmp_path / name}.csv" for name in made_faults.SIZES]
    flags += [f"--config.cache.dir={tmp_path / 'cache'}"]
    return lambda *arguments: launch(*flags, *arguments, program="fjt.inspect")


def test_the_command(inspect, tmp_path):
    rows = made_faults.make()
    rows["dev"][0] = rows["train"][0]
    made_faults.settings(tmp_path, rows)
    done = inspect("--output", tmp_path / "seen", "--strict")
    assert done.code == 1 and "Findings: serious 1, warning 0, notice 0" in done.text, done.text
    assert "plan: 2 steps" in done.text
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == ["inspection.html", "inspection.json"]
    record = (tmp_path / "seen" / "inspection.json").read_text()
    assert json.loads(record)["tasks"]["table"]["findings"][0]["split"] == "dev" and str(tmp_path) not in record
    assert str(tmp_path) not in (tmp_path / "seen" / "inspection.html").read_text()
    done = inspect("--output", tmp_path / "seen", "--strict", "--config.data.clean=leaks")
    assert done.code == 0 and "Findings: serious 0" in done.text, done.text
    assert "dropped from train by config.data.clean: leaks 1" in done.text


@pytest.mark.thorough
def test_mistakes(inspect, tmp_path):
    made_faults.settings(tmp_path, made_faults.make())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("precious")
    for arguments, message in (
        (["--output", tmp_path / "mine"], "has other files, such as notes.txt. Give a new folder"),
        (["--output", tmp_path / "train.csv"], "cannot be created"),
        (["--output", tmp_path / "new", "--config.data.clean=twins"], "'twins' is unknown"),
        (["--workdir=x"], "--workdir is not an option"),
    ):
        done = inspect(*arguments)
        assert done.code == 2 and message in done.text, done.text
        assert "Traceback" not in done.text


def test_a_run_on_cleaned_rows_is_that_on_a_clean_table_also_after_a_kill(tables, cache, finished, tmp_path):
    """Planted rows that repeat, contradict or leak are dropped, and the bits are those of the table without them."""
    train, dev = ((tables / f"{name}.csv").read_text(encoding="utf-8") for name in ("train", "dev"))
    leaks, repeated = dev.splitlines()[5:8], train.splitlines()[1:4]
    labels = {line.rpartition(",")[2] for line in train.splitlines()[1:]}
    conflicts = [f"new,nothing like it,{label}" for label in sorted(labels)]
    (tmp_path / "train.csv").write_text("\n".join([train.rstrip(), *leaks, *repeated, *conflicts, ""]), "utf-8")
    options = dict(data__files__train=tmp_path / "train.csv", data__clean="leaks,conflicts,duplicates")
    arguments = [*process.tiny(tables, **options), "--workdir", tmp_path / "run"]
    for events, code in ((process.DieInEvaluation(2, 1.0), -9), (None, 0)):
        output = tmp_path / "output"
        done = process.finish(process.start(arguments, output, cache=cache, events=events), output)
        assert done.code == code, done.text
    assert "resuming after step" in done.text
    assert "dropped from train by config.data.clean: leaks 3, conflicts 2, duplicates 3" in done.text
    assert process.outcome(tmp_path / "run") == process.outcome(finished[0])
    result, before = (json.loads((run / "result.json").read_text()) for run in (tmp_path / "run", finished[0]))
    assert result["dropped_examples"] == {"leaks": 3, "conflicts": 2, "duplicates": 3}
    assert before["dropped_examples"] == {} and result["train_examples"] == before["train_examples"]
