"""What each set encoder computes: against loops, closed forms and torch's own attention."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.nets import GridEncoder
from fsgen.sets import (
    SET_ENCODERS,
    MaxPool,
    MeanPool,
    PatchMemory,
    SetTransformer,
    StatisticNetwork,
    SumPool,
    set_encoder,
)
from fsgen.sets.transformer import AttentionBlock

DIM = 6
exactly = {"rtol": 0, "atol": 1e-12}


def everything(shots: int, queries: int = 1, batch: int = 1) -> Tensor:
    return torch.ones(batch, queries, shots, dtype=torch.bool)


def elements(shots: int, batch: int = 1) -> Tensor:
    return torch.randn(batch, shots, DIM, dtype=torch.float64)


# ---- pooling ----


def test_the_max_pool_keeps_negative_features_and_has_a_learned_code_for_the_empty_set() -> None:
    encode = MaxPool(None, 2).double()
    encode.empty.data = torch.tensor([5.0, -7.0], dtype=torch.float64)
    embedded = torch.tensor([[[-1.0, -2.0], [-3.0, -1.5], [9.0, 9.0]]], dtype=torch.float64)
    visible = torch.tensor([[[True, True, False], [False, False, False]]])
    assert encode.pool(embedded, visible).tolist() == [[[-1.0, -1.5], [5.0, -7.0]]]


def test_seeing_every_element_twice_changes_the_codes_that_count_and_no_other() -> None:
    once = elements(3)
    twice = torch.cat([once, once], 1)
    mean, largest, total, statistic = (
        (encode := build(None, DIM).double()).pool(twice, everything(6)) - encode.pool(once, everything(3))
        for build in (MeanPool, MaxPool, SumPool, StatisticNetwork)
    )
    torch.testing.assert_close(mean[0, 0], F.pad(torch.zeros(DIM).double(), (0, 1), value=math.log(7 / 4)), **exactly)
    assert not largest.any()
    torch.testing.assert_close(total[0, 0], once[0].sum(0), **exactly)
    assert statistic.all()


# ---- the statistic network ----


def test_the_statistic_network_is_dense_layers_of_mean_and_count() -> None:
    encode, embedded = StatisticNetwork(None, DIM, dim=5, layers=2).double(), elements(3)
    code = torch.cat([embedded[0].mean(0), torch.tensor([math.log(4)], dtype=torch.float64)])
    for dense in encode.dense:
        code = dense[0].weight @ code + dense[0].bias
        code = torch.where(code > 0, code, code.exp() - 1)
    torch.testing.assert_close(encode.pool(embedded, everything(3))[0, 0], code, **exactly)


def kept(encode: StatisticNetwork, visible: Tensor) -> Tensor:
    """Which elements were pooled [Q, S], read off the code of one-hot elements: count times mean."""
    code = encode.pool(torch.eye(visible.shape[-1], dtype=torch.float64)[None], visible)[0]
    counted = code[:, -1:].expm1()
    torch.testing.assert_close(counted[:, 0], (code[:, :-1] * counted).sum(-1), **exactly)
    return (code[:, :-1] * counted).round() > 0


def test_sample_dropout_keeps_each_visible_element_by_chance_and_never_none() -> None:
    """Marginally with 1 - p + p^n / n: the last one left stays."""
    queries, seen, dropout = 20_000, 3, 0.6
    encode = StatisticNetwork(None, 5, layers=0, sample_dropout=dropout)
    chosen = kept(encode, (torch.arange(5) < seen).expand(1, queries, -1))
    assert not chosen[:, seen:].any()
    assert chosen.any(-1).all()
    wanted = 1 - dropout + dropout**seen / seen
    error = math.sqrt(wanted * (1 - wanted) / queries)
    assert ((chosen[:, :seen].double().mean(0) - wanted).abs() < 5 * error).all()
    both = (chosen[:, 0] & chosen[:, 1]).double().mean().item()
    assert abs(both - (1 - dropout) ** 2) < 5 * math.sqrt((1 - dropout) ** 2 / queries)


def test_sample_dropout_is_for_training_alone_and_leaves_the_empty_set_empty() -> None:
    encode = StatisticNetwork(None, 4, layers=0, sample_dropout=0.9)
    assert not kept(encode, everything(4, 50)).all()
    assert not kept(encode, ~everything(4, 50)).any()
    assert encode.pool(torch.zeros(1, 0, 4), everything(0, 2)).tolist() == [[[0.0] * 5] * 2]
    assert kept(encode.eval(), everything(4, 50)).all()


def test_sample_dropout_follows_the_global_seed() -> None:
    encode, embedded = StatisticNetwork(None, DIM, sample_dropout=0.5).double(), elements(8)
    codes = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        codes.append(encode.pool(embedded, everything(8)))
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])


# ---- set transformer ----


def by_torch(block: AttentionBlock, rows: Tensor, memory: Tensor) -> Tensor:
    """The attention block around torch.nn.functional.multi_head_attention_forward; rows [n, dim], memory [M, dim]."""
    read, _ = F.multi_head_attention_forward(
        rows[:, None],
        memory[:, None],
        memory[:, None],
        rows.shape[-1],
        block.heads,
        None,
        torch.cat([block.ask.bias, torch.zeros_like(block.ask.bias), block.value.bias]),
        None,
        None,
        False,
        0.0,
        block.out.weight,
        block.out.bias,
        use_separate_proj_weight=True,
        q_proj_weight=block.ask.weight,
        k_proj_weight=block.key.weight,
        v_proj_weight=block.value.weight,
        need_weights=False,
    )
    hidden = block.norm_read(rows + read[:, 0])
    return block.norm_fed(hidden + block.feed(hidden))


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_set_transformer_is_its_definition_on_the_visible_elements_alone(seeds: int) -> None:
    encode = SetTransformer(None, DIM, dim=8, heads=2, blocks=2, inducing=3, seeds=seeds).double()
    embedded = elements(4)
    x = torch.cat([encode.enter(embedded[0, [0, 2, 3]]), encode.always[None]])
    for block in encode.blocks:
        x = by_torch(block.spread, x, by_torch(block.gather, block.points, x))
    read = by_torch(encode.read, encode.seeds, encode.prepare(x))
    if encode.among_seeds is not None:
        read = by_torch(encode.among_seeds, read, read)
    code = encode.pool(embedded, torch.tensor([[[True, False, True, True]]]))
    torch.testing.assert_close(code[0, 0], encode.leave(read).flatten(), **exactly)
    assert encode.dim == 8 * seeds


# ---- patch memory ----

GRID, PATCH, ASK = (1, 3), 2, 4


def patch_memory(*, fused: bool = True) -> PatchMemory:
    """With noise on every weight, and sharp attention."""
    encode = PatchMemory(None, GRID, PATCH, ASK, heads=2, dim=6, fused=fused).double()
    for parameter in encode.parameters():
        parameter.data += torch.randn_like(parameter)
    return encode


def masks(kind: str) -> Tensor:
    """Three episodes, five queries, four elements."""
    shapes = {
        "all": everything(4, 5, 3),
        "none": ~everything(4, 5, 3),
        "causal": everything(4, 5, 3).tril(-1),
        "alike": torch.tensor([True, False, True, False]).expand(3, 5, -1),
        "by episode": (torch.arange(4) < torch.tensor([[1], [4], [0]]))[:, None].expand(-1, 5, -1),
        "ragged": torch.rand(3, 5, 4) < 0.5,
    }
    return shapes[kind]


every_mask = pytest.mark.parametrize("kind", ["all", "none", "causal", "alike", "by episode", "ragged"])


@every_mask
@pytest.mark.parametrize("leading", [(), (7,), (2, 3)])
def test_a_patch_memory_reads_what_loops_read(kind: str, leading: tuple[int, ...]) -> None:
    encode, embedded, visible = patch_memory(), elements(4, 3), masks(kind)
    query = torch.randn(*leading, 3, 5, ASK, dtype=torch.float64)
    code, attention = encode.pool(embedded, visible, query), encode.attention(embedded, visible, query)
    for *k, b, q in itertools.product(*map(range, (*leading, 3, 5))):
        at = (*k, b, q)
        asked = (encode.ask.weight @ query[at] + encode.question).reshape(2, 3)
        weights, values = [], []
        for s, p in itertools.product(range(4), range(3)):
            patch = embedded[b, s].reshape(PATCH, 3)[:, p]
            key = (encode.key.weight @ patch + encode.key_place[p]).reshape(2, 3)
            values.append((encode.value.weight @ patch + encode.value_place[p]).reshape(2, 3))
            weights.append(visible[b, q, s] * ((asked * key).sum(-1) / math.sqrt(3)).exp())
        weights.append(((asked * encode.null_key.reshape(2, 3)).sum(-1) / math.sqrt(3)).exp())
        weight = torch.stack(weights, -1) / sum(weights)[:, None]  # [heads, M]
        values.append(encode.null_value.reshape(2, 3))
        torch.testing.assert_close(attention[at], weight, **exactly)
        read = torch.einsum("hm,mhd->hd", weight, torch.stack(values)).flatten()
        torch.testing.assert_close(code[at], read, **exactly)


@every_mask
def test_fused_attention_has_the_value_and_gradient_of_plain_attention(kind: str) -> None:
    encode, visible = patch_memory(), masks(kind)
    inputs = [elements(4, 3).requires_grad_(), torch.randn(7, 3, 5, ASK, dtype=torch.float64, requires_grad=True)]
    wanted = [*inputs, *encode.parameters()]
    weight, found = torch.randn(7, 3, 5, encode.dim, dtype=torch.float64), []
    for encode.fused in (True, False):
        code = encode.pool(inputs[0], visible, inputs[1])
        slopes = torch.autograd.grad((code * weight).sum(), wanted, allow_unused=True, materialize_grads=True)
        found.append((code, *slopes))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_a_sampler_attends_to_keys_and_values_made_once() -> None:
    encode, embedded, visible = patch_memory(), elements(4, 3), masks("ragged")
    query = torch.randn(2, 3, 5, ASK, dtype=torch.float64)
    keys, values = encode.keys_values(embedded)
    read, unasked = encode.attend(query, keys, values, visible)
    assert unasked is None
    torch.testing.assert_close(read, encode.pool(embedded, visible, query), **exactly)
    read, attention = encode.attend(query, keys, values, visible, weights=True)
    torch.testing.assert_close(attention, encode.attention(embedded, visible, query), **exactly)
    torch.testing.assert_close(attention.sum(-1), torch.ones(2, 3, 5, 2, dtype=torch.float64), **exactly)


def test_a_patch_memory_knows_where_a_patch_was() -> None:
    encode, embedded = patch_memory(), elements(2)
    moved = embedded.unflatten(-1, (PATCH, 3)).roll(1, -1).flatten(-2)
    query = torch.randn(1, 1, ASK, dtype=torch.float64)
    code = encode.pool(embedded, everything(2), query)
    assert not torch.allclose(encode.pool(moved, everything(2), query), code)
    for place in (encode.key_place, encode.value_place):
        place.data.zero_()
    code = encode.pool(embedded, everything(2), query)
    torch.testing.assert_close(encode.pool(moved, everything(2), query), code, **exactly)


def test_plain_attention_is_twice_differentiable_and_batches_under_vmap() -> None:
    encode, embedded, visible = patch_memory(fused=False), elements(4, 3), masks("ragged")
    query = torch.randn(3, 5, ASK, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradgradcheck(
        lambda e, q: encode.pool(e, visible[:1], q), (embedded[:1].requires_grad_(), query[:1])
    )
    one = torch.func.vmap(lambda e, v, q: encode.pool(e[None], v[None], q[None])[0])
    torch.testing.assert_close(one(embedded, visible, query), encode.pool(embedded, visible, query), **exactly)


def test_normalised_features_cannot_all_fall_silent() -> None:
    """What happened to coloured images: a bias that puts every unit of the last ReLU below zero hides the images."""
    torch.manual_seed(0)
    images = torch.rand(4, 3, 8, 8)
    for normalised in (False, True):
        torch.manual_seed(1)
        element = GridEncoder((3, 8, 8), (4, 6), dim_patch=2, normalised=normalised)
        element.stages[3].bias.data -= 50  # of the convolution that begins the last stage
        spread = element(images).std(0).max().item()
        assert (spread > 0.1) == normalised


def test_a_grid_encoder_gives_the_memory_its_patches() -> None:
    element = GridEncoder((1, 10, 14), (3, 5), dim_patch=4)
    assert (element.grid, element.dim) == ((3, 4), 48)
    images = torch.rand(2, 3, 1, 10, 14)
    encode = PatchMemory(element, element.grid, element.dim_patch, 0, dim=8)
    assert encode.pool(encode.embed(images), everything(3, 1, 2)).shape == (2, 1, 8)
    assert encode.embed(images[:, :0]).shape == (2, 0, 48)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 6), (6, 0)])
def test_a_patch_of_the_grid_sees_its_own_corner_of_the_image(row: int, column: int) -> None:
    """Three convolutions at 14x14 and two at 7x7 reach 14 pixels beyond a patch of 4x4, and no further."""
    element = GridEncoder((1, 28, 28), (16, 16), dim_patch=1).double()
    for parameter in element.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    image = torch.rand(1, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(element(image).reshape(7, 7)[row, column], image)
    corner = slope[0, 0].flip([axis for axis, i in enumerate((row, column)) if i])
    assert corner[:4, :4].all()
    assert not corner[18:].any()
    assert not corner[:, 18:].any()


# ---- names and refusals ----


@pytest.mark.parametrize("name", SET_ENCODERS)
def test_a_named_set_encoder_embeds_images_and_pools_them(name: str) -> None:
    encode = set_encoder(name, nn.Sequential(nn.Flatten(), nn.Linear(4, DIM)), DIM)
    images = torch.rand(2, 3, 1, 2, 2)
    assert encode.pool(encode.embed(images), everything(3, 4, 2)).shape == (2, 4, encode.dim)


def test_wrong_encoders_are_refused_by_name() -> None:
    known = "max, mean, statistic, sum, transformer"
    with pytest.raises(ValueError, match=rf"^no set encoder 'median'\. Known: {known}\.$"):
        set_encoder("median", None, 3)
    with pytest.raises(ValueError, match=r"StatisticNetwork: sample_dropout is 1\.0; give 0 <= p < 1"):
        StatisticNetwork(None, 3, sample_dropout=1.0)
    with pytest.raises(ValueError, match="SetTransformer: 4 heads do not divide the width 6"):
        SetTransformer(None, 3, dim=6)
    with pytest.raises(ValueError, match="PatchMemory: 4 heads do not divide the code of size 6"):
        PatchMemory(None, (1, 1), 3, 0, dim=6)
