"""Questions with their contexts as tokens: long contexts in overlapping windows, with a slot at every token."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32

from fjt.core.errors import UserError
from fjt.data.batches import Examples

CHUNK = 1000  # questions per call; a progress bar moves between calls
NO_PLACE = (-1, -1)  # of tokens that are not of the context


def tokenize(
    questions: Sequence[str],
    contexts: Sequence[str],
    tokenizer: Any,
    max_length: int,
    stride: int = 0,
    progress: Callable[[int], Any] | None = None,
) -> Examples:
    """The Examples of questions and contexts: one per window, in order, with a slot for every token; labels are 0.

    A window is [CLS] question [SEP] part of the context [SEP].  slot_chars has the place of each token of the context
    in its text, and NO_PLACE for the others; a byte-level blank may have no character.  `truncated` counts the
    questions that were cut: there is always room for a quarter more of the context than windows share.

    Args:
        questions: the questions.
        contexts: the context of each.
        tokenizer: of the model.
        max_length: largest number of tokens per window.
        stride: tokens that neighbouring windows share; 0: a third of max_length.
        progress: called with the number of questions that are done.

    Raises:
        UserError: windows of this length cannot share so many tokens.
    """
    backend, shared = tokenizer.backend_tokenizer, stride or max_length // 3
    longest = _longest_question(max_length, tokenizer.num_special_tokens_to_add(True), shared, stride)
    ids, types, chars, lengths, rows, cut = [], [], [], [], [0], 0
    for start in range(0, len(questions), CHUNK):
        chosen = slice(start, start + CHUNK)
        short, several = _shortened(questions[chosen], backend, longest)
        cut += several
        backend.enable_truncation(max_length, stride=shared, strategy="only_second")
        try:
            encodings = backend.encode_batch(list(zip(short, contexts[chosen], strict=True)))
        finally:
            backend.no_truncation()  # otherwise exports would contain it
        for encoding in encodings:
            for window in (encoding, *encoding.overflowing):
                ids.append(np.array(window.ids, np.int32))
                types.append(np.array(window.type_ids, np.int8))
                chars.append(_chars(window))
                lengths.append(len(window.ids))
            rows.append(len(lengths))
        if progress:
            progress(min(start + CHUNK, len(questions)))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    slot_token = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], lengths)
    return Examples(
        np.concatenate(ids),
        np.concatenate(types),
        offsets,
        np.zeros(len(slot_token), np.int32),
        cut,
        slot_token.astype(np.int32),
        offsets,
        np.array(rows),
        slot_chars=np.concatenate(chars),
    )


def _longest_question(max_length: int, added: int, shared: int, stride: int) -> int:
    """The largest number of tokens of a question.  Raises UserError where there is no room for one.

    Args:
        max_length: tokens of a window.
        added: those among them that the tokenizer adds.
        shared: those that neighbouring windows share.
        stride: the user's option, 0 where it is not given.
    """
    longest = max_length - added - shared - max(1, shared // 4)
    if longest < 1:
        raise UserError(
            f"config.model.doc_stride={stride or None}: neighbouring windows share {shared} tokens, and windows of "
            f"config.model.max_length={max_length} tokens have no room for a question beside them. Give a lower "
            "number, or longer windows."
        )
    return longest


def _shortened(questions: Sequence[str], backend: Any, longest: int) -> tuple[list[str], int]:
    """(the questions, cut to `longest` tokens; how many were cut)."""
    found, cut = list(questions), 0
    for number, question in enumerate(found):
        if len(question.encode()) <= longest:  # a token has a byte or more
            continue
        while len(offsets := backend.encode(found[number], add_special_tokens=False).offsets) > longest:
            found[number] = found[number][: offsets[longest][0]]  # its character may have tokens before it too
        cut += found[number] != question
    return found, cut


def _chars(window: Any) -> Int32[np.ndarray, "n 2"]:
    """The place of each token of a window."""
    chars = np.array(window.offsets, np.int32)
    chars[np.array([sequence != 1 for sequence in window.sequence_ids])] = NO_PLACE
    return chars
