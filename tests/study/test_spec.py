"""A study's config becomes the runs that it says, each once, and what it cannot mean is refused."""

import pytest
from made_study import make
from ml_collections import ConfigDict

from configs import quickstart
from configs import study as study_config
from fjt.core.errors import UserError
from fjt.core.options import flatten
from fjt.core.settings import fingerprint, to_dict
from fjt.study import spec
from fjt.study.spec import choose


def names(*products, **options):
    return [run.name for run in make(*products, **options)[2]]


def test_products_are_combinations_and_together_a_union():
    found = names(
        {"tune.method": ("full", "top_k"), "optim.learning_rate": (1e-3, 2e-4)},
        {"tune.method": (("bitfit", "layernorm"),), "tune.sites": (("query", "value"),)},
        seeds=2,
    )
    rates = ("optim.learning_rate=0.001", "optim.learning_rate=0.0002")
    assert found == [
        *(f"runs/agreement/{m}/{rate}/seed={s}" for m in ("full", "top_k") for rate in rates for s in (0, 1)),
        *(f"runs/agreement/bitfit+layernorm/tune.sites=query+value/seed={s}" for s in (0, 1)),
    ]


def test_settings_hold_the_values_of_their_run():
    _, base, runs = make({"tune.method": ("head",), "optim.learning_rate": (1e-2,), "train.steps": (7,)}, seeds=1)
    made = spec.settings_of(runs[0], base).experiment
    assert (made.tune.method, made.optim.learning_rate, made.seed) == (("head",), 1e-2, 0)
    assert (made.train.steps, made.train.epochs) == (7, None)
    flat, before = flatten(to_dict(spec.settings_of(runs[0], base))), flatten(base)
    changed = {key for key in flat if flat[key] != before[key]}
    assert changed == {"tune.method", "optim.learning_rate", "train.steps", "train.epochs", "eval.every_epochs"}


def test_cells_that_agree_with_without_are_left_out():
    product = {"task": ("agreement", "sentiment"), "tune.method": ("full", "head")}
    assert names(product, seeds=1, without=({"task": "sentiment", "tune.method": "head"},)) == [
        "runs/agreement/full/seed=0",
        "runs/agreement/head/seed=0",
        "runs/sentiment/full/seed=0",
    ]


def test_folds_without_a_fold_are_all_folds():
    found = names({"data.folds": (3,), "tune.method": ("head",)}, seeds=1, without=({"data.fold": 1},))
    assert found == [f"runs/agreement/head/data.folds=3/data.fold={fold}/seed=0" for fold in (0, 2)]
    assert names({"data.folds": (None, 2), "data.fold": (None,)}, seeds=1) == [
        f"runs/agreement/full/data.folds={folds}/data.fold={fold}/seed=0"
        for folds, fold in ((None, None), (2, 0), (2, 1))
    ]
    assert names({"data.folds": (3,), "data.fold": (2,)}, seeds=1) == [
        "runs/agreement/full/data.folds=3/data.fold=2/seed=0"
    ]


def test_trials_are_made_where_something_is_chosen():
    _, base, runs = make({"tune.method": ("full", "head"), "optim.learning_rate": choose(1e-3, 1e-2)}, seeds=3)
    tuning = [run for run in runs if run.phase == "tuning"]
    assert [run.name for run in tuning[:4]] == [
        f"tuning/agreement/full/optim.learning_rate={rate}/seed={seed}"
        for rate in ("0.001", "0.01")
        for seed in (1000, 1001)
    ]
    assert len(tuning) == 8 and len(runs) == 8 + 6
    trial = spec.settings_of(tuning[2], base).experiment
    assert (trial.data.holdout, trial.eval.official_dev, trial.optim.learning_rate) == (0.1, False, 1e-2)
    reported = next(run for run in runs if run.phase == "runs")
    assert reported.name == "runs/agreement/full/seed=0" and reported.open == (("optim.learning_rate", (1e-3, 1e-2)),)
    made = spec.settings_of(reported, base, (("optim.learning_rate", 1e-2),)).experiment
    assert (made.data.holdout, made.eval.every_epochs, made.optim.learning_rate) == (0.0, 0, 1e-2)
    for section, key in (("optim", "plateau_patience"), ("tune", "stage_patience")):  # read dev during training
        other = base | {section: base[section] | {key: 1}}
        made = spec.settings_of(reported, other, (("optim.learning_rate", 1e-2),)).experiment
        assert made.eval.every_epochs == base["eval"]["every_epochs"] != 0


def test_seeds_may_be_axes():
    found = names({"seeds.init": range(2), "seeds.data": (5, 6)})
    assert found == [f"runs/agreement/full/seeds.init={i}/seeds.data={d}" for i in (0, 1) for d in (5, 6)]


@pytest.mark.parametrize(
    ("products", "options", "message"),
    [
        ((), {}, "has no run: config.study.products is empty"),
        (({"tune.rank": ()},), {}, "tune.rank has no value"),
        (({"tune.method": "full"},), {}, "should be a tuple of values"),
        (({"tune.methd": ("full",)},), {}, r"'tune.methd' is not an option of a run. Did you mean tune.method"),
        (({"mesh.data": (1, 2)},), {}, "mesh.data is an option of execution"),
        (({"model.matmul_precision": ("high",)},), {}, "is the same for a whole process"),
        (({"seed": (1, 2)}, {"seed": (2, 3)}), {}, "gives runs/agreement/full/seed=2 twice"),
        (({"data.folds": (3,), "optim.learning_rate": choose(1e-3, 1e-4)},), {}, "cannot be chosen in a cross-val"),
        (({"task": ("agreement",)},), {"without": ({"task": "agreement"},)}, "without excludes all"),
        (({"task": ("agreement",)},), {"without": ({"tsk": "agreement"},)}, "study.without: 'tsk' is not an option"),
        (({"task": ("agreement",)},), {"without": ({"task": "sentiment"},)}, "without: no cell has .*sentiment"),
        (({"task": ("agreement",)},), {"without": ("agreement",)}, "without: 'agreement' should be a dict"),
        (({"tune.rank": choose(1, 2)},), {}, "tune.rank cannot be chosen"),
        (({"train.ema": choose(None, 0.9)},), {}, "leaves a part out of the program"),
        (
            ({"optim.learning_rate": choose(1e-3, 1e-2)},),
            {"first_tuning_seed": 4},
            r"seeds \[4\] are used both for tuning",
        ),
        (({"seed": (1,)},), {"lanes": 0}, "study.lanes=0 should be at least 1"),
        (({"seed": (1,)},), {"family": "all"}, "study.family='all' is unknown"),
        (({"seed": (1,)},), {"alpha": 2.0}, "should be between 0 and 1"),
        (({"seed": (1,)},), {"holdout": 0.0}, "should be between 0 and 1"),
        ((7,), {}, "should be a dict"),
    ],
)
def test_what_a_study_cannot_mean(products, options, message):
    with pytest.raises(UserError, match=message):
        make(*products, **options)


@pytest.mark.parametrize("key", ["products", "without"])
def test_one_dict_where_a_tuple_of_them_should_stand(key):
    config = study_config.get_config(quickstart.get_config())
    del config.study[key]
    config.study[key] = {"task": ("agreement",)}
    with pytest.raises(UserError, match=f"config.study.{key} is one dict and should be a tuple of dicts"):
        spec.read(config)


def test_a_value_of_the_wrong_type_names_its_key():
    _, base, runs = make({"optim.learning_rate": ("high",)})
    with pytest.raises(UserError, match=r"config.optim.learning_rate=.high. should be of type float"):
        spec.settings_of(runs[0], base)


def test_unknown_options_of_a_study():
    config = study_config.get_config(quickstart.get_config())
    config.study.seed = 3
    with pytest.raises(UserError, match=r"config.study.seed is not an option. Did you mean study.seeds"):
        spec.read(config)
    with pytest.raises(UserError, match="The config has no study"):
        spec.read(ConfigDict({"task": "x"}))


CONTENTS = {"data": "a", "weights": "b", "tokenizer": "c"}


def keys(values, base_values=()):
    """(program key, fingerprint) of the only run of a product."""
    _, base, runs = make({"tune.method": ("full",)} | dict(base_values) | values, seeds=1)
    made = spec.settings_of(runs[0], base).experiment
    return spec.program_key(made, CONTENTS), fingerprint(made, CONTENTS)


def test_what_is_chosen_needs_trials():
    with pytest.raises(UserError, match="there are no trials for runs/agreement/head/seed=0"):
        make({"tune.method": ("head",), "seed": (0, 1), "optim.learning_rate": choose(1e-4, 1e-2)})


LORA = {"tune.method": ("lora",), "tune.max_rank": (8,)}


@pytest.mark.parametrize(
    ("base", "one", "other", "shared"),
    [
        ({}, {"optim.learning_rate": (1e-3,)}, {"optim.learning_rate": (2e-3,)}, True),
        ({}, {"optim.weight_decay": (0.0,)}, {"optim.weight_decay": (0.1,)}, True),
        ({}, {"train.epochs": (2,)}, {"train.epochs": (3,)}, True),
        ({}, {"seeds.data": (1,)}, {"seeds.data": (2,)}, True),
        ({}, {"loss.label_smoothing": (0.0,)}, {"loss.label_smoothing": (0.1,)}, True),
        ({}, {"optim.multipliers": ((("head/", 2.0),),)}, {"optim.multipliers": ((("head/", 3.0),),)}, True),
        ({}, {"optim.multipliers": ((("head/", 2.0),),)}, {"optim.multipliers": ((),)}, False),
        ({}, {"optim.name": ("adamw",)}, {"optim.name": ("lion",)}, False),
        ({}, {"train.batch_size": (16,)}, {"train.batch_size": (32,)}, False),
        (LORA, {"tune.rank": (2,)}, {"tune.rank": (8,)}, True),
        (LORA, {"tune.alpha": (2.0,)}, {"tune.alpha": (8.0,)}, True),
        ({"tune.method": ("lora",)}, {"tune.rank": (2,)}, {"tune.rank": (8,)}, False),
    ],
)
def test_what_shares_a_program(base, one, other, shared):
    (first, one), (second, other) = keys(one, base), keys(other, base)
    assert one != other and (first == second) == shared
