"""Every way to tune the same encoder on a GLUE task: `task,method[,method...]`, each method at its own recipe.

    python -m fjt.main --config configs/methods.py:mrpc,lora --config.model.path=MODEL \\
        --config.data.source=files --config.data.dir=DIR --workdir runs/mrpc-lora

The pooler trains with the head in every method, for a sentence encoder's checkpoint has a pooler that never trained.
Five epochs for all, so that they are compared at equal passes over the data; rates and decay are each method's recipe,
which `--plan` shows. Scores on MRPC and STS-B: results/methods/table.md, by `python -m tests.benchmarks.methods`.
"""

from configs import glue


def get_config(arg="mrpc,lora"):
    config = glue.get_config(arg)
    config.tune.train_pooler = True
    config.train.epochs = 5
    config.eval.test = False
    return config
