"""The studies that `tests.benchmarks.studies` times, by name: head, lora."""

from configs import methods, study


def get_config(name="head"):
    if name == "head":  # 40 runs of five epochs
        config = study.get_config(methods.get_config("mrpc,head"))
        config.study.products = ({"optim.learning_rate": (5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2)},)
        config.study.seeds = 8
        config.study.lanes = 40
        return config
    config = study.get_config(methods.get_config("cola,lora"))  # as of a study with 1,000 training examples
    config.data.limit = 1_000
    config.train.epochs = 3
    config.study.products = ({"tune.method": ("lora",)},)
    config.study.seeds = 8
    return config
