"""Set encoders: order never matters, masking is deletion, the empty set is legal, hidden elements leave no trace."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fsgen.sets import (
    SET_ENCODERS,
    Controller,
    Matching,
    MeanPool,
    PatchMemory,
    SetEncoder,
    SetTransformer,
    StatisticNetwork,
    set_encoder,
)

DIM, ASK, STATE = 4, 2, 4


def matching(steps: int, pseudo_input: bool, dim_query: int = ASK) -> SetEncoder:
    return Matching(Controller(DIM, STATE, pseudo_input=pseudo_input), dim_query, steps)


ENCODERS: dict[str, Callable[[], SetEncoder]] = {
    **{name: (lambda name=name: set_encoder(name, None, DIM)) for name in SET_ENCODERS},
    "statistic with sample dropout, evaluated": lambda: StatisticNetwork(None, DIM, sample_dropout=0.5).eval(),
    "transformer, two seeds": lambda: SetTransformer(None, DIM, dim=6, heads=2, blocks=1, inducing=2, seeds=2),
    "patches": lambda: PatchMemory(None, (2, 1), 2, ASK, heads=2, dim=6),
    "patches, not fused": lambda: PatchMemory(None, (2, 1), 2, ASK, heads=2, dim=6, fused=False),
    "patches, one question": lambda: PatchMemory(None, (1, 2), 2, 0, heads=2, dim=6),
    **{
        f"matching, {steps} steps, {'with' if pseudo else 'without'} pseudo-input": (
            lambda steps=steps, pseudo=pseudo: matching(steps, pseudo)
        )
        for steps in (0, 1, 3)
        for pseudo in (True, False)
    },
}


def build(name: str) -> SetEncoder:
    """An encoder with noise on every weight, so that none is at a value that would hide it."""
    encoder = ENCODERS[name]().double()
    for parameter in encoder.parameters():
        parameter.data += torch.randn_like(parameter) / math.sqrt(parameter.shape[-1])
    return encoder


def draw(shots: int, queries: int, seed: int, batch: int = 2, particles: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the elements, what each query sees, and K questions a query."""
    torch.manual_seed(seed)
    embedded = torch.randn(batch, shots, DIM, dtype=torch.float64)
    visible = torch.rand(batch, queries, shots) < 0.6
    return embedded, visible, torch.randn(particles, batch, queries, ASK, dtype=torch.float64)


def over_encoders_and_shapes(test: Callable[..., None]) -> Callable[..., None]:
    shapes = given(shots=st.integers(0, 6), queries=st.integers(1, 3), seed=st.integers(0, 2**31))
    return pytest.mark.parametrize("name", ENCODERS)(settings(max_examples=20)(shapes(test)))


exactly = {"rtol": 0, "atol": 1e-12}


@over_encoders_and_shapes
def test_the_order_of_the_elements_never_matters(name: str, shots: int, queries: int, seed: int) -> None:
    embedded, visible, query = draw(shots, queries, seed)
    encode = build(name)
    order = torch.randperm(shots)
    shuffled = encode.pool(embedded[:, order], visible[..., order], query)
    torch.testing.assert_close(shuffled, encode.pool(embedded, visible, query), **exactly)


@over_encoders_and_shapes
def test_masking_is_deletion(name: str, shots: int, queries: int, seed: int) -> None:
    embedded, visible, query = draw(shots, queries, seed)
    encode = build(name)
    whole = encode.pool(embedded, visible, query)
    for b, q in torch.cartesian_prod(torch.arange(2), torch.arange(queries)).tolist():
        kept = embedded[b, visible[b, q]][None]
        alone = encode.pool(kept, torch.ones(1, 1, kept.shape[1], dtype=torch.bool), query[:, b, q][:, None, None])
        torch.testing.assert_close(whole[:, b, q], alone[:, 0, 0].expand_as(whole[:, b, q]), **exactly)


@over_encoders_and_shapes
def test_the_code_of_any_visible_set_is_finite_and_of_its_declared_size(
    name: str, shots: int, queries: int, seed: int
) -> None:
    embedded, visible, query = draw(shots, queries, seed)
    encode = build(name)
    embedded.requires_grad_()
    for shown in (visible, torch.zeros_like(visible)):
        code = encode.pool(1e3 * embedded, shown, query)
        assert code.shape[-3:] == (2, queries, encode.dim)
        assert code.isfinite().all()
        (slope,) = torch.autograd.grad(code.sum(), embedded, allow_unused=True)
        assert slope is None or slope.isfinite().all()


@over_encoders_and_shapes
def test_codes_see_every_visible_element_and_no_hidden_one(name: str, shots: int, queries: int, seed: int) -> None:
    embedded, visible, query = draw(shots, queries, seed)
    encode = build(name)
    embedded.requires_grad_()
    code = encode.pool(embedded, visible, query)
    weight = torch.randn(encode.dim, dtype=torch.float64)
    for q in range(queries):
        (slope,) = torch.autograd.grad((code[..., q, :] * weight).sum(), embedded, retain_graph=True)
        assert not slope[~visible[:, q]].any()
        if name != "max":  # which keeps the largest elements alone
            assert (slope[visible[:, q]] != 0).any(-1).all()


@pytest.mark.parametrize("name", sorted(ENCODERS.keys() - {"mean", "sum"}))
def test_every_parameter_shapes_the_codes(name: str) -> None:
    encode = build(name)
    embedded, visible, query = draw(4, 3, seed=7)
    visible[0, 0] = False
    code = encode.pool(embedded, visible, query)
    slopes = torch.autograd.grad((code * torch.randn_like(code)).sum(), list(encode.parameters()), allow_unused=True)
    for (which, _), slope in zip(encode.named_parameters(), slopes, strict=True):
        assert slope is not None, which
        assert slope.abs().max() > 1e-9, which


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("shots", [0, 3])
def test_codes_are_pooled_under_autocast(name: str, shots: int) -> None:
    embedded, visible, query = (x.float() if x.is_floating_point() else x for x in draw(shots, 2, seed=2))
    encode = build(name).float()
    with torch.autocast("cpu", torch.bfloat16):
        code = encode.pool(embedded.bfloat16(), visible, query.bfloat16())
    exact = encode.pool(embedded, visible, query)
    assert (code - exact).norm() <= 0.1 * exact.norm()


@over_encoders_and_shapes
def test_particles_and_queries_are_pooled_each_on_their_own(name: str, shots: int, queries: int, seed: int) -> None:
    embedded, visible, query = draw(shots, queries, seed, particles=3)
    encode = build(name)
    together = encode.pool(embedded, visible, query)
    one_by_one = torch.stack([encode.pool(embedded, visible, particle) for particle in query])
    torch.testing.assert_close(together.expand_as(one_by_one), one_by_one, **exactly)
    for q in range(queries):
        alone = encode.pool(embedded, visible[:, [q]], query[..., [q], :])
        torch.testing.assert_close(together[..., [q], :], alone, **exactly)


def test_the_mean_pool_is_the_mean_and_the_count() -> None:
    embedded, visible, _ = draw(5, 2, seed=3)
    visible[0, 0] = False
    code = MeanPool(None, DIM).pool(embedded, visible)
    assert code[0, 0].tolist() == [0.0] * (DIM + 1)
    seen = embedded[1, visible[1, 1]]
    wanted = [*seen.mean(0).tolist(), math.log1p(len(seen))]
    assert code[1, 1].tolist() == pytest.approx(wanted, abs=1e-14)


@pytest.mark.parametrize("pseudo", [True, False])
def test_without_steps_matching_reads_the_mean_of_the_memory(pseudo: bool) -> None:
    embedded, visible, _ = draw(3, 1, seed=0, batch=1)
    visible[:] = torch.tensor([True, False, True])
    encode = matching(0, pseudo).double()
    memory = [embedded[0, 0], embedded[0, 2], *([encode.controller.pseudo] if pseudo else [])]
    read = encode.pool(embedded, visible)[0, 0, :DIM]
    torch.testing.assert_close(read, torch.stack(memory).mean(0), **exactly)


def test_matching_attends_by_cosine_and_strength() -> None:
    """The formula of the docstring, one step, written with a loop."""
    embedded, visible, query = draw(4, 1, seed=5, batch=1, particles=1)
    visible[:] = True
    encode = matching(1, True).double()
    state, memory = encode.controller.initial, [*embedded[0], encode.controller.pseudo]
    asked = encode.ask(torch.cat([state, query[0, 0, 0]]))
    asked = torch.where(asked > 0, asked, encode.ask_slope * asked)
    match = [asked @ cell / (asked.norm() * cell.norm()) for cell in memory]
    attention = (encode.strength(state) * torch.stack(match)).softmax(0)
    read = sum(a * cell for a, cell in zip(attention, memory, strict=True))
    wanted = torch.cat([read, encode.controller.cell(torch.cat([read, state])[None], state[None])[0]])
    torch.testing.assert_close(encode.pool(embedded, visible, query)[0, 0, 0], wanted, **exactly)


@pytest.mark.parametrize("steps", [0, 1, 3])
@pytest.mark.parametrize("pseudo", [True, False])
def test_what_matching_reads_is_the_memory_by_its_shares(steps: int, pseudo: bool) -> None:
    embedded, visible, query = draw(4, 3, seed=9, particles=2)
    visible[0, 0], visible[0, 1] = False, True
    encode = matching(steps, pseudo).double()
    code, readings = encode.attend(embedded, visible, query)
    assert torch.equal(code, encode.pool(embedded, visible, query))
    memory = torch.cat([embedded, encode.controller.pseudo.expand(2, 1, -1)], 1)
    torch.testing.assert_close(code[..., :DIM], torch.einsum("kbqs,bsd->kbqd", readings[-1], memory), **exactly)
    assert len(readings) == max(steps, 1)
    seen = torch.cat([visible, ~visible.any(-1, keepdim=True) | pseudo], -1)
    for shares in readings:
        torch.testing.assert_close(shares.sum(-1), torch.ones(2, 2, 3).double(), **exactly)
        assert torch.equal(shares > 0, seen.expand_as(shares))


@pytest.mark.parametrize("pseudo", [True, False])
def test_the_pseudo_input_is_read_always_or_for_the_empty_set_alone(pseudo: bool) -> None:
    encode = matching(1, pseudo).double()
    embedded, _, query = draw(2, 2, seed=1, batch=1)
    visible = torch.tensor([[[False, False], [True, False]]])
    empty, shown = encode.pool(embedded, visible, query).unbind(-2)
    (slope,) = torch.autograd.grad(empty.sum(), encode.controller.pseudo, retain_graph=True)
    assert slope.all()
    (slope,) = torch.autograd.grad(shown.sum(), encode.controller.pseudo)
    assert bool(slope.any()) == pseudo
    torch.testing.assert_close(empty[0, 0, :DIM], encode.controller.pseudo, **exactly)


def test_elements_are_embedded_each_on_its_own() -> None:
    encode = MeanPool(nn.Sequential(nn.Flatten(), nn.Linear(4, DIM)), DIM).double()
    elements = torch.randn(2, 3, 1, 2, 2, dtype=torch.float64)
    embedded = encode.embed(elements)
    assert embedded.shape == (2, 3, DIM)
    torch.testing.assert_close(embedded[1, 2], encode.element(elements[1, 2][None])[0], **exactly)
    assert encode.embed(elements[:, :0]).shape == (2, 0, DIM)


def test_wrong_uses_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"Matching: -1 attention steps; give 0 \(mean pooling\) or more"):
        matching(-1, True)
    with pytest.raises(TypeError, match="MeanPool was built without an element network: embed outside, then pool"):
        MeanPool(None, DIM).embed(torch.zeros(1, 1, 1, 2, 2))
