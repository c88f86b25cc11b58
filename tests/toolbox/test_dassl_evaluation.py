"""The substitute's evaluator and accuracy, against values computed by hand."""

import dassl
import pytest
import torch
from dassl.config import get_cfg_default
from dassl.evaluation import EVALUATOR_REGISTRY, build_evaluator
from dassl.metrics import compute_accuracy

if not dassl.__version__.endswith("+standin"):
    pytest.skip("the real Dassl is installed: the substitute is not in use", allow_module_level=True)

TRUE = [0, 0, 0, 0, 1, 1, 3, 3]
PREDICTED = [0, 0, 0, 1, 1, 2, 1, 3]
NAMES = {0: "cat", 1: "dog", 2: "fish", 3: "ox"}


def evaluate(true=TRUE, predicted=PREDICTED, folder="", **test):
    """Return the results of two batches."""
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR = str(folder)
    cfg.TEST.merge_from_list([item for pair in test.items() for item in pair])
    evaluator = build_evaluator(cfg, lab2cname=NAMES)
    evaluator.process(torch.eye(4)[[3, 3]], torch.tensor([0, 0]))
    evaluator.reset()
    logits = 5 * torch.eye(4)[predicted] - 1
    for part in (slice(0, 3), slice(3, None)):
        evaluator.process(logits[part], torch.tensor(true)[part])
    return evaluator.evaluate()


def test_classification(caplog):
    caplog.set_level("INFO")
    results = evaluate()
    assert list(results) == ["accuracy", "error_rate", "macro_f1"]
    assert results["accuracy"] == 100 * 5 / 8 and results["error_rate"] == 100 * 3 / 8
    # F1 of cat 2*3/(4+3), of dog 2*1/(2+3), of ox 2*1/(2+1); fish never occurs and is not counted
    assert results["macro_f1"] == pytest.approx(100 * (6 / 7 + 2 / 5 + 2 / 3) / 3)
    # scripts of the family parse these lines
    assert caplog.messages[-1].split("\n") == [
        "=> result",
        "* total: 8",
        "* correct: 5",
        "* accuracy: 62.5%",
        "* error: 37.5%",
        "* macro_f1: 64.1%",
    ]


def test_class_never_predicted_counts_as_zero():
    assert evaluate(true=[0, 1], predicted=[0, 0])["macro_f1"] == pytest.approx(100 * (2 / 3 + 0) / 2)


def test_per_class_result_is_logged(caplog):
    caplog.set_level("INFO")
    results = evaluate(PER_CLASS_RESULT=True)
    assert results["perclass_accuracy"] == pytest.approx((75 + 50 + 50) / 3)
    assert "* class: 3 (ox)\ttotal: 2\tcorrect: 1\tacc: 50.0%" in caplog.text and "fish" not in caplog.text
    cfg = get_cfg_default()
    cfg.TEST.PER_CLASS_RESULT = True
    with pytest.raises(ValueError, match="expected lab2cname"):
        build_evaluator(cfg)


def test_confusion_matrix_is_saved(tmp_path):
    evaluate(folder=tmp_path / "new", COMPUTE_CMAT=True)
    matrix = torch.load(tmp_path / "new" / "cmat.pt", weights_only=True)
    expected = [[0.75, 0.25, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 0], [0, 0.5, 0, 0.5]]
    assert torch.equal(matrix, torch.tensor(expected, dtype=torch.float64))


def test_errors():
    cfg = get_cfg_default()
    with pytest.raises(RuntimeError, match="nothing to evaluate"):
        build_evaluator(cfg).evaluate()
    cfg.TEST.EVALUATOR = "Classifications"
    with pytest.raises(ValueError, match='did you mean "Classification"'):
        build_evaluator(cfg)
    assert "Classification" in EVALUATOR_REGISTRY.registered_names()


def test_accuracy():
    logits = torch.tensor([[3.0, 2, 1], [3, 2, 1], [3, 2, 1], [1, 2, 3]])
    target = torch.tensor([0, 1, 2, 2])
    top1, top2, top3 = compute_accuracy(logits, target, topk=(1, 2, 3))
    assert (top1.tolist(), top2.tolist(), top3.tolist()) == ([50.0], [75.0], [100.0])
    assert compute_accuracy((logits, None), target)[0].item() == 50.0
