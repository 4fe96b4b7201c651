"""Reading of adapter directories in any of the supported forms."""

import dataclasses
import os
from pathlib import Path

import numpy as np

from fjt.core import declared, records
from fjt.core.errors import UserError
from fjt.interop import adapter, adapterhub, peft
from fjt.interop.adapter import Adapter
from fjt.models.encoder import EncoderConfig


def read(directory: str | Path, config: EncoderConfig) -> Adapter:
    """The Adapter of a directory, or of a run.

    Args:
        directory: an adapter directory, or a run's work directory.
        config: of the base model.

    Raises:
        UserError: the directory is not an adapter, is damaged, or has an unknown form.
    """
    directory = os.path.expanduser(directory)
    inside = os.path.join(directory, "export", "adapter")
    directory = inside if os.path.isdir(inside) else directory
    try:
        return _read(directory, config)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"config.model.adapter={directory} is cut off or broken ({reason}); save it again.") from None


def _read(directory: str, config: EncoderConfig) -> Adapter:
    others = os.path.exists(os.path.join(directory, peft.CONFIG))
    if os.path.exists(os.path.join(directory, adapter.CONFIG)):
        own = adapter.read(directory)
        if others:
            _compare(own, read_other(directory, config), directory)
        return own
    if not others:
        raise UserError(
            f"config.model.adapter={directory} is not an adapter: it has neither {adapter.CONFIG} nor {peft.CONFIG}."
            f"{_below(directory)}"
        )
    found = read_other(directory, config)
    base = os.path.join(directory, adapter.BASE)  # an fjt file, because the other forms have no field for it
    return dataclasses.replace(found, **records.read_json(base)) if os.path.exists(base) else found


def read_other(directory: str, config: EncoderConfig) -> Adapter:
    """The Adapter of the files of PEFT or AdapterHub in a directory, whatever fjt's own files next to them say.

    Args:
        directory: with an adapter_config.json.
        config: of the base model.

    Raises:
        UserError: the files are damaged, of an unknown form, or not of this model.
    """
    path = os.path.join(directory, peft.CONFIG)
    about = declared.read(path, {})
    if "peft_type" in about:
        return peft.read(directory, config)
    if "config" in about:
        return adapterhub.read(directory, config)
    raise UserError(f"{path} is neither PEFT's (peft_type) nor AdapterHub's (config).")


def _compare(own: Adapter, other: Adapter, directory: str) -> None:
    """Raises UserError where a leaf of another library's files is not that of fjt's own files next to them."""
    for name, leaf in other.trained.items():
        found = own.trained.get(name)  # with columns of zeros up to the largest rank, which other files do not hold
        if found is not None and not np.array_equal(found[tuple(map(slice, leaf.shape))], leaf):
            raise UserError(
                f"config.model.adapter={directory} holds two adapters: {name} in {adapter.WEIGHTS} differs from that "
                f"of {peft.CONFIG}. Remove the files fjt_adapter.* to start from the one that another library saved."
            )


def _below(directory: str) -> str:
    """A hint to the folders of a directory that hold adapters: PEFT makes one for each adapter with a name."""
    if not os.path.isdir(directory):
        return f" There is no directory {directory}."
    files = (adapter.CONFIG, peft.CONFIG)
    names = [
        name
        for name in sorted(os.listdir(directory))
        for file in files
        if os.path.exists(os.path.join(directory, name, file))
    ]
    if not names:
        return ""
    several = f" It holds several: {', '.join(names)}." if len(names) > 1 else ""
    return f"{several} Give the folder below it: --config.model.adapter={os.path.join(directory, names[0])}."
