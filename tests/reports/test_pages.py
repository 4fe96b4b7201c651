"""A report as one page: it needs no other file, and texts stay texts."""

import dataclasses

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
    table = pages.Table(("name", ">p"), (("a|b `x`", "<0.001"),), notes=("a note",))
    text = pages.page("<1>", [pages.Heading(1, "<1>"), pages.Text("**take** care", warning=True), table])
    for part in (
        "<title>&lt;1&gt;</title>",
        "<h1>&lt;1&gt;</h1>",
        "<blockquote>\n<p><strong>Warning.</strong> <strong>take</strong> care</p>\n</blockquote>",
        '<td style="text-align:left">a|b <code>x</code></td>\n<td style="text-align:right">&lt;0.001</td>',
        "<li>¹ a note</li>",
    ):
        assert part in text


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
