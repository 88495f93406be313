"""Likelihood heads: masses that sum to one, samples that follow them, and gradients that stay finite."""

from __future__ import annotations

import itertools
import math
from decimal import Decimal, localcontext

import numpy as np
import pyro
import pytest
import torch
from scipy import stats
from torch import Tensor

from fsgen.distributions import (
    HEADS,
    BernoulliHead,
    GaussianHead,
    LogisticMixture,
    LogisticMixtureHead,
    head,
    head_for,
)
from fsgen.distributions.logistics import LEAST_LOG_SCALE, log_bin, parameters_of

LEVELS = torch.arange(256, dtype=torch.float64) / 255


def weights(channels: int, components: int, *batch: int, size: int = 1) -> Tensor:
    """Random parameters: narrow and wide scales, means inside and outside the range."""
    return 2 * torch.randn(*batch, components * parameters_of(channels), size, size, dtype=torch.float64)


def images(*values: Tensor) -> Tensor:
    """One-pixel images [N, C, 1, 1] from a vector of values a channel."""
    return torch.stack(values, -1)[..., None, None]


def naive(parameters: Tensor, image: Tensor, channels: int, components: int, *, edges: bool = True) -> float:
    """Log-mass of an image by the formula as printed, in numpy; without ``edges`` the ends are bins like others."""

    def cdf(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    total, size = 0.0, parameters_of(channels)
    for h, w in itertools.product(*map(range, image.shape[-2:])):
        raw = parameters[:, h, w].reshape(components, size).numpy()
        prior = np.exp(raw[:, 0]) / np.exp(raw[:, 0]).sum()
        k = (image[:, h, w] * 255).round().numpy()
        x, mass = k / 127.5 - 1, 0.0
        for i in range(components):
            product = prior[i]
            for c in range(channels):
                start = 1 + 2 * channels + c * (c - 1) // 2
                mean = (2 * i + 1) / components - 1 + raw[i, 1 + c]
                mean += sum(math.tanh(raw[i, start + j]) * x[j] for j in range(c))
                at_zero = 7 - math.log(components)
                log_scale = -7 + math.log1p(math.exp(raw[i, 1 + channels + c] + math.log(math.exp(at_zero) - 1)))
                above = 1.0 if edges and k[c] == 255 else cdf((x[c] + 1 / 255 - mean) / math.exp(log_scale))
                below = 0.0 if edges and k[c] == 0 else cdf((x[c] - 1 / 255 - mean) / math.exp(log_scale))
                product *= above - below
            mass += product
        total += math.log(mass)
    return total


def too_far(counts: np.ndarray, mass: np.ndarray) -> bool:
    """Whether counts differ from their probabilities by a chi-square that chance exceeds once in 10^5."""
    order = np.argsort(mass.ravel())[::-1]
    expected, found = mass.ravel()[order] * counts.sum(), counts.ravel()[order]
    kept = int((expected >= 5).sum())
    groups = [np.append(a[:kept], a[kept:].sum()) for a in (expected, found)]
    used = groups[0] > 0
    assert np.all(groups[1][~used] == 0)
    return bool(stats.chisquare(groups[1][used], groups[0][used], sum_check=False).pvalue < 1e-5)


@pytest.mark.parametrize("components", [1, 5])
def test_the_values_of_a_pixel_sum_to_one_by_the_edge_bins(components: int) -> None:
    for _ in range(20):
        parameters = weights(1, components)
        mixture = LogisticMixture(parameters, 1, components)
        assert mixture.log_prob(images(LEVELS)).exp().sum().item() == pytest.approx(1, abs=1e-12)
    broad = torch.zeros(components * parameters_of(1), 1, 1, dtype=torch.float64)
    closed = [math.exp(naive(broad, image, 1, components, edges=False)) for image in images(LEVELS)]
    assert sum(closed) < 1 - 5e-3


def test_the_pairs_of_two_channels_sum_to_one() -> None:
    pairs = torch.cartesian_prod(LEVELS, LEVELS)
    for _ in range(3):
        mixture = LogisticMixture(weights(2, 3), 2, 3)
        assert mixture.log_prob(images(*pairs.T)).exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_the_last_channel_sums_out_of_three() -> None:
    for _ in range(20):
        raw = weights(3, 2).reshape(2, parameters_of(3))
        first = raw[:, [0, 1, 2, 4, 5, 7]]  # weight, two means, two scales, the coefficient between them
        two = LogisticMixture(first.reshape(-1, 1, 1), 2, 2)
        three = LogisticMixture(raw.reshape(-1, 1, 1), 3, 2)
        red, green = LEVELS[torch.randint(256, (2,))]
        summed = three.log_prob(images(red.expand(256), green.expand(256), LEVELS)).exp().sum()
        expected = two.log_prob(images(red[None], green[None])).exp()
        assert summed.item() == pytest.approx(expected.item(), abs=1e-12)


@pytest.mark.parametrize(("channels", "components"), [(1, 1), (1, 4), (2, 2), (3, 5), (4, 2)])
def test_log_prob_is_the_printed_formula(channels: int, components: int) -> None:
    for _ in range(5):
        parameters = weights(channels, components, size=2) / 2
        mixture = LogisticMixture(parameters, channels, components)
        for image in mixture.sample((4,)):
            expected = naive(parameters, image, channels, components)
            assert mixture.log_prob(image).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_bins_keep_their_mass_far_in_the_tails(dtype: torch.dtype, error: float) -> None:
    places = [(k, m, s) for k in (0, 1, 128, 254, 255) for m in (-3.0, 0.0, 1.0, 30.0) for s in (-7.0, -3.0, 0.0, 7.0)]
    for k, loc, log_scale in places:
        with localcontext() as exact:
            exact.prec = 60
            x, scale, width = Decimal(2 * k) / 255 - 1 - Decimal(loc), Decimal(log_scale).exp(), Decimal(1) / 255
            bottom, top = (k == 0, k == 255) if x < 0 else (k == 255, k == 0)
            near, far = width - abs(x), -width - abs(x)  # by symmetry on the left, where no digits go in 1 - tiny
            above, below = (1 / (1 + (-end / scale).exp()) for end in (near, far))
            expected = float(((1 if top else above) - (0 if bottom else below)).ln())
        found = log_bin(*(torch.tensor(v, dtype=dtype) for v in (float(k), loc, log_scale)))
        assert found.item() == pytest.approx(expected, rel=error, abs=error), (k, loc, log_scale)


def test_samples_follow_the_mass_of_each_value() -> None:
    parameters = torch.tensor([0.5, -0.6, -1.0, -0.5, 0.3, -3.0], dtype=torch.float64)[:, None, None]
    mixture = LogisticMixture(parameters, 1, 2)
    mass = mixture.log_prob(images(LEVELS)).exp().numpy()
    drawn = mixture.sample((200_000,)).flatten().mul(255).round().long()
    counts = torch.bincount(drawn, minlength=256).numpy()
    assert counts[0] > 100
    assert not too_far(counts, mass)
    half_a_bin = LogisticMixture(parameters + torch.tensor([0, 1 / 255, 0] * 2)[:, None, None], 1, 2)
    assert too_far(counts, half_a_bin.log_prob(images(LEVELS)).exp().numpy())


def test_samples_follow_the_mass_of_each_pair_of_channels() -> None:
    parameters = torch.tensor([0.0, 0.0, 0.3, -0.5, -1.0, 1.5, 1.0, -0.2, -0.3, -1.0, -1.0, -2.0]).double()
    mixture = LogisticMixture(parameters[:, None, None], 2, 2)
    every = images(*torch.cartesian_prod(LEVELS, LEVELS).T)
    mass = mixture.log_prob(every).exp().reshape(16, 16, 16, 16).sum((1, 3)).numpy()
    red, green = mixture.sample((100_000,)).mul(255).round().long().flatten(1).T
    counts = torch.bincount(16 * (red // 16) + green // 16, minlength=256).reshape(16, 16).numpy()
    assert not too_far(counts, mass)
    assert too_far(counts.T, mass), "green follows red, not red green"
    assert too_far(counts, np.outer(mass.sum(1), mass.sum(0))), "the channels of a pixel are not independent"


def test_samples_of_three_channels_follow_their_mass() -> None:
    parameters = weights(3, 2) / 2
    mixture, other = LogisticMixture(parameters, 3, 2), LogisticMixture(parameters + 0.2, 3, 2)
    for drawn, sound in ((mixture.sample((20_000,)), True), (mixture.sample((20_000,)).flip(1), False)):
        ratio = (other.log_prob(drawn) - mixture.log_prob(drawn)).exp()  # has mean 1 under the mass it divides by
        off = abs(ratio.mean() - 1).item() / ratio.std().item() * math.sqrt(len(ratio))
        assert (off < 5) is sound, off


def test_a_batch_scores_each_image_under_its_own_parameters() -> None:
    parameters = weights(3, 2, 4, 1, 3, size=2)  # [K, 1, Q, P, H, W]
    mixture = LogisticMixture(parameters, 3, 2)
    assert (mixture.batch_shape, mixture.event_shape) == ((4, 1, 3), (3, 2, 2))
    drawn = mixture.sample((2,))
    assert drawn.shape == (2, 4, 1, 3, 3, 2, 2)
    assert torch.equal((drawn * 255).round() / 255, drawn)
    query = drawn[0, 0].expand(5, 3, 3, 2, 2)  # [B, Q, C, H, W]
    found = mixture.expand((4, 5, 3)).log_prob(query)
    assert found.shape == (4, 5, 3)
    assert torch.equal(found, mixture.log_prob(query))
    for k, q in itertools.product(range(4), range(3)):
        alone = LogisticMixture(parameters[k, 0, q], 3, 2).log_prob(query[0, q])
        assert found[k, 2, q].item() == pytest.approx(alone.item(), abs=1e-10)


def test_samples_of_a_batch_come_from_their_own_parameters() -> None:
    parameters = torch.zeros(2, 3, 2 * parameters_of(3), 1, 1)
    parameters[..., 1:4, :, :] = torch.tensor([-20.0, 20.0]).reshape(2, 1, 1, 1, 1)
    parameters[..., 0, :, :] = 50.0  # the first component always
    drawn = LogisticMixture(parameters, 3, 2).sample((10,))
    assert (drawn[:, 0] == 0).all()
    assert (drawn[:, 1] == 1).all()


def test_the_head_lives_in_plates() -> None:
    likelihood = LogisticMixtureHead(3)
    with pyro.plate("k", 4, dim=-3), pyro.plate("b", 2, dim=-2), pyro.plate("q", 3, dim=-1):
        drawn = pyro.sample("x", likelihood(torch.zeros(2, 3, likelihood.outputs, 2, 2)))
    assert drawn.shape == (4, 2, 3, 3, 2, 2)
    assert not torch.equal(drawn[0], drawn[1]), "each particle draws its own"


@pytest.mark.parametrize("name", sorted(HEADS))
@pytest.mark.parametrize("size", [0.0, 30.0, 1e4])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_stay_finite_at_extremes(name: str, size: float, autocast: bool) -> None:
    likelihood = head(name, 3)
    sign = torch.randint(-1, 2, (64, likelihood.outputs, 2, 2)).float()
    net = torch.nn.Conv2d(likelihood.outputs, likelihood.outputs, 1)
    torch.nn.init.dirac_(net.weight)
    values = torch.tensor([0.0, 1.0] if likelihood.levels == 2 else [0.0, 1 / 255, 0.5, 254 / 255, 1.0])
    query = values[torch.randint(len(values), (64, 3, 2, 2))]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = net(size * sign)
        score = likelihood(out).log_prob(query)
    assert out.dtype == (torch.bfloat16 if autocast else torch.float32)
    assert score.dtype == torch.float32
    assert score.isfinite().all()
    score.sum().backward()
    assert net.bias.grad is not None
    assert net.bias.grad.isfinite().all()


def test_full_precision_scores_what_autocast_made_short() -> None:
    likelihood = LogisticMixtureHead(3)
    raw = torch.randn(4, likelihood.outputs, 8, 8).bfloat16()
    query = likelihood(raw).sample()
    expected = likelihood(raw.double()).log_prob(query.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert likelihood(raw).log_prob(query).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_zero_outputs_are_a_broad_mixture(channels: int) -> None:
    likelihood = LogisticMixtureHead(channels)
    mixture = likelihood(torch.zeros(likelihood.outputs, 1, 1, dtype=torch.float64))
    drawn = mixture.sample((20_000,))
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    assert drawn.std().item() == pytest.approx(1 / math.sqrt(12), abs=0.1)
    grey = LogisticMixture(torch.zeros(5 * parameters_of(1), 1, 1, dtype=torch.float64), 1, 5)
    mass = grey.log_prob(images(LEVELS)).exp()
    assert mass[1:-1].min() > 0.5 / 256
    assert mass[1:-1].max() < 1.1 / 256


def test_scales_keep_above_their_floor() -> None:
    parameters = torch.tensor([0.0, 0.0, -1e4], dtype=torch.float64)[:, None, None].requires_grad_()
    mass = LogisticMixture(parameters, 1, 1).log_prob(images(LEVELS)).exp()
    narrow = log_bin(LEVELS * 255, torch.zeros(()), torch.tensor(LEAST_LOG_SCALE, dtype=torch.float64)).exp()
    assert torch.allclose(mass, narrow, atol=1e-12)
    assert mass[127].item() == pytest.approx(0.5, abs=1e-3), "value 1/2 lies between two bins"


def test_a_value_between_two_counts_as_the_nearer() -> None:
    mixture = LogisticMixture(weights(1, 2), 1, 2)
    on_the_grid = images(LEVELS[[3, 100, 255]])
    between = on_the_grid + 0.4 / 255 * torch.tensor([1, -1, -1])[:, None, None, None]
    assert torch.equal(mixture.log_prob(between), mixture.log_prob(on_the_grid))


def test_the_gaussian_is_scipys() -> None:
    likelihood = GaussianHead(3)
    raw, query = 2 * torch.randn(4, 2, 6, 5, 5).double(), torch.rand(2, 3, 5, 5).double()
    found = likelihood(raw).log_prob(query)
    loc, scale = 0.5 + raw[:, :, :3].numpy(), 1 / 255 + np.log1p(np.exp(raw[:, :, 3:].numpy() - 1))
    expected = stats.norm.logpdf(query.numpy(), loc, scale).sum((-3, -2, -1))
    assert found.numpy() == pytest.approx(expected, abs=1e-9)
    middle = likelihood(torch.zeros(6, 2, 2))
    assert (middle.mean == 0.5).all()
    assert likelihood(torch.full((6, 2, 2), -1e4)).stddev.min().item() == pytest.approx(1 / 255)


def test_heads_say_what_they_are() -> None:
    assert (BernoulliHead(3).levels, BernoulliHead(3).discrete, BernoulliHead(3).outputs) == (2, True, 3)
    assert (GaussianHead(3).levels, GaussianHead(3).discrete, GaussianHead(3).outputs) == (256, False, 6)
    mixture = head("logistic-mixture", 3)
    assert (mixture.levels, mixture.discrete, mixture.outputs) == (256, True, 50)
    assert [HEADS[head_for(n)].levels for n in (2, 256)] == [2, 256]
    assert HEADS[head_for(256)].discrete
    with pytest.raises(ValueError, match=r"no likelihood 'normal'\. Known: bernoulli, gaussian, logistic-mixture"):
        head("normal", 1)
    with pytest.raises(ValueError, match=r"no likelihood for pixels of 16 levels\. Known: 2, 256"):
        head_for(16)
    with pytest.raises(ValueError, match="5 components of 3 channels take 50 parameters a pixel, got 49"):
        LogisticMixtureHead(3)(torch.zeros(49, 2, 2))
