"""The contract holds for the settings of a model that its tiny instance does not take."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import test_contract as contract
import torch
from test_contract_power import EVERY

from fsgen.episode import Episode
from fsgen.errors import CheckpointError, InputError
from fsgen.inference import log_weights, terms
from fsgen.models.conditional_vae import ConditionalVAE
from fsgen.models.few_shot_pixelcnn import FewShotPixelCNN
from fsgen.models.gmn import GMN
from fsgen.models.vae import VAE
from fsgen.sets import SET_ENCODERS

EVENT = contract.EVENT


def conditional(name: str, **settings: Any) -> Callable[[], Any]:
    small: dict[str, Any] = {"dim_z": 2, "dim_hidden": 6, "channels": (4,), "dim_features": 6}
    return lambda: ConditionalVAE(event_shape=EVENT, set_encoder=name, **small, **settings)


def few_shot(**settings: Any) -> Callable[[], Any]:
    small: dict[str, Any] = {"channels": 4, "layers": 2, "first_kernel": 3, "stages": (4,), "dim_patch": 4}
    small |= {"dim_condition": 3, "dim_attention": 4, **settings}
    return lambda: FewShotPixelCNN(event_shape=EVENT, **small)


def matching(**settings: Any) -> Callable[[], Any]:
    small: dict[str, Any] = {"dim_z": 2, "dim_state": 6, "dim_prior": 4, "channels": (4,), "dim_features": 6}
    return lambda: GMN(event_shape=EVENT, **small, **settings)


BUILDS: dict[str, Callable[[], Any]] = {
    **{f"conditional-vae, {name}": conditional(name) for name in SET_ENCODERS},
    "few-shot-pixelcnn, code": few_shot(attention=False),
    "few-shot-pixelcnn, attention": few_shot(code=False),
    "few-shot-pixelcnn, code of pixels": few_shot(attention=False, dim_pixel=2),
    "few-shot-pixelcnn, orders": lambda: few_shot(orders="dihedral")().eval(),
    "conditional-vae, pixels": conditional("mean", pixel_layers=2, pixel_channels=3),
    "vae, pixels": lambda: VAE(event_shape=EVENT, dim_z=2, channels=(4,), dim_features=6, pixel_layers=2),
    "gmn, pixels": matching(pixel_layers=2, pixel_channels=3),
    "gmn, memory of pixels": matching(steps=2, pixel_layers=2, pixel_channels=3, pixel_memory=True),
    "gmn, mean pooling": matching(steps=0, prior_steps=0),
    "gmn, no pseudo-input": matching(pseudo_input=False),
    "gmn, standard prior": matching(conditional_prior=False),
}
CHECKS: dict[str, Callable[[Any], None]] = {
    **{name: check for name, check in EVERY.items() if name not in ("frequencies", "guide", "alone", "seeds")},
    "no shots": lambda model: contract.test_probabilities_of_all_sixteen_images_sum_to_one(model, 0),
}


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("build", BUILDS)
def test_every_setting_keeps_the_contract(build: str, check: str) -> None:
    CHECKS[check](contract.louder(BUILDS[build]()))


@pytest.mark.parametrize("build", [name for name in BUILDS if name.startswith(("conditional", "few"))])
def test_every_setting_follows_the_support(build: str) -> None:
    """At one of four draws of the weights, as a tiny network may be dead at some."""
    e = contract.episode(shots=3)
    followed = []
    for _ in range(4):
        model = contract.louder(BUILDS[build]())
        with contract.same_noise():
            here, there = (log_weights(model, Episode(s, e.query), 2) for s in (e.support, 1 - e.support))
        followed.append(not torch.allclose(here, there))
    assert any(followed)


def test_mean_pooling_starts_from_weights_with_attention() -> None:
    """What it computes is what those weights would if every cell matched as well as any other: with strength zero."""
    asking, pooling = contract.louder(matching(steps=1)()), matching(steps=0, prior_steps=0)().double()
    pooling.start_from(asking.state_dict(), "weights")
    for pool in (asking.match_image, asking.match_latent, asking.match_prior):
        pool.strength.register_forward_hook(lambda module, inputs, found: 0 * found)
    asked = contract.episode()
    with torch.no_grad(), contract.same_noise():
        found = log_weights(pooling, asked, 3)
    with torch.no_grad(), contract.same_noise():
        torch.testing.assert_close(found, log_weights(asking, asked, 3), rtol=0, atol=1e-12)
    with pytest.raises(CheckpointError, match="ask"):
        matching(steps=1)().start_from(pooling.state_dict(), "weights")


@pytest.mark.parametrize("build", ["conditional-vae, mean", "gmn, no pseudo-input", "gmn, paper"])
def test_a_pixelcnn_is_added_to_a_decoder_and_says_nothing_yet(build: str) -> None:
    makers: dict[str, Callable[..., Callable[[], Any]]] = {
        "conditional-vae, mean": partial(conditional, "mean"),
        "gmn, no pseudo-input": partial(matching, pseudo_input=False),
        "gmn, paper": partial(matching, kernels=(2,)),
    }
    small, larger = contract.louder(makers[build]()()), makers[build](pixel_layers=2)().double()
    larger.start_from(small.state_dict(), "weights")
    asked, found = contract.episode(), []
    for model in (larger, small):
        with torch.no_grad(), contract.same_noise():
            found.append(log_weights(model, asked, 3))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)
    again = makers[build](pixel_layers=2)().double()
    again.start_from(contract.louder(larger).state_dict(), "weights")
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, larger.state_dict()[name], rtol=0, atol=0)


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_a_memory_of_images_is_added_to_a_pixelcnn_and_says_nothing_yet(steps: int) -> None:
    options: dict[str, Any] = {"steps": steps, "pixel_layers": 2, "pixel_channels": 3}
    small = contract.louder(matching(**options)())
    larger = matching(**options, pixel_memory=True)().double()
    larger.start_from(small.state_dict(), "weights")
    asked, found = contract.episode(), []
    for model in (larger, small):
        with torch.no_grad(), contract.same_noise():
            found.append(log_weights(model, asked, 3))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)
    again = matching(**options, pixel_memory=True)().double()
    again.start_from(contract.louder(larger).state_dict(), "weights")
    torch.testing.assert_close(again.refine.mix.weight, larger.refine.mix.weight, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="refine"):
        small.start_from(larger.state_dict(), "weights")


def test_a_gmn_with_a_memory_of_images_copies_the_one_it_attends_to() -> None:
    """Weights set by hand: what the decoder reads of the support is all that a pixel depends on."""
    model = matching(pixel_layers=2, pixel_channels=3, pixel_memory=True, pseudo_input=False)().double()
    for parameter in model.refine.parameters():
        torch.nn.init.zeros_(parameter)
    for parameter in model.decode.parameters():
        torch.nn.init.zeros_(parameter)
    centre = model.refine.mix.weight.data[:2, -1, 1, 1]
    centre += torch.tensor([100.0, -100.0])
    model.refine.mix.bias.data[:2] += torch.tensor([-50.0, 50.0])
    model.refine.last.weight.data[0, :2, 0, 0] += torch.tensor([1.0, -1.0])
    support = contract.binary(3, 1).double()
    with torch.no_grad(), contract.same_noise():
        x = torch.stack([support[:, 0], 1 - support[:, 0]], 1)
        found = terms(model, Episode(support, x), 2)["x"]
    pixels = support[0, 0].numel()
    torch.testing.assert_close(found[..., 0], torch.zeros_like(found[..., 0]), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[..., 1], torch.full_like(found[..., 1], -50.0 * pixels), rtol=1e-9, atol=0)


def test_a_memory_of_images_needs_a_pixelcnn() -> None:
    with pytest.raises(InputError, match="give pixel_layers"):
        matching(pixel_memory=True)()


def test_a_decoder_of_more_outputs_is_no_decoder_with_a_pixelcnn() -> None:
    binary, grey = conditional("mean")(), conditional("mean", likelihood="gaussian")()
    with pytest.raises(CheckpointError, match="decode"):
        grey.start_from(binary.state_dict(), "weights")


def test_a_map_of_pixels_is_added_to_weights_without_one_and_says_nothing_yet() -> None:
    small, larger = contract.louder(few_shot()()), few_shot(dim_pixel=2)().double()
    larger.start_from(small.state_dict(), "weights")
    asked = contract.episode()
    with torch.no_grad():
        torch.testing.assert_close(log_weights(larger, asked, 1), log_weights(small, asked, 1), rtol=0, atol=1e-12)
    again = few_shot(dim_pixel=2)().double()
    again.start_from(contract.louder(larger).state_dict(), "weights")
    with torch.no_grad():
        torch.testing.assert_close(log_weights(again, asked, 1), log_weights(larger, asked, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("times", [2, 3])
def test_a_wider_few_shot_pixelcnn_starts_with_the_likelihood_of_the_narrow_one(times: int) -> None:
    small, larger = contract.louder(few_shot()()), few_shot(channels=4 * times, dim_pixel=2)().double()
    larger.start_from(small.state_dict(), "weights")
    asked = contract.episode()
    found = log_weights(larger, asked, 1)
    torch.testing.assert_close(found, log_weights(small, asked, 1), rtol=0, atol=1e-11)
    found.sum().backward()
    gradient = larger.net.layers[1].vertical.weight.grad.unflatten(0, (-1, times))
    assert not torch.isclose(gradient[:, 0], gradient[:, 1], rtol=1e-3, atol=0).any()


@pytest.mark.parametrize("channels", [2, 6])
def test_weights_of_no_whole_number_of_times_the_channels_are_refused(channels: int) -> None:
    with pytest.raises(CheckpointError, match=r"net\.layers\.0\.vertical\.weight"):
        few_shot(channels=channels)().start_from(few_shot()().state_dict(), "weights")
