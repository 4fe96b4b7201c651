"""A run whose export is not its model says so, keeps its predictions, and can end without the export."""

import pytest
from process import tiny

from fjt.interop import hf


def with_another_activation():
    """Exports whose config.json has another activation."""
    describe = hf.describe
    hf.describe = lambda *arguments: describe(*arguments) | {"hidden_act": "relu"}


@pytest.mark.thorough
def test_an_export_that_is_not_the_run_s_model_ends_the_run(even, launch, tmp_path):
    done = launch(*tiny(even), "--workdir", tmp_path / "run", hook=with_another_activation)
    assert done.code == 2 and "Traceback" not in done.text, done.text
    assert "its activation is 'relu', but the run computed with 'gelu'" in done.text
    assert (tmp_path / "run" / "predictions" / "dev.npz").exists() and not (tmp_path / "run" / "DONE").exists()
    done = launch(*tiny(even, output__export=False), "--workdir", tmp_path / "run", hook=with_another_activation)
    assert done.code == 0 and (tmp_path / "run" / "DONE").exists(), done.text
