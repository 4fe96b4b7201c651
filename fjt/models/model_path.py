"""The directory that config.model.path names: a local one, the export of a run, or a download from the model hub."""

import os

from fjt.core import network
from fjt.core.errors import UserError
from fjt.models.families import hub_files

HUB_SECONDS = 5  # time limit for the hub's answer


def resolve(path: str, revision: str) -> str:
    """The local directory of `model.path`: a directory, an fjt run (its export), or a hub name, downloaded once.

    Args:
        path: config.model.path.
        revision: branch, tag or commit of a hub name.

    Raises:
        UserError: the path is not a model.
        network.Unreachable: the hub does not answer within seconds, and there is no earlier download.
    """
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        raise UserError(f"config.model.path={path} is a file; give its directory.")
    if os.path.isdir(path):
        if os.path.exists(os.path.join(path, "config.json")) and not os.path.exists(os.path.join(path, "train.jsonl")):
            return path
        if os.path.exists(os.path.join(path, "DONE")):
            for export in (os.path.join(path, "export"), os.path.join(path, "export", "merged")):
                if os.path.exists(os.path.join(export, "config.json")):
                    return export
            raise UserError(
                f"config.model.path={path} is a run whose method cannot be merged into a model, so that no other run "
                "can start from it. Give config.model.adapter instead."
            )
        if os.path.exists(os.path.join(path, "train.jsonl")):
            raise UserError(f"config.model.path={path} is an fjt run that has not finished; finish it first.")
        raise UserError(f"config.model.path={path} has no config.json, so it is not a model directory.")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise UserError(f"config.model.path={path}: the directory does not exist.")
    import huggingface_hub

    reason = None
    try:
        try:
            network.within(HUB_SECONDS, lambda: huggingface_hub.HfApi().model_info(path, revision=revision, timeout=3))
        except Exception as error:  # no network, or no such model: an earlier download is used
            reason = error
            return huggingface_hub.snapshot_download(
                path, revision=revision, allow_patterns=hub_files(), local_files_only=True
            )
        return huggingface_hub.snapshot_download(path, revision=revision, allow_patterns=hub_files(), etag_timeout=5)
    except Exception as error:
        cause = reason or error
        why = getattr(cause, "strerror", None) or type(cause).__name__  # such as of a full disk
        raise network.Unreachable(
            f"config.model.path={path} is not a directory here, and its revision {revision} could not be downloaded "
            f"from the model hub ({why}). Give a local directory with config.json, "
            "model.safetensors and tokenizer files by --config.model.path=DIR."
        ) from None
