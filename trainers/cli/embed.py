"""Image features of a finished run.

    caspl embed RUN IMAGE|FOLDER ... --out FILE.safetensors

The features are normalised; the file also has the images' paths.
"""

import json
from pathlib import Path
from typing import Any

from . import arguments
from .predict import add_run, check_positive, loaded, report
from .program import guarded, hide_information


def embed(argv: list[str] | None = None) -> int:
    """Write the tensor "features" (N, E), and the paths, a JSON list, in the file's metadata."""
    parser = arguments.parser("embed", __doc__, keys=False)
    add_run(parser)
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE|FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the safetensors file to write")
    parser.add_argument("--batch-size", type=int, help="images at a time (default: as in the run's evaluation)")
    args = arguments.parse(parser, argv, keys=False)
    hide_information()
    import torch
    from safetensors.torch import save_file
    from tqdm import tqdm

    from ..deploy.images import find_images
    from ..storage.atomic import replacing

    check_positive("--batch-size", args.batch_size)
    files = find_images(args.images)
    classifier = loaded(args)
    features: list[Any] = []
    paths: list[Any] = []
    failed: dict[Any, Any] = {}
    with tqdm(total=len(files), unit=" images", disable=None) as bar:
        for batch in classifier.batches(files, args.batch_size):
            failed.update(batch.unreadable)
            if batch.images is not None:
                features.append(classifier.encode_image(batch.images).cpu())
                paths += map(str, batch.paths)
            bar.update(len(batch.paths) + len(batch.unreadable))
    if not features:
        raise ValueError(f"{args.images[0]}: none of its {len(files)} images can be read")
    with replacing(args.out) as aside:
        save_file({"features": torch.cat(features)}, aside, metadata={"paths": json.dumps(paths)})
    return report(failed)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    return guarded(lambda: embed(argv))
