"""The training of one small CLIP: captioned pictures of the source domain, CLIP's contrastive loss, AdamW."""

import math
import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from captions import COLOURS, FILLER, FILLS, SHAPES, TEMPLATES, caption, scenes
from clip.clip import tokenize
from clip.model import CLIP
from tqdm import tqdm

from datasets import render

MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(3, 1, 1)
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(3, 1, 1)
INPUT, PATCH, CONTEXT, WORDS = 48, 8, 77, 49408


@dataclass(frozen=True)
class Stage:
    """A part of a training, with a learning rate that rises and falls."""

    domain: render.Domain
    steps: int
    rate: float


@dataclass(frozen=True)
class Recipe:
    """One model: its sizes and its training."""

    width: int
    vision_layers: int
    text_layers: int
    left_out: frozenset
    stages: tuple[Stage, ...]
    batch: int = 64
    pool: int = 24_000  # pictures, rendered before each stage and seen several times, cropped differently
    warmup: int = 100
    decay: float = 0.05
    lead_in: float = 0.15  # share of the batches whose captions stand behind up to 20 other words


# ---------------------------------------- pictures


def _draw(job):
    scene, domain, seed = job
    return render.draw(*scene, domain, seed)


def render_pool(world, domain, count, seed, processes):
    """`count` pictures (uint8, N x 3 x 64 x 64) of the scenes of `world` in turn, and the scenes' indices.

    Args:
        seed: two numbers, to which each picture adds its own.
    """
    index = np.arange(count) % len(world)
    jobs = [(world[i], domain, (*seed, n)) for n, i in enumerate(index)]
    with ProcessPoolExecutor(processes) as pool:
        drawn = pool.map(_draw, jobs, chunksize=100)
        pictures = np.stack(list(tqdm(drawn, total=count, desc="Rendering", unit=" pictures", mininterval=2)))
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(index)


def prepare(pictures):
    """uint8 pictures to a model's input: bicubic resizing and CLIP's normalisation, as in evaluation."""
    small = F.interpolate(pictures.float() / 255, size=INPUT, mode="bicubic", antialias=True).clamp(0, 1)
    return (small - MEAN) / STD


def crops(pictures, generator):
    """Random crops (88 to 100 % of the side), mirrored half of the time, as model input."""
    side = int(torch.randint(56, 65, (), generator=generator))
    corners = torch.randint(0, 65 - side, (len(pictures), 2), generator=generator).tolist()
    mirrored = torch.rand(len(pictures), generator=generator) < 0.5
    cropped = torch.stack([p[:, t : t + side, u : u + side] for p, (t, u) in zip(pictures, corners, strict=True)])
    return prepare(torch.where(mirrored.view(-1, 1, 1, 1), cropped.flip(-1), cropped))


# ---------------------------------------- words


class Vocabulary:
    """The tokens that captions use, numbered without gaps, so that only their embeddings are trained."""

    def __init__(self):
        phrases = (*COLOURS, *FILLS, *SHAPES, "shape in")
        self.used = tokenize([t.format(phrase) for t in TEMPLATES for phrase in phrases]).unique()  # sorted:
        self.number = torch.full((WORDS,), -1)  # the end of text stays the highest number, as `CLIP` needs it
        self.number[self.used] = torch.arange(len(self.used))

    def __call__(self, lines):
        """Token numbers, cut to the longest line."""
        tokens = tokenize(lines)
        numbers = self.number[tokens[:, : int(tokens.argmax(1).max()) + 1]]
        if (numbers < 0).any():
            raise KeyError(f"a caption has a word that is not in the vocabulary: {lines}")
        return numbers


def encode_text(model, tokens):
    """`CLIP.encode_text` on lines that are not padded to the full context: the same features in less time."""
    length = tokens.shape[1]
    mask = model.build_attention_mask()[:length, :length]
    x = (model.token_embedding(tokens) + model.positional_embedding[:length]).permute(1, 0, 2)
    for block in model.transformer.resblocks:
        block.attn_mask = mask
        x = block(x)
    x = model.ln_final(x).permute(1, 0, 2)
    return x[torch.arange(len(x)), tokens.argmax(-1)] @ model.text_projection


# ---------------------------------------- training


def truth(shown, said):
    """Which captions are true of which pictures: (pictures, captions), bool."""
    shown, said = np.array(shown)[:, None], np.array(said)[None]
    return torch.from_numpy(((said == "") | (said == shown)).all(-1))


def contrastive_loss(logits, true):
    """CLIP's loss where several captions may be true of a picture; both are (pictures, captions)."""
    target = true.float()
    by_picture = -(F.log_softmax(logits, 1) * target).sum(1) / target.sum(1)
    by_caption = -(F.log_softmax(logits, 0) * target).sum(0) / target.sum(0)
    return (by_picture.mean() + by_caption.mean()) / 2


def new_model(recipe, vocabulary):
    """A stock CLIP with random weights and a small vocabulary."""
    return CLIP(
        embed_dim=recipe.width,
        image_resolution=INPUT,
        vision_layers=recipe.vision_layers,
        vision_width=recipe.width,
        vision_patch_size=PATCH,
        context_length=CONTEXT,
        vocab_size=len(vocabulary.used),
        transformer_width=recipe.width,
        transformer_heads=recipe.width // 64,
        transformer_layers=recipe.text_layers,
    )


def batches(recipe, number, seed, processes):
    """Endless batches for a stage: images (model input), captions, which caption is true of which image."""
    world, domain = scenes(recipe.left_out), recipe.stages[number].domain
    pictures, index = render_pool(world, domain, recipe.pool, (seed, 77 + number), processes)
    seed += 100 * number
    generator, rng = torch.Generator().manual_seed(seed + 1), random.Random(seed)
    while True:
        for chosen in torch.randperm(len(pictures), generator=generator).split(recipe.batch):
            shown = [world[i] for i in index[chosen].tolist()]
            lines, said = zip(*(caption(scene, rng) for scene in shown), strict=True)
            if rng.random() < recipe.lead_in:
                lead = " ".join(rng.choices(FILLER, k=rng.randint(1, 20)))
                lines = [f"{lead} {line}" for line in lines]
            yield crops(pictures[chosen], generator), lines, truth(shown, said)


def train(name, recipe, seed, processes):
    """Train one model from nothing.

    Returns:
        The model, whose token embedding has rows for the tokens `Vocabulary().used` only, and these tokens.
    """
    torch.manual_seed(seed)
    vocabulary = Vocabulary()
    model = new_model(recipe, vocabulary)
    for number, stage in enumerate(recipe.stages):
        stream = batches(recipe, number, seed, processes)
        run_stage(model, vocabulary, recipe, stage, stream, f"Training the {name}")
    return model, vocabulary.used


def run_stage(model, vocabulary, recipe, stage, stream, title):
    """Train a model for the steps of one stage."""
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=recipe.decay)
    rise = min(recipe.warmup / stage.steps, 0.5)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, stage.rate, stage.steps, pct_start=rise, cycle_momentum=False
    )
    bar = tqdm(range(stage.steps), desc=title, unit=" steps", mininterval=2)
    for step in bar:
        images, lines, true = next(stream)
        loss = train_step(model, optimiser, images, vocabulary(lines), true)
        schedule.step()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{loss:.2f}", refresh=False)


def train_step(model, optimiser, images, tokens, true):
    """One step on one batch; returns the loss."""
    image = F.normalize(model.encode_image(images), dim=-1)
    text = F.normalize(encode_text(model, tokens), dim=-1)
    loss = contrastive_loss(model.logit_scale.exp() * image @ text.T, true)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    with torch.no_grad():
        model.logit_scale.clamp_(max=math.log(100))  # as CLIP's paper has it
    return loss.item()
