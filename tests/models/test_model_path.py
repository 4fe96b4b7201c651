"""Where the model of config.model.path is: a directory, a finished run, or a hub that may not answer."""

import time

import huggingface_hub
import pytest

from fjt.core import network
from fjt.core.errors import UserError
from fjt.models import model_path


def test_resolve_takes_directories_and_finished_runs(tmp_path):
    model = tmp_path / "model"
    (model / "export").mkdir(parents=True)
    with pytest.raises(UserError, match=r"has no config\.json"):
        model_path.resolve(str(model), "main")
    (model / "config.json").write_text("{}")
    assert model_path.resolve(str(model), "main") == str(model)
    (model / "train.jsonl").write_text("")
    with pytest.raises(UserError, match="not finished"):
        model_path.resolve(str(model), "main")
    (model / "export" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="not finished"):
        model_path.resolve(str(model), "main")
    (model / "DONE").write_text("")
    assert model_path.resolve(str(model), "main") == str(model / "export")
    with pytest.raises(UserError, match="the directory does not exist"):
        model_path.resolve(str(tmp_path / "nowhere"), "main")
    with pytest.raises(UserError, match=r"model hub.*--config\.model\.path=DIR"):
        model_path.resolve("no-such-name", "main")


def test_a_hub_whose_name_is_never_found_is_not_waited_for(tmp_path, monkeypatch):
    assert model_path.HUB_SECONDS <= 5  # the promise is ten seconds for the whole command
    monkeypatch.setattr(model_path, "HUB_SECONDS", 0.3)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: time.sleep(5))
    start = time.monotonic()
    with pytest.raises(network.Unreachable, match=r"TimeoutError.*--config\.model\.path=DIR"):
        model_path.resolve("no-such-name", "main")
    assert time.monotonic() - start < 3


def test_a_disk_without_room_for_a_download_is_said(monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *args, **kwargs: None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(network.Unreachable, match=r"could not be downloaded .*\(No space left on device\)"):
        model_path.resolve("no-such-name", "main")
