"""The law of a step's cost: the whole forward pass, and the backward pass down to the lowest trainable place."""

from fjt.models.families import find_family
from fjt.models.family import EncoderConfig
from fjt.tuning.method import ORDER, Product, is_gate, layer_place
from fjt.tuning.registry import METHODS


def step_flops(
    config: EncoderConfig,
    trained: dict[str, tuple[int, ...]],
    *,
    tokens: float,
    row_length: float,
    examples: float,
    classes: int,
    start: int = 0,
    one_slot: bool = True,
    head: str = "sequence",
) -> float:
    """The operations of a step: its matrix products, two operations per multiply-add.

    A product of n tokens with a kernel [D, F] costs 2nDF, the same for the gradient of its input where something below
    trains, and the same for the gradient of its kernel where the kernel trains.  In the last layer all tokens have keys
    and values, but with one slot per example only first tokens have a query and a feed-forward layer, unless gates read
    all of them.

    Args:
        config: the encoder's.
        trained: {name: shape} of the parameters that train.
        tokens: the number of computed tokens, padding included, in rows of row_length.
        row_length: tokens per row.
        examples: the number of slots.
        classes: the number of outputs of the head.
        start: the lowest layer that is computed at all.
        one_slot: of the Model.
        head: likewise.
    """
    every = not one_slot or any(is_gate(name) for name in trained)  # tokens of the last layer are computed
    places = {name: place(name, config.layers) for name in trained}
    lowest = min(places.values())
    keys = row_length + _extra_keys(trained)
    family, total = find_family(config.family), 0.0
    shapes = family.sites(config)
    for i in range(max(0, start), config.layers):
        last = i == config.layers - 1 and not every
        queries = examples if last else tokens
        for site, order in ORDER.items():
            if site == "attention":
                cost = 2 * 2 * queries * keys * config.width
                total += cost * (3 if lowest < (i, order) else 1)
            elif not site.endswith("norm"):
                rows = tokens if site in ("key", "value") else queries
                cost = 2 * rows * shapes[site].inputs * shapes[site].outputs
                total += cost * (1 + (lowest < (i, order)) + (f"encoder/layer_{i}/{site}/kernel" in trained))
    for name, shape in trained.items():
        for site, size, needs, trains in _new_products(name, shape, config):
            last = places[name][0] >= config.layers - (not every) and site not in ("key", "value")
            cost = 2 * (examples if last else tokens) * size
            total += cost * (1 + (needs or lowest < places[name]) + trains)
    for site in (site for site in shapes if site in family.heads[head].modules):
        cost = 2 * examples * shapes[site].inputs * shapes[site].outputs
        total += cost * (1 + (lowest[0] < config.layers) + (f"head/{site}/kernel" in trained))
    return total + 2 * examples * 3 * config.width * classes


def _new_products(name: str, shape: tuple[int, ...], config: EncoderConfig) -> list[Product]:
    """The products that a trained parameter adds: those of its method, none for a base parameter."""
    method, path = _split(name)
    return METHODS[method].cost.products(path, shape, config) if method else []


def _extra_keys(trained: dict[str, tuple[int, ...]]) -> int:
    """The number of learned keys that each query sees beyond its row's."""
    shapes = {}
    for name, shape in trained.items():
        method, path = _split(name)
        if method:
            shapes.setdefault(method, {})[path] = shape
    return sum(METHODS[method].cost.keys(found) for method, found in shapes.items())


def _split(name: str) -> tuple[str, str]:
    """(the method of a new leaf, its path below the method); ("", the name) for a base parameter."""
    if not name.startswith("adapters/"):
        return "", name
    _, method, path = name.split("/", 2)
    return method, path


def place(name: str, layers: int) -> tuple[int, float]:
    """The place (layer, order in it) of a parameter: (-1, 0) for embeddings, (layers, ...) for the head.

    Args:
        name: the parameter's name, `encoder/...`, `head/...` or `adapters/<method>/...`.
        layers: the number of layers of the encoder.
    """
    method, path = _split(name)
    if method:
        return METHODS[method].cost.place(path, layers)
    if name.startswith("encoder/embeddings/"):
        return -1, 0
    return (layers, 1) if name.startswith("head/") else layer_place(name.removeprefix("encoder/"), layers)
