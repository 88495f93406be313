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

PLAIN = Path(__file__).resolve().parents[1] / "benchmarks" / "plain_gmn.py"
BATCH, LENGTH, LATENT = 2, 4, 50


@pytest.fixture(scope="module")
def plain() -> ModuleType:
    spec = importlib.util.spec_from_file_location("plain_gmn", PLAIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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


def copy(ours: nn.Module, theirs: nn.Module) -> None:
    """Weight, normalised or not, and bias of one layer."""
    assert ours.weight.shape == theirs.weight.shape
    theirs.weight = ours.weight.data if hasattr(theirs, "parametrizations") else nn.Parameter(ours.weight.data)
    if getattr(ours, "bias", None) is not None:
        assert ours.bias.shape == theirs.bias.shape
        theirs.bias.data.copy_(ours.bias.data)


def copy_halves(ours: nn.Module, first: nn.Module, second: nn.Module) -> None:
    """One layer of fsgen holds location and scale, which the plain network computes apart."""
    for half, layer in zip((0, 1), (first, second), strict=True):
        weight = ours.weight.data.chunk(2)[half]
        assert weight.shape == layer.weight.shape
        layer.weight = weight if hasattr(layer, "parametrizations") else nn.Parameter(weight)
        layer.bias.data.copy_(ours.bias.data.chunk(2)[half])


def copy_sections(ours: nn.Module, theirs: nn.Module) -> None:
    for section, plain_section in zip(ours, theirs, strict=True):
        copy(section.scale, plain_section.conv)
        copy(section.act, plain_section.prelu)
        copy(section.shortcut, plain_section.shortcut)
        for block, plain_block in zip(section.blocks, plain_section.blocks, strict=True):
            copy(block.conv, plain_block.conv)
            copy(block.act, plain_block.prelu)


def copy_controller(ours: nn.Module, theirs: nn.Module) -> None:
    theirs.initial_state.data.copy_(ours.initial.data)
    if theirs.pseudo_input is not None:
        theirs.pseudo_input.data.copy_(ours.pseudo.data)
    copy(ours.cell.gates, theirs.gates)
    copy(ours.cell.candidate, theirs.candidate)
    theirs.prelu.weight.data.copy_(ours.cell.slope.data)


def copy_matching(ours: nn.Module, theirs: nn.Module) -> None:
    assert ours.steps == theirs.steps
    if ours.steps:
        copy(ours.ask, theirs.query)
        theirs.prelu.weight.data.copy_(ours.ask_slope.data)
        copy(ours.strength, theirs.strength)


def copy_all(ours: Any, theirs: Any) -> None:
    """Every weight of fsgen's network into the plain one."""
    copy_sections(ours.features.sections, theirs.features)
    copy_controller(ours.match_image.controller, theirs.controller)
    copy_matching(ours.match_image, theirs.recognition.matching)
    copy_halves(ours.posterior, theirs.recognition.loc, theirs.recognition.scale)
    copy_matching(ours.match_latent, theirs.decoder.matching)
    copy(ours.decode.start, theirs.decoder.project)
    copy_sections(ours.decode.sections, theirs.decoder.up)
    copy(ours.decode.last, theirs.decoder.logit)
    copy_controller(ours.match_prior.controller, theirs.prior.controller)
    copy_matching(ours.match_prior, theirs.prior.matching)
    copy(ours.prior_hidden, theirs.prior.hidden)
    theirs.prior.prelu.weight.data.copy_(ours.prior_slope.data)
    copy_halves(ours.prior, theirs.prior.loc, theirs.prior.scale)


def pair(plain: ModuleType, steps: int, prior_steps: int, pseudo_input: bool) -> tuple[Any, Any]:
    ours = build("gmn", preset="paper", steps=steps, prior_steps=prior_steps, pseudo_input=pseudo_input).double()
    theirs = plain.PlainGMN(steps, prior_steps, pseudo_input).double()
    roughen(ours)
    copy_all(ours, theirs)
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
