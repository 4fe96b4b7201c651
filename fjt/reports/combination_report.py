"""The report of a combination: its score on dev beside those of its parts, the difference, and what it costs."""

import os
from collections.abc import Sequence
from typing import Any

from fjt.core import console, files, records
from fjt.core.markdown import code
from fjt.experiment import combination
from fjt.experiment.combination import Part
from fjt.experiment.labelled import Labelled
from fjt.experiment.loaded_run import Run
from fjt.reports import pages, pairs

RECORD, PAGE = "combination.json", "combination.html"
COLLAPSED = "(nearly) one prediction for all of dev"


def record(
    runs: Sequence[Run], parts: Sequence[Part], rows: Labelled, how: str, chosen: Sequence[int]
) -> dict[str, Any]:
    """The contents of combination.json.

    Args:
        runs: those that are combined, or whose checkpoints are.
        parts: the models.
        rows: dev, as the combination predicts it.
        how: average, greedy or ensemble.
        chosen: the numbers of the parts that are in it.
    """
    metric = runs[0].result["selection"]
    every = [*(part.rows for part in parts), rows]
    scores, ranks = ([function(one, metric) for one in every] for function in (combination.score, combination.rank))
    best = ranks.index(max(ranks[:-1]))
    difference = pairs.compare(rows, parts[best].rows).differences.get(metric)
    used = [ranks[i] for i in chosen]
    return {
        "how": how,
        "of": "runs" if len(runs) == len(parts) else "checkpoints",
        "metric": metric,
        "score": scores[-1],
        "collapsed": combination.collapsed(rows),
        "below_its_parts": len(used) > 1 and ranks[-1] < min(used),
        "parts": [
            {"name": part.name, "score": score, "collapsed": combination.collapsed(part.rows), "used": i in chosen}
            for i, (part, score) in enumerate(zip(parts, scores[:-1], strict=True))
        ],
        "best_part": best,
        "difference": None if difference is None else vars(difference),
        "models_per_prediction": len(parts) if how == "ensemble" else 1,
        **combination.cost(runs),
    }


def write(found: dict[str, Any], folder: str) -> None:
    """Writes combination.json and combination.html to a folder.  found: see `record`."""
    title = f"{'Ensemble' if found['how'] == 'ensemble' else 'Soup'} of {len(found['parts'])} {found['of']}"
    columns, rows = _table(found)
    shown = tuple((code(name), *rest) for name, *rest in rows[:-1]) + tuple(rows[-1:])
    blocks: list[pages.Block] = [pages.Heading(1, title), pages.Text(f"{code(found['metric'])} on dev:")]
    blocks.append(pages.Table(columns, shown))
    blocks += [pages.Text(text) for text in _texts(found)]
    blocks += [pages.Text(text, warning=True) for text in _warnings(found)]
    os.makedirs(folder, exist_ok=True)
    records.write_json(os.path.join(folder, RECORD), found)
    files.write(os.path.join(folder, PAGE), pages.page(title, blocks).encode())


def show(found: dict[str, Any], folder: str) -> None:
    """Prints what `write` has written."""
    console.table(f"{found['metric']} on dev", *_table(found))
    for text in _texts(found):
        console.say(text)
    for text in _warnings(found):
        console.warn(text)
    console.say(f"page: {os.path.join(folder, PAGE)}, record: {os.path.join(folder, RECORD)}")


def _table(found: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, rows) of the parts and, last, of the combination."""
    rows = [(part["name"], _score(part), "yes" if part["used"] else "no") for part in found["parts"]]
    return ("part", ">score", "used"), [*rows, (f"**{found['how']}**", _score(found), "")]


def _score(one: dict[str, Any]) -> str:
    return f"{one['score']:.4f}" + " collapsed" * one["collapsed"]


def _texts(found: dict[str, Any]) -> list[str]:
    """The sentences about the difference and the cost."""
    texts, number = [], found["models_per_prediction"]
    if difference := found["difference"]:
        ends = f"{difference['low']:+.4f} to {difference['high']:+.4f}"
        texts.append(
            f"against the best part: {difference['value']:+.4f} ({difference['reason'] or ends}); dev chose that part, "
            "too"
        )
    texts.append(
        f"training of all parts {found['train_seconds']:.1f} s; a prediction needs {number} model{'s' * (number > 1)}"
    )
    return texts


def _warnings(found: dict[str, Any]) -> list[str]:
    texts = []
    if found["collapsed"]:
        texts.append(f"the combination has collapsed: {COLLAPSED}, so that its score counts as none")
    elif all(part["collapsed"] for part in found["parts"]):
        texts.append(f"all parts have collapsed: {COLLAPSED}")
    if found["how"] != "ensemble" and found["below_its_parts"]:
        remedy = (
            "as are checkpoints between steps at high learning rates. Give --how=greedy, which leaves some out"
            if found["of"] == "checkpoints"
            else "as are runs that drew other heads (config.seeds.init). Combine by --how=ensemble"
        )
        texts.append(f"the mean of the weights is worse than each of its parts: they are too far apart, {remedy}")
    return texts
