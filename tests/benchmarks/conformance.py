"""The conformance matrix: each method in fjt and in the library that defines it, both directions, on the same weights.

For each case the largest difference of logits on real sentences: of an adapter that fjt wrote, loaded by the library
(ours -> theirs), and of one that the library made and saved, read by fjt (theirs -> ours).  The last column goes on
from the library's adapter for 20 steps of AdamW without dropout on both sides: the largest difference of losses.

--peft and --adapters name Python interpreters that have the library and PyTorch; `adapters` needs an environment of
its own, since it pins an old transformers.  Their side is tests/benchmarks/theirs.py.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import transformers

from fjt.core import seeds
from fjt.core.options import TOGETHER
from fjt.data import batches, tokenization
from fjt.data.glue import Split, Task
from fjt.interop import adapterhub, formats, hf, peft
from fjt.models import pretrained
from fjt.models.encoder import Model
from fjt.tasks.kinds import find_problem
from fjt.tuning import partition
from tests import adapted, small
from tests.benchmarks import common

RATE, STEPS, BATCH = 1e-3, 20, 8
SENTENCES, LONGEST = 64, 64
LOGITS, LOSSES = 1e-4, 1e-3
LAYER = r".*encoder\.layer\.\d+\."

# library: {case: (fjt's options, the library's config class, its arguments)}
CASES = {
    "peft": {
        "lora": ({"rank": 8}, "LoraConfig", {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}),
        "lora rank-stabilised": (
            {"rank": 8, "rank_stabilized": True}, "LoraConfig",
            {"r": 8, "lora_alpha": 16, "use_rslora": True, "target_modules": ["query", "value"]},
        ),
        "lora by site": (
            {"sites": ("query", "output"), "ranks": (8, 4)}, "LoraConfig",
            {"r": 8, "lora_alpha": 16, "target_modules": LAYER + r"(attention\.self\.query|\d+\.output\.dense)",
             "rank_pattern": {LAYER + r"output\.dense": 4}},
        ),
        "dora": (
            {"rank": 8}, "LoraConfig",
            {"r": 8, "lora_alpha": 16, "use_dora": True, "target_modules": ["query", "value"]},
        ),
        "vera": ({"rank": 256}, "VeraConfig", {"r": 256, "target_modules": ["query", "value"]}),
        "ia3": ({}, "IA3Config", {
            "target_modules": LAYER + r"(attention\.self\.(key|value)|output\.dense)",
            "feedforward_modules": LAYER + r"output\.dense"}),
        "layernorm": ({}, "LNTuningConfig", {"target_modules": ".*LayerNorm"}),
        "prefix": ({"prefix_length": 20}, "PrefixTuningConfig", {"num_virtual_tokens": 20}),
        "prompt": ({"prompt_length": 20}, "PromptTuningConfig", {"num_virtual_tokens": 20}),
        "p_tuning": (
            {"prompt_length": 20}, "PromptEncoderConfig", {"num_virtual_tokens": 20, "encoder_hidden_size": 128}
        ),
        "lora, tagging": ({"rank": 8}, "LoraConfig", {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}),
        "prompt, tagging": ({"prompt_length": 20}, "PromptTuningConfig", {"num_virtual_tokens": 20}),
        "lora, question_answering": (
            {"rank": 8}, "LoraConfig", {"r": 8, "lora_alpha": 16, "target_modules": ["query", "value"]}
        ),
    },
    "adapters": {
        "houlsby": ({}, "DoubleSeqBnConfig", {"reduction_factor": 16}),
        "houlsby adapter_norm": (
            {"adapter_norm": True}, "DoubleSeqBnConfig", {"reduction_factor": 16, "original_ln_before": True}
        ),
        "pfeiffer": ({}, "SeqBnConfig", {"reduction_factor": 16}),
        "parallel": ({}, "ParBnConfig", {"reduction_factor": 2}),
        "compacter": ({}, "CompacterConfig", {}),
        "lora": ({"rank": 8}, "LoRAConfig", {"r": 8, "alpha": 16}),
        "ia3": ({"sites": ("key", "value", "intermediate")}, "IA3Config", {}),
        "prefix": (
            {"prefix_length": 20, "shift_positions": False}, "PrefixTuningConfig", {"prefix_length": 20, "flat": True}
        ),
        "prefix projected": (
            {"prefix_length": 20, "projection": 64, "shift_positions": False}, "PrefixTuningConfig",
            {"prefix_length": 20, "flat": False, "bottleneck_size": 64},
        ),
        "mam": ({"prefix_length": 30}, "MAMConfig", {
            "prefix_tuning": ["PrefixTuningConfig", {"prefix_length": 30, "flat": True}],
            "adapter": ["ParBnConfig", {"reduction_factor": 2}]}),
        "unipelt": ({"prefix_length": 10, "rank": 8}, "UniPELTConfig", {
            "prefix_tuning": ["PrefixTuningConfig", {"prefix_length": 10, "flat": True}],
            "adapter": ["SeqBnConfig", {"reduction_factor": 16}], "lora": ["LoRAConfig", {"r": 8, "alpha": 16}]}),
        "pfeiffer, tagging": ({}, "SeqBnConfig", {"reduction_factor": 16}),
        "prefix, tagging": (
            {"prefix_length": 20, "shift_positions": False}, "PrefixTuningConfig", {"prefix_length": 20, "flat": True}
        ),
        "pfeiffer, question_answering": ({}, "SeqBnConfig", {"reduction_factor": 16}),
        "lora, question_answering": ({"rank": 8}, "LoRAConfig", {"r": 8, "alpha": 16}),
    },
}  # fmt: skip


OUTPUTS = {"classification": 2, "tagging": 3, "question_answering": 2}  # of each kind, which follows a comma

# At RATE the losses of MAM are chaotic: both sides agree to 1e-7 at first, and three steps make ten times of it. Here
# stands the rate of its recipe for MiniLM.
RATES = {"mam": 5e-5}


def main(argv=None):
    args = parse(argv)
    record, output = common.provenance("tests.benchmarks.conformance", args) | {"rows": []}, Path(args.output)
    for library in CASES:
        interpreter = getattr(args, library)
        if interpreter:
            with tempfile.TemporaryDirectory() as folder:
                rows, versions = compare(Path(folder), library, interpreter, args)
            record["rows"] += rows
            record["versions"] |= {f"{name} ({library}'s side)": version for name, version in versions.items()}
    if args.methods:  # their rows anew, in the record of all
        old, new = (
            common.read_json(output / "matrix.json"),
            {(row["library"], row["method"]): row for row in record["rows"]},
        )
        kept = {(row["library"], row["method"]): row for row in old["rows"]}
        rows = list((kept | new).values())
        record = old | {"rows": rows, "later": [*old.get("later", []), record["command"]]}
    common.write_json(output / "matrix.json", record)
    (output / "matrix.md").write_text(table(record))
    print((output / "matrix.md").read_text())
    sys.exit(any(not row["passed"] for row in record["rows"]))


def compare(folder, library, interpreter, args):
    """(rows of the matrix, versions of the other side) for a library."""
    tokenizer, examples_of = write_inputs(folder, args)
    bases = {kind: write_base(folder, args.model, tokenizer, kind) for kind in OUTPUTS}
    cases = {}
    chosen = {name: case for name, case in CASES[library].items() if not args.methods or name in args.methods}
    for name, (options, kind, arguments) in chosen.items():
        methods, more = methods_of(name)
        model, base = bases[kind_of(name)]
        cases[name] = {"class": kind, "arguments": arguments, "alone": more.get("gating", False)}
        cases[name]["kind"] = kind_of(name)
        cases[name]["rate"] = RATES.get(name, RATE)
        own = adapted.shaken(small.tune(*methods, **options, **more), model, base, "base")
        target = folder / "ours" / name
        target.mkdir(parents=True)
        if library == "peft":
            peft.write(target, own, model.config, model.head)
        else:
            adapterhub.write(target, own, model.config, tuple(map(str, range(model.classes))), model.head)
    spec = {"cases": cases, "shake": adapted.SHAKE}
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [interpreter, str(Path(__file__).with_name("theirs.py")), library, str(folder)]
    subprocess.run(command, check=True)
    theirs, rows, indices = np.load(folder / "theirs.npz"), [], np.load(folder / "inputs.npz")["batches"]
    for name in cases:
        (model, base), examples = bases[kind_of(name)], examples_of[kind_of(name)]
        found = formats.read(str(folder / "ours" / name), model.config)
        forth = difference(adapted.logits(model, base, found, examples), theirs[f"{name}/ours"])
        found = formats.read(str(folder / "theirs" / name), model.config)
        back = difference(adapted.logits(model, base, found, examples), theirs[f"{name}/theirs"])
        bare = difference(theirs[f"{name}/theirs"], theirs[f"{name}/ours"])
        trained = None
        if set(found.methods) == set(methods_of(name)[0]):
            problem, rate = find_problem(kind_of(name)), cases[name]["rate"]
            losses = adapted.train(model, base, found, examples, indices, rate, problem)
            trained = difference(losses, theirs[f"{name}/losses"])
        moved = float(np.ptp(theirs[f"{name}/losses"]))
        passed = forth <= LOGITS and back <= LOGITS and (trained or 0.0) <= LOSSES and bare > 1e-2 and moved > 1e-2
        rows.append(
            {
                "library": library,
                "method": name,
                "ours_to_theirs": forth,
                "theirs_to_ours": back,
                "losses": trained,
                "trained_params": sum(x.size for n, x in found.trained.items() if not partition.is_fixed(n)),
                "passed": passed,
            }
        )
        print(rows[-1], flush=True)
    return rows, json.loads((folder / "versions.json").read_text())


def methods_of(name):
    """(methods, their options beside those of the case) of a case."""
    words = name.partition(",")[0]
    return TOGETHER.get(words, ((words.split()[0],), {}))


def kind_of(name):
    """The kind of problem of a case."""
    return name.partition(", ")[2] or "classification"


def difference(found, expected):
    return float(np.abs(np.float64(found) - expected).max())


def write_inputs(folder, args):
    """(tokenizer, {kind: Examples}): MRPC's first dev pairs; writes their padded form for the other side.

    Tags and answers are drawn: a tag for every token but the first, and a first and a last token for each pair.
    """
    texts, pairs, labels = common.read_glue(args.data, "mrpc", "dev")
    split = Split((), tuple(texts[:SENTENCES]), tuple(pairs[:SENTENCES]), np.int32(labels[:SENTENCES]))
    tokenizer = tokenization.load_tokenizer(args.model)
    examples = tokenization.tokenize(split, tokenizer, LONGEST)  # first: the tokenizer goes on padding
    padded = tokenizer(
        list(split.text),
        list(split.text_pair),
        truncation="longest_first",
        max_length=LONGEST,
        padding=True,
        return_tensors="np",
    )
    rows = batches.Schedule(SENTENCES, BATCH, 3).batches(0, STEPS)
    rng = np.random.default_rng(5)
    lengths, first = examples.lengths, examples.offsets[:-1]
    tags, spans = rng.integers(0, OUTPUTS["tagging"], lengths.sum()), np.zeros(lengths.sum(), np.int32)
    places = np.sort(rng.integers(0, lengths[:, None], (SENTENCES, 2)), axis=1)
    for bit, at in zip((1, 2), (first[:, None] + places).T, strict=True):
        spans[at] |= bit
    np.savez(
        folder / "inputs.npz", **padded, classification=split.label.astype(np.int64),
        tagging=padded_tags(padded["attention_mask"], tags), question_answering=places, batches=rows,
    )  # fmt: skip
    return tokenizer, {
        "classification": examples,
        "tagging": with_slots(examples, 1, np.delete(tags, first)),
        "question_answering": with_slots(examples, 0, spans),
    }


def padded_tags(mask, tags):
    """i64[N, T]: the tags at their tokens, -100 at first tokens and padding."""
    found = np.full(mask.shape, -100)
    found[mask > 0] = tags
    found[:, 0] = -100
    return found


def with_slots(examples, first, label):
    """Examples with a slot at each token from `first` on."""
    token = np.concatenate([np.arange(first, n) for n in examples.lengths]).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(examples.lengths - first)])
    return dataclasses.replace(examples, label=label.astype(np.int32), slot_token=token, slot_offsets=offsets)


def write_base(folder, path, tokenizer, kind):
    """(Model, base parameters) of a kind, with a head of some size, written for the other side too."""
    checkpoint, problem, rng = pretrained.read_checkpoint(path), find_problem(kind), np.random.default_rng(0)
    model = Model(checkpoint.config, OUTPUTS[kind], one_slot=problem.one_slot, head=problem.head)
    abstract = jax.eval_shape(model.init, seeds.make_key(0, "init"))
    params = pretrained.take(checkpoint, abstract, path).params
    (output,) = (name for name in abstract["head"] if name != "pooler")
    kernel = np.float32(rng.normal(0, 0.3, (model.config.width, model.classes)))
    params["head"] = params.get("head", {}) | {output: {"kernel": kernel, "bias": np.zeros(model.classes, np.float32)}}
    if "pooler" in params["head"]:
        params["head"]["pooler"]["bias"] = np.float32(rng.normal(0, 0.1, model.config.width))
    task = Task("mrpc", kind, tuple(map(str, range(model.classes))), ())
    hf.export(folder / "base" / kind, params, checkpoint.config, task, tokenizer, 512)
    return model, params


def table(record):
    """Markdown of the matrix."""
    rows = [
        [
            f"{row['library']}: {row['method']}",
            f"{row['ours_to_theirs']:.1e}",
            f"{row['theirs_to_ours']:.1e}",
            "-" if row["losses"] is None else f"{row['losses']:.1e}",
            f"{row['trained_params']:,}",
            "yes" if row["passed"] else "NO",
        ]
        for row in record["rows"]
    ]
    header = ["method", "fjt -> library", "library -> fjt", f"losses, {STEPS} steps", "trained parameters", "passed"]
    return (
        "\n\n".join(
            [
                "# Adapters of fjt and of the libraries that define them",
                f"Largest difference of logits on {SENTENCES} MRPC pairs, float32, in each direction (at most "
                f"{LOGITS:g}), and of the losses of {STEPS} AdamW steps from the library's adapter, dropout off "
                f"(at most {LOSSES:g}). The adapters and the head are moved at random from their start, so that they "
                "matter. A saved P-tuning adapter is the prompt that its MLP made, so its training cannot go on from "
                "the file. Tags and answers are drawn at random, for all tokens. UniPELT's gates are means over a "
                "text's tokens, in `adapters` over padding too: its logits are of texts one by one, unpadded. "
                f"The losses are at the rate {RATE:g}, "
                + ", ".join(f"of {name} at {rate:g}" for name, rate in RATES.items())
                + ", its recipe's (at the common one both sides part after the first steps, from differences of 1e-7).",
                common.markdown(header, rows),
                common.footer(record)
                + "".join(f"\n- Rows made later: `{command}`" for command in record.get("later", [])),
            ]
        )
        + "\n"
    )


def parse(argv):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory")
    parser.add_argument("--data", required=True, help="GLUE in the official layout: <data>/MRPC/dev.tsv")
    parser.add_argument("--peft", default="", help="a Python with torch, transformers and peft")
    parser.add_argument("--adapters", default="", help="a Python with torch and adapters")
    parser.add_argument("--methods", nargs="+", default=[], help="only these, in place of their rows in --output")
    parser.add_argument("--output", default="results/conformance")
    return parser.parse_args(argv)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    main()
