"""Train the two small CLIPs, student and teacher, that go with the dataset `shapes`: from nothing, on a CPU.

    python scripts/shapes/train_clips.py [--student | --teacher] [--output DIR] [--seed N] [--threads N] ...

They are stock `clip.model.CLIP` models with CLIP's tokenizer, trained on captioned pictures that are
rendered for it, never in the target domain, in which `shapes` lies. The student's pictures leave some pairs
of fill and shape out. The teacher sees all pairs and, at last, a wider domain. On one kind of machine, the
same seed and number of threads give the same files.
"""

import argparse
import io
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from trainers import compat  # noqa: E402

compat.ensure_torchvision()
compat.ensure_dassl()

import numpy as np  # noqa: E402
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402
from captions import LEFT_OUT  # noqa: E402
from clip.clip import tokenize  # noqa: E402
from clip.model import build_model  # noqa: E402
from PIL import Image  # noqa: E402
from training import WORDS, Recipe, Stage, prepare, train  # noqa: E402

from datasets import render  # noqa: E402
from datasets.rendered import encode  # noqa: E402
from datasets.shapes import Shapes  # noqa: E402

RECIPES = {
    "student": Recipe(
        width=64,
        vision_layers=3,
        text_layers=2,
        left_out=frozenset(LEFT_OUT),
        stages=(Stage(render.SOURCE, 3600, 1e-3),),
    ),
    "teacher": Recipe(
        width=128,
        vision_layers=4,
        text_layers=2,
        left_out=frozenset(),
        stages=(Stage(render.SOURCE, 2800, 1e-3), Stage(render.WIDE, 1600, 5e-4)),
    ),
}


def main():
    options = parse_arguments()
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    for name in [] if options.evaluate else options.models:
        recipe = RECIPES[name]
        if options.steps:
            recipe = replace(recipe, stages=tuple(replace(s, steps=options.steps) for s in recipe.stages))
        model, used = train(name, recipe, options.seed, options.threads)
        save(model, used, options.output / f"shapes-{name}.pt")
    print(f"zero-shot accuracy (%), {options.report} split      all   base    new")
    images, labels = load_split(options.report)
    for name in options.models:
        path = options.output / f"shapes-{name}.pt"
        rates = " ".join(f"{100 * rate:6.1f}" for rate in zero_shot(path, images, labels))
        print(f"{path} ({path.stat().st_size / 1e6:.2f} MB) {rates}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    which = parser.add_mutually_exclusive_group()
    for name in RECIPES:
        flag, only = f"--{name}", f"only the {name}"
        which.add_argument(flag, dest="models", action="store_const", const=[name], help=only)
    parser.add_argument("--output", type=Path, default=Path("output/shapes"), help="folder (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1, help="changes the last digits (%(default)s)")
    parser.add_argument("--steps", type=int, help="in each stage, instead of the recipe's, for a trial")
    parser.add_argument("--report", choices=["val", "test"], default="val", help="on a split (%(default)s)")
    parser.add_argument("--evaluate", action="store_true", help="only report on the files in the folder")
    parser.set_defaults(models=list(RECIPES))
    options = parser.parse_args()
    if options.steps is not None and options.steps < 4:
        parser.error(f"--steps is {options.steps}, expected 4 or more (the learning rate rises and falls)")
    return options


def save(model, used, path):
    """Write a state dict in OpenAI's layout, float16, as a deflated archive that `torch.load` reads as it is.

    Args:
        used: the tokens whose embeddings the model has; those of all others are zero in the file.
    """
    state = {key: value.detach().half() for key, value in model.state_dict().items()}
    embedding = torch.zeros(WORDS, model.transformer.width, dtype=torch.float16)
    embedding[used] = state["token_embedding.weight"]
    state["token_embedding.weight"] = embedding
    plain = io.BytesIO()
    torch.save(state, plain)
    aside = path.with_suffix(".partial")
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(aside, "w") as target:
        for entry in source.infolist():
            target.writestr(zipfile.ZipInfo(entry.filename), source.read(entry), zipfile.ZIP_DEFLATED, compresslevel=9)
    aside.replace(path)


def load_split(part):
    """Images (N, 3, 48, 48), normalised, and labels of "val" or "test", as from the files of `shapes`."""
    stored = (Image.open(io.BytesIO(encode(picture))) for picture in Shapes.pictures(part))
    pictures = np.stack([np.asarray(picture) for picture in stored])
    labels = torch.tensor([label for _, label, _ in Shapes.members(part)])
    return prepare(torch.from_numpy(pictures).permute(0, 3, 1, 2)), labels


@torch.no_grad()
def zero_shot(path, images, labels):
    """Accuracy of a saved model among all classes, of the base classes among themselves, of the new ones."""
    model = build_model(torch.load(path, weights_only=True)).float()
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
