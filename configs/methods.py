"""Every way to tune the same encoder on a GLUE task: `task,method[,method...]`, each method at its own recipe.

    python -m fjt.main --config configs/methods.py:mrpc,lora --config.model.path=MODEL \\
        --config.data.source=files --config.data.dir=DIR --workdir runs/mrpc-lora

The pooler trains with the head in every method, for a sentence encoder's checkpoint has a pooler that never trained.
Five epochs for all, so that they are compared at equal passes over the data; rates and decay are each method's recipe,
which `--plan` shows.  Measured on MiniLM (all-MiniLM-L6-v2) by `python -m tests.benchmarks.methods`, dev, mean and sd
of three seeds, MRPC accuracy and STS-B Pearson; a run takes 3 to 6 minutes on one core (AMD EPYC, AVX-512).  All of
them, with F1, Spearman and costs: results/methods/table.md.

    full    80.6 ± 1.8   86.5 ± 0.4        ia3       80.1 ± 0.6   84.7 ± 1.5
    bitfit  80.0 ± 2.0   86.0 ± 0.1        prefix    73.9 ± 1.3   83.5 ± 0.2
    lora    78.1 ± 0.8   85.3 ± 0.6        pfeiffer  78.3 ± 1.3   85.1 ± 0.2
    dora    79.3 ± 1.8   85.4 ± 0.8        houlsby   80.8 ± 0.6   86.3 ± 0.1
    top_k   73.5 ± 0.4   81.4 ± 0.2        head      69.2 ± 0.1   49.1 ± 0.4
"""

from ml_collections import ConfigDict

from configs import glue


def get_config(arg: str = "mrpc,lora") -> ConfigDict:
    config = glue.get_config(arg)
    config.tune.train_pooler = True
    if "pattern" in config.tune.method:
        config.tune.train = ("encoder/layer_[45]/",)  # the highest two of MiniLM's six; give your own for others
    config.train.epochs = 5
    config.eval.test = False
    return config
