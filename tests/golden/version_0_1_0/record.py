"""Record what version 0.1.0 writes: python record.py CHECKOUT SHAPES TARGET

CHECKOUT is a checkout of version 0.1.0, SHAPES a folder of the rendered data set `shapes`. Every command runs in TARGET
with relative paths, so no file that it writes contains a path of the recording machine.
"""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

CLASSES = [f"{fill}_{shape}" for fill in ("checkered", "dotted", "striped", "wavy") for shape in ("circle", "heart")]
PARTS = {"train": 4, "test": 8}
BACKBONES = ["MODEL.BACKBONE.NAME", "shapes-student", "INPUT.SIZE", "(48, 48)"]
TEACHER = ["TRAINER.CASPL.TEACHER.BACKBONE", "shapes-teacher"]
SHORT = ["OPTIM.MAX_EPOCH", "4", "TRAIN.CHECKPOINT_FREQ", "1", "DATALOADER.TRAIN_X.BATCH_SIZE", "8"]
RATES = {"CasPL": "0.02", "CoOp": "0.2", "CasPL_CoOp": "0.2", "MaPLe": "0.02", "PromptSRC": "0.05"}
BOOST = ["TRAINER.CASPL.N_CTX_TEXT", "2", "TRAINER.CASPL.N_CTX_VISION", "2"]
SIZES = ["TRAINER.CASPL.DEPTH_TEXT", "2", "TRAINER.CASPL.DEPTH_VISION", "3", *BOOST]
CASCADED = ["TRAINER.CASPL.CHECKPOINT", "runs/CasPL"]
KILLED = ["CasPL", "CasPL_CoOp", "PromptSRC"]
KEEP = ["progress.pt", "config.yaml", "ledger.json", "boosting.safetensors", "result.json", "checkpoint"]
# A run that is killed right after its progress was written for the second time.
KILL = """
import os, runpy, signal, sys
replace, left = os.replace, [2]
def counting(source, target):
    replace(source, target)
    left[0] -= os.path.basename(target) == "progress.pt"
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = counting
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def copy_images(shapes: Path, target: Path) -> None:
    """Copy the first images of six classes, and list them under shorter class names in images.csv."""
    rows = [("path", "classname", "split")]
    for name in CLASSES:
        for part, count in PARTS.items():
            (target / part / name).mkdir(parents=True)
            for number in range(count):
                path = f"{part}/{name}/{number:03d}.jpg"
                shutil.copyfile(shapes / path, target / path)
                rows.append((path, name.split("_")[1], part))
    with open(target / "images.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def train_command(trainer: str, folder: str) -> list[str]:
    """Return the arguments of `python` that train a trainer in a folder."""
    more = SIZES if trainer == "CasPL" else CASCADED if trainer.startswith("CasPL_") else []
    return [
        *("CHECKOUT/train.py", "--root", "data", "--seed", "1", "--trainer", trainer),
        *("--config-file", f"CHECKOUT/configs/trainers/{trainer}/shapes.yaml"),
        *("--dataset-config-file", "CHECKOUT/configs/datasets/image_folder.yaml"),
        *("--output-dir", folder, *SHORT, "OPTIM.LR", RATES[trainer], *more),
    ]


def protocol_command(protocol: str) -> list[str]:
    """Return the arguments of `bash` that run a protocol with CasPL_CoOp and CoOp."""
    numbers = ["4", "1"] if protocol == "few_shot" else ["1", "--shots", "4"]
    targets = ["--targets", "csv"] if protocol == "cross_dataset" else []
    return [
        *(f"CHECKOUT/scripts/caspl/{protocol}.sh", "image_folder", *numbers, "--host", "coop", "--baseline"),
        *(*targets, "--data", "data", "--output", "output", *BACKBONES, *TEACHER, *SIZES),
        *("TRAINER.COOP.PREC", "fp32", "TRAINER.CASPL.PREC", "fp32", "OPTIM.MAX_EPOCH", "4"),
        *("OPTIM.LR", "0.2", "DATALOADER.TRAIN_X.BATCH_SIZE", "4"),
    ]


def run(program: list[str], command: list[str], checkout: Path, target: Path, code: int = 0) -> str:
    """Run a command in `target` on one core of the CPU and return what it prints."""
    line = [*program, *(part.replace("CHECKOUT", str(checkout)) for part in command)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHON": sys.executable}
    env |= {"PYTHONPATH": str(checkout)}  # for KILL, which is not started from the checkout
    done = subprocess.run(line, cwd=target, env=env, capture_output=True, text=True)
    if done.returncode != code:
        raise RuntimeError(f"{line} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def figures(printed: str) -> dict[str, float]:
    """Return the figures of the last evaluation in what was printed."""
    found = re.findall(r"\* (total|correct|accuracy|macro_f1): ([\d.]+)", printed)
    return {name: float(value) for name, value in found}


def table(printed: str) -> dict[str, list[str]]:
    """Return the rows of the table at the end of what a protocol printed: figures by the name at the row's start."""
    rows = printed[printed.rindex("----  ----") :].splitlines()[1:]
    return {name.strip(): figures.split() for name, figures in (re.split("  +", row, maxsplit=1) for row in rows)}


def record(checkout: Path, target: Path) -> dict:
    """Make all runs and return their commands and figures."""
    python, kept = [sys.executable], {"runs": {}, "killed": {}, "protocols": {}}
    for trainer in ("CasPL", "CoOp", "CasPL_CoOp", "MaPLe", "PromptSRC"):
        command = train_command(trainer, f"runs/{trainer}")
        run(python, command, checkout, target)
        item = kept["runs"][trainer] = {"command": shlex.join(command)}
        evaluation = ["CHECKOUT/train.py", "--eval-only", "--model-dir", f"runs/{trainer}"]
        for classes in ("all", "base", "new"):
            options = [] if classes == "all" else ["DATASET.SUBSAMPLE_CLASSES", classes]
            item[classes] = figures(run(python, [*evaluation, *options], checkout, target))
    for trainer in KILLED:
        command = train_command(trainer, f"killed/{trainer}")
        run([sys.executable, "-c", KILL], command, checkout, target, code=-9)
        kept["killed"][trainer] = {"command": shlex.join(command)}
    for protocol in ("base2new", "few_shot", "cross_dataset"):
        command = protocol_command(protocol)
        printed = run(["bash"], command, checkout, target)
        kept["protocols"][protocol] = {"command": shlex.join(command), "table": table(printed)}
    return kept


def remove_rest(target: Path) -> None:
    """Remove logs, TensorBoard files, locks, and checkpoints that neither an evaluation nor a resumed run reads."""
    for path in [path for path in target.rglob("*") if path.is_file() and "data" not in path.relative_to(target).parts]:
        last = (path.parent / "checkpoint").is_file() and path.name == (path.parent / "checkpoint").read_text().strip()
        if path.name not in KEEP and not last:
            path.unlink()
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def main() -> None:
    """Record everything in a new folder."""
    checkout, shapes, target = (Path(name).resolve() for name in sys.argv[1:])
    copy_images(shapes, target / "data")
    kept = record(checkout, target)
    remove_rest(target)
    (target / "figures.json").write_text(json.dumps(kept, indent=2) + "\n")


if __name__ == "__main__":
    main()
