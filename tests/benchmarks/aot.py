"""What fjt.aot says of BERT-base and -large on TPUs: a record per case and one table.

    python -m tests.benchmarks.aot --output results/aot [--only NAME ...]

Needs the TPU's compiler (pip install -e .[tpu]) and two to ten minutes for each case on two cores.  Cases whose record
is there are not compiled again.  Examples have 128 tokens; the head has two classes; dropout is BERT's.
"""

import argparse
import sys
from pathlib import Path

from tests.benchmarks import common

# {name: (topology, encoder, method, further flags)}
CASES = {
    f"{encoder}-{method}-{topology.partition(':')[0]}": (topology, encoder, method, ["--batch", "256"])
    for topology in ("v5e:2x4", "v5p:2x2x2", "v6e:2x4")
    for encoder in ("base", "large")
    for method in ("full", "lora")
} | {
    "large-full-v5e-64": ("v5e:8x8", "large", "full", ["--batch", "2048"]),
    "base-full-v5e-spread": ("v5e:2x4", "base", "full", ["--batch", "256", "--shard_params", "True"]),
    "base-full-v5e-shared": ("v5e:2x4", "base", "full", ["--batch", "256", "--mesh", "2x4"]),
    "base-full-v5e-largest": ("v5e:2x4", "base", "full", ["--batch", "256,2048,largest"]),
}
GIB = 2**30


def main(argv):
    """The exit code of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES))
    options = parser.parse_args(argv[1:])
    options.output.mkdir(parents=True, exist_ok=True)
    codes = []
    for name in options.only:
        record = options.output / f"{name}.json"
        if not steps_of(record):
            codes.append(common.run(command(name, record), options.output.parent / f"{name}.log"))
            print(f"{name}: exit code {codes[-1]}", flush=True)
    (options.output / "table.md").write_text(table(options.output))
    return int(any(codes))


def steps_of(record):
    """The steps of a record; none before the first one is compiled."""
    return common.read_json(record).get("steps", []) if record.exists() else []


def command(name, record):
    """The command line of a case."""
    topology, encoder, method, flags = CASES[name]
    flags = ["--topology", topology, "--encoder", encoder, "--padded", "128", *flags, "--output", str(record)]
    return [
        sys.executable,
        "-m",
        "fjt.aot",
        "--config",
        "configs/glue.py:rte",
        *flags,
        f"--config.tune.method={method}",
    ]


def table(folder):
    """The page of all records."""
    lines = [
        "# What a TPU's compiler says of a training step",
        "",
        "Written by `python -m tests.benchmarks.aot --output results/aot` from the records here, on a machine without",
        "a TPU. Nothing was run: cycles are the compiler's estimate, without communication, and ms are those",
        "cycles at the chip's clock. Examples have 128 tokens, computation is in bfloat16, dropout 0.1. MiB are sent.",
        "",
        "| case | chips | layout | examples | peak GiB | allocated | fits | Mcycles | ms | of peak | sent |",
        "|---|---|---|--:|--:|--:|---|--:|--:|--:|---|",
    ]
    for name in CASES:
        path = folder / f"{name}.json"
        for step in steps_of(path):
            mesh = step["mesh"]
            layout = f"{mesh['data'] or 'all'}x{mesh['model']}{' spread' if mesh['shard_params'] else ''}"
            sent = [f"{key} {size / 2**20:,.1f}" for key, size in step["sent_bytes"].items() if size > 1e5]
            fits = step["fits"]
            cells = [
                name,
                common.read_json(path)["topology"],
                layout,
                f"{step['batch']:,}",
                f"{step['peak_bytes'] / GIB:.2f}" if step["fits"] else "",
                f"{step['needed_bytes'] / GIB:.2f}",
                "yes" if fits else "no",
                f"{step['estimated_cycles'] / 1e6:,.1f}" if fits else "",
                f"{1e3 * step['seconds_without_communication']:,.1f}" if fits else "",
                f"{step['share_of_peak_without_communication']:.0%}" if fits else "",
                ", ".join(sent),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *costs(folder), ""])


def costs(folder, name="base-full-v5e", most=8):
    """The largest costs of a case, and what its step would be without each of them."""
    steps = steps_of(folder / f"{name}.json")
    if not steps:
        return []
    total, share = steps[0]["estimated_cycles"], steps[0]["share_of_peak_without_communication"]
    lines = [
        f"The largest costs of {name}, all layers together, by their place in the code:",
        "",
        "| place | Mcycles | of all | share of peak without it |",
        "|---|--:|--:|--:|",
    ]
    for place, cycles in list(steps[0]["largest_costs"].items())[:most]:
        lines.append(
            f"| `{place}` | {cycles / 1e6:.2f} | {cycles / total:.1%} | {share * total / (total - cycles):.1%} |"
        )
    return lines


if __name__ == "__main__":
    sys.exit(main(sys.argv))
