"""Reads the text of a compiled program: the bytes that its devices send each other, and the compiler's own estimate."""

import collections
import math
import re
from collections.abc import Iterator

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# A program's text names each dtype by a word of its own.
DTYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "pred": "bool"}
DTYPES |= {
    f"{short}{bits}": f"{name}{bits}" for short, name in (("s", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)
}

Sent = dict[tuple[str, str], int]  # {(kind of collective, dtype): bytes}
Line = tuple[str, str, int]  # (name of the computation, the line of an operation, number of times that it is executed)

_HEADER = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{$")  # the first line of a computation
_INNER = re.compile(r" (while|conditional|call|async-start)\(")  # operations that execute other computations
_COLLECTIVE = re.compile(r"= (.*?) (" + "|".join(COLLECTIVES) + r")(-start)?\(")
_CALLED = re.compile(r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")


def sent(text: str) -> Sent:
    """The bytes of the arrays that devices reduce, gather or exchange: each whole, as if one device held it.

    What stays within a loop counts each time.  A collective that a TPU computes in parts beside other operations has
    several lines with one number, and counts once; one that is fused with the choice of a part is a reduce-scatter.

    Args:
        text: `as_text()` of an executable.
    """
    found, seen = collections.Counter(), set()
    for computation, line, times in _executed(text, fused=True):
        match = _COLLECTIVE.search(line)
        if not match:
            continue
        kind, number = str(match[2]), re.search(r"channel_id=(\d+)", line)
        key = (kind, number[1] if number else line)
        if key in seen:
            continue
        seen.add(key)
        result, whole = str(match[1]), 1
        if match[3] and kind != "all-reduce":  # (what is sent, what comes back, ...)
            result = _parts(result)[1]
        if kind == "reduce-scatter":
            whole = _group(line)
        elif kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
            kind = "reduce-scatter"
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"\{[^}]*\}", "", result)):
            bits = 8 if dtype == "pred" else int((re.findall(r"\d+", dtype) or "0")[0])
            size = math.prod(map(int, filter(None, shape.split(","))))
            found[kind, DTYPES.get(dtype, dtype)] += times * whole * size * bits // 8
    return dict(found)


def _parts(result: str) -> list[str]:
    """The elements of a tuple's text."""
    parts, depth = [""], 0
    for sign in result.removeprefix("(").removesuffix(")"):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and not depth:
            parts.append("")
        else:
            parts[-1] += sign
    return parts


def _group(line: str) -> int:
    """The number of devices that take part in a collective, as its line names them in one of three ways."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line):
        return len(listed[1].split(","))
    if divided := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(divided[1])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", named[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'(\w+)'", named[2]))
    return 1


def cycles(text: str) -> int:
    """The cycles of a core that a TPU's compiler estimates, without those of collectives; 0 for other devices.

    Args:
        text: `as_text()` of an executable.
    """
    return sum(costs(text).values())


def costs(text: str) -> dict[str, int]:
    """{place in fjt's code, all layers together: estimated cycles}, see `cycles`.

    The place is JAX's path of modules and transformations; what XLA added has the name that XLA gave it, such as copy.
    """
    found = collections.Counter()
    for _, line, times in _executed(text):
        estimate, name = re.search(r'"estimated_cycles":"(\d+)"', line), re.search(r'op_name="([^"]*)"', line)
        if estimate:
            own = re.match(r"\s*(?:ROOT )?%?([a-z_\-]*)", line)
            place = name[1] if name else f"({own[1] if own else ''})"
            found[re.sub(r"layer_\d+", "layer_*", place)] += int(estimate[1]) * times
    return dict(found)


def _executed(text: str, fused: bool = False) -> Iterator[Line]:
    """The operations of a program.  Of a loop without a known number of rounds one counts; of branches, all do.

    Args:
        text: of the program.
        fused: whether the operations inside of fused ones count as well.
    """
    computations: dict[str, list[str]] = {}
    entry, current = "", []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations[header[2].lstrip("%")] = []
            entry = header[2].lstrip("%") if header[1] else entry
        elif " = " in line:
            current.append(line)

    def walk(name: str, times: int) -> Iterator[Line]:
        for line in computations.get(name, ()):
            yield name, line, times
            inner = _INNER.search(line)
            if inner or (fused and " fusion(" in line):
                rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                again = int(rounds[1]) if rounds and " while(" in line else 1
                branches = re.search(r"branch_computations=\{([^}]*)\}", line)
                for callee in _CALLED.findall(line) + re.findall(r"[\w.\-]+", branches[1] if branches else ""):
                    yield from walk(callee, times * again)

    return walk(entry, 1)
