"""What a GPU or a TPU must show, in order of worth:  python -m tests.benchmarks.accelerator --output DIR

  smoke    the quickstart learns; killed and resumed, it ends with the same bits; LoRA on top of it; a study as lanes
  exact    losses in several layouts and as a lane; predictions that flip; the same command twice
  speed    the time of a step, its parts, and the share of the peak rate; PyTorch transformers on the same texts
  lanes    examples per second of many runs in one program, and in processes of their own
  memory   planned bytes against the measured peak

Each part has cases.  The result of a case is kept in DIR/<part>.json as soon as it is known, and DIR/<part>.md is the
table; a second call runs the cases that are left.  No case starts after --minutes, and those left are named.  It needs
this checkout and the installed packages alone: weights and texts are random.  Cases that need a missing package or
another device are skipped, and say so.  --tiny runs the same code on a CPU, with shapes that show nothing about speed.

Exit codes: 0 all cases that ran passed, 1 a check failed, 2 a mistake in the arguments.
"""

import argparse
import itertools
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from tests.benchmarks import common
from tests.benchmarks.accelerator_parts import plan, stand_ins
from tests.benchmarks.accelerator_parts.store import GRACE, Store, attempt, child_environment, code_facts, missing


def main(argv=None):
    """The exit code of a command line."""
    args = parse(argv)
    args.cases = tuple(args.cases)
    end = time.time() + 60 * args.minutes
    facts = {"command": command_of(args), "tiny": args.tiny, **code_facts()}
    store = Store(Path(args.output).resolve(), facts)
    chosen = plan.cases(args.parts, args.tiny, args.cases)
    conflicts = [words for part in args.parts if (words := store.conflict(part))]
    if conflicts or not chosen:
        reason = (
            f"{conflicts[0]}. Give another --output." if conflicts else f"no case is named {' or '.join(args.cases)}"
        )
        print(reason, file=sys.stderr)
        return 2
    if missing():
        print(f"not installed: {', '.join(missing())}", flush=True)
    if args.again:
        forget(store, chosen)
    before = left_of(store, chosen)
    print(f"{len(chosen)} cases, {len(chosen) - len(before)} of them known, {args.minutes:g} minutes", flush=True)
    run(store, before, end)
    return report(store, chosen)


def run(store, cases, end):
    """Runs cases until the time."""
    stand_ins.install()  # for the cases that run here
    while cases and time.time() < end:
        first = cases[0]
        if first.process == plan.HERE:
            print(f"{first.key} ...", flush=True)
            if first.module != "smoke" and not store.device():
                start_worker(store, [], end)  # finds the device
            context = {"folder": store.folder, "store": store, "tiny": store.facts["tiny"], "end": end}
            row = attempt(first, context)
            if row is None:
                print(f"{first.key}: cut off by the time", flush=True)
                return
            store.add(first.part, first.name, row)
            print(f"{first.key}: {row['status']} {row['word']} ({row['case_seconds']:.0f} s)", flush=True)
        else:
            _, together = next(itertools.groupby(cases, key=lambda case: case.process))
            group = list(together)
            words = start_worker(store, group, end)
            lost = left_of(store, group)
            if lost and time.time() < end:
                row = {"status": "error", "word": words, "options": lost[0].options, "case_seconds": 0.0}
                store.add(lost[0].part, lost[0].name, row)
                print(f"{lost[0].key}: error {words}", flush=True)
        cases = left_of(store, cases)


def start_worker(store, cases, end):
    """How a worker ended that ran the cases, in words; it is killed some seconds after the time."""
    request = store.folder / "worker.json"
    asked = {"folder": str(store.folder), "facts": store.facts, "keys": [case.key for case in cases]}
    common.write_json(request, asked | {"end": end, "tiny": store.facts["tiny"]})
    command = [sys.executable, "-m", "tests.benchmarks.accelerator_parts.worker", str(request)]
    log = store.folder / "worker.log"
    with open(log, "w") as errors:
        worker = subprocess.Popen(command, cwd=common.ROOT, env=child_environment(), stderr=errors)
        try:
            code = worker.wait(timeout=max(0.0, end - time.time()) + GRACE)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
            return "cut off by the time"
    lines = log.read_text(errors="replace").splitlines()
    return f"the process ended with code {code}: {' / '.join(lines[-3:])[:400]}"


def command_of(args):
    """The command line, without the folder."""
    words = ["python -m tests.benchmarks.accelerator"]
    words += [f"--parts {','.join(args.parts)}"] if args.parts != plan.PARTS else []
    words += ["--cases", *map(shlex.quote, args.cases)] if args.cases else []
    return " ".join([*words, f"--minutes {args.minutes:g}", *(["--tiny"] if args.tiny else [])])


def left_of(store, cases):
    """The cases without a result."""
    known = {part: store.read(part)["rows"] for part in {case.part for case in cases}}
    return [case for case in cases if case.name not in known[case.part]]


def forget(store, cases):
    """Removes the results of cases that failed or ended with an error."""
    for part in {case.part for case in cases}:
        record, names = store.read(part), {case.name for case in cases if case.part == part}
        bad = {name for name in names if record["rows"].get(name, {}).get("status") in ("failed", "error")}
        if bad:
            record["rows"] = {name: row for name, row in record["rows"].items() if name not in bad}
            common.write_json(store.path(part), record)


def report(store, cases):
    """The exit code; prints how the cases ended."""
    left = left_of(store, cases)
    rows = {case.key: store.read(case.part)["rows"][case.name] for case in cases if case not in left}
    for status in ("failed", "error", "skipped"):
        for key, row in rows.items():
            if row["status"] == status:
                print(f"{status}: {key}: {row['word']}")
    for case in left:
        print(f"left: {case.key}")
    count = {status: sum(row["status"] == status for row in rows.values()) for status in ("passed", "skipped")}
    bad = len(rows) - sum(count.values())
    print(f"{count['passed']} passed, {count['skipped']} skipped, {bad} failed, {len(left)} left", flush=True)
    return 1 if bad else 0


def parse(argv):
    """The options of a command line."""

    def parts(text):
        found = tuple(text.split(","))
        unknown = [name for name in found if name not in plan.PARTS]
        if unknown:
            raise argparse.ArgumentTypeError(f"{unknown[0]} is not a part: {', '.join(plan.PARTS)}")
        return found

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="the folder of records and tables")
    parser.add_argument("--parts", type=parts, default=plan.PARTS, help=f"default: {','.join(plan.PARTS)}")
    parser.add_argument("--cases", nargs="+", default=(), metavar="PATTERN", help="such as 'speed/fjt*bfloat16*'")
    parser.add_argument("--minutes", type=float, default=9.0, help="after which no case starts; default 9")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and few steps, for a CPU")
    parser.add_argument("--again", action="store_true", help="also run the cases again that failed")
    return parser.parse_args(argv)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
