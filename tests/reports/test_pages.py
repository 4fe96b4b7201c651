"""A report as one page: it needs no other file, and texts stay texts."""

import dataclasses
import html

import numpy as np
import pytest
from read_report import Page

from fjt.reports import archive, document, gather, pages
from fjt.reports.cells import make_cells


def test_the_page_needs_no_other_file(written):
    page = Page()
    page.feed((written[0] / "report.html").read_text())
    assert not page.open and page.tags >= {"svg", "table", "figure", "figcaption"} and "script" not in page.tags
    assert len(set(page.ids)) == len(page.ids)
    assert page.links and all(link.startswith("#") and link[1:] in page.ids for link in page.links)


def test_the_page_shows_what_the_markdown_says():
    """Bars and angle brackets in texts stay text, and a column of numbers is aligned to the right."""
    table = pages.Table(("name", ">p"), (("a|b `x`", "<0.001"), ("b", "- ¹")), notes=("a note",))
    text = pages.page("<1>", [pages.Heading(1, "<1>"), pages.Text("**take** care", warning=True), table])
    for part in (
        "<title>&lt;1&gt;</title>",
        "<h1>&lt;1&gt;</h1>",
        "<blockquote>\n<p><strong>Warning.</strong> <strong>take</strong> care</p>\n</blockquote>",
        '<td style="text-align:left">a|b <code>x</code></td>\n<td style="text-align:right">&lt;0.001</td>',
        "<li>¹ a note</li>",
    ):
        assert part in text


def test_a_last_column_of_words_wraps():
    """The rule of the style sheet names the attribute that the cells have."""
    table = pages.Table(("name", ">p", "what to do"), (("a", "1", "Look at the rows."),))
    text = pages.page("", [table])
    assert '<td style="text-align:left">Look at the rows.</td>\n</tr>' in text
    assert "td:last-child[style$=left] { white-space: normal;" in text


def test_a_footnote_stands_where_its_mark_is_seen():
    """Of a folded column in the fold, once where both have its mark, and nowhere without a mark."""
    rows = (("a ¹", "1 ²", "2 ¹ ³"),)
    table = pages.Table(("name", ">b", ">c"), rows, ("one", "two", "three", "four"), more=(">c",))
    shown, folded = pages.markdown([table]).split("<details>")
    assert "- ¹ one\n- ² two\n" in shown and "three" not in shown
    assert "- ³ three\n" in folded and "one" not in folded and "four" not in shown + folded


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("80 % of p 0.047", "80~% of p~0.047"),
        ("(95 % -0.51 to +2.95; p <0.001)", "(95~%~-0.51~to~+2.95; p~&lt;0.001)"),
        ("seeds 0 to 4, step 5", "seeds 0~to~4, step 5"),
        ("`--x=1 to 2`, 1 to 2", "<code>--x=1 to 2</code>, 1~to~2"),
    ],
)
def test_no_line_breaks_inside_a_quantity(text, wanted):
    assert f"<p>{wanted}</p>" in pages.page("", [pages.Text(text)]).replace("\xa0", "~")
    assert pages.markdown([pages.Text(text)]) == f"{text}\n"


def test_texts_of_a_strangers_files_are_shown_as_they_are(folder, tmp_path):
    """Models, devices, versions, files, labels, the command and the reason of a failed run are no parts of a page."""
    before, hostile = gather.read(folder), 'a"><img src=q> [x](javascript:y) `b` **c** |'
    about = {"train_examples": 9, "batch_size": 3, "recipe_epochs": 1, "limit": 0, "draws": [0], "rate_origin": ""}
    cells = {row["cell"]: about | {"files": [hostile]} for row in before.rows}
    facts = before.facts | {"command": hostile, "runs": cells}
    dev = {
        name: parts | {"label_names": np.array([hostile + str(i) for i in range(len(parts["label_names"]))], str)}
        for name, parts in before.dev.items()
    }
    free = {"model": hostile, "device": hostile, "failed": hostile, "versions.jax": hostile}
    rows = tuple(dict(row) | free for row in before.rows)
    archive.save(dataclasses.replace(before, rows=rows, facts=facts, dev=dev), tmp_path)
    study = archive.load(tmp_path)
    title, blocks = document.build(study, make_cells(study), [], [])
    page = Page()
    page.feed(text := pages.page(title, blocks))
    assert not page.tags & {"img", "a", "script"} and text.count("[x](javascript:y) `b` **c** |") >= 4
    shown = html.escape(hostile)
    assert text.count(f"<h2><code>{shown}</code></h2>") == 2 and f"<strong><code>{shown}</code></strong>" in text
    assert f" dev examples: 72 <code>{shown}0</code>, 48 <code>{shown}1</code>" in text
    assert f'<td style="text-align:left"><code>{shown}0</code></td>' in text  # a class in its table
