"""Encoders and heads as functions of plain parameter dicts, and the reading of Hugging Face checkpoints.

Enters: layers, heads, and one file per model family. Flax is used here and nowhere else; tuning methods enter through
the hooks of `layers.py` and are never imported.
Open first: `encoder.py` (`Model.init` and `Model.apply`).
"""
