"""Images drawn pixel by pixel: normalised, blind to what comes later, and drawn as they are scored."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from pyro import poutine
from scipy import stats
from test_contract import louder
from torch import Tensor

from fsgen.distributions import Autoregressive, GatedProgram, decoded, head
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import PerView, latent_sites, log_weights, simulate
from fsgen.models.few_shot_pixelcnn import FewShotPixelCNN
from fsgen.nets import GatedPixelCNN, PixelRefinement
from fsgen.registry import MODELS

SETTINGS = [{}, {"attention": False}, {"code": False}]
NINE = torch.tensor(list(itertools.product([0.0, 1.0], repeat=9))).double().reshape(512, 1, 3, 3)


def program_of(model: Any, episode: Episode) -> Autoregressive:
    """The distribution at "x", if it is drawn pixel by pixel."""
    with torch.no_grad():
        return poutine.trace(model.model).get_trace(episode).nodes["x"]["fn"]


LOOK = Episode(torch.zeros(1, 1, 1, 3, 3), torch.zeros(1, 1, 1, 3, 3))
TINY = {name: MODELS.require(name).tiny((1, 3, 3)) for name in sorted(MODELS.discover())}
EXACT = [name for name, model in TINY.items() if not latent_sites(model, LOOK)]
PIXEL_BY_PIXEL = [
    name
    for name in EXACT
    if not isinstance(TINY[name], PerView) and isinstance(program_of(TINY[name], LOOK), Autoregressive)
]


def loud(name: str, event: tuple[int, int, int], noise: float = 0.5) -> Any:
    return louder(MODELS.require(name).tiny(event), noise)


def images(*shape: int) -> Tensor:
    return torch.rand(*shape).double().round()


@pytest.mark.parametrize("shots", [0, 1, 5])
@pytest.mark.parametrize("name", EXACT)
def test_probabilities_of_all_512_images_sum_to_one(name: str, shots: int) -> None:
    for _ in range(3):
        model = loud(name, (1, 3, 3))
        with torch.no_grad():
            nats = log_weights(model, Episode(images(1, shots, 1, 3, 3), NINE[None]))[0, 0]
        assert abs(nats.exp().sum().item() - 1) <= 1e-12


def test_a_network_that_sees_the_pixel_itself_is_not_normalised() -> None:
    class Leaky(GatedProgram):
        def parameters(self, images: Tensor) -> Tensor:
            return super().parameters(torch.nn.functional.pad(images, (0, 1))[..., 1:])

    net = louder(GatedPixelCNN(1, 1, 4, 2, first_kernel=3))
    for kind, sound in ((GatedProgram, True), (Leaky, False)):
        x = Autoregressive(kind(net), head("bernoulli", 1), (1, 512), (1, 3, 3), NINE)
        with torch.no_grad():
            assert (abs(x.log_prob(NINE[None]).exp().sum().item() - 1) <= 1e-12) == sound


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic-mixture"])
def test_refined_maps_are_a_distribution_for_each_particle_and_drawn_as_they_are_scored(likelihood: str) -> None:
    of = head(likelihood, 1)
    net = louder(PixelRefinement(1, of.outputs, 4, 2, (3, 3)))
    maps = torch.randn(5, 1, 2, net.maps, 3, 3, dtype=torch.float64)  # particles, episodes, queries
    together = decoded(maps, of, (1, 3, 3), net)
    with torch.no_grad():
        if likelihood == "bernoulli":
            for particle in maps[:, :, :1]:
                nats = decoded(particle.expand(1, 512, -1, -1, -1), of, (1, 3, 3), net).log_prob(NINE[None])
                assert abs(nats.exp().sum().item() - 1) <= 1e-12
        apart = [decoded(particle, of, (1, 3, 3), net).log_prob(NINE[None, 7:9]) for particle in maps]
        torch.testing.assert_close(together.log_prob(NINE[None, 7:9]), torch.stack(apart), rtol=0, atol=1e-12)
    again = Autoregressive(together.program, of, (5, 1, 2), (1, 3, 3), NINE)
    torch.testing.assert_close(drawn(again, True), drawn(again, False), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("name", PIXEL_BY_PIXEL)
def test_a_pixel_depends_on_those_before_it_and_on_no_other(name: str, kernel: int) -> None:
    """Exactly zero from the pixel itself on; before it nothing is out of sight, though a unit may be dead."""
    options = {"kernel": kernel, "first_kernel": 7, "layers": 4, "channels": 16}
    event = (1, 6, 6)
    before = torch.ones(36, 36).tril(-1).bool()
    seen = torch.zeros(36, 36).bool()
    for _ in range(4):
        model = louder(MODELS.require(name)(event_shape=event, **options), 0.1)
        episode = Episode(images(1, 3, *event), images(1, 1, *event))
        program = program_of(model, episode).program

        def logits(x: Tensor, program: GatedProgram = program) -> Tensor:
            return program.parameters(x.reshape(1, 1, *event)).flatten()

        slope = torch.autograd.functional.jacobian(logits, episode.query.flatten())
        assert not slope.triu().any()
        assert (slope[before] != 0).double().mean() >= 0.9
        seen |= slope != 0
    assert seen[before].all()


@pytest.mark.parametrize("name", PIXEL_BY_PIXEL)
def test_nan_at_a_pixel_leaves_those_up_to_it_finite(name: str) -> None:
    event = (1, 5, 4)
    model = loud(name, event)
    episode = Episode(images(1, 2, *event), images(1, 1, *event))
    program = program_of(model, episode).program
    for j in range(20):
        probe = episode.query.flatten().clone()
        probe[j] = torch.nan
        found = program.parameters(probe.reshape(1, 1, *event)).flatten()
        assert found[: j + 1].isfinite().all()
        assert j % 4 == 3 or found[j + 1].isnan()


@pytest.mark.parametrize("likelihood", ["gaussian", "logistic-mixture"])
def test_nan_at_a_coloured_pixel_reaches_later_ones_alone(likelihood: str) -> None:
    event = (3, 5, 4)
    model = louder(FewShotPixelCNN(event_shape=event, channels=4, layers=2, stages=(4,), likelihood=likelihood), 0.1)
    episode = Episode(images(1, 2, *event), images(1, 1, *event))
    program = program_of(model, episode).program
    for j in range(20):
        probe = episode.query.clone()
        probe[..., j // 4, j % 4] = torch.nan
        found = program.parameters(probe).flatten(-2)[0, 0].isnan()
        assert not found[:, : j + 1].any()
        assert j % 4 == 3 or found[:, j + 1].all()


@pytest.mark.parametrize("likelihood", ["bernoulli", "logistic-mixture"])
@pytest.mark.parametrize("shape", [(3, 1), (1, 4), (1, 1), (3, 4)], ids=str)
@pytest.mark.parametrize("name", PIXEL_BY_PIXEL)
def test_one_image_that_stands_for_many_scores_as_each_of_them(
    name: str, shape: tuple[int, int], likelihood: str
) -> None:
    """As do the classes of a classification and the shot counts of an evaluation."""
    event = (2, 6, 5)
    model = louder(MODELS.require(name)(event_shape=event, channels=6, layers=3, likelihood=likelihood), 0.1)
    query = images(*shape, *event).expand(3, 4, *event)
    support, visible = images(3, 2, *event), torch.rand(3, 4, 2) < 0.5
    with torch.no_grad():
        found = log_weights(model, Episode(support, query, visible))
        apart = log_weights(model, Episode(support, query.clone(memory_format=torch.contiguous_format), visible))
    assert found.shape == apart.shape
    assert (found - apart).abs().max() <= 1e-9
    assert (apart < -1).all()


def drawn(x: Autoregressive, cached: bool, seed: int = 3) -> Tensor:
    twin = Autoregressive(x.program, x.head, x.batch_shape, x.event_shape, x.like, cached=cached)
    torch.manual_seed(seed)
    return twin.sample()


@pytest.mark.parametrize("options", SETTINGS, ids=str)
def test_the_walk_draws_the_pixels_of_the_full_passes(options: dict[str, Any]) -> None:
    event = (1, 6, 5)
    model = louder(FewShotPixelCNN(event_shape=event, channels=6, layers=4, stages=(4,), dim_patch=4, **options), 0.3)
    visible = torch.rand(2, 250, 3) < 0.5
    x = program_of(model, Episode(images(2, 3, *event), images(2, 250, *event), visible))
    walked, passed = drawn(x, True), drawn(x, False)
    assert walked.shape == (2, 250, *event)
    assert torch.equal(walked, passed)
    assert 0.02 < walked.mean() < 0.98
    assert not torch.equal(walked, drawn(x, True, seed=4))


def test_the_walk_gives_the_parameters_of_the_pass_in_single_precision() -> None:
    model = FewShotPixelCNN(event_shape=(1, 28, 28), channels=8, layers=8)
    episode = Episode(images(1, 3, 1, 28, 28).float(), images(1, 2, 1, 28, 28).float())
    program = program_of(model, episode).program
    with torch.no_grad():
        whole, at = program.parameters(episode.query), program.walk(episode.query)
        for row, column in itertools.product(range(28), repeat=2):
            found = at(row, column)[..., 0, 0]
            assert (found - whole[..., row, column]).abs().max() <= 1e-5


def test_colour_images_are_walked_as_they_are_passed() -> None:
    event = (3, 5, 5)
    model = louder(FewShotPixelCNN(event_shape=event, channels=6, layers=3, likelihood="logistic-mixture"), 0.02)
    support = (torch.rand(1, 2, *event).double() * 255).round() / 255
    x = program_of(model, Episode(support, torch.zeros(1, 40, *event).double()))
    walked = drawn(x, True)
    assert torch.equal(walked, drawn(x, False))
    assert torch.equal((walked * 255).round() / 255, walked)


@pytest.mark.parametrize("name", PIXEL_BY_PIXEL)
def test_drawn_images_have_the_frequencies_of_their_scores(name: str) -> None:
    model, count = loud(name, (1, 3, 3)), 100_000
    support = images(1, 2, 1, 3, 3)
    with torch.no_grad():
        p = log_weights(model, Episode(support, NINE[None]))[0, 0].exp().numpy()
        x = simulate(model, Episode(support, NINE[None, :1]), count)["x"].reshape(count, 9)
    codes = (x @ (2.0 ** torch.arange(8, -1, -1)).double()).long()
    seen = torch.bincount(codes, minlength=512).numpy()
    likely = p * count >= 5  # the chi-square approximation needs a few of each
    observed = [*seen[likely], seen[~likely].sum()]
    expected = [*(p[likely] * count), p[~likely].sum() * count + 1e-9]
    assert likely.sum() > 20
    assert stats.chisquare(observed, [e * sum(observed) / sum(expected) for e in expected]).pvalue > 1e-6
    wrong = [*(p[likely] ** 1.1 / (p[likely] ** 1.1).sum() * count), 1.0]
    assert stats.chisquare([*seen[likely], 1], [e * (sum(seen[likely]) + 1) / sum(wrong) for e in wrong]).pvalue < 1e-6


def test_attention_maps_are_shares_of_what_is_visible() -> None:
    event = (1, 6, 6)
    model = louder(FewShotPixelCNN(event_shape=event, channels=6, layers=3, stages=(4, 6), dim_patch=4))
    visible = torch.tensor([[[True, False, True], [False, False, False]]])
    patches, null = model.attention_maps(Episode(images(1, 3, *event), images(1, 2, *event), visible))
    assert patches.shape == (1, 2, 6, 6, 2, 3, *model.features.grid)
    torch.testing.assert_close(patches.sum((-1, -2, -3)) + null, torch.ones_like(null))
    assert not patches[0, 0, ..., 1, :, :].any()
    assert not patches[0, 1].any()
    assert (patches[0, 0, ..., 0, :, :] > 0).all()


def test_attention_asks_from_the_pixels_before_alone() -> None:
    event = (1, 5, 5)
    model = louder(FewShotPixelCNN(event_shape=event, channels=6, layers=3, stages=(4,), dim_patch=4))
    support, one = images(1, 2, *event), images(1, 1, *event)
    other = one.clone()
    other[..., 2, 3] = 1 - other[..., 2, 3]
    maps = [model.attention_maps(Episode(support, query))[0].reshape(25, -1) for query in (one, other)]
    same = [torch.equal(a, b) for a, b in zip(*maps, strict=True)]
    assert all(same[: 2 * 5 + 4])
    assert not any(same[2 * 5 + 4 : 2 * 5 + 5])


def test_what_does_not_fit_is_refused_with_the_edit() -> None:
    with pytest.raises(InputError, match="code and attention are both false; give one, or train pixelcnn"):
        FewShotPixelCNN(code=False, attention=False)
    plain = FewShotPixelCNN(event_shape=(1, 4, 4), attention=False)
    with pytest.raises(InputError, match="attention=False"):
        plain.attention_maps(Episode(images(1, 1, 1, 4, 4).float(), images(1, 1, 1, 4, 4).float()))
    with pytest.raises(ValueError, match="odd kernels from 3"):
        GatedPixelCNN(1, 1, 4, 2, kernel=4)
