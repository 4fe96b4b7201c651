"""What people look at: events of TensorBoard."""

import json
import struct

import matplotlib
import pytest
from tensorboardX import record_writer
from tensorboardX.proto.event_pb2 import Event

from fjt.experiment import outputs


def events(folder):
    """[(tag, step, value)] of the one event file in a folder: records of length, checksum, bytes, checksum."""
    (path,) = folder.glob("events.out.tfevents.*")
    data, found = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        found += [(value.tag, event.step, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    return found


def row(step):
    return {"step": step, "loss": 1.0 / step, "grad_norm": 2.0, "learning_rate": 0.5**step}


def test_tensorboard_holds_each_point_once_after_a_restart(tmp_path):
    (tmp_path / "eval.jsonl").write_text("")
    (tmp_path / "train.jsonl").write_text("")
    killed = outputs.TensorBoard(tmp_path, print)
    killed.add_step(row(1))
    killed.add_step(row(2))  # the restart begins after step 1
    (tmp_path / "train.jsonl").write_text(json.dumps(row(1)) + "\n")
    again = outputs.TensorBoard(tmp_path, print)
    again.add_step(row(2))
    again.add_evaluation({"step": 2, "accuracy": 0.75, "train_seconds": 9.0, "best": True})
    again.close()
    assert events(tmp_path / "tensorboard") == [
        ("train/loss", 1, 1.0),
        ("train/grad_norm", 1, 2.0),
        ("train/learning_rate", 1, 0.5),
        ("train/loss", 2, 0.5),
        ("train/grad_norm", 2, 2.0),
        ("train/learning_rate", 2, 0.25),
        ("eval/accuracy", 2, 0.75),
    ]


@pytest.mark.parametrize("first", ["write", "flush", "close"])
def test_a_full_disk_ends_the_events_with_one_warning_and_not_the_run(tmp_path, monkeypatch, first):
    def full(self, *data):
        raise OSError(28, "No space left on device")

    warned = []
    for name in ("eval.jsonl", "train.jsonl"):
        (tmp_path / name).write_text("")
    board = outputs.TensorBoard(tmp_path, warned.append)
    monkeypatch.setattr(record_writer.RecordWriter, first, full)
    for step in range(1, 4):
        board.add_step(row(step))
        board.add_evaluation({"step": step, "accuracy": 0.5})
    board.close()
    assert len(warned) == 1 and "tensorboard: no more events" in warned[0] and "No space left" in warned[0]


def test_the_curve_does_not_depend_on_the_users_settings_of_matplotlib(tmp_path):
    curves = []
    for name, value in {"font.size": 10.0, "lines.linewidth": 9.0, "savefig.dpi": 10, "text.usetex": True}.items():
        (tmp_path / "train.jsonl").write_text("".join(json.dumps(row(step)) + "\n" for step in (1, 2)))
        (tmp_path / "eval.jsonl").write_text(json.dumps({"step": 2, "accuracy": 0.5}) + "\n")
        with matplotlib.rc_context({name: value}):
            outputs.draw_curve(tmp_path, "accuracy")
        curves.append((tmp_path / "curve.png").read_bytes())
    assert curves[0].startswith(b"\x89PNG") and len(set(curves)) == 1
