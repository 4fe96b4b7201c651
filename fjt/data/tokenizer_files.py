"""The files that a tokenizer is built from, checked before `transformers` reads them: its errors name no file."""

import os

from fjt.core import declared
from fjt.core.declared import Entry, either, flag, ignored, number, one_of, optional, table, text, texts, unset
from fjt.core.errors import UserError

TOKEN = optional(either(text(), table()))  # a token, or a table with its content and how it is stripped
SIDE = one_of("right", "left")
MAYBE = optional(flag())
SPECIAL = dict.fromkeys(
    ("cls_token", "sep_token", "pad_token", "unk_token", "mask_token", "bos_token", "eos_token"), TOKEN
)
# Keys whose values change nothing of what fjt computes: it truncates to config.model.max_length and packs.
WITHOUT_EFFECT = """
    additional_special_tokens backend chat_template extra_special_tokens is_local max_length name_or_path
    pad_to_multiple_of pad_token_type_id processor_class special_tokens_map_file stride tokenizer_file
    truncation_strategy
""".split()
ENTRIES = (
    dict.fromkeys(WITHOUT_EFFECT, ignored())
    | SPECIAL
    | {
        "auto_map": unset("The tokenizer runs code of its own, which fjt does not; choose a model without it."),
        "tokenizer_class": optional(text()),
        "model_max_length": optional(number(1, 1e31)),
        "model_input_names": optional(texts()),
        "truncation_side": SIDE,
        "padding_side": SIDE,
        "do_lower_case": MAYBE,
        "do_basic_tokenize": MAYBE,
        "strip_accents": MAYBE,
        "tokenize_chinese_chars": MAYBE,
        "clean_up_tokenization_spaces": MAYBE,
        "add_prefix_space": MAYBE,
        "trim_offsets": MAYBE,
        "errors": optional(text()),
        "never_split": optional(texts()),
        "split_special_tokens": MAYBE,
        "added_tokens_decoder": optional(table()),
    }
)
IDS = Entry(lambda x: type(x) is int and x >= 0, "a whole number of at least 0")
PIPELINE = {
    "version": optional(text()),
    "model": Entry(lambda x: type(x) is dict and bool(x.get("vocab")), "a table with a vocabulary", needed=True),
    "added_tokens": Entry(lambda x: type(x) is list and all(type(token) is dict for token in x), "a list of tables"),
}
CONFIG = "tokenizer_config.json"
TABLES = {CONFIG: ENTRIES, "special_tokens_map.json": SPECIAL, "tokenizer.json": PIPELINE}
REMEDY = "Download the tokenizer again."


def check_files(path: str) -> None:
    """Nothing if every file of a tokenizer that is in a directory can be read.

    Args:
        path: the directory, or a vocabulary `vocab.txt`.

    Raises:
        UserError: a file is not UTF-8, holds NUL bytes, or is JSON of another form.
    """
    for file, entries in TABLES.items():
        if os.path.exists(os.path.join(path, file)):
            declared.read(os.path.join(path, file), entries, REMEDY)
    for file in ("vocab.json", "added_tokens.json"):
        place = os.path.join(path, file)
        if os.path.exists(place):
            ids = declared.read(place, {}, REMEDY)
            declared.check(ids, dict.fromkeys(ids, IDS), place)
    for place in [path, *(os.path.join(path, file) for file in ("vocab.txt", "merges.txt"))]:
        if os.path.isfile(place):
            _check_lines(place)


def _check_lines(path: str) -> None:
    """Raises UserError unless a vocabulary is text."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        broken = "it holds NUL bytes" if "\0" in data.decode("utf-8") else ""
    except UnicodeDecodeError as error:
        broken = f"byte {error.start} is not UTF-8"
    if broken:
        raise UserError(f"{path} is not a vocabulary: {broken}. {REMEDY}")


def unread_keys(path: str) -> str:
    """A sentence that lists the keys of a directory's tokenizer_config.json that fjt does not read, or "".

    Args:
        path: the directory.
    """
    file = os.path.join(path, CONFIG)
    return declared.undeclared(declared.read(file, ENTRIES), ENTRIES, file) if os.path.exists(file) else ""
