"""What processes agree on, with the collectives of two processes played by tables."""

import signal

import pytest

from fjt.core.errors import Ended, UserError
from fjt.training import processes
from fjt.training.checkpoint import NotFinite
from fjt.training.stop import Stopped


class Two:
    """This process is `number` of two; what was sent by process 0, and what the other gathers, is given."""

    def __init__(self, monkeypatch, number, gathered=None):
        self.sent = []
        monkeypatch.setattr(processes._State, "count", 2)
        monkeypatch.setattr(processes._State, "number", number)
        monkeypatch.setattr(processes, "_broadcast", self.broadcast)
        monkeypatch.setattr(processes, "_gather", lambda own: [gathered, own] if number else [own, gathered])

    def broadcast(self, sent):
        self.sent += [sent] if sent else []
        return self.sent[-1]


@pytest.mark.parametrize(
    "error",
    [None, UserError("a mistake"), Stopped(signal.SIGTERM), NotFinite("nan"), Ended("over", 7), OSError(28, "full")],
)
def test_process_0_decides_for_all(monkeypatch, error):
    def function():
        if error:
            raise error
        return {"accuracy": 0.5}

    first = Two(monkeypatch, 0)
    if error is None:
        assert processes.decide(function) == {"accuracy": 0.5}
    else:
        with pytest.raises(type(error)) as raised:
            processes.decide(function)
        assert raised.value.agreed
    second = Two(monkeypatch, 1)
    second.sent = first.sent
    if error is None:
        assert processes.decide(pytest.fail) == {"accuracy": 0.5}
        return
    with pytest.raises(UserError if isinstance(error, OSError) else type(error)) as raised:
        processes.decide(pytest.fail)
    assert raised.value.agreed and str(error).removeprefix("[Errno 28] ") in str(raised.value)
    assert getattr(raised.value, "code", 2) == getattr(error, "code", 2)


@pytest.mark.parametrize("number", [0, 1])
def test_the_mistake_of_one_is_that_of_all(monkeypatch, number):
    Two(monkeypatch, number, gathered=b"" if number else b"there is no file here")
    with pytest.raises(UserError, match="process 1: there is no file here") as raised:
        processes.fail_together(UserError("there is no file here") if number else None)
    assert raised.value.agreed
    Two(monkeypatch, number, gathered=b"")
    processes.fail_together(None)


def test_values_that_differ_are_named(monkeypatch):
    Two(monkeypatch, 0, gathered=b"other")
    monkeypatch.setattr(
        processes, "_gather", lambda own: [own, b'{"jax": "0.11", "seed": 0}' if own[:1] == b"{" else b"another digest"]
    )
    with pytest.raises(UserError, match=r"need the same options:\n  jax: .0.10. in process 0, .0.11. in process 1$"):
        processes.agree("options", {"jax": "0.10", "seed": 0})


def test_one_process_asks_nobody(monkeypatch):
    monkeypatch.setattr(processes, "_broadcast", pytest.fail)
    assert processes.decide(lambda: 3) == 3 and processes.any_of(True) and not processes.any_of(False)
    processes.agree("options", {"seed": 0})
    with pytest.raises(UserError, match=r"^mine$"):
        processes.fail_together(UserError("mine"))
