"""One run of Hugging Face's Trainer on a GLUE task, as a command that leaves a JSON record.

Linear decay to zero, no warm-up, no weight decay, clipping at 1.0, AdamW, float32 unless --bf16; no evaluation, saving
or reporting while it trains. Batchings: `fixed` pads to --max_length, `dynamic` to the longest of the batch, `grouped`
does so after sorting examples of similar length into the same batch (which changes who shares a batch).

`examples_per_second` is over the steps after the first three, from the end of one step to the end of the next: it
has batch making, forward, backward, clipping and update in it, and no tokenization, loading or evaluation.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import transformers

from fjt.tasks.kinds import find_problem
from tests.benchmarks import common

WARM = 3  # first steps, left out of the clock: allocation and first-use work


class Clock(transformers.TrainerCallback):
    """The moments at which training began and each step ended, in seconds."""

    def __init__(self):
        self.moments = []

    def on_train_begin(self, *_, **__):
        self.moments.append(time.perf_counter())

    on_step_end = on_train_begin


class Sampled(transformers.Trainer):
    """Draws the steps of a short grouped run evenly from a whole epoch's batches, so that their lengths are an
    epoch's: the sampler sorts each stretch of up to 50 batches by length, and its first ones would be the longest."""

    def _get_train_sampler(self, train_dataset=None):
        indices = list(super()._get_train_sampler(train_dataset))
        size, steps = self.args.train_batch_size, self.args.max_steps
        batches = [indices[i : i + size] for i in range(0, len(indices) - size + 1, size)]
        batches.sort(key=lambda batch: max(len(self.train_dataset[i]["input_ids"]) for i in batch))
        timed = max(steps - WARM, 1)
        drawn = [batches[int((k + 0.5) * len(batches) / timed)] for k in range(timed)]
        random.Random(self.args.seed).shuffle(drawn)
        return [i for batch in drawn[:WARM] + drawn for i in batch]


def tokenize(tokenizer, data, task, split, max_length):
    texts, pairs, labels = common.read_glue(data, task, split)
    tokens = tokenizer(texts, pairs, truncation=True, max_length=max_length, padding=False)
    return [{name: tokens[name][i] for name in tokens} | {"label": labels[i].item()} for i in range(len(texts))]


def main(argv=None):
    args = parse(argv)
    facts = common.GLUE[args.task][3]
    transformers.set_seed(args.seed)  # before the model is made, whose head is drawn from it
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    train = tokenize(tokenizer, args.data, args.task, "train", args.max_length)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        args.model,
        num_labels=max(len(facts.label_names), 1),
        problem_type="regression" if facts.kind == "regression" else "single_label_classification",
        dtype=torch.float32,
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        padding = {"padding": "max_length", "max_length": args.max_length} if args.batching == "fixed" else {}
        trainer = (Sampled if args.batching == "grouped" and args.max_steps > 0 else transformers.Trainer)(
            model=model,
            args=arguments(args, folder),
            train_dataset=train,
            data_collator=transformers.DataCollatorWithPadding(tokenizer, **padding),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        trainer.train()
        record = timing(np.diff(clock.moments), len(train), args.batch_size)
        record |= {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if args.evaluate:
            dev = tokenize(tokenizer, args.data, args.task, "dev", args.max_length)
            predictions = trainer.predict(dev)
            labels = np.array([example["label"] for example in dev])
            record["metrics"] = find_problem(facts.kind).score(predictions.predictions, labels, facts)
    settings = {key: value for key, value in vars(args).items() if key not in ("model", "data", "output")}
    common.write_json(args.output, settings | record | {"versions": common.versions()})
    print({key: value for key, value in record.items() if key != "step_seconds"})


def timing(seconds, num_examples, batch_size):
    """The figures of a run's steps.  seconds: f64[steps]."""
    per_epoch = -(-num_examples // batch_size)
    sizes = [min(batch_size, num_examples - step % per_epoch * batch_size) for step in range(len(seconds))]
    return {
        "steps": len(seconds),
        "examples": sum(sizes),
        "train_seconds": float(sum(seconds)),
        "examples_per_second": float(sum(sizes[WARM:]) / sum(seconds[WARM:])) if len(seconds) > WARM else None,
        "step_seconds": [round(float(s), 5) for s in seconds],
    }


def arguments(args, folder):
    return transformers.TrainingArguments(
        output_dir=folder,
        seed=args.seed,
        per_device_train_batch_size=args.batch_size,
        per_device_eval_batch_size=args.batch_size,
        num_train_epochs=args.epochs,
        max_steps=args.max_steps or -1,
        learning_rate=args.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0,
        weight_decay=0.0,
        max_grad_norm=1.0,
        optim=args.optim,
        bf16=args.bf16,
        use_cpu=not torch.cuda.is_available(),  # else it refuses bf16 on a CPU
        train_sampling_strategy="group_by_length" if args.batching == "grouped" else "random",
        dataloader_pin_memory=False,
        eval_strategy="no",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
    )


def parse_tables(argv, description, **settings):
    """The arguments of a run on tables, made by `common.tables_command`; settings: others that `arguments` reads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--tables", required=True, type=Path, help="the folder of the files of train, dev and test")
    parser.add_argument("--seed", type=int, required=True, help="of the head, the order and the dropout")
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    parser.add_argument("--learning_rate", type=float, required=True)
    parser.add_argument("--max_length", type=int, required=True)
    parser.add_argument("--output", required=True, type=Path, help="the file of what the run leaves")
    parser.set_defaults(batching="dynamic", max_steps=0, bf16=False, **settings)
    return parser.parse_args(argv)


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--data", required=True, help="GLUE in the official layout: <data>/MRPC/train.tsv")
    parser.add_argument("--task", required=True, choices=sorted(common.GLUE))
    parser.add_argument("--batching", default="dynamic", choices=common.BATCHINGS)
    parser.add_argument("--seed", type=int, default=0, help="of the head, the order and the dropout")
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1e-4)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--max_steps", type=int, default=0, help="stop after so many steps; 0: --epochs decides")
    parser.add_argument("--max_length", type=int, default=128)
    parser.add_argument("--optim", default="adamw_torch", choices=("adamw_torch", "adamw_torch_fused"))
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16; weights stay float32")
    parser.add_argument("--evaluate", action=argparse.BooleanOptionalAction, default=True, help="score dev at the end")
    parser.add_argument("--output", required=True, help="the JSON record")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
