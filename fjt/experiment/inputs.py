"""What a run starts from, before any choice of how to tune: the data, the tokenizer and the base model."""

import dataclasses
import functools
import os

import numpy as np

from fjt.core import console, network
from fjt.core.errors import UserError
from fjt.data import sources, tokenization
from fjt.data.synthetic import VOCAB
from fjt.models import pretrained
from fjt.models.families import find_family, scratch_config
from fjt.tasks.kinds import find_problem

UNKNOWN = 0.1  # a share of unknown tokens above which a split is warned of
TOLD = 20_000  # examples between two lines of a piped run that tokenizes


class Inputs:
    """What experiments on the same data and base model share, each part read when it is first asked for.

    data: (Task, {name: Split}); base: (tokenizer, EncoderConfig, config.json, Checkpoint or None); examples: {name:
    Examples} of the splits; sha256: {"data", "weights", "tokenizer"}.  Reading raises UserError.
    """

    def __init__(self, settings, view: console.View = console):
        self._experiment, self._view = settings.experiment, view
        self._cache = cache_dir(settings.execution)

    @functools.cached_property
    def data(self):
        return _load_data(self._experiment, self._cache)

    @functools.cached_property
    def path(self):
        model = self._experiment.model
        return pretrained.resolve(model.path, model.revision) if model.path else ""

    @functools.cached_property
    def base(self):
        return _load_model(_base_model(self._experiment.model), self.path)

    @functools.cached_property
    def examples(self):
        task, splits = self.data
        tokens = _tokenize(splits, self.base[0], self._experiment.model.max_length, self._cache, self._view)
        return {name: find_problem(task.kind).targets(splits[name], examples) for name, examples in tokens.items()}

    @functools.cached_property
    def sha256(self):
        tokenizer, _, _, checkpoint = self.base
        return {
            "data": tokenization.data_sha256(self.examples),
            "weights": checkpoint.sha256 if checkpoint else "random",
            "tokenizer": tokenization.tokenizer_sha256(tokenizer),
        }


def inputs_key(experiment):
    """What Inputs depend on, of ExperimentConfig: equal keys, equal parts."""
    return experiment.task, experiment.seeds.subset, experiment.data, _base_model(experiment.model)


def _base_model(model):
    """ModelConfig without what does not touch the base model as it is read."""
    return dataclasses.replace(
        model, name="", adapter="", dtype=None, dropout=None, keep_head=False, frozen_dropout=False, reinit_layers=0
    )


def cache_dir(execution):
    """The folder for tokenized data and fetched archives."""
    return os.path.expanduser(execution.cache.dir or os.environ.get("FJT_CACHE", "") or "~/.cache/fjt")


def _load_data(experiment, cache):
    """(Task, {name: Split}).  Raises UserError; without a network, with the flags for data and model in one message."""
    try:
        return sources.load(experiment, cache, find_problem)
    except network.Unreachable as error:
        path = experiment.model.path
        if not path or os.path.exists(os.path.expanduser(path)):
            raise
        raise UserError(
            f"{error} The model {path} would come from the network as well: --config.model.path=DIR."
        ) from None


@functools.lru_cache(maxsize=1)  # one base model for all tasks of a study
def _load_model(model, path):
    """(tokenizer, EncoderConfig, config.json, Checkpoint or None)."""
    if path:
        checkpoint = pretrained.read_checkpoint(path)
        tokenizer = tokenization.load_tokenizer(path, find_family(checkpoint.config.family).tokenizer)
        tokenization.check_vocabulary(tokenizer, checkpoint.config.vocab, path)
        return tokenizer, checkpoint.config, checkpoint.hf_config, checkpoint
    tokenizer = tokenization.load_tokenizer(model.scratch.vocab or VOCAB)
    raw = scratch_config(model.scratch, len(tokenizer), model.max_length)
    return tokenizer, pretrained.parse_config(raw, "config.model.scratch"), raw, None


def _tokenize(splits, tokenizer, max_length, cache, view):
    """{name: Examples} of the splits, with progress, and a word about what was cut."""
    examples, warn = {}, view.warn
    for name, split in splits.items():
        with view.bar(f"tokenizing {name}", len(split), every=TOLD) as bar:
            examples[name] = tokenization.tokenize(split, tokenizer, max_length, cache, bar.update)
    for name, done in examples.items():
        if done.truncated:
            share = done.truncated / len(done)
            warn(f"{done.truncated:,} of {len(done):,} {name} examples ({share:.1%}) are cut to {max_length} tokens")
        unknown = float(np.mean(done.token_ids == tokenizer.unk_token_id))
        if unknown > UNKNOWN:
            warn(f"{unknown:.0%} of the tokens of {name} are unknown to the tokenizer: does it fit the texts?")
    return examples
