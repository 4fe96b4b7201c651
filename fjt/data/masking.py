"""The masks of an epoch: a pure function of (key, epoch, example, position)."""

import dataclasses

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt32

from fjt.core.seeds import bits
from fjt.data.batches import Examples

RATE, REPLACED, RANDOM = 0.15, 0.8, 0.1  # of Devlin et al. 2019
CHOICE, FATE, TOKEN = range(3)  # the purpose of bits, a part of their address: these numbers never change
WHOLE = 2**32


@dataclasses.dataclass(frozen=True)
class Masking:
    """How tokens are masked.

    Attributes:
        mask: the id of the mask.
        ordinary: the ids that can take a token's place.
        rate: share of the tokens of each example that are predicted.
        whole_words: whether all tokens of a word are predicted, or none.
        replaced: share of these that the mask replaces.
        random: share that random tokens replace.
    """

    mask: int
    ordinary: Int32[np.ndarray, " ids"]
    rate: float = RATE
    whole_words: bool = False
    replaced: float = REPLACED
    random: float = RANDOM


def counts_of(tokens: Int[np.ndarray, " N"], rate: float) -> Int[np.ndarray, " N"]:
    """The number of slots of examples with so many tokens that can be masked: their share, and at least one."""
    return np.minimum(tokens, np.maximum(1, np.floor(rate * tokens + 0.5).astype(np.int64)))


def draw(
    examples: Examples,
    masking: Masking,
    key: UInt32[np.ndarray, "2"],
    epoch: int,
) -> Examples:
    """The Examples of an epoch: tokens are masked, and slots are the places of those that are predicted.

    An example has as many slots in each epoch (`counts_of`), so that batches have the same shapes.  Its tokens with
    the lowest bits are chosen.  For whole words, its words are taken in the order of the bits of their first tokens,
    without those for which too few slots are left; slots that stay empty are at the first token, with label -1.

    Args:
        examples: with a slot at each token that can be masked, and the number of its word as label.
        masking: how tokens are masked.
        key: of the draw.
        epoch: its number.
    """
    tokens = np.diff(examples.slot_offsets)
    owner = np.repeat(np.arange(len(examples)), tokens)
    address = (owner if examples.numbers is None else examples.numbers[owner]), examples.slot_token
    counts = counts_of(tokens, masking.rate)
    choose = _words if masking.whole_words else _tokens
    chosen = choose(owner, examples, bits(key, epoch, CHOICE, *address), counts)
    found = np.bincount(owner[chosen], minlength=len(examples))
    places = (examples.offsets[owner] + examples.slot_token)[chosen]
    true = examples.token_ids[places]
    fate = bits(key, epoch, FATE, *(part[chosen] for part in address)) / WHOLE
    other = masking.ordinary[bits(key, epoch, TOKEN, *(part[chosen] for part in address)) % len(masking.ordinary)]
    token_ids = examples.token_ids.copy()
    replaced, random = fate < masking.replaced, fate < masking.replaced + masking.random
    token_ids[places] = np.where(replaced, masking.mask, np.where(random, other, true))
    slot_offsets = np.concatenate([[0], np.cumsum(counts)])
    at = np.repeat(slot_offsets[:-1] - np.cumsum(found) + found, found) + np.arange(len(chosen))
    slot_token, label = np.zeros(slot_offsets[-1], np.int32), np.full(slot_offsets[-1], -1, np.int32)
    slot_token[at], label[at] = examples.slot_token[chosen], true
    return dataclasses.replace(
        examples, token_ids=token_ids, slot_token=slot_token, slot_offsets=slot_offsets, label=label
    )


def _tokens(
    owner: Int[np.ndarray, " M"], examples: Examples, drawn: UInt32[np.ndarray, " M"], counts: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " m"]:
    """The slots with the lowest bits of each example, ascending."""
    order = np.lexsort((drawn, owner))
    rank = np.arange(len(owner)) - examples.slot_offsets[owner]
    return np.sort(order[rank < counts[owner]])


def _words(
    owner: Int[np.ndarray, " M"], examples: Examples, drawn: UInt32[np.ndarray, " M"], counts: Int[np.ndarray, " N"]
) -> Int[np.ndarray, " m"]:
    """The slots of the words that are chosen in each example, ascending."""
    begins = np.concatenate([[True], (np.diff(owner) > 0) | (np.diff(examples.label) != 0)])
    first = np.flatnonzero(begins)
    sizes, of = np.diff(np.append(first, len(owner))), owner[first]
    order = np.lexsort((drawn[first], of))
    taken = _that_fit(of[order], sizes[order], counts)
    chosen = np.zeros(len(first), bool)
    chosen[order[taken]] = True
    return np.flatnonzero(np.repeat(chosen, sizes))


def _that_fit(
    of: Int[np.ndarray, " W"], sizes: Int[np.ndarray, " W"], counts: Int[np.ndarray, " N"]
) -> Bool[np.ndarray, " W"]:
    """Which items are taken, in order, as long as those of each owner are together no larger than its count.

    Each pass leaves out the first item of each owner that does not fit.

    Args:
        of: the owner of each item, ascending.
        sizes: of the items.
        counts: of each owner.
    """
    taken = np.ones(len(of), bool)
    bounds = np.searchsorted(of, np.arange(len(counts)))
    while True:
        total = np.cumsum(np.where(taken, sizes, 0))
        before = np.concatenate([[0], total])[bounds]
        over = np.flatnonzero(taken & (total - before[of] > counts[of]))
        if not len(over):
            return taken
        taken[over[np.concatenate([[True], np.diff(of[over]) > 0])]] = False
