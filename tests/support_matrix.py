"""The support matrix in README.md: which formats hold each method, asked of the code that writes the formats.

python -m tests.support_matrix      writes it between README.md's markers
"""

from pathlib import Path

from fjt.core.options import TOGETHER
from fjt.interop import adapterhub, peft
from fjt.interop.adapter import Adapter
from fjt.models.families import FAMILIES
from fjt.models.family import EncoderConfig
from fjt.tasks.kinds import PROBLEMS
from fjt.tuning.method import add_nothing
from fjt.tuning.partition import METHODS, can_merge, complete

README = Path(__file__).parent.parent / "README.md"
START, END = "<!-- python -m tests.support_matrix -->\n", "<!-- end of the matrix -->\n"
YES, NO, OPTIONS = "✓", "-", "✓ *"


def row(methods, family):
    """(the cells of a row, reasons): the forms in which a run of some methods can be given away.

    A reason says which default option of a method a format cannot hold.

    Args:
        methods: {name: options}.
        family: the name of a family of encoders.
    """
    config = EncoderConfig(
        family, 2, 8, 2, 16, 99, 32, 1, 1e-12, "gelu", 0.02, dropout_hidden=0, dropout_attention=0, dropout_classifier=0
    )
    adds = any(METHODS[name].add is not add_nothing and not METHODS[name].temporary for name in methods)
    found, reasons = ["after merging" if adds and can_merge(methods) else NO if adds else YES], []
    for form in (peft, adapterhub):
        reason = form.refusal(Adapter(methods, {}, "", "", ""), config)
        if reason and len(methods) == 1 and methods.keys() <= form.FORMS.keys():
            reasons.append(reason)
            found.append(OPTIONS)
        else:
            found.append(NO if reason else YES)
    return (*found, YES if adds or found[1] != NO else NO), tuple(reasons)


def matrix():
    """The Markdown of the matrix; methods with equal cells share a row."""
    rows, notes = {}, []
    for word in (*METHODS, *TOGETHER):
        names, given = TOGETHER.get(word, ((word,), {}))
        methods = {name: complete(name, given) for name in METHODS if name in names}
        ((found, reasons),) = {row(methods, family) for family in FAMILIES}  # the same for every family
        rows.setdefault(found, []).append(f"`{word}`")
        notes += reasons
    lines = ["method | Hugging Face model | PEFT | AdapterHub | fjt adapter", ":-- | :-: | :-: | :-: | :-:"]
    lines += [f"{' '.join(names)} | {' | '.join(found)}" for found, names in rows.items()]
    families, kinds = (", ".join(f"`{name}`" for name in names) for names in (FAMILIES, PROBLEMS))
    lines += ["", f"\\* with other options than the defaults: {'; '.join(notes)}."]
    lines += [
        f"Every method works with every family ({families}) and every kind of problem ({kinds}).",
        "Several classifications and regressions train together on one encoder, as `rte+mrpc+cola`.",
    ]
    return "\n".join(lines) + "\n"


def split(text):
    """(the text before the matrix, the matrix, the text after it) of a README."""
    before, _, rest = text.partition(START)
    inside, _, after = rest.partition(END)
    return before, inside, after


if __name__ == "__main__":
    before, _, after = split(README.read_text("utf-8"))
    README.write_text(f"{before}{START}{matrix()}{END}{after}", "utf-8")
