"""Text to ragged token ids with the model's own tokenizer, cached under a fingerprint."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fjt.core import records
from fjt.core.errors import UserError
from fjt.data import choices, contexts, tokenizer_files, windows
from fjt.data import documents as blocks
from fjt.data.batches import Examples
from fjt.data.glue import Split

Files = Sequence[Sequence[str]]  # alternatives, each a set of files from which a tokenizer is built


FILES = (("tokenizer.json",), ("vocab.txt",))
CACHED = ("token_ids", "type_ids", "offsets", "truncated")
SLOTS = ("slot_token", "slot_offsets", "row_offsets")
CHARS = (*SLOTS, "slot_chars")  # of contexts
NUMBERED = (*SLOTS, "label")  # of words and documents
PARTS = (*SLOTS, "part_offsets")  # of choices
TYPES = "token_type_ids"
CHUNK = 2000  # texts per call; a progress bar moves between calls


def load_tokenizer(path: str, files: Files = FILES) -> Any:
    """The tokenizer of a directory, or of a WordPiece vocabulary `vocab.txt`.

    Args:
        path: the directory or the vocabulary.
        files: the alternative sets of files from which a tokenizer is built.

    Raises:
        UserError: there is none, it is incomplete or not a fast one, it lacks a token for start, end, padding or
            unknown words, it adds no token to an empty text, or its tokens are random.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # its import warns if PyTorch is not installed
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    import transformers

    tokenizer_files.check_files(path)
    try:
        if os.path.isfile(path):
            tokenizer = transformers.BertTokenizer(vocab=path)
        else:
            _check_files(path, files)
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged files and lacking packages raise many types, the Rust library Exception itself
        raise UserError(
            f"No tokenizer could be read from {path}: {(str(error) or repr(error)).splitlines()[0]} The directory "
            f"should contain {' or '.join(map(' with '.join, files))} next to config.json."
        ) from None
    if not tokenizer.is_fast:
        raise UserError(
            f"The tokenizer of {path} is a {type(tokenizer).__name__}, which is written in Python; fjt needs a fast "
            "tokenizer. Save the model with one (tokenizer.json), or use another model."
        )
    tokenizer.backend_tokenizer.no_truncation()  # as a tokenizer.json may ask for: the run decides
    tokenizer.backend_tokenizer.no_padding()
    # Without added tokens: transformers adds ids for special tokens that the vocabulary lacks.
    vocabulary = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    pieces = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    if pieces.get("type") == "BPE" and not pieces["merges"]:
        raise UserError(f"The tokenizer of {path} has a vocabulary without merges; texts would be split into bytes.")
    for name in ("cls_token", "sep_token", "pad_token", "unk_token"):
        token = getattr(tokenizer, name)
        if token is None or token not in vocabulary:
            raise UserError(f"The tokenizer of {path} has no {name}: its vocabulary of {len(tokenizer)} is incomplete.")
    if pieces.get("dropout"):
        raise UserError(
            f"The tokenizer of {path} splits words at random: its tokenizer.json has model.dropout="
            f"{pieces['dropout']}. Set it to null there."
        )
    if not all(tokenizer.num_special_tokens_to_add(pair) for pair in (False, True)):
        raise UserError(
            f"The tokenizer of {path} adds no {tokenizer.cls_token} and {tokenizer.sep_token} to a text, but the "
            "classifier reads the first token. Give its tokenizer.json the post_processor of the model's own tokenizer."
        )
    return tokenizer


def _check_files(path: str, files: Files) -> None:
    """Raises OSError unless one alternative is complete: for a missing file, transformers would build an empty
    tokenizer."""
    there = [[name for name in group if os.path.exists(os.path.join(path, name))] for group in files]
    if not any(len(found) == len(group) for found, group in zip(there, files, strict=True)):
        found = next((found for found in there if found), None)
        missing = next(set(group) - set(found) for group in files if found[0] in group) if found else ()
        raise OSError(
            f"there is {found[0]} without {min(missing)}."
            if found
            else f"there is none of {', '.join(name for group in files for name in group)}."
        )


def check_vocabulary(tokenizer: Any, vocab: int, path: str) -> None:
    """Nothing if the ids of a tokenizer fit a model.

    Args:
        tokenizer: the tokenizer.
        vocab: V, number of the model's word embeddings.
        path: of the tokenizer, for messages.

    Raises:
        UserError: an id has no embedding, or fewer than half of the embeddings have an id.
    """
    largest = max(tokenizer.get_vocab().values())
    if 2 * largest < vocab:
        raise UserError(
            f"The tokenizer of {path} has ids only up to {largest}, but the model's vocab_size is {vocab}: they do not "
            "belong together, or its vocabulary is cut off. Use the tokenizer that the model was trained with."
        )
    if largest >= vocab:
        raise UserError(
            f"The tokenizer of {path} has ids up to {largest}, but the model's vocab_size is {vocab}: they do not "
            "belong together. Use the tokenizer that the model was trained with."
        )


def fit_types(tokenizer: Any, types: int, path: str) -> None:
    """Takes token types away from a tokenizer whose model has only one type.

    Args:
        tokenizer: the tokenizer.
        types: the number of the model's token types.
        path: of the tokenizer, for messages.

    Raises:
        UserError: the tokenizer gives a type that the model does not have.
    """
    if types < 2:
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != TYPES]
    elif gives_types(tokenizer) and _largest_type(tokenizer) >= types:
        raise UserError(
            f"The tokenizer of {path} gives the token type {_largest_type(tokenizer)}, but the model's type_vocab_size "
            f"is {types}: they do not belong together. Use the tokenizer that the model was trained with."
        )


def gives_types(tokenizer: Any) -> bool:
    """Whether a tokenizer gives token types, as `model_input_names` says; otherwise all tokens have type 0."""
    return TYPES in tokenizer.model_input_names


def drops_types(tokenizer: Any) -> bool:
    """Whether a tokenizer's pipeline tells the texts of a pair apart by types that the tokenizer does not give."""
    return not gives_types(tokenizer) and _largest_type(tokenizer) > 0


def _largest_type(tokenizer: Any) -> int:
    backend = tokenizer.backend_tokenizer
    return max(*backend.encode("a").type_ids, *backend.encode("a", "a").type_ids)


def tokenizer_sha256(tokenizer: Any) -> str:
    """sha256 of a tokenizer's behaviour: its serialised pipeline, and what stands apart from it."""
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    pipeline.pop("truncation", None)
    pipeline.pop("padding", None)
    if tokenizer.truncation_side != "right":
        pipeline["truncation_side"] = tokenizer.truncation_side
    if drops_types(tokenizer):
        pipeline["token_types"] = 0
    if tokenizer.backend_tokenizer.encode_special_tokens:
        pipeline["split_special_tokens"] = True
    return hashlib.sha256(json.dumps(pipeline, sort_keys=True).encode()).hexdigest()


def tokenize(
    split: Split,
    tokenizer: Any,
    max_length: int,
    cache_dir: str = "",
    progress: Callable[[int], Any] | None = None,
    stride: int | None = None,
    documents: bool = False,
    all_pieces: bool = False,
) -> Examples:
    """The Examples of a Split: [CLS] text [SEP] (text_pair [SEP]), the longest text cut first, on the tokenizer's side.

    Words and contexts are read in windows, documents in blocks: see `windows.tokenize`, `contexts.tokenize` and
    `documents.tokenize`.

    Args:
        split: the texts.
        tokenizer: of the model.
        max_length: largest number of tokens per example.
        cache_dir: folder where the arrays are cached; "" for no cache.
        progress: called with the number of texts that are done.
        stride: where text_pair is a context, the tokens that its windows share, 0 for a third of them; else None.
        documents: whether the texts are documents.
        all_pieces: whether each token of a word has a slot, not the first one alone.

    Raises:
        UserError: the tokens that the tokenizer adds leave no room for a text, or windows cannot share so many.
    """
    _check_room(tokenizer, max_length, split.text_pair is not None or split.choices is not None)
    form = "2" if stride is None else f"stride {stride}"
    form = "choices" if split.choices is not None else "documents" if documents else form
    form = "pieces" if all_pieces else form
    key = f"{tokenizer_sha256(tokenizer)} {max_length} {form}"
    file = os.path.join(cache_dir, "tokens", f"{_sha256(split, key)}.npz") if cache_dir else ""
    slots = NUMBERED if documents or split.words is not None else PARTS if split.choices is not None else ()
    slots = slots if stride is None else CHARS
    cached = (*CACHED, *slots)
    arrays = _read_cached(file, cached, None if slots else len(split)) if file else {}
    if arrays:
        truncated = int(arrays.pop("truncated"))
        label = np.zeros(len(arrays["slot_token"]), np.int32) if slots else split.label
        return Examples(truncated=truncated, **({"label": label} | arrays))
    if split.words is not None:
        examples = windows.tokenize(split.words, tokenizer, max_length, progress, all_pieces)
    elif split.choices is not None:
        examples = choices.tokenize(split.text, split.choices, tokenizer, max_length, progress)
    elif documents:
        examples = blocks.tokenize(split.text, tokenizer, max_length, progress)
    elif stride is not None:
        assert split.text_pair is not None, "questions have contexts"
        texts = tuple(map(str, split.text_pair))
        examples = contexts.tokenize(split.text, texts, tokenizer, max_length, stride, progress)
    else:
        examples = _tokenize(split, tokenizer, max_length, progress)
    if not gives_types(tokenizer):
        examples = dataclasses.replace(examples, type_ids=np.zeros_like(examples.type_ids))
    if file:
        _write_cached(file, {name: getattr(examples, name) for name in cached})
    return examples


def _check_room(tokenizer: Any, max_length: int, paired: bool) -> None:
    """Raises UserError where examples hold no more than the tokens that the tokenizer adds."""
    added = tokenizer.num_special_tokens_to_add(paired)
    if max_length <= added:
        raise UserError(
            f"config.model.max_length={max_length} leaves no room for a text: the tokenizer adds {added} tokens to "
            f"each {'pair' if paired else 'text'}. Give at least {added + 1}."
        )


def _sha256(split: Split, key: str) -> str:
    """sha256 of a key and of the texts of a split."""
    digest = hashlib.sha256(key.encode())
    for texts in (split.text, split.text_pair or (), *(split.words or split.choices or ())):
        digest.update(f" {len(texts)}".encode())
        for text in texts:  # with lengths, because a text may have any byte between it and the next
            digest.update(b" none" if text is None else f" {len(data := text.encode())} ".encode() + data)
    return digest.hexdigest()


def _read_cached(file: str, names: Sequence[str], num: int | None) -> dict[str, np.ndarray]:
    """The arrays of a cached file, {} if it is missing or damaged: they are computed again.

    Args:
        file: its path.
        names: of the arrays.
        num: number of examples, if it is known.
    """
    try:
        arrays = records.read_npz(file, names)
    except records.Damaged:
        return {}
    offsets, sizes = arrays["offsets"], {len(arrays[name]) for name in ("token_ids", "type_ids")}
    whole = num in (None, len(offsets) - 1) and sizes == {offsets[-1]}
    return {name: arrays[name] for name in names} if whole else {}


def _write_cached(file: str, arrays: Mapping[str, Any]) -> None:
    try:
        os.makedirs(os.path.dirname(file), exist_ok=True)
        records.write_npz(file, arrays)
    except OSError as error:
        raise UserError(
            f"the tokens cannot be cached in {os.path.dirname(file)}: {error.strerror or error}. Make room, or name "
            "another folder by --config.cache.dir=DIR or FJT_CACHE=DIR."
        ) from None


def _tokenize(split: Split, tokenizer: Any, max_length: int, progress: Callable[[int], Any] | None) -> Examples:
    backend = tokenizer.backend_tokenizer
    pairs = split.text_pair or (None,) * len(split)
    texts = [text if pair is None else (text, pair) for text, pair in zip(split.text, pairs, strict=True)]
    ids, types, lengths, truncated = [], [], [], 0
    backend.enable_truncation(max_length, strategy="longest_first", direction=tokenizer.truncation_side)
    try:
        for start in range(0, len(split), CHUNK):
            for encoding in backend.encode_batch_fast(texts[start : start + CHUNK]):
                truncated += bool(encoding.overflowing)
                ids.append(np.array(encoding.ids, np.int32))
                types.append(np.array(encoding.type_ids, np.int8))
                lengths.append(len(encoding.ids))
            if progress:
                progress(min(start + CHUNK, len(split)))
    finally:
        backend.no_truncation()  # otherwise exports would contain it
    return Examples(
        np.concatenate(ids), np.concatenate(types), np.concatenate([[0], np.cumsum(lengths)]), split.label, truncated
    )


def data_sha256(splits: Mapping[str, Examples], answers: Mapping[str, np.ndarray]) -> str:
    """sha256 over the token ids and labels of splits, in file order.

    Args:
        splits: {name: Examples}.
        answers: {name: labels of its rows} of splits whose slots do not have all that a label says.
    """
    digest = hashlib.sha256()
    for name, examples in sorted(splits.items()):
        digest.update(name.encode())
        for array in (examples.token_ids, examples.offsets, examples.label):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update("\0".join(answers.get(name, ())).encode())
    return digest.hexdigest()
