"""Methods at equal cost: the size with which a method adds at most a given number of parameters."""

import bisect
import dataclasses

from fjt.core import tree
from fjt.core.errors import UserError
from fjt.core.options import TuneConfig
from fjt.core.tree import Tree
from fjt.models.encoder import EncoderConfig
from fjt.tuning.partition import METHODS, abstract_leaves, find_methods, is_fixed


def solve_budget(
    tune: TuneConfig, base: Tree, config: EncoderConfig, max_length: int
) -> tuple[TuneConfig, tuple[str, ...]]:
    """(TuneConfig, the options that were solved): the largest size whose new parameters are at most tune.budget.

    Args:
        tune: the options, one method's size left open.
        base: shapes of the base parameters.
        config: of the encoder.
        max_length: tokens of text.

    Raises:
        UserError: no size is open, or several are; the smallest size exceeds the budget, or the largest one does not
            use it.
    """
    sized = {name: size for name in tune.method if (size := METHODS[name].size)}
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
    sizes = range(step, max(step, highest) + 1, step)  # if none fits, the check of the method's options says why

    def solved(size: int) -> TuneConfig:
        return dataclasses.replace(tune, **{option: size})

    def count(size: int) -> int:
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
