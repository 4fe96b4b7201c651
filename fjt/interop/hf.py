"""Hugging Face directories, written: config.json with label names, model.safetensors, tokenizer."""

import os
import shutil

import numpy as np
import safetensors
import safetensors.numpy

from fjt import records, tree
from fjt.models.pretrained import to_torch, torch_name
from fjt.settings import UserError

ARCHITECTURES = {"bert": "BertForSequenceClassification"}


def export(directory, params, hf_config, task, tokenizer, family):
    """Writes a directory that PyTorch's AutoModelForSequenceClassification.from_pretrained loads.

    params: base parameters {encoder, head}; hf_config: config.json of the base model.
    The directory is written beside its place and renamed, so it is there whole or not at all.
    """
    temporary = f"{directory}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    names = task.label_names or ("score",)
    config = {key: value for key, value in hf_config.items() if not key.startswith("_") and key != "torch_dtype"}
    config |= {
        "architectures": [ARCHITECTURES[family]],
        "dtype": "float32",
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "problem_type": "regression" if task.kind == "regression" else "single_label_classification",
    }
    records.write_json(os.path.join(temporary, "config.json"), config)
    tensors = {
        torch_name(name, family): to_torch(name, np.asarray(leaf, np.float32))
        for name, leaf in tree.flatten(params).items()
    }
    try:
        safetensors.numpy.save_file(tensors, os.path.join(temporary, "model.safetensors"), metadata={"format": "pt"})
    except safetensors.SafetensorError as error:  # it wraps the system's own errors
        raise UserError(
            f"{directory} cannot be written: {error}. The checkpoints are kept; make room, and the same "
            "command ends the run."
        ) from None
    tokenizer.save_pretrained(temporary)
    shutil.rmtree(directory, ignore_errors=True)
    os.rename(temporary, directory)
