"""The GPU check keeps the results of all parts, and the reason of each part that has none."""

import json

import pytest
import versions

from scripts.benchmark import gpu_check
from trainers.engine import blocks_gpu

TESTS = {"passed": 3, "failure": 0, "error": 0, "skipped": 0, "reasons": []}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """One step, no tests, and the CPU's own implementation of the towers afterwards."""
    import torch

    monkeypatch.setattr(torch.backends.mkldnn, "enabled", torch.backends.mkldnn.enabled)
    monkeypatch.setattr(gpu_check, "cells", lambda args: [("CoOp", "fp32", 4, 5)])
    monkeypatch.setattr(gpu_check, "run_tests", lambda seconds: dict(TESTS))
    monkeypatch.setattr(gpu_check, "ROUNDS", 1)
    yield
    assert blocks_gpu._compiled is None


def run(folder, *more):
    """Run the check on the CPU; return its exit code and figures."""
    code = gpu_check.main(["--device", "cpu", "--quick", "--output", str(folder), *more])
    return code, json.loads((folder / "gpu_check.json").read_text())


@versions.compiles
def test_table_has_a_row_per_variant(tmp_path):
    code, found = run(tmp_path)
    rows = {row["variant"]: row for row in found["rows"]}
    assert code == 0 and list(rows) == list(gpu_check.VARIANTS) and found["tests"] == TESTS
    assert rows["graphed"]["skipped"] == rows["compiled, graphed"]["skipped"] == "a CUDA graph needs a GPU"
    for variant in ("plain", "engine", "compiled"):
        assert all(rows[variant][key] > 0 for key in ("ms", "images/s", "share", "peak MiB"))
    assert rows["plain"]["operations"] > 2 * rows["engine"]["operations"] == 2 * rows["compiled"]["operations"]
    assert (tmp_path / "gpu_check.md").read_text().count("| CoOp |") == 5


def test_failing_variant_and_part_leave_the_others(tmp_path, monkeypatch):
    def failing(step, variant, *args, measured=gpu_check.measured):
        if variant == "plain":
            raise RuntimeError("CUDA out of memory\nTried to allocate")
        return measured(step, variant, *args)

    def crashing(seconds):
        raise OSError("no pytest")

    monkeypatch.setattr(gpu_check, "measured", failing)
    monkeypatch.setattr(gpu_check, "run_tests", crashing)
    code, found = run(tmp_path)
    rows = {row["variant"]: row for row in found["rows"]}
    assert code == 1 and found["tests"] == {"failed": "OSError: no pytest"}
    assert rows["plain"]["skipped"] == "RuntimeError: CUDA out of memory" and rows["engine"]["ms"] > 0


def test_time_limit_and_missing_gpu_are_reasons(tmp_path, monkeypatch):
    _, found = run(tmp_path, "--minutes", "0")
    assert {row["skipped"] for row in found["rows"]} == {"the time is over; see --minutes"}
    monkeypatch.setattr(gpu_check.torch.cuda, "is_available", lambda: False)
    gpu_check.main(["--output", str(tmp_path)])
    found = json.loads((tmp_path / "gpu_check.json").read_text())
    assert found["machine"] == found["matrix rates, GFLOP/s"] == {"skipped": "PyTorch finds no GPU"}


def test_missing_matrix_product_is_the_reason_of_its_rows(tmp_path, monkeypatch):
    def without_bf16(device, dtype, rate=gpu_check.measure.matrix_rate):
        if dtype == gpu_check.TYPES["bf16"]:
            raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED\nmore")
        return rate(device, dtype)

    monkeypatch.setattr(gpu_check, "cells", lambda args: [("CoOp", dtype, 4, 5) for dtype in ("bf16", "fp32")])
    monkeypatch.setattr(gpu_check.measure, "matrix_rate", without_bf16)
    code, found = run(tmp_path)
    rows = {(row["dtype"], row["variant"]): row for row in found["rows"]}
    assert code == 0 and rows["bf16", "engine"]["skipped"] == "bf16 matrix products: CUBLAS_STATUS_NOT_SUPPORTED"
    assert rows["fp32", "engine"]["ms"] > 0


def test_tests_that_take_too_long_are_counted():
    output = b"tests/gpu/test_gpu.py::test_a[CoOp] PASSED [ 1%]\ntests/gpu/test_gpu.py::test_b FAILED [ 2%]\n"
    assert gpu_check._so_far(output) == "1 passed, 1 failed: test_b"
    assert gpu_check._so_far(None) == "0 passed, 0 failed"
