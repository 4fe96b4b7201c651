"""A study of two tasks and its report, written once for the tests that read them."""

import pytest
from made_study import write_study

from fjt.reports import publication


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The folder of a study of two tasks, whole."""
    return write_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="session")
def written(folder):
    """(where its report is, the report's Markdown)."""
    output, _ = publication.report(folder)
    return folder / "report", (folder / "report" / "report.md").read_text() if output else ""
