"""The time of the same step in PyTorch transformers: SDPA, fused AdamW, padded to the longest text of the batch."""

import contextlib
import statistics
import time

import numpy as np

from tests.benchmarks.accelerator_parts import texts
from tests.benchmarks.accelerator_parts.store import Skipped

GRID = 8  # rows are padded to a multiple


def run(options: dict, context: dict) -> dict:
    """The row of a case."""
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise Skipped(f"{error.name} is not installed") from None
    platform = context["store"].device().get("platform", "cpu")
    if platform != "cpu" and not torch.cuda.is_available():
        raise Skipped(f"torch does not see the device that JAX uses ({platform})")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words = options["variant"].split(", ")
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # TF32, as JAX computes float32 products by default
    layers, width, heads, inner, vocab = texts.SHAPES[options["shape"]]
    config = transformers.BertConfig(
        vocab_size=vocab, hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
        intermediate_size=inner, max_position_embeddings=texts.POSITIONS, num_labels=2,
        attention_probs_dropout_prob=0.0 if "no attention dropout" in words else 0.1, attn_implementation="sdpa",
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-5, weight_decay=0.01, fused=True)
    grouped = "grouped" in words
    all_batches, tokens = batches(torch, device, options, vocab, grouped)
    forward = model
    if "compiled" in words:
        dynamic = True if grouped else None  # grouped batches have many lengths
        forward = torch.compile(model, dynamic=dynamic, backend="eager" if context["tiny"] else "inductor")
    half = torch.autocast(device, dtype=torch.bfloat16) if options["dtype"] == "bfloat16" else contextlib.nullcontext()

    def step(batch):
        optimizer.zero_grad(set_to_none=True)
        with half:
            loss = forward(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    rounds, seconds = 2 if context["tiny"] else 10, []
    for _ in range(rounds + 2):  # the first two compile and warm up
        synchronize()
        start = time.perf_counter()
        for batch in all_batches:
            loss = step(batch)
        synchronize()
        seconds.append((time.perf_counter() - start) / len(all_batches))
    seconds, middle = seconds[2:], statistics.median(seconds[2:])
    row = {"seconds": middle, "lowest": min(seconds), "highest": max(seconds), "device": device}
    return row | {
        "status": "passed" if np.isfinite(float(loss)) else "failed",
        "examples_per_second": options["batch"] / middle,
        "tokens_per_second": tokens / len(all_batches) / middle,
        "token_efficiency": tokens / sum(batch["input_ids"].numel() for batch in all_batches),
    }


def batches(torch, device, options, vocab, grouped):
    """(the batches on the device, number of real tokens)."""
    ids, offsets, label = texts.draw(options["batch"] * texts.BATCHES, options["length"], vocab)
    found = []
    for chosen in texts.batches(offsets, options["batch"], grouped):
        lengths = np.diff(offsets)[chosen]
        longest = -(-int(lengths.max()) // GRID) * GRID
        rows = np.zeros((len(chosen), longest), np.int64)
        for row, i in zip(rows, chosen, strict=True):
            row[: offsets[i + 1] - offsets[i]] = ids[offsets[i] : offsets[i + 1]]
        mask = np.arange(longest) < lengths[:, None]
        arrays = {"input_ids": rows, "attention_mask": mask.astype(np.int64), "labels": label[chosen].astype(np.int64)}
        found.append({name: torch.tensor(array, device=device) for name, array in arrays.items()})
    return found, int(offsets[-1])
