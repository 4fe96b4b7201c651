"""Where JAX finds no device, a sentence says so."""

import jax
import pytest

from fjt.core.errors import UserError
from fjt.training import placement


@pytest.mark.parametrize(
    "error", [RuntimeError("Unable to initialize backend 'abc': it is unknown.\nMore"), AssertionError()]
)
def test_a_platform_that_is_not_there_is_named(monkeypatch, error):
    def fail():
        raise error

    monkeypatch.setattr(jax, "devices", fail)
    monkeypatch.setenv("JAX_PLATFORMS", "abc")
    with pytest.raises(UserError, match=r"^JAX_PLATFORMS=abc: JAX finds no device.* or unset it\.$") as found:
        placement.make_mesh(0)
    assert ("it is unknown" in str(found.value)) == bool(str(error)) and "\n" not in str(found.value)
