"""The kinds of problems: targets, loss, decoding and metrics of each.

Enters: one file per kind of problem. No file outside this room asks which kind a task has.
Open first: `problem.py` (the seam), then `classification.py`.
"""
