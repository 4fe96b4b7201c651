"""Every option of fjt, with its default: the one list that `--help` prints and `--config.key=value` may change.

A value of None is filled from a recipe for the method and the size of the training set; the run prints and
records which values came from a recipe and which from you.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder


def get_config():
    config = ConfigDict()
    config.task = "sst2"  # what is learned; `python -m fjt.main --list` names the tasks
    config.seed = 0  # sets the three seeds below that are not set by themselves

    config.seeds = seeds = ConfigDict()
    seeds.init = placeholder(int)  # the new weights: head, adapters, whatever the checkpoint lacks
    seeds.data = placeholder(int)  # the order of the training examples
    seeds.dropout = placeholder(int)  # the dropout noise
    seeds.subset = 0  # which rows data.limit and data.holdout take; not set by `seed`

    config.data = data = ConfigDict()
    data.source = "tfds"  # tfds | files | synthetic
    data.dir = ""  # files: the folder of the official layout (DIR/SST-2/train.tsv); tfds: its data_dir
    data.manual_dir = ""  # tfds: a folder with the archives as downloaded (SST-2.zip, ...)
    data.files = files = ConfigDict()  # an own table: .csv .tsv .jsonl .parquet
    files.train = ""
    files.dev = ""
    files.test = ""
    data.columns = columns = ConfigDict()  # names, or numbers from 0 where the file has no header
    columns.text = "text"
    columns.text_pair = ""  # empty: single sentences
    columns.label = "label"
    columns.labels = ()  # multi_label: one column of 0 and 1 per label, in place of columns.label
    columns.id = ""  # empty: the row's number
    columns.cluster = placeholder(str)  # the source that rows share, such as a document: a study's intervals heed it
    data.header = True  # the first line of a CSV or TSV names the columns
    data.kind = "classification"  # own table: classification | regression | multi_label
    data.label_names = ()  # own table: the labels in the order of their ids; empty: sorted
    data.holdout = 0.0  # share of train that is kept aside and used as dev
    data.limit = 0  # train on this many examples, drawn by seeds.subset; 0: all
    data.shuffle_labels = False  # a control: training labels are permuted, so nothing can be learned

    config.model = model = ConfigDict()
    model.path = "bert-base-uncased"  # a directory, a hub name or an fjt run; empty: random weights (model.scratch)
    model.revision = "main"  # of a hub name: branch, tag or commit
    model.name = ""  # what exports call the base model; empty: the hub name, or a directory's own name
    model.keep_head = False  # True: start from the checkpoint's own classifier (--config.train.steps=0 evaluates it)
    model.adapter = ""  # an adapter to start from, over model.path: a directory of PEFT's or fjt's, or an fjt run
    model.scratch = scratch = ConfigDict()  # the shape when model.path is empty
    scratch.layers = 2
    scratch.width = 128
    scratch.heads = 4
    scratch.inner = 512
    scratch.vocab = ""  # a WordPiece vocabulary file; empty: the one of the synthetic language
    model.max_length = 128  # tokens of an example, [CLS] and [SEP] included; longer ones are cut, longest first
    model.dtype = placeholder(str)  # of the computation: float32 | bfloat16; weights stay float32
    model.matmul_precision = "default"  # default | high | highest (an accelerator's float32 products)
    model.dropout = dropout = ConfigDict()  # None: as the checkpoint's config.json says
    dropout.hidden = placeholder(float)
    dropout.attention = placeholder(float)
    dropout.classifier = placeholder(float)
    model.frozen_dropout = False  # True: layers below the lowest trainable one run with dropout as well
    model.reinit_layers = 0  # so many of the highest layers, and the pooler, start from random weights

    config.tune = tune = ConfigDict()
    tune.method = ("full",)  # `--list` names the methods
    tune.train_pooler = placeholder(bool)  # None: with the encoder (full, top_k), or when the checkpoint lacks it
    tune.train_head = placeholder(bool)  # False: a kept head (model.keep_head) stays as it is; else it trains
    tune.budget = 0  # parameters that the method may add: its rank, bottleneck or length follows; 0: not solved for
    # Options of methods; None (or ()): the method's own default, which --list shows.
    tune.layers = placeholder(int)  # top_k: how many of the highest layers train
    tune.layer_decay = placeholder(float)  # llrd: a layer's rate over that of the layer above
    tune.stage_epochs = placeholder(float)  # gradual: how long each stage lasts; 0: all alike
    tune.stage_rates = ()  # gradual: of the rate, a factor a stage; the last one holds on; (): all 1
    tune.mixout_rate = placeholder(float)  # mixout: how many of a kernel's entries are the pretrained ones, each step
    tune.train = ()  # pattern: regular expressions over parameter names; what one of them finds trains
    tune.sites = ()  # of query key value attention_output intermediate output pooler, for all methods of a run
    # that read it (bitfit, lora, dora, vera, ia3)
    tune.rank = placeholder(int)  # lora, dora, vera
    tune.ranks = ()  # lora, dora: in its place a rank for each of tune.sites, in their order
    tune.max_rank = placeholder(int)  # lora, dora: the rank that memory is kept for, so that ranks share a program
    tune.alpha = placeholder(float)  # lora, dora: the update is scaled by alpha / rank
    tune.dropout = placeholder(float)  # lora, dora, vera: on what the update reads
    tune.rank_stabilized = placeholder(bool)  # lora, dora: scaled by alpha / sqrt(rank) instead
    tune.vera_start = placeholder(float)  # vera: where the inner scales begin
    tune.reduction = placeholder(float)  # adapters: the encoder's width over the bottleneck's
    tune.bottleneck_width = placeholder(int)  # adapters: the bottleneck itself, in place of the reduction; 0: not given
    tune.activation = placeholder(str)  # adapters: relu | gelu | swish | ...
    tune.adapter_norm = placeholder(bool)  # houlsby, pfeiffer: whether the adapter reads what LayerNorm would give
    tune.adapter_scale = placeholder(float)  # parallel
    tune.prefix_length = placeholder(int)  # prefix: learned keys and values a layer
    tune.projection = placeholder(int)  # prefix, p_tuning: inner width of the MLP that makes them; 0, prefix: none
    tune.shift_positions = placeholder(bool)  # prefix: text starts at position prefix_length, as in PEFT
    tune.prompt_length = placeholder(int)  # prompt, p_tuning: learned tokens before the text
    tune.gating = placeholder(bool)  # lora, prefix, adapters but compacter: each example weighs what they add (UniPELT)

    config.optim = optim = ConfigDict()
    optim.name = "adamw"  # adamw | adam | sgd | rmsprop | adagrad | adadelta | adafactor | lamb | lion
    optim.learning_rate = placeholder(float)  # sgd, adagrad, adadelta and lamb have no recipe: give theirs
    optim.multipliers = ()  # of the rate: (("head/", 10.0), ("encoder/layer_0/", 0.1)), pattern and factor
    optim.weight_decay = placeholder(float)  # never on biases and LayerNorm
    optim.schedule = "linear"  # linear cosine constant cosine_restarts polynomial exponential inverse_sqrt
    optim.warmup_fraction = 0.06  # of all steps
    optim.final_fraction = 0.0  # the rate at the end as a share of the peak (not constant, inverse_sqrt)
    optim.power = 2.0  # polynomial
    optim.cycles = 2  # cosine_restarts
    optim.clip_norm = 1.0  # of the gradient over what trains; 0: no clipping
    optim.b1 = 0.9
    optim.b2 = 0.999
    optim.eps = 1e-8
    optim.momentum = 0.9  # sgd, rmsprop

    config.train = train = ConfigDict()
    train.epochs = placeholder(int)  # or train.steps, not both
    train.steps = placeholder(int)
    train.batch_size = 32  # examples of one optimizer step
    train.accumulation = 1  # parts that a batch is computed in; the result is that of the whole batch
    train.packing = True  # False: one example a row
    train.row_length = 0  # tokens of a packed row; 0: the planner searches
    train.select = "last"  # last | best: which step's weights the result is about
    train.patience = 0  # stop after so many evaluations without a better score; 0: never

    config.loss = loss = ConfigDict()
    loss.label_smoothing = 0.0
    loss.class_weights = ()  # one number a class, or ("balanced",)

    config.eval = evaluation = ConfigDict()
    evaluation.every_epochs = placeholder(int)  # or every_steps, not both; 0: at the end alone
    evaluation.every_steps = placeholder(int)
    evaluation.threshold = placeholder(float)  # multi_label: probability from which a label is predicted; None: 0.5
    evaluation.test = True  # write predictions for the test splits at the end
    evaluation.official_dev = True  # with data.holdout: score the published dev set at the end

    # From here on: how the run is executed. Free to change between restarts.
    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_steps = placeholder(int)  # None: at each evaluation
    checkpoint.keep = 2  # latest ones kept, beside the best; with one there is none to fall back to

    config.mesh = mesh = ConfigDict()
    mesh.data = 0  # devices that share a batch; 0: all

    config.log = log = ConfigDict()
    log.every_steps = 10
    log.tensorboard = True

    config.output = output = ConfigDict()
    output.export = True  # the tuned model or adapter, in export/
    output.tables = True  # predictions to read (.tsv) and to submit, beside the arrays
    output.curve = True  # curve.png, drawn as evaluations come
    output.checkpoints = True  # checkpoints stay when the run is done

    config.cache = cache = ConfigDict()
    cache.dir = ""  # tokenized data, extracted archives, hidden states; empty: $FJT_CACHE or ~/.cache/fjt
    cache.compilation = placeholder(bool)  # JAX's compilation cache; None: on for accelerators, off on CPU
    cache.hidden = placeholder(bool)  # what enters the lowest layer that trains is kept; None: where that pays
    cache.hidden_gib = 4.0  # as far as a run's hidden states are not larger

    return config
