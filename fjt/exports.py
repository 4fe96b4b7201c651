"""What a run gives away, under its `export/`."""

import os

from fjt import tree
from fjt.interop import adapter, hf, peft
from fjt.interop.directory import replaced
from fjt.tuning import partition


def write(experiment, directory, params):
    """Writes a run's exports.

    Without new leaves `directory` is a Hugging Face model.  With them `directory`/adapter holds all that was trained,
    in fjt's form and, where PEFT has the method, in PEFT's; and `directory`/merged is a Hugging Face model where the
    methods can be merged.  params: all parameters of the run, numpy arrays.
    """
    methods, config = partition.find_methods(experiment.settings.experiment.tune), experiment.model.config
    if "adapters" not in params:
        _write_model(experiment, directory, params)
        return
    flat = tree.flatten(params)
    trained = adapter.Adapter(
        methods,
        {name: flat[name] for name in sorted(experiment.trainable)},
        base_name(experiment),
        experiment.settings.experiment.model.revision,
        experiment.contents["weights"],
    )
    with replaced(os.path.join(directory, "adapter")) as folder:
        adapter.write(folder, trained)
        if not peft.refusal(trained, config):
            peft.write(folder, trained, config)
    if partition.can_merge(methods):
        _write_model(experiment, os.path.join(directory, "merged"), partition.merged(methods, params, config))


def _write_model(experiment, directory, params):
    family = experiment.model.config.family
    hf.export(directory, params, experiment.hf_config, experiment.task, experiment.tokenizer, family)


def describe(directory):
    """[(path, what loads it)] of a run's exports."""
    model = "loads in PyTorch with AutoModelForSequenceClassification.from_pretrained"
    if os.path.exists(os.path.join(directory, "config.json")):
        return [(directory, model)]
    found = []
    apart = os.path.join(directory, "adapter")
    if os.path.exists(os.path.join(apart, peft.CONFIG)):
        found.append((apart, "what was trained; loads over the base model with peft's PeftModel.from_pretrained"))
    else:
        found.append((apart, "what was trained; fjt.load_run and fjt.predict read it"))
    if os.path.exists(os.path.join(directory, "merged")):
        found.append((os.path.join(directory, "merged"), f"the whole model; {model}"))
    return found


def base_name(experiment):
    """The base model's public name as far as it is known: a directory gives its own name, never its path."""
    path = experiment.settings.experiment.model.path
    if not os.path.isdir(path):
        return path
    known = experiment.hf_config.get("_name_or_path") or ""
    return known if known and not os.path.isabs(known) else os.path.basename(os.path.normpath(path))
