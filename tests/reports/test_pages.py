"""A report as one page: it needs no other file, and texts stay texts."""

import dataclasses

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
    ],
)
def test_no_line_breaks_inside_a_quantity(text, wanted):
    assert f"<p>{wanted}</p>" in pages.page("", [pages.Text(text)]).replace("\xa0", "~")
    assert pages.markdown([pages.Text(text)]) == f"{text}\n"


def test_texts_of_a_strangers_files_are_shown_as_they_are(folder, tmp_path):
    """Models, devices, versions, the command and the reason of a failed run are text, not parts of a page."""
    before, hostile = gather.read(folder), 'a"><img src=q> [x](javascript:y) `b` **c** |'
    free = {"model": hostile, "device": hostile, "failed": hostile, "versions.jax": hostile}
    rows = tuple(dict(row) | free for row in before.rows)
    archive.save(dataclasses.replace(before, rows=rows, facts=before.facts | {"command": hostile}), tmp_path)
    study = archive.load(tmp_path)
    title, blocks = document.build(study, make_cells(study), [], [])
    page = Page()
    page.feed(text := pages.page(title, blocks))
    assert not page.tags & {"img", "a", "script"} and text.count("[x](javascript:y) `b` **c** |") >= 4
