"""The README and the folders' pages: short, generated where they could drift, and without dead links."""

import re
import subprocess
from pathlib import Path

import draw_packing
import pytest
import support_matrix

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
FOLDERS = ("configs", "launch", "results", "tests", "fjt")
ROOMS = sorted(path.parent for path in (ROOT / "fjt").glob("*/__init__.py"))
PAGES = [README, *(ROOT / name / "README.md" for name in FOLDERS), *(room / "README.md" for room in ROOMS)]


def prose(text):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def anchors(text):
    """The anchors of a page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(text, folder):
    """The relative links of a page in a folder that lead nowhere."""
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(text)):
        place, _, anchor = link.partition("#")
        if "://" in place:
            continue
        target = folder / place if place else folder / "README.md"
        known = anchors(target.read_text("utf-8")) if target.suffix == ".md" and target.is_file() else ()
        if not target.exists() or (anchor and anchor not in known):
            dead.append(link)
    return dead


def missing_files(text, folder):
    """The scripts and modules that a page names in code spans and that do not exist."""
    named = re.findall(r"`([\w./]+\.(?:py|sh))(?::[\w,]+)?`", prose(text))
    return [name for name in named if not any((place / name).exists() for place in (folder, ROOT / "fjt", ROOT))]


def test_the_readme_has_at_most_a_thousand_words():
    assert 500 < len(prose(README.read_text("utf-8")).split()) <= 1_000, "outside blocks of code"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_names_only_what_exists(page):
    text = page.read_text("utf-8")
    assert not dead_links(text, page.parent)
    assert not missing_files(text, page.parent)


def test_every_page_is_known_here():
    tracked = subprocess.run(["git", "ls-files", "*README.md"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert {ROOT / name for name in tracked.stdout.split()} <= set(PAGES)


@pytest.mark.parametrize("text", ["[a](no/such.md)", "[a](README.md#no-such-heading)", "[a](#no-such-heading)"])
def test_a_dead_link_is_found(text):
    assert dead_links(text, ROOT) and not dead_links(f"```\n{text}\n```\n", ROOT)


def test_a_missing_file_is_found():
    assert missing_files("`training/no_such.py`, `training/step.py`", ROOT) == ["training/no_such.py"]


def test_the_support_matrix_is_the_generated_one():
    _, inside, _ = support_matrix.split(README.read_text("utf-8"))
    assert inside == support_matrix.matrix(), "run python -m tests.support_matrix"


def test_the_drawing_is_the_generated_one():
    assert draw_packing.OUTPUT.read_text("utf-8") == draw_packing.drawing(), "run python -m tests.draw_packing"
