"""Vocabularies of sub-words, learned from texts by `tokenizers`, as directories that `transformers` reads."""

import itertools
import os
from collections.abc import Iterable
from typing import Any

from fjt.core.errors import UserError

PIECES = ("wordpiece", "bytes")
SPECIAL = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
LEAST = len(SPECIAL) + 256  # ids of the special tokens and of all bytes


def learn(texts: Iterable[str], size: int, pieces: str, cased: bool) -> Any:
    """A fast tokenizer with a vocabulary of the texts: [CLS] text [SEP], and token types of pairs.

    `wordpiece` is BERT's (Devlin et al. 2019); of equally frequent pieces, two calls may choose others.  `bytes` is the
    byte-level BPE of RoBERTa (Liu et al. 2019), whose case is kept, and is the same in each call.

    Args:
        texts: to learn from.
        size: the largest number of ids, special tokens among them.
        pieces: one of PIECES.
        cased: whether upper and lower case differ, of wordpiece.

    Raises:
        UserError: the size leaves no room, or there is no text.
    """
    import tokenizers
    import transformers
    from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

    if size <= LEAST:
        raise UserError(f"--size={size} leaves no room for sub-words; give more than {LEAST}.")
    special = list(SPECIAL.values())
    if pieces == "wordpiece":
        backend = tokenizers.Tokenizer(models.WordPiece({}, unk_token=SPECIAL["unk"]))
        backend.normalizer = normalizers.BertNormalizer(lowercase=not cased)
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False)
    else:
        backend = tokenizers.Tokenizer(models.BPE(unk_token=SPECIAL["unk"]))
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        trainer = trainers.BpeTrainer(
            vocab_size=size, special_tokens=special, show_progress=False, initial_alphabet=alphabet
        )
    texts = iter(texts)
    if (first := next(texts, None)) is None:
        raise UserError("There is no text to learn a vocabulary from.")
    backend.train_from_iterator(itertools.chain([first], texts), trainer)
    ids = [(SPECIAL[name], backend.token_to_id(SPECIAL[name])) for name in ("cls", "sep")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ids
    )
    named = {f"{name}_token": token for name, token in SPECIAL.items()}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "token_type_ids", "attention_mask"], **named
    )


def save(tokenizer: Any, folder: str) -> None:
    """Writes a tokenizer's directory.  folder: does not exist yet."""
    os.makedirs(folder)
    tokenizer.save_pretrained(folder)
