"""PyTorch's side of the comparisons: real texts and weights where they are, a random small BERT always."""

import csv
import os

import jax
import jax.numpy as jnp
import numpy as np
import small

from fjt.core import seeds, tree
from fjt.data import batches, packing, tokenization
from fjt.data.glue import Split
from fjt.models import pretrained, torch_names
from fjt.models.encoder import Model
from fjt.models.families import FAMILIES

MINILM = os.environ.get("FJT_MINILM", "")
FILES = tuple(files for family in FAMILIES.values() for files in family.tokenizer)
SHARED = os.environ.get("FJT_SHARED", "")


def real_texts():
    """32 SST-2 sentences and 32 MRPC pairs as they stand in the files."""

    def column(path, *columns):
        with open(os.path.join(SHARED, "data", "glue", path), encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:33]
        return [tuple(row[c] for row in rows) for c in columns]

    (single,) = column("SST-2/dev.tsv", 0)
    first, second = column("MRPC/dev.tsv", 3, 4)
    label = np.arange(32, dtype=np.int32) % 2
    return [Split((), single, None, label), Split((), first, second, label)]


def ours(directory, dtype="float32"):
    """(Model, base parameters) as fjt reads a directory, its classifier included."""
    checkpoint = pretrained.read_checkpoint(directory)
    model = Model(checkpoint.config, 2, dtype=dtype)
    abstract = jax.eval_shape(model.init, seeds.make_key(0, "init"))
    loaded = pretrained.take(checkpoint, abstract, directory, keep_head=model.head)
    assert loaded.missing == () and loaded.unused == ()
    return model, loaded.params


def with_head(theirs, directory, classes, head):
    """(Model with a head, base parameters, tokenizer) of a PyTorch model, which is saved in the directory."""
    theirs.save_pretrained(directory)
    checkpoint = pretrained.read_checkpoint(str(directory))
    model = Model(checkpoint.config, classes, one_slot=False, head=head)
    abstract = jax.eval_shape(model.init, seeds.make_key(0, "init"))
    loaded = pretrained.take(checkpoint, abstract, str(directory), keep_head=head)
    assert loaded.missing == () and loaded.unused == ()
    tokenizer = tokenization.load_tokenizer(str(directory), FILES)
    tokenization.fit_types(tokenizer, checkpoint.config.types, "")
    return model, loaded.params, tokenizer


def packed(examples, model):
    """(batch, places) of all examples."""
    rows = np.arange(len(examples))
    slots = batches.slots_of(examples, rows[None])
    (shape,) = packing.plan(examples.lengths[None], slots=slots, most_shapes=1, width=model.config.width).shapes
    return batches.build(examples, rows, shape)


def check_gradients(problem, model, params, batch, theirs, expected, classes=2):
    """The loss is PyTorch's, which has gone backward, and the gradient of each leaf within 1e-3 of its norm."""
    hyper = small.make_hyper(dropout=0.0, classes=classes)

    def loss(params):
        value, weight = problem.loss(model.apply(params, batch), batch, hyper)
        return jnp.sum(value * batch["weight"]) / jnp.sum(weight * batch["weight"])

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    named = dict(theirs.named_parameters(remove_duplicate=False))  # tied ones have two names
    gradients = {name: parameter.grad.numpy() for name, parameter in named.items()}
    whole = np.sqrt(sum(np.sum(np.square(parameter.grad.numpy())) for parameter in theirs.parameters()))
    grads = tree.flatten(grads)
    assert len(grads) == len(list(theirs.parameters()))
    for name, gradient in grads.items():
        reference = gradients[torch_names.torch_name(name, model.config.family)]
        difference = np.linalg.norm(torch_names.to_torch(name, np.asarray(gradient)) - reference)
        assert difference <= 1e-3 * np.linalg.norm(reference) + 1e-7 * whole, name


def encode(directory, split, row_length=0):
    """(Examples, packed batch, place, PyTorch inputs) of a split of 32."""
    tokenizer = tokenization.load_tokenizer(directory, FILES)
    examples = tokenization.tokenize(split, tokenizer, 64)
    indices = np.arange(len(examples))[None]
    shape = packing.plan(batches.lengths_of(examples, indices), row_length=row_length, width=64).shapes[0]
    batch, places = batches.build(examples, indices[0], shape)
    pair = None if split.text_pair is None else list(split.text_pair)
    inputs = tokenizer(
        list(split.text), pair, truncation="longest_first", max_length=64, padding=True, return_tensors="pt"
    )
    return examples, batch, places.slots[0], inputs
