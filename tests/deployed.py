"""A finished run of every trainer on the toys, for tests of what is made of one."""

import toy

from trainers.cli import train
from trainers.experiments.places import host_names

HOSTS = tuple(host_names().values())
TRAINERS = ("CasPL", *HOSTS, *(f"CasPL_{host}" for host in HOSTS))
PER_IMAGE = ("CoCoOp", "CasPL_CoCoOp")  # whose class features depend on the image
CONSTANT = tuple(trainer for trainer in TRAINERS if trainer not in PER_IMAGE)


def toys(root):
    """Write the CLIPs of student and teacher."""
    toy.save_clip(root / "student.pt")
    toy.save_clip(root / "teacher.pt", toy.TEACHER, seed=4)


def options(root, trainer):
    """Return the options of a trainer on the toys, after phase 1 if it needs that."""
    more = {
        "TRAINER__KGCOOP__PREC": "fp32",
        "TRAINER__TCP__PREC": "fp32",
        "TRAINER__TCP__LAYER": 2,
        "TRAINER__PROMPTKD__PREC": "fp32",
        "TRAINER__PROMPTKD__TEACHER": root / "teacher.pt",
        "TRAINER__PROMPTKD__PROMPT_DEPTH_VISION": 2,
    }
    if trainer.startswith("CasPL_"):
        more["TRAINER__CASPL__CHECKPOINT"] = trained(root, "CasPL")
    return more


def trained(root, trainer):
    """Train a trainer, and phase 1 before it if it needs that, in folders with the trainers' names; return the folder."""
    if not (root / trainer).is_dir():
        train.run(toy.command(root, trainer, root / trainer, **options(root, trainer)))
    return root / trainer
