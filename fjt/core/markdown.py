"""Users' names in Markdown: shown as they are, whatever their characters mean there."""

import re

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")


def escape(text: str) -> str:
    """Markdown that shows the text on one line: control characters become a blank, a half surrogate pair its code."""
    text = _CONTROL.sub(" ", text.encode("utf-8", "backslashreplace").decode())
    return re.sub(r"[\\`*_\[\]<>&|$~#!]", r"\\\g<0>", text)


def code(text: str) -> str:
    """Markdown that shows the text as code, on one line: its fence is longer than any row of backticks in it."""
    text = _CONTROL.sub(" ", text.encode("utf-8", "backslashreplace").decode())
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    blank = " " if re.match(r"`|.*`$| .*[^ ].* $", text) else ""  # Markdown removes one blank at each end
    return f"{fence}{blank}{text}{blank}{fence}"
