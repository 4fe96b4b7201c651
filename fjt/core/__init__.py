"""What every other room uses: parameter trees, addressed randomness, options, records, errors, the console.

Enters: code without knowledge of models, data or runs. No module here imports another room.
Open first: `tree.py` (how parameters are named) and `prng.py` (where a dropout bit comes from).
"""
