"""Methods at equal cost: the size of one that adds at most so many parameters."""

import bisect
import dataclasses

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.tuning.partition import METHODS, abstract_leaves, find_methods, is_fixed


def solve_budget(tune, base, config, max_length):
    """(TuneConfig, the options that were filled): the largest size whose new parameters are at most tune.budget.

    base: shapes of the base parameters; max_length: tokens of text.  Raises UserError when no method has a size left
    open, when several have, and for a budget that the smallest size exceeds or the highest does not use.
    """
    sized = {name: METHODS[name].size for name in tune.method if METHODS[name].size}
    still_open = [n for n, o in sized.items() if getattr(tune, o) is None and not (o == "rank" and tune.ranks)]
    if len({sized[name] for name in still_open}) != 1:
        found = f"those of {' and '.join(still_open)} are open; give all but one" if still_open else "none is open"
        raise UserError(
            f"config.tune.budget={tune.budget:,} solves the size of one method "
            f"({', '.join(sized.values()) or 'no size'} here), and {found}."
        )
    option, names = sized[still_open[0]], " and ".join(still_open)
    for other in {"rank": ("max_rank",), "bottleneck_width": ("reduction",)}.get(option, ()):
        if getattr(tune, other):
            raise UserError(f"config.tune.budget solves config.tune.{option}; leave out config.tune.{other}.")
    step = max(METHODS[name].step for name in still_open)
    highest = min(METHODS[name].highest(config, max_length) for name in still_open)
    sizes = range(step, max(step, highest) + 1, step)  # where none fits, the check of the method's options says why

    def solved(size):
        return dataclasses.replace(tune, **{option: size})

    def count(size):
        leaves = tree.flatten({"adapters": abstract_leaves(find_methods(solved(size)), base, config)})
        return sum(leaf.size for name, leaf in leaves.items() if not is_fixed(name))

    fit = bisect.bisect_right(sizes, tune.budget, key=count)
    if not fit:
        raise UserError(
            f"config.tune.budget={tune.budget:,} is less than the {count(step):,} parameters of {names} with "
            f"config.tune.{option}={step}."
        )
    if fit == len(sizes) > 1 and 2 * count(sizes[-1]) - count(sizes[-2]) <= tune.budget:
        raise UserError(
            f"config.tune.budget={tune.budget:,} is more than {names} can use: with the highest config.tune.{option}, "
            f"{sizes[-1]}, it adds {count(sizes[-1]):,} parameters."
        )
    return solved(sizes[fit - 1]), (f"tune.{option}",)
