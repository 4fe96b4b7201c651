"""`fjt.main` in processes of its own, forked from one that has imported everything, and one tiny run to give it."""

import contextlib
import csv
import dataclasses
import functools
import gc
import itertools
import json
import multiprocessing
import os
import pathlib
import signal
import sys
import time

import numpy as np

from fjt.training.protocols import Events

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PATIENCE = 180  # seconds after which a process that should have ended is taken for hanging

# A server that has imported JAX and started nothing: children come from it without the seconds of imports.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "fjt.main",
        "fjt.experiment.execute",
        "fjt.experiment.summary",
        "fjt.predict",
        "transformers.models.bert.tokenization_bert",
        "matplotlib.figure",
        "sklearn.metrics",
        "scipy.stats",
        "tests.end_to_end.tried_flags",
    ]
)


@dataclasses.dataclass(frozen=True)
class Done:
    """How a process ended.  code: its exit code, -9 when killed; text: what it printed, errors included."""

    code: int
    text: str


def start(arguments, output, *, cache=None, hook=None, events=None, program="fjt.main"):
    """A running process of `python -m program arguments`.

    output: the file that its stdout and stderr go to; cache: a folder for compiled programs;
    hook: a function of a module, called in the process before `main`; events: Events that `main` is given.
    """
    parts = (program, [str(a) for a in arguments], str(output), cache, hook, events)
    process = SERVER.Process(target=_child, args=parts)
    process.start()
    return process


def finish(process, output):
    """Done of a process that should end by itself."""
    process.join(PATIENCE)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still running after {PATIENCE} s:\n{pathlib.Path(output).read_text()}")
    return Done(process.exitcode, pathlib.Path(output).read_text())


def _child(program, arguments, output, cache, hook, events):
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (sys.stdout, sys.stderr):
        standard.flush()
        os.dup2(file, standard.fileno())
    # The tests may run in the background or under nohup, which ignore these.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    gc.set_threshold(100_000, 50, 50)  # as in the tests' own processes (see conftest.py)
    import importlib

    import jax

    if cache:
        jax.config.update("jax_compilation_cache_dir", str(cache))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if hook:
        hook()
    sys.argv = [program, *arguments]  # config_flags reads its overrides from there
    given = [sys.argv] if events is None else [sys.argv, events]
    sys.exit(importlib.import_module(program).main(*given))


# --- events


@dataclasses.dataclass
class Slow(Events):
    """Each step waits for some seconds, so that a signal finds the run in the middle."""

    seconds: float

    def step_begins(self, step, stepper):
        time.sleep(self.seconds)


@dataclasses.dataclass
class SignalInStep(Events):
    """The process gets a signal in the step after `step` steps."""

    step: int
    number: int

    def step_begins(self, step, stepper):
        if step == self.step:
            os.kill(os.getpid(), self.number)


@dataclasses.dataclass
class DieInEvaluation(Events):
    """SIGKILL in evaluation `number` (from 1), after a pause in which a save may end."""

    number: int
    pause: float = 0.0
    begun: int = 0

    def evaluation_begins(self, step, stepper):
        self.begun += 1
        if self.begun == self.number:
            time.sleep(self.pause)
            os.kill(os.getpid(), signal.SIGKILL)


class StopAfterEvaluation(Events):
    """SIGTERM when the first evaluation is logged and its checkpoint not yet begun."""

    def evaluation_ends(self, step):
        os.kill(os.getpid(), signal.SIGTERM)


# --- the tiny run


def write_tables(folder, tokens=None):
    """train.csv, dev.csv and test.csv (without labels) in a folder: sentences of the synthetic language.

    tokens: how many each sentence has; None for any number.
    """
    import transformers

    from fjt.data import synthetic

    splits, tokenizer = synthetic.load("agreement"), transformers.BertTokenizer(vocab=synthetic.VOCAB)
    names = synthetic.TASKS["agreement"].label_names
    for name, count in (("train", 96), ("dev", 90), ("test", 21)):
        split = splits[name]
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            labels = [] if name == "test" else ["label"]
            writer.writerow(["key", "text", *labels])
            fits = (i for i, text in enumerate(split.text) if tokens in (None, len(tokenizer(text)["input_ids"])))
            for number, i in enumerate(itertools.islice(fits, count)):
                writer.writerow([f"{name}-{number}", split.text[i], *(names[split.label[i]] for _ in labels)])


def flags(**options):
    """--config.key=value flags of keywords, `__` for the dot."""
    return [f"--config.{key.replace('__', '.')}={value}" for key, value in options.items()]


def tiny(tables, **options):
    """The arguments of a run of twelve steps and three evaluations that takes a second beside compilation.

    options: other values, `__` for the dot; None leaves an option as the config file has it.
    """
    options = (
        dict(
            data__files__train=f"{tables}/train.csv",
            data__files__dev=f"{tables}/dev.csv",
            data__files__test=f"{tables}/test.csv",
            data__columns__id="key",
            model__path="",
            model__max_length=32,
            model__scratch__layers=1,
            model__scratch__width=32,
            model__scratch__heads=2,
            model__scratch__inner=64,
            optim__learning_rate=3e-3,
            train__batch_size=24,
            train__epochs=3,
            eval__every_epochs=1,
            checkpoint__every_steps=3,
            checkpoint__keep=2,
            log__every_steps=4,
            log__tensorboard=False,
            output__curve=False,
            mesh__data=1,
            cache__dir=f"{tables}/cache",
        )
        | options
    )
    given = {key: value for key, value in options.items() if value is not None}
    return ["--config", str(ROOT / "configs" / "classify.py"), *flags(**given)]


def run(launch, tables, base, workdir, method, **options):
    """Done of the tiny run of a method over a base model, at a rate that moves it."""
    every = dict(tune__method=method, model__path=base, optim__learning_rate=1e-2, checkpoint__every_steps=None)
    options = every | options
    done = launch(*tiny(tables, **options), "--workdir", workdir)
    assert done.code == 0, done.text
    return done


def predicts_as_it_was(workdir, texts):
    """load_run's logits against those of the run itself."""
    from fjt import load_run

    with np.load(workdir / "predictions" / "dev.npz") as arrays:
        np.testing.assert_allclose(load_run(workdir).predict(texts)["logits"], arrays["logits"], atol=2e-5)


def checkpoints_of(workdir):
    """{step: part of a soup} of a run's checkpoints, which score as its log and, of the selected step, its result."""
    from fjt.experiment import combination, kept_checkpoints
    from fjt.experiment.finished import read_run

    run = read_run(workdir)
    metric, logged = run.result["selection"], {row["step"]: row[run.result["selection"]] for row in run.records["eval"]}
    parts = {int(part.name.removeprefix("step=")): part for part in kept_checkpoints.of_run(run)}
    both, selected = parts.keys() & logged.keys(), run.result["selected_step"]
    assert len(both) > 1 and selected in both
    # Another program rounds otherwise, which a correlation of nearly constant predictions enlarges.
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4)
    close(combination.score(parts[selected].rows, metric), run.metrics[metric])
    for step in both:
        rows = parts[step].rows  # the log's scores are without the threshold that dev chooses in the end
        task = rows.problem.configured(rows.task, combination.settings_of(run).experiment.eval)
        close(combination.score(dataclasses.replace(rows, task=task), metric), logged[step], err_msg=str(step))
    return parts


def keeps_its_model(workdir):
    """As `checkpoints_of`, where that of the selected step has the parameters of the run's export."""
    from fjt.core import tree
    from fjt.experiment.finished import load_run

    run, parts = load_run(workdir), checkpoints_of(workdir)
    models = parts[run.result["selected_step"]].read(), run._predictor
    found, exported = (tree.flatten(model.params) for model in models)
    assert found.keys() == exported.keys()
    for name, leaf in exported.items():
        np.testing.assert_array_equal(found[name], leaf, name)
    return parts


def read_rows(path):
    """The rows of a file of JSON lines, those of one being written included as far as they are whole."""
    with contextlib.suppress(FileNotFoundError):
        return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return []


def wait_for(condition, process):
    """Polls until the condition holds; whether it came to hold while the process lived."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if condition():
            return process.is_alive()
        if not process.is_alive():
            return False
        time.sleep(0.001)
    raise AssertionError(f"waited {PATIENCE} s")


def outcome(workdir):
    """What must be the same bit for bit of two runs of one experiment."""
    result = json.loads((workdir / "result.json").read_text())
    predictions = {}
    for path in sorted((workdir / "predictions").glob("*.npz")):
        with np.load(path) as arrays:
            predictions[path.name] = {name: arrays[name].tolist() for name in arrays.files}
    losses = [
        (row["step"], row["loss"], row["grad_norm"], row["examples"]) for row in read_rows(workdir / "train.jsonl")
    ]
    evaluations = [
        {key: value for key, value in row.items() if key != "train_seconds"}
        for row in read_rows(workdir / "eval.jsonl")
    ]
    keys = ("params_sha256", "frozen_sha256", "data_sha256", "selected_step", "metrics", "splits", "best")
    return {key: result[key] for key in keys} | {
        "predictions": predictions,
        "losses": losses,
        "evaluations": evaluations,
    }


def saving(workdir, since):
    """The checkpoint folders under way: temporary ones made since a moment, not those that an earlier kill left."""
    found = []
    for path in (workdir / "checkpoints").glob("*.orbax-checkpoint-tmp"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime >= since:
                found.append(path.name)
    return sorted(found)


def phase(workdir, evaluations, since):
    """What a killed run was doing, as its files tell: start, training, evaluation, save, finish or done.

    evaluations: the steps at which it evaluates, the last one at its end; since: when it was started, in seconds.
    A save goes on beside the steps, so an evaluation that it overlaps counts as evaluation.
    """
    steps = [row["step"] for row in read_rows(workdir / "train.jsonl")]
    evaluated = [row["step"] for row in read_rows(workdir / "eval.jsonl")]
    if (workdir / "DONE").exists():
        return "done"
    if steps and steps[-1] in evaluations and steps[-1] not in evaluated:
        return "evaluation"
    if saving(workdir, since):
        return "save"
    if not steps or (workdir / "train.jsonl").stat().st_mtime < since:
        return "start"
    return "finish" if evaluated and evaluated[-1] == max(evaluations) else "training"
