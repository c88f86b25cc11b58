"""The toolbox's own CoOp: one learned context in front of all class names."""

import clip
import torch
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from torch import nn
from torch.nn import functional as F


class TextEncoder(nn.Module):
    """CLIP's text tower, for embedded tokens."""

    def __init__(self, clip_model):
        super().__init__()
        self.transformer, self.ln_final = clip_model.transformer, clip_model.ln_final
        self.positional_embedding, self.text_projection = clip_model.positional_embedding, clip_model.text_projection

    def forward(self, embedded, tokens):
        x = (embedded + self.positional_embedding).permute(1, 0, 2)
        x = self.ln_final(self.transformer(x).permute(1, 0, 2))
        return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ self.text_projection


class CustomCLIP(nn.Module):
    """CLIP with a learned context."""

    def __init__(self, clip_model, names, n_ctx):
        super().__init__()
        self.tokens = torch.cat([clip.tokenize(f"{'X ' * n_ctx}{name}.") for name in names])
        with torch.no_grad():
            self.register_buffer("embedded", clip_model.token_embedding(self.tokens), persistent=False)
        self.ctx = nn.Parameter(torch.randn(n_ctx, self.embedded.shape[-1]) * 0.02)
        self.image_encoder, self.text_encoder = clip_model.visual, TextEncoder(clip_model)
        self.logit_scale = clip_model.logit_scale

    def forward(self, image):
        start, end = self.embedded[:, :1], self.embedded[:, 1 + len(self.ctx) :]
        embedded = torch.cat([start, self.ctx.expand(len(start), -1, -1), end], dim=1)
        text = F.normalize(self.text_encoder(embedded, self.tokens), dim=-1)
        return self.logit_scale.exp() * F.normalize(self.image_encoder(image), dim=-1) @ text.t()


@TRAINER_REGISTRY.register()
class CoOp(TrainerX):
    """Trains the context by the cross entropy of the labelled images."""

    def build_model(self):
        cfg, names = self.cfg, self.dm.dataset.classnames
        weights = torch.load(cfg.MODEL.BACKBONE.NAME, map_location="cpu", weights_only=True)
        clip_model = clip.model.build_model(weights).float()
        self.model = CustomCLIP(clip_model, [name.replace("_", " ") for name in names], cfg.TRAINER.COOP.N_CTX)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name == "ctx")
        self.optim = build_optimizer([self.model.ctx], cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)
