"""Published PromptSRC checkpoints, among them PromptKD's teachers, as finished runs of this package."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..backbones import load_clip, projections, tokenizer_of
from ..config import ConfigError, keep_config
from ..engine import clip_sizes, special_tokens
from ..engine.blocks import StockModule
from ..experiments.places import CONFIGS, trainer_file
from ..experiments.setup import assemble
from ..hosts.promptsrc import IndependentPrompts, PromptSRC
from ..method.prompt_file import CheckpointError
from ..method.published import BOOSTING, PROMPTSRC, read_state, stacked_prompts
from ..training import provenance
from ..training.checkpoints import write_checkpoint
from ..training.learned_file import LEARNED, save_learned

logger = logging.getLogger(__name__)

# The published training sums float16 copies of all weights over the epochs, the frozen ones included.
_ROUNDING = 2e-2, 2e-4  # relative, absolute
_INITIAL_WORDS = 4  # "a photo of a"
_SUFFIX = "prompt_learner.token_suffix"


def import_run(
    source: str | Path, folder: str | Path, dataset: str, classes: str, backbone: str, names: Sequence[str] = ()
) -> Path:
    """Write a published PromptSRC checkpoint as a finished run.

    Nothing pickled in it is executed.

    Only the prompts are taken from the checkpoint, and CLIP's weights from the backbone.

    Args:
        source: `model.pth.tar-<epoch>` or `model-best.pth.tar`, or its folder, or the folder above.
        folder: a new folder for the run.
        dataset: name of a file in configs/datasets, the data that it was trained on.
        classes: "all" or "base", the classes that it was trained on.
        backbone: the CLIP that it was trained around.
        names: the class names; empty: as the checkpoint holds them, in lower case.

    Returns:
        The run's folder.

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        RestrictedReadError: it is damaged or of another format.
        CheckpointError: it has no such prompts, was trained around another CLIP, or does not hold its class names.
        ConfigError: the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists; expected a new folder for the run. Give another one")
    path, state, epoch = read_state(source, PROMPTSRC)
    if BOOSTING.text in state:
        raise CheckpointError(
            f"{path}: has a {BOOSTING.what} too, as CasPL's published phase 2; expected PromptSRC alone. A cascaded run "
            "cannot be imported"
        )
    group, clip_model = stacked_prompts(path, state, PROMPTSRC), load_clip(backbone)
    _check_clip(path, state, clip_model, backbone)
    options = _options(group.text, group.vision, clip_model, backbone, folder, epoch)
    files = [CONFIGS / "datasets" / f"{dataset}.yaml", trainer_file("PromptSRC", "vit_b16")]
    cfg = assemble(files, [*options, "DATASET.SUBSAMPLE_CLASSES", classes])
    learner = IndependentPrompts(group.text, group.vision)
    learner.text_sum.copy_(group.text)  # the published file has the average of the epochs
    learner.vision_sum.copy_(group.vision)
    found = _checked(names, path, state) or class_names(path, state, clip_model, group.text.shape[1])
    content = {"state_dict": learner.state_dict(), "epoch": epoch, "optimizer": None, "scheduler": None}
    write_checkpoint(folder / PromptSRC.learner_name, content)
    save_learned(learner.state_dict(), folder / LEARNED)
    provenance.keep(folder, [provenance.item("adapting", cfg.DATASET.NAME, 0, True, classes, found)])
    keep_config(cfg, folder / "config.yaml")
    logger.info("Imported %s as a run of PromptSRC with %d classes in %s", path, len(found), folder)
    return folder


def _options(
    text: Tensor, vision: Tensor, clip_model: StockModule, backbone: str, folder: Path, epoch: int
) -> list[object]:
    """Return the KEY VALUE pairs of the run."""
    size = clip_sizes(clip_model).image
    return [
        *("TRAINER.NAME", "PromptSRC", "MODEL.BACKBONE.NAME", backbone, "OUTPUT_DIR", str(folder)),
        *("INPUT.SIZE", f"({size}, {size})", "OPTIM.MAX_EPOCH", max(epoch, 1), "DATASET.NUM_SHOTS", 16),
        *("TRAINER.PROMPTSRC.PROMPT_DEPTH_TEXT", text.shape[0], "TRAINER.PROMPTSRC.N_CTX_TEXT", text.shape[1]),
        *("TRAINER.PROMPTSRC.PROMPT_DEPTH_VISION", vision.shape[0], "TRAINER.PROMPTSRC.N_CTX_VISION", vision.shape[1]),
    ]


def _check_clip(path: Path, state: Mapping, clip_model: StockModule, backbone: str) -> None:
    """Check that a checkpoint's prompts and projections fit a CLIP.

    Raises:
        CheckpointError: they do not.
    """
    sizes = clip_sizes(clip_model)
    widths = {"text": sizes.text_width, "vision": sizes.vision_width}
    found = {"text": state[PROMPTSRC.text].shape[-1], "vision": state[PROMPTSRC.vision].shape[-1]}
    if len(state[PROMPTSRC.text]) < _INITIAL_WORDS:
        raise CheckpointError(
            f"{path}: {len(state[PROMPTSRC.text])} text tokens; expected {_INITIAL_WORDS} or more. With fewer, words that the "
            "checkpoint does not record stay fixed"
        )
    if found != widths:
        raise CheckpointError(
            f"{path}: prompts of width {found['text']} (text) and {found['vision']} (vision); expected {widths['text']} and "
            f"{widths['vision']} for the backbone {backbone}. Give the backbone that it was trained around"
        )
    ours = projections(clip_model.visual, clip_model)
    for key, weights in zip(("image_encoder.proj", "text_encoder.text_projection"), ours, strict=True):
        kept = state.get(key)
        if isinstance(kept, Tensor) and not _close(kept, weights):
            raise CheckpointError(
                f"{path}: {key} has other values than the backbone {backbone}; expected the backbone that it was trained "
                "around"
            )


def _close(kept: Tensor, weights: Tensor) -> bool:
    return kept.shape == weights.shape and torch.allclose(kept.float(), weights.float(), *_ROUNDING)


def _checked(names: Sequence[str], path: Path, state: Mapping) -> list[str]:
    """Return given class names, if they are as many as a checkpoint has.

    Raises:
        CheckpointError: they are not.
    """
    rows = state.get(_SUFFIX)
    if names and isinstance(rows, Tensor) and rows.dim() == 3 and len(rows) != len(names):
        raise CheckpointError(
            f"{path}: trained on {len(rows)} classes, but {len(names)} names are given; expected as many"
        )
    return list(names)


def class_names(path: Path, state: Mapping, clip_model: StockModule, n_ctx: int) -> list[str]:
    """Return the class names whose token embeddings a checkpoint holds.

    They are as CLIP's tokenizer reads them.

    Args:
        path: the checkpoint, for messages.
        state: its state dict.
        clip_model: the CLIP that it was trained around.
        n_ctx: number of its text tokens.

    Raises:
        CheckpointError: it does not hold them, or they are not the embeddings of "<name>." and EOT.
    """
    rows = state.get(_SUFFIX)
    table, (_, eot) = clip_model.token_embedding.weight, special_tokens(clip_model)
    wanted = (len(clip_model.positional_embedding) - 1 - n_ctx, table.shape[1])
    if not isinstance(rows, Tensor) or rows.dim() != 3 or rows.shape[1:] != wanted or not len(rows):
        raise CheckpointError(f"{path}: does not hold its class names. Give --names FILE, with one name per line")
    tokens: list[list[int]] = [[] for _ in rows]
    unfinished = list(range(len(rows)))
    for position in range(rows.shape[1]):
        nearest = _nearest(rows[unfinished, position].float(), table)
        for index, token in zip(unfinished, nearest, strict=True):
            tokens[index].append(token)
        unfinished = [index for index in unfinished if tokens[index][-1] != eot]
        if not unfinished:
            break
    stop = tokenizer_of(clip_model).encode(".")
    if unfinished or any(each[-2:-1] != stop or len(each) < 3 for each in tokens):
        raise CheckpointError(
            f"{path}: its token_suffix is not of texts that end in a full stop. Give --names FILE, with one name per line"
        )
    return [tokenizer_of(clip_model).decode(each[:-2]).strip() for each in tokens]


def _nearest(rows: Tensor, table: Tensor) -> list[int]:
    """Return the index of the row of a table (V, d) that is nearest to each of (N, d) rows."""
    return (table.square().sum(dim=1) - 2 * rows @ table.t()).argmin(dim=1).tolist()
