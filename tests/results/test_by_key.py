"""Tables over a key and paired differences, against figures computed by hand."""

import json
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from trainers.cli import results
from trainers.results import by_key, formats, plots_by_key, read, summary
from trainers.results.paired import half_width, paired, quantile
from trainers.results.read import Run

KEY = "TRAINER.CASPL.TEMPERATURE"


def run(value, seed, base, new, trainer="CasPL_CoOp", dataset="Shapes", **more):
    """Return a run whose key has a value; None: it does not read the key."""
    settings = ({} if value is None else {KEY: value}) | more
    hm = 2 * base * new / (base + new)
    figures = {"base": base, "new": new, "hm": hm}
    path = Path(f"{trainer}-{dataset}-{value}-{seed}-{sorted(more.items())}")
    return Run("base2new", dataset, "", trainer, seed, None if seed is None else 16, figures, "all", path, settings)


def test_paired_difference_uses_shared_seeds():
    found = paired({1: 10.0, 2: 12.0, 3: 20.0}, {1: 9.0, 2: 8.0, 4: 0.0})
    assert (found.mean, found.seeds) == (2.5, 2)
    assert found.interval == pytest.approx(12.706 * statistics.stdev([1, 4]) / 2**0.5)
    assert paired({1: 10.0}, {2: 1.0}).mean is None
    assert paired({1: 10.0, 2: 12.0}, {None: 1.0}).mean == 10  # zero-shot has a single figure


def test_interval_needs_two_values():
    assert half_width([1.0]) is None and half_width([1.0, 1.0]) == 0
    assert half_width([1.0, 2.0, 3.0]) == pytest.approx(4.303 / 3**0.5)


def test_quantiles_are_those_of_students_t():
    stats = pytest.importorskip("scipy.stats")
    for freedom in (1, 2, 10, 30, 31, 100):
        assert quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), abs=0.01)


def test_lines_are_ordered_by_value_and_compared_with_the_first():
    runs = [run(value, seed, 50 + float(value) * seed, 60) for value in ("10", "2", "0.5") for seed in (1, 2)]
    (table,) = by_key.tables([*runs, run(None, 1, 40, 40, "CoOp")], KEY)
    cascaded = [line for line in table.lines if line.trainer == "CasPL_CoOp"]
    assert [line.value for line in cascaded] == ["0.5", "2", "10"]
    difference = cascaded[2].differences["base"]
    assert difference.mean == pytest.approx(9.5 * 1.5) and difference.seeds == 2
    assert [line.value for line in table.lines if line.trainer == "CoOp"] == [by_key.BASELINE]


def test_other_settings_never_share_a_cell():
    runs = [run("1", 1, 50, 60, rate=rate) for rate in ("a", "b")]
    (table,) = by_key.tables(runs, KEY)
    assert [(line.value, line.others) for line in table.lines] == [("1", "rate a"), ("1", "rate b")]
    with pytest.raises(ValueError, match="same run"):
        by_key.tables([runs[0], Run(**{**vars(runs[0]), "path": Path("copy")})], KEY)


def test_runs_that_do_not_read_the_key_are_those_without_another_ablation():
    joint = [replace(run(None, 1, 50, 60, JOINT=value), varied={"JOINT": value}) for value in ("False", "True")]
    alone = [replace(run(value, None, 50, 60, "CasPL"), varied={KEY: value}) for value in ("1", "2")]
    (table,) = by_key.tables([*joint, *alone, run("1", None, 50, 60, "CasPL")], "JOINT")
    assert [(line.trainer, line.value, line.others) for line in table.lines] == [
        ("CasPL", by_key.BASELINE, ""),
        ("CasPL_CoOp", "False", ""),
        ("CasPL_CoOp", "True", ""),
    ]


def test_averages_are_over_complete_values_with_the_hm_of_averages():
    runs = [run(value, 1, base, 60, dataset=name) for value in "12" for name, base in (("A", 40), ("B", 80))]
    (table,) = by_key.tables([*runs, run("3", 1, 10, 10, dataset="A")], KEY)
    averages = {line.value: line.figures for line in table.lines if line.dataset == "Average"}
    assert set(averages) == {"1", "2"} and averages["1"]["base"] == {1: 60} and averages["1"]["hm"] == {1: 60}


def test_plot_needs_no_value_that_all_datasets_have(tmp_path):
    runs = [run(value, 1, 50, 60, dataset=name) for value, name in (("1", "A"), ("2", "B"))]
    alone = [run(None, None, 40, 60, "ZeroshotCLIP", name) for name in "AB"]
    tables = by_key.tables([*runs, *alone], KEY)
    assert [line.value for line in tables[0].lines if line.dataset == "Average"] == [by_key.BASELINE]
    plots_by_key.save_plot(tables, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_unknown_key_names_the_recorded_ones():
    with pytest.raises(ValueError, match=r"--by.*TRAINER\.CASPL\.TEMPERATURE"):
        by_key.tables([run("1", 1, 50, 60)], "TRAINER.CASPL.TEMPERATUR")


def test_all_formats_have_the_figures():
    tables = by_key.tables([run(value, seed, 50, 60) for value in "12" for seed in (1, 2)], KEY)
    for name, make in by_key.FORMATS.items():
        text = make(tables)
        assert "54.5" in text and KEY.split(".")[-1] in text, name
    assert {len(record) for record in json.loads(by_key.json_text(tables))} == {len(by_key.FIELDS)}


def test_gain_has_a_confidence_interval_over_seeds():
    runs = [run(None, seed, base, 60, trainer) for seed, alone, ours in ((1, 50, 51), (2, 52, 55), (3, 60, 65))
            for trainer, base in (("CoOp", alone), ("CasPL_CoOp", ours))]  # fmt: skip
    (table,) = summary.summarise(runs, {})
    cell = next(row for row in table.rows if row.trainer == "CasPL_CoOp").cells["base"]
    assert cell.gain == pytest.approx(3) and cell.gain_interval == pytest.approx(half_width([1, 3, 5]))
    assert f"+3.00 ± {half_width([1, 3, 5]):.2f}" in formats.markdown([table])
    (record,) = [r for r in formats.records([table]) if r["trainer"] == "CasPL_CoOp" and r["dataset"] == "Shapes"][:1]
    assert record["gain_interval"] == cell.gain_interval


def test_program_reports_a_key_that_no_result_has(tmp_path, capsys):
    folder = tmp_path / "base2new/shapes/CoOp/shots_16/seed_1"
    folder.mkdir(parents=True)
    content = {
        "protocol": "base2new",
        "dataset": "shapes",
        "trainer": "CoOp",
        "seed": 1,
        "shots": 16,
        "base": 1,
        "new": 1,
    }
    (folder / "result.json").write_text(json.dumps(content))
    assert results.main([str(tmp_path), "--by", KEY]) == 2
    assert KEY in capsys.readouterr().err and read.PROMPT == "boosting prompt"


def test_setting_that_two_ablations_made_is_counted_once():
    runs = [run("1", 1, 50, 60), run("1.0", 1, 50, 60)]
    runs = [replace(each, varied={KEY: value}) for each, value in zip(runs, ("1", "2"), strict=True)]
    same = [replace(each, settings={}, path=Path(f"copy-{n}")) for n, each in enumerate(runs)]
    (table,) = summary.summarise(same, {})
    assert [row.cells["base"].n for row in table.rows if row.trainer == "CasPL_CoOp" and row.dataset == "Shapes"] == [1]
    with pytest.raises(ValueError, match="same run"):
        summary.summarise([replace(each, varied={}) for each in same], {})


def test_runs_of_another_ablation_are_left_out():
    other = replace(run("1.0", 1, 10, 10), varied={"TRAINER.CASPL.CLASSES": "base"})
    runs = [replace(run(value, 1, 50, 60), varied={KEY: value}) for value in ("1", "2")]
    (table,) = by_key.tables([other, *runs], KEY)
    assert [(line.value, line.figures["base"]) for line in table.lines if line.trainer == "CasPL_CoOp"] == [
        ("1", {1: 50}),
        ("2", {1: 50}),
    ]


def test_prefix_of_a_varied_key_may_be_left_out():
    named = f"adapt:{KEY}"
    runs = [
        replace(run(None, 1, 40 + value, 40), varied={named: str(value)}, settings={named: str(value)})
        for value in (1, 2)
    ]
    (table,) = by_key.tables(runs, KEY)
    assert table.key == named and [line.value for line in table.lines] == ["1", "2"]
