"""A report read back: the tables of its Markdown, the tags and links of its page."""

import html.parser


def rows_of(markdown, heading, task="choices"):
    """{first column: {column: text}} of the table below a heading of a task's section, folded columns included."""
    part = markdown.split(f"\n## {task}\n")[1].split("\n## ")[0].split(f"### {heading}\n")[1].split("### ")[0]
    rows: dict[str, dict[str, str]] = {}
    for table in part.split("Each class")[0].split("<details>"):
        lines = [line.strip("|")[1:-1].split(" | ") for line in table.splitlines() if line.startswith("|")]
        for line in lines[2:]:
            rows.setdefault(line[0], {}).update(zip(lines[0], line, strict=True))
    return rows


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.ids, self.links, self.tags = [], [], [], set()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for key, value in attributes:
            if key == "id":
                self.ids.append(value)
            if key in ("src", "href", "xlink:href"):
                self.links.append(value)
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
