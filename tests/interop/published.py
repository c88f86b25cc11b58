"""Run published hosts with a boosting prompt, and write what was measured as a table.

    CASPL_INTEROP=FOLDER PYTHONPATH=.:tests python -m interop.published --out FOLDER [NAME...]

See README.md next to this file for the checkouts, the shims and the columns.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from interop.hosts import CLIPS, LAYERS, NAMES, PUBLISHED, SHALLOW, TEACHER, Published
from PIL import Image
from random_weights import clip_state_dict, randn

ROOT = Path(__file__).resolve().parents[2]


def prepare(name: str, host: Published, source: Path, work: Path) -> Path:
    """Copy a checkout and make it ready as its user would; returns the copy."""
    copy = work / "checkouts" / name
    if copy.exists():
        shutil.rmtree(copy)
    ignored = shutil.ignore_patterns(".git", "docs", "__pycache__", "lpclip", "output", "figs", "images", "Dassl*")
    shutil.copytree(source / (host.base or host.checkout), copy, ignore=ignored, symlinks=True)
    if host.base:
        for file in (source / host.checkout).glob("*.py"):
            shutil.copy(file, copy / "trainers")
            add_import(copy / "train.py", f"import trainers.{file.stem}")
    add_lines(copy / "train.py")
    for file in [*copy.glob("clip*/clip.py"), *copy.glob("trainers/clip*/clip.py")]:
        vocabulary = file.with_name("bpe_simple_vocab_16e6.txt.gz")
        if not vocabulary.exists():  # LAMM's authors left it out
            shutil.copy(source / "CoOp" / "clip" / vocabulary.name, vocabulary)
        with open(file, "a") as stream:
            stream.write(
                f"\n_MODELS['{host.clip}'] = '{work / host.clip}.pt'\n_download = lambda url, *args, **kwargs: url\n"
            )
    if name == "SubPT":  # classes and features that its authors compute beforehand
        torch.save(["sea lion", "fox"], copy / "novel.pth")
        features = randn(5, "novel", (2, 512))
        torch.save(features / features.norm(dim=-1, keepdim=True), copy / "novel_features.pth")
    if name == "PromptKD":
        (copy / "clip" / "ViT-B-16.pt").symlink_to(work / f"{host.clip}.pt")
        (copy / "clip" / "ViT-L-14.pt").symlink_to(work / "teacher.pt")
        save_teacher_of_promptkd(copy / "teacher_model" / "OxfordPets" / "VLPromptLearner")
    return copy


def save_teacher_of_promptkd(folder: Path) -> None:
    """A checkpoint of PromptKD's teacher, which its authors offer for download."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {"prompt_learner.ctx": torch.zeros(4, TEACHER.text_width)}
    torch.save({"state_dict": state, "epoch": 1}, folder / "model-best.pth.tar")


def add_import(program: Path, line: str) -> None:
    """Put a line in front of a program's first function, after its imports."""
    text = program.read_text()
    program.write_text(text.replace("\n\ndef ", f"\n{line}\n\ndef ", 1))


def add_lines(program: Path) -> None:
    """The two lines that the README asks for."""
    text = program.read_text()
    end = text.index("\ndef ", text.index("\ndef extend_cfg(cfg") + 1)
    text = text[:end].rstrip() + "\n    caspl.extend_cfg(cfg)\n\n" + text[end:]
    program.write_text("import caspl\n" + text)


def draw_pets(folder: Path, side: int = 96) -> None:
    """A colour for each class, with noise, in OxfordPets' layout."""
    (folder / "images").mkdir(parents=True)
    rng, split = np.random.RandomState(0), {}
    for part, count in (("train", 2), ("val", 1), ("test", 2)):
        split[part] = []
        for label, name in enumerate(NAMES):
            for n in range(count):
                pixels = np.clip(60 * label + rng.randint(0, 60, (side, side, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{part}_{label}_{n}.jpg")
                split[part].append([f"{part}_{label}_{n}.jpg", label, name])
    (folder / "split_zhou_OxfordPets.json").write_text(json.dumps(split))
    caltech = folder.with_name("caltech-101")  # LASP's OxfordPets has no list of all classes
    caltech.mkdir()
    (caltech / "101_ObjectCategories").symlink_to(folder / "images")
    (caltech / "split_zhou_Caltech101.json").write_text(json.dumps(split))


def save_inputs(work: Path) -> None:
    """Pictures, CLIPs and boosting prompts, once for all hosts."""
    if (work / "done").exists():
        return
    draw_pets(work / "data" / "oxford_pets")
    (work / "packages").mkdir()
    (work / "packages" / "caspl").symlink_to(ROOT / "trainers")
    tokens = range(49408)
    for name, spec in {**CLIPS, "teacher": TEACHER}.items():
        state = clip_state_dict(spec, 1, [])
        generator = torch.Generator().manual_seed(7)
        state["token_embedding.weight"] = torch.randn(len(tokens), spec.text_width, generator=generator) * 0.02
        torch.save(state, work / f"{name}.pt")
    (work / "done").touch()


def save_prompts(work: Path, host: Published, text: bool) -> dict[str, str]:
    """Boosting prompts as deep as the towers, and shallower ones."""
    from trainers.engine import PromptGroup
    from trainers.method.prompt_file import BoostingInfo, save_boosting

    files = {}
    for depth in (LAYERS, SHALLOW):
        file = work / "prompts" / f"{depth}{'' if text else '-vision'}.safetensors"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            texts = randn(3, "text", (depth, 5, 512), 0.3) if text else torch.zeros(0, 0, 512)
            save_boosting(file, PromptGroup(texts, randn(3, "vision", (depth, 3, 768), 0.3)), BoostingInfo())
        files[str(depth)] = str(file)
    return files


def arguments(host: Published, copy: Path, work: Path, output: Path) -> list[str]:
    """The command line of the checkout's train.py."""
    side = CLIPS[host.clip].image
    options = {
        "DATASET.NUM_SHOTS": 1,
        "MODEL.BACKBONE.NAME": host.clip,
        "INPUT.SIZE": f"({side}, {side})",
        "INPUT.TRANSFORMS": "['random_flip', 'normalize']",
        "DATALOADER.NUM_WORKERS": 0,
        "DATALOADER.TRAIN_X.BATCH_SIZE": 4,
        "DATALOADER.TEST.BATCH_SIZE": 2,
        "OPTIM.MAX_EPOCH": 1,
        "TRAIN.CHECKPOINT_FREQ": 1,
        **host.options,
    }
    dataset = f"configs/datasets/{host.dataset}.yaml"
    line = ["--root", work / "data", "--output-dir", output, "--trainer", host.trainer, "--seed", 1]
    if (copy / dataset).exists():
        line += ["--dataset-config-file", dataset]
    else:
        options["DATASET.NAME"] = "OxfordPets"
    if host.config:
        folder = "" if host.config.startswith("configs/") else "configs/trainers/"
        line += ["--config-file", f"{folder}{host.config}.yaml"]
    line += [*host.flags, *(item for pair in options.items() for item in pair)]
    return [str(item) for item in line]


def environment(host: Published, source: Path, work: Path) -> dict[str, str]:
    """Where the checkout finds Dassl and caspl."""
    paths = [work / "packages", source / host.dassl, ROOT / "tests"]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(path.absolute()) for path in paths),
        "HOME": str(work),
        "PYTHONWARNINGS": "ignore",
    }


def run(name: str, host: Published, source: Path, work: Path) -> dict:
    """Train with the checkout's own train.py and --trainer name, then evaluate from the run's folder."""
    copy = work / "checkouts" / name
    folder = work / "runs" / name / "trained"
    shutil.rmtree(folder, ignore_errors=True)
    text = host.text is not None or host.text_clip is not None
    checkpoint = ["TRAINER.CASPL.CHECKPOINT", save_prompts(work, host, text)[str(SHALLOW)]]
    trained = start(host, copy, source, work, [*arguments(host, copy, work, folder), *checkpoint])
    found = {"trained": trained.returncode == 0, "cascaded": "Cascaded with" in trained.stdout}
    found["kept"] = (folder / "boosting.safetensors").exists()
    flags = ["--eval-only", "--model-dir", str(folder), "--load-epoch", "1"]
    line = arguments(host, copy, work, work / "runs" / name / "evaluated")
    more = [item.replace("{run}", str(folder)) for pair in host.evaluation.items() for item in pair]
    evaluated = start(host, copy, source, work, [*flags, *line, *checkpoint, *more])
    found["evaluated"] = evaluated.returncode == 0
    accuracies = [re.findall(r"accuracy: ([\d.]+)%", done.stdout) for done in (trained, evaluated)]
    found["accuracy"] = [values[-1] if values else "" for values in accuracies]
    for part, done in (("train", trained), ("evaluation", evaluated)):
        if done.returncode:
            found[f"{part} error"] = (done.stdout + done.stderr)[-1500:]
    return found


def phase1(name: str, host: Published, source: Path, work: Path) -> dict:
    """Train a boosting prompt with `--trainer CasPL` of the checkout's train.py."""
    copy, folder = work / "checkouts" / name, work / "runs" / name / "phase1"
    shutil.rmtree(folder, ignore_errors=True)
    line = arguments(host, copy, work, folder)
    if name.startswith("MMRL"):  # its train.py accepts no other --trainer
        line += ["TRAINER.NAME", "CasPL"]
    else:
        line[line.index("--trainer") + 1] = "CasPL"
    teacher = {"TEACHER.BACKBONE": work / "teacher.pt", "DEPTH_TEXT": 2, "DEPTH_VISION": 2, "PREC": "fp32"}
    line += [str(item) for key, value in teacher.items() for item in (f"TRAINER.CASPL.{key}", value)]
    if classes := host.options.get("DATASET.SUBSAMPLE_CLASSES"):  # phase 1 has a key of its own
        line += ["DATASET.SUBSAMPLE_CLASSES", "all", "TRAINER.CASPL.CLASSES", classes]
    if not (copy / "clip").is_dir():  # LoCoOp's fork has another name, so that CasPL's `clip` is the installed one
        line += ["MODEL.BACKBONE.NAME", str(work / f"{host.clip}.pt")]
    done = start(host, copy, source, work, line)
    found = {"phase 1": (folder / "boosting.safetensors").exists() and done.returncode == 0}
    return found if found["phase 1"] else {**found, "error": (done.stdout + done.stderr)[-1500:]}


def start(host: Published, copy: Path, source: Path, work: Path, line: list[str]) -> subprocess.CompletedProcess:
    """Run the checkout's train.py; a breakpoint that its authors left in is answered with "continue"."""
    command = [sys.executable, "-m", "interop.drive", "train.py", *line]
    options = {"cwd": copy, "env": environment(host, source, work), "input": "c\n" * 100}
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, **options)


def table(work: Path) -> str:
    """All results in `work` as a Markdown table."""
    lines = [
        "| host | wrap | training step | evaluation | difference, deep | shallow (effect) | gradients, deep | shallow | "
        "same parameters | `remove()` | n = 0 | as rows | phase 1 |",
        "|" + " --- |" * 13,
    ]
    for name in PUBLISHED:
        result, ran, boosted = (read(work / "jobs" / f"{name}.{kind}.json") for kind in ("result", "run", "phase1"))
        deep, shallow = result.get(str(LAYERS), {}), result.get(str(SHALLOW), {})
        if not deep or not shallow:
            lines.append(f"| {name} | {result.get('error', 'not run')[:120]} |" + " |" * 11)
            continue
        both = (deep, shallow)
        cells = [
            name,
            "yes" + (", text tokens rejected" if result.get("rejected") else ""),
            answer(ran.get("trained") and ran.get("kept")) if ran else "not run",
            answer(ran.get("evaluated")) + f" ({' / '.join(ran['accuracy'])} %)" if ran else "not run",
            f"{deep['logits']:.1e}",
            f"{shallow['logits']:.1e} ({shallow['effect']:.2g})",
            f"{deep['gradients']:.1e}",
            f"{shallow['gradients']:.1e}",
            answer(all(each["same parameters"] for each in both)),
            "texts while built" if isinstance(deep["removed"], str) else answer(all(each["removed"] for each in both)),
            answer(result.get("empty")),
            answer("as rows" in shallow["how"]),
            answer(boosted.get("phase 1")) if boosted else "not run",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read(path: Path) -> dict:
    """Results in a file, none if there is no file."""
    return json.loads(path.read_text()) if path.exists() else {}


def answer(value) -> str:
    """A truth value for the table."""
    return "yes" if value else "no"


def measure(name: str, host: Published, source: Path, work: Path, copy: Path, float64: bool = False) -> dict:
    """All measurements of a host, in float64 if asked for."""
    text = host.text is not None or host.text_clip is not None
    doors = {kind: paths for kind, paths in (("vision", host.vision), ("text", host.text)) if paths}
    job = {
        "arguments": arguments(host, copy, work, work / "runs" / name / "probe"),
        "prompts": save_prompts(work, host, text),
        "doors": doors,
        "rerun": host.rerun,
        "text_clip": host.text_clip,
        "float64": float64,
    }
    if not text:
        job["rejected"] = save_prompts(work, host, True)[str(LAYERS)]
    path = work / "jobs" / f"{name}{'.float64' if float64 else ''}.json"
    path.write_text(json.dumps(job))
    result = path.with_suffix(".result.json")
    result.unlink(missing_ok=True)
    command = [sys.executable, "-m", "interop.probe", str(path)]
    done = subprocess.run(
        command, cwd=copy, env=environment(host, source, work), capture_output=True, text=True, timeout=1800
    )
    if not result.exists():
        return {"error": f"the probe ended with {done.returncode}", "log": done.stdout[-2000:] + done.stderr[-4000:]}
    return json.loads(result.read_text())


def main() -> None:
    """Measure the hosts named on the command line, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="hosts; all if none is given")
    parser.add_argument("--out", type=Path, required=True, help="folder of copies, results and the table")
    parser.add_argument(
        "--steps", default="measure,run,phase1", help="measure, run (train.py and its evaluation), phase1, float64"
    )
    args = parser.parse_args()
    source = Path(os.environ["CASPL_INTEROP"])
    (args.out / "jobs").mkdir(parents=True, exist_ok=True)
    save_inputs(args.out)
    for name in args.names or PUBLISHED:
        host = PUBLISHED[name]
        copy = prepare(name, host, source, args.out)
        for step in ("measure", "float64"):
            if step in args.steps:
                report(name, measure(name, host, source, args.out, copy, step == "float64"))
        for step in (run, phase1):
            if step.__name__ in args.steps:
                found = step(name, host, source, args.out)
                (args.out / "jobs" / f"{name}.{step.__name__}.json").write_text(json.dumps(found, indent=1))
                report(name, found)
        (args.out / "table.md").write_text(table(args.out))


def report(name: str, result: dict) -> None:
    """Print a host's results."""
    short = {key: value for key, value in result.items() if key not in ("log", "traceback")}
    sys.stdout.write(f"{name}: {json.dumps(short, default=str)}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
