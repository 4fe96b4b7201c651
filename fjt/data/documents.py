"""Documents as tokens: in blocks, with a slot at each token that can be masked; and the documents of a plain text."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from fjt.data.batches import Examples

SUFFIX = ".txt"
CHUNK = 1000  # documents per call; a progress bar moves between calls


def read(lines: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Yields (line on which it starts, text) of each document of a plain text; empty lines end a document."""
    start, found = 0, []
    for number, line in enumerate(lines, 1):
        if line.strip():
            start = start if found else number
            found.append(line.rstrip("\n"))
        elif found:
            yield start, "\n".join(found)
            found = []
    if found:
        yield start, "\n".join(found)


def tokenize(
    texts: Sequence[str], tokenizer: Any, max_length: int, progress: Callable[[int], Any] | None = None
) -> Examples:
    """The Examples of documents: one per block, in order, with a slot at each token that can be masked.

    A block is [CLS] tokens [SEP]; no token is in two blocks, and no block has tokens of two documents.  The label of a
    slot is the number of its word in the document, as the tokenizer finds words.  Special tokens, those for unknown
    words among them, cannot be masked.  A document without tokens of its own has no block.

    Args:
        texts: the documents.
        tokenizer: of the model.
        max_length: largest number of tokens per block.
        progress: called with the number of documents that are done.
    """
    backend, special = tokenizer.backend_tokenizer, np.array(sorted(tokenizer.all_special_ids))
    ids, slots, words, rows = [], [], [], [0]
    for start in range(0, len(texts), CHUNK):
        backend.enable_truncation(max_length, stride=0)
        try:
            encodings = backend.encode_batch(list(texts[start : start + CHUNK]))
        finally:
            backend.no_truncation()  # otherwise exports would contain it
        for encoding in encodings:
            for block in (encoding, *encoding.overflowing):
                tokens = np.array(block.ids, np.int32)
                own = np.array(block.special_tokens_mask) == 0
                chosen = np.flatnonzero(own & ~np.isin(tokens, special))
                if own.any():
                    ids.append(tokens)
                    slots.append(chosen.astype(np.int32))
                    words.append(np.array(block.word_ids, object)[chosen].astype(np.int32))
            rows.append(len(ids))
        if progress:
            progress(min(start + CHUNK, len(texts)))
    offsets, slot_offsets = (np.cumsum([0, *map(len, parts)], dtype=np.int64) for parts in (ids, slots))
    token_ids = np.concatenate([*ids, np.zeros(0, np.int32)])
    return Examples(
        token_ids,
        np.zeros(len(token_ids), np.int8),
        offsets,
        np.concatenate([*words, np.zeros(0, np.int32)]),
        0,
        np.concatenate([*slots, np.zeros(0, np.int32)]),
        slot_offsets,
        np.array(rows),
    )
