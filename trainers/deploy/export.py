"""Export a classifier to ONNX or to a `torch.export` file, compared with PyTorch on the way."""

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..pytorch import EXPORT, check_pytorch
from ..storage.atomic import replacing
from ..version import __version__
from .classifier import Classifier
from .plain import PlainClassifier

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of logits
BATCHES = (1, 3, 9)
ENDINGS = (".onnx", ".pt2")

Run = Callable[[Tensor], Tensor]


class ExportError(ValueError):
    """An exported file that does not compute what PyTorch computes."""


def export(classifier: Classifier, path: Path) -> float:
    """Write a classifier to a file and compare it with PyTorch for batches of 1, 3 and 9 images.

    Args:
        classifier: on any device; float32 is exported, and compared with the classifier itself if it computes in float32.
        path: ends in .onnx or .pt2.

    Returns:
        The largest difference of a logit.

    Raises:
        ConfigError: PyTorch is too old, or the classifier cannot be exported (see `PlainClassifier`).
        ExportError: the file's logits differ by more than 1e-4; nothing is written then.
        ValueError: another ending.
    """
    if path.suffix not in ENDINGS:
        raise ValueError(f"{path}: its ending is {path.suffix!r}; expected {' or '.join(ENDINGS)}")
    check_pytorch("caspl export", EXPORT)
    plain = PlainClassifier(classifier)
    example = torch.randn(2, 3, *_size(classifier))
    program = torch.export.export(plain, (example,), dynamic_shapes={"images": {0: torch.export.Dim("batch", min=1)}})
    with replacing(path) as aside:
        if path.suffix == ".pt2":
            _write_pt2(program, aside, described(classifier))
            run = pt2_runner(aside)
        else:
            _write_onnx(program, aside, described(classifier))
            run = onnx_runner(aside)
        worst = compare(classifier if _is_float32(classifier) else plain, run, example)
        if not worst <= TOLERANCE:
            raise ExportError(
                f"{path}: its logits differ from PyTorch's by {worst:.1e}; expected at most {TOLERANCE:.0e}"
            )
    return worst


def described(classifier: Classifier) -> dict[str, str]:
    """Return the file's metadata: class names, preprocessing, version; JSON values."""
    steps = {type(step).__name__: step for step in classifier.preprocess.transforms}
    normalize = steps.get("Normalize")
    preprocessing = {
        "size": list(_size(classifier)),
        "interpolation": steps["Resize"].interpolation.value,
        "mean": [0.0] * 3 if normalize is None else [float(value) for value in normalize.mean],
        "std": [1.0] * 3 if normalize is None else [float(value) for value in normalize.std],
    }
    values = {"class_names": classifier.class_names, "preprocessing": preprocessing, "caspl": __version__}
    return {key: json.dumps(value, ensure_ascii=False) for key, value in values.items()}


def _size(classifier: Classifier) -> tuple[int, int]:
    side = classifier.model.clip.visual.input_resolution
    return side, side


def _is_float32(classifier: Classifier) -> bool:
    weights, precision = classifier.model.parameters(), classifier.precision
    return precision.autocast is None and all(weight.dtype == torch.float32 for weight in weights)


def compare(reference: torch.nn.Module, run: Run, example: Tensor) -> float:
    """Return the largest difference of logits for `BATCHES` of random images."""
    worst = 0.0
    with torch.no_grad():
        for count in BATCHES:
            images = torch.randn(count, *example.shape[1:], generator=torch.Generator().manual_seed(count))
            worst = max(worst, (run(images) - reference(images).cpu()).abs().max().item())
    return worst


def _write_pt2(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    with open(path, "wb") as stream:
        torch.export.save(program, cast(Any, stream), extra_files={"metadata.json": json.dumps(metadata)})


def pt2_runner(path: Path) -> Run:
    """Return a function from images (B, 3, R, R) to logits (B, C) that runs a .pt2 file."""
    with open(path, "rb") as stream:
        module = torch.export.load(cast(Any, stream)).module()
    return lambda images: module(images)


def _write_onnx(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    onnx = _imported("onnx")
    _imported("onnxscript")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # about what PyTorch's exporter itself calls
        made: Any = torch.onnx.export(
            program, (), input_names=["images"], output_names=["logits"], dynamo=True, verbose=False
        )
    model = made.model_proto
    for key, value in metadata.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.save_model(model, str(path))


def onnx_runner(path: Path) -> Run:
    """Return a function that runs an ONNX file on the CPU, on PyTorch's threads.

    It maps images (B, 3, R, R) to logits (B, C).
    """
    runtime = _imported("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def quantize(path: Path, target: Path, calibration: Iterator[Tensor] | None = None) -> None:
    """Quantize an ONNX file's matrix products to int8.

    Args:
        path: the float32 file.
        target: the int8 file.
        calibration: batches of preprocessed images to choose the activations' ranges from; None chooses them at run time.
    """
    _imported("onnxruntime")
    from onnxruntime import quantization as q

    options = {"weight_type": q.QuantType.QInt8, "per_channel": True, "op_types_to_quantize": ["MatMul", "Gemm"]}
    with replacing(target) as aside, _quiet():
        if calibration is None:
            q.quantize_dynamic(str(path), str(aside), **options)
        else:
            q.quantize_static(str(path), str(aside), _Reader(calibration), **options)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what onnxruntime logs about each operation that it leaves in float32."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


class _Reader:
    """onnxruntime's interface to calibration data."""

    def __init__(self, batches: Iterator[Tensor]):
        self.batches = batches

    def get_next(self) -> dict[str, np.ndarray] | None:
        images = next(self.batches, None)
        return None if images is None else {"images": images.numpy()}


def _imported(name: str):
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ExportError(f"{name} cannot be imported ({error}): pip install 'caspl[onnx]'") from error
