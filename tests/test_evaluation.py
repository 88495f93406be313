"""Held-out likelihood: against closed forms, set by set, and no matter what is scored beside a set."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny import SMALL_MODELS, strokes
from torch import Tensor, nn
from torch.nn import functional as F

from fsgen.data.images import Images
from fsgen.data.sampler import EpisodeSampler
from fsgen.distributions import bernoulli
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.evaluation import Score, evaluate, paired, score_sets, sequential_nats, summary
from fsgen.inference import couples_queries
from fsgen.model import FewShotModel
from fsgen.models.beta_bernoulli import BetaBernoulli
from fsgen.registry import build

SHOTS = [0, 1, 3, 5]
EVENT = (1, 4, 4)


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return strokes("test", tmp_path, classes=6, images=8)


@pytest.fixture
def pixels_apart() -> BetaBernoulli:
    """The exact model, with a different prior for every pixel, in double precision."""
    model = BetaBernoulli(event_shape=EVENT).double()
    with torch.no_grad():
        model.raw.copy_(torch.randn(2, *EVENT))
    return model


@pytest.fixture
def latent() -> FewShotModel:
    model = build("gmn", event_shape=EVENT, **SMALL_MODELS["gmn"])
    assert isinstance(model, FewShotModel)
    return model.double()


def closed_form(model: BetaBernoulli, support: np.ndarray, image: np.ndarray) -> float:
    """NLL of one image by the Beta posterior's predictive, pixel by pixel."""
    a, b = F.softplus(model.raw).detach().numpy()
    ones = support.sum(0)
    p = (a + ones) / (a + b + len(support))
    return float(-np.log(np.where(image == 1, p, 1 - p)).sum())


class OneCode(FewShotModel):
    """A latent of the whole episode, in the plate "episodes" alone, so that it couples the queries; exact guide."""

    def __init__(self) -> None:
        super().__init__()
        self.event_shape = EVENT
        self.shift = nn.Parameter(torch.tensor([-1.0, 1.0], dtype=torch.float64))

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> OneCode:
        return cls()

    def pixels(self, c: Tensor) -> Tensor:
        return self.shift[c.long()][..., None, None, None].expand(*c.shape, *self.event_shape)

    def model(self, episode: Episode) -> None:
        with pyro.plate("episodes", episode.batch, dim=-2):
            seen = episode.seen()[:, :1].any(-1)  # [B, 1]
            c = pyro.sample("c", dist.Bernoulli(torch.where(seen, 0.9, 0.2).double()))
            with pyro.plate("queries", episode.queries, dim=-1):
                pyro.sample("x", bernoulli(self.pixels(c), self.event_shape), obs=episode.query)

    def guide(self, episode: Episode) -> None:
        with pyro.plate("episodes", episode.batch, dim=-2):
            pyro.sample("c", dist.Bernoulli(torch.full((episode.batch, 1), 0.5, dtype=torch.float64)))

    def exact(self, shots: int, image: Tensor) -> float:
        """NLL of one image: a mixture of two."""
        weight = torch.tensor([0.1, 0.9] if shots else [0.8, 0.2], dtype=torch.float64)
        each = torch.stack([dist.Bernoulli(logits=s).log_prob(image).sum() for s in self.shift])
        return -torch.logsumexp(weight.log() + each, 0).item()


def test_the_exact_model_scores_its_closed_form_set_by_set(images: Images, pixels_apart: BetaBernoulli) -> None:
    sampler = EpisodeSampler(images, ways=2, length=8, seed=4)
    scores = evaluate(pixels_apart, sampler, SHOTS, sets=40, particles=7)
    for score, shots in zip(scores, SHOTS, strict=True):
        expected = []
        for i in range(40):
            drawn = images.pixels[sampler.draw(i).images].astype(float)
            expected.append(closed_form(pixels_apart, drawn[:shots], drawn[-1]))
        assert score.per_set == pytest.approx(expected, abs=6e-5)  # they are rounded to 4 digits
        assert score.nats == pytest.approx(np.mean(expected), abs=1e-10)
        assert score.se == pytest.approx(np.std(expected, ddof=1) / math.sqrt(40), abs=1e-10)
        assert (score.shots, score.ways, score.sets) == (shots, 2, 40)
        assert (score.exact, score.particles, score.ess, score.ess_min) == (True, 1, 1.0, 1.0)


@pytest.mark.parametrize("name", ["pixels_apart", "latent"])
def test_a_set_scores_the_same_whatever_is_scored_beside_it(
    name: str, images: Images, request: pytest.FixtureRequest
) -> None:
    model, sampler = request.getfixturevalue(name), EpisodeSampler(images, length=8)
    few, many = (evaluate(model, sampler, SHOTS, sets, 5) for sets in (7, 23))
    for a, b in zip(few, many, strict=True):
        assert a.per_set == b.per_set[:7]
        assert a.nats == pytest.approx(np.mean(a.per_set), abs=6e-5)


@pytest.mark.parametrize("budget", [1, 7, 16, 10_000])
def test_the_budget_does_not_change_exact_scores(budget: int, images: Images, pixels_apart: BetaBernoulli) -> None:
    sampler = EpisodeSampler(images, length=8)
    usual, other = (evaluate(pixels_apart, sampler, SHOTS, 20, 3, budget=b) for b in (512, budget))
    assert [s.nats for s in usual] == pytest.approx([s.nats for s in other], abs=1e-12)
    assert [s.per_set for s in usual] == [s.per_set for s in other]


def test_the_bound_rises_with_particles_and_depends_on_the_seed(images: Images, latent: FewShotModel) -> None:
    sampler = EpisodeSampler(images, length=8)
    one, many, same, other = (
        evaluate(latent, sampler, [2], 20, particles, seed=seed)[0]
        for particles, seed in ((1, 0), (20, 0), (20, 0), (20, 1))
    )
    assert many.nats < one.nats - 0.1
    assert many == same
    assert many.per_set != other.per_set
    assert (one.ess, one.particles, many.particles) == (1.0, 1, 20)
    assert 1 / 20 <= many.ess_min <= many.ess < 1
    assert not many.exact


def test_the_bound_at_fewer_particles_comes_from_the_same_samples(images: Images, latent: FewShotModel) -> None:
    sampler = EpisodeSampler(images, length=8)
    scores = [cell.score() for cell in score_sets(latent, sampler, [0, 2], 12, 20, by_particles=True)]
    plain = evaluate(latent, sampler, [0, 2], 12, 20)
    assert [score.per_set for score in scores] == [score.per_set for score in plain]
    for score in scores:
        assert [bound["particles"] for bound in score.bounds] == [1, 2, 5, 10]
        nats = [bound["nats"] for bound in score.bounds]
        assert nats[0] > nats[1] > nats[3] > score.nats
        for bound in score.bounds:
            assert bound["above"] == pytest.approx(bound["nats"] - score.nats, abs=1e-10)
            assert 0 < bound["above_se"] < bound["se"]
    assert "bounds" not in plain[0].record()


def test_an_exact_score_has_no_bound_at_fewer_particles(images: Images, pixels_apart: BetaBernoulli) -> None:
    (cell,) = score_sets(pixels_apart, EpisodeSampler(images, length=4), [1], 3, 20, by_particles=True)
    assert cell.score().bounds == []


def test_the_terms_of_the_sites_make_up_the_bound_with_one_particle(images: Images, latent: FewShotModel) -> None:
    sampler = EpisodeSampler(images, length=8)
    for cell in score_sets(latent, sampler, SHOTS, 6, 20, budget=9, by_particles=True):
        assert set(cell.terms) == {"x", "z"}
        one = [row[0] for row in cell.bounds]
        assert [sum(parts) for parts in zip(*cell.terms.values(), strict=True)] == pytest.approx(one, abs=1e-10)
        score = cell.score()
        assert sum(score.terms.values()) == pytest.approx(score.bounds[0]["nats"], abs=1e-10)
        assert score.terms["z"] == pytest.approx(np.mean(cell.terms["z"]), abs=1e-12)
        assert Score(**score.record()) == score
    for score in evaluate(latent, sampler, SHOTS, 6, 1):
        assert sum(score.terms.values()) == pytest.approx(score.nats, abs=1e-10)


def test_the_terms_of_a_binary_latent_are_in_closed_form(images: Images) -> None:
    """The guide is fair; the prior gives the code 1 with probability 0.2 of nothing, and 0.9 of a support."""
    model, sampler = OneCode(), EpisodeSampler(images, length=8)
    for score in evaluate(model, sampler, SHOTS, 12, particles=20_000, budget=200_000):
        p = 0.9 if score.shots else 0.2
        assert score.terms["c"] == pytest.approx(-math.log(2) - (math.log(p) + math.log(1 - p)) / 2, abs=0.01)
        drawn = [torch.tensor(images.pixels[sampler.draw(i).images[-1]]).double() for i in range(12)]
        each = [-dist.Bernoulli(logits=s).log_prob(image).sum().item() for s in model.shift for image in drawn]
        assert score.terms["x"] == pytest.approx(np.mean(each), abs=0.1)


def test_an_exact_likelihood_has_no_terms(images: Images, pixels_apart: BetaBernoulli) -> None:
    (cell,) = score_sets(pixels_apart, EpisodeSampler(images, length=4), [1], 3, 20)
    assert cell.terms == cell.score().terms == {}
    assert "terms" not in cell.record().keys() | cell.score().record().keys()


def test_every_set_has_latents_of_its_own(latent: FewShotModel, tmp_path: Path) -> None:
    alike = EpisodeSampler(strokes("test", tmp_path, classes=1, images=1), length=3, protocol="published")
    (score,) = evaluate(latent, alike, [2], 10, 1)
    assert len(set(score.per_set)) == 10


def test_scoring_leaves_mode_and_random_state_alone(images: Images, latent: FewShotModel) -> None:
    sampler, before = EpisodeSampler(images, length=4), torch.get_rng_state()
    done: list[int] = []
    latent.train()
    evaluate(latent, sampler, [1], 5, 3, advance=done.append)
    sequential_nats(latent, sampler, 5, 3)
    assert latent.training
    assert sum(done) == 5
    assert torch.equal(before, torch.get_rng_state())


def test_repeated_and_unrepeated_targets_make_up_the_whole(images: Images, pixels_apart: BetaBernoulli) -> None:
    sampler = EpisodeSampler(images, ways=2, length=8, protocol="published")
    for score in evaluate(pixels_apart, sampler, SHOTS, 60, 1):
        again = []
        for i in range(60):
            drawn = sampler.draw(i).images.tolist()
            again.append(drawn[-1] in drawn[: score.shots])
        assert score.repeated["sets"] == sum(again)
        assert score.unrepeated["sets"] == 60 - sum(again)
        parts = [part for part in (score.repeated, score.unrepeated) if part["sets"]]
        weighted = sum((part["sets"] or 0) * (part["nats"] or 0.0) for part in parts) / 60
        assert weighted == pytest.approx(score.nats, abs=1e-10)
        for part, kept in ((score.repeated, again), (score.unrepeated, [not x for x in again])):
            values = [v for v, k in zip(score.per_set, kept, strict=True) if k]
            assert part["nats"] == (pytest.approx(np.mean(values), abs=6e-5) if values else None)
    assert score.repeated["sets"], "five shots of sixteen images repeat some targets"


def test_strict_sets_repeat_nothing(images: Images, pixels_apart: BetaBernoulli) -> None:
    (score,) = evaluate(pixels_apart, EpisodeSampler(images, length=8), [7], 30, 1)
    assert score.repeated == {"sets": 0, "nats": None, "se": None}
    assert score.unrepeated == {"sets": 30, "nats": score.nats, "se": score.se}


def test_a_latent_that_couples_the_queries_is_scored_apart(images: Images) -> None:
    model, sampler = OneCode(), EpisodeSampler(images, length=8)
    assert couples_queries(model, sampler.episode([0]))
    for score in evaluate(model, sampler, SHOTS, 12, particles=20_000, budget=200_000):
        drawn = [torch.tensor(images.pixels[sampler.draw(i).images[-1]]).double() for i in range(12)]
        expected = [model.exact(score.shots, image) for image in drawn]
        assert score.per_set == pytest.approx(expected, abs=0.1)
        assert score.nats == pytest.approx(np.mean(expected), abs=0.02)
        assert not score.exact


def test_a_coupled_joint_is_spread_over_its_images(images: Images) -> None:
    nats = sequential_nats(OneCode(), EpisodeSampler(images, length=4), 3, particles=20_000, budget=10**6)
    assert nats.shape == (3, 4)
    assert torch.equal(nats, nats[:, :1].expand(3, 4))


def test_validation_and_evaluation_agree(images: Images, pixels_apart: BetaBernoulli) -> None:
    sampler = EpisodeSampler(images, length=6, ways=2)
    nats = sequential_nats(pixels_apart, sampler, 17, particles=3)
    assert nats.shape == (17, 6)
    (last,) = evaluate(pixels_apart, sampler, [5], 17, 1)
    assert nats[:, 5].tolist() == pytest.approx(last.per_set, abs=6e-5)
    for i in (0, 11):
        drawn = images.pixels[sampler.draw(i).images].astype(float)
        expected = [closed_form(pixels_apart, drawn[:t], drawn[t]) for t in range(6)]
        assert nats[i].tolist() == pytest.approx(expected, abs=1e-10)


def test_nan_counts_as_infinitely_bad_in_validation(images: Images, pixels_apart: BetaBernoulli) -> None:
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)
    with torch.no_grad():
        pixels_apart.raw[0, 0, 0, 0] = math.nan
    nats = sequential_nats(pixels_apart, EpisodeSampler(images, length=4), 3, particles=2)
    assert nats.isposinf().all()


def test_paired_differences_have_their_sign_and_error() -> None:
    ours, theirs = [1.0, 2.0, 6.0], [3.0, 3.0, 5.0]
    difference, se = paired(ours, theirs)
    assert difference == pytest.approx(-2 / 3)
    assert se == pytest.approx(np.std([-2, -1, 1], ddof=1) / math.sqrt(3))
    assert paired(theirs, ours)[0] == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="3 and 2 sets"):
        paired(ours, theirs[:2])


def test_paired_differences_keep_small_gaps_between_large_scores() -> None:
    difference, se = paired([10_000.0002, 20_000.0004, 5.0003], [10_000.0, 20_000.0, 5.0])
    assert difference == pytest.approx(0.0003, abs=1e-9)
    assert se == pytest.approx(0.0001 / math.sqrt(3), abs=1e-9)


def test_too_few_values_have_no_error() -> None:
    assert summary(torch.tensor([])) == {"sets": 0, "nats": None, "se": None}
    assert summary(torch.tensor([2.0])) == {"sets": 1, "nats": 2.0, "se": None}
    assert summary(torch.tensor([2.0, 4.0])) == {"sets": 2, "nats": 3.0, "se": pytest.approx(1.0)}


def coverage(queries: int, pooled: bool) -> float:
    """Share of 1000 synthetic evaluations whose 95 % interval holds the truth, 0: 100 sets of some queries each."""
    rng, hits = np.random.default_rng(11), 0
    for _ in range(1000):
        values = rng.exponential(size=(100, 1)) - 1 + rng.normal(size=(100, queries))
        found = summary(torch.from_numpy(values.ravel() if pooled else values.mean(1)))
        hits += abs(found["nats"] or 0.0) < 1.96 * (found["se"] or 0.0)
    return hits / 1000


def test_standard_errors_cover_the_truth() -> None:
    assert 0.92 <= coverage(queries=1, pooled=False) <= 0.97
    assert 0.92 <= coverage(queries=20, pooled=False) <= 0.97
    assert coverage(queries=20, pooled=True) < 0.9, "pooling the queries of a set makes its interval too short"


def test_a_score_is_plain_numbers(images: Images, pixels_apart: BetaBernoulli) -> None:
    (score,) = evaluate(pixels_apart, EpisodeSampler(images, length=4), [1], 3, 1)
    record = score.record()
    assert Score(**record) == score
    assert {type(v) for v in record.values()} == {int, float, bool, dict, list}


@pytest.mark.parametrize(
    ("shots", "sets", "particles", "said"),
    [
        ([], 5, 1, "sets of 8 images take 0 to 7"),
        ([-1], 5, 1, "0 to 7"),
        ([0, 8], 5, 1, "0 to 7"),
        ([1], 1, 1, "1 sets and 1 particles; give 2 sets"),
        ([1], 5, 0, "give 2 sets and 1 particle or more"),
    ],
    ids=str,
)
def test_what_cannot_be_scored_is_refused(
    shots: list[int], sets: int, particles: int, said: str, images: Images, pixels_apart: BetaBernoulli
) -> None:
    with pytest.raises(InputError, match=said):
        evaluate(pixels_apart, EpisodeSampler(images, length=8), shots, sets, particles)


@pytest.mark.parametrize("settings", [{"shots": 2}, {"ways": [1, 2]}], ids=str)
def test_other_samplers_are_refused(settings: dict[str, object], images: Images, pixels_apart: BetaBernoulli) -> None:
    with pytest.raises(InputError, match="sequential episodes with one number of ways"):
        evaluate(pixels_apart, EpisodeSampler(images, length=4, **settings), [1], 5, 1)  # type: ignore[arg-type]
