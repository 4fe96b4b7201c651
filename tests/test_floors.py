"""Who may import whom: one order of modules, and outside packages where they belong."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fjt"

# Imports go only down this list. Modules of one floor may import each other as long as none waits for another in a
# circle; a folder is one floor, in which the same holds.
FLOORS = (
    ("console", "hyper", "lease", "memory", "network", "prng", "records", "settings", "tree"),
    ("data", "losses", "mesh", "metrics"),
    ("models",),
    ("flops", "tuning"),
    ("optim",),
    ("step",),
    ("lanes",),
    ("checkpoint", "evaluate"),
    ("train",),
    ("interop",),
    ("experiment", "hidden", "inputs", "recipes"),
    ("exports", "group", "outcome", "outputs", "programs", "run", "summary", "workdir"),
    ("load",),
    ("jackknife", "statistics"),
    ("study",),
    ("planner", "plans", "worker"),
    ("reports",),
    ("flags",),
    ("export", "main", "predict", "report", "reproduce", "sweep"),
)
ENTRY_POINTS = FLOORS[-1]
LEVEL = {name: level for level, floor in enumerate(FLOORS) for name in floor}


def modules():
    """{dotted name below fjt: path} of every module."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source):
    """{dotted names} of what a source imports, functions' own imports included; `from a import b` gives a and a.b."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


MODULES = modules()
IMPORTS = {name: imports(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}


def inside(name, imported):
    """The modules of fjt that a module imports."""
    found = {other for other in MODULES if other and other != name and f"fjt.{other}" in imported}
    # A package is only passed through on the way to its modules, and `fjt` itself on the way to all.
    return {other for other in found if MODULES[other].name != "__init__.py" or imports(MODULES[other].read_text())}


def outside(imported):
    return {name.split(".")[0] for name in imported}


def check_floors(graph):
    """graph: {module: modules of fjt that it imports}."""
    for name, imported in graph.items():
        for other in imported:
            mine, theirs = name.split(".")[0], other.split(".")[0]
            assert mine in LEVEL and theirs in LEVEL, f"{name} imports {other}: one has no floor; give it one above"
            assert LEVEL[theirs] <= LEVEL[mine], f"fjt/{name} imports fjt/{other}, which stands above it"
    left = dict(graph)
    while left:
        free = [name for name, imported in left.items() if not imported & left.keys()]
        assert free, f"these import each other in a circle: {sorted(left)}"
        for name in free:
            del left[name]


GRAPH = {name: inside(name, imported) for name, imported in IMPORTS.items() if name}


def test_imports_go_down_the_floors():
    assert {name.split(".")[0] for name in GRAPH} <= set(LEVEL), "a module has no floor; give it one above"
    assert len(GRAPH) > 25 and GRAPH["step"] == {"optim", "prng", "tree"}
    check_floors(GRAPH)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("step", "from fjt import train"),
        ("data.batches", "from fjt.models.encoder import Model"),
        ("settings", "import fjt.tree"),  # a circle on one floor: tree imports settings
        ("optim", "def f():\n    from fjt.run import run"),
    ],
)
def test_an_import_that_goes_up_is_rejected(name, source):
    with pytest.raises(AssertionError, match=r"above|circle"):
        check_floors(GRAPH | {name: GRAPH[name] | inside(name, imports(source))})


def users(package):
    """The modules of fjt, by floor, that import an outside package."""
    return {name for name, imported in IMPORTS.items() if package in outside(imported)}


def test_flax_is_for_models():
    assert users("flax") and all(name.startswith("models.") for name in users("flax"))


def test_config_dicts_stay_at_the_top():
    assert users("ml_collections") <= {"settings", *ENTRY_POINTS}
    assert users("absl") <= {"flags", *ENTRY_POINTS}
    for path in sorted((ROOT / "configs").glob("*.py")):
        assert outside(imports(path.read_text(encoding="utf-8"))) <= {"configs", "fjt", "ml_collections"}, path.name


def test_orbax_stays_behind_checkpoint():
    assert users("orbax") == {"checkpoint"}


def test_data_and_metrics_are_numpy():
    assert not [name for name in users("jax") if name.startswith(("data.", "metrics", "settings", "records", "tree"))]


@pytest.mark.parametrize("package", ["torch", "tensorflow", "datasets", "keras"])
def test_no_other_framework(package):
    assert not users(package)


def test_no_utils():
    assert not [name for name in MODULES if "util" in name or "helper" in name or "misc" in name]
