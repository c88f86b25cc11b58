"""Train one small CLIP: captioned images, CLIP's contrastive loss, AdamW."""

import math
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from clip.clip import tokenize
from clip.model import CLIP
from tqdm import tqdm

from datasets.shapes import rendering
from trainers.storage.tensors import read_weights

from . import extra_tokens
from .captions import COLOURS, FILLER, FILLS, SHAPES, TEMPLATES, Scene, caption, scenes

MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
INPUT, PATCH, CONTEXT, WORDS = 48, 8, 77, 49408


@dataclass(frozen=True)
class Stage:
    """A stage of training with its own one-cycle learning rate.

    Attributes:
        domain: of its images.
        steps: number of batches.
        rate: the highest learning rate.
        tokens: fraction of the batches whose image sequences contain random tokens (`extra_tokens`).
    """

    domain: rendering.Domain
    steps: int
    rate: float
    tokens: float = 0.0


@dataclass(frozen=True)
class ClipSpec:
    """Sizes and training stages of one small CLIP.

    Attributes:
        start: a file that training starts from; None: random weights.
        seed: of the shipped model.
    """

    width: int
    vision_layers: int
    text_layers: int
    left_out: frozenset[tuple[str, str]]
    stages: tuple[Stage, ...]
    batch: int = 64
    pool: int = 24_000  # images, rendered before each stage and used several times in different crops
    warmup: int = 100
    decay: float = 0.05
    lead_in: float = 0.15  # fraction of the batches whose captions follow up to 20 other words
    start: Path | None = None
    seed: int = 1


# ---------------------------------------- images


def _render(job: tuple[Scene, rendering.Domain, tuple[int, ...]]) -> np.ndarray:
    scene, domain, seed = job
    return rendering.render(*scene, domain, seed)


def render_pool(
    world: Sequence[Scene], domain: rendering.Domain, count: int, seed: tuple[int, int], processes: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Render images of the scenes of `world` in turn.

    Args:
        world: the scenes.
        domain: the nuisance factors.
        count: number of images.
        seed: two numbers, followed by each image's own.
        processes: number of worker processes.
    Returns:
        uint8 images (count, 3, 64, 64), and the index of each image's scene (count,).
    """
    index = np.arange(count) % len(world)
    jobs = [(world[i], domain, (*seed, n)) for n, i in enumerate(index.tolist())]
    with ProcessPoolExecutor(processes) as pool:
        rendered = pool.map(_render, jobs, chunksize=100)
        images = np.stack(list(tqdm(rendered, total=count, desc="Rendering", unit=" images", mininterval=2)))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(index)


def prepare(images: torch.Tensor) -> torch.Tensor:
    """Convert uint8 images (n, 3, h, w) to model input (n, 3, 48, 48): bicubic resizing, CLIP's normalisation."""
    small = F.interpolate(images.float() / 255, size=INPUT, mode="bicubic", antialias=True).clamp(0, 1)
    return (small - MEAN) / STD


def crops(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return random crops (88 to 100 % of the side), mirrored with probability 0.5, as model input."""
    side = int(torch.randint(56, 65, (), generator=generator))
    corners = torch.randint(0, 65 - side, (len(images), 2), generator=generator).tolist()
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    cropped = torch.stack([p[:, t : t + side, u : u + side] for p, (t, u) in zip(images, corners, strict=True)])
    return prepare(torch.where(mirrored.view(-1, 1, 1, 1), cropped.flip(-1), cropped))


# ---------------------------------------- words


class Vocabulary:
    """The tokens that captions use, renumbered without gaps, so that only their embeddings are trained."""

    def __init__(self) -> None:
        phrases = (*COLOURS, *FILLS, *SHAPES, "shape in")
        self.used = tokenize([t.format(phrase) for t in TEMPLATES for phrase in phrases]).unique()  # sorted:
        self.number = torch.full((WORDS,), -1)  # the end of text stays the highest number, as `CLIP` needs it
        self.number[self.used] = torch.arange(len(self.used))

    def __call__(self, lines: Sequence[str]) -> torch.Tensor:
        """Return token numbers (n, length), truncated to the longest line.

        Raises:
            KeyError: a line contains an unknown token.
        """
        tokens = tokenize(list(lines))
        numbers = self.number[tokens[:, : int(tokens.argmax(1).max()) + 1]]
        if (numbers < 0).any():
            raise KeyError(f"captions: a word is not in the vocabulary: {lines}")
        return numbers


def encode_text(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Encode tokens (n, length <= 77) to features (n, width), equal to `CLIP.encode_text` on padded tokens."""
    length = tokens.shape[1]
    mask = model.build_attention_mask()[:length, :length]
    x = (model.token_embedding(tokens) + model.positional_embedding[:length]).permute(1, 0, 2)
    for block in model.transformer.resblocks:
        block.attn_mask = mask
        x = block(x)
    x = model.ln_final(x).permute(1, 0, 2)
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


# ---------------------------------------- training


def truth(shown: Sequence[Scene], mentioned: Sequence[Scene]) -> torch.Tensor:
    """Return which captions are true of which images: bool (images, captions)."""
    attributes, claims = np.array(shown)[:, None], np.array(mentioned)[None]
    return torch.from_numpy(((claims == "") | (claims == attributes)).all(-1))


def contrastive_loss(logits: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """Compute CLIP's loss if several captions may be true of an image; both inputs are (images, captions)."""
    target = true.float()
    by_image = -(F.log_softmax(logits, 1) * target).sum(1) / target.sum(1)
    by_caption = -(F.log_softmax(logits, 0) * target).sum(0) / target.sum(0)
    return (by_image.mean() + by_caption.mean()) / 2


def new_model(spec: ClipSpec, vocabulary: Vocabulary) -> CLIP:
    """Return a stock CLIP with random weights and a small vocabulary."""
    return CLIP(
        embed_dim=spec.width,
        image_resolution=INPUT,
        vision_layers=spec.vision_layers,
        vision_width=spec.width,
        vision_patch_size=PATCH,
        context_length=CONTEXT,
        vocab_size=len(vocabulary.used),
        transformer_width=spec.width,
        transformer_heads=spec.width // 64,
        transformer_layers=spec.text_layers,
    )


def batches(
    spec: ClipSpec, number: int, seed: int, processes: int
) -> Iterator[tuple[torch.Tensor, Sequence[str], torch.Tensor]]:
    """Yield endless batches of stage `number`: images (model input), captions, `truth` of both."""
    world, domain = scenes(spec.left_out), spec.stages[number].domain
    images, index = render_pool(world, domain, spec.pool, (seed, 77 + number), processes)
    seed += 100 * number
    generator, rng = torch.Generator().manual_seed(seed + 1), random.Random(seed)
    while True:
        for chosen in torch.randperm(len(images), generator=generator).split(spec.batch):
            shown = [world[i] for i in index[chosen].tolist()]
            lines, mentioned = zip(*(caption(scene, rng) for scene in shown), strict=True)
            if rng.random() < spec.lead_in:
                lead = " ".join(rng.choices(FILLER, k=rng.randint(1, 20)))
                lines = tuple(f"{lead} {line}" for line in lines)
            yield crops(images[chosen], generator), lines, truth(shown, mentioned)


def train(name: str, spec: ClipSpec, seed: int, processes: int) -> tuple[CLIP, torch.Tensor]:
    """Train one model.

    Args:
        name: for the progress bar.
        spec: sizes and stages.
        seed: of weights, images and captions.
        processes: number of processes that render.
    Returns:
        the model, whose token embedding has a row per token of `Vocabulary().used`, and these tokens.
    """
    torch.manual_seed(seed)
    vocabulary = Vocabulary()
    model = new_model(spec, vocabulary)
    if spec.start:
        load(model, vocabulary, spec.start)
    for number, stage in enumerate(spec.stages):
        stream = batches(spec, number, seed, processes)
        run_stage(model, vocabulary, spec, stage, stream, f"Training the {name}")
    return model, vocabulary.used


def load(model: CLIP, vocabulary: Vocabulary, path: Path) -> None:
    """Load the weights of a file of `train_clips.save`."""
    state = {name: value.float() for name, value in read_weights(path)[0].items()}
    state["token_embedding.weight"] = state["token_embedding.weight"][vocabulary.used]
    model.load_state_dict(state)


def run_stage(model: CLIP, vocabulary: Vocabulary, spec: ClipSpec, stage: Stage, stream: Iterator, title: str) -> None:
    """Train a model for the steps of one stage on batches of `stream`."""
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=spec.decay)
    rise = min(spec.warmup / stage.steps, 0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, stage.rate, stage.steps, pct_start=rise, cycle_momentum=False
    )
    generator = torch.Generator().manual_seed(extra_tokens.SEED)
    bar = tqdm(range(stage.steps), desc=title, unit=" steps", mininterval=2)
    for step in bar:
        images, lines, true = next(stream)
        if torch.rand((), generator=generator) < stage.tokens:
            features = extra_tokens.encode_image(model.visual, images, generator)
        else:
            features = model.encode_image(images)
        loss = train_step(model, optimiser, features, vocabulary(lines), true)
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss:.2f}", refresh=False)


def train_step(
    model: CLIP, optimiser: torch.optim.Optimizer, features: torch.Tensor, tokens: torch.Tensor, true: torch.Tensor
) -> float:
    """Train on one batch, given its image features; return the loss."""
    image = F.normalize(features, dim=-1)
    text = F.normalize(encode_text(model, tokens), dim=-1)
    loss = contrastive_loss(model.logit_scale.exp() * image @ text.T, true)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))  # as in CLIP's paper
    return loss.item()
