"""Run published hosts with a boosting prompt, and write what was measured as a table.

    CASPL_INTEROP=FOLDER PYTHONPATH=.:tests python tests/interop/published.py --out FOLDER [NAME...]

See README.md next to this file for the checkouts, the shims and the columns.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from recipe import Spec, clip_state_dict, randn

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

LAYERS, SHALLOW = 6, 4  # blocks of both towers; depth of the boosting prompt that is shallower
SMALL = Spec(vision_layers=LAYERS, text_layers=LAYERS, patch=32, grid=3)
LARGE = Spec(vision_layers=LAYERS, text_layers=LAYERS, patch=16, grid=14)  # RPO's masks are written for 14 x 14 patches
WIDE = Spec(vision_layers=LAYERS, text_layers=LAYERS, patch=32, grid=3, embed_dim=1024)  # CLIP-Adapter's adapter
TEACHER = Spec(vision_layers=2, text_layers=2, embed_dim=768, patch=32, grid=3)
CLIPS = {"small": SMALL, "large": LARGE, "wide": WIDE}
NAMES = ["abyssinian", "american_bulldog", "basset_hound", "beagle"]

TEXT = ("text_encoder", "text_encoder.transformer", "text_encoder.positional_embedding")
VISION = ("image_encoder", "image_encoder.transformer", "image_encoder.ln_pre")
NO_TEXT = ("", "", "")


@dataclass
class Published:
    """A published host.

    Attributes:
        checkout: its folder below CASPL_INTEROP.
        trainer: its registered name.
        config: its own configuration file.
        options: KEY VALUE pairs.
        flags: other arguments of train.py.
        vision, text: paths for `explicit.install`; text None: no text tower.
        rerun: towers whose tokens run through the host's own blocks (adapters).
        text_clip: the number of the loaded CLIP that computes the host's texts while it is built.
        dassl: its own Dassl, below CASPL_INTEROP.
        clip: which small CLIP.
        dataset: whose layout the pictures are read in.
        base: a checkout to put this one's files into, where it is a file and no checkout.
    """

    checkout: str
    trainer: str
    config: str = ""
    options: dict = field(default_factory=dict)
    flags: tuple = ()
    vision: tuple | None = VISION
    text: tuple | None = TEXT
    rerun: tuple = ()
    text_clip: int | None = None
    dassl: str = "Dassl.pytorch"
    clip: str = "small"
    dataset: str = "oxford_pets"
    base: str = ""


def prec(node, **more):
    """Options of float32."""
    return {f"TRAINER.{node}.PREC": "fp32", **{key.replace("__", "."): value for key, value in more.items()}}


COOP = {"TRAINER.COOP.N_CTX": 4, "TRAINER.COOP.CSC": False, "TRAINER.COOP.CLASS_TOKEN_POSITION": "end"}
PUBLISHED = {
    "KgCoOp": Published(
        "KgCoOp/KgCoOp", "KgCoOp", "KgCoOp/vit_b16_ep100_ctxv1", prec("COOP"), dassl="KgCoOp/Dassl.ProGrad.pytorch"
    ),
    "ProGrad": Published(
        "Prompt-align/ProGrad.public",
        "ProGrad",
        "",
        {**prec("COOP"), **COOP, "LOSS.NAME": "prograd"},
        dassl="Prompt-align/Dassl.ProGrad.pytorch",
    ),
    "TCP": Published("Textual-based_Class-aware_prompt_tuning", "TCP", "TCP/vit_b16_ep100_ctxv1", prec("COOP")),
    "CoOp_ATP": Published(
        "ATPrompt",
        "CoOp_ATP",
        "",
        {**prec("COOP"), **COOP, "TRAINER.ATPROMPT.USE_ATPROMPT": True},
        dassl="ATPrompt/Dassl.pytorch",
    ),
    "MaPLe_ATP": Published(
        "ATPrompt",
        "MaPLe_ATP",
        "MaPLe/vit_b16_c2_ep5_batch4_2ctx",
        {**prec("MAPLE"), "TRAINER.ATPROMPT.USE_ATPROMPT": True},
        dassl="ATPrompt/Dassl.pytorch",
    ),
    "MPL": Published("Modular-Prompt-Learning", "MPL", "MPL/vit_b4_c1_add2_rm1", prec("MPL")),
    "LAMM": Published("mm-prompt-learning-LAMM", "MaPLe", "MaPLe/vit_b16_c2_ep5_batch4_2ctx", prec("MAPLE")),
    "LoCoOp": Published("LoCoOp", "LoCoOp", "LoCoOp/vit_b16_ep50", prec("LOCOOP"), ("--topk", "2")),
    "PLOT++": Published("PLOT/plot-pp", "PLOTPP", "PLOTPP/vit", prec("PLOTPP"), ("--device", "cpu")),
    "CoPrompt": Published("CoPrompt", "CoPrompt", "coprompt", prec("CoPrompt")),
    "DePT": Published(
        "DePT",
        "ExtrasLinearProbeCoOp",
        "ExtrasLinearProbeCoOp/vit_b16_ep10_bs4_lr35",
        {**prec("COOP"), "DATASET.SUBSAMPLE_CLASSES": "base"},
    ),
    "BayesianPrompt": Published("Bayesian-Prompt-Learning", "VPT", "VPT/vit_b16_c4_ep10_batch1_ctxv1", prec("VPT")),
    "TaskRes": Published("TaskRes", "TaskRes", "TaskRes/generalization_vit32", prec("TaskRes"), text=None, text_clip=0),
    "CLAP": Published("CLAP", "ADAPTER", "SGD_lr1e-1_B256_ep300", prec("ADAPTER"), text=None, text_clip=0),
    "CLIP-Adapter": Published(
        "CLIP-Adapter",
        "CLIP_Adapter",
        base="CoOp",
        clip="wide",
        text=("text_encoder", "text_encoder.clip_model.transformer", "text_encoder.clip_model.positional_embedding"),
    ),
    "LASP": Published(
        "lasp", "LASP", "configs/LASP/vit_b16_c4_ep10_batch1_cls_t2t_5_wcl_25_g1_b", prec("LASP"), dataset="caltech101"
    ),
    "RPO": Published(
        "RPO",
        "RPO",
        "RPO/main",
        prec("RPO"),
        vision=("img_transformer", "img_transformer", "img_pre_ln"),
        text=("text_transformers", "text_transformers", "text_pos_embedding"),
        clip="large",
    ),
    "HPT": Published("2024-AAAI-HPT", "HPT", "HPT/b2n", {**prec("HPT"), "DATASET.GPT_DIR": "data/gpt_data"}),
    "ProText": Published(
        "ProText",
        "ProText",
        "ProText/text_only_supervised/oxford_pets",
        prec("PROTEXT"),
        vision=(
            "prompt_learner.clip_model_zs.visual",
            "prompt_learner.clip_model_zs.visual.transformer",
            "prompt_learner.clip_model_zs.visual.ln_pre",
        ),
        dassl="ProText/Dassl.pytorch",
    ),
    "PromptKD": Published(
        "PromptKD",
        "PromptKD",
        "PromptKD/vit_b16_c2_ep20_batch8_4+4ctx",
        {**prec("PROMPTKD"), "TRAINER.PROMPTKD.TEACHER_NAME": "ViT-L/14"},
        text=None,
        dassl="PromptKD/Dassl.pytorch",
    ),
    "R-AMT": Published(
        "R-AMT/code",
        "MaskTuning",
        "MASK/vit_b16",
        prec("COCOOP"),
        text=None,
        text_clip=1,
        dassl="R-AMT/code/Dassl.pytorch",
    ),
    "MMRL": Published(
        "MMRL", "MMRL", "MMRL/vit_b16", {**prec("MMRL"), "TASK": "B2N", "TRAINER.MMRL.REP_LAYERS": "[3, 4, 5, 6]"}
    ),
    "TextRefiner": Published("TextRefiner", "TextRefiner", "TextRefiner/vit_b16_ep10_ctxv1", prec("COOP")),
    "CCPL": Published("CCPL", "CCPL", "", prec("CCPL")),
    "MMA": Published(
        "VLM-MultiModalAdapter",
        "MultiModalAdapter",
        "MultiModalAdapter/vit_b16_ep5",
        {**prec("MMADAPTER"), "TRAINER.MMADAPTER.ADAPTER_START": 3, "TRAINER.MMADAPTER.ADAPTER_END": 6},
        rerun=("vision", "text"),
    ),
    # Five more, and the hosts of MaPLe's and PromptSRC's repositories
    "AAPL": Published(
        "AAPL", "AAPL", "AAPL/vit_b16_c4_ep10_batch1_ctxv1", {**prec("AAPL"), "DATALOADER.TRAIN_X.BATCH_SIZE": 1}
    ),
    "ALVLM": Published(
        "active-prompt-learning", "ALVLM", "ALVLM/vit_b16", {**prec("COOP"), "TRAINER.COOPAL.METHOD": "random"}
    ),
    "SubPT": Published(
        "Subspace-Prompt-Learning/CoOp",
        "CoOp_nfl",
        "CoOp/vit_b16",
        prec("COOP"),
        dassl="Subspace-Prompt-Learning/Dassl.pytorch",
    ),
    "MMRL++": Published(
        "MMRL",
        "MMRLpp",
        "MMRLpp/vit_b16",
        {**prec("MMRLpp"), "TASK": "B2N", "TRAINER.MMRLpp.REP_LAYERS": "[3, 4, 5, 6]"},
    ),
    "CoOp_AnchorOPT": Published(
        "ATPrompt",
        "CoOp_AnchorOPT",
        "",
        {**prec("COOP"), **COOP, "TRAINER.ANCHOROPT.USE_ANCHOROPT": True},
        dassl="ATPrompt/Dassl.pytorch",
    ),
    "IVLP": Published("multimodal-prompt-learning", "IVLP", "IVLP/vit_b16_c2_ep5_batch4_2+2ctx", prec("IVLP")),
    "VPT": Published(
        "multimodal-prompt-learning", "VPT", "VPT/vit_b16_c2_ep5_batch4_4", prec("VPT"), text=None, text_clip=0
    ),
    "PromptSRC": Published("PromptSRC", "PromptSRC", "PromptSRC/vit_b16_c2_ep20_batch4_4+4ctx", prec("PROMPTSRC")),
}


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
    if name == "PromptKD":
        (copy / "clip" / "ViT-B-16.pt").symlink_to(work / f"{host.clip}.pt")
        (copy / "clip" / "ViT-L-14.pt").symlink_to(work / "teacher.pt")
        save_teacher_of_promptkd(copy / "teacher_model" / "OxfordPets" / "VLPromptLearner")
    return copy


def save_teacher_of_promptkd(folder: Path) -> None:
    """A checkpoint of PromptKD's teacher, which its authors offer for download; it is loaded with strict=False."""
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
    paths = [str(work / "packages"), str(source / host.dassl)]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HOME": str(work), "PYTHONWARNINGS": "ignore"}


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
    evaluated = start(host, copy, source, work, [*flags, *line, *checkpoint])
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
    done = start(host, copy, source, work, line)
    found = {"phase 1": (folder / "boosting.safetensors").exists() and done.returncode == 0}
    return found if found["phase 1"] else {**found, "error": (done.stdout + done.stderr)[-1500:]}


def start(host: Published, copy: Path, source: Path, work: Path, line: list[str]) -> subprocess.CompletedProcess:
    """Run the checkout's train.py."""
    command = [sys.executable, str(HERE / "drive.py"), "train.py", *line]
    return subprocess.run(
        command, cwd=copy, env=environment(host, source, work), capture_output=True, text=True, timeout=1800
    )


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
            answer(ran.get("trained") and ran.get("kept")),
            answer(ran.get("evaluated")) + f" ({' / '.join(ran.get('accuracy', []))} %)",
            f"{deep['logits']:.1e}",
            f"{shallow['logits']:.1e} ({shallow['effect']:.2g})",
            f"{deep['gradients']:.1e}",
            f"{shallow['gradients']:.1e}",
            answer(all(each["same parameters"] for each in both)),
            "texts while built" if isinstance(deep["removed"], str) else answer(all(each["removed"] for each in both)),
            answer(result.get("empty")),
            answer("as rows" in shallow["how"]),
            answer(boosted.get("phase 1")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def read(path: Path) -> dict:
    """Results in a file, none if the file does not exist."""
    return json.loads(path.read_text()) if path.exists() else {}


def answer(value) -> str:
    """A truth value for the table."""
    return "yes" if value else "no"


def measure(name: str, host: Published, source: Path, work: Path, copy: Path) -> dict:
    """All measurements of a host."""
    text = host.text is not None or host.text_clip is not None
    doors = {kind: paths for kind, paths in (("vision", host.vision), ("text", host.text)) if paths}
    job = {
        "arguments": arguments(host, copy, work, work / "runs" / name / "probe"),
        "prompts": save_prompts(work, host, text),
        "doors": doors,
        "rerun": host.rerun,
        "text_clip": host.text_clip,
    }
    if not text:
        job["rejected"] = save_prompts(work, host, True)[str(LAYERS)]
    path = work / "jobs" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(job))
    result = path.with_suffix(".result.json")
    result.unlink(missing_ok=True)
    command = [sys.executable, str(HERE / "probe.py"), str(path)]
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
        "--steps", default="measure,run,phase1", help="measure, run (train.py and its evaluation), phase1"
    )
    args = parser.parse_args()
    source = Path(os.environ["CASPL_INTEROP"])
    args.out.mkdir(parents=True, exist_ok=True)
    save_inputs(args.out)
    for name in args.names or PUBLISHED:
        host = PUBLISHED[name]
        copy = prepare(name, host, source, args.out)
        if "measure" in args.steps:
            report(name, measure(name, host, source, args.out, copy))
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
