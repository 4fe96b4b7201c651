"""Reads the text of a compiled program: the bytes that its devices send each other, and the compiler's own estimate."""

import collections
import math
import re
from collections.abc import Iterator

import jax.numpy as jnp

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
# A program's text names each dtype by a word of its own.
DTYPES = {"f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "pred": "bool"}
DTYPES |= {
    f"{short}{bits}": f"{name}{bits}" for short, name in (("s", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)
}

Sent = dict[tuple[str, str], int]  # {(kind of collective, dtype): bytes}

_HEADER = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{$")  # the first line of a computation
_INNER = re.compile(r" (while|conditional|call|async-start)\(")  # operations that execute other computations
_COLLECTIVE = re.compile(r"= (.*?) (" + "|".join(COLLECTIVES) + r")(-start)?\(")


def sent(text: str) -> Sent:
    """The bytes of the results of all collectives that a device executes.  What stays within a loop counts each time.

    Args:
        text: `as_text()` of an executable.
    """
    found: Sent = collections.Counter()
    for line, times in _executed(text):
        match = _COLLECTIVE.search(line)
        if match:
            kind = str(match[2])
            arrays = re.findall(r"(\w+)\[([\d,]*)\]", re.sub(r"\{[^}]*\}", "", match[1]))
            if match[3] and kind in ("all-gather", "collective-permute"):  # (what is sent, what comes back, ...)
                arrays = arrays[len(arrays) // 2 :] if kind == "all-gather" else arrays[1:2]
            for dtype, shape in arrays:
                size = math.prod(map(int, filter(None, shape.split(","))))
                name = DTYPES.get(str(dtype), str(dtype))
                found[kind, name] += times * size * jnp.dtype(name).itemsize
    return dict(found)


def cycles(text: str) -> int:
    """The cycles of a core that a TPU's compiler estimates, without those of collectives; 0 for other devices.

    Args:
        text: `as_text()` of an executable.
    """
    estimates = ((re.search(r'"estimated_cycles":"(\d+)"', line), times) for line, times in _executed(text))
    return sum(int(found[1]) * times for found, times in estimates if found)


def costs(text: str) -> dict[str, int]:
    """{where in fjt's code, as jax.named_scope and transformations name it: estimated cycles}, see `cycles`."""
    found = collections.Counter()
    for line, times in _executed(text):
        estimate, name = re.search(r'"estimated_cycles":"(\d+)"', line), re.search(r'op_name="([^"]*)"', line)
        if estimate:
            found[name[1] if name else ""] += int(estimate[1]) * times
    return dict(found)


def _executed(text: str) -> Iterator[tuple[str, int]]:
    """(line of an operation, number of times that it is executed).  Computations inside of fused ones are no operations
    of their own.  Of a loop whose number of rounds is unknown, one round counts; of branches, all do."""
    computations: dict[str, list[str]] = {}
    entry, current = "", []
    for line in text.splitlines():
        header = _HEADER.match(line)
        if header:
            current = computations[header[2].lstrip("%")] = []
            entry = header[2].lstrip("%") if header[1] else entry
        elif " = " in line:
            current.append(line)

    def walk(name: str, times: int) -> Iterator[tuple[str, int]]:
        for line in computations.get(name, ()):
            yield line, times
            inner = _INNER.search(line)
            if inner:
                rounds = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
                again = int(rounds[1]) if rounds and inner[1] == "while" else 1
                called = r"(?:body|to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)"
                branches = re.search(r"branch_computations=\{([^}]*)\}", line)
                names = re.findall(called, line) + re.findall(r"[\w.\-]+", branches[1] if branches else "")
                for callee in names:
                    yield from walk(callee, times * again)

    return walk(entry, 1)
