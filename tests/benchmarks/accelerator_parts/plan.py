"""The cases of each part, in the order of their worth, as plain data."""

import dataclasses
import fnmatch
from typing import Any

PARTS = ("smoke", "exact", "speed", "lanes", "memory")
MODULES = {"smoke": "smoke", "exact": "exact", "speed": "speed", "lanes": "lanes", "memory": "memory"}
HERE = ""  # the process of cases that start their own processes: it never opens the device


@dataclasses.dataclass(frozen=True)
class Case:
    """One measurement or check.

    Attributes:
        part: one of PARTS.
        name: unique in its part.
        module: of this package; it has the function that runs the case.
        process: successive cases with the same name share one process, a worker; HERE: the command's own process.
        options: given to the function that runs the case.
    """

    part: str
    name: str
    module: str
    process: str
    options: dict[str, Any]

    @property
    def key(self) -> str:
        """The name of the case among all parts."""
        return f"{self.part}/{self.name}"


def cases(parts: tuple[str, ...], tiny: bool, patterns: tuple[str, ...] = ()) -> list[Case]:
    """The cases of some parts.

    Args:
        parts: names from PARTS.
        tiny: whether shapes are tiny and steps few, for a CPU.
        patterns: of the keys to keep, as in a shell; (): all.
    """
    makers = {"smoke": _smoke, "exact": _exact, "speed": _speed, "lanes": _lanes, "memory": _memory}
    found = [case for part in PARTS if part in parts for case in makers[part](tiny)]
    if tiny:  # nobody else needs the device, and starting a process takes longer than a case
        found = [dataclasses.replace(case, process=_together(case.process)) for case in found]
        found.sort(key=lambda case: ("all", "torch", HERE).index(case.process))
    return [case for case in found if not patterns or any(fnmatch.fnmatch(case.key, one) for one in patterns)]


def _together(process: str) -> str:
    return process if process in (HERE, "torch") else "all"


def _smoke(tiny: bool) -> list[Case]:
    return [Case("smoke", name, "smoke", HERE, {"what": name}) for name in ("quickstart", "resume", "lora", "study")]


def _exact(tiny: bool) -> list[Case]:
    small = {"shape": "smallest" if tiny else "small", "batch": 32}
    found = [
        ("layouts small float32", "exact", {"dtype": "float32", "steps": 20, "tolerance": 2e-6} | small),
        ("layouts small float64", "exact", {"dtype": "float64", "steps": 60, "tolerance": 1e-12} | small),
        ("flips", "flips", {"steps": 12 if tiny else 300, "train": 100 if tiny else 2000, "dev": 60 if tiny else 2000}),
        ("repeat", "repeat", {"shape": "tiny" if tiny else "base", "steps": 4 if tiny else 30}),
    ]
    if not tiny:
        base = {"shape": "base", "batch": 16, "dtype": "float32", "steps": 20, "tolerance": 2e-6}
        found.append(("layouts base float32", "exact", base))
    processes = {"exact": "exact", "flips": "exact", "repeat": HERE}
    return [Case("exact", name, module, processes[module], options) for name, module, options in found]


def _speed(tiny: bool) -> list[Case]:
    found = []

    def ours(process, shape, batch, length, dtype, *variants):
        options = {"shape": shape, "batch": batch, "length": length, "dtype": dtype}
        for variant in variants:
            name = f"fjt {shape} {batch} x {length} {dtype}, {variant}"
            found.append(Case("speed", name, "speed", process, options | {"variant": variant}))

    def theirs(process, shape, batch, length, dtype, *variants):
        options = {"shape": shape, "batch": batch, "length": length, "dtype": dtype}
        for variant in variants:
            name = f"torch {shape} {batch} x {length} {dtype}, {variant}"
            found.append(Case("speed", name, "torch_speed", process, options | {"variant": variant}))

    if tiny:
        ours("fjt", "tiny", 4, 32, "float32", "dropout", "parts of the step", "no attention dropout")
        ours("fjt", "tiny", 4, 32, "bfloat16", "dropout")
        theirs("torch", "tiny", 4, 32, "float32", "random, compiled", "random", "grouped, compiled")
        theirs("torch", "tiny", 4, 32, "bfloat16", "random, no attention dropout")
        return found
    first, rest = ("base", 32, 128, "bfloat16"), ("dropout",)
    ours("fjt 1", *first, "dropout", "parts of the step", "no attention dropout", "no dropout")
    theirs(
        "torch 1", *first, "random, compiled", "random", "grouped, compiled", "random, compiled, no attention dropout"
    )
    ours("fjt 2", "base", 256, 128, "bfloat16", *rest)
    ours("fjt 2", "base", 32, 128, "float32", *rest)
    ours("fjt 2", "base", 32, 512, "bfloat16", "dropout", "parts of the step")
    theirs("torch 2", "base", 256, 128, "bfloat16", "random, compiled")
    theirs("torch 2", "base", 32, 128, "float32", "random, compiled")
    theirs("torch 2", "base", 32, 512, "bfloat16", "random, compiled", "grouped, compiled")
    ours("fjt 3", "large", 32, 128, "bfloat16", "dropout", "parts of the step")
    theirs("torch 3", "large", 32, 128, "bfloat16", "random, compiled")
    for dtype in ("bfloat16", "float32"):
        for shape in ("base", "large"):
            for batch, length in ((256, 128), (32, 256), (256, 256), (32, 512), (256, 512), (32, 128)):
                wanted = f"{shape} {batch} x {length} {dtype},"
                if not any(case.name.startswith(f"fjt {wanted}") for case in found):
                    ours(f"fjt {wanted}", shape, batch, length, dtype, *rest)
                if not any(case.name.startswith(f"torch {wanted}") for case in found):
                    theirs(f"torch {wanted}", shape, batch, length, dtype, "random, compiled")
    return found


def _lanes(tiny: bool) -> list[Case]:
    shape, rows, length = ("tiny", 4, 16) if tiny else ("base", 32, 64)
    counts, processes = ((0, 1, 4), (2,)) if tiny else ((0, 1, 4, 16, 64, 256, 1024), (2, 4, 8))
    common = {"shape": shape, "rows": rows, "length": length, "dtype": "float32" if tiny else "bfloat16"}
    common |= {"steps": 3 if tiny else 20}
    found = []
    for method in ("lora", "head"):
        for count in counts:
            name = f"{method}, {count} lanes" if count else f"{method}, the run alone"
            options = common | {"method": method, "lanes": count}
            found.append(Case("lanes", name, "lanes", f"lanes {method}", options))
        for count in processes if method == "lora" or not tiny else ():
            options = common | {"method": method, "processes": count, "seconds": 0.3 if tiny else 5.0}
            found.append(Case("lanes", f"{method}, {count} processes", "beside", HERE, options))
    return found


def _memory(tiny: bool) -> list[Case]:
    found = []
    sizes = [("tiny", 4, 32)] if tiny else [("base", 32, 128), ("base", 256, 128), ("large", 32, 512)]
    for shape, batch, length in sizes:
        for method in ("full", "lora"):
            name = f"{method} {shape} {batch} x {length}"
            options = {"shape": shape, "batch": batch, "length": length, "method": method}
            options |= {"dtype": "float32" if tiny else "bfloat16"}
            found.append(Case("memory", name, "memory", name, options))  # a process each: the peak is its own
    return found
