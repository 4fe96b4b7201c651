"""The tuning methods: which parameters train, which are added, and how the added ones enter the encoder.

Enters: one file per family of methods, each method one `Method` row (`method.py` explains its fields).
`partition.py` combines the methods of a run; `cost.py` is the law of a step's operations.
Open first: `method.py`, then `low_rank.py`.
"""
