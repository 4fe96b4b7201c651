"""Every way to tune the same encoder on a GLUE task: `task,method[,method...]`, each method at its own recipe.

    python -m fjt.main --config configs/methods.py:mrpc,lora --config.model.path=MODEL \\
        --config.data.source=files --config.data.dir=DIR --workdir runs/mrpc-lora

The pooler trains with the head in every method, for a sentence encoder's checkpoint has a pooler that never trained.
Rates, decay and epochs are those that `python -m fjt.main --list` and `--plan` show.
"""

from configs import glue


def get_config(arg="mrpc,lora"):
    config = glue.get_config(arg)
    config.tune.train_pooler = True
    config.eval.test = False
    return config
