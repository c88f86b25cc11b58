"""Train the small CLIPs, two students and a teacher, of `shapes` and its relatives on a CPU.

    python -m scripts.shapes.train_clips [--student | --student-tokens | --teacher] [--output DIR] [--seed N] ...

They are stock `clip.model.CLIP` models with CLIP's tokenizer, trained on captioned images that are rendered for this
purpose, never in the target domain of `shapes`. The students' images leave out some pairs of fill and shape. The second
student starts from the package's first one and has another stage, in which its image sequences contain random tokens.
The teacher sees all pairs and, in a second stage, a wider domain. On one kind of machine, the same seed and number of
threads give the same files.
"""

import argparse
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from clip.clip import tokenize
from clip.model import CLIP, build_model
from PIL import Image

from datasets.readers.shapes import Shapes
from datasets.shapes import rendering
from datasets.shapes.dataset import encode
from trainers.backbones.files import WEIGHTS
from trainers.storage.tensors import read_weights

from .captions import LEFT_OUT
from .contrastive import WORDS, ClipSpec, Stage, prepare, train

STUDENT = ClipSpec(
    width=64,
    vision_layers=3,
    text_layers=2,
    left_out=frozenset(LEFT_OUT),
    stages=(Stage(rendering.SOURCE, 3600, 1e-3),),
)
SPECS = {
    "student": STUDENT,
    "student-tokens": replace(
        STUDENT,
        stages=(Stage(rendering.SOURCE, 800, 5e-4, tokens=0.6),),
        start=WEIGHTS / "shapes-student.pt",
        seed=11,
    ),
    "teacher": ClipSpec(
        width=128,
        vision_layers=4,
        text_layers=2,
        left_out=frozenset(),
        stages=(Stage(rendering.SOURCE, 2800, 1e-3), Stage(rendering.WIDE, 1600, 5e-4)),
    ),
}


def main() -> None:
    """Run the command line."""
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in [] if options.evaluate else options.models:
        spec = SPECS[name]
        if options.steps:
            stages = tuple(replace(s, steps=options.steps) for s in spec.stages)
            spec = replace(spec, stages=stages, pool=min(spec.pool, options.steps * spec.batch))
        model, used = train(name, spec, spec.seed if options.seed is None else options.seed, options.threads)
        save(model, used, options.output / f"shapes-{name}.pt")
    print(f"zero-shot accuracy (%), {options.report} split      all   base    new")
    images, labels = load_split(options.report)
    for name in options.models:
        path = options.output / f"shapes-{name}.pt"
        rates = " ".join(f"{100 * rate:6.1f}" for rate in zero_shot(path, images, labels))
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB) {rates}")


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group()
    for name in SPECS:
        flag, only = f"--{name}", f"only the {name}"
        which.add_argument(flag, dest="models", action="store_const", const=[name], help=only)
    parser.add_argument("--output", type=Path, default=Path("output/shapes"), help="folder (%(default)s)")
    parser.add_argument("--seed", type=int, help="default: the shipped model's")
    parser.add_argument("--threads", type=int, default=1, help="changes the last digits (%(default)s)")
    parser.add_argument("--steps", type=int, help="per stage, instead of the configured number, for a trial")
    parser.add_argument("--report", choices=["val", "test"], default="val", help="on a split (%(default)s)")
    parser.add_argument("--evaluate", action="store_true", help="only report on the files in the folder")
    parser.set_defaults(models=list(SPECS))
    options = parser.parse_args()
    if options.steps is not None and options.steps < 4:
        parser.error(f"--steps: {options.steps}; expected 4 or more (the learning rate rises and falls)")
    return options


def save(model: CLIP, used: torch.Tensor, path: Path) -> None:
    """Write a float16 state dict in OpenAI's layout as a compressed archive that `torch.load` reads.

    Args:
        model: a model of `train`.
        used: the tokens whose embeddings the model has; the embeddings of all others are zero in the file.
        path: the file.
    """
    state = {key: value.detach().half() for key, value in model.state_dict().items()}
    embedding = torch.zeros(WORDS, model.transformer.width, dtype=torch.float16)
    embedding[used] = state["token_embedding.weight"]
    state["token_embedding.weight"] = embedding
    plain = io.BytesIO()
    torch.save(state, plain)
    partial = path.with_suffix(".partial")
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(partial, "w") as target:
        for entry in source.infolist():
            target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry), zipfile.ZIP_DEFLATED, compresslevel=9)
    partial.replace(path)


def load_split(part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return normalised images (n, 3, 48, 48) and labels (n,) of "val" or "test", as in the files of `shapes`."""
    stored = (Image.open(io.BytesIO(encode(image))) for image in Shapes.images(part))
    images = np.stack([np.asarray(image) for image in stored])
    labels = torch.tensor([label for _, label, _ in Shapes.members(part)])
    return prepare(torch.from_numpy(images).permute(0, 3, 1, 2)), labels


@torch.no_grad()
def zero_shot(path: Path, images: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Return a saved model's zero-shot accuracy on all classes, on the base classes and on the new classes."""
    model = build_model(read_weights(path)[0]).float()
    texts = model.encode_text(tokenize([f"a photo of a {name}." for name in Shapes.classes]))
    logits = F.normalize(model.encode_image(images), dim=-1) @ F.normalize(texts, dim=-1).T
    half = (len(Shapes.classes) + 1) // 2
    rates = []
    for low, high in ((0, len(Shapes.classes)), (0, half), (half, len(Shapes.classes))):
        among = (low <= labels) & (labels < high)
        rates.append((logits[among, low:high].argmax(1) + low == labels[among]).float().mean().item())
    return rates


if __name__ == "__main__":
    main()
