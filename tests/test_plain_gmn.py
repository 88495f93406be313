"""The matching network against its literal twin: same weights, same noise, same log-weight of every image."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fsgen.distributions.latents
from fsgen.episode import Episode
from fsgen.inference import log_weights
from fsgen.registry import build

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
BATCH, LENGTH, LATENT = 2, 4, 50


def loaded(name: str) -> ModuleType:
    """A script of benchmarks/ as a module."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    return loaded("plain_gmn")


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """[B, T, Z]: what every normal draw of fsgen then uses, with the plain scales, which have no floor."""
    fixed = torch.randn(BATCH, LENGTH, LATENT, dtype=torch.float64)

    def rsample(self: torch.distributions.Normal, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.loc + self.scale * fixed.expand(self._extended_shape(sample_shape))

    monkeypatch.setattr(torch.distributions.Normal, "rsample", rsample)
    monkeypatch.setattr(fsgen.distributions.latents, "LEAST_SCALE", 0.0)
    return fixed


def roughen(model: nn.Module) -> None:
    """Noise on every parameter, so that no bias, slope or block is at a value that would hide it."""
    for parameter in model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)


def pair(plain: ModuleType, steps: int, prior_steps: int, pseudo_input: bool) -> tuple[Any, Any]:
    ours = build("gmn", preset="paper", steps=steps, prior_steps=prior_steps, pseudo_input=pseudo_input).double()
    theirs = plain.PlainGMN(steps, prior_steps, pseudo_input).double()
    roughen(ours)
    loaded("plain_weights").copy_all(ours, theirs)
    return ours, theirs


@pytest.mark.parametrize("pseudo_input", [True, False], ids=["pseudo-input", "no pseudo-input"])
@pytest.mark.parametrize(("steps", "prior_steps"), [(4, 1), (0, 0), (1, 1), (2, 3)])
def test_the_log_weight_of_every_image_is_that_of_the_plain_network(
    plain: ModuleType, noise: Tensor, steps: int, prior_steps: int, pseudo_input: bool
) -> None:
    ours, theirs = pair(plain, steps, prior_steps, pseudo_input)
    images = torch.rand(BATCH, LENGTH, 1, 28, 28, dtype=torch.float64).round()
    with torch.no_grad():
        found = log_weights(ours, Episode.sequential(images))[0]
        wanted = theirs.log_weights(images, noise=noise)
    first = 0 if pseudo_input else 1  # fsgen's stand-in for the empty memory is learned, the plain one's is zero
    torch.testing.assert_close(found[:, first:], wanted[:, first:], rtol=0, atol=1e-8)


def test_every_weight_is_compared(plain: ModuleType, noise: Tensor) -> None:
    """A weight that only one network has would escape the comparison above; so would a dead one."""
    ours, theirs = pair(plain, 4, 1, True)
    images = torch.rand(BATCH, LENGTH, 1, 28, 28, dtype=torch.float64).round()
    log_weights(ours, Episode.sequential(images)).sum().backward()
    theirs.log_weights(images, noise=noise).sum().backward()
    for model in (ours, theirs):
        assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == counts[1]
