"""Measures of the code as a reader meets it, of this checkout and of another one.

    python -m tests.benchmarks.house --before DIR --output results/house

Counted from the source: lines, statements without docstrings (which no formatter changes), the longest file, functions
over 60 lines, public functions with all types, `# fmt: skip` and the words of the README outside code blocks. Counted
in a run: the modules of fjt that execute any function between the call of `main` and the end of a run of two steps,
more than one has to open to follow the run.
"""

import argparse
import ast
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

LONG = 60
RUN = ("--config", "configs/quickstart.py", "--config.data.limit=48", "--config.train.steps=2")
# Counts the modules in which a function begins, while `fjt.main` makes the run.
FOLLOW = """
import json, sys, threading
seen = set()
def note(frame, event, argument):
    name = frame.f_globals.get("__name__", "")
    if name.startswith("fjt.") and frame.f_code.co_name != "<module>":
        seen.add(name)
import fjt.main
sys.setprofile(note)
threading.setprofile(note)
code = fjt.main.main(sys.argv)
sys.setprofile(None)
print("\\n" + json.dumps([code, sorted(seen)]))
"""


def functions(path):
    """[(name, function)] of a file; a method is `Class.method`, a function inside another one is left out."""
    module = ast.parse(path.read_text(encoding="utf-8"))
    for node in module.body:
        for prefix, body in [("", [node]), *([(f"{node.name}.", node.body)] if isinstance(node, ast.ClassDef) else [])]:
            yield from ((prefix + f.name, f) for f in body if isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)))


def typed(function):
    """Whether every parameter but self and cls, and the result, have a type."""
    own = function.args
    parameters = [*own.posonlyargs, *own.args, *own.kwonlyargs, *filter(None, (own.vararg, own.kwarg))]
    needed = [p for p in parameters if p.arg not in ("self", "cls")]
    return function.returns is not None and all(p.annotation for p in needed)


def statements(path):
    """Number of statements of a file, docstrings left out."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    found = [node for node in nodes if isinstance(node, ast.stmt)]
    return sum(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in found)


def words(path):
    """Words of a Markdown file outside code blocks."""
    return len(re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S).split())


def followed(checkout):
    """The modules that take part in a run of two steps."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", FOLLOW, *RUN, "--workdir", f"{folder}/run"]
        # The variable keeps earlier versions from starting again by themselves, without the profile.
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}
        done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=True)
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code == 0, done.stderr
    return modules


def measure(checkout):
    """{measure: value} of a checkout."""
    files = sorted((checkout / "fjt").rglob("*.py"))
    lengths = {str(file.relative_to(checkout)): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    found = [(file, name, function) for file in files for name, function in functions(file)]
    public = [(name, f) for _, name, f in found if not any(part.startswith("_") for part in name.split("."))]
    longest = max(lengths, key=lengths.get)
    long = [name for _, name, f in found if f.end_lineno - f.lineno + 1 > LONG]
    return {
        "modules of a run": len(followed(checkout)),
        "functions over 60 lines": len(long),
        "public functions": len(public),
        "of them with all types": sum(typed(function) for _, function in public),
        "`# fmt: skip` in fjt": sum(file.read_text(encoding="utf-8").count("# fmt: skip") for file in files),
        "`# fmt: skip` in tests": sum(
            file.read_text(encoding="utf-8").count("# fmt: skip") for file in (checkout / "tests").rglob("*.py")
        ),
        "files of fjt": len(files),
        "lines of fjt": sum(lengths.values()),
        "statements of fjt": sum(map(statements, files)),
        "lines of the longest file": f"{lengths[longest]} ({longest})",
        "words of the README": words(checkout / "README.md"),
    }


def main(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, type=pathlib.Path, help="another checkout of fjt")
    parser.add_argument("--output", required=True, type=pathlib.Path, help="the folder of table.md")
    options = parser.parse_args(arguments)
    here = pathlib.Path(__file__).resolve().parents[2]
    before, after = measure(options.before.resolve()), measure(here)
    rows = [[name, str(before[name]), str(after[name])] for name in after]
    options.output.mkdir(parents=True, exist_ok=True)
    table = ["| measure | before | after |", "|---|---:|---:|", *(f"| {' | '.join(row)} |" for row in rows)]
    text = f"`python -m tests.benchmarks.house --before DIR --output {options.output}`\n\n"
    (options.output / "table.md").write_text(text + "\n".join(table) + "\n", encoding="utf-8")
    print("\n".join(table))


if __name__ == "__main__":
    main(sys.argv[1:])
