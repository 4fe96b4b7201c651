"""A run: one work directory from nothing, or from wherever it stands, to DONE."""

import contextlib
import dataclasses
import errno
import fcntl
import functools
import os
import re
import resource
import time

import jax
import numpy as np

from fjt import checkpoint, console, evaluate, losses, mesh, metrics, outputs, records, tree
from fjt.data import batches
from fjt.experiment import cache_dir, make_hyper, row_grid
from fjt.interop import hf
from fjt.optim import make_optimizer
from fjt.settings import UserError, flatten, to_dict
from fjt.step import eval_step, init_state, train_step
from fjt.train import Loop, Stop, first_host_state, fit


def configure_jax(settings):
    """Sets what JAX reads from its own configuration: the precision of products and the compilation cache.

    The cache is keyed by versions and host, and off on a CPU unless asked for: there, entries of another processor
    type have been seen to fail.
    """
    jax.config.update("jax_default_matmul_precision", settings.experiment.model.matmul_precision)
    wanted = settings.execution.cache.compilation
    if wanted or (wanted is None and jax.default_backend() != "cpu"):
        key = f"{jax.__version__}-{jax.default_backend()}-{records.processor()}"
        folder = os.path.join(cache_dir(settings.execution), "compiled", re.sub(r"[^\w.-]+", "_", key))
        jax.config.update("jax_compilation_cache_dir", folder)


@contextlib.contextmanager
def lock(workdir):
    """Holds a work directory for one process.  Raises UserError when another has it."""
    try:
        os.makedirs(workdir, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be made a directory: {error.strerror}.") from None
    with open(os.path.join(workdir, ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise UserError(
                f"--workdir={workdir} is in use by another process; wait for it or take another one."
            ) from None
        yield


def finished(workdir):
    """Whether a work directory's run is done."""
    return os.path.exists(os.path.join(workdir, "DONE"))


def claim(experiment, workdir):
    """Writes config.json and env.json, or checks that the directory belongs to the same experiment.

    Raises UserError with the keys that differ.  Changes of execution are recorded.
    """
    path = os.path.join(workdir, "config.json")
    config = to_dict(experiment.settings)
    changes = []
    if os.path.exists(path):
        old = records.read_json(path)
        if not {"config", "fingerprint", "contents", "changes"} <= set(old):
            raise UserError(f"--workdir={workdir} holds a config.json that is not of a run; take another directory.")
        if old["fingerprint"] != experiment.fingerprint:
            before, now = flatten(old["config"]), flatten(records.plain(config))
            differ = [
                f"config.{k}: {before.get(k)!r} there, {now.get(k)!r} now" for k in now if before.get(k) != now.get(k)
            ]
            differ += [
                f"{k}: other contents" for k in experiment.contents if old["contents"].get(k) != experiment.contents[k]
            ]
            raise UserError(
                f"--workdir={workdir} belongs to another experiment. Take another directory, or its settings:\n  "
                + "\n  ".join(differ)
            )
        now, before = flatten(records.plain(config)), flatten(old["config"])
        changes = old["changes"] + [{"key": k, "from": before[k], "to": now[k]} for k in now if before[k] != now[k]]
    records.write_json(
        path,
        {
            "config": config,
            "origins": experiment.origins,
            "contents": experiment.contents,
            "fingerprint": experiment.fingerprint,
            "changes": changes,
        },
    )
    device = jax.devices()[0]
    records.write_json(
        os.path.join(workdir, "env.json"),
        {
            "versions": records.versions(),
            "platform": device.platform,
            "device": records.processor() if device.platform == "cpu" else device.device_kind,
            "devices": experiment.mesh.size,
            "cores": os.cpu_count(),
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        },
    )


@dataclasses.dataclass(frozen=True)
class Programs:
    """What is compiled ahead of step 0.  train: one executable a shape of the plan; eval: one for all splits;
    flops: of each shape's step, from a lowering without loops; seconds: that it took."""

    train: tuple
    eval: object
    flops: tuple
    seconds: float


def compile_programs(experiment, state, frozen, hyper, eval_shape):
    """Programs for the shapes of the plan and of evaluation."""
    start = time.perf_counter()
    accumulation = experiment.settings.experiment.train.accumulation
    step = functools.partial(
        train_step,
        model=experiment.model,
        loss=losses.LOSSES[experiment.task.kind],
        optimizer=make_optimizer(experiment.settings.experiment.optim),
    )
    whole = mesh.replicated(experiment.mesh)
    jit = functools.partial(jax.jit, donate_argnums=0, out_shardings=(whole, whole))
    shapes = experiment.plan.shapes if experiment.steps else ()
    train, flops = [], []
    with console.bar("compiling", len(shapes) + 1) as bar:
        for i, shape in enumerate(shapes):
            batch = abstract_batch(shape, experiment.examples["train"].label.dtype, experiment.mesh)
            lowered = jit(step).lower(state, frozen, batch, hyper)
            flops.append((lowered.cost_analysis() or {}).get("flops", float("nan")))
            if accumulation > 1:
                lowered = jit(functools.partial(step, accumulation=accumulation)).lower(state, frozen, batch, hyper)
            train.append(lowered.compile())
            bar.update(i + 1)
        batch = abstract_batch(eval_shape, np.dtype(np.int32), experiment.mesh)
        del batch["label"], batch["weight"]
        params = tree.merge(state.trainable, frozen)
        evaluator = jax.jit(functools.partial(eval_step, model=experiment.model), out_shardings=whole)
        evaluator = evaluator.lower(params, batch).compile()
        bar.update(len(shapes) + 1)
    return Programs(tuple(train), evaluator, tuple(flops), time.perf_counter() - start)


def abstract_batch(shape, label_dtype, device_mesh):
    """The shapes of `fjt.data.batches.build`'s arrays, sharded by group."""
    tokens, slots = (shape.groups, shape.rows, shape.row_length), (shape.groups, shape.examples)
    sizes = {name: (tokens, np.int32) for name in ("token_ids", "segment_ids", "position_ids", "type_ids")}
    sizes |= {"first": (slots, np.int32), "example": (slots, np.int32)}
    sizes |= {"label": (slots, label_dtype), "weight": (slots, np.float32)}
    sharding = mesh.by_group(device_mesh)
    return {name: jax.ShapeDtypeStruct(size, dtype, sharding=sharding) for name, (size, dtype) in sizes.items()}


def run(experiment, workdir):
    """The result (a dict, as in result.json) of a run in a locked work directory.

    Raises UserError, train.Stopped (its state is saved) and checkpoint.NotFinite.
    """
    claim(experiment, workdir)
    settings, options = experiment.settings, experiment.settings.experiment
    lower = experiment.task.metrics[0] in metrics.LOWER_IS_BETTER
    labels = experiment.examples["train"].label
    hyper = make_hyper(options, labels, experiment.model.classes)
    whole = mesh.replicated(experiment.mesh)
    hyper = jax.device_put(hyper, whole)
    trainable, frozen = (jax.device_put(x, whole) for x in tree.split(experiment.params, experiment.trainable))
    frozen_before = tree.sha256(frozen)
    state = jax.device_put(init_state(trainable, hyper, make_optimizer(options.optim)), whole)
    evaluated = {name: examples for name, examples in experiment.examples.items() if name != "train"}
    packed = evaluate.pack_splits(
        evaluated, groups=experiment.mesh.size, grid=row_grid(), width=experiment.model.config.width
    )

    with (
        Stop() as stop,
        checkpoint.Checkpoints(
            os.path.join(workdir, "checkpoints"), settings.execution.checkpoint.keep, console.warn
        ) as checkpoints,
    ):
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        host, restored = first_host_state(), checkpoints.restore(abstract)
        if restored:
            step, state, host = restored
            console.say(f"resuming after step {step} of {experiment.steps}")
        programs = compile_programs(experiment, state, frozen, hyper, packed["dev"].shape)
        host["compile_seconds"] += programs.seconds

        def put(batch):
            return jax.device_put(batch, mesh.by_group(experiment.mesh))

        def logits_of(trainable, split, before=stop.check):
            return evaluate.evaluate(programs.eval, tree.merge(trainable, frozen), packed[split], put, before=before)

        def evaluate_dev(state):
            logits = logits_of(state.trainable, "dev")
            return metrics.score(experiment.task, logits, experiment.examples["dev"].label)

        with _logs(experiment, workdir, int(state.step), host) as (log_step, log_evaluation):
            every = settings.execution.checkpoint.every_steps
            loop = Loop(
                total=experiment.steps,
                evaluations=frozenset(experiment.evaluations),
                saves=frozenset(range(every, experiment.steps, every) if every else ()),
                feed=functools.partial(_feed, experiment, put),
                run=lambda k, state, batch: programs.train[experiment.plan.shape_of[k]](
                    state, frozen, batch, dataclasses.replace(hyper, learning_rate=experiment.rates[k])
                ),
                evaluate=evaluate_dev,
                metric=experiment.task.metrics[0],
                lower=lower,
                patience=options.train.patience,
                checkpoints=checkpoints,
                log_step=log_step,
                log_evaluation=log_evaluation,
                stop=stop,
            )
            try:
                state, host = fit(loop, state, host)
            except checkpoint.NotFinite as error:
                records.write_json(
                    os.path.join(workdir, "result.json"), _identity(experiment, 0) | {"failed": str(error)}
                )
                raise
        checkpoints.wait()
        done = selected = int(state.step)
        trainable = state.trainable
        if options.train.select == "best" and host["best_step"] != selected:
            selected, best, _ = checkpoints.restore(abstract, host["best_step"])
            trainable = best.trainable
        result = _finish(experiment, workdir, host, selected, trainable, frozen, logits_of, programs, done)
        if result["frozen_sha256"] != frozen_before:
            raise RuntimeError("a frozen parameter has changed")
    records.write_json(os.path.join(workdir, "result.json"), result)
    records.replace(os.path.join(workdir, "DONE"), "")
    return result


def _feed(experiment, put, k):
    indices = experiment.schedule.batches(k, k + 1)[0]
    shape = experiment.plan.shapes[experiment.plan.shape_of[k]]
    examples = experiment.examples["train"]
    batch, _ = batches.build(examples, indices, shape, not experiment.settings.experiment.train.packing)
    return put(batch), int((indices >= 0).sum()), int(batches.lengths_of(examples, indices).sum())


@contextlib.contextmanager
def _logs(experiment, workdir, step, host):
    """(log_step, log_evaluation): write rows to train.jsonl and eval.jsonl and show them."""
    log = records.Log(os.path.join(workdir, "train.jsonl"), step)
    evaluations = records.Log(os.path.join(workdir, "eval.jsonl"), host["evaluated"])
    tensorboard = experiment.settings.execution.log.tensorboard
    best = host["best_metrics"]
    every = experiment.settings.execution.log.every_steps
    with console.bar("training", experiment.steps, step, every) as bar:
        begin = host["examples"], host["train_seconds"]

        def log_step(row):
            k = row["step"] - 1
            about = {"learning_rate": float(experiment.rates[k]), "shape": int(experiment.plan.shape_of[k])}
            log.write(row | about)
            rate = (row["examples"] - begin[0]) / max(row["seconds"] - begin[1], 1e-9)
            bar.update(row["step"], f"loss {row['loss']:.4f}  {_show(best)}{rate:.1f} examples/s")

        def log_evaluation(row):
            nonlocal best
            best = {name: row[name] for name in experiment.task.metrics if name in row}
            evaluations.write(row)
            epoch = row["step"] / experiment.schedule.steps_per_epoch
            console.say(
                f"step {row['step']} (epoch {epoch:.1f})  dev {_show(best)}{'best so far' if row['best'] else ''}"
            )
            outputs.draw_curve(workdir, experiment.task.metrics[0])
            if tensorboard:
                outputs.write_tensorboard(workdir, experiment.rates)

        try:
            yield log_step, log_evaluation
        finally:
            log.close()
            evaluations.close()


def _show(scores):
    return "".join(f"{name} {value:.4f}  " for name, value in scores.items())


def _finish(experiment, workdir, host, selected, trainable, frozen, logits_of, programs, done):
    """Predictions, export and the result of the selected step."""
    options, task = experiment.settings.experiment, experiment.task
    splits = {}
    for name in experiment.splits:
        if name == "train" or (name.startswith(("test", "ax")) and not options.eval.test):
            continue
        logits = logits_of(trainable, name)
        outputs.write_predictions(os.path.join(workdir, "predictions"), name, task, experiment.splits[name], logits)
        scores = metrics.score(task, logits, experiment.examples[name].label)
        if scores:
            splits[name] = scores
    params = tree.merge(jax.device_get(trainable), jax.device_get(frozen))
    hf.export(
        os.path.join(workdir, "export"),
        params,
        experiment.hf_config,
        task,
        experiment.tokenizer,
        experiment.model.config.family,
    )
    seconds = host["train_seconds"]
    memory, kind = _peak_memory()
    flops = float(np.mean([programs.flops[i] for i in experiment.plan.shape_of[:done]])) if done else 0.0
    return _identity(experiment, done) | {
        "selected_step": selected,
        "split": "dev",
        "metrics": splits.get("dev", {}),
        "splits": splits,
        "best": {"step": host["best_step"], "metrics": host["best_metrics"]},
        "trainable_params": tree.count(trainable),
        "head_params": tree.count(params["head"]),
        "pooler_params": tree.count(params["encoder"]["pooler"]),
        "total_params": tree.count(params),
        "train_seconds": seconds,
        "compile_seconds": host["compile_seconds"],
        "examples_per_second": host["examples"] / seconds if seconds else None,
        "tokens_per_second": host["tokens"] / seconds if seconds else None,
        "token_efficiency": experiment.plan.efficiency,
        "flops_per_step": flops,
        "peak_memory_bytes": memory,
        "memory_kind": kind,
        "params_sha256": tree.sha256(trainable),
        "frozen_sha256": tree.sha256(frozen),
        "failed": None,
    }


def _identity(experiment, done):
    """What a result says of its run before anything is measured; done: steps taken."""
    options = experiment.settings.experiment
    return {
        "task": experiment.task.name,
        "model": options.model.path or "scratch",
        "method": list(options.tune.method),
        "seed": options.seed,
        "steps": done,
        "planned_steps": experiment.steps,
        "epochs": done / experiment.schedule.steps_per_epoch,
        "data_sha256": experiment.contents["data"],
        "versions": records.versions(),
    }


def _peak_memory():
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"], "device"
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, "host resident set"
