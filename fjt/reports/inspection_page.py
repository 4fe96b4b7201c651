"""The page and the printed summary of an inspection, from its record (`fjt.experiment.inspection`)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fjt.core import console
from fjt.core.markdown import code, escape
from fjt.experiment.findings import SEVERITIES
from fjt.reports.figures import COLOURS, LINES, WIDTH, picture
from fjt.reports.formatting import p_value, size
from fjt.reports.pages import Block, Fold, Heading, Items, Picture, Table, Text

Record = Mapping[str, Any]
MOST_LABELS = 30  # in a table
PRINTED = 12  # findings in the terminal


def count(record: Record) -> list[int]:
    """The numbers of findings by severity, the most serious first."""
    every = [finding["severity"] for facts in record["tasks"].values() for finding in facts["findings"]]
    return [every.count(severity) for severity in SEVERITIES]


def show(record: Record) -> None:
    """Prints the rows of each split, the findings and the plan of a run."""
    for name, facts in record["tasks"].items():
        splits = ", ".join(f"{split['rows']:,} {split_name}" for split_name, split in facts["splits"].items())
        console.say(f"{name}: {splits}")
        if facts["dropped"]:
            console.say(f"  dropped from train by config.data.clean: {_counts(facts['dropped'])}")
        rows = [
            (finding["severity"], finding["finding"], finding["split"], f"{finding['count']:,}", _share(finding))
            for finding in facts["findings"]
        ]
        if rows:
            console.table("Findings", ("severity", "finding", "split", ">count", ">share"), rows[:PRINTED])
        if len(rows) > PRINTED:
            console.say(f"  and {len(rows) - PRINTED} more on the page")
    console.say(_verdict(record))
    console.say(_plan_line(record["plan"]))


def _verdict(record: Record) -> str:
    return f"Findings: {_counts(dict(zip(SEVERITIES, count(record), strict=True)))}"


def _plan_line(plan: Record) -> str:
    if "impossible" in plan:
        return f"no plan of the run: {plan['impossible']}"
    shares = plan["real_tokens"]
    return (
        f"plan: {plan['steps']:,} steps of {plan['batch_size']} examples, roughly {console.duration(plan['seconds'])} "
        f"of training on this device; {shares['planned']:.0%} of the computed tokens are real (padded to the longest "
        f"of each batch {shares['longest_of_batch']:.0%}, to max_length {shares['max_length']:.0%})"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in counts.items())


def _share(finding: Record) -> str:
    share = finding["share"]
    return f"{share:.1%}" if share >= 0.001 else "<0.1%"


def build(record: Record) -> tuple[str, list[Block]]:
    """(title, blocks) of the page."""
    title = f"Inspection: {record['task']}"
    blocks: list[Block] = [
        Heading(1, escape(title)),
        Text(
            f"**{_verdict(record)}.** Tokenizer: {code(record['model'])}; "
            f"`config.model.max_length={record['max_length']}`."
        ),
    ]
    for name, facts in record["tasks"].items():
        blocks += [Heading(2, escape(name)), *_findings(facts["findings"]), *_splits(facts), *_labels(facts)]
        blocks += [*_lengths(name, facts["splits"]), *_tokens(facts["tokens"]), *_columns(facts["columns"])]
    return title, [*blocks, Heading(2, "Plan of the run"), *_plan(record["plan"]), *_reading(record)]


def _findings(findings: Sequence[Record]) -> list[Block]:
    if not findings:
        return [Text("Nothing was found.")]
    rows = tuple(
        (
            f"**{finding['severity']}**" if finding["severity"] == SEVERITIES[0] else finding["severity"],
            escape(finding["finding"]),
            finding["split"],
            f"{finding['count']:,}",
            _share(finding),
            finding["action"],
        )
        for finding in findings
    )
    folds = [
        Fold(
            f"Examples: {escape(finding['finding'])}, {finding['split']}",
            (Items(tuple(_example(example) for example in finding["examples"])),),
        )
        for finding in findings
        if finding["examples"]
    ]
    return [Table(("severity", "finding", "split", ">count", ">share", "what to do"), rows), *folds]


def _example(example: Record) -> str:
    parts = [f"{key.replace('_', ' ')} {code(_plain(value))}" for key, value in example.items()]
    return "; ".join(parts)


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value) or "(empty)"


def _splits(facts: Record) -> list[Block]:
    splits = facts["splits"]
    longer = next(iter(splits.values()))["longer"]
    rows = tuple(
        (
            name,
            f"{split['rows']:,}",
            f"{split['tokens']:,}",
            *(f"{value:,}" for value in split["lengths"].values()),
            *(f"{split['longer'][length]:.1%}" for length in longer),
            f"{split['unknown']:.2%}",
        )
        for name, split in splits.items()
    )
    lengths = next(iter(splits.values()))["lengths"]
    quantiles = (f">tokens, {name}" for name in lengths)
    columns = ("split", ">rows", ">tokens", *quantiles, *(f">longer than {number}" for number in longer))
    blocks: list[Block] = [Heading(3, "Splits"), Table((*columns, ">unknown tokens"), rows)]
    if facts["dropped"]:
        blocks.append(Text(f"Dropped from train by `config.data.clean`: {_counts(facts['dropped'])}."))
    return blocks


def _labels(facts: Record) -> list[Block]:
    labelled = {name: split["labels"] for name, split in facts["splits"].items() if split["labels"]}
    if not labelled:
        return []
    blocks: list[Block] = [Heading(3, "Labels")]
    first = next(iter(labelled.values()))
    if "counts" in first:
        names = sorted(first["counts"], key=lambda name: -first["counts"][name])
        totals = {split: max(1, sum(about["counts"].values())) for split, about in labelled.items()}
        rows = tuple(
            (escape(name), *(_part(about["counts"].get(name, 0), totals[split]) for split, about in labelled.items()))
            for name in names[:MOST_LABELS]
        )
        blocks.append(Table(("label", *(f">{split}" for split in labelled)), rows))
        if len(names) > MOST_LABELS:
            blocks.append(Text(f"The {MOST_LABELS} most frequent of {len(names):,} labels in {next(iter(labelled))}."))
    else:
        rows = tuple(
            (split, escape(name), *(f"{value:.4g}" for value in values))
            for split, about in labelled.items()
            for name, values in about["quartiles"].items()
        )
        blocks.append(Table(("split", "score", ">lowest", ">25 %", ">median", ">75 %", ">highest"), rows))
    tests = tuple(
        (split, f"{skew['distance']:.3f}", p_value(skew["p"]), skew["test"]) for split, skew in facts["skew"].items()
    )
    return [*blocks, Table(("compared with train", ">distance", ">p", "test"), tests)] if tests else blocks


def _part(number: int, total: int) -> str:
    return f"{number:,} ({number / total:.1%})"


def _lengths(name: str, splits: Mapping[str, Record]) -> list[Picture]:
    caption = "Tokens per row, whole texts: share of the rows of each split; the last step has all longer rows."
    return picture(_drawn(splits), f"lengths-{name}", caption)


def _drawn(splits: Mapping[str, Record]) -> Callable[[], Figure]:
    def draw() -> Figure:
        figure = Figure(figsize=(WIDTH, 2.6), layout=ConstrainedLayoutEngine(h_pad=0.08))
        axes = figure.subplots()
        for number, (name, split) in enumerate(splits.items()):
            edges, rows = split["histogram"]["edges"], np.array(split["histogram"]["rows"])
            density = rows / rows.sum() / np.diff(edges)
            colour, line = COLOURS[number % len(COLOURS)], LINES[number % len(LINES)]
            axes.stairs(density, edges, label=name, linewidth=1.2, color=colour, linestyle=line)
        axes.set_xlabel("tokens")
        axes.set_ylabel("share of rows per token")
        axes.legend()
        return figure

    return draw


def _tokens(tokens: Sequence[Record]) -> list[Block]:
    if not tokens:
        return []
    measures = [name for name in ("precision", "lift", "coverage") if name in tokens[0]]
    rows = tuple(
        (
            code(one["token"]),
            escape(one["label"]),
            f"{one['rows']:,}",
            f"{one['correlation']:+.3f}",
            *(f"{one[name]:.3g}" for name in measures),
        )
        for one in tokens
    )
    shown = {"precision": ">P(label given token)", "lift": ">lift", "coverage": ">share of the label's rows"}
    columns = ("token", "label", ">rows", ">correlation", *(shown[name] for name in measures))
    return [Heading(3, "Tokens that say most about the label"), Table(columns, rows)]


def _columns(columns: Sequence[Record]) -> list[Block]:
    if not columns:
        return []
    rows = tuple(
        (
            code(one["column"]),
            "yes" if one["read"] else "no",
            f"{one['values']:,}",
            "-" if one["explained"] is None else f"{one['explained']:.3f}",
        )
        for one in columns
    )
    return [
        Heading(3, "Columns of the training file"),
        Table(("column", "read by the model", ">distinct values", ">predicts the label alone"), rows),
    ]


def _plan(plan: Record) -> list[Block]:
    if "impossible" in plan:
        return [Text(f"There is no plan: {escape(plan['impossible'])}", warning=True)]
    shares, memory = plan["real_tokens"], plan["memory"]
    shapes = ", ".join(f"{rows} x {length}" for rows, length in plan["shapes"])
    rows = (
        ("steps", f"{plan['steps']:,} of {plan['batch_size']} examples"),
        ("shapes of batches, rows x tokens", shapes),
        ("real tokens, packed as planned", f"{shares['planned']:.1%}"),
        ("real tokens, padded to the longest of each batch", f"{shares['longest_of_batch']:.1%}"),
        ("real tokens, padded to max_length", f"{shares['max_length']:.1%}"),
        ("operations per step", f"{plan['flops_per_step'] / 1e9:,.1f} GFLOP"),
        ("time of training on this device, a rough estimate", console.duration(plan["seconds"])),
        ("memory of weights", size(memory["weights"])),
        ("memory of gradients and optimizer state", size(memory["gradients_and_moments"])),
        ("memory of activations, a rough estimate", size(memory["activations"])),
    )
    return [Table(("", ">value"), rows), Text("`python -m fjt.main --plan` prints every option with its origin.")]


def _reading(record: Record) -> list[Block]:
    texts = (
        "**Equal texts** are equal after Unicode NFC and with each run of blanks as one. Of pairs, both texts count.",
        f"**Nearly equal texts** share at least {record['near']:.0%} of their pairs of neighbouring words (Jaccard "
        "similarity), without case and punctuation; of pairs, each text does. Candidates are found by MinHash.",
        "**Distance** of labels: the share of rows that would need another label for the shares of train (total "
        "variation), or, of scores, the D of Kolmogorov and Smirnov. A small p with a small distance is a large split, "
        "not a problem.",
        "**Predicts the label alone**: the part of a constant prediction's error that the column removes on rows it "
        "was not learned from.",
        "**Places** are split:id; without a column of ids, the id is the number of the row, counted from 0.",
    )
    return [Heading(2, "How to read this"), Items(texts)]
