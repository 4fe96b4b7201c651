"""One batch drawn twice: padded, and packed by fjt. Grey is padding.

python -m tests.draw_packing      writes results/readme/packing.svg
"""

from pathlib import Path

import numpy as np

from fjt.data import packing

OUTPUT = Path(__file__).parent.parent / "results" / "readme" / "packing.svg"
# Tokens of the first 32 training pairs of MRPC, [CLS] and [SEP] included, by bert-base-uncased's vocabulary.
LENGTHS = np.array([[
    50, 59, 47, 67, 59, 50, 62, 32, 45, 60, 51, 47, 42, 61, 53, 44,
    53, 79, 57, 70, 63, 35, 54, 64, 52, 47, 68, 58, 60, 35, 43, 34,
]])  # fmt: skip
# The shapes that `packing.plan` chose for all batches of MRPC's training set.
SHAPES = [packing.Shape(1, rows, 120, 32) for rows in (15, 16, 19)]
COLORS = ("#3b6fb6", "#7aa6dc")  # of neighbours in a row
UNIT, HEIGHT, TOP, MARGIN = 2.4, 9, 44, 10  # pixels: per token, per row, above the rows, around all


def panel(left, title, rows, columns, num_rows, row_length):
    """The SVG elements of a batch's rows, with a title that gives the share of real tokens."""
    real = LENGTHS.sum() / (num_rows * row_length)
    lines = [
        f'<text x="{left}" y="18" font-weight="bold">{title}</text>',
        f'<text x="{left}" y="34">{num_rows} rows of {row_length} tokens, {real:.0%} of them real</text>',
    ]

    def box(row, column, length, color):
        x, y = left + UNIT * column, TOP + HEIGHT * row
        size = f'width="{UNIT * length - 0.5:g}" height="{HEIGHT - 1.5}"'
        lines.append(f'<rect x="{x:g}" y="{y}" {size} fill="{color}"/>')

    for row in range(num_rows):
        box(row, 0, row_length, "#dddddd")
        inside = sorted((columns[i], i) for i in np.flatnonzero(rows == row))
        for place, (column, example) in enumerate(inside):
            box(row, column, LENGTHS[0, example], COLORS[place % 2])
    return lines


def drawing():
    """The SVG's text."""
    longest = int(LENGTHS.max())
    (padded_rows,), (padded_columns,), (num_padded,) = packing.pack(LENGTHS, longest, one_a_row=True)
    shape = SHAPES[packing.assign(LENGTHS, SHAPES).shape_of[0]]
    (rows,), (columns,), _ = packing.pack(LENGTHS, shape.row_length)
    right = 2 * MARGIN + UNIT * longest + 30
    width, height = right + UNIT * shape.row_length + MARGIN, TOP + HEIGHT * num_padded + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width:g}" height="{height}" fill="white"/>',
        *panel(MARGIN, "padded", padded_rows, padded_columns, int(num_padded), longest),
        *panel(right, "packed by fjt", rows, columns, shape.rows, shape.row_length),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    OUTPUT.write_text(drawing(), "utf-8")
