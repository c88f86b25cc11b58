"""Check that the benchmark compares equal computations and that its counts are correct."""

import json

import pytest
import torch
import versions
from torch.nn import functional as F

from scripts.benchmark import deploy, measure, works
from scripts.benchmark import program as bench
from trainers.engine.kernels import linear

CPU, SMALL = torch.device("cpu"), works.SIZES["small"]


@pytest.mark.parametrize("host", works.HOSTS)
def test_engine_step_matches_plain_and_differs_from_host(host):
    torch.manual_seed(0)
    made = works.host_works(host, SMALL, 7, CPU, torch.float32, batch=3)
    losses = {key: work().item() for key, work in made.items()}
    assert losses["engine"] == pytest.approx(losses["plain"], rel=1e-5)
    assert abs(losses["host"] - losses["plain"]) > 1e-4


def test_engine_phase_1_matches_plain():
    torch.manual_seed(0)
    made = works.boosting_works(SMALL, 7, CPU, torch.float32)
    losses = {key: work().item() for key, work in made.items()}
    assert losses["engine"] == pytest.approx(losses["plain"], rel=1e-4)
    assert losses["cached"] != losses["engine"]  # its teacher's features are drawn


def test_engine_needs_fewer_operations_and_less_memory():
    for made in (
        works.host_works("MaPLe", SMALL, 30, CPU, torch.float32),
        works.evaluation_works("CoOp", SMALL, 30, CPU, torch.float32, 8, 4),
    ):
        assert measure.operations(made["plain"]) > 2 * measure.operations(made["engine"])
        assert measure.peak_bytes(made["plain"], CPU) > 2 * measure.peak_bytes(made["engine"], CPU)


def test_operation_counts_are_exact():
    a, b = torch.randn(3, 4), torch.randn(4, 5)
    assert measure.operations(lambda: a @ b) == 2 * 3 * 4 * 5
    layer = torch.nn.Linear(4, 5).requires_grad_(False)
    x = torch.randn(2, 3, 4, requires_grad=True)
    assert measure.operations(lambda: linear(x, layer.weight, layer.bias).sum().backward()) == 2 * (2 * 6 * 4 * 5)
    q = torch.randn(2, 3, 10, 16, requires_grad=True)
    forward = 2 * (2 * 2 * 3 * 10 * 10 * 16)
    assert measure.operations(lambda: F.scaled_dot_product_attention(q, q, q)) == forward
    both = measure.operations(lambda: F.scaled_dot_product_attention(q, q, q).sum().backward())
    assert both == forward * 3.5  # backward: the scores and four products


@pytest.mark.parametrize("host", works.HOSTS)
def test_evaluation_covers_all_images(host, monkeypatch):
    seen = []
    monkeypatch.setattr(works.PromptedCLIP, "image_features", _spy(works.PromptedCLIP.image_features, seen))
    works.evaluation_works(host, SMALL, 5, CPU, torch.float32, images=10, batch=4)["engine"]()
    assert [len(image) for image in seen] == [4, 4, 2]


def _spy(method, seen):
    def spied(self, image):
        seen.append(image)
        return method(self, image)

    return spied


def test_peak_memory_counts_live_tensors():
    def work():
        a = torch.zeros(1000, 1000)
        b = a + 1
        del a
        return (b + 1).sum().item()

    assert 8e6 <= measure.peak_bytes(work, CPU) <= 8.1e6


def test_timing_alternates_order_and_returns_medians(monkeypatch):
    order = []
    monkeypatch.setattr(measure, "seconds", lambda work, device: (order.append(work), work + len(order) % 3)[1])
    medians = measure.in_turns([100, 200, 300], 9, CPU)
    assert all(work <= median <= work + 2 for work, median in zip([100, 200, 300], medians, strict=True))
    rounds = [tuple(order[start : start + 3]) for start in range(0, 27, 3)]
    assert all(sorted(turn) == [100, 200, 300] for turn in rounds)
    assert len(set(rounds)) == 6 and [turn[0] for turn in rounds] == [100, 200, 300] * 3


@pytest.mark.slow
def test_program_writes_one_row_per_work(tmp_path, capsys):
    line = [
        "--size",
        "small",
        "--classes",
        "5",
        "--images",
        "4",
        "--rounds",
        "1",
        "--json",
        str(tmp_path / "bench.json"),
    ]
    bench.main(line)
    figures = json.loads((tmp_path / "bench.json").read_text())
    assert [row["work"] for row in figures["rows"]] == bench.NAMES and figures["matrix_rate"] > 1e8
    for row in figures["rows"]:
        assert all(value > 0 for part in ("operations", "memory", "seconds") for value in row[part].values())
    assert capsys.readouterr().out.count("CasPL_MaPLe") == 2


def test_engine_only_leaves_ratios_empty(capsys):
    bench.main("--size small --classes 5 --rounds 0 --works CasPL_CoOp --engine-only".split())
    row = [line for line in capsys.readouterr().out.splitlines() if "CasPL_CoOp" in line][-1]
    assert [cell.strip() for cell in row.split("|")[3:10]] == [""] * 7 and row.split("|")[-2].strip().isdigit()


def test_class_names_have_eight_tokens_on_average():
    from trainers.backbones import tokenizer

    lengths = [len(tokenizer().encode(name)) for name in works.synthetic_names(200)]
    assert min(lengths) == 6 and max(lengths) == 10 and sum(lengths) / 200 == pytest.approx(8, abs=0.3)


LAUNCHES = {"CasPL_CoOp": 480, "CasPL_CoCoOp": 490, "CasPL_MaPLe": 760, "CasPL_PromptSRC": 870, "phase1": 970}
CACHED = 715  # phase 1 with cached teacher features


@versions.counts_launches
@pytest.mark.parametrize("name", LAUNCHES)
def test_launches_are_within_bounds(name):
    few = bench.launches_of(name, 50)
    many = bench.launches_of(name, 1000, plain=False)
    half = bench.launches_of(name, 50, torch.bfloat16, plain=False)
    blocks = 48 if name == "phase1" else 36 if name == "CasPL_PromptSRC" else 24
    for key, bound in (("engine", LAUNCHES[name]), ("cached", CACHED)):
        if key in few:
            assert few[key] <= bound
            assert many[key] <= 1.2 * few[key]
            assert half[key] <= few[key] + 2 * blocks
    assert few["plain"] > 1.4 * few["engine"]


def test_launches_exclude_views_and_allocations():
    x = torch.randn(4, 6)
    assert measure.launches(lambda: x.t().reshape(3, 8).contiguous()[0].expand(2, 8)) == 1
    assert measure.launches(lambda: (torch.empty(3), x.view(-1).add(1).sum())) == 2


def test_launches_option_prints_counts(capsys):
    bench.main("--launches --works CasPL_CoOp evaluation --classes 5".split())
    lines = [line for line in capsys.readouterr().out.splitlines() if "CasPL" in line]
    assert len(lines) == 1 and len([cell for cell in lines[0].split("|") if cell.strip().isdigit()]) == 4


@versions.exports
@pytest.mark.slow
def test_deploy_lists_speed_size_and_parameters_and_draws_a_plot(tmp_path, capsys):
    line = ["--deploy", "--sizes", "small", "--images", "2", "--batch", "2", "--classes", "5", "--rounds", "1"]
    bench.main([*line, "--json", str(tmp_path / "f.json"), "--plot", str(tmp_path / "f.png")])
    rows = json.loads((tmp_path / "f.json").read_text())
    assert [(row["model"], row["runs_on"]) for row in rows] == [
        ("student", "engine"),
        ("boosted student", "engine"),
        ("CasPL", "engine"),
        ("CasPL", "onnxruntime"),
        ("CasPL", "onnxruntime int8"),
    ]
    assert all(row["rate"] > 0 and row["file"] > 0 and row["accuracy"] is None for row in rows)
    assert rows[0]["parameters"] < rows[1]["parameters"] < rows[2]["parameters"] == rows[4]["parameters"]
    assert (tmp_path / "f.png").stat().st_size > 10_000 and "not measured here" in capsys.readouterr().out


def test_deploy_shows_the_papers_accuracy_only_where_it_has_one():
    assert (
        deploy.accuracy_of("vit_b16", "CasPL", "engine")
        == deploy.accuracy_of("vit_b16", "CasPL", "onnxruntime")
        == 82.69
    )
    assert deploy.accuracy_of("vit_b16", "student", "engine") == 71.70
    assert deploy.accuracy_of("vit_b16", "CasPL", "onnxruntime int8") is None
    assert deploy.accuracy_of("vit_l14", "student", "engine") is None


@versions.exports
@pytest.mark.slow
def test_int8_file_at_vit_b16_size_takes_at_most_0_3_of_the_float_file(tmp_path):
    """The export compares the float file with the engine for batches of 1, 3 and 9 images."""
    torch.manual_seed(0)
    classifier = deploy.models_of(works.SIZES["vit_b16"], ["cat", "dog", "horse"])["CasPL"]
    files = deploy.exported(classifier, tmp_path)
    assert files["onnxruntime int8"].stat().st_size <= 0.3 * files["onnxruntime"].stat().st_size
