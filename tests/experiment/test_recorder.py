"""The logs of a run during training."""

import types

import small

from fjt.experiment import recorder


def test_a_curve_that_cannot_be_drawn_is_a_warning(monkeypatch):
    def refuse(workdir, metric):
        raise ValueError("no backend is called so")

    warned = []
    experiment, view = types.SimpleNamespace(choice="accuracy"), types.SimpleNamespace(warn=warned.append)
    monkeypatch.setattr(recorder.outputs, "draw_curve", refuse)
    small.double(recorder.FileRecorder, _workdir="runs/a", _experiment=experiment, _view=view)._draw()
    assert warned == ["runs/a/curve.png is not drawn: no backend is called so"]
