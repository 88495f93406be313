"""The likelihood classifier and its relatives, against closed forms and against one call a class and query."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from oracles import beta_bernoulli_joint
from test_classify import steady
from test_contract import EVENT, binary, louder
from test_contract import same_noise as the_same_draws
from torch import Tensor
from torch.distributions import Beta, Normal, kl_divergence
from torch.nn import functional as F

from fsgen.classification import (
    ContextClassifier,
    Decision,
    FeatureClassifier,
    KernelDensity,
    LikelihoodClassifier,
    PixelNeighbours,
)
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import log_weights, same_noise
from fsgen.models.beta_bernoulli import BetaBernoulli
from fsgen.registry import MODELS, build

NAMES = sorted(MODELS.discover())


@pytest.fixture(params=NAMES)
def loud(request: pytest.FixtureRequest) -> Any:
    return louder(MODELS.require(request.param).tiny(EVENT))


def unequal() -> Decision:
    """Three classes of one to three images, two queries."""
    return Decision.between([binary(1), binary(3), binary(2)], binary(2))


# Bayes


def world(strength: tuple[float, float], shots: list[int], queries: int, count: int) -> list[Decision]:
    """Decisions drawn from independent pixels with Beta priors; query q is of class q mod C."""
    found = []
    for _ in range(count):
        chance = Beta(*map(torch.tensor, strength)).sample((len(shots), 1, 3, 3)).double()
        sets = [torch.bernoulli(p.expand(n, -1, -1, -1)) for p, n in zip(chance, shots, strict=True)]
        found.append(Decision.between(sets, torch.bernoulli(chance.repeat(queries, 1, 1, 1))))
    return found


def bayes(model: BetaBernoulli, decision: Decision) -> Tensor:
    """p(class | query) [Q, C] from the joints of each set with and without the query: another formula."""
    a, b = F.softplus(model.raw.detach())
    columns = []
    for images, held in zip(decision.sets[0], decision.seen()[0], strict=True):
        own = images[held]
        more = torch.cat([own.expand(decision.query.shape[1], *own.shape), decision.query[0][:, None]], 1)
        columns.append(beta_bernoulli_joint(a, b, more) - beta_bernoulli_joint(a, b, own))
    return torch.stack(columns, -1).softmax(-1)


def distance(classify: Any, model: BetaBernoulli, decisions: list[Decision]) -> float:
    """Accuracy less Bayes accuracy in standard errors over decisions."""
    gaps = []
    for decision in decisions:
        truth = torch.arange(decision.query.shape[1]) % decision.ways
        answers = classify(decision).argmax(-1)
        gaps.append(((answers == truth).double() - bayes(model, decision).max(-1).values).mean())
    gap = torch.stack(gaps)
    return (gap.mean() / gap.std() * math.sqrt(len(gap))).item()


@pytest.mark.parametrize("shots", [[2, 2, 2], [1, 4, 9]], ids=str)
def test_with_the_true_model_accuracy_is_that_of_bayes(shots: list[int]) -> None:
    model = BetaBernoulli(event_shape=(1, 3, 3), strength=1.4).double()
    decisions = world((0.7, 0.7), shots, 20, 300)
    classifier = LikelihoodClassifier(model)
    assert abs(distance(lambda d: classifier.log_scores(d)[0], model, decisions)) < 5
    worse = distance(lambda d: classifier.log_scores(Decision(d.sets[:, :, :1], d.query))[0], model, decisions)
    assert worse < -5, "one that sees a part of the support has to be told from Bayes"


def test_more_images_of_a_class_are_no_evidence_for_it() -> None:
    """Two classes of the same coin: one shot against nine gives no class more answers than its posterior says."""
    model = BetaBernoulli(event_shape=(1, 3, 3), strength=1.4).double()
    classifier, given, fair = LikelihoodClassifier(model), [], []
    for decision in world((0.7, 0.7), [1, 9], 20, 200):
        found = classifier.log_scores(decision)[0].softmax(-1)
        torch.testing.assert_close(found, bayes(model, decision), rtol=0, atol=1e-9)
        given.append(found[:, 1].mean())
        fair.append(torch.tensor(0.5))
    gap = torch.stack(given) - torch.stack(fair)
    assert abs(gap.mean() / gap.std() * math.sqrt(len(gap))) < 5


# One call a class and query


def one_by_one(model: Any, decision: Decision, **options: Any) -> Tensor:
    """Scores [Q, C] by ``condition`` and ``log_prob``, one call each."""
    sets = [images[held] for images, held in zip(decision.sets[0], decision.seen()[0], strict=True)]
    rows = [[model.condition(own).log_prob(query, **options) for own in sets] for query in decision.query[0]]
    return torch.stack([torch.stack(row) for row in rows])


def test_batched_scores_are_those_of_one_call_a_class_and_query(loud: Any) -> None:
    """Of the same noise where latents are drawn: all classes of a query share the draw of a single call."""
    decision = unequal()
    classifier = LikelihoodClassifier(loud, particles=20, screen=0)
    rows = []
    for q in range(2):
        torch.manual_seed(6)
        rows.append(classifier.log_scores(Decision(decision.sets, decision.query[:, [q]], decision.held))[0, 0])
    alone = one_by_one(loud, decision, particles=20, seed=6)
    torch.testing.assert_close(torch.stack(rows), alone, rtol=0, atol=1e-9)


@pytest.mark.parametrize("budget", [1, 4, 7])
def test_the_budget_changes_no_exact_score(loud: Any, budget: int) -> None:
    decision = unequal()
    found = LikelihoodClassifier(loud, particles=20, budget=budget).log_scores(decision)[0]
    assert found.isfinite().all()
    if loud.condition(binary(1)).exact:
        torch.testing.assert_close(found, one_by_one(loud, decision), rtol=0, atol=1e-9)


def test_queries_beside_each_other_are_scored_as_alone(loud: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    decision = unequal()
    with the_same_draws():
        monkeypatch.setattr(torch, "randn", steady)
        found = LikelihoodClassifier(loud, particles=5, screen=0).log_scores(decision)[0]
        alone = one_by_one(loud, decision, particles=5)
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-9)


def test_a_model_that_ignores_the_support_tells_nothing_apart(loud: Any) -> None:
    """The noise that classes share cancels: with three particles, and to rounding."""
    if type(loud).__name__ not in ("VAE", "PixelCNN"):
        pytest.skip("reads the support")
    scores = LikelihoodClassifier(loud, particles=3, screen=0).log_scores(unequal())
    torch.testing.assert_close(scores, scores[..., :1].expand_as(scores), rtol=0, atol=1e-9)


def middle_half(draws: Tensor) -> Tensor:
    """How wide the middle half of the draws lies."""
    low, high = draws.quantile(torch.tensor([0.25, 0.75], dtype=draws.dtype), 0)
    return high - low


def test_shared_noise_leaves_each_score_as_it_is_distributed(loud: Any) -> None:
    """Of one episode the very same, drawn in another way; of two, two that err together."""
    support, query = binary(1, 3).expand(2, -1, -1, -1, -1), binary(1, 1).expand(2, -1, -1, -1, -1)
    with torch.no_grad(), same_noise():
        together = log_weights(loud, Episode(support, query), 4_000)
    with torch.no_grad():
        apart = log_weights(loud, Episode(support, query), 4_000)
    torch.testing.assert_close(together[:, 0], together[:, 1], rtol=0, atol=1e-9)
    error = (together.var(0) + apart.var(0)).sqrt() / math.sqrt(4_000)
    assert ((together.mean(0) - apart.mean(0)).abs() <= 5 * error + 1e-9).all()
    spread = middle_half(together) / middle_half(
        apart
    )  # weights have heavy tails, which a standard deviation is made of
    assert ((spread - 1).abs() < 0.2).all() or together.std() < 1e-9


def test_another_seed_is_another_draw_of_the_same_answer() -> None:
    model, images, queries = louder(MODELS.require("gmn").tiny(EVENT), 0.2), binary(6), binary(4)
    found = [
        LikelihoodClassifier(model, particles=4000, seed=seed).fit(images, list("aabbcc")).predict_proba(queries)
        for seed in (1, 1, 2)
    ]
    assert np.array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])
    np.testing.assert_allclose(found[0], found[2], atol=0.05)


# Classes that are left behind


def test_a_class_that_is_left_behind_keeps_its_distance_to_the_leader(loud: Any) -> None:
    decision = unequal()
    scores = {}
    for name, options in {
        "early": {"particles": 1, "screen": 0},
        "left": {"particles": 60, "screen": 1, "margin": 1e-12},
        "whole": {"particles": 60, "screen": 1, "margin": math.inf},
    }.items():
        torch.manual_seed(4)
        scores[name] = LikelihoodClassifier(loud, **options).log_scores(decision)[0]
    if loud.condition(binary(1)).exact:
        assert torch.equal(scores["left"], scores["whole"])
        return
    gaps = {name: found - found.gather(-1, scores["early"].argmax(-1, keepdim=True)) for name, found in scores.items()}
    torch.testing.assert_close(gaps["left"], gaps["early"], rtol=0, atol=1e-9)
    assert not torch.allclose(scores["left"], scores["early"])


def test_leaving_classes_behind_changes_hardly_any_answer() -> None:
    model = louder(MODELS.require("conditional-vae").tiny(EVENT), 0.1)
    decision = Decision(binary(1, 4, 2), binary(1, 6))
    every, fast = (
        LikelihoodClassifier(model, particles=400, screen=screen, budget=10_000).log_scores(decision).softmax(-1)
        for screen in (0, 6)
    )
    assert (every - fast).abs().max() < 0.1


@pytest.mark.usefixtures("as_a_user")
@pytest.mark.parametrize("name", ["particles", "screen", "margin", "budget"])
def test_numbers_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"{name} -1"):
        LikelihoodClassifier(build("beta-bernoulli"), **{name: -1})


# Its relatives


def test_the_cosine_is_that_of_posterior_means() -> None:
    model = louder(MODELS.require("vae").tiny(EVENT))
    sets, query = binary(1, 2, 3), binary(1, 4)
    with torch.no_grad():
        means = [model.posterior(model.features(i.flatten(0, -4))) for i in (sets, query)]
    held, asked = (m.chunk(2, -1)[0] for m in means)
    likeness = F.cosine_similarity(asked[:, None], held[None], dim=-1).reshape(1, 4, 2, 3)
    for neighbours, expected in ((1, likeness.amax(-1)), (2, likeness.topk(2).values.mean(-1)), (9, likeness.mean(-1))):
        found = FeatureClassifier(model, neighbours=neighbours, temperature=0.5).log_scores(Decision(sets, query))
        torch.testing.assert_close(found, 2 * expected, rtol=0, atol=1e-9)


def test_features_given_the_support_differ_from_those_given_none() -> None:
    model, decision = louder(MODELS.require("conditional-vae").tiny(EVENT)), Decision(binary(1, 2, 3), binary(1, 4))
    given, alone = (FeatureClassifier(model, conditional=c).log_scores(decision) for c in (True, False))
    assert not torch.allclose(given, alone)


def test_the_context_rule_is_the_divergence_of_the_statistician_s_codes() -> None:
    model = louder(MODELS.require("neural-statistician").tiny(EVENT))
    sets, query = binary(1, 3, 2), binary(1, 4)
    of_sets, of_queries = (Normal(*model.codes(i)) for i in (sets[0], query[0][:, None]))
    for q in range(4):
        each = [
            -kl_divergence(
                Normal(of_sets.loc[c], of_sets.scale[c]), Normal(of_queries.loc[q], of_queries.scale[q])
            ).sum()
            for c in range(3)
        ]
        found = ContextClassifier(model).log_scores(Decision(sets, query))[0, q]
        torch.testing.assert_close(found, torch.stack(each), rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("kernel", ["bernoulli", "gaussian"])
def test_kernel_densities_are_the_mean_of_their_kernels(kernel: str) -> None:
    decision, h = unequal(), 0.2
    found = KernelDensity(kernel=kernel, bandwidth=h).log_scores(decision)[0]
    for c, (images, held) in enumerate(zip(decision.sets[0], decision.seen()[0], strict=True)):
        for q, x in enumerate(decision.query[0]):
            if kernel == "gaussian":
                each = torch.stack(
                    [Normal(s, torch.tensor(h, dtype=torch.float64)).log_prob(x).sum() for s in images[held]]
                )
            else:
                each = torch.stack(
                    [torch.where(s == x, torch.tensor(1 - h, dtype=torch.float64), h).log().sum() for s in images[held]]
                )
            expected = each.exp().mean().log()
            torch.testing.assert_close(found[q, c], expected, rtol=0, atol=1e-9)


@pytest.mark.usefixtures("as_a_user")
def test_grey_images_are_no_matter_of_flips() -> None:
    with pytest.raises(InputError, match="knows binary pixels"):
        KernelDensity().fit(torch.full((1, 1, 2, 2), 0.5), ["a"])


def test_pixels_are_compared_by_their_angle() -> None:
    images = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]).reshape(2, 1, 2, 2)
    query = torch.tensor([[1.0, 1.0, 1.0, 0.0]]).reshape(1, 1, 2, 2)
    p = PixelNeighbours(temperature=1.0).fit(images, ["a", "b"]).predict_log_proba(query)[0]
    assert p[0] - p[1] == pytest.approx(2 / math.sqrt(6) - 1 / math.sqrt(6), abs=1e-6)
