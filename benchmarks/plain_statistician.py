"""The neural statistician at the layer sizes of its public PyTorch implementations, in plain PyTorch: speed reference.

Convolutions of 64, 128 and 256 channels, three a size, at 28, 14 and 7 pixels a side, with batch normalisation and ELU;
sets of five images; c of 512, one layer of z of 16, dense layers of 256; float32, contiguous. It imports nothing of
fsgen.
Source: Edwards & Storkey (2017), "Towards a neural statistician", arXiv:1606.02185, the Omniglot experiment.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS, DIM_C, DIM_Z, HIDDEN, SIDE = (64, 128, 256), 512, 16, 256, 4


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 convolution, batch normalisation, ELU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.BatchNorm2d(outputs), nn.ELU())


def up(inputs: int, outputs: int, *, odd: bool) -> nn.Sequential:
    """Twice the size by a transposed convolution, one less where ``odd``."""
    scale = nn.ConvTranspose2d(inputs, outputs, 3, 2, 1) if odd else nn.ConvTranspose2d(inputs, outputs, 2, 2)
    return nn.Sequential(scale, nn.BatchNorm2d(outputs), nn.ELU())


def dense(inputs: int, outputs: int) -> nn.Sequential:
    """Dense layer, batch normalisation, ELU."""
    return nn.Sequential(nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ELU())


class PlainStatistician(nn.Module):
    """The bound on log p(set) of sets of binary images [B, N, 1, 28, 28]."""

    def __init__(self) -> None:
        super().__init__()
        widths, encoder, decoder = (1, *CHANNELS), [], []
        for before, after in zip(widths[:-1], CHANNELS, strict=True):
            encoder += [conv(before, after), conv(after, after), conv(after, after, 2)]  # 28 -> 14 -> 7 -> 4
        for before, after, odd in ((256, 256, True), (256, 128, False), (128, 64, False)):  # 4 -> 7 -> 14 -> 28
            decoder += [conv(before, before), conv(before, before), up(before, after, odd=odd)]
        self.encoder = nn.Sequential(*encoder, nn.Flatten())
        features = CHANNELS[-1] * SIDE * SIDE
        self.instance = dense(features, HIDDEN)
        self.statistic = nn.Sequential(dense(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 2 * DIM_C))
        self.of_image, self.of_context = nn.Linear(features, HIDDEN), nn.Linear(DIM_C, HIDDEN)
        self.posterior = nn.Sequential(dense(HIDDEN, HIDDEN), dense(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 2 * DIM_Z))
        self.prior = nn.Sequential(dense(DIM_C, HIDDEN), dense(HIDDEN, HIDDEN), nn.Linear(HIDDEN, 2 * DIM_Z))
        self.to_map = nn.Sequential(dense(DIM_C + DIM_Z, HIDDEN), nn.Linear(HIDDEN, features))
        self.decoder = nn.Sequential(nn.Unflatten(1, (CHANNELS[-1], SIDE, SIDE)), *decoder, nn.Conv2d(64, 1, 1))

    def bound(self, images: Tensor) -> Tensor:
        """Nats a set, [B]."""
        batch, count = images.shape[:2]
        h = self.encoder(images.flatten(0, 1))
        pooled = self.instance(h).unflatten(0, (batch, count)).mean(1)
        c_loc, c_log_var = self.statistic(pooled).chunk(2, -1)
        c = c_loc + torch.randn_like(c_loc) * (0.5 * c_log_var).exp()
        each = c.repeat_interleave(count, 0)
        loc, log_var = self.posterior(F.elu(self.of_image(h) + self.of_context(each))).chunk(2, -1)
        prior_loc, prior_log_var = self.prior(each).chunk(2, -1)
        z = loc + torch.randn_like(loc) * (0.5 * log_var).exp()
        logits = self.decoder(self.to_map(torch.cat([each, z], -1)))
        nats = -F.binary_cross_entropy_with_logits(logits, images.flatten(0, 1), reduction="none").sum((1, 2, 3))
        kl_z = 0.5 * (prior_log_var - log_var + ((loc - prior_loc).square() + log_var.exp()) / prior_log_var.exp() - 1)
        kl_c = 0.5 * (c_loc.square() + c_log_var.exp() - c_log_var - 1).sum(-1)
        return (nats - kl_z.sum(-1)).unflatten(0, (batch, count)).sum(1) - kl_c
