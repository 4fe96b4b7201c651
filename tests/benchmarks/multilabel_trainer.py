"""The Trainer's side of `tests.benchmarks.multilabel`: trains on the tables and writes the logits of dev and test.

The settings are those of `tests.benchmarks.trainer`, with dynamic padding and BCEWithLogitsLoss over six labels.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

from tests.benchmarks import trainer
from tests.benchmarks.multilabel import SCORED, TYPES, indicators


def tokenize(tokenizer, path, max_length):
    rows = [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    tokens = tokenizer([row["text"] for row in rows], truncation=True, max_length=max_length, padding=False)
    labels = indicators(rows).astype(np.float32)
    return [{name: tokens[name][i] for name in tokens} | {"label": labels[i]} for i in range(len(rows))]


def main(argv=None):
    args = trainer.parse_tables(argv, __doc__, optim="adamw_torch")
    transformers.set_seed(args.seed)  # before the model is made, because the seed decides its head
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=len(TYPES), problem_type="multi_label_classification", dtype=torch.float32
    )
    splits = {name: tokenize(tokenizer, args.tables / f"{name}.jsonl", args.max_length) for name in ("train", *SCORED)}
    with tempfile.TemporaryDirectory() as folder:
        run = transformers.Trainer(
            model=model,
            args=trainer.arguments(args, folder),
            train_dataset=splits["train"],
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
        )
        run.train()
        logits = {name: run.predict(splits[name]).predictions for name in SCORED}
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with open(args.output.with_suffix(".part"), "wb") as file:
        np.savez(file, **logits)
    args.output.with_suffix(".part").replace(args.output)


if __name__ == "__main__":
    main()
