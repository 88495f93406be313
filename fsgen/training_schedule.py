"""What changes from step to step by plan: the weights of the objective's terms and the learning rate; the optimiser."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from fsgen.config import ObjectiveConfig, OptimiserConfig
from fsgen.errors import InputError
from fsgen.objectives import two_term_weights


def annealing(config: ObjectiveConfig, step: int) -> tuple[float, float]:
    """Weights of the likelihood and of the KL terms at step ``step`` (from 0)."""
    likelihood, kl = two_term_weights(config.alpha, config.alpha_halving, step)
    return likelihood, kl * (min(1.0, (step + 1) / config.kl_warmup) if config.kl_warmup else 1.0)


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """The learning rate of step ``step`` (from 0) of ``steps``.

    >>> c = OptimiserConfig(learning_rate=1.0, schedule="thirds", warmup=0)
    >>> [learning_rate(c, s, 9) for s in (0, 3, 8)]
    [1.0, 0.3, 0.1]
    """
    factor = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if config.schedule == "cosine":
        factor *= 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
    elif config.schedule == "thirds":
        factor *= (1.0, 0.3, 0.1)[min(2, 3 * step // steps)]
    return config.learning_rate * factor


def optimiser(config: OptimiserConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The configured optimiser.

    Raises:
        InputError: settings that it does not take.
    """
    settings: dict[str, Any] = {"lr": config.learning_rate, "betas": tuple(config.betas), "fused": True}
    try:
        if config.name == "adamw":
            return torch.optim.AdamW(model.parameters(), weight_decay=config.weight_decay, **settings)
        return torch.optim.Adam(model.parameters(), **settings)
    except ValueError as error:
        raise InputError(f"optimiser.{config.name}: {error}; betas are two numbers of [0, 1).") from error
