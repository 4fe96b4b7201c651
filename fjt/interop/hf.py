"""Writing of Hugging Face directories: config.json with label names, model.safetensors, tokenizer."""

import os
from typing import Any

import numpy as np
import safetensors.numpy

from fjt.core import records, tree
from fjt.core.tree import Tree
from fjt.data.glue import Task
from fjt.interop.directory import replaced
from fjt.models.families import find_family
from fjt.models.pretrained import to_torch, torch_name
from fjt.tasks.kinds import find_problem


def export(directory: str, params: Tree, hf_config: dict[str, Any], task: Task, tokenizer: Any, family: str) -> None:
    """Writes a directory that PyTorch's AutoModelForSequenceClassification.from_pretrained loads.

    Args:
        directory: the directory.
        params: base parameters {encoder, head}.
        hf_config: config.json of the base model.
        task: the task.
        tokenizer: of the base model.
        family: name of the base model's family.
    """
    problem = find_problem(task.kind)
    names = task.label_names or ("score",)
    config = {key: value for key, value in hf_config.items() if not key.startswith("_") and key != "torch_dtype"}
    config |= {
        "architectures": [find_family(family).heads[problem.head].architecture],
        "dtype": "float32",
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": problem.hub_type,
    }
    tensors = {
        torch_name(name, family): to_torch(name, np.asarray(leaf, np.float32))
        for name, leaf in tree.flatten(params).items()
    }
    with replaced(directory) as folder:
        records.write_json(os.path.join(folder, "config.json"), config)
        safetensors.numpy.save_file(tensors, os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
        tokenizer.save_pretrained(folder)
