"""The Markdown of a part, made from its record alone."""

from typing import Any

from tests.benchmarks import common

Row = dict[str, Any]
TITLES = {
    "smoke": "Commands from end to end",
    "exact": "The same numbers in another layout, and again",
    "speed": "The time of a training step",
    "lanes": "Many runs on one device",
    "memory": "Planned and measured memory",
}
NOTES = {
    "smoke": "Seconds of compilation are those of result.json. A killed run reads compiled programs from a cache.",
    "exact": "Losses: the largest relative difference of a step from one example per row; dropout acts. "
    "Flips: predictions that differ from float32 with products of full precision, one example per row.",
    "speed": "Full fine-tuning with AdamW, clipping and dropout 0.1, on texts of L / 8 to L random tokens. They are on "
    "the device before the clock starts. fjt packs them into rows of L tokens. PyTorch: SDPA, fused AdamW, rows padded "
    "to the longest text of the batch, in random batches or in batches of similar length (grouped). Seconds: the "
    "median over rounds of eight batches. MFU: operations of real tokens / (seconds x peak). The operations are the "
    "matrix products of fjt/tuning/cost.py, where attention has the sum of squared lengths of texts in place of rows; "
    "the last layer is computed at first tokens alone. The peak rate is that of the data sheet (steps.py lists them), "
    "and unknown for other devices. Without attention dropout, fjt's program is the same with rate 0; without dropout "
    "it is another program. Forward: up to the loss, with dropout. Forward and backward: up to the gradient's norm. "
    "On NVIDIA devices both compute float32 products in TF32. fjt / torch: examples per second of fjt's whole step "
    "with the same dropout over those of the row.",
    "lanes": "Examples per second of all runs together. Over alone: divided by the rate of the run alone, which is the "
    "rate of runs one after another. Each run has its own batch, one example per row. Processes: each has its own copy "
    "of the weights and an equal share of the memory, and all count their steps in the same seconds.",
    "memory": "Planned: arguments, results and temporaries of the compiled step. Ahead: the same step as "
    "`python -m fjt.aot --topology local` plans it. Compiler: the "
    "peak that XLA itself states. Before: the peak of the process before the first step, which "
    "includes what compilation tried. Measured: the peak after three steps.",
}


def render(record: dict[str, Any]) -> str:
    """The Markdown of a record."""
    part, rows = record["part"], record["rows"]
    lines = [f"# {TITLES[part]}", "", *TABLES[part](rows), NOTES[part], ""]
    if record.get("tiny"):
        lines += ["**Tiny shapes: these numbers say nothing about speed.**", ""]
    device = record.get("device") or {}
    words = device.get("kind", "unknown") + (f" ({device['count']} {device['platform']})" if device else "")
    footer = common.footer({"command": record["command"], "versions": record["versions"], "device": words})
    absent = ", ".join(record["missing"]) or "none"
    return "\n".join([*lines, footer, f"- Commit: {record['commit']}", f"- Optional packages missing: {absent}", ""])


def _number(value: Any, form: str, scale: float = 1.0) -> str:
    return "unknown" if value is None else f"{value * scale:{form}}"


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [common.markdown(header, rows), ""] if rows else []


def _state(row: Row) -> str:
    return f"{row['status']}: {row['word']}" if row["word"] else row["status"]


def _smoke(rows: dict[str, Row]) -> list[str]:
    cells = []
    for name, row in rows.items():
        seconds = [_number(row[key], ".1f") if key in row else "" for key in ("compile_seconds", "train_seconds")]
        accuracy = _number(row["accuracy"], ".3f") if "accuracy" in row else ""
        cells.append([name, *seconds, f"{row['case_seconds']:.0f}", accuracy, _state(row)])
    return _table(["command", "compile s", "train s", "in all s", "accuracy", "state"], cells)


def _exact(rows: dict[str, Row]) -> list[str]:
    losses, flips, repeats, others = [], [], [], []
    for name, row in rows.items():
        for layout, found in row.get("differences", {}).items():
            limit = f"{row['options']['tolerance']:.0e}"
            losses.append([name, layout, str(row["options"]["steps"]), f"{found:.1e}", limit, _state(row)])
        for variant, found in row.get("variants", {}).items():
            flips.append([variant, f"{found['flips']} of {row['examples']}", f"{found['logit']:.1e}", _state(row)])
        for pair, found in row.get("pairs", {}).items():
            equal = "equal bits" if found["equal"] else "different bits"
            repeats.append([pair, equal, f"{1000 * found['seconds']:.2f}", _state(row)])
        if not {"differences", "variants", "pairs"} & row.keys():
            others.append([name, _state(row)])
    return [
        *_table(["losses", "layout", "steps", "difference", "allowed", "state"], losses),
        *_table(["predictions", "flips", "largest difference of a logit", "state"], flips),
        *_table(["the same command twice", "bits", "ms per step", "state"], repeats),
        *_table(["case", "state"], others),
    ]


def _speed(rows: dict[str, Row]) -> list[str]:
    cells, parts = [], []
    for name, row in rows.items():
        if "seconds" not in row:
            cells.append([name, *[""] * 6, _state(row)])
            continue
        spread = f"{1000 * row['seconds']:.2f} ({1000 * row['lowest']:.2f}..{1000 * row['highest']:.2f})"
        rates = [_number(row[key], ",.0f") for key in ("examples_per_second", "tokens_per_second")]
        share = _number(row["mfu"], ".1%") if "mfu" in row else ""
        cells.append([name, spread, *rates, f"{row['token_efficiency']:.2f}", share, ratio(name, rows), _state(row)])
        if "parts" in row:
            times = [row["parts"][part]["seconds"] for part in ("forward", "forward and backward")]
            parts.append([name, *(f"{1000 * one:.2f}" for one in (*times, row["seconds"]))])
    header = ["step", "ms (range)", "examples/s", "real tokens/s", "real / computed", "MFU", "fjt / torch", "state"]
    return [*_table(header, cells), *_table(["ms", "forward", "forward and backward", "whole step"], parts)]


def ratio(name: str, rows: dict[str, Row]) -> str:
    """Examples per second of fjt over those of a row of PyTorch on the same texts; "" for other rows."""
    if not name.startswith("torch "):
        return ""
    ours = rows.get("fjt " + name.removeprefix("torch ").split(", ")[0] + ", dropout", {})
    if "no attention dropout" in name:
        ours = rows.get("fjt " + name.removeprefix("torch ").split(", ")[0] + ", no attention dropout", {})
    if "examples_per_second" not in ours:
        return ""
    return f"{ours['examples_per_second'] / rows[name]['examples_per_second']:.2f}"


def _lanes(rows: dict[str, Row]) -> list[str]:
    alone = {
        r["options"]["method"]: r.get("examples_per_second") for r in rows.values() if not r["options"].get("lanes", 1)
    }
    cells = []
    for name, row in rows.items():
        if "examples_per_second" not in row:
            cells.append([name, "", "", "", "", _state(row)])
            continue
        one, rate = alone.get(row["options"]["method"]), row["examples_per_second"]
        over = "" if one is None else f"{rate / one:.2f}"
        time = f"{1000 * row['seconds']:.2f}" if "seconds" in row else ""
        planned = f"{row['bytes'] / 2**30:.3f}" if "bytes" in row else ""
        cells.append([name, time, f"{rate:,.0f}", over, planned, _state(row)])
    return _table(["runs", "ms per step", "examples/s of all", "over alone", "program, GiB", "state"], cells)


def _memory(rows: dict[str, Row]) -> list[str]:
    cells = []
    for name, row in rows.items():
        names = ("planned_bytes", "ahead_bytes", "compiler_bytes", "before_bytes", "measured_bytes")
        sizes = [_number(row.get(key), ".3f", 2**-30) for key in names]
        cells.append([name, *sizes, _number(row.get("ratio"), ".2f"), _state(row)])
    header = [
        "step",
        "planned, GiB",
        "ahead, GiB",
        "compiler, GiB",
        "before, GiB",
        "measured, GiB",
        "measured / planned",
        "state",
    ]
    return _table(header, cells)


TABLES = {"smoke": _smoke, "exact": _exact, "speed": _speed, "lanes": _lanes, "memory": _memory}
