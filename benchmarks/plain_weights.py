"""The weights of fsgen's GMN in the plain network of ``plain_gmn.py``, layer by layer."""

from __future__ import annotations

from typing import Any

from torch import nn


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
