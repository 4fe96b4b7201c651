"""The kinds of problems: what is predicted, with which loss, how logits are decoded, and which metrics score them.

Enters: one file per kind of problem. No file outside this room asks which kind a task has.
Open first: `problem.py` (the seam), then `classification.py`.
"""
