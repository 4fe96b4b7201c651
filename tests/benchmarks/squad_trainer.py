"""The Trainer's side of `tests.benchmarks.squad`: trains on windows of contexts and writes the answers to dev.

The settings are those of `tests.benchmarks.trainer`, with dynamic padding and the fused AdamW.  Windows, their labels
and the choice of the best answer are as in Hugging Face's script: a window without the whole answer has its first token
as start and end, and the answer is the best pair among the 20 best starts and the 20 best ends of all windows.
"""

import tempfile

import numpy as np
import torch
import transformers

from tests.benchmarks import common, trainer
from tests.benchmarks.squad import WINDOW, read_questions

BEST, LONGEST = 20, 30


def encode(tokenizer, questions, max_length):
    """([{input_ids, ..., start_positions, end_positions}] of windows, their places, the question of each)."""
    tokens = tokenizer(
        [question.strip() for _, question, _, _ in questions],
        [context for _, _, context, _ in questions],
        truncation="only_second",
        max_length=max_length,
        stride=WINDOW["doc_stride"],
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    examples, places = [], []
    for window, owner in enumerate(tokens["overflow_to_sample_mapping"]):
        inside = [sequence == 1 for sequence in tokens.sequence_ids(window)]
        offsets = [
            place if real else None for place, real in zip(tokens["offset_mapping"][window], inside, strict=True)
        ]
        text, start = questions[owner][3][0]
        first, last = label(offsets, start, start + len(text))
        example = {name: tokens[name][window] for name in tokenizer.model_input_names}
        examples.append(example | {"start_positions": first, "end_positions": last})
        places.append(offsets)
    return examples, places, tokens["overflow_to_sample_mapping"]


def label(offsets, start, end):
    """(first, last token) of a span of characters, (0, 0) where the window does not hold it."""
    real = [at for at, place in enumerate(offsets) if place]
    if not real or offsets[real[0]][0] > start or offsets[real[-1]][1] < end:
        return 0, 0
    first = max(at for at in real if offsets[at][0] <= start)
    return first, min(at for at in real if offsets[at][1] >= end)


def answer(windows):
    """(start, end) in characters of the best span.  windows: [(start logits, end logits, places)]."""
    best, found = -np.inf, (0, 0)
    for starts, ends, places in windows:
        for i in np.argsort(starts)[::-1][:BEST]:
            for j in np.argsort(ends)[::-1][:BEST]:
                if i >= len(places) or j >= len(places) or not places[i] or not places[j] or j < i:
                    continue
                if j - i + 1 <= LONGEST and starts[i] + ends[j] > best:
                    best, found = starts[i] + ends[j], (places[i][0], places[j][1])
    return found


def main(argv=None):
    args = trainer.parse_tables(argv, __doc__, optim="adamw_torch_fused")
    transformers.set_seed(args.seed)  # before the model is made, because the seed decides its head
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    train, _, _ = encode(tokenizer, read_questions(args.tables / "train.json"), args.max_length)
    questions = read_questions(args.tables / "dev.json")
    dev, places, owners = encode(tokenizer, questions, args.max_length)
    model = transformers.AutoModelForQuestionAnswering.from_pretrained(args.model, dtype=torch.float32)
    clock = trainer.Clock()
    with tempfile.TemporaryDirectory() as folder:
        run = transformers.Trainer(
            model=model,
            args=trainer.arguments(args, folder),
            train_dataset=train,
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
            processing_class=tokenizer,
            callbacks=[clock],
        )
        run.train()
        starts, ends = run.predict(dev).predictions
    windows = {}
    for owner, *window in zip(owners, starts, ends, places, strict=True):
        windows.setdefault(owner, []).append(window)
    record = trainer.timing(np.diff(clock.moments), len(train), args.batch_size)
    record["answers"] = {}
    for owner, (name, _, context, _) in enumerate(questions):
        start, end = answer(windows[owner])
        record["answers"][name] = context[start:end]
    common.write_json(args.output, record)


if __name__ == "__main__":
    main()
