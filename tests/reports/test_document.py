"""The warnings of a report about its runs: earlier configs, steps chosen on dev, environments that disagree."""

from made_study import MISSING, MadeStudy, make_pairs, predictions, records_of

from fjt.reports import document

SEEDS = range(8)


def test_runs_of_earlier_configs_are_reported_and_never_waited_for(tmp_path):
    made = make_pairs(tmp_path / "study", 6)
    made.cell("choices", "lora", {0: MISSING, 1: predictions("choices", 0.9, "lora", 1)})
    active = [name for name in made.active if "lora" not in name]
    found = records_of(made.finish(active=active), tmp_path)
    assert [row["run"] for row in found.rows if not row["asked"]] == ["runs/choices/lora/seed=1"]
    assert document.progress(found) == []
    assert "Of these runs, 1 are only in earlier configs" in "".join(document.run_facts(found))


def test_a_step_that_is_chosen_on_dev_itself_is_warned_of(tmp_path):
    made = MadeStudy(tmp_path / "study")
    made.cell("choices", "full", {seed: predictions("choices", 0.9, seed) for seed in SEEDS}, looks=3)
    folder = made.finish()
    for seed in SEEDS:
        path = folder / f"runs/choices/full/seed={seed}/config.json"
        path.write_text(path.read_text().replace('"select": "last"', '"select": "best"'))
    found = records_of(folder, tmp_path)
    (warning,) = document.chosen_on_dev(found)
    assert "8 reported runs use the step with the best score on dev itself" in warning and "3 looks" in warning
    assert document.chosen_on_dev(records_of(make_pairs(tmp_path / "last", 3).finish(), tmp_path)) == []


def test_environments_that_disagree_are_told(tmp_path):
    made = MadeStudy(tmp_path / "study", baseline="")
    for seed in range(3):
        facts = {"device": "another", "jax": "0.10.3"} if seed == 2 else {}
        made.cell("choices", "full", {seed: predictions("choices", 0.9, seed)}, **facts)
    found = records_of(made.finish(), tmp_path)
    assert document.disagreements(found) == [
        "The runs had several kinds of device: a processor (2 runs) and another (1 run); times are not comparable.",
        "The runs had several versions of jax: 0.10.2 (2 runs) and 0.10.3 (1 run); scores may differ by more than "
        "seeds.",
    ]
    assert "jax 0.10.2 (2 runs) and 0.10.3 (1 run)" in "".join(document.run_facts(found))
