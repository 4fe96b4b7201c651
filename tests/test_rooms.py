"""Who may import whom: one order of rooms, outside packages where they belong, and names that one file alone holds."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fjt.models.families import FAMILIES
from fjt.tasks.kinds import PROBLEMS
from fjt.tuning.partition import METHODS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "fjt"

# The rooms, from the bottom up: a room imports only rooms before it in this list.
ROOMS = (
    "core",
    "data",
    "tasks",
    "models",
    "tuning",
    "training",
    "interop",
    "experiment",
    "study",
    "reports",
    "doors",
)
LEVEL = {room: level for level, room in enumerate(ROOMS)}
DOORS = (
    "aot",
    "api",
    "calibrate",
    "combine",
    "configs",
    "evaluate",
    "export",
    "find_lr",
    "flags",
    "inspect",
    "main",
    "predict",
    "report",
    "reproduce",
    "search",
    "sweep",
    "vocabulary",
)


def modules():
    """{dotted name below fjt: path} of every module; a package has the name of its folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source):
    """{dotted names} that a source imports, inside functions too; `from a import b` counts as a and a.b."""
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
    """The modules of fjt among the imported names; a package counts where it imports something itself."""
    found = {other for other in MODULES if other and other != name and f"fjt.{other}" in imported}
    return {other for other in found if MODULES[other].name != "__init__.py" or IMPORTS[other]}


def room_of(name):
    return "doors" if name in DOORS else name.split(".")[0]


def check_rooms(graph):
    """graph: {module: modules of fjt that it imports}."""
    for name, imported in graph.items():
        for other in imported:
            mine, theirs = room_of(name), room_of(other)
            assert mine in LEVEL and theirs in LEVEL, f"{name} imports {other}: one of them is in no room of ROOMS"
            assert LEVEL[theirs] <= LEVEL[mine], f"fjt/{name} imports fjt/{other}, a room above it"
    left = dict(graph)
    while left:
        free = [name for name, imported in left.items() if not imported & left.keys()]
        assert free, f"these import each other in a circle: {sorted(left)}"
        for name in free:
            del left[name]


GRAPH = {name: inside(name, imported) for name, imported in IMPORTS.items() if name}


def test_imports_go_down_the_rooms():
    assert {room_of(name) for name in GRAPH} == set(LEVEL), "every module is in a room, and every room is there"
    pure = {"core.prng", "core.tree", "models.mixup", "training.hyper", "training.optim"}
    assert len(GRAPH) > 25 and GRAPH["training.step"] == pure
    check_rooms(GRAPH)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("training.step", "from fjt.experiment import prepare"),
        ("data.batches", "from fjt.models.encoder import Model"),
        ("models.layers", "import fjt.tuning.method"),
        ("core.errors", "import fjt.core.tree"),  # a circle inside a room: tree imports errors
        ("training.optim", "def f():\n    from fjt.main import main"),
    ],
)
def test_an_import_that_goes_up_is_rejected(name, source):
    with pytest.raises(AssertionError, match=r"above|circle"):
        check_rooms(GRAPH | {name: GRAPH[name] | inside(name, imports(source))})


def outside(imported):
    return {name.split(".")[0] for name in imported}


def users(package):
    """The modules of fjt that import an outside package."""
    return {name for name, imported in IMPORTS.items() if package in outside(imported)}


def test_flax_is_for_models():
    assert users("flax") and all(name.startswith("models.") for name in users("flax"))


def test_config_dicts_stay_at_the_top():
    assert users("ml_collections") <= {"core.schema", "core.settings", *DOORS}
    assert users("absl") <= set(DOORS)
    for path in sorted((ROOT / "configs").glob("*.py")):
        assert outside(imports(path.read_text(encoding="utf-8"))) <= {"configs", "fjt", "ml_collections"}, path.name


def test_orbax_stays_behind_checkpoint():
    assert users("orbax") == {"training.checkpoint"}


def reachable(name):
    """The modules of fjt that are loaded when one is imported, with itself."""
    found, waiting = set(), {name}
    while waiting:
        found |= waiting
        waiting = {other for one in waiting for other in GRAPH[one]} - found
    return found


def test_data_never_loads_jax():
    numpy_only = [name for name in GRAPH if name.startswith("data.")] + ["core.tree", "core.records", "core.options"]
    assert len(numpy_only) > 8
    for name in numpy_only:
        assert not reachable(name) & users("jax"), name


@pytest.mark.parametrize("package", ["torch", "tensorflow", "datasets", "keras"])
def test_no_other_framework(package):
    assert not users(package)


# Strings that are also something other than a method: the tree of the head, the recipe and the partner of full tuning.
SHARED_WORDS = {"head", "full"}
KNOWS_METHODS = ("core/options.py",)  # combinations under one name


def named_methods(source):
    """The methods whose names are strings in a source."""
    strings = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
    return {name for name in METHODS if name in strings} - SHARED_WORDS


def test_a_method_is_named_in_its_own_room_alone():
    named = {str(path.relative_to(PACKAGE)): named_methods(path.read_text("utf-8")) for path in MODULES.values()}
    outside_tuning = {path: found for path, found in named.items() if found and not path.startswith("tuning/")}
    assert set(outside_tuning) == set(KNOWS_METHODS), outside_tuning
    for path in ("tuning/cost.py", "tuning/partition.py", "tuning/method.py", "tuning/forms.py", "tuning/budget.py"):
        assert not named[path], f"fjt/{path} names {named[path]}: the method's row should say it"
    assert named_methods('if name == "lora": pass') == {"lora"}  # a source that the test above rejects


# What moves arrays between host and devices or lays out devices, and what knows of other processes.
PLACES = ("device_put", "device_get", "Mesh(", "NamedSharding")
PROCESSES = ("process_index", "process_count", "multihost_utils", "jax.distributed")


def placed(source, names=PLACES):
    """The names in a source."""
    return {name for name in names if name in source}


@pytest.mark.parametrize(("names", "file"), [(PLACES, "training.placement"), (PROCESSES, "training.processes")])
def test_transfers_stay_behind_placement_and_processes(names, file):
    found = {name for name, path in MODULES.items() if placed(path.read_text("utf-8"), names)}
    assert found == {file}, found
    assert placed("y = jax.device_put(x)") == {"device_put"}  # a source that the test above rejects
    assert placed("mesh = jax.sharding.Mesh(devices, names)") == {"Mesh("}
    assert not placed("def f(mesh: jax.sharding.Mesh): ...")


SPECIAL = ("__init__", "__call__", "__getitem__")


def untyped(source):
    """The functions of a source, methods and functions inside others too, that lack a type, but for private ones."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and (node.name in SPECIAL or not node.name.startswith("_")):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            if not node.returns or not all(one.annotation for one in every if one and one.arg not in ("self", "cls")):
                found.append(f"{node.name}, line {node.lineno}")
    return found


def test_public_functions_have_types():
    files = [*MODULES.values(), *(ROOT / "configs").glob("*.py")]
    lacking = {str(path): untyped(path.read_text(encoding="utf-8")) for path in files}
    assert not any(lacking.values()), {name: found for name, found in lacking.items() if found}


@pytest.mark.parametrize(
    "source",
    [
        "def f(x) -> int: ...",
        "def f(x: int): ...",
        "def f(*x: int, **y) -> int: ...",
        "class A:\n    def f(self, x) -> int: ...",
        "class A:\n    def __init__(self, x): ...",
        "class A:\n    def __init__(self): ...",
        "def f() -> int:\n    def g(x): ...",
    ],
)
def test_the_check_rejects_what_lacks_a_type(source):
    assert untyped(source)


def test_no_utils():
    assert not [name for name in MODULES if "util" in name or "helper" in name or "misc" in name]


def test_every_room_introduces_itself():
    for room in (room for room in ROOMS if room != "doors"):
        words = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text()))
        assert words and 3 <= len(words.splitlines()) <= 8, f"fjt/{room}/__init__.py: what the room is for, in lines"


# Names that belong to one family or one kind, and the only other places that may hold them.
PREFIXES = "|".join({family.prefix for family in FAMILIES.values()})
FAMILY_NAME = re.compile(rf"^({'|'.join(FAMILIES)})$|\b({PREFIXES})\.|Bert[A-Z]|Roberta[A-Z]")
KIND_NAME = re.compile(rf"^({'|'.join(PROBLEMS)})$")
ALLOWED = {
    ("data.vocabulary", "BertNormalizer"): "a class of `tokenizers`",
    ("data.vocabulary", "BertPreTokenizer"): "a class of `tokenizers`",
    ("data.tokenization", "BertTokenizer"): "the class of WordPiece tokenizers in transformers",
    ("tuning.bottleneck_forms", "bert"): "AdapterHub's name of a way to draw first values",
    ("core.options", "classification"): "the default of config.data.kind",
    ("data.glue", "classification"): "a table of tasks",
    ("data.glue", "regression"): "a table of tasks",
    ("data.synthetic", "classification"): "a table of tasks",
}


def words(tree):
    """The strings, names and attributes of a module, without its docstrings."""
    bodies = [node.body for node in ast.walk(tree) if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef))]
    texts = {id(body[0].value) for body in bodies if isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in texts:
            yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def misplaced(name, source):
    """The names of families and kinds in a module that is none of theirs."""
    found = set(words(ast.parse(source)))
    own = {"models.bert", "models.roberta", "models.families"}
    families = set() if name in own else {word for word in found if FAMILY_NAME.search(word)}
    kinds = set() if name.startswith("tasks.") else {word for word in found if KIND_NAME.search(word)}
    return {word for word in families | kinds if (name, word) not in ALLOWED}


def test_only_its_own_file_names_a_family_or_a_kind():
    for name, path in MODULES.items():
        assert not (found := misplaced(name, path.read_text(encoding="utf-8"))), (name, found)


@pytest.mark.parametrize(
    "source",
    [
        'if config.family == "roberta": pass',
        'key = f"bert.encoder.{layer}"',
        "transformers.RobertaTokenizer",
        'task.kind == "regression"',
        'KINDS = {"multi_label": 1}',
    ],
)
def test_a_name_of_a_family_or_kind_elsewhere_is_found(source):
    assert misplaced("interop.hf", source)


def test_a_command_imports_jax_only_while_its_mistakes_and_its_ctrl_c_are_lines():
    commands = f"import sys\nfrom fjt import {', '.join(DOORS)}\nprint(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", commands], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "fjt.report" in loaded.stdout.split() and "jax" not in loaded.stdout.split()
