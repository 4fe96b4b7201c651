"""Eight ways to tune one encoder on three GLUE tasks with 1,000 training examples each: which is better, by how much?

    python -m fjt.sweep --config configs/peft_ablation.py --workdir runs/peft_ablation --config.model.path=MODEL \\
        --config.data.source=files --config.data.dir=DIR

For each method and task one of four rates is chosen, on held-out training rows with seeds of its own; twelve fresh
seeds are then scored on the dev set, once each, and compared with full tuning.  The pooler trains in every method, for
a sentence encoder's checkpoint has a pooler that never trained.
"""

from ml_collections import ConfigDict

from configs import glue, study
from fjt.study.spec import choose

TASKS = ("mrpc", "cola", "stsb")
# Four rates a method, a factor of about two and a half apart, about its recipe for encoders narrower than 512.
RATES = {
    "full": (2e-5, 5e-5, 1e-4, 2.5e-4),
    "head": (1e-3, 2.5e-3, 5e-3, 1e-2),
    "top_k": (1e-4, 2.5e-4, 6e-4, 1.5e-3),
    "bitfit": (1e-3, 2.5e-3, 5e-3, 1e-2),
    "lora": (5e-4, 1e-3, 2.5e-3, 6e-3),
    "pfeiffer": (4e-4, 1e-3, 2.5e-3, 6e-3),
    "prefix": (4e-3, 1e-2, 2e-2, 4e-2),
    "ia3": (4e-3, 1e-2, 2.5e-2, 6e-2),
}


def get_config() -> ConfigDict:
    config = study.get_config(glue.get_config(TASKS[0]))
    config.data.limit = 1_000
    config.tune.train_pooler = True
    config.train.epochs = 5
    config.study.products = tuple(
        {"tune.method": (method,), "task": TASKS, "optim.learning_rate": choose(*rates)}
        for method, rates in RATES.items()
    )
    config.study.seeds = 12
    config.study.tuning_seeds = 1  # four rates a factor of two and a half apart: one run tells which is far off
    config.study.holdout = 0.2
    config.study.baseline = "full"
    config.study.family = "study"
    return config
