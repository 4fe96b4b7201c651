"""The export of a finished run in another form: a whole model, an adapter of PEFT or one of AdapterHub."""

import os
import shutil
from collections.abc import Callable

from fjt.core import records
from fjt.core.errors import UserError, suggest
from fjt.core.options import EXPORT_FORMS
from fjt.interop import adapter, adapterhub, card, peft
from fjt.interop.directory import replaced
from fjt.models import config_json

# Files of a directory with an adapter that only one of the forms has.
OWN_FILES = (
    adapter.CONFIG,
    adapter.WEIGHTS,
    peft.CONFIG,
    peft.WEIGHTS,
    adapterhub.WEIGHTS,
    adapterhub.HEAD_CONFIG,
    adapterhub.HEAD_WEIGHTS,
    "README.md",
)


def convert(
    form: str,
    output: str,
    *,
    model: str,
    folder: str,
    base: Callable[[], str],
    method: str,
    label_names: tuple[str, ...],
    head: str,
    check: Callable[[str], None],
) -> None:
    """Writes a run in a form to a new directory.

    Args:
        form: one of EXPORT_FORMS.
        output: the directory, which must not exist.
        model: the run's Hugging Face directory, "" if its method cannot be merged.
        folder: the directory of the run's fjt adapter, which need not exist.
        base: returns the directory of the base model.
        method: the names of the run's methods.
        label_names: names of the labels by id.
        head: the name of the head of the run's family.
        check: called with the directory when it is whole and not yet in its place; raises for another model.

    Raises:
        UserError: the form is unknown or cannot express the run.
    """
    if form not in EXPORT_FORMS:
        raise UserError(f"--format={form} is unknown.{suggest(form, EXPORT_FORMS)}")
    if form == "hf":
        if not model:
            raise UserError(
                f"--format=hf: {method} cannot be merged into the base model: its parameters act next to the layers or "
                "depend on the example, which a plain model cannot express. Use --format=peft or --format=adapterhub."
            )
        with replaced(output) as target:
            shutil.copytree(model, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("adapter", "merged"))
            check(target)
        return
    if not os.path.exists(os.path.join(folder, adapter.CONFIG)):
        raise UserError(f"--format={form}: {method} trains the model's own parameters, which only --format=hf has.")
    own = adapter.read(folder)
    config, _ = config_json.read_config(base())
    with replaced(output) as target:
        shutil.copytree(folder, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns(*OWN_FILES))
        records.write_json(os.path.join(target, adapter.BASE), {"base_sha256": own.base_sha256})
        card.convert(os.path.join(folder, "README.md"), os.path.join(target, "README.md"), form)
        if form == "peft":
            peft.write(target, own, config, head)
        else:
            adapterhub.write(target, own, config, label_names, head)
        check(target)
