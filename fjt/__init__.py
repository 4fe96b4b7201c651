"""fjt fine-tunes BERT-family encoders in JAX: exact, without padding, without work on frozen weights.

Axis letters, one meaning each: G groups (data shards x accumulation), R rows, L row length in tokens,
E examples of a group, B examples of a batch, D width, H heads, K head width, F inner width, V vocabulary,
C classes, N examples of a split.
"""
