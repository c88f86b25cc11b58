"""The class vectors of a finished run, in the layout that CLIP_benchmark's `--load_clfs` reads.

    caspl classifier RUN FILE.safetensors

The vectors are normalised; the file also has the class names.
"""

import json
from pathlib import Path

from . import arguments
from .predict import add_run, loaded
from .program import guarded, hide_information


def classifier(argv: list[str] | None = None) -> None:
    """Write the tensor "classifier" (E, C), normalised, and the class names in the file's metadata."""
    parser = arguments.parser("classifier", __doc__, keys=False)
    add_run(parser)
    parser.add_argument("out", type=Path, metavar="FILE", help="the file to write: .safetensors, or .pt for torch.load")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="other classes than the run's")
    args = arguments.parse(parser, argv, keys=False)
    hide_information()
    import torch
    from safetensors.torch import save_file

    from ..storage.atomic import replacing

    found = loaded(args, args.classes)
    vectors = found.encode_text().t().contiguous().cpu()  # (E, C)
    with replacing(args.out) as aside:
        if args.out.suffix == ".pt":
            torch.save(vectors, aside)
        else:
            save_file({"classifier": vectors}, aside, metadata={"class_names": json.dumps(found.class_names)})
    print(f"{args.out}: {vectors.shape[0]} x {vectors.shape[1]}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: classifier(argv))
