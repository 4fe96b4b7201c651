"""The table of what the tools changed: paired differences over seeds, and combinations beside their parts."""

import numpy as np
import scipy.stats


def difference(with_tool, without):
    """(mean, low, high) of paired differences over seeds."""
    each = np.array(with_tool) - np.array(without)
    half = scipy.stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)) if len(each) > 1 else np.nan
    return float(each.mean()), float(each.mean() - half), float(each.mean() + half)


def table(record, about, groups):
    """The table of a record, in Markdown.

    Args:
        record: the contents of remedies.json.
        about: the docstring of the command, which describes the groups.
        groups: {name: Group}.
    """
    about, described = about.split("\n\n")[2:4]
    about, described = " ".join(about.split()), dict(line.split(None, 1) for line in described.splitlines())
    lines = ["# What the tools changed", "", about.removesuffix(" Groups:"), ""]
    lines += [
        f"Encoder: {record['weights']}. Last command: `{record['command']}`. {record['device']}, jax "
        f"{record['versions']['jax']}.",
        "",
    ]
    for name, group in groups.items():
        runs = record["runs"].get(name, {})
        plain = runs.get("without", {})
        if not plain:
            continue
        lines += [
            f"## {name}",
            "",
            f"{described[name]}.",
            "",
            "| tool | meant to change | " + " | ".join(group.scores) + " | seconds | seeds |",
        ]
        lines += ["|---|---|" + "--:|" * (len(group.scores) + 2)]
        refused = []
        means = [f"{np.mean([run[score] for run in plain.values()]):.4f}" for score in group.scores]
        lines.append(f"| without | - | {' | '.join(means)} | {seconds(plain)} | {len(plain)} |")
        for tool, (meant, _) in (group.tools | group.derived).items():
            own = {seed: run for seed, run in runs.get(tool, {}).items() if "refused" not in run}
            refused += [f"{tool}, seed {s}: {run['refused']}" for s, run in runs.get(tool, {}).items() if s not in own]
            if seeds := sorted(own.keys() & plain.keys()):
                cells = []
                for score in group.scores:
                    if score not in own[seeds[0]]:
                        cells.append("-")
                        continue
                    apart, low, high = difference([own[s][score] for s in seeds], [plain[s][score] for s in seeds])
                    cells.append(f"{apart:+.4f}" if np.isnan(low) else f"{apart:+.4f} ({low:+.4f} to {high:+.4f})")
                lines.append(f"| {tool} | {meant} | {' | '.join(cells)} | {seconds(own)} | {len(seeds)} |")
        lines += ["", *(f"Refused: {text}" for text in refused), *[""] * bool(refused)]
    for name in sorted(record.get("combined", {})):
        lines += [f"## The runs of {name} as one", "", COMBINED, ""]
        lines += [
            "| how | mcc | mean of its parts | best part | difference from the best part | ece | models per text "
            "| seconds of training |"
        ]
        lines += ["|---|--:|--:|--:|--:|--:|--:|--:|"]
        for how, one in record["combined"][name].items():
            apart, parts = one["difference"], one["parts"]
            cells = [f"{one['mcc']:.4f}", f"{np.mean(parts):.4f}", f"{parts[one['best_on_dev']]:.4f}"]
            cells += [f"{apart['value']:+.4f} ({apart['low']:+.4f} to {apart['high']:+.4f})", f"{one['ece']:.4f}"]
            cells += [str(one["models_per_prediction"]), f"{one['train_seconds']:.0f}"]
            lines.append(f"| {how} of {len(one['used'])} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


COMBINED = (
    "The best part has the highest mcc on dev.  Greedy keeps what raises accuracy there, from the best part on, those "
    "that have collapsed last.  The interval is over examples, for these runs.  In cola each seed drew its own head, "
    "so that the runs of a soup started apart."
)


def seconds(runs):
    """The mean training time of runs, "-" for what was derived from others."""
    found = [run["train_seconds"] for run in runs.values() if "train_seconds" in run]
    return f"{np.mean(found):.0f}" if found else "-"
