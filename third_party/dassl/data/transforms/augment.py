"""The transforms that torchvision does not have, drawing random numbers as Dassl's do."""

import random

import numpy as np
import torch
import torchvision.transforms.functional as F
from torchvision.transforms import InterpolationMode


class _Step:
    """A transform that shows its settings in the log."""

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in vars(self).items())})"


class Random2DTranslation(_Step):
    """Resize to (height, width), or, with probability `p`, to 9/8 of it and crop that size at random."""

    def __init__(self, height, width, p=0.5, interpolation=InterpolationMode.BILINEAR):
        self.height = height
        self.width = width
        self.p = p
        self.interpolation = interpolation

    def __call__(self, img):
        if random.uniform(0, 1) > self.p:
            return F.resize(img, [self.height, self.width], interpolation=self.interpolation)
        height, width = round(self.height * 1.125), round(self.width * 1.125)
        img = F.resize(img, [height, width], interpolation=self.interpolation)
        left = round(random.uniform(0, width - self.width))
        top = round(random.uniform(0, height - self.height))
        return F.crop(img, top, left, self.height, self.width)


class InstanceNormalization(_Step):
    """Give each channel of a tensor (C, H, W) mean 0 and standard deviation 1."""

    def __init__(self, eps=1e-8):
        self.eps = eps

    def __call__(self, img):
        flat = img.flatten(1)
        mean, std = flat.mean(1).view(-1, 1, 1), flat.std(1).view(-1, 1, 1)
        return (img - mean) / (std + self.eps)


class Cutout(_Step):
    """Set `n_holes` random squares of `length` pixels, clipped at the border, to 0 in a tensor (C, H, W).

    DeVries and Taylor, arXiv 1708.04552.
    """

    def __init__(self, n_holes=1, length=16):
        self.n_holes = n_holes
        self.length = length

    def __call__(self, img):
        mask = torch.ones(img.shape[1:])
        for _ in range(self.n_holes):
            y, x = (np.random.randint(size) for size in mask.shape)
            half = self.length // 2
            mask[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = 0.0
        return img * mask


class GaussianNoise(_Step):
    """Add noise with probability `p` to a tensor."""

    def __init__(self, mean=0, std=0.15, p=0.5):
        self.mean = mean
        self.std = std
        self.p = p

    def __call__(self, img):
        if random.uniform(0, 1) > self.p:
            return img
        return img + (torch.randn(img.size()) * self.std + self.mean)
