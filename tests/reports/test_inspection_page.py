"""The page of an inspection: offline, complete, and safe against what texts and names contain."""

import json
import re

import made_faults
import pytest

from fjt.core import console
from fjt.experiment import inspection
from fjt.reports import inspection_page, pages

EVIL = "<script>alert(1)</script> `|` [x](http://a.b) leftover"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    rows = made_faults.make()
    rows["dev"][0]["text"] = rows["train"][50]["text"] = f"{EVIL} {rows['train'][50]['text']}"
    for row in rows["train"][:30]:
        row["text"] = row["text"] + " " + " ".join(made_faults.WORDS[:130])
    folder = tmp_path_factory.mktemp("page")
    return inspection.inspect(made_faults.settings(folder, rows, train__steps=2), console.Silent())


def test_the_record_is_json_and_the_page_is_made_from_it_alone(record):
    read = json.loads(json.dumps(record))
    page = pages.page(*inspection_page.build(read))
    assert page == pages.page(*inspection_page.build(record))
    for words in ("Inspection: table", "<strong>serious</strong>", "text is also in train", "real tokens", "<svg"):
        assert words in page, words
    assert sum(inspection_page.count(record)) == len(record["tasks"]["table"]["findings"])


def test_the_page_asks_for_nothing_and_runs_nothing(record):
    page = pages.page(*inspection_page.build(record))
    inside = re.sub(r"<svg.*?</svg>", "", page, flags=re.DOTALL)
    assert not re.search(r"<(script|link|img|iframe|a) ", inside) and "<script>" not in page
    assert "&lt;script&gt;" in inside


def test_a_missing_plan_is_said(record, capsys):
    without = dict(record, plan={"impossible": "MODEL has no model.safetensors"})
    assert "There is no plan: MODEL has no model.safetensors" in pages.page(*inspection_page.build(without))
    inspection_page.show(without)
    printed = capsys.readouterr().out
    assert "no plan of the run: MODEL has no model.safetensors" in printed and "Findings: serious 1" in printed
    assert re.search(r"serious +text is also in train +dev +1 +1\.0%", printed)
