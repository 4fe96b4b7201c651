"""The Trainer's side of `tests.benchmarks.ner`: trains on the sentences and writes the tags of dev and test.

The settings are those of `tests.benchmarks.trainer`, with dynamic padding and the fused AdamW.  As in Hugging Face's
script, the first token of a word has its tag, the others have none, and longer sentences are cut; a word that was cut
is O.
"""

import tempfile

import numpy as np
import torch
import transformers

from tests.benchmarks import common, trainer
from tests.benchmarks.multilabel import SCORED, read_sentences

NONE = -100  # the label of a token that the loss leaves out


def encode(tokenizer, sentences, names, max_length):
    """[{input_ids, ..., labels}] of sentences."""
    found = []
    for words, tags in sentences:
        tokens = tokenizer(words, is_split_into_words=True, truncation=True, max_length=max_length)
        owners = tokens.word_ids()
        firsts = [owner is not None and owner not in owners[:at] for at, owner in enumerate(owners)]
        labels = [names.index(tags[owner]) if first else NONE for owner, first in zip(owners, firsts, strict=True)]
        found.append(dict(tokens) | {"labels": labels})
    return found


def decode(logits, examples, sentences, names):
    """The tags of each sentence.  logits: padded, of the examples."""
    found = []
    for scores, example, (words, _) in zip(logits, examples, sentences, strict=True):
        labels = np.array(example["labels"])
        tags = [names[tag] for tag in scores[: len(labels)][labels != NONE].argmax(-1)]
        found.append(tags + ["O"] * (len(words) - len(tags)))
    return found


def main(argv=None):
    args = trainer.parse_tables(argv, __doc__, optim="adamw_torch_fused")
    transformers.set_seed(args.seed)  # before the model is made, because the seed decides its head
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    splits = {name: read_sentences(args.tables / f"{name}.conll") for name in ("train", *SCORED)}
    names = sorted({tag for _, tags in splits["train"] for tag in tags})
    examples = {name: encode(tokenizer, rows, names, args.max_length) for name, rows in splits.items()}
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        args.model, num_labels=len(names), dtype=torch.float32
    )
    clock = trainer.Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = transformers.Trainer(
            model=model,
            args=trainer.arguments(args, folder),
            train_dataset=examples["train"],
            data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        run.train()
        logits = {name: run.predict(examples[name]).predictions for name in SCORED}
    record = trainer.timing(np.diff(clock.moments), len(examples["train"]), args.batch_size)
    record["predicted"] = {name: decode(logits[name], examples[name], splits[name], names) for name in SCORED}
    common.write_json(args.output, record)


if __name__ == "__main__":
    main()
