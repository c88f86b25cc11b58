"""Tables and plots of results: each figure is compared with one computed by hand; missing ones are shown."""

import csv
import io
import json
import os
from types import SimpleNamespace

import matplotlib.image
import pytest

from trainers.cli import results
from trainers.experiments import result
from trainers.results import formats, plots, read, summary

PHASE_1 = {"phase": "boosting", "dataset": "DescribableTextures", "images": 9, "labels": False}


def put(folder, protocol, dataset, trainer, seed, shots=16, classes="all", **figures):
    """Write a result.json as the protocols do."""
    place = folder / protocol / dataset / trainer
    if seed is not None:
        place = place / f"shots_{shots}" / f"seed_{seed}"
    place.mkdir(parents=True, exist_ok=True)
    if "base" in figures:
        figures["hm"] = 2 * figures["base"] * figures["new"] / (figures["base"] + figures["new"])
    ledger = [PHASE_1 | {"classes": classes}] if trainer.startswith("CasPL") else []
    ledger.append({"phase": "adapting", "dataset": dataset, "images": 9, "labels": True, "classes": "new"})
    content = {"protocol": protocol, "dataset": dataset, "trainer": trainer, "ledger": ledger}
    content |= {"seed": seed, "shots": None if seed is None else shots} | figures
    (place / "result.json").write_text(json.dumps(content))
    return place / "result.json"


def records(folder, *options, capsys):
    """What `--format json` prints, by (dataset, trainer, metric or shots)."""
    results.main([str(folder), "--format", "json", *options])
    found = json.loads(capsys.readouterr().out)
    return {(r["dataset"], r["trainer"], r["shots"] if r["protocol"] == "few_shot" else r["metric"]): r for r in found}


@pytest.fixture
def output(tmp_path):
    """Two datasets, two seeds, CoOp alone and cascaded; on EuroSAT the host is missing."""
    put(tmp_path, "base2new", "dtd", "ZeroshotCLIP", None, base=50, new=60)
    for seed, alone, cascaded in ((1, (80, 40), (82, 58)), (2, (84, 60), (86, 62))):
        put(tmp_path, "base2new", "dtd", "CoOp", seed, base=alone[0], new=alone[1])
        put(tmp_path, "base2new", "dtd", "CasPL_CoOp", seed, base=cascaded[0], new=cascaded[1])
        put(tmp_path, "base2new", "eurosat", "CasPL_CoOp", seed, base=90, new=70)
    return tmp_path


def test_mean_std_gain_and_the_paper(output, capsys):
    found = records(output, capsys=capsys)
    base, hm = (found["DescribableTextures", "CasPL_CoOp", metric] for metric in ("base", "hm"))
    paper = {(r["dataset"], r["method"]): r for r in csv.DictReader((read.PAPER / "base2new.csv").open())}
    published = float(paper["DescribableTextures", "CasPL_CoOp"]["base"])
    assert (base["mean"], base["std"], base["seeds"], base["of_seeds"]) == (84, pytest.approx(8**0.5), 2, 2)
    assert base["gain"] == 84 - 82
    assert (base["paper"], base["difference"]) == (published, pytest.approx(84 - published))
    first, second = 2 * 82 * 58 / 140, 2 * 86 * 62 / 148
    assert hm["mean"] == pytest.approx((first + second) / 2)
    assert hm["std"] == pytest.approx(abs(first - second) / 2**0.5)
    zero_shot = found["DescribableTextures", "ZeroshotCLIP", "base"]
    assert (zero_shot["mean"], zero_shot["std"], zero_shot["seeds"], zero_shot["gain"]) == (50, None, 1, None)
    assert zero_shot["paper"] == float(paper["DescribableTextures", "CLIP"]["base"])


def test_average_names_its_datasets(output, capsys):
    found = records(output, capsys=capsys)
    cascaded, hm = (found["Average", "CasPL_CoOp", metric] for metric in ("base", "hm"))
    assert (cascaded["mean"], cascaded["datasets"], cascaded["of_datasets"]) == (87, 2, 11)
    assert cascaded["std"] == pytest.approx(2**0.5)  # of the seeds' averages, 86 and 88
    assert hm["mean"] == pytest.approx(2 * 87 * 65 / (87 + 65))  # of the averages, not the average of the HMs
    assert hm["std"] == pytest.approx((2 * 88 * 66 / 154 - 2 * 86 * 64 / 150) / 2**0.5)
    # Only DTD has both.
    assert (cascaded["gain"], cascaded["gain_datasets"]) == (2, 1)
    # An average over two datasets is not set against one over eleven.
    assert cascaded["paper"] == 84.78 and cascaded["difference"] is None
    results.main([str(output)])
    printed = capsys.readouterr().out
    assert "87.00 ± 1.41 (2 of 11 datasets)" in printed and "(—)" in printed
    assert "Average of CasPL_CoOp, base, new, hm: the gain is over what both have (1)." in printed


def test_complete_average_is_compared_with_the_paper(tmp_path, capsys):
    names = {name: stem for stem, name in read.registry_names().items()}
    paper = read.read_paper()
    for dataset in dict.fromkeys(key[1] for key in paper if key[1] != "Average"):
        figures = {half: paper["base2new", dataset, "CasPL_MaPLe", half] + 1 for half in ("base", "new")}
        put(tmp_path, "base2new", names[dataset], "CasPL_MaPLe", 1, **figures)
    put(tmp_path, "base2new", "shapes", "CasPL_MaPLe", 1, base=10, new=10)  # is no part of the paper's average
    results.main([str(tmp_path), "--format", "json"])
    found = [
        r for r in json.loads(capsys.readouterr().out) if (r["dataset"], r["trainer"]) == ("Average", "CasPL_MaPLe")
    ]
    for record in found[:3]:
        assert record["difference"] == pytest.approx(1, abs=0.02)
        assert record["datasets"] == record["of_datasets"] == 11
    assert [record["mean"] for record in found[3:]] == [10, 10, 10] and found[3]["paper"] is None
    results.main([str(tmp_path)])
    headings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("## ")]
    assert [heading.partition(" shots")[2] for heading in headings] == ["", " (not the paper's datasets)"]


def test_missing_figures_are_shown(output, capsys):
    found = records(output, capsys=capsys)
    for key in (("EuroSAT", "CoOp", "base"), ("Food101", "CasPL_CoOp", "new")):
        assert found[key]["mean"] is None and found[key]["seeds"] == 0 and found[key]["difference"] is None
    assert found["EuroSAT", "CasPL_CoOp", "base"]["gain"] is None
    results.main([str(output)])
    lines = capsys.readouterr().out.splitlines()
    (row,) = [index for index, line in enumerate(lines) if line.startswith("| EuroSAT")]
    coop = [cell.strip() for cell in lines[row + 1].split("|")]
    assert coop[2:5] == ["CoOp", "", "—"] and "(—)" in coop[5] + coop[6]


def test_missing_seed_is_shown(output, capsys):
    put(output, "base2new", "dtd", "CoOp", 3, base=82, new=50)
    results.main([str(output)])
    printed = capsys.readouterr().out
    assert "3 unless n is given" in printed and "84.00 ± 2.83 (n = 2)" in printed


@pytest.mark.parametrize("values, collapsed", [((70, 71, 72), ()), ((70, 59, 72), (2,)), ((70, 61, 70), ())])
def test_collapsed_seed_is_marked_and_counted(tmp_path, capsys, values, collapsed):
    for seed, new in enumerate(values, 1):
        put(tmp_path, "base2new", "shapes", "CasPL_CoOp", seed, base=80, new=new)
    found = records(tmp_path, capsys=capsys)["Shapes", "CasPL_CoOp", "new"]
    assert found["collapsed"] == ({"Shapes": list(collapsed)} if collapsed else {})
    assert found["mean"] == pytest.approx(sum(values) / 3)
    results.main([str(tmp_path)])
    printed = capsys.readouterr().out
    note = "† CasPL_CoOp on Shapes, new: seed 2 collapsed to 59.00 (median of its siblings 71.00); it is counted."
    assert (note in printed) == ("67.00 ± 7.00†" in printed) == bool(collapsed)


def test_collapse_needs_three_seeds():
    assert summary.collapsed_seeds({1: 80.0, 2: 20.0}) == ()


@pytest.mark.parametrize("classes", ["all", "base"])
def test_classes_of_phase_1_are_shown(tmp_path, capsys, classes):
    put(tmp_path, "base2new", "shapes", "CoOp", 1, base=80, new=70)
    put(tmp_path, "base2new", "shapes", "CasPL_CoOp", 1, classes=classes, base=80, new=70)
    found = records(tmp_path, capsys=capsys)
    assert found["Shapes", "CasPL_CoOp", "base"]["phase_1_classes"] == classes
    assert found["Shapes", "CoOp", "base"]["phase_1_classes"] == ""
    put(tmp_path, "base2new", "shapes", "CasPL_CoOp", 2, classes="another", base=80, new=70)
    results.main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert f"phase 1 classes {classes}" in printed and "phase 1 classes another" in printed


def test_results_without_ledger_are_read(tmp_path, capsys):
    path = put(tmp_path, "base2new", "shapes", "CasPL_CoOp", 1, base=80, new=70)
    old = {key: value for key, value in json.loads(path.read_text()).items() if key not in ("protocol", "ledger")}
    path.write_text(json.dumps(old))
    found = records(tmp_path, capsys=capsys)["Shapes", "CasPL_CoOp", "new"]
    assert (found["mean"], found["phase_1_classes"]) == (70, "not recorded")
    assert records(tmp_path / "base2new" / "shapes", capsys=capsys)["Shapes", "CasPL_CoOp", "new"]["mean"] == 70


@pytest.fixture
def few_shot(tmp_path):
    """Two shots of PromptSRC, alone and cascaded, on one dataset."""
    put(tmp_path, "few_shot", "dtd", "ZeroshotCLIP", None, accuracy=45)
    for seed in (1, 2):
        for shots in (1, 16):
            put(tmp_path, "few_shot", "dtd", "PromptSRC", seed, shots, accuracy=50 + shots + seed)
            put(tmp_path, "few_shot", "dtd", "CasPL_PromptSRC", seed, shots, accuracy=55 + shots + seed)
    return tmp_path


def test_few_shot(few_shot, capsys):
    found = records(few_shot, capsys=capsys)
    for shots in (1, 16):
        cell = found["DescribableTextures", "CasPL_PromptSRC", shots]
        assert (cell["mean"], cell["std"], cell["gain"]) == (56.5 + shots, pytest.approx(0.5**0.5), 5)
        assert cell["metric"] == "accuracy"
    assert found["DescribableTextures", "CasPL_PromptSRC", 4]["mean"] is None  # one of the paper's, not run
    assert found["DescribableTextures", "ZeroshotCLIP", None]["mean"] == 45
    average = found["Average", "CasPL_PromptSRC", 16]
    assert (average["mean"], average["paper"], average["difference"]) == (72.5, 84.49, None)


def test_cross_dataset(tmp_path, capsys):
    for seed in (1, 2):
        targets = {"dtd": 40 + seed, "eurosat": 50, "imagenetv2": 60}
        put(tmp_path, "cross_dataset", "imagenet", "MaPLe", seed, accuracy=70, targets=targets)
        put(tmp_path, "cross_dataset", "imagenet", "CasPL_MaPLe", seed, accuracy=71, targets=targets | {"eurosat": 54})
    found = records(tmp_path, capsys=capsys)
    assert found["ImageNet", "CasPL_MaPLe", "accuracy"]["gain"] == 1
    average = found["Average of targets", "CasPL_MaPLe", "accuracy"]
    assert (average["mean"], average["gain"]) == (pytest.approx((41.5 + 54) / 2), 2)  # without the source
    assert (average["datasets"], average["of_datasets"]) == (2, 10)
    shifted = found["Average of shifted", "CasPL_MaPLe", "accuracy"]
    assert (shifted["mean"], shifted["datasets"], shifted["of_datasets"]) == (60, 1, 4)
    assert found["ImageNetSketch", "MaPLe", "accuracy"]["mean"] is None


def test_protocol_option_selects(output, few_shot, capsys):
    put(output, "few_shot", "dtd", "CoOp", 1, 1, accuracy=50).write_text("damaged")
    results.main([str(output), "--protocol", "base2new", "--format", "json"])
    assert {record["protocol"] for record in json.loads(capsys.readouterr().out)} == {"base2new"}


def test_csv_equals_json(output, capsys):
    results.main([str(output), "--format", "json"])
    expected = json.loads(capsys.readouterr().out)
    results.main([str(output), "--format", "csv"])
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert list(rows[0]) == list(expected[0]) == formats.FIELDS
    for row, record in zip(rows, expected, strict=True):
        for key in set(formats.FIELDS) - {"collapsed"}:
            assert row[key] == ("" if record[key] is None else str(record[key]))


def test_latex_equals_markdown(output, capsys):
    results.main([str(output)])
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    results.main([str(output), "--format", "latex"])
    text = capsys.readouterr().out
    assert text.isascii() and text.count("\\begin{table}") == text.count("\\end{tabular}") == 1
    plain = {"$\\pm$": "±", "$-$": "−", "---": "—", "$^\\dagger$": "†", "\\_": "_", "\\\\": ""}
    body = text[text.index("\\toprule") : text.index("\\bottomrule")]
    for command, sign in plain.items():
        body = body.replace(command, sign)
    cells = [[cell.strip() for cell in line.split("&")] for line in body.splitlines() if "&" in line]
    assert cells == [[cell.strip() for cell in row] for row in rows]


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda result: "{", "not JSON"),
        (lambda result: "[]", "a list; expected the result of a run"),
        (lambda result: "[" * 100_000, "nested too deeply"),
        (lambda result: json.dumps(result | {"version": 3}), "'version' is 3; expected 2 or lower. Update"),
        (lambda result: json.dumps(result | {"new": 170}), "'new accuracy' is 170; expected an accuracy from 0 to 100"),
        (lambda result: json.dumps(result | {"new": float("nan")}), "'new accuracy' is nan"),
        (lambda result: json.dumps(result | {"seed": "1"}), "'seed' is '1'"),
        (lambda result: json.dumps(result | {"protocol": "other"}), "expected one of base2new"),
        (lambda result: json.dumps({key: result[key] for key in result if key != "base"}), "it has no 'base'"),
    ],
)
def test_damaged_result_is_named_and_others_are_shown(output, capsys, change, said):
    path = output / "base2new/dtd/CasPL_CoOp/shots_16/seed_2/result.json"
    path.write_text(change(json.loads(path.read_text())))
    assert results.main([str(output)]) == 2
    printed = capsys.readouterr()
    assert str(path) in printed.err and said in printed.err and len(printed.err.splitlines()) == 1
    assert "Remove" in printed.err or "Update" in printed.err
    assert "82.00 (n = 1)" in printed.out


def test_named_pipe_and_huge_result_are_named_and_left_out(output, capsys, monkeypatch):
    monkeypatch.setattr(result, "SIZE_LIMIT", 10_000)
    pipe, huge = (output / "base2new/dtd/CasPL_CoOp/shots_16" / name / "result.json" for name in ("seed_7", "seed_8"))
    for path in (pipe, huge):
        path.parent.mkdir()
    os.mkfifo(pipe)
    huge.write_text(" " * 10_001)
    assert results.main([str(output)]) == 2
    printed = capsys.readouterr()
    assert f"{pipe}: not a regular file" in printed.err and f"{huge}: 10,001 bytes; expected at most" in printed.err
    assert "84.00" in printed.out


def test_same_run_in_two_folders_is_an_error_without_a_table(output, capsys):
    for name in ("a", "b"):
        put(output / name, "base2new", "shapes", "CoOp", 1, base=80, new=70)
    assert results.main([str(output)]) == 2
    printed = capsys.readouterr()
    assert "of the same run as" in printed.err and printed.out == ""


def test_runs_with_different_settings_have_separate_tables(tmp_path, capsys):
    put(tmp_path / "n4", "base2new", "shapes", "ZeroshotCLIP", None, base=50, new=50)
    for n_ctx, base in ((4, 80), (8, 90)):
        path = put(tmp_path / f"n{n_ctx}", "base2new", "shapes", "CasPL_CoOp", 1, base=base, new=70)
        content = json.loads(path.read_text()) | {
            "configuration": {"TRAINER": {"COOP": {"N_CTX": n_ctx}}, "SEED": n_ctx}
        }
        path.write_text(json.dumps(content))
    assert results.main([str(tmp_path)]) == 0
    tables = capsys.readouterr().out.split("## ")[1:]
    assert [table.partition("\n")[0].partition("shots, ")[2] for table in tables] == [
        f"TRAINER.COOP.N_CTX {n_ctx} (not the paper's datasets)" for n_ctx in (4, 8)
    ]
    assert ["80.00" in table for table in tables] == [True, False] and ["90.00" in table for table in tables] == [
        False,
        True,
    ]
    assert all("50.00" in table for table in tables)


def test_runs_on_different_images_have_separate_tables(tmp_path, capsys):
    for seed, digest in ((1, "a" * 64), (2, "b" * 64)):
        path = put(tmp_path, "base2new", "shapes", "CoOp", seed, base=80 + seed, new=70)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"shapes": {"fingerprint": digest}}}))
    assert results.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "images of Shapes aaaaaaaa" in printed and "images of Shapes bbbbbbbb" in printed and "81.50" not in printed


def test_other_metrics_are_columns_where_asked(tmp_path, capsys):
    evaluations = {"base": {"accuracy": 80.0, "macro_f1": 75.5}, "new": {"accuracy": 70.0, "macro_f1": 65.5}}
    path = put(tmp_path, "base2new", "shapes", "CoOp", 1, base=80, new=70)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 2, "evaluations": evaluations}))
    results.main([str(tmp_path), "--metrics", "accuracy", "macro_f1"])
    printed = capsys.readouterr().out
    assert "base macro_f1" in printed and "75.50" in printed and "65.50" in printed
    results.main([str(tmp_path)])
    assert "macro_f1" not in capsys.readouterr().out


def test_no_results_is_an_error(tmp_path, capsys):
    assert results.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}: no result.json") and "caspl reproduce" in error


@pytest.mark.parametrize("ending, signature", [(".png", b"\x89PNG"), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_plots(tmp_path, ending, signature, capsys):
    for trainer, gain in (("MaPLe", 0), ("CasPL_MaPLe", 4)):
        put(tmp_path, "base2new", "shapes", trainer, 1, base=70 + gain, new=60 + gain)
        put(tmp_path, "few_shot", "shapes", trainer, 1, shots=1, accuracy=50 + gain)
        put(tmp_path, "few_shot", "shapes", trainer, 1, shots=4, accuracy=60 + gain)
    path = tmp_path / "plots" / f"all{ending}"
    results.main([str(tmp_path), "--plot", str(path)])
    content = path.read_bytes()
    assert content.startswith(signature) and len(content) > 10_000
    if ending == ".png":
        pixels = matplotlib.image.imread(path)[..., :3].reshape(-1, 3)
        assert len({tuple(pixel) for pixel in pixels[::7]}) > 50  # curves, rings and texts, not a blank page


def test_drawn_curves(few_shot, capsys):
    """Our curves, the paper's dashed average, and nothing for what was not run."""
    runs, _ = read.read_runs(few_shot)
    figure = plots.plt.figure()
    (table,) = summary.summarise(runs, read.read_paper())
    plots.DRAWN["curves"](table, figure)
    titles = [panel.get_title() for panel in figure.axes]
    assert len(titles) == 12 and titles[-1] == "Average"
    (dtd,) = [panel for panel in figure.axes if panel.get_title() == "DescribableTextures"]
    curves = {curve.get_label(): list(curve[0].get_ydata()) for curve in dtd.containers}
    assert curves == {"PromptSRC": [52.5, 67.5], "CasPL_PromptSRC": [57.5, 72.5]}
    dashed = {
        line.get_label(): list(line.get_ydata()) for line in figure.axes[-1].lines if line.get_linestyle() == "--"
    }
    assert dashed["CasPL_PromptSRC, the paper's average"] == [75.91, 77.94, 80.45, 82.22, 84.49]
    empty = figure.axes[0]
    assert empty.get_title() == "ImageNet" and not empty.lines and not empty.containers
    plots.plt.close(figure)


def test_plot_does_not_follow_a_link(tmp_path, monkeypatch):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "plot.png").symlink_to(tmp_path / "victim")
    monkeypatch.setattr(plots, "DRAWN", {"curves": lambda table, part: None})
    monkeypatch.setattr(plots, "title", lambda table: "")
    monkeypatch.setattr(plots, "_lines", lambda table: 1)
    table = SimpleNamespace(rules=SimpleNamespace(plot="curves"))
    with pytest.raises(OSError, match=r"plot\.png: a link; expected a regular file"):
        plots.save_plot([table], tmp_path / "plot.png")
    assert (tmp_path / "victim").read_text() == "precious"


def test_plot_without_results_is_rejected(tmp_path, capsys):
    put(tmp_path, "cross_dataset", "imagenet", "MaPLe", 1, accuracy=70, targets={"dtd": 40})
    assert results.main([str(tmp_path), "--plot", str(tmp_path / "a.png")]) == 2
    assert "there are no results to draw" in capsys.readouterr().err
    assert results.main([str(tmp_path), "--plot", "a.jpeg"]) == 2
    assert ".png, .pdf, .svg" in capsys.readouterr().err


def test_averages_of_the_paper_follow_from_its_rows():
    paper = read.read_paper()
    trainers = dict.fromkeys(key[2] for key in paper if key[0] == "base2new")
    assert len(trainers) == 9
    datasets = dict.fromkeys(key[1] for key in paper if key[1] != "Average")
    assert set(datasets) <= set(read.registry_names().values()) and len(datasets) == 11
    for trainer in trainers:
        base, new, hm = (paper["base2new", "Average", trainer, column] for column in ("base", "new", "hm"))
        for half, average in (("base", base), ("new", new)):
            mean = sum(paper["base2new", dataset, trainer, half] for dataset in datasets) / 11
            assert mean == pytest.approx(average, abs=0.0101), (trainer, half)
        assert 2 * base * new / (base + new) == pytest.approx(hm, abs=0.0101), trainer
    assert paper["few_shot", "Average", "CasPL_PromptSRC", "16"] == 84.49
