"""Choices among several continuations of a text: from the cells of a table, and as tokens."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fjt.core.errors import UserError
from fjt.data.batches import Examples
from fjt.data.rows import text_of

CHUNK = 1000  # texts per call; a progress bar moves between calls
FEWEST = 2  # choices of a row


def read(values: Sequence[Any], place: str, prefix: str = "") -> tuple[str, ...]:
    """The choices of a row.

    Args:
        values: one text per choice, or one list of them.
        place: for messages.
        prefix: the words that all choices begin with, "" for none.

    Raises:
        UserError: a choice is missing or no text, or there are fewer than FEWEST.
    """
    given = list_of(values)
    if len(given) < FEWEST:
        raise UserError(f"{place}: {len(given)} choices; a row needs {FEWEST} or more. Correct or remove it.")
    found = []
    for number, value in enumerate(given):
        if value is None:
            raise UserError(f"{place}: choice {number} (counted from 0) is missing. Correct or remove the row.")
        text = text_of(value, f"{place}, choice {number}", "A choice should be text.", blank=False)
        found.append(f"{prefix} {text}" if prefix else text)
    return tuple(found)


def list_of(values: Sequence[Any]) -> list[Any]:
    """The cells of the choices of a row: of several columns, or of one that holds lists."""
    single = values[0] if len(values) == 1 else None
    return list(single) if isinstance(single, list | tuple | np.ndarray) else list(values)


def tokenize(
    texts: Sequence[str],
    choices: Sequence[Sequence[str]],
    tokenizer: Any,
    max_length: int,
    progress: Callable[[int], Any] | None = None,
) -> Examples:
    """The Examples of texts and their choices: a part [CLS] text [SEP] choice [SEP] per choice; labels are 0.

    Each part has a slot at its first token.  The longer of text and choice is cut first; `truncated` counts the texts
    with a part that was cut.

    Args:
        texts: the texts.
        choices: of each text.
        tokenizer: of the model.
        max_length: largest number of tokens per part.
        progress: called with the number of texts that are done.
    """
    backend = tokenizer.backend_tokenizer
    ids, types, sizes, cut = [], [], [], 0
    backend.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.truncation_side)
    try:
        for start in range(0, len(texts), CHUNK):
            rows = range(start, min(start + CHUNK, len(texts)))
            pairs = [(texts[row], choice) for row in rows for choice in choices[row]]
            encodings = iter(backend.encode_batch_fast(pairs))
            for row in rows:
                parts = [next(encodings) for _ in choices[row]]
                cut += any(part.overflowing for part in parts)
                ids += [np.array(part.ids, np.int32) for part in parts]
                types += [np.array(part.type_ids, np.int8) for part in parts]
                sizes += [len(part.ids) for part in parts]
            if progress:
                progress(rows.stop)
    finally:
        backend.no_truncation()  # otherwise exports would contain it
    part_offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
    counts = [len(row) for row in choices]
    slot_offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    offsets = part_offsets[slot_offsets]
    return Examples(
        np.concatenate(ids),
        np.concatenate(types),
        offsets,
        np.zeros(len(sizes), np.int32),
        cut,
        (part_offsets[:-1] - np.repeat(offsets[:-1], counts)).astype(np.int32),
        slot_offsets,
        part_offsets=part_offsets,
    )
