"""Export a finished run to ONNX or to a torch.export file, compared with PyTorch.

    caspl export RUN FILE.onnx|FILE.pt2 [--classes NAME ...] [--int8 [--calibrate FOLDER]] [--labelled FOLDER]

The file has the image tower, the prompts and the class vectors; preprocessing and class names are in its metadata.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import arguments
from .predict import add_run, loaded
from .program import guarded, hide_information

if TYPE_CHECKING:
    from ..deploy.classifier import Classifier

CALIBRATION = 128  # images


def export(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = arguments.parser("export", __doc__, keys=False)
    add_run(parser)
    parser.add_argument("out", type=Path, metavar="FILE", help="the file to write: .onnx or .pt2")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="other classes than the run's")
    parser.add_argument("--int8", action="store_true", help="quantize matrix products to int8 (ONNX only)")
    parser.add_argument("--calibrate", type=Path, metavar="FOLDER", help="images that the int8 ranges are chosen from")
    labelled = "folder of folders named by class: print the accuracy (default: that of --calibrate, if it is one)"
    parser.add_argument("--labelled", type=Path, metavar="FOLDER", help=labelled)
    args = arguments.parse(parser, argv, keys=False)
    hide_information()
    if args.int8 and args.out.suffix != ".onnx":
        raise ValueError(f"--int8 writes ONNX, but FILE is {args.out}: give it the ending .onnx")
    if args.calibrate and not args.int8:
        raise ValueError("--calibrate is for --int8: add it, or leave --calibrate out")
    classifier = loaded(args, args.classes)
    from ..deploy import export as deploy

    plain = args.out.with_name(f"{args.out.stem}.float32.onnx") if args.int8 else args.out
    worst = deploy.export(classifier, plain)
    print(f"{plain}: {plain.stat().st_size / 1e6:.1f} MB, largest difference to PyTorch {worst:.1e}")
    files = [plain]
    if args.int8:
        deploy.quantize(plain, args.out, _batches(classifier, args.calibrate) if args.calibrate else None)
        share = args.out.stat().st_size / plain.stat().st_size
        print(f"{args.out}: {args.out.stat().st_size / 1e6:.1f} MB, {share:.2f} of the float32 file")
        files.append(args.out)
    if folder := args.labelled or args.calibrate:
        _print_accuracy(folder, classifier, files, needed=bool(args.labelled))


def _batches(classifier: "Classifier", folder: Path) -> Iterator[Any]:
    """Yield preprocessed images of a folder, `CALIBRATION` at most."""
    from ..deploy.images import batches, find_images

    files = find_images([folder])
    step = max(1, len(files) // CALIBRATION)
    for batch in batches(files[::step][:CALIBRATION], classifier.preprocess, 16, 0):
        if batch.images is not None:
            yield batch.images


def _print_accuracy(folder: Path, classifier: "Classifier", files: list[Path], needed: bool) -> None:
    """Print the accuracy of PyTorch and of each file on a folder of class folders.

    Raises:
        ValueError: it has no folder that is named by a class, and one is needed.
    """
    from ..deploy import export as deploy
    from ..deploy.images import find_images

    names = {name.replace("_", " "): index for index, name in enumerate(classifier.class_names)}
    images = find_images([folder])
    labelled = [path for path in images if path.parent.name.replace("_", " ") in names]
    if not labelled and not needed:
        return
    if not labelled:
        expected = ", ".join(list(names)[:5])
        raise ValueError(f"--labelled {folder}: no folder in it is named by a class; expected {expected}, ...")
    if len(labelled) < len(images):
        print(f"{folder}: {len(images) - len(labelled)} images are in folders that are not named by a class, left out")
    runners = {"PyTorch": classifier.cpu()} | {
        str(path): (deploy.pt2_runner if path.suffix == ".pt2" else deploy.onnx_runner)(path) for path in files
    }
    correct, total = dict.fromkeys(runners, 0), 0
    for batch in classifier.batches(labelled, 32):
        if batch.images is None:
            continue
        labels = [names[path.parent.name.replace("_", " ")] for path in batch.paths]
        total += len(labels)
        for name, run in runners.items():
            found = run(batch.images).argmax(dim=1).tolist()
            correct[name] += sum(ours == label for ours, label in zip(found, labels, strict=True))
    for name, count in correct.items():
        print(f"accuracy of {name}: {100 * count / max(total, 1):.2f} % of {total} images")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: export(argv))
