"""The law of a step's cost: forward whole, backward only down to the lowest trainable place."""

import re

import numpy as np

from fjt.tuning import bottleneck
from fjt.tuning.method import widths

# Where a token passes in a layer, in order. A place below the lowest trainable one needs no gradient.
PLACES = {
    "key": 0, "value": 0, "query": 0, "attention": 1, "attention_output": 2, "attention_norm": 3, "intermediate": 4,
    "output": 6, "output_norm": 7,
}  # fmt: skip
IA3_INPUT = {"output": 5, "attention_output": 1}  # what scales a product's input lies before the product


def step_flops(config, trained, *, tokens, row_length, examples, classes, start=0):
    """Operations of a step, f64: its matrix products, two a multiply-add.

    config: EncoderConfig; trained: {name: shape} of what trains; tokens: computed ones, in rows of row_length;
    examples: slots; start: the lowest layer that is computed at all.  A product of n tokens with a kernel [D, F] costs
    2nDF, the same for the gradient of what it reads where something below trains, and the same for its own where it
    trains.  In the last layer all tokens have keys and values, but only first tokens a query and a feed-forward layer,
    unless gates read all of them.
    """
    gated = any("/gate/" in name for name in trained)
    places = {name: place(name, config.layers) for name in trained}
    lowest = min(places.values())
    prefix = next(
        (shape[0] for name, shape in trained.items() if re.match(r"adapters/prefix/.*(key|embedding)$", name)), 0
    )
    total = 0.0
    for i in range(max(0, start), config.layers):
        last = i == config.layers - 1 and not gated
        queries = examples if last else tokens
        for site, order in PLACES.items():
            if site == "attention":
                cost = 2 * 2 * queries * (row_length + prefix) * config.width
                total += cost * (3 if lowest < (i, order) else 1)
            elif not site.endswith("norm"):
                cost = 2 * (tokens if site in ("key", "value") else queries) * config.width
                cost *= config.inner if site in ("intermediate", "output") else config.width
                total += cost * (1 + (lowest < (i, order)) + (f"encoder/layer_{i}/{site}/kernel" in trained))
    for name, shape in trained.items():
        for site, size, needs, trains in new_products(name, shape, config):
            last = places[name][0] >= config.layers - (not gated) and site not in ("key", "value")
            cost = 2 * (examples if last else tokens) * size
            total += cost * (1 + (needs or lowest < places[name]) + trains)
    return total + 2 * examples * (3 * config.width * classes + config.width**2 * (1 + 2 * (lowest[0] < config.layers)))


def new_products(name, shape, config):
    """[(site, size of the kernel, whether its input's gradient is always needed, whether it trains)] of a new leaf."""
    found = re.match(r"adapters/(\w+)/(?:layer_\d+/)?(\w+)/(.+)", name)
    if not found:
        return []
    method, site, last = found.groups()
    if method in ("lora", "dora") and last in ("a", "b"):
        return [(site, np.prod(shape), last == "b", True)]
    if method == "vera" and last == "inner":
        width, out = widths(config, site)
        return [(site, width * shape[0], False, False), (site, shape[0] * out, True, False)]
    if method in bottleneck.METHODS and last == "down/bias":
        return [(site, config.width * shape[0], False, True), (site, shape[0] * config.width, True, True)]
    return []


def place(name, layers):
    """(layer, order in it) of a parameter: (-1, 0) for embeddings, (layers, ...) for pooler and head."""
    if name.startswith(("encoder/embeddings/", "adapters/prompt/", "adapters/p_tuning/")):
        return -1, 0
    if re.match(r"adapters/prefix/(embedding|down|up)", name):
        return 0, 0
    found = re.match(r"(?:encoder|adapters/(\w+))/layer_(\d+)/(\w+)", name)
    if not found:
        return layers, 1 if name.startswith("head/") else 0
    method, layer, site = found.groups()
    if method in bottleneck.METHODS:
        return int(layer), PLACES[site] + 0.5
    if site == "gate":  # of a prefix, which reads what enters the layer
        return int(layer), 0
    if method == "ia3" and site in IA3_INPUT:
        return int(layer), IA3_INPUT[site]
    return int(layer), PLACES[site]
