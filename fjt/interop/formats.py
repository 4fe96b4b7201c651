"""Adapter directories of any form that fjt knows."""

import dataclasses
import os

from fjt.core import records
from fjt.core.errors import UserError
from fjt.interop import adapter, adapterhub, peft


def read(directory, config):
    """The Adapter of a directory, or of a run.  config: EncoderConfig of the base model.  Raises UserError."""
    directory = os.path.expanduser(directory)
    inside = os.path.join(directory, "export", "adapter")
    directory = inside if os.path.isdir(inside) else directory
    try:
        return _read(directory, config)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"config.model.adapter={directory} is cut off or broken ({reason}); save it again.") from None


def _read(directory, config):
    if os.path.exists(os.path.join(directory, adapter.CONFIG)):
        return adapter.read(directory)
    path = os.path.join(directory, peft.CONFIG)
    if not os.path.exists(path):
        raise UserError(
            f"config.model.adapter={directory} is no adapter: it holds neither {adapter.CONFIG} nor {peft.CONFIG}."
        )
    about = records.read_json(path)
    if "peft_type" in about:
        found = peft.read(directory, config)
    elif "config" in about:
        found = adapterhub.read(directory, config)
    else:
        raise UserError(f"{path} is neither of PEFT (peft_type) nor of AdapterHub (config).")
    base = os.path.join(directory, adapter.BASE)  # the others' files have no place for it
    return dataclasses.replace(found, **records.read_json(base)) if os.path.exists(base) else found
