"""The end of a run: DONE first, and then nothing but its own checkpoints goes."""

import json
import os

import pytest

from fjt.experiment import outcome


def write_config(workdir, keep):
    config = {"config": {"output": {"checkpoints": keep}}, "contents": {}, "fingerprint": "", "changes": []}
    (workdir / "config.json").write_text(json.dumps(config))
    for name in ("checkpoints/3/state", "checkpoints/6"):
        (workdir / name).mkdir(parents=True)


@pytest.mark.parametrize("keep", [True, False])
def test_a_run_that_is_killed_during_the_last_clean_up_is_done(tmp_path, monkeypatch, keep):
    write_config(tmp_path, keep)
    remove = outcome.checkpoint.shutil.rmtree

    def killed(path):
        remove(os.path.join(path, "state"))
        raise KeyboardInterrupt

    (tmp_path / "checkpoints/6").rmdir()  # so that the first one is not whole
    monkeypatch.setattr(outcome.checkpoint.shutil, "rmtree", killed)
    if keep:
        outcome.end(str(tmp_path), {"steps": 6}, keep_checkpoints=keep)
    else:
        with pytest.raises(KeyboardInterrupt):
            outcome.end(str(tmp_path), {"steps": 6}, keep_checkpoints=keep)
    assert (tmp_path / "DONE").exists() and json.loads((tmp_path / "result.json").read_text()) == {"steps": 6}
    monkeypatch.undo()
    for _ in range(2):
        outcome.clean_up(str(tmp_path))
        assert (tmp_path / "checkpoints/3").exists() == keep


def test_a_clean_up_leaves_what_fjt_did_not_write(tmp_path):
    write_config(tmp_path, False)
    (tmp_path / "checkpoints/notes.txt").write_text("precious")
    outcome.clean_up(str(tmp_path))
    assert os.listdir(tmp_path / "checkpoints") == ["notes.txt"]
