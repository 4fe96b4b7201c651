"""What a run gives away, under its `export/`."""

import dataclasses
import os

from fjt.core import records, tree
from fjt.core.options import EXPERIMENT, flatten
from fjt.interop import adapter, adapterhub, card, hf, peft
from fjt.interop.directory import replaced
from fjt.models.families import find_family
from fjt.tuning import partition


def write(experiment, directory, params, scores):
    """Writes a run's exports, each with a model card.

    Without new leaves that last, `directory` is a Hugging Face model.  With them `directory`/adapter holds all that was
    trained, in fjt's form and, where PEFT or else AdapterHub has the method, in theirs; and `directory`/merged is a
    Hugging Face model where the methods can be merged.  params: all parameters of the run, numpy arrays; scores:
    {metric: (value, low, high)} on dev.
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
        experiment.task.label_names,
    )
    if "adapters" not in params:
        _write_model(experiment, directory, params, scores)
    elif partition.can_merge(methods):
        merged = partition.merged(methods, params, config)
        _write_model(experiment, os.path.join(directory, "merged"), merged, scores, merged=True)
    if "adapters" in params or not peft.refusal(trained, config):
        with replaced(os.path.join(directory, "adapter")) as folder:
            adapter.write(folder, trained)
            form = "fjt"
            if not peft.refusal(trained, config):
                form = "peft"
                peft.write(folder, trained, config)
            elif not adapterhub.refusal(trained, config):
                form = "adapterhub"
                adapterhub.write(folder, trained, config, experiment.task.label_names, experiment.problem.head)
            experiment.tokenizer.save_pretrained(folder)
            _write_card(experiment, folder, form, scores)


def _write_model(experiment, directory, params, scores, merged=False):
    hf.export(
        directory, params, experiment.hf_config, experiment.task, experiment.tokenizer, experiment.model.config.family
    )
    _write_card(experiment, directory, "hf", scores, merged)


def _write_card(experiment, folder, form, scores, merged=False):
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


def describe(directory):
    """[(path, what loads it)] of a run's exports."""
    model = "loads in PyTorch with AutoModelForSequenceClassification.from_pretrained"
    found, apart = [], os.path.join(directory, "adapter")
    if os.path.exists(os.path.join(directory, "config.json")):
        found.append((directory, model))
    if os.path.exists(os.path.join(apart, peft.CONFIG)):
        theirs = "peft_type" in records.read_json(os.path.join(apart, peft.CONFIG))
        how = "peft's PeftModel.from_pretrained" if theirs else "adapters' load_adapter(..., use_safetensors=True)"
        found.append((apart, f"what was trained; loads over the base model with {how}"))
    elif os.path.exists(apart):
        found.append((apart, "what was trained; fjt.load_run and fjt.predict read it"))
    if os.path.exists(os.path.join(directory, "merged")):
        found.append((os.path.join(directory, "merged"), f"the whole model; {model}"))
    return found


def revision(experiment):
    """The commit or branch of the base model; "" of a directory, unless one was given for it."""
    model = experiment.settings.experiment.model
    return "" if os.path.isdir(os.path.expanduser(model.path)) and model.revision == "main" else model.revision


def base_name(experiment):
    """What exports call the base model: model.name, else the hub name; a directory gives its own name, never its path.

    Not what its config.json says: `_name_or_path` there is often the model that this one was once made from.
    """
    model = experiment.settings.experiment.model
    if model.name or not os.path.isdir(os.path.expanduser(model.path)):
        return model.name or model.path
    return os.path.basename(os.path.normpath(model.path))
