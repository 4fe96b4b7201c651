"""The time of fjt's training step, whole and in parts, and the share of the device's peak rate."""

import jax

from tests.benchmarks.accelerator_parts import steps, texts


def run(options: dict, context: dict) -> dict:
    """The row of a case."""
    variant = options["variant"]
    rates = {"attention": 0.0} if variant == "no attention dropout" else {}
    made = steps.make(options["shape"], "full", options["dtype"], dropout=variant != "no dropout", **rates)
    examples = steps.examples_of(options["batch"] * texts.BATCHES, options["length"], made.model.config)
    all_batches, plan = steps.packed(examples, options["batch"], options["length"], made.model.config.width)
    rounds = 2 if context["tiny"] else 10
    frozen, held = jax.device_put(made.frozen), {"state": made.state()}

    def timed(compiled, whole):
        def call(k):
            found = compiled(held["state"], frozen, all_batches[k], made.hyper)
            if whole:
                held["state"], found = found
            return found

        return steps.summary(steps.seconds_per_call(call, len(all_batches), rounds))

    row, parts = {}, {"forward": ("loss",), "forward and backward": ("loss", "grad_norm")}
    if variant == "parts of the step":
        state = held["state"]
        row["parts"] = {n: timed(made.compile(all_batches[0], state, frozen, m), False) for n, m in parts.items()}
    compiled = made.compile(all_batches[0], held["state"], frozen)
    row |= timed(compiled, True)
    kind = jax.devices()[0].device_kind
    peak, flops = steps.peak_flops(kind, options["dtype"]), steps.law(made, examples.lengths, len(all_batches))
    return row | {
        "examples_per_second": options["batch"] / row["seconds"],
        "tokens_per_second": plan.real_tokens / len(all_batches) / row["seconds"],
        "token_efficiency": plan.efficiency,
        "flops": flops,
        "peak_flops": peak,
        "mfu": None if peak is None else flops / row["seconds"] / peak,
    }
