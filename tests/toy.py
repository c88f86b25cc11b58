"""A toy dataset and toy CLIPs for the trainers' tests: width 64 like timm's test models, seconds on a CPU."""

import importlib
import json
from pathlib import Path

import numpy as np
import torch
from dassl.data.datasets import DATASET_REGISTRY, Datum
from PIL import Image
from random_weights import Spec, clip_state_dict

from datasets.base import FewShotDataset
from trainers import config
from trainers.backbones import tokenizer
from trainers.engine.tokens import EOT, SOS
from trainers.method.templates import ensemble

STUDENT = Spec(vision_width=64, text_width=64, embed_dim=32, vision_layers=3, text_layers=3, patch=8, grid=2)
TEACHER = Spec(vision_width=128, text_width=64, embed_dim=64, vision_layers=2, text_layers=2, patch=8, grid=2)
NAMES = ["red_fox", "tree", "hot air balloon", "Boeing 737-800", "sea", "lighthouse"]
PER_CLASS = {"train": 4, "val": 2, "test": 3}


@DATASET_REGISTRY.register()
class Toy(FewShotDataset):
    """Noise around one colour per class; the first half of the classes is base. `labels.json` can permute the labels."""

    dataset_dir = "toy"

    def read(self, root):
        """List the images, after writing them if they are missing."""
        folder = Path(root) / "toy"
        if not folder.is_dir():
            draw(folder)
        moved = folder / "labels.json"
        labels = json.loads(moved.read_text()) if moved.is_file() else {}
        parts = []
        for part, count in PER_CLASS.items():
            files = [(f"{part}_{label}_{n}.png", label) for label in range(len(NAMES)) for n in range(count)]
            files = [(name, labels.get(name, label)) for name, label in files]
            parts.append(
                [Datum(impath=str(folder / name), label=label, classname=NAMES[label]) for name, label in files]
            )
        return tuple(parts)


def draw(folder):
    """Write all images to `folder`."""
    folder.mkdir(parents=True)
    rng = np.random.RandomState(0)
    colours = rng.randint(40, 215, (len(NAMES), 3))
    for part, count in PER_CLASS.items():
        for label in range(len(NAMES)):
            for n in range(count):
                pixels = np.clip(colours[label] + rng.randint(-40, 40, (20, 20, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{part}_{label}_{n}.png")


def save_clip(path, spec=STUDENT, seed=3):
    """Write a random CLIP as a state dict in OpenAI's layout."""
    words = [*ensemble(), "a photo of a X {}."]
    texts = [word.replace("{}", name.replace("_", " ")) for word in words for name in NAMES]
    tokens = {SOS, EOT} | {token for text in texts for token in tokenizer().encode(text)}
    torch.save(clip_state_dict(spec, seed, tokens), path)
    return path


def options(root, **more):
    """Return KEY VALUE pairs that run any trainer on the toys; `more` overrides them, with `__` for a dot."""
    pairs = {
        "DATASET.NAME": "Toy",
        "MODEL.BACKBONE.NAME": str(root / "student.pt"),
        "INPUT.SIZE": "(16, 16)",
        "INPUT.TRANSFORMS": "('random_flip', 'normalize')",
        "DATALOADER.NUM_WORKERS": "0",
        "DATALOADER.TRAIN_X.BATCH_SIZE": "4",
        "OPTIM.NAME": "sgd",
        "OPTIM.LR": "0.01",
        "OPTIM.MAX_EPOCH": "1",
        "TRAIN.PRINT_FREQ": "1",
        "OPTIM.LR_SCHEDULER": "cosine",
        "TRAINER.CASPL.TEACHER.BACKBONE": str(root / "teacher.pt"),
        "TRAINER.CASPL.N_CTX_TEXT": "3",
        "TRAINER.CASPL.N_CTX_VISION": "2",
        "TRAINER.CASPL.DEPTH_TEXT": "3",
        "TRAINER.CASPL.DEPTH_VISION": "2",
        "TRAINER.CASPL.PREC": "fp32",
        "TRAINER.COOP.N_CTX": "4",
        "TRAINER.COCOOP.N_CTX": "4",
        "TRAINER.MAPLE.PROMPT_DEPTH": "2",
        "TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT": "2",
        "TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION": "3",
        **{f"TRAINER.{node}.PREC": "fp32" for node in ("COOP", "COCOOP", "MAPLE", "PROMPTSRC")},
    }
    pairs |= {key.replace("__", "."): str(value) for key, value in more.items()}
    return [item for pair in pairs.items() for item in pair]


def command(root, trainer, folder, *flags, **more):
    """Return the arguments of train.py that run a trainer on the toys."""
    importlib.import_module("trainers.hosts")  # declares the keys of each host
    start = ["--root", str(root), "--trainer", trainer, "--seed", "1", "--output-dir", str(folder), *flags]
    pairs = options(root, **more)
    own = config.is_own(trainer)
    read = [i for i in range(0, len(pairs), 2) if not own or config.reads(trainer, pairs[i])]
    return [*start, *(item for i in read for item in pairs[i : i + 2])]
