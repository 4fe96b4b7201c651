"""Texts of words as tokens: long ones in overlapping windows, each word with a slot where it has most context."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from fjt.data.batches import Examples

OVERLAP = 4  # neighbouring windows share a quarter of their tokens
CHUNK = 2000  # texts per call; a progress bar moves between calls


def starts_of(count: int, room: int) -> Int[np.ndarray, " W"]:
    """The first token of each window over the `count` tokens of a text.

    Windows are `room` tokens long.  The last one ends with the text, so that none sees less than it could.

    Args:
        count: of the text.
        room: tokens in a window, without those that the tokenizer adds.
    """
    if count <= room:
        return np.zeros(1, np.int64)
    stride = room - room // OVERLAP
    starts = np.arange(0, count - room + stride, stride)
    return np.minimum(starts, count - room)


def window_of(tokens: Int[np.ndarray, " n"], starts: Int[np.ndarray, " W"], room: int, count: int) -> np.ndarray:
    """The window in which each token has the most tokens before and after it, whichever are fewer.

    The beginning and the end of the text take no context away.  Of equal windows the first is chosen.

    Args:
        tokens: numbers of tokens in the text, ascending.
        starts: see `starts_of`.
        room: likewise.
        count: likewise.
    """
    # A token is in three windows at most: the last window that has begun, and the two before it.
    last = np.searchsorted(starts, tokens, side="right") - 1
    near = np.maximum(last[:, None] + np.arange(-2, 1), 0)
    begin = starts[near]
    before = np.where(begin > 0, tokens[:, None] - begin, count)
    after = np.where(begin + room < count, begin + room - 1 - tokens[:, None], count)
    return np.take_along_axis(near, np.argmax(np.minimum(before, after), axis=1)[:, None], axis=1)[:, 0]


@dataclasses.dataclass(frozen=True)
class _Special:
    """The ids that a tokenizer puts before and after a text."""

    before: list[int]
    after: list[int]


def tokenize(
    texts: Sequence[Sequence[str]],
    tokenizer: Any,
    max_length: int,
    progress: Callable[[int], Any] | None = None,
    every: bool = False,
) -> Examples:
    """The Examples of texts of words: one per window, in order, with a slot for each word, in order.

    The slot of a word is its first token, or each of its tokens.  A word without a token, such as a control character,
    has the tokenizer's first one.  The label of a slot is the number of its word in the text.

    Args:
        texts: lists of words.
        tokenizer: of the model.
        max_length: largest number of tokens per window.
        progress: called with the number of texts that are done.
        every: whether each token of a word has a slot.
    """
    tokenizer = of_words(tokenizer)
    backend, special = tokenizer.backend_tokenizer, _special(tokenizer)
    room = max_length - len(special.before) - len(special.after)
    ids, lengths, slots, numbers, counts, rows = [], [], [], [], [], [0]
    for start in range(0, len(texts), CHUNK):
        chosen = [list(words) for words in texts[start : start + CHUNK]]
        encodings = backend.encode_batch(chosen, is_pretokenized=True, add_special_tokens=False)
        for words, encoding in zip(chosen, encodings, strict=True):
            for tokens, places, own in _windows(len(words), encoding.ids, encoding.word_ids, room, every):
                ids += [*special.before, *tokens, *special.after]
                lengths.append(len(tokens) + len(special.before) + len(special.after))
                slots += [place + len(special.before) if place >= 0 else 0 for place in places]
                numbers += own
                counts.append(len(places))
            rows.append(len(counts))
        if progress:
            progress(min(start + CHUNK, len(texts)))
    offsets, slot_offsets = (np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]) for sizes in (lengths, counts))
    return Examples(
        np.array(ids, np.int32),
        np.zeros(len(ids), np.int8),
        offsets,
        np.array(numbers, np.int32),
        0,
        np.array(slots, np.int32),
        slot_offsets,
        np.array(rows),
    )


def _windows(
    words: int, ids: Sequence[int], word_ids: Sequence[int], room: int, every: bool
) -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Yields (tokens, places of the slots in them, -1 for a word without a token, numbers of the slots' words) of each
    window of a text."""
    first = np.full(words, -1, np.int64)
    owner = np.array(word_ids, np.int64)
    first[owner[::-1]] = np.arange(len(owner))[::-1]
    seen = np.maximum.accumulate(first)  # a word without a token is in the window of the word before it
    starts = starts_of(len(ids), room)
    window = window_of(np.maximum(seen, 0), starts, room, len(ids))
    bounds = np.searchsorted(window, np.arange(len(starts) + 1))  # windows of words ascend
    for number, start in enumerate(starts):
        own = np.arange(bounds[number], bounds[number + 1])
        if not len(own):  # nothing would be read from it
            continue
        places = np.where(first[own] < 0, -1, first[own] - start)
        if every:
            more = np.arange(start, min(start + room, len(ids)))
            more = more[np.isin(owner[more], own) & (first[owner[more]] != more)]
            places, own = np.append(places, more - start), np.append(own, owner[more])
            order = np.lexsort((places, own))
            places, own = places[order], own[order]
        yield list(ids[start : start + room]), places.tolist(), own.tolist()


def _special(tokenizer: Any) -> _Special:
    encoding = tokenizer.backend_tokenizer.encode(["a"], is_pretokenized=True)
    own = [place for place, mask in enumerate(encoding.special_tokens_mask) if not mask]
    return _Special(encoding.ids[: own[0]], encoding.ids[own[-1] + 1 :])


def of_words(tokenizer: Any) -> Any:
    """The tokenizer for lists of words: a byte-level one puts a blank before each, as there is within a text."""
    before = tokenizer.backend_tokenizer.pre_tokenizer
    if type(before).__name__ != "ByteLevel" or before.add_prefix_space:
        return tokenizer
    blank = copy.deepcopy(tokenizer)
    blank.backend_tokenizer.pre_tokenizer.add_prefix_space = True
    blank.add_prefix_space = blank.init_kwargs["add_prefix_space"] = True  # so that a saved one is such again
    return blank
