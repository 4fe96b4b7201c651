"""Rows of unequal length in one array, such as the tags of sentences, and texts of any length in files."""

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

TEXT_KIND = "T"  # the kind of numpy's type for texts of any length


@dataclasses.dataclass(frozen=True, eq=False)
class Ragged:
    """Row n is values[offsets[n] : offsets[n + 1]].  Rows are chosen as those of a numpy array are.

    Attributes:
        values: the rows, one after the other.
        offsets: i64[N + 1], the first value of each row.
    """

    values: Shaped[np.ndarray, "M ..."]
    offsets: Int[np.ndarray, " bounds"]

    @classmethod
    def of(cls, rows: Iterable[Sequence[Any] | np.ndarray], dtype: Any) -> "Ragged":
        """The rows, whose values become those of a type."""
        arrays = [np.asarray(row, dtype) for row in rows]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return cls(np.concatenate([*arrays, np.zeros((0, *arrays[0].shape[1:]) if arrays else 0, dtype)]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: Any) -> Any:
        """One row for a number; the Ragged of some rows for numbers, a mask or a slice."""
        chosen = np.arange(len(self))[rows]
        if chosen.ndim == 0:
            return self.values[self.offsets[chosen] : self.offsets[chosen + 1]]
        counts = self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        at = np.repeat(self.offsets[chosen] - offsets[:-1], counts) + np.arange(offsets[-1])
        return Ragged(self.values[at], offsets)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yields the rows."""
        return (self[row] for row in range(len(self)))

    @property
    def lengths(self) -> Int[np.ndarray, " N"]:
        """The number of values of each row."""
        return np.diff(self.offsets)

    @property
    def dtype(self) -> np.dtype:
        """The type of the values."""
        return self.values.dtype

    def astype(self, dtype: Any) -> "Ragged":
        """The same rows with values of another type."""
        return Ragged(self.values.astype(dtype), self.offsets)

    def tolist(self) -> list[list[Any]]:
        """The rows as lists."""
        return [row.tolist() for row in np.split(self.values, self.offsets[1:-1])] if len(self) else []


def values_of(rows: "np.ndarray | Ragged") -> np.ndarray:
    """The values of rows, without their bounds."""
    return rows.values if isinstance(rows, Ragged) else rows


def same(one: "np.ndarray | Ragged", other: "np.ndarray | Ragged") -> bool:
    """Whether two columns have the same rows, with NaN where the other has NaN."""
    if isinstance(one, Ragged) and isinstance(other, Ragged) and not np.array_equal(one.offsets, other.offsets):
        return False
    values = [values_of(rows) for rows in (one, other)]
    return np.array_equal(*values, equal_nan=all(array.dtype.kind == "f" for array in values))


def flat(name: str, rows: "np.ndarray | Ragged") -> dict[str, np.ndarray]:
    """Rows as arrays for a file: {name: array}.

    The bounds of Ragged rows are "<name>_offsets".  Texts of any length are their bytes in UTF-8, and "<name>_ends" has
    the end of each.
    """
    if isinstance(rows, Ragged):
        return {name: rows.values, f"{name}_offsets": rows.offsets}
    if rows.dtype.kind != TEXT_KIND:
        return {name: rows}
    texts = [str(text).encode() for text in rows.ravel()]
    ends = np.cumsum(list(map(len, texts)), dtype=np.int64).reshape(rows.shape)
    return {name: np.frombuffer(b"".join(texts), np.uint8), f"{name}_ends": ends}


def unflat(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arrays of a file, Ragged or texts where `flat` took them apart.

    Raises:
        ValueError: bounds that do not fit.
    """
    found: dict[str, Any] = dict(arrays)
    for key in [key for key in arrays if key.endswith("_ends")]:
        name, ends = key.removesuffix("_ends"), found.pop(key)
        bounds, data = [0, *ends.ravel().tolist()], arrays[name].tobytes()
        if bounds != sorted(bounds) or bounds[-1] != len(data):
            raise ValueError(f"{key} do not fit {name}")
        texts = [data[start:end].decode() for start, end in itertools.pairwise(bounds)]
        found[name] = np.array(texts, np.dtypes.StringDType()).reshape(ends.shape)
    for key in [key for key in arrays if key.endswith("_offsets")]:
        name, offsets = key.removesuffix("_offsets"), found.pop(key)
        if offsets.ndim != 1 or not len(offsets) or offsets[0] or (np.diff(offsets) < 0).any():
            raise ValueError(f"{key} are no bounds of rows")
        if offsets[-1] != len(arrays[name]):
            raise ValueError(f"{key} do not fit {name}")
        found[name] = Ragged(arrays[name], offsets)
    return found
