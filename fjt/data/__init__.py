"""From files to packed batches: sources, tables, tokenization, packing (numpy only, never jax).

Enters: code that reads rows, turns texts into token ids, or decides which tokens share a row. `glue.py` holds the
facts of the built-in tasks.
Open first: `batches.py` (what a step receives and why it is a pure function of seed and step).
"""
