"""The one-shot VAE against a second implementation with loops, and its gaze against glimpses taken one by one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Normal
from torch.nn import functional as F

from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import latent_sites, log_weights, terms
from fsgen.models.one_shot_vae import Gaze, OneShotVAE, Trail
from fsgen.nets.attention import resample
from fsgen.registry import build

EVENT = (1, 6, 6)
exactly = {"rtol": 0, "atol": 1e-10}


def louder(module: Any) -> Any:
    module = module.double()
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return module


def model(**options: Any) -> OneShotVAE:
    sizes = {"dim_z": 3, "dim_state": 5, "dim_features": 4, "dim_glimpse": 4, "window": 2, "maps": 2, "patch": 2}
    small = {"event_shape": EVENT, "steps": 3, "canvas": 2, "channels": (3,), **sizes}
    return louder(OneShotVAE(**{**small, **options}))


def episode(shots: int = 3, batch: int = 2, queries: int = 4) -> Episode:
    support, query = (torch.rand(batch, n, *EVENT).double().round() for n in (shots, queries))
    return Episode(support, query, torch.rand(batch, queries, shots) < 0.6)


def scale(raw: Tensor) -> Tensor:
    return F.softplus(raw) + 1e-4


def by_hand(net: OneShotVAE, support: Tensor, image: Tensor, noise: Tensor) -> list[Tensor]:
    """log p - log q of every latent, and log p(x), for one image [1, H, W] given all of support [S, 1, H, W]."""
    gaze, found, states = net.gaze, [], []
    assert gaze is not None
    assert net.maps is not None
    own = net.features(image[None])[0]
    features = net.features(support) if len(support) else own.new_zeros(0, len(own))
    maps = net.maps(support) if len(support) else gaze.nothing[None]
    own_map = net.maps(image[None])[0]
    seen_by_each = torch.ones(1, 1, len(support), dtype=torch.bool)
    state = net.initial(net.encode.pool(features[None], seen_by_each)[0, 0])

    def look(one: Tensor, at: Tensor) -> Tensor:
        return resample(one, *gaze.locate(at).banks(gaze.points, gaze.size)).flatten()

    for tick, draw in zip(net.clock, noise, strict=True):
        state = state + tick
        weights = torch.ones(len(maps)).double() / len(maps)
        if gaze.ask is not None and gaze.keys is not None and len(support):
            weights = (gaze.keys(features) @ gaze.ask(state) / gaze.ask.out_features**0.5).softmax(0)
        glimpses = [look(one, state) for one in maps]
        seen = F.relu(gaze.seen_as(sum(w * g for w, g in zip(weights, glimpses, strict=True))))
        own_seen = F.relu(gaze.seen_as(look(own_map, state)))
        loc, raw = net.posterior(F.relu(net.recognise(torch.cat([own, state, seen, own_seen])))).chunk(2)
        z = loc + scale(raw) * draw
        prior = Normal(torch.zeros(net.dim_z), torch.ones(net.dim_z))
        if net.prior is not None:
            at, wide = net.prior(torch.cat([state, seen])).chunk(2)
            prior = Normal(at, scale(wide))
        found.append((prior.log_prob(z) - Normal(loc, scale(raw)).log_prob(z)).sum())
        state = net.cell(torch.cat([net.enter(z), seen])[None], state[None])[0]
        states.append(state)
    canvas = net.decode.initial + sum(net.decode.write(state) for state in states)
    logits = net.decode.output(canvas.transpose(0, 1)[None])[0, :, : EVENT[1], : EVENT[2]]
    return [*found, Bernoulli(logits=logits).log_prob(image).sum()]


@pytest.mark.parametrize("choose", [True, False])
@pytest.mark.parametrize("conditional_prior", [True, False])
@pytest.mark.parametrize("shots", [0, 1, 3])
def test_every_term_is_that_of_a_loop_over_images_and_steps(choose: bool, conditional_prior: bool, shots: int) -> None:
    """One term a latent and one for the image, for each particle, episode and query, from what it alone sees."""
    net, e, particles = model(choose=choose, conditional_prior=conditional_prior), episode(shots), 2
    torch.manual_seed(1)
    found = terms(net, e, particles)
    assert sorted(found) == ["x", "z_1", "z_2", "z_3"]
    torch.manual_seed(1)
    shape = (particles, e.batch, e.queries, net.dim_z)
    noise = torch.stack([Normal(torch.zeros(shape).double(), 1.0).rsample() for _ in range(net.steps)])
    for k, b, q in torch.cartesian_prod(*(torch.arange(n) for n in shape[:3])).tolist():
        wanted = by_hand(net, e.support[b, e.seen()[b, q]], e.query[b, q], noise[:, k, b, q])
        one = torch.stack([found[name][k, b, q] for name in ("z_1", "z_2", "z_3", "x")])
        torch.testing.assert_close(one, torch.stack(wanted), **exactly)


def test_the_terms_of_the_steps_add_up_to_the_log_weight() -> None:
    net, e = model(), episode()
    torch.manual_seed(2)
    parts = terms(net, e, 3)
    torch.manual_seed(2)
    torch.testing.assert_close(torch.stack(list(parts.values())).sum(0), log_weights(net, e, 3), **exactly)


def test_the_published_model_has_standard_normal_latents_and_sees_all_exemplars_alike() -> None:
    net = build("one-shot-vae", preset="published-prior", event_shape=EVENT)
    assert net.prior is None
    assert net.gaze.ask is None


def test_the_plain_model_is_one_latent_without_attention() -> None:
    net = build("one-shot-vae", preset="plain", event_shape=EVENT).double()
    assert latent_sites(net, episode()) == ["z_1"]
    assert net.gaze is None
    assert net.decode.locate is None
    assert log_weights(net, episode(), 2).isfinite().all()


def gaze(choose: bool) -> tuple[Gaze, Tensor, Tensor, Tensor]:
    """A gaze, the maps and features of four exemplars, and the states of two queries."""
    net = louder(Gaze(5, 3, (6, 2, 7), window=3, dim=8, choose=choose))
    return net, torch.randn(1, 4, 6, 2, 7).double(), torch.randn(1, 4, 3).double(), torch.randn(1, 2, 5).double()


@pytest.mark.parametrize("choose", [True, False])
def test_of_one_exemplar_the_gaze_sees_its_window(choose: bool) -> None:
    net, maps, features, state = gaze(choose)
    visible = torch.tensor([[[False, True, False, False], [False, False, False, True]]])
    found = net(net.memory(maps, features, visible), state)
    for q, s in enumerate((1, 3)):
        window = net.locate(state[0, q])
        torch.testing.assert_close(found[0, q], net.look(maps[0, s], window), **exactly)


def test_exemplars_are_weighed_by_the_state_and_the_weights_sum_to_one() -> None:
    net, maps, features, state = gaze(choose=True)
    visible = torch.tensor([[[True, True, False, True], [False] * 4]])
    weights = net.weights(net.memory(maps, features, visible), state)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2).double(), **exactly)
    assert (weights[0, 0] > 0).tolist() == [True, True, False, True, False]
    assert weights[0, 1].tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]  # the learned map, where nothing is seen
    assert weights[0, 0, [0, 1, 3]].std() > 1e-3


def test_a_step_is_computed_once_for_guide_and_model_and_anew_for_other_draws() -> None:
    net, e, calls = model(), episode(), []
    net.cell.register_forward_hook(lambda *_: calls.append(1))
    terms(net, e, 2)
    assert len(calls) == net.steps
    log_weights(net, e, 4, chunk=2)
    assert len(calls) == 3 * net.steps


def test_a_trail_gives_a_value_again_only_for_the_very_same_inputs() -> None:
    trail, one = Trail(), torch.ones(2)
    first = trail.once("double", (one,), lambda x: 2 * x)
    assert trail.once("double", (one,), lambda x: 3 * x) is first
    assert trail.once("double", (one.clone(),), lambda x: 3 * x).tolist() == [3.0, 3.0]
    assert trail.once("triple", (one,), lambda x: 3 * x).tolist() == [3.0, 3.0]


def test_a_model_without_steps_is_refused() -> None:
    with pytest.raises(InputError, match="one-shot-vae: steps is 0; give 1 or more"):
        model(steps=0)
