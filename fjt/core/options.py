"""Every option of a run, declared once, and the frozen settings that a config becomes.

The fields of `OptimConfig` are the options `config.optim.*`, and so on. The config's defaults, `--help`, the checks of
types and values, the fingerprint, and the list of options that lanes may differ in are derived from the declarations
(`fjt.core.schema`). A default of None is resolved from a recipe for the method and the size of the training set; the
run prints and records the origin of every such value.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from fjt.core import schema
from fjt.core.errors import suggest
from fjt.core.schema import option

SEED = {"low": 0, "high": 2**32 - 1}
RATE = {"low": 0.0, "high": 0.99}  # of dropout and its relatives
SHARE = {"low": 0.0, "high": 1.0}

EXPORT_FORMS = ("hf", "peft", "adapterhub")

# Functions of optax that need no more than a learning rate, and whose state does not depend on it.
OPTAX = ("adabelief", "adadelta", "adagrad", "adamax", "adan", "amsgrad", "novograd", "radam", "rmsprop", "sm3", "yogi")


@dataclasses.dataclass(frozen=True)
class SeedsConfig:
    init: int | None = option(
        None, "seed of the weights that the checkpoint lacks, such as the head's; None: `seed`", **SEED, traced=True
    )
    data: int | None = option(None, "seed of the order of examples, and of masks; None: `seed`", **SEED, traced=True)
    dropout: int | None = option(None, "seed of dropout; None: `seed`", **SEED, traced=True)
    subset: int = option(0, "seed of the rows that data.limit and data.holdout select; `seed` does not set it", **SEED)


@dataclasses.dataclass(frozen=True)
class FilesConfig:
    train: str = option(
        "",
        "your own training table: a .csv, .tsv, .jsonl, .parquet, CoNLL or SQuAD file, documents as .txt, or a split "
        "that TFDS has prepared in data.dir, as tfds:conll2003/train",
        place=True,
        path=True,
    )
    dev: str = option("", "your own table for evaluation during training", place=True, path=True)
    test: str = option("", "your own table that is predicted at the end", place=True, path=True)


@dataclasses.dataclass(frozen=True)
class ColumnsConfig:
    text: str = option("text", "column of the text: its name, or its number from 0 where the file has no header")
    text_pair: str = option("", "column of the second text of a pair, or of the context; empty: single texts")
    label: str = option("label", "column of the label or score")
    labels: tuple = option((), "multi_label: one column of 0 and 1 per label, in place of columns.label")
    choices: tuple = option((), "multiple_choice: the columns of the choices, or the column that holds lists of them")
    id: str = option("", "column of an identifier for each row; empty: the row's number")
    cluster: str | None = option(
        None, "column of the source that rows share, such as a document, for a study's intervals; None: no source"
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    source: str = option(
        "tfds",
        "origin of the data: TensorFlow Datasets, files, or a generated language",
        choices=("tfds", "files", "synthetic"),
        place=True,
    )
    dir: str = option(
        "",
        "files: folder in GLUE's official layout (DIR/SST-2/train.tsv); tfds: its data_dir, also for files such as "
        "tfds:conll2003/train",
        place=True,
        path=True,
    )
    manual_dir: str = option(
        "", "tfds: a folder with the archives as downloaded (SST-2.zip, ...)", place=True, path=True
    )
    files: FilesConfig = FilesConfig()
    columns: ColumnsConfig = ColumnsConfig()
    all_pieces: bool | None = option(
        None,
        "tagging, entities: True trains on every token of a word (I- behind B-); None: False, on its first token",
    )
    header: bool = option(True, "whether the first line of a CSV or TSV file names the columns")
    kind: str = option(
        "classification",
        "kind of problem of your own table: classification, regression, multi_label, multi_regression, tagging, "
        "entities, question_answering, multiple_choice, masked_lm",
    )
    label_names: tuple = option((), "your own table: the labels in the order of their ids; empty: sorted")
    tables: tuple = option(
        (),
        "your own tables under names of your own, to train together: ((task, split, file), ...), such as "
        "(('reviews', 'train', 'reviews.csv'), ('topics', 'train', 'topics.csv'))",
        place=True,
    )
    each: tuple = option(
        (),
        "options of config.data for one of several tasks: ((task, option, value), ...), such as "
        "(('reviews', 'kind', 'regression'), ('rte', 'limit', 500))",
    )
    clean: tuple = option(
        (),
        "training rows that are dropped before data.holdout and data.limit draw: duplicates (texts and label of an "
        "earlier row), empty (a text is empty), conflicts (all rows of texts with different labels), leaks (texts that "
        "dev or test has); dev and test stay as they are",
    )
    holdout: float = option(0.0, "share of the training rows that is kept aside and used as dev", **RATE)
    folds: int | None = option(
        None,
        "number of parts of the training rows for cross-validation, with equal shares of each class, and rows of one "
        "columns.cluster together; None: none; in a study, without data.fold, all parts in turn",
        low=2,
    )
    fold: int | None = option(None, "folds: the part that is dev in this run, from 0, while the others train", low=0)
    limit: int = option(
        0, "number of training examples, one draw by seeds.subset for all seeds of a study; 0: all", low=0
    )
    augment: tuple = option(
        (),
        "changed copies of the training texts: pairs of a change (delete, swap, insert, synonym, noise) and its share "
        "of the words, such as (('delete', 0.1), ('swap', 0.1)); one draw by seeds.subset",
    )
    augment_copies: int | None = option(None, "augment: number of changed copies of each row; None: 1", low=1)
    synonyms: str = option(
        "",
        "augment: a text file for synonym and insert: per line a word and synonyms, with tabs",
        place=True,
        path=True,
    )
    shuffle_labels: bool = option(False, "True permutes the training labels: a control without anything to learn")


@dataclasses.dataclass(frozen=True)
class ScratchConfig:
    layers: int = option(2, "model.path is empty: number of layers")
    width: int = option(128, "model.path is empty: width of the hidden states")
    heads: int = option(4, "model.path is empty: number of attention heads")
    inner: int = option(512, "model.path is empty: width of the feed-forward layers")
    vocab: str = option(
        "",
        "model.path is empty: WordPiece vocabulary file, or a tokenizer's directory; empty: the synthetic one",
        place=True,
        path=True,
    )


@dataclasses.dataclass(frozen=True)
class DropoutConfig:
    hidden: float | None = option(None, "dropout rate of hidden states; None: the checkpoint's", **RATE, traced=True)
    attention: float | None = option(None, "dropout rate of attention; None: the checkpoint's", **RATE, traced=True)
    classifier: float | None = option(None, "dropout rate before the head; None: the checkpoint's", **RATE, traced=True)
    layers: tuple = option((), "factors of the hidden and attention rates, one per layer; (): all 1", traced=True)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    path: str = option(
        "bert-base-uncased",
        "pretrained model: a directory, hub name or fjt run; empty: random weights (model.scratch)",
        place=True,
        path=True,
    )
    revision: str = option("main", "branch, tag or commit of a hub name", place=True)
    name: str = option("", "name of the base model in exports; empty: the name of hub or directory", place=True)
    keep_head: bool = option(False, "True starts from the checkpoint's own classifier (train.steps=0 evaluates it)")
    adapter: str = option(
        "", "an adapter over model.path to start from: of PEFT or fjt, or an fjt run", place=True, path=True
    )
    scratch: ScratchConfig = ScratchConfig()
    max_length: int = option(
        128, "largest number of tokens per example, [CLS] and [SEP] included; longer ones are cut", low=3, in_card=True
    )
    doc_stride: int | None = option(
        None,
        "question_answering: tokens that neighbouring windows of a context share; None: a third of max_length",
        low=1,
    )
    dtype: str | None = option(
        None,
        "type of computation, not of weights; None: float32 on a CPU, else bfloat16",
        choices=("float32", "bfloat16"),
    )
    matmul_precision: str = option(
        "default", "precision of float32 matrix products on an accelerator", choices=("default", "high", "highest")
    )
    dropout: DropoutConfig = DropoutConfig()
    frozen_dropout: bool = option(False, "True applies dropout in the layers below the lowest trainable one as well")
    reinit_layers: int = option(0, "number of top layers that, with the pooler, start from random weights", low=0)


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """How the model is tuned. Where a method's option is None or (), the method's own default applies (`--list`)."""

    method: tuple = option(("full",), "names of the tuning methods, which are combined; `--list` shows them")
    train_pooler: bool | None = option(
        None,
        "whether the pooler trains; None: by method, and if the checkpoint has none or, in studies, never trained it",
    )
    train_head: bool | None = option(None, "False freezes a head that model.keep_head kept; None: the head trains")
    budget: int = option(0, "largest number of added parameters, which sets rank, width or length; 0: no budget", low=0)
    layers: int | None = option(None, "top_k: number of top layers that train", low=0)
    layer_decay: float | None = option(
        None, "llrd: factor from a layer's learning rate to that of the layer below", **SHARE, traced=True
    )
    stage_epochs: float | None = option(None, "gradual: epochs per stage; 0: stages of equal length", low=0.0)
    stage_rates: tuple = option((), "gradual: learning-rate factor of each stage; the last one is repeated; (): all 1")
    stages: tuple = option(
        (),
        "gradual: phases of your own, ((patterns, epochs, factor of the learning rate), ...), such as "
        "((('pooler',), 1, 1.0), (('layer_1/', 'layer_0/'), 0, 0.5)): regular expressions of the parameters that open, "
        "0 epochs for a share of what is left; parameters that no phase opens stay frozen",
    )
    schedule_file: str | None = option(
        None,
        "gradual: a text file that gives tune.stages, one phase per line, such as layer_1/ layer_0/ epochs=2 rate=0.5",
        place=True,
        path=True,
    )
    stage_patience: int | None = option(
        None,
        "gradual: evaluations without a better score, as train.select has it, after which a stage ends early; the next "
        "one starts from the best step so far; None: stages end as planned",
        low=1,
    )
    mixout_rate: float | None = option(
        None, "mixout: share of each kernel's entries that a step resets to the pretrained ones", **RATE, traced=True
    )
    train: tuple = option((), "pattern: regular expressions; the parameters whose names match one of them train")
    sites: tuple = option(
        (),
        "bitfit, lora, dora, vera, ia3: the tuned dense layers, of query, key, value, attention_output, intermediate, "
        "output and pooler",
    )
    rank: int | None = option(None, "lora, dora, vera: rank of the update", low=1)
    ranks: tuple = option((), "lora, dora: one rank for each of tune.sites, in their order, instead of tune.rank")
    max_rank: int | None = option(
        None, "lora, dora: highest rank to keep memory for, so that all ranks share a program; 0: off", low=0
    )
    alpha: float | None = option(None, "lora, dora: numerator of the update's scale, alpha / rank", traced=True)
    dropout: float | None = option(None, "lora, dora, vera: dropout rate of the update's input", **RATE, traced=True)
    rank_stabilized: bool | None = option(None, "lora, dora: True scales by alpha / sqrt(rank) instead", traced=True)
    vera_start: float | None = option(None, "vera: initial value of the inner scales")
    reduction: float | None = option(None, "adapters: width of the encoder divided by the bottleneck's", low=1.0)
    bottleneck_width: int | None = option(
        None, "adapters: width of the bottleneck, instead of tune.reduction; 0: tune.reduction applies", low=0
    )
    activation: str | None = option(None, "adapters: activation function, such as relu, gelu or swish")
    adapter_norm: bool | None = option(None, "houlsby, pfeiffer: whether LayerNorm comes before the adapter")
    adapter_scale: float | None = option(None, "parallel: factor of the adapter's output", traced=True)
    prefix_length: int | None = option(None, "prefix: number of learned keys and values per layer", low=1)
    projection: int | None = option(
        None, "prefix, p_tuning: inner width of the MLP of the learned vectors; 0: no MLP (prefix)", low=0
    )
    shift_positions: bool | None = option(
        None, "prefix: whether the text starts at position prefix_length, as in PEFT, instead of at 0"
    )
    prompt_length: int | None = option(None, "prompt, p_tuning: number of learned tokens before the text", low=1)
    gating: bool | None = option(
        None, "lora, prefix, adapters except compacter: whether a gate per example scales the update"
    )


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    name: str = option(
        "adamw",
        "the optimizer; optax:NAME is optax's function of that name with its own constants; sgd, lamb and optax:NAME "
        "need a learning rate of their own",
        choices=("adamw", "adam", "sgd", "adafactor", "lamb", "lion", *(f"optax:{name}" for name in OPTAX)),
        in_card=True,
    )
    learning_rate: float | None = option(
        None, "peak learning rate; None: the method's recipe", low=0.0, traced=True, in_card=True
    )
    multipliers: tuple = option(
        (), 'factors of the learning rate by pattern of parameter names: (("head/", 10.0), ("layer_0/", 0.1))'
    )
    weight_decay: float | None = option(
        None, "weight decay (not of biases, LayerNorm); None: the method's recipe", low=0.0, traced=True, in_card=True
    )
    schedule: str = option(
        "linear",
        "shape of the learning rate after warm-up",
        choices=(
            *("linear", "cosine", "constant", "cosine_restarts", "polynomial", "exponential", "inverse_sqrt"),
            *("wsd", "one_cycle"),
        ),
        traced=True,
        in_card=True,
    )
    warmup_fraction: float = option(
        0.06, "share of the steps in which the learning rate rises", **SHARE, traced=True, in_card=True
    )
    final_fraction: float = option(
        0.0, "share of the peak left at the end (constant and inverse_sqrt ignore it)", **SHARE, traced=True
    )
    power: float = option(2.0, "polynomial: the exponent", traced=True)
    cycles: int = option(2, "cosine_restarts: the number of cycles", low=1, traced=True)
    decay_fraction: float | None = option(
        None, "wsd: share of the steps in which the rate falls at the end; None: 0.2", **SHARE, traced=True
    )
    plateau_patience: int | None = option(
        None,
        "evaluations without a better score, as train.select has it, after which the learning rate is multiplied by "
        "optim.plateau_factor for the rest of the run, and counting starts anew; None: never",
        low=1,
        traced=True,
    )
    plateau_factor: float | None = option(
        None, "plateau_patience: factor of the learning rate; None: 0.5", **SHARE, traced=True
    )
    decay_toward: str | None = option(
        None,
        "where weight decay and l1 pull the encoder: zero, or start, its weights before training; None: zero",
        choices=("zero", "start"),
    )
    l1: float | None = option(
        None,
        "strength of an L1 penalty (not of biases, LayerNorm), by its proximal step; None: none",
        low=0.0,
        traced=True,
    )
    clip_norm: float = option(1.0, "largest norm of the gradient; 0: no clipping", low=0.0, traced=True, in_card=True)
    b1: float = option(0.9, "adamw, adam, lamb, lion: decay of the first moment", low=0.0, high=0.999999)
    b2: float = option(0.999, "adamw, adam, lamb: decay of the second moment", low=0.0, high=0.999999)
    eps: float = option(1e-8, "adamw, adam, lamb: added to the denominator", low=0.0)
    momentum: float = option(0.9, "sgd: factor of the previous update")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    epochs: int | None = option(
        None, "passes over the training set, instead of train.steps; None: the recipe", low=1, traced=True, in_card=True
    )
    steps: int | None = option(None, "optimizer steps, instead of train.epochs", low=0, traced=True, in_card=True)
    batch_size: int = option(32, "number of examples per optimizer step", low=1, in_card=True)
    accumulation: int = option(1, "microbatches per batch; the result is that of the whole batch at once", low=1)
    packing: bool = option(True, "whether several examples share a row; False: one example per row")
    row_length: int = option(0, "number of tokens per packed row; 0: the planner searches for it", low=0)
    task_shares: tuple = option(
        (), "several tasks: the share of each among the examples of an epoch; (): by train.task_temperature"
    )
    task_temperature: float | None = option(
        None,
        "several tasks: their shares are as (number of examples) ** (1 / temperature); None: 1, every example once "
        "per epoch",
        low=0.1,
    )
    class_shares: tuple = option(
        (),
        'classification: the share of each class among the examples of an epoch, or ("balanced",): rare ones repeat, '
        "frequent ones take turns; (): as they are",
    )
    smote: str | None = option(
        None,
        "head, on cached features: synthetic examples make all classes equally frequent, between neighbours (smote) or "
        "between those near other classes (borderline); None: none",
        choices=("smote", "borderline"),
    )
    select: str = option(
        "last",
        "step whose weights are the result: last; best, by the task's first metric; or the name of a metric of the "
        "task, or loss, whose best value on dev decides",
        traced=True,
    )
    patience: int = option(
        0,
        "evaluations without a better score, as train.select has it, before training stops; 0: never",
        low=0,
        traced=True,
    )
    ema: float | None = option(
        None,
        "decay of an exponential average of the weights, which is evaluated and exported in their place; start with "
        "0.999 (Seo et al. 2017), or less in a short run: about the last 1 / (1 - decay) steps count; None: none",
        low=0.0,
        high=0.999999,
        traced=True,
    )
    swa: float | None = option(
        None,
        "share of the steps, the last ones, whose weights' mean is evaluated and exported in their place; start with "
        "0.25 (Izmailov et al. 2018); None: none",
        **SHARE,
        traced=True,
    )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    label_smoothing: float = option(
        0.0,
        "share of each label's weight spread over all classes; start with 0.1 (Szegedy et al. 2016)",
        **RATE,
        traced=True,
    )
    class_weights: tuple = option(
        (),
        'loss weights, one number per class, ("balanced",), or ("effective", 0.999), by the effective number of '
        "examples for this beta; (): all 1",
        traced=True,
    )
    focal: float | None = option(
        None,
        "exponent of the focal loss: confident examples count less; start with 2 (Lin et al. 2017); None: "
        "cross-entropy",
        low=0.0,
        traced=True,
    )
    r_drop: float | None = option(
        None,
        "strength of R-Drop: two passes under other dropout should agree, which doubles the work of a step; start with "
        "1 (Liang et al. 2021 have 0.1 to 1 for GLUE); None: one pass",
        low=0.0,
        traced=True,
    )
    mixup: float | None = option(
        None,
        "one label or score per text: examples are mixed with others of their batch, in hidden vectors before the head "
        "and in losses, by shares from Beta(mixup, mixup); start with 0.1 to 0.4 (Zhang et al. 2018); None: none",
        low=0.0,
        traced=True,
    )
    task_weights: tuple = option((), "several tasks: factor of each one's loss; (): all 1", traced=True)


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    runs: tuple = option(
        (),
        "work directories of finished runs of the task, the teachers, such as ('runs/a', 'runs/b'), whose mean "
        "predictions of the training rows are learned besides the labels; (): none",
        place=True,
    )
    weight: float | None = option(
        None,
        "share of the loss against the teachers' predictions; the rest is that of the labels; None: 0.5",
        **SHARE,
        traced=True,
    )
    temperature: float | None = option(
        None,
        "number by which the logits of the run and of its teachers are divided in the loss against their predictions, "
        "which is multiplied by its square; start with 2 to 4 (Hinton et al. 2015 have 2.5 to 4 for "
        "small students); None: 2.0",
        low=0.01,
        traced=True,
    )
    hidden: float | None = option(
        None,
        "strength of the cosine distance between the last hidden vectors of the run and of its only teacher, or the "
        "principal components of the teacher's where it is wider; None: none",
        low=0.0,
        traced=True,
    )


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    rate: float | None = option(
        None, "masked_lm: share of the tokens of each example that are predicted; None: 0.15", low=0.001, high=1.0
    )
    whole_words: bool | None = option(
        None, "masked_lm: True masks all tokens of a word or none; None: False, each token by itself"
    )
    replaced: float | None = option(
        None, "masked_lm: share of the predicted tokens that the mask replaces; None: 0.8", low=0.0, high=1.0
    )
    random: float | None = option(
        None,
        "masked_lm: share of the predicted tokens that random ones replace, the others are kept; None: 0.1",
        low=0.0,
        high=1.0,
    )


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    every_epochs: int | None = option(
        None, "epochs between evaluations, or eval.every_steps; 0: only at the end; None: recipe", low=0, traced=True
    )
    every_steps: int | None = option(
        None, "steps between evaluations, or eval.every_epochs; 0: only at the end", low=0, traced=True
    )
    metrics: tuple = option(
        (),
        'metrics of your own, ("module:function",): functions (predictions, labels) -> float, more is better, of numpy '
        "arrays over all rows: label ids, scores, 0 and 1 per label, or a list of arrays of ids of tags; module.py is "
        "in the working directory, or the module can be imported",
    )
    threshold: float | None = option(
        None,
        "multi_label: probability from which a label is predicted; None: 0.5",
        low=0.0,
        high=1.0,
        traced=True,
    )
    constrained: bool | None = option(
        None,
        "entities: whether the tags of a sentence are the best ones that follow each other as their scheme allows (no "
        "I- after O); None: False, the best tag of each word, where an I- after O begins an entity",
        traced=True,
    )
    null_threshold: float | None = option(
        None,
        "question_answering, where some contexts have no answer: how far the score of no answer must be above that of "
        "the best answer to win; None: the value with the best f1 on dev, at the end of the run",
        traced=True,
    )
    answer_length: int | None = option(
        None, "question_answering: largest number of tokens of a predicted answer; None: 30", low=1, traced=True
    )
    test: bool = option(True, "whether predictions for the test splits are written at the end")
    official_dev: bool = option(True, "with data.holdout: whether the published dev set is scored at the end")


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """Everything a result depends on; its fingerprint decides whether a work directory may be continued."""

    task: str = option(
        "sst2", "the task; `python -m fjt.main --list` shows them; several with + between them train together"
    )
    seed: int = option(
        0,
        "sets seeds.init, seeds.data and seeds.dropout where these are None",
        **SEED,
        traced=True,
        fingerprinted=False,
        in_card=True,
    )
    seeds: SeedsConfig = SeedsConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    tune: TuneConfig = TuneConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    loss: LossConfig = LossConfig()
    distill: DistillConfig = DistillConfig()
    mask: MaskConfig = MaskConfig()
    eval: EvalConfig = EvalConfig()


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int | None = option(None, "number of steps between checkpoints; None: one at each evaluation", low=1)
    keep: int = option(2, "number of latest checkpoints kept, besides the best; 1: no other to fall back to", low=1)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    data: int = option(0, "number of devices that share a batch; 0: all, divided by mesh.model", low=0)
    model: int = option(
        1, "number of devices that share each layer (tensor parallelism); it has to divide the heads", low=1
    )
    shard_params: bool = option(
        False, "whether the devices that share a batch divide parameters and optimizer state among them"
    )


@dataclasses.dataclass(frozen=True)
class LogConfig:
    every_steps: int = option(10, "number of steps between lines of progress", low=1)
    tensorboard: bool = option(True, "whether TensorBoard files are written")


@dataclasses.dataclass(frozen=True)
class OutputConfig:
    export: bool = option(True, "whether the tuned model or adapter is written to export/")
    tables: bool = option(True, "whether predictions are written as tables (.tsv), to read and to submit")
    curve: bool = option(True, "whether curve.png is drawn at each evaluation")
    checkpoints: bool = option(True, "whether checkpoints are kept when the run is done")


@dataclasses.dataclass(frozen=True)
class CacheConfig:
    dir: str = option("", "folder of cached data, archives and features; empty: $FJT_CACHE or ~/.cache/fjt", path=True)
    compilation: bool | None = option(
        None,
        "whether compiled programs are kept between processes; None: yes, in JAX_COMPILATION_CACHE_DIR if that is set",
    )
    hidden: bool | None = option(None, "whether the frozen layers' output is cached; None: where that saves time")
    hidden_gib: float = option(4.0, "largest size of a run's cached features in GiB", low=0.0)


@dataclasses.dataclass(frozen=True)
class ExecutionConfig:
    """How the run is executed; free to change between restarts."""

    checkpoint: CheckpointConfig = CheckpointConfig()
    mesh: MeshConfig = MeshConfig()
    log: LogConfig = LogConfig()
    output: OutputConfig = OutputConfig()
    cache: CacheConfig = CacheConfig()


@dataclasses.dataclass(frozen=True)
class Settings:
    """A run's options; without arguments, the defaults."""

    experiment: ExperimentConfig = ExperimentConfig()
    execution: ExecutionConfig = ExecutionConfig()


EXPERIMENT = schema.collect(ExperimentConfig)  # {dotted key: Option}
OPTIONS = EXPERIMENT | schema.collect(ExecutionConfig)
# Where data and weights are found has no effect on a result: their contents do, and are hashed.
PATHS = tuple(key for key, one in EXPERIMENT.items() if one.place)
# Runs that differ only in these share every compiled program.
TRACED = tuple(key for key, one in EXPERIMENT.items() if one.traced)

# Durations, each with the option that gives the same one in another unit.
OTHER_UNIT = {
    "train.epochs": "train.steps",
    "train.steps": "train.epochs",
    "eval.every_epochs": "eval.every_steps",
    "eval.every_steps": "eval.every_epochs",
}

# Names of options in Trainer, PEFT and the usual scripts, for the message about an unknown option.
ALIASES = {
    "task_name": "task", "train_file": "data.files.train", "validation_file": "data.files.dev",
    "test_file": "data.files.test", "max_train_samples": "data.limit", "model": "model.path",
    "model_name": "model.path", "model_name_or_path": "model.path", "model_revision": "model.revision",
    "max_len": "model.max_length", "max_seq_length": "model.max_length", "max_seq_len": "model.max_length",
    "bf16": "model.dtype", "fp16": "model.dtype", "target_modules": "tune.sites", "r": "tune.rank",
    "lora_r": "tune.rank", "lora_rank": "tune.rank", "lora_alpha": "tune.alpha", "lora_dropout": "tune.dropout",
    "num_virtual_tokens": "tune.prompt_length", "optim": "optim.name", "optimizer": "optim.name",
    "lr": "optim.learning_rate", "wd": "optim.weight_decay", "scheduler": "optim.schedule",
    "lr_scheduler_type": "optim.schedule", "warmup": "optim.warmup_fraction", "warmup_ratio": "optim.warmup_fraction",
    "warmup_steps": "optim.warmup_fraction", "max_grad_norm": "optim.clip_norm", "adam_beta1": "optim.b1",
    "adam_beta2": "optim.b2", "adam_epsilon": "optim.eps", "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs", "max_steps": "train.steps", "per_device_train_batch_size": "train.batch_size",
    "per_device_eval_batch_size": "train.batch_size", "train_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.accumulation", "load_best_model_at_end": "train.select",
    "metric_for_best_model": "train.select", "early_stopping_patience": "train.patience",
    "label_smoothing_factor": "loss.label_smoothing", "eval_steps": "eval.every_steps",
    "eval_strategy": "eval.every_epochs", "compute_metrics": "eval.metrics", "save_steps": "checkpoint.every_steps",
    "save_total_limit": "checkpoint.keep", "logging_steps": "log.every_steps", "report_to": "log.tensorboard",
    "cache_dir": "cache.dir", "data_seed": "seeds.data",
}  # fmt: skip  # a table of constants

# Names for several tuning methods at once, with options where they are left open: the mix-and-match adapter (He et al.
# 2022, section 4.6), and UniPELT (Mao et al. 2022); their prefixes are AdapterHub's, which holds both.
TOGETHER = {
    "mam": (("prefix", "parallel"), {"shift_positions": False}),
    "unipelt": (("prefix", "lora", "pfeiffer"), {"shift_positions": False, "gating": True}),
}

# Optimizers whose updates are not of the size of the learning rate, unlike AdamW's.
OTHER_SCALE = ("sgd", "lamb", *(f"optax:{name}" for name in OPTAX))


def unknown(key: str, valid: Iterable[str], prefix: str = "") -> str:
    """' Did you mean ...?' for a key that is not an option: what it is called here, else keys of near names.

    Args:
        key: what was given.
        valid: the keys that exist.
        prefix: of keys in the message.
    """
    last = key.rsplit(".", 1)[-1].replace("-", "_")
    names = [ALIASES[last]] if last in ALIASES else [name for name in valid if name.rsplit(".", 1)[-1] == last]
    names = [key] if key in names else names
    return f" Did you mean {' or '.join(prefix + name for name in names)}?" if names else suggest(key, valid)


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """{dotted key: value} of a nested mapping, without the tables themselves."""
    flat = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
