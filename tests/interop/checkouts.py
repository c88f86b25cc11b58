"""Copies of other people's checkouts, made ready as their users would, with something small to train on."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_weights import STUDENT, TEACHER, clip_state_dict

from trainers.backbones import tokenizer
from trainers.engine.tokens import EOT, SOS

ROOT = Path(__file__).resolve().parents[2]
CHECKOUTS = os.environ.get("CASPL_INTEROP", "")
REPOSITORIES = ("CoOp", "multimodal-prompt-learning", "PromptSRC")
LATE = (
    "PromptSRC"  # there `import caspl` is the last import and the other line the last of its function; else the first
)
WRAPPED = ("IVLP", "VPT")  # hosts of MaPLe's repository that CasPL does not know by itself
NAMES = ["abyssinian", "golden_retriever", "Boeing 737-800", "sea"]


class Place:
    """Copies of the checkouts, a small dataset in OxfordPets' layout, a small CLIP and a teacher, in a folder."""

    def __init__(self, folder):
        self.folder = folder
        ignored = shutil.ignore_patterns(".git", "docs", "__pycache__", "lpclip", "output")
        for name in (*REPOSITORIES, "Dassl.pytorch"):
            shutil.copytree(Path(CHECKOUTS) / name, folder / name, ignore=ignored)
        for name in REPOSITORIES:
            add_lines(folder / name / "train.py", name)
        (folder / "packages").mkdir()
        (folder / "packages" / "caspl").symlink_to(ROOT / "trainers")
        draw_pets(folder / "data" / "oxford_pets")
        url = save_clips(folder)
        for name in REPOSITORIES:
            with open(folder / name / "clip" / "clip.py", "a") as stream:
                stream.write(f"\n_MODELS['small'] = {url!r}\n")

    def run(self, repository, program, *arguments, check=True):
        """Run a program in a copy; its output."""
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(
                [str(self.folder / "packages"), str(self.folder / "Dassl.pytorch"), str(ROOT / "tests")]
            ),
            "HOME": str(self.folder),
            "PYTHONWARNINGS": "ignore",
            "CASPL_HALF": "1",
            **({"IMPORTED_LATE": "1"} if repository == LATE else {}),
        }
        command = [sys.executable, "-m", f"interop.{program}", *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder / repository, env=environment, capture_output=True, text=True)
        if check and done.returncode:
            pytest.fail(f"{repository}: {' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
        return done.stdout + done.stderr

    def train(self, repository, trainer, output, *arguments, flags=(), check=True):
        """Run the copy's train.py on a picture of each class, two epochs by default."""
        options = {
            "DATASET.NAME": "OxfordPets",
            "DATASET.NUM_SHOTS": 1,
            "MODEL.BACKBONE.NAME": "small",
            "INPUT.SIZE": f"({STUDENT.image}, {STUDENT.image})",
            "INPUT.TRANSFORMS": "['random_flip', 'normalize']",
            "DATALOADER.NUM_WORKERS": 0,
            "DATALOADER.TRAIN_X.BATCH_SIZE": 4,
            "OPTIM.NAME": "sgd",
            "OPTIM.LR": 0.002,
            "OPTIM.MAX_EPOCH": 2,
            "OPTIM.LR_SCHEDULER": "cosine",
            "OPTIM.WARMUP_EPOCH": 1,
            "OPTIM.WARMUP_TYPE": "constant",
            "TRAIN.CHECKPOINT_FREQ": 1,
            "TRAINER.CASPL.TEACHER.BACKBONE": self.folder / "teacher.pt",
            "TRAINER.CASPL.N_CTX_TEXT": 3,
            "TRAINER.CASPL.N_CTX_VISION": 2,
            "TRAINER.CASPL.DEPTH_TEXT": 2,
            "TRAINER.CASPL.DEPTH_VISION": 3,
        }
        pairs = [str(item) for pair in options.items() for item in pair]
        start = [
            "--root",
            self.folder / "data",
            "--output-dir",
            self.folder / output,
            "--trainer",
            trainer,
            "--seed",
            1,
        ]
        return self.run(repository, "drive", "train.py", *start, *flags, *pairs, *arguments, check=check)


def add_lines(program, repository):
    """The two lines that the README asks for; a third for each host that CasPL does not know."""
    text = program.read_text()
    imports_end = text.index("\n\ndef print_args")
    function = r"\ndef extend_cfg\(cfg\):"
    if repository == LATE:
        where = re.search(rf"{function}.*?(?=\n\n\ndef )", text, re.S).end()
        text = text[:where] + "\n    caspl.extend_cfg(cfg)" + text[where:]
        text = text[:imports_end] + "import caspl\n" + text[imports_end:]
    else:
        where = re.search(rf'{function}\n(    """.*?"""\n)?', text, re.S).end()
        text = "import caspl\n" + text[:where] + "    caspl.extend_cfg(cfg)\n" + text[where:]
    if repository == "multimodal-prompt-learning":
        text = text.replace(
            "\n\ndef print_args", "".join(f"\ncaspl.wrap({host!r})" for host in WRAPPED) + "\n\n\ndef print_args", 1
        )
    program.write_text(text)


def draw_pets(folder):
    """A colour for each class, with noise."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.RandomState(0)
    split = {}
    for part, count in (("train", 2), ("val", 1), ("test", 3)):
        split[part] = []
        for label, name in enumerate(NAMES):
            for n in range(count):
                pixels = np.clip(60 * label + rng.randint(0, 60, (STUDENT.image, STUDENT.image, 3)), 0, 255)
                file = f"{part}_{label}_{n}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / file)
                split[part].append([file, label, name])
    (folder / "split_zhou_OxfordPets.json").write_text(json.dumps(split))


def save_clips(folder):
    """The student, in the cache of `clip`, whose URL is returned; the teacher as `teacher.pt`."""
    words = "a photo of a X type of pet , . " + " ".join(name.replace("_", " ") for name in NAMES)
    tokens = {SOS, EOT, *tokenizer().encode(words)}
    tokens |= {token for name in NAMES for token in tokenizer().encode(f"{name.replace('_', ' ')}.")}
    torch.save(clip_state_dict(TEACHER, 2, tokens), folder / "teacher.pt")
    cache = folder / ".cache" / "clip"
    cache.mkdir(parents=True)
    torch.save(clip_state_dict(STUDENT, 1, tokens), cache / "small.pt")
    return f"https://example.org/{hashlib.sha256((cache / 'small.pt').read_bytes()).hexdigest()}/small.pt"
