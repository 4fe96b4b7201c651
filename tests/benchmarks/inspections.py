"""What `python -m fjt.inspect` finds in public data sets: counts alone, no texts.

    python -m tests.benchmarks.inspections --model DIR --data DIR --output results/toolbox

The data: GLUE's CoLA, SST-2, MRPC, RTE, STS-B and WNLI, a sample of AG News, SQuAD 1.1, the dev questions of SQuAD 2.0
(a fifth of them held out as dev), WNUT-17, and the validation and test texts of WikiText-2 as documents.  Each is
inspected by the command in a process of its own, without a cache.  The work directory keeps finished inspections: the
same command goes on from there.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.benchmarks import common
from tests.benchmarks.multilabel import FILES

GLUE = ("cola", "sst2", "mrpc", "rte", "stsb", "wnli")
SHOWN = ("finding", "severity", "split", "count", "share")


def commands(data, work):
    """{data set: flags of the command}."""
    data, found = Path(data).resolve(), {}
    for task in GLUE:
        found[task] = ["--config", f"configs/glue.py:{task}", "--config.data.source=files"]
        found[task] += [f"--config.data.dir={data / 'glue'}"]
    found["ag_news"] = ["--config", "configs/ag_news.py", f"--config.data.dir={data / 'ag_news'}"]
    for name, config, files in (
        ("squad", "squad", {"train": "squad/train-v1.1.json", "dev": "squad/dev-v1.1.json"}),
        ("squad2", "squad", {"train": "squad/dev-v2.0.json"}),
        ("wnut17", "ner", {split: f"wnut17/{file}" for split, file in FILES.items()}),
        ("wikitext2", "pretrain", {"train": "wikitext2/valid.txt", "dev": "wikitext2/test.txt"}),
    ):
        found[name] = ["--config", f"configs/{config}.py"]
        for split, file in files.items():
            link = work / "data" / f"{name}-{split}{'.conll' if name == 'wnut17' else Path(file).suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(data / file)
            found[name].append(f"--config.data.files.{split}={link}")
    found["squad2"].append("--config.data.holdout=0.2")
    return found


def inspect(args, name, flags, work):
    """The record of an inspection without texts, with the seconds of the whole command."""
    path = work / f"{name}.json"
    if not path.exists():
        output = work / name
        flags = [*flags, f"--config.model.path={Path(args.model).resolve()}", "--output", str(output)]
        flags += [f"--config.cache.dir={work / 'cache' / name}"]
        start = time.monotonic()
        if common.run([sys.executable, "-m", "fjt.inspect", *flags], work / f"{name}.log"):
            raise SystemExit(f"the inspection of {name} failed")
        seconds = time.monotonic() - start
        (facts,) = common.read_json(output / "inspection.json")["tasks"].values()
        plan = common.read_json(output / "inspection.json")["plan"]
        rows = {split: about["rows"] for split, about in facts["splits"].items()}
        findings = [{key: finding[key] for key in SHOWN} for finding in facts["findings"]]
        record = {"rows": rows, "seconds": seconds, "real_tokens": plan["real_tokens"], "findings": findings}
        common.write_json(path, record | {"skew": facts["skew"]})
    return common.read_json(path)


def table(record):
    """The text of inspect.md."""
    sets, rows, found = record["data"], [], []
    for name, one in sets.items():
        severities = [finding["severity"] for finding in one["findings"]]
        counts = [severities.count(severity) for severity in ("serious", "warning", "notice")]
        size = " / ".join(f"{count:,}" for count in one["rows"].values())
        shares = [f"{100 * one['real_tokens'][key]:.0f} %" for key in ("planned", "longest_of_batch", "max_length")]
        rows.append([f"{name}: {' / '.join(one['rows'])}", size, *counts, f"{one['seconds']:.0f}", *shares])
        found += [
            [
                name,
                finding["severity"],
                finding["finding"],
                finding["split"],
                f"{finding['count']:,}",
                f"{100 * finding['share']:.2f} %",
            ]
            for finding in one["findings"]
        ]
    header = ["data", "rows", "serious", "warnings", "notices", "seconds", "real tokens, packed"]
    lines = [
        "# What an inspection finds in public data sets",
        common.markdown([*header, "padded to the batch", "padded to max_length"], rows),
        "Seconds are of the whole command, with the imports, the tokenizer and the plan, next to whatever else the "
        "machine did. The dev rows of AG News are a twentieth of its sample. Nearly equal texts share at least 80 % of "
        "their pairs of neighbouring words.",
        "## Findings",
        "The share is that of rows. Of unknown tokens it is that of tokens, of other labels the distance from train, "
        "of a column the part of a constant's error that it removes, and of a token the part of its label's rows.",
        common.markdown(["data", "severity", "finding", "split", "count", "share"], found),
        common.footer(record),
    ]
    return "\n\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a Hugging Face directory of a BERT")
    parser.add_argument("--data", required=True, help="the folder with glue, ag_news, squad, wnut17 and wikitext2")
    parser.add_argument("--output", required=True, help="folder for inspect.json and inspect.md")
    parser.add_argument("--only", nargs="+", help="some of the data sets")
    parser.add_argument("--work", default="runs/inspections", help="folder of the inspections")
    args = parser.parse_args()
    work, output = Path(args.work), Path(args.output)
    work.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, flags in commands(args.data, work.resolve()).items():
        if not args.only or name in args.only:
            found[name] = inspect(args, name, flags, work.resolve())
            print(name, len(found[name]["findings"]), "findings", flush=True)
    provenance = common.provenance("tests.benchmarks.inspections", args)
    record = provenance | {"data": found}
    common.write_json(output / "inspect.json", record)
    (output / "inspect.md").write_text(table(record), encoding="utf-8")


if __name__ == "__main__":
    main()
