"""Writing of Hugging Face directories: config.json with label names, model.safetensors, tokenizer.

Nothing in them is copied from the base model's files: config.json and tokenizer_config.json say what the run computes.
"""

import os
from typing import Any

import numpy as np
import safetensors.numpy

from fjt.core import records, tree
from fjt.core.tree import Tree
from fjt.data import tokenization, windows
from fjt.data.glue import Task
from fjt.interop.directory import replaced
from fjt.models.families import find_family
from fjt.models.family import EncoderConfig
from fjt.models.torch_names import to_torch, torch_name
from fjt.tasks.kinds import find_problem

# The entries of tokenizer_config.json that a tokenizer's own class reads.  All others are set here or left out.
TOKENIZER_ENTRIES = (
    "tokenizer_class", "extra_special_tokens", "split_special_tokens",
    "do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "trim_offsets", "errors",
    "bos_token", "cls_token", "eos_token", "mask_token", "pad_token", "sep_token", "unk_token",
)  # fmt: skip
SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id")


def export(directory: str, params: Tree, config: EncoderConfig, task: Task, tokenizer: Any, max_length: int) -> None:
    """Writes a directory that PyTorch's `from_pretrained` loads, of the AutoModel class of the task's head.

    Args:
        directory: the directory.
        params: base parameters {encoder, head}.
        config: of the encoder.
        task: the task.
        tokenizer: of the base model.
        max_length: largest number of tokens per example.
    """
    tensors = {
        torch_name(name, config.family): to_torch(name, np.asarray(leaf, np.float32))
        for name, leaf in tree.flatten(params).items()
    }
    with replaced(directory) as folder:
        records.write_json(os.path.join(folder, "config.json"), describe(config, task, tokenizer))
        safetensors.numpy.save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        save_tokenizer(folder, tokenizer, max_length, find_problem(task.kind).words)


def describe(config: EncoderConfig, task: Task, tokenizer: Any) -> dict[str, Any]:
    """The config.json of an encoder with a head for a task.

    Args:
        config: of the encoder.
        task: the task.
        tokenizer: its special tokens are named.
    """
    problem, family = find_problem(task.kind), find_family(config.family)
    names = problem.output_names(task) or ("score",) * problem.num_outputs(task)
    labels = {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {n: i for i, n in enumerate(names)},
    }
    special = {name: getattr(tokenizer, name) for name in SPECIAL_IDS if getattr(tokenizer, name) is not None}
    return (
        special
        | family.describe(config)
        | {
            "architectures": [family.heads[problem.head].architecture],
            "dtype": "float32",
            **(labels if names else {}),
            "problem_type": problem.hub_type or None,
        }
    )


def save_tokenizer(folder: str, tokenizer: Any, max_length: int, words: bool = False) -> None:
    """Writes a tokenizer that gives the tokens and types of a run and cuts texts as the run does.

    It pads on the right, because BERT counts positions from the first place, whether it is padding or not.

    Args:
        folder: the directory.
        tokenizer: of the base model.
        max_length: largest number of tokens per example.
        words: whether texts are lists of words.
    """
    tokenizer = windows.of_words(tokenizer) if words else tokenizer
    tokenizer.save_pretrained(folder)
    file = os.path.join(folder, "tokenizer_config.json")
    saved = records.read_json(file)
    entries = {name: saved[name] for name in TOKENIZER_ENTRIES if saved.get(name) is not None}
    types = ["token_type_ids"] if tokenization.gives_types(tokenizer) else []
    made = {
        "model_input_names": ["input_ids", *types, "attention_mask"],
        "model_max_length": max_length,
        "padding_side": "right",
        "truncation_side": tokenizer.truncation_side,
    }
    records.write_json(file, entries | made)
