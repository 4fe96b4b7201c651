"""A report as Markdown, and as one HTML page made of that Markdown and the figures."""

import dataclasses
import html
import re
from collections.abc import Iterable, Iterator, Sequence

import markdown_it

RAISED = "⁰¹²³⁴⁵⁶⁷⁸⁹"
CSS = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 72rem; }
body { margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.3rem; margin-top: 2.2rem; border-top: 1px solid #ddd; padding-top: 1rem; }
p, ul, ol { max-width: 52rem; }
h3 { font-size: 1.05rem; margin-top: 1.6rem; }
table { display: block; overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #e4e4e4; vertical-align: top; text-align: left; }
td { white-space: nowrap; }
td:last-child[style$=left] { white-space: normal; min-width: 14rem; }
th { text-wrap: balance; vertical-align: bottom; border-bottom: 2px solid #999; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
@media (max-width: 40rem) {
  table { font-size: .78rem; }
  th, td { padding: .25rem .4rem; }
  th[style$=right] { min-width: 4.2rem; }
  th:first-child, td:first-child { max-width: 7rem; white-space: normal; overflow-wrap: break-word; }
}
table + ul, details + ul, figcaption, summary { font-size: .85rem; color: #444; }
table + ul, details + ul { list-style: none; padding-left: 0; margin: .3rem 0; border-top: 1px solid #ddd; }
table + ul, details + ul { width: fit-content; font-size: .78rem; }
details { margin: .4rem 0; } summary { cursor: pointer; }
blockquote { border-left: 4px solid #d55e00; background: #fdf3ec; padding: .4rem .8rem; margin: .5rem 0; }
blockquote p { margin: 0; }
figure { margin: 1rem 0; max-width: 40rem; } figure svg { width: 100%; height: auto; }
code { font-size: .88em; overflow-wrap: anywhere; }
"""


@dataclasses.dataclass(frozen=True)
class Heading:
    """A heading.  level: 1 for the title."""

    level: int
    text: str


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph.  In the texts of all blocks, `code` and **bold** are marked as in Markdown."""

    text: str
    warning: bool = False


@dataclasses.dataclass(frozen=True)
class Items:
    """A list."""

    texts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: names; a column whose name starts with `>` is right-aligned.
        rows: one text per column.
        notes: the footnotes ¹, ², ...
        more: the columns that few readers need; they stand in a second table, which is folded away.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    more: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Fold:
    """Blocks that are shown when the reader opens them.  summary: the line that is always shown."""

    summary: str
    blocks: "tuple[Block, ...]"


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure in figures/<name>.svg and .png."""

    name: str
    caption: str
    svg: str = dataclasses.field(repr=False)
    png: bytes = dataclasses.field(repr=False)


Block = Heading | Text | Items | Table | Fold | Picture


class Footnotes:
    """The footnotes of a table, each text once.

    Attributes:
        reasons: {text: its number}.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, int] = {}

    def dash(self, reason: str) -> str:
        """A dash with the mark of a footnote."""
        return f"-{self.mark(reason)}"

    def mark(self, reason: str) -> str:
        """The mark of a footnote."""
        return f" {raised(self.reasons.setdefault(reason, len(self.reasons) + 1))}"


def raised(number: int) -> str:
    """A number in superscript digits."""
    return str(number).translate(str.maketrans("0123456789", RAISED))


def _parts(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks with each table as its main columns, the others folded away, and footnotes after their marks."""
    for block in blocks:
        if not isinstance(block, Table):
            yield block
            continue
        folded = [i for i, name in enumerate(block.columns) if name in block.more]
        shown = _columns(block, [i for i in range(len(block.columns)) if i not in folded])
        hidden = _columns(block, [0, *folded])
        yield shown
        yield from _notes(block.notes, _marks(shown))
        if folded:
            names = ", ".join(block.columns[i].lstrip(">") for i in folded)
            yield Fold(f"More columns: {names}", (hidden, *_notes(block.notes, _marks(hidden) - _marks(shown))))


def _marks(table: Table) -> set[str]:
    """The marks of footnotes in the rows of a table."""
    return {mark for row in table.rows for cell in row for mark in re.findall(f"[{RAISED}]+", cell)}


def _notes(notes: Sequence[str], marks: set[str]) -> list[Items]:
    """The footnotes with these marks."""
    texts = tuple(f"{raised(i)} {note}" for i, note in enumerate(notes, 1) if raised(i) in marks)
    return [Items(texts)] if texts else []


def _columns(table: Table, chosen: Sequence[int]) -> Table:
    return Table(tuple(table.columns[i] for i in chosen), tuple(tuple(row[i] for i in chosen) for row in table.rows))


def markdown(blocks: Iterable[Block]) -> str:
    """The text of a Markdown file."""
    return "\n\n".join(_markdown(block) for block in _parts(blocks)) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Text():
            return f"> **Warning.** {block.text}" if block.warning else block.text
        case Items():
            return "\n".join(f"- {text}" for text in block.texts)
        case Fold():
            summary = html.escape(_bare(block.summary))
            return f"<details><summary>{summary}</summary>\n\n{markdown(block.blocks)}\n</details>"
        case Picture():
            return f"![{block.name}](figures/{block.name}.svg)\n\n{block.caption}"
    lines = [[_bar(name.lstrip(">")) for name in block.columns]]
    lines += [["--:" if name.startswith(">") else ":--" for name in block.columns]]
    lines += [[_bar(cell) for cell in row] for row in block.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bar(cell: str) -> str:
    return cell.replace("|", "\\|")


def _bare(text: str) -> str:
    return re.sub(r"[`*\[\]]", "", text)


def page(title: str, blocks: Iterable[Block]) -> str:
    """The text of an HTML page that needs no other file."""
    renderer = markdown_it.MarkdownIt("commonmark", {"html": False}).enable("table")
    body = "".join(_html(block, renderer) for block in _parts(blocks))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>{CSS}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )


def _unbroken(text: str) -> str:
    """HTML in which no line breaks inside a quantity, as in "p 0.047" or "95 % -1.2 to +3.4"; code stays as it is."""
    before_percent, after_p = r"(?<=\d) (?=%)", r"(?<=\bp) (?=&lt;|\d)"
    of_range = r"(?<=\d) (?=to [-+]?\d)|(?<=\d to) (?=[-+]?\d)|(?<=\d %) (?=[-+]?\d)"
    space = f"{before_percent}|{after_p}|{of_range}"
    parts = re.split(r"(<code>.*?</code>)", text, flags=re.DOTALL)
    return "".join(part if i % 2 else re.sub(space, "\xa0", part) for i, part in enumerate(parts))


def _html(block: Block, renderer: markdown_it.MarkdownIt) -> str:
    if isinstance(block, Fold):
        inner = "".join(_html(part, renderer) for part in _parts(block.blocks))
        return f"<details><summary>{renderer.renderInline(block.summary)}</summary>\n{inner}</details>\n"
    if isinstance(block, Picture):
        caption = renderer.renderInline(block.caption)
        return f"<figure>{_inlined(block)}<figcaption>{caption}</figcaption></figure>\n"
    return _unbroken(renderer.render(_markdown(block)))


def _inlined(picture: Picture) -> str:
    """The SVG of a picture for a page with several: with ids that are unique in the page, and a label."""
    svg = picture.svg[picture.svg.index("<svg") :]
    name = html.escape(picture.name)
    svg = re.sub(r'(id="|href="#|url\(#)', lambda match: f"{match[0]}{name}-", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{html.escape(_bare(picture.caption))}" ', 1)
