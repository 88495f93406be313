"""The generative matching network as published, in plain PyTorch: speed reference and second opinion.

Literal, not fast: Python loops over images and attention steps, fp32, contiguous. It imports nothing of fsgen.
Source: Bartunov & Vetrov (2018), Few-shot Generative Modelling with Generative Matching Networks, arXiv:1612.02192.

Parameter layout. Weight-normalised modules (marked WN) hold ``bias``, ``parametrizations.weight.original0`` (length,
one per output channel) and ``.original1`` (direction); assigning to ``module.weight`` sets both. Linear weights are
[out, in], inputs concatenated in the order written; feature maps are flattened channel first, [32, 3, 3] -> 288.

    features.{0,1,2}, decoder.up.{0,1,2}   sections 1->16->32->32 and 32->32->16->8; each section holds
        .conv, .prelu                        Conv2d [out, in, k, k] (ConvTranspose2d [in, out, k, k] in ``decoder.up``)
        .blocks.{0,1}.conv (WN), .prelu      residual blocks [out, out, k, k]
        .shortcut (WN)                       1x1 convolution [out, in, 1, 1]
    controller, prior.controller           the first shared by recognition and decoder; each holds
        .pseudo_input [288]                  first row of the memory; None when switched off
        .initial_state [200]
        .gates [400, 688]                    rows: 200 of reset, 200 of update; columns: read 288, state 200, state 200
        .candidate [200, 688], .prelu        columns: read 288, state 200, reset * state 200
    recognition, prior, decoder            each holds (nothing when its steps are 0)
        .matching.query (WN), .prelu         [288, 488 | 200 | 250]; columns: state 200, then features 288 | - | z 50
        .matching.strength (WN)              [1, 200]
    recognition.loc, .scale (WN)           [50, 776]; columns: features 288, read 288, state 200
    prior.hidden (WN), .prelu              [200, 488]; columns: read 288, state 200; then .loc, .scale [50, 200]
    decoder.project                        [288, 538]; columns: z 50, read 288, state 200
    decoder.logit                          Conv2d [1, 8, 1, 1], not weight-normalised
"""

import math
import sys
import timeit

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

FEATURES, STATE, LATENT = 288, 200, 50


def prelu(channels: int, bound: float) -> nn.PReLU:
    """PReLU with one slope a channel, drawn from uniform(-bound, bound)."""
    layer = nn.PReLU(channels)
    nn.init.uniform_(layer.weight, -bound, bound)
    return layer


def affine(inputs: int, outputs: int) -> nn.Module:
    """Weight-normalised linear map."""
    return weight_norm(nn.Linear(inputs, outputs), dim=0)


class ResidualBlock(nn.Module):
    """prelu(h + conv(h)); an even kernel is padded by one more row and column at the bottom and right."""

    def __init__(self, filters: int, kernel: int) -> None:
        super().__init__()
        self.conv = weight_norm(nn.Conv2d(filters, filters, kernel), dim=0)
        self.prelu = prelu(filters, 0.01)
        self.padding = ((kernel - 1) // 2, kernel // 2) * 2  # left, right, top, bottom

    def forward(self, h: Tensor) -> Tensor:
        return self.prelu(h + self.conv(F.pad(h, self.padding)))


class Section(nn.Module):
    """Strided (down) or transposed (up) convolution and residual blocks, plus a resized 1x1 shortcut."""

    def __init__(
        self, inputs: int, filters: int, kernel: int, stride: int, block_kernel: int, blocks: int = 2, down: bool = True
    ) -> None:
        super().__init__()
        self.kernel, self.stride, self.down = kernel, stride, down
        self.conv = (nn.Conv2d if down else nn.ConvTranspose2d)(inputs, filters, kernel, stride)
        self.prelu = prelu(filters, 0.01)
        self.blocks = nn.Sequential(*(ResidualBlock(filters, block_kernel) for _ in range(blocks)))
        self.shortcut = weight_norm(nn.Conv2d(inputs, filters, 1), dim=0)

    def forward(self, x: Tensor) -> Tensor:
        h = self.blocks(self.prelu(self.conv(x)))
        shortcut = self.shortcut(x)
        if self.down:
            return F.avg_pool2d(shortcut, self.kernel, self.stride) + h
        return F.interpolate(shortcut, size=h.shape[-2:], mode="bilinear", align_corners=False) + h


class Controller(nn.Module):
    """GRU-like cell with a PReLU candidate, its learned initial state and its pseudo-input."""

    def __init__(self, pseudo_input: bool) -> None:
        super().__init__()
        inputs = FEATURES + STATE + STATE
        self.gates, self.candidate = nn.Linear(inputs, 2 * STATE), nn.Linear(inputs, STATE)
        self.prelu = prelu(STATE, 0.02)
        self.initial_state = nn.Parameter(0.1 * torch.randn(STATE))
        self.pseudo_input = nn.Parameter(0.1 * torch.randn(FEATURES)) if pseudo_input else None

    def memory(self, seen: list[Tensor], batch: int) -> Tensor:
        """[B, M, 288]: the pseudo-input, then the features seen; one row of zeros when there is neither."""
        pseudo = [] if self.pseudo_input is None else [self.pseudo_input.expand(batch, FEATURES)]
        return torch.stack(pseudo + seen or [self.initial_state.new_zeros(batch, FEATURES)], 1)

    def forward(self, read: Tensor, state: Tensor) -> Tensor:
        inputs = torch.cat([read, state], 1)
        reset, update = torch.sigmoid(self.gates(torch.cat([inputs, state], 1))).chunk(2, 1)
        candidate = self.prelu(self.candidate(torch.cat([inputs, reset * state], 1)))
        return update * state + (1 - update) * candidate


class Matching(nn.Module):
    """Attention reads of a memory, each followed by an update of the controller; 0 steps read the mean once."""

    def __init__(self, steps: int, query_features: int) -> None:
        super().__init__()
        self.steps = steps
        if steps:
            self.query = affine(STATE + query_features, FEATURES)
            self.prelu = prelu(FEATURES, 0.02)
            self.strength = affine(STATE, 1)

    def forward(self, controller: Controller, seen: list[Tensor], features: Tensor) -> Tensor:
        """[read, state], [B, 488]; ``features`` [B, F] go into the queries (F = 0 for none)."""
        state = controller.initial_state.expand(len(features), STATE)
        memory = controller.memory(seen, len(features))
        for _ in range(max(self.steps, 1)):
            read = self.attend(memory, state, features) if self.steps else memory.mean(1)
            state = controller(read, state)
        return torch.cat([read, state], 1)

    def attend(self, memory: Tensor, state: Tensor, features: Tensor) -> Tensor:
        query = self.prelu(self.query(torch.cat([state, features], 1)))  # [B, 288]
        cosine = F.cosine_similarity(query[:, None], memory, dim=2)  # [B, M]
        weights = torch.softmax(self.strength(state) * cosine, 1)
        return (weights[:, :, None] * memory).sum(1)


class Recognition(nn.Module):
    """q(z | x_t, X_<t)."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.matching = Matching(steps, FEATURES)
        inputs = FEATURES + FEATURES + STATE
        self.loc, self.scale = affine(inputs, LATENT), affine(inputs, LATENT)

    def forward(self, controller: Controller, target: Tensor, seen: list[Tensor]) -> tuple[Tensor, Tensor]:
        h = torch.cat([target, self.matching(controller, seen, target)], 1)
        return self.loc(h), F.softplus(self.scale(h))


class Prior(nn.Module):
    """p(z | X_<t), with a controller and a pseudo-input of its own."""

    def __init__(self, steps: int, pseudo_input: bool) -> None:
        super().__init__()
        self.controller = Controller(pseudo_input)
        self.matching = Matching(steps, 0)
        self.hidden = affine(FEATURES + STATE, STATE)
        self.prelu = prelu(STATE, 0.02)
        self.loc, self.scale = nn.Linear(STATE, LATENT), nn.Linear(STATE, LATENT)

    def forward(self, seen: list[Tensor], batch: int) -> tuple[Tensor, Tensor]:
        h = self.prelu(self.hidden(self.matching(self.controller, seen, self.loc.weight.new_empty(batch, 0))))
        return self.loc(h), F.softplus(self.scale(h))


class Decoder(nn.Module):
    """p(x | z, X_<t), as logits [B, 1, 28, 28]."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.matching = Matching(steps, LATENT)
        self.project = nn.Linear(LATENT + FEATURES + STATE, FEATURES)
        sizes = (32, 32, 2, 2, 2), (32, 16, 3, 2, 3), (16, 8, 4, 2, 3)
        self.up = nn.Sequential(*(Section(*size, down=False) for size in sizes))  # 3 -> 6 -> 13 -> 28
        self.logit = nn.Conv2d(8, 1, 1)

    def forward(self, controller: Controller, z: Tensor, seen: list[Tensor]) -> Tensor:
        h = self.project(torch.cat([z, self.matching(controller, seen, z)], 1))
        return self.logit(self.up(h.reshape(-1, 32, 3, 3)))


def log_normal(z: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log-density of a diagonal Gaussian, summed over the last axis, nats."""
    return (-0.5 * ((z - loc) / scale) ** 2 - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


class PlainGMN(nn.Module):
    """p(x_1, ..., x_T) = prod_t p(x_t | x_<t), one latent z_t an image; binary images of 28 x 28 pixels.

    ``steps`` (recognition and decoder) and ``prior_steps`` count reads of the memory, which starts with a learned
    row if ``pseudo_input``.
    """

    def __init__(self, steps: int = 4, prior_steps: int = 1, pseudo_input: bool = True) -> None:
        super().__init__()
        sections = Section(1, 16, 4, 2, 3), Section(16, 32, 3, 2, 3), Section(32, 32, 2, 2, 2)
        self.features = nn.Sequential(*sections)  # 28 -> 13 -> 6 -> 3
        self.controller = Controller(pseudo_input)
        self.recognition = Recognition(steps)
        self.prior = Prior(prior_steps, pseudo_input)
        self.decoder = Decoder(steps)

    def log_weights(self, images: Tensor, generator: Generator | None = None, noise: Tensor | None = None) -> Tensor:
        """log p(x_t | z_t, x_<t) + log p(z_t | x_<t) - log q(z_t | x_t, x_<t), nats, [B, T].

        Images are [B, T, 1, 28, 28], floating point, 0 or 1; ``noise`` is [B, T, 50], z = loc + scale * noise.
        """
        batch, length = images.shape[:2]
        if noise is None:
            noise = torch.randn(batch, length, LATENT, generator=generator, dtype=images.dtype, device=images.device)
        seen: list[Tensor] = []
        log_weights = []
        for t in range(length):
            x = images[:, t]
            target = self.features(x).flatten(1)  # [B, 288]
            loc, scale = self.recognition(self.controller, target, seen)
            z = loc + scale * noise[:, t]
            prior_loc, prior_scale = self.prior(seen, batch)
            logits = self.decoder(self.controller, z, seen)
            log_likelihood = -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum((1, 2, 3))
            log_weights.append(log_likelihood + log_normal(z, prior_loc, prior_scale) - log_normal(z, loc, scale))
            seen.append(target)
        return torch.stack(log_weights, 1)

    @torch.no_grad()
    def naive_evaluate(self, images: Tensor, particles: int, generator: Generator | None = None) -> Tensor:
        """Bounds on log p(x_t | x_<t), nats, [T]: the whole network runs on ``particles`` copies of [T, 1, 28, 28]."""
        with parametrize.cached():
            log_weights = self.log_weights(images[None].repeat(particles, 1, 1, 1, 1), generator)
        return log_weights.logsumexp(0) - math.log(particles)


def train_step(model: PlainGMN, optimiser: torch.optim.Optimizer, images: Tensor) -> float:
    """One update on the mean negative bound of [B, T, 1, 28, 28] images; returns it, nats an image."""
    optimiser.zero_grad()
    with parametrize.cached():  # each normalised weight once a step, not once a use
        loss = -model.log_weights(images).mean()
    loss.backward()
    optimiser.step()
    return loss.item()


if __name__ == "__main__":  # python plain_gmn.py [THREADS]: steps a second on 20 sets of 10 random images
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    model, images = PlainGMN(), torch.rand(20, 10, 1, 28, 28).round()
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-4)
    seconds = timeit.repeat(lambda: train_step(model, optimiser, images), repeat=30, number=1)[5:]
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(seconds) / sum(seconds):.2f} steps/s")
