"""What every registered learner satisfies, and each against its formula written by hand.

Double precision and 4x4 binary images; the conventions of scikit-learn are tested with the other classifiers.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import differences, strokes
from torch import Tensor, nn

import fsgen
from fsgen.classification import Decision, LikelihoodClassifier
from fsgen.data.sampler import EpisodeSampler
from fsgen.episode import Episode
from fsgen.inference import Discriminative, log_weights, of_own_class, terms
from fsgen.inference_labels import log_labels
from fsgen.objectives import combine
from fsgen.registry import LEARNERS, MODELS, build
from fsgen.training_objective import objective_terms

EVENT = (1, 4, 4)
MEMBERS: dict[str, Any] = dict(LEARNERS.discover())
same = {"rtol": 0, "atol": 1e-9}


def binary(*shape: int) -> Tensor:
    return torch.rand(*shape, *EVENT).round().double()


def episodes(batch: int = 2, ways: int = 3, shots: int = 2, queries: int = 2) -> Episode:
    return Episode(binary(batch, ways * shots), binary(batch, ways * queries), ways=ways)


@pytest.fixture(params=sorted(MEMBERS))
def learner(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(1)
    return MEMBERS[request.param].tiny(EVENT).double()


def test_probabilities_sum_to_one_and_learning_maximises_that_of_the_true_class(learner: Any) -> None:
    episode = episodes()
    log_p = learner.log_labels(episode)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(2, 6, dtype=torch.float64), **same)
    own = torch.stack([log_p[:, q, q // 2] for q in range(6)], 1)
    torch.testing.assert_close(terms(learner, episode, 3)["label"], own.expand(3, -1, -1), **same)
    torch.testing.assert_close(log_weights(learner, episode), own[None], **same)
    torch.testing.assert_close(log_labels(learner, episode), log_p, **same)


def test_permuting_classes_permutes_their_scores(learner: Any) -> None:
    sets, query, order = binary(2, 3, 2), binary(2, 5), [2, 0, 1]
    found, other = learner.log_scores(Decision(sets, query)), learner.log_scores(Decision(sets[:, order], query))
    torch.testing.assert_close(other.log_softmax(-1), found[..., order].log_softmax(-1), **same)
    assert (found.log_softmax(-1).std(-1) > 0).any()


def test_the_order_of_images_is_irrelevant(learner: Any) -> None:
    sets, query = binary(2, 3, 4), binary(2, 5)
    found = learner.log_scores(Decision(sets, query))
    torch.testing.assert_close(learner.log_scores(Decision(sets[:, :, [3, 1, 0, 2]], query)), found, **same)


@pytest.mark.parametrize("padding", [0.0, 1.0])
def test_images_that_are_not_there_are_no_evidence(learner: Any, padding: float) -> None:
    """Two images too many of the second class are hidden, whatever they hold; also in another decision of the batch."""
    sets, query = binary(2, 3, 3), binary(2, 4)
    held = torch.ones(2, 3, 3, dtype=torch.bool)
    held[0, 1, 1:] = False
    sets[0, 1, 1:] = padding
    found = learner.log_scores(Decision(sets, query, held)).log_softmax(-1)
    alone = Decision.between([sets[0, 0], sets[0, 1, :1], sets[0, 2]], query[0])
    torch.testing.assert_close(learner.log_scores(alone)[0].log_softmax(-1), found[0], **same)
    torch.testing.assert_close(learner.log_scores(Decision(sets[1:], query[1:]))[0].log_softmax(-1), found[1], **same)


def test_more_of_the_same_image_is_no_evidence(learner: Any) -> None:
    if getattr(learner, "context", None) is not None:
        pytest.skip("an LSTM counts what it reads")
    one, query = binary(3, 1), binary(4)
    found = learner.log_scores(Decision.between(list(one), query))
    more = learner.log_scores(Decision.between([one[0], one[1].expand(3, *EVENT), one[2]], query))
    torch.testing.assert_close(more.log_softmax(-1), found.log_softmax(-1), **same)


@pytest.mark.parametrize("training", [False, True])
def test_an_episode_is_scored_alone(learner: Any, training: bool) -> None:
    learner.train(training)
    episode = episodes(3)
    episode.query.requires_grad_()
    episode.support.requires_grad_()
    found = torch.autograd.grad(learner.log_labels(episode)[:, :, 0][0].sum(), (episode.query, episode.support))
    assert all(slope[0].any() for slope in found)
    assert not any(slope[1:].any() for slope in found)


def test_gradient_reaches_every_parameter(learner: Any) -> None:
    terms(learner, episodes())["label"].sum().backward()
    dead = [name for name, p in learner.named_parameters() if p.grad is None or not p.grad.any()]
    assert [name for name in dead if not (name.endswith("conv.bias") or name == "head")] == []


def test_save_and_load_give_the_same_learner(tmp_path: Path) -> None:
    for name in MEMBERS:
        built = build(name, event_shape=EVENT, channels=[8])
        built.save(tmp_path / name)
        loaded = fsgen.load(tmp_path / name)
        decision = Decision(binary(1, 2, 2).float(), binary(1, 3).float())
        assert torch.equal(loaded.log_scores(decision), built.log_scores(decision))
        assert loaded.recipe == built.recipe
        assert isinstance(loaded, Discriminative)


def test_a_learner_predicts_by_scikit_learns_conventions(learner: Any) -> None:
    images, labels = binary(6), list("aabbcc")
    proba = learner.fit(images, labels).predict_proba(images)
    assert proba.shape == (6, 3)
    assert learner.classes_.tolist() == ["a", "b", "c"]
    assert not any(p.grad is not None for p in learner.parameters())


def noisy_episodes() -> Episode:
    """Eight episodes of three classes, each a random image one pixel in five of which is flipped."""
    classes = torch.rand(8, 3, 1, *EVENT).round()
    images = (classes - (torch.rand(8, 3, 4, *EVENT) < 0.2).float()).abs()
    return Episode(images[:, :, :2].flatten(1, 2), images[:, :, 2:].flatten(1, 2), ways=3)


@pytest.mark.parametrize("name", sorted(MEMBERS))
def test_eight_episodes_can_be_learnt_by_heart(name: str) -> None:
    """Labels at chance cost log C nats; a tenth of that is left at most after 300 steps."""
    fast = {"rate": 1.0, "steps": 1} if "rate" in LEARNERS.entry(name).options else {}
    learner, episode = build(name, event_shape=EVENT, channels=[16], **fast), noisy_episodes()
    adam = torch.optim.Adam(learner.parameters(), 0.01)
    for step in range(300):
        loss = -terms(learner, episode)["label"].mean()
        if step == 0:
            assert loss > 0.3 * math.log(3)
        if loss < 0.1 * math.log(3):
            break
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert loss < 0.1 * math.log(3)


# Each against its formula


def test_prototypes_are_means_and_scores_squared_distances() -> None:
    net = MEMBERS["prototypical-network"].tiny(EVENT).double()
    sets, query = binary(3, 2), binary(4)
    with torch.no_grad():
        found = net.log_labels(Episode(sets.flatten(0, 1)[None], query[None][:, :3], ways=3))[0]
        means = [sum(net.embed(image[None])[0] for image in images) / 2 for images in sets]
        for q in range(3):
            point = net.embed(query[q][None])[0]
            near = torch.stack(
                [torch.exp(-sum((a - b) ** 2 for a, b in zip(point, mean, strict=True))) for mean in means]
            )
            torch.testing.assert_close(found[q].exp(), near / near.sum(), **same)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_matching_weighs_the_labels_of_the_support_by_attention(temperature: float) -> None:
    net = MEMBERS["matching-network"](event_shape=EVENT, channels=[8], temperature=temperature).double()
    sets, query = binary(3, 2), binary(3)
    with torch.no_grad():
        found = net.log_labels(Episode(sets.flatten(0, 1)[None], query[None], ways=3))[0]
        for q in range(3):
            p, total = torch.zeros(3, dtype=torch.float64), 0.0
            for c, s in itertools.product(range(3), range(2)):
                f, g = net.embed(query[q][None])[0], net.embed(sets[c, s][None])[0]
                weight = math.exp((f @ g / (f.norm() * g.norm())).item() / temperature)
                p[c] += weight
                total += weight
            torch.testing.assert_close(found[q].exp(), p / total, **same)


def test_full_context_reads_the_support_in_an_order_of_its_own() -> None:
    """Two LSTMs over the sorted support, and an LSTM that attends to it, step by step."""
    context = MEMBERS["matching-network"].tiny(EVENT).context.double()
    dim = context.cell.hidden_size
    support, query = torch.randn(1, 5, dim, dtype=torch.float64), torch.randn(1, 2, dim, dtype=torch.float64)
    held = torch.tensor([[True, True, False, True, True]])
    with torch.no_grad():
        g, f = context(support, query, held)
        order = sorted((i for i in range(5) if held[0, i]), key=lambda i: support[0, i, 0])
        read = context.both_ways(support[:, order])[0][0]
        expected = {i: support[0, i] + read[n, :dim] + read[n, dim:] for n, i in enumerate(order)}
        for i, value in expected.items():
            torch.testing.assert_close(g[0, i], value, **same)
        known = torch.stack(list(expected.values()))
        for q in range(2):
            h, c = query[0, q], torch.zeros(dim, dtype=torch.float64)
            for _ in range(context.steps):
                r = (known @ h).softmax(0) @ known
                out, c = (v[0] for v in context.cell(torch.cat([query[0, q], r])[None], (h[None], c[None])))
                h = out + query[0, q]
            torch.testing.assert_close(f[0, q], h, **same)


def by_hand(net: Any, sets: Tensor, steps: int, rate: float, *, graph: bool) -> tuple[nn.Module, Tensor]:
    """Embedding and head after plain gradient steps by autograd on leaves."""
    names = [n for n, _ in net.embed.named_parameters()]
    values = [*net.embed.parameters(), net.head.expand(len(sets), -1)]
    for _ in range(steps):
        at = values if graph else [v.detach().requires_grad_() for v in values]
        logits = call(net, dict(zip(names, at[:-1], strict=True)), at[-1], sets.flatten(0, 1))
        loss = nn.functional.cross_entropy(logits, torch.arange(len(sets)).repeat_interleave(sets.shape[1]))
        slopes = torch.autograd.grad(loss, at, create_graph=graph)
        values = [v - rate * s for v, s in zip(values, slopes, strict=True)]
    return dict(zip(names, values[:-1], strict=True)), values[-1]


def call(net: Any, values: dict[str, Tensor], head: Tensor, images: Tensor) -> Tensor:
    features = torch.func.functional_call(net.embed, values, (images,))
    return features @ head[:, :-1].T + head[:, -1]


@pytest.mark.parametrize("first_order", [False, True])
def test_the_inner_step_is_a_gradient_step(first_order: bool) -> None:
    """Scores and outer slopes; of the first order, slopes of the inner loss count as constants."""
    net = MEMBERS["maml"](event_shape=EVENT, channels=[8], steps=2, rate=0.3, first_order=first_order).double()
    sets, query = binary(3, 2), binary(4)
    found = net.log_scores(Decision(sets[None], query[None]))[0]
    values, head = by_hand(net, sets, 2, 0.3, graph=not first_order)
    expected = call(net, values, head, query)
    torch.testing.assert_close(found, expected, **same)
    weight = torch.randn_like(found)
    slopes = [torch.autograd.grad((weight * v).sum(), list(net.parameters())) for v in (found, expected)]
    for ours, theirs in zip(*slopes, strict=True):
        torch.testing.assert_close(ours, theirs, **same)


def test_the_first_order_is_another_slope() -> None:
    slopes = []
    for first_order in (False, True):
        torch.manual_seed(3)
        net = MEMBERS["maml"](event_shape=EVENT, channels=[8], steps=2, rate=0.3, first_order=first_order).double()
        torch.manual_seed(4)
        terms(net, episodes())["label"].sum().backward()
        slopes.append(net.embed.blocks[0].conv.weight.grad)
    assert (slopes[0] - slopes[1]).abs().max() > 1e-3 * slopes[0].abs().max()


def test_the_head_of_fine_tuning_goes_down_its_loss() -> None:
    net = MEMBERS["fine-tuning"](event_shape=EVENT, channels=[8], steps=3, rate=0.5, decay=0.1).double()
    sets, query = binary(3, 2), binary(4)
    with torch.no_grad():
        found = net.log_scores(Decision(sets[None], query[None]))[0]
        support, asked = (
            math.sqrt(net.embed.dim) * nn.functional.normalize(net.embed(i)) for i in (sets.flatten(0, 1), query)
        )
    head = torch.zeros(3, net.embed.dim, dtype=torch.float64, requires_grad=True)
    for _ in range(3):
        loss = nn.functional.cross_entropy(support @ head.T, torch.arange(3).repeat_interleave(2))
        (slope,) = torch.autograd.grad(loss + 0.05 * head.square().sum(), head)
        head = (head - 0.5 * slope).detach().requires_grad_()
    torch.testing.assert_close(found, asked @ head.detach().T, **same)


# The mixed objective


@pytest.mark.parametrize("name", ["beta-bernoulli", "neural-statistician", "gmn"])
def test_the_label_term_is_bayes_rule_over_the_classes(name: str) -> None:
    """As the classifier by likelihood finds it, on the same noise."""
    model, episode = MODELS.require(name).tiny(EVENT).double().eval(), episodes()
    torch.manual_seed(7)
    found = log_labels(model, episode, 3)
    torch.manual_seed(7)
    scores = LikelihoodClassifier(model, particles=3, screen=0).log_scores(Decision.of(episode))
    assert found.requires_grad == any(p.requires_grad for p in model.parameters())
    torch.testing.assert_close(found, scores.log_softmax(-1), **same)


@pytest.mark.parametrize("name", ["conditional-vae", "neural-statistician", "beta-bernoulli"])
def test_without_a_weight_the_mixed_objective_is_the_plain_one(name: str) -> None:
    model = MODELS.require(name).tiny(EVENT).double()
    episode = episodes()
    found = []
    for weight in (0.0, 0.5):
        torch.manual_seed(3)
        parts, images = objective_terms(model, episode, 2, weight)
        found.append(parts)
        assert images == 2
    torch.manual_seed(3)
    plain = terms(model, episode.by_class(), 2)
    assert differences(found[0], plain) == []
    label = found[1].pop("label")
    assert differences(found[1], plain) == []
    assert label.shape == plain["x"].shape
    torch.manual_seed(3)
    twice = objective_terms(model, episode, 2, 1.0)[0]["label"]
    torch.testing.assert_close(twice, 2 * label, **same)
    torch.testing.assert_close(combine({**plain, "label": label}), combine(plain) + label, **same)


def test_the_label_term_raises_accuracy() -> None:
    """From the same start, a step up log p(class | x) alone makes the labels more probable, again and again."""
    model = build("conditional-vae", event_shape=EVENT, dim_z=2, channels=[4], dim_features=6)
    images = strokes("train", Path(), classes=6, images=6)
    episode = EpisodeSampler(images, ways=3, shots=2, queries=2, seed=3).episode(range(4))
    adam = torch.optim.Adam(model.parameters(), 0.01)

    def right() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            scores = log_labels(model, episode, 20)
        return (of_own_class(scores) == scores.amax(-1)).double().mean().item()

    before = right()
    for _ in range(80):
        adam.zero_grad()
        parts, _ = objective_terms(model, episode, 1, 1.0)
        (-parts["label"].mean()).backward()
        adam.step()
    assert right() > max(0.8, before + 0.2)
