"""The tuning methods: which parameters train, which are added, and how the added ones enter the encoder.

Enters: one file per family of methods, each method one `Method` row (`method.py` explains its fields).
`registry.py` lists all rows; `partition.py` combines the methods of a run; `cost.py` is the law of a step's operations;
`forms.py` says how a row describes its open formats, `*_forms.py` hold these next to their family.
Open first: `method.py`, then `low_rank.py`.
"""
