"""Open formats in both directions: Hugging Face models, PEFT and AdapterHub adapters, model cards.

Enters: code that writes or reads files that other libraries define.
Open first: `exports.py` (what a run gives away), then `peft.py`.
"""
