"""A finished run in Python: `fjt.load_run("runs/first").predict(["a text"])`, `fjt.results("runs/*")`."""

import dataclasses
import functools
import glob
import os

import numpy as np

from fjt.core import records
from fjt.core.errors import UserError
from fjt.data.glue import Task
from fjt.tasks.kinds import find_problem, task_of_record


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run.

    path: its work directory; result, config: its result.json and the "config" of its config.json;
    task: its Task, with the kind of problem and the label names; pairs: whether it reads pairs of texts;
    base: where the base model lies now, "" where the run found it.
    """

    path: str
    result: dict = dataclasses.field(repr=False)
    config: dict = dataclasses.field(repr=False)
    task: Task
    pairs: bool
    base: str = ""

    @functools.cached_property
    def records(self):
        """{"train": rows of train.jsonl, "eval": rows of eval.jsonl}."""
        return {name: records.read_lines(os.path.join(self.path, f"{name}.jsonl")) for name in ("train", "eval")}

    def predict(self, texts, pairs=None):
        """{labels, probabilities, logits} of texts, in their order.

        texts, pairs: sequences of str of one length; pairs: the second texts, of a run on pairs.
        labels: one per text: a name, a tuple of names or a score; probabilities: f64[N, C], None for scores;
        logits: f32[N, C].  Raises UserError.
        """
        logits = self._logits(_checked(texts, pairs, self.pairs))
        predicted = self.problem.decode(logits, self.task)
        return {"labels": predicted.labels, "probabilities": predicted.probabilities, "logits": logits}

    @property
    def problem(self):
        """The Problem of the run's task."""
        return find_problem(self.task.kind)

    @property
    def label_names(self):
        """The label names by id, () of scores."""
        return self.task.label_names

    def model_directory(self):
        """The Hugging Face directory of the run, "" where its method cannot be merged into one."""
        return _exported_model(self.path)

    def base_directory(self):
        """The directory of the model that the run started from.  Raises UserError where it cannot be found."""
        from fjt.models import pretrained

        model = self.config["model"]
        try:
            return pretrained.resolve(self.base or model["path"], "" if self.base else model["revision"])
        except UserError as error:
            raise UserError(
                f"{error} The run in {self.path} was trained over it, from its own working directory; say where it is "
                "now: `load_run(DIR, base=DIR)`, or --base DIR."
            ) from None

    @functools.cached_property
    def _model(self):
        """(Model, its parameters, tokenizer, the tuning methods {name: options}) of the run's export."""
        import jax

        from fjt.core import tree
        from fjt.core.seeds import make_key
        from fjt.data import tokenization
        from fjt.interop import adapter
        from fjt.models import pretrained
        from fjt.models.encoder import Model
        from fjt.models.families import find_family
        from fjt.tuning import partition

        methods, trained = {}, {}
        folder = self.model_directory()
        if not folder:  # methods without a merged form: the base model, and what was trained over it
            own = adapter.read(os.path.join(self.path, "export", "adapter"))
            methods, trained = own.methods, own.trained
            folder = self.base_directory()
        checkpoint = pretrained.read_checkpoint(folder)
        if trained and checkpoint.sha256 != own.base_sha256:
            raise UserError(f"The weights of {folder} are not those that the run in {self.path} was trained over.")
        tokenizer = tokenization.load_tokenizer(folder, find_family(checkpoint.config.family).tokenizer)
        tokenization.check_vocabulary(tokenizer, checkpoint.config.vocab, folder)
        made = Model(
            checkpoint.config,
            self.problem.num_outputs(self.task),
            dtype=self.config["model"]["dtype"],
            adapt=partition.make_adapt(methods),
            one_slot=self.problem.one_slot,
            head=self.problem.head,
        )
        abstract = jax.eval_shape(made.init, make_key(0, "init"))
        params = pretrained.take(checkpoint, abstract, folder, keep_head=not trained).params
        return made, tree.unflatten(tree.flatten(params) | trained), tokenizer, methods

    @functools.cached_property
    def _program(self):
        """(function(params, batch) -> logits on every device, parameters on them, mesh)."""
        import jax

        from fjt.training import placement
        from fjt.training.step import eval_step
        from fjt.tuning import partition

        model, params, _, methods = self._model
        devices = placement.make_mesh(0)
        function = jax.jit(
            functools.partial(eval_step, model=model, values=partition.traced_values(methods)),
            out_shardings=placement.replicated(devices),
        )
        return function, placement.put_whole(params, devices), devices

    def _logits(self, split):
        import jax

        from fjt.data import batches, tokenization
        from fjt.experiment.layout import row_grid
        from fjt.training import evaluate, placement
        from fjt.tuning import partition

        model, _, tokenizer, methods = self._model
        function, params, devices = self._program
        examples = tokenization.tokenize(split, tokenizer, self.config["model"]["max_length"])
        examples = batches.prepend(examples, partition.prompt_length(methods))
        packed = evaluate.pack_splits(
            {"new": examples}, groups=devices.size, grid=max(32, row_grid()), width=model.config.width
        )["new"]
        with jax.default_matmul_precision(self.config["model"]["matmul_precision"]):
            put = functools.partial(placement.put_batch, mesh=devices)
            return evaluate.evaluate(function, params, _roomy(packed), put)


def _roomy(packed):
    """The chunks in a shape rounded up to powers of two, so that calls with other texts meet a compiled program."""

    def above(number):
        return 1 << (number - 1).bit_length()

    shape = dataclasses.replace(packed.shape, rows=above(packed.shape.rows), examples=above(packed.shape.examples))
    return dataclasses.replace(packed, shape=shape, chunks=dataclasses.replace(packed.chunks, shape=shape))


def _checked(texts, pairs, wanted):
    """The unlabelled Split of texts.  Raises UserError for what is no list of str, or not what the run reads."""
    from fjt.data.glue import Split

    if wanted and pairs is None:
        raise UserError("The run reads pairs of texts, and the second ones are missing (`pairs`).")
    if pairs is not None and not wanted:
        raise UserError("The run reads single texts; leave out the second ones (`pairs`).")
    columns = {"texts": texts} if pairs is None else {"texts": texts, "pairs": pairs}
    for name, values in columns.items():
        if isinstance(values, str):
            raise UserError(f"`{name}` is one str; give a list of them.")
        columns[name] = values = tuple(values)
        for i, value in enumerate(values):
            if not isinstance(value, str):
                raise UserError(f"{name}[{i}] = {value!r} is no text.")
    count = len(columns["texts"])
    if not count:
        raise UserError("There are no texts to label.")
    if pairs is not None and len(columns["pairs"]) != count:
        raise UserError(f"There are {count} texts and {len(columns['pairs'])} second ones; each needs one.")
    label = np.full(count, -1, np.int32)
    return Split(tuple(str(i) for i in range(count)), columns["texts"], columns.get("pairs"), label)


def load_run(directory, base=""):
    """The Run of a work directory.  Raises UserError for what is none, or one that is not finished.

    base: the base model, for a method that cannot be merged into it, where it is not where the run found it.
    """
    directory = os.fspath(directory)
    if not os.path.exists(os.path.join(directory, "config.json")):
        raise UserError(f"{directory} is no run: it holds no config.json. Give the --workdir of a finished run.")
    if not os.path.exists(os.path.join(directory, "DONE")):
        path = os.path.join(directory, "result.json")
        failed = os.path.exists(path) and records.read_json(path).get("failed")
        if failed:
            raise UserError(f"The run in {directory} failed: {failed}. The same command would fail again.")
        raise UserError(f"The run in {directory} is not finished; run its command again to take it to its end.")
    folder = _exported_model(directory) or os.path.join(directory, "export", "adapter")
    for file in ("config.json", "model.safetensors") if _exported_model(directory) else ("fjt_adapter.json",):
        if not os.path.exists(os.path.join(folder, file)):
            raise UserError(
                f"{os.path.join(folder, file)} does not exist; the run's model is needed, "
                "which config.output.export leaves."
            )
    result = records.read_json(os.path.join(directory, "result.json"))
    with np.load(os.path.join(directory, "predictions", "dev.npz")) as dev:
        task, pairs = task_of_record(dev, result["task"]), bool(dev["pairs"])
    return Run(
        directory,
        result,
        records.read_json(os.path.join(directory, "config.json"))["config"],
        task,
        pairs,
        os.fspath(base),
    )


def _exported_model(directory):
    """The Hugging Face directory of a run, "" where its method has none."""
    export = os.path.join(directory, "export")
    merged = os.path.join(export, "merged")
    if os.path.exists(merged):
        return merged
    return "" if os.path.exists(os.path.join(export, "adapter")) and not _has_model(export) else export


def _has_model(directory):
    return os.path.exists(os.path.join(directory, "config.json"))


def results(pattern):
    """[result.json of each run, with its "workdir"], in the order of their names, for pandas or pyarrow.

    pattern: such as "runs/*"; other folders are passed over.  A run without a result is there with "failed".
    Raises UserError when there is no run.
    """
    pattern = os.fspath(pattern)
    found = []
    for folder in sorted(glob.glob(pattern, recursive=True)):
        result = os.path.join(folder, "result.json")
        if os.path.exists(result):
            found.append({"workdir": folder} | records.read_json(result))
        elif os.path.exists(os.path.join(folder, "config.json")) and os.path.exists(os.path.join(folder, "env.json")):
            found.append({"workdir": folder, "failed": "no result"})
    if not found:
        raise UserError(f"{pattern} names no run; a run's folder holds config.json and, in the end, result.json.")
    return found
