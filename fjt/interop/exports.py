"""The exports of a run, in its `export/`."""

import dataclasses
import os
from typing import Any, Protocol, runtime_checkable

from fjt.core import records, tree
from fjt.core.options import EXPERIMENT, Settings, flatten
from fjt.core.tree import Tree
from fjt.data.glue import Split, Task
from fjt.interop import adapter, adapterhub, card, hf, peft
from fjt.interop.directory import replaced
from fjt.models.encoder import Model
from fjt.models.families import find_family
from fjt.tasks.problem import Problem
from fjt.tuning import partition


@runtime_checkable
class Trained(Protocol):
    """The parts of a run that its exports need: `fjt.experiment.prepare.Experiment`, of a room above this one."""

    @property
    def settings(self) -> Settings: ...

    @property
    def task(self) -> Task: ...

    @property
    def problem(self) -> Problem: ...

    @property
    def splits(self) -> dict[str, Split]: ...

    @property
    def tokenizer(self) -> Any: ...

    @property
    def model(self) -> Model: ...

    @property
    def trainable(self) -> frozenset[str]: ...

    @property
    def adopted(self) -> frozenset[str]: ...

    @property
    def contents(self) -> dict[str, str]: ...


def write(experiment: Trained, directory: str, params: Tree, scores: card.Scored) -> None:
    """Writes a run's exports, each with a model card.

    If the methods add no lasting parameters, `directory` is a Hugging Face model.  Otherwise `directory`/adapter has
    all trained parameters, in fjt's form and in that of PEFT, or else AdapterHub, if it can express the method; and
    `directory`/merged is a Hugging Face model if the methods can be merged.

    Args:
        experiment: the run.
        directory: its `export/`.
        params: all parameters, numpy arrays.
        scores: {metric: (value, low, high, number of rows)} on dev.
    """
    methods, config = partition.find_methods(experiment.settings.experiment.tune), experiment.model.config
    params = partition.lasting(params)
    flat, is_new = tree.flatten(params), find_family(config.family).is_new
    trained = adapter.Adapter(
        methods,
        {
            name: flat[name]
            for name in sorted(flat)
            if name in experiment.trainable | experiment.adopted or is_new(name) or partition.is_fixed(name)
        },
        base_name(experiment),
        revision(experiment),
        experiment.contents["weights"],
        experiment.problem.output_names(experiment.task),
    )
    if "adapters" not in params:
        _write_model(experiment, directory, params, scores)
    elif partition.can_merge(methods):
        merged = partition.merged(methods, params, config)
        _write_model(experiment, os.path.join(directory, "merged"), merged, scores, merged=True)
    refused = peft.refusal(trained, config, experiment.problem.head)
    if "adapters" in params or not refused:
        with replaced(os.path.join(directory, "adapter")) as folder:
            adapter.write(folder, trained)
            form = "fjt"
            if not refused:
                form = "peft"
                peft.write(folder, trained, config, experiment.problem.head)
            elif not adapterhub.refusal(trained, config):
                form = "adapterhub"
                adapterhub.write(folder, trained, config, trained.label_names, experiment.problem.head)
            length = experiment.settings.experiment.model.max_length
            hf.save_tokenizer(folder, experiment.tokenizer, length, experiment.problem.words)
            _write_card(experiment, folder, form, scores)


def _write_model(
    experiment: Trained,
    directory: str,
    params: Tree,
    scores: card.Scored,
    merged: bool = False,
) -> None:
    config, length = experiment.model.config, experiment.settings.experiment.model.max_length
    hf.export(directory, params, config, experiment.task, experiment.tokenizer, length)
    _write_card(experiment, directory, "hf", scores, merged)


def _write_card(
    experiment: Trained,
    folder: str,
    form: str,
    scores: card.Scored,
    merged: bool = False,
) -> None:
    options = experiment.settings.experiment
    flat = flatten(records.plain(dataclasses.asdict(options)))
    card.write(
        folder,
        form,
        task=experiment.task,
        base=base_name(experiment),
        revision=revision(experiment),
        methods=partition.find_methods(options.tune),
        scores=scores,
        recipe={key: flat[key] for key, one in EXPERIMENT.items() if one.in_card and flat[key] is not None},
        examples={name: len(split) for name, split in experiment.splits.items()},
        merged=merged,
    )


def describe(directory: str) -> list[tuple[str, str]]:
    """[(path, how to load it)] of a run's exports.  directory: the run's `export/`."""
    found, apart, merged = [], *(os.path.join(directory, name) for name in ("adapter", "merged"))
    if os.path.exists(os.path.join(directory, "config.json")):
        found.append((directory, _how_to_load(directory)))
    if os.path.exists(os.path.join(apart, peft.CONFIG)):
        theirs = "peft_type" in records.read_json(os.path.join(apart, peft.CONFIG))
        how = "peft's PeftModel.from_pretrained" if theirs else "adapters' load_adapter(..., use_safetensors=True)"
        found.append((apart, f"the trained parameters; loads over the base model with {how}"))
    elif os.path.exists(apart):
        found.append((apart, "the trained parameters; fjt.load_run and fjt.predict read it"))
    if os.path.exists(merged):
        found.append((merged, f"the whole model; {_how_to_load(merged)}"))
    return found


def _how_to_load(directory: str) -> str:
    architecture = records.read_json(os.path.join(directory, "config.json"))["architectures"][0]
    return f"loads in PyTorch with AutoModel{architecture[architecture.index('For') :]}.from_pretrained"


def revision(experiment: Trained) -> str:
    """The commit or branch of the base model; "" for a directory, unless the config gives one."""
    model = experiment.settings.experiment.model
    return "" if os.path.isdir(model.path) and model.revision == "main" else model.revision


def base_name(experiment: Trained) -> str:
    """The base model's name in exports: model.name, else the hub name or the directory's own name, never its path.

    The `_name_or_path` of its config.json is not used, because it often names an ancestor of the model.
    """
    model = experiment.settings.experiment.model
    if model.name or not os.path.isdir(model.path):
        return model.name or model.path
    return os.path.basename(os.path.normpath(model.path))
