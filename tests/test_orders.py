"""Images read in several orders: the mean of distributions is one, scored and drawn as what it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from test_autoregressive import NINE, images
from test_contract import louder
from torch import Tensor

from fsgen.data.augment import transforms
from fsgen.distributions import turned, turns
from fsgen.episode import Episode
from fsgen.inference import latent_sites, log_weights, simulate
from fsgen.models.few_shot_pixelcnn import FewShotPixelCNN


def few_shot(
    event: tuple[int, int, int] = (1, 3, 3), *, orders: str = "dihedral", code: bool = True
) -> FewShotPixelCNN:
    small = {"channels": 4, "layers": 2, "first_kernel": 3, "stages": (4,), "dim_patch": 4, "dim_attention": 4}
    return FewShotPixelCNN(event_shape=event, orders=orders, code=code, **small, dim_condition=3)


@pytest.mark.parametrize("size", [(4, 4), (2, 4)])
@pytest.mark.parametrize(("orders", "augmentation"), [("raster", "none"), ("dihedral", "dihedral")])
def test_the_orders_are_those_of_the_turned_images(size: tuple[int, int], orders: str, augmentation: str) -> None:
    found = turns(orders, *size)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, transforms(augmentation, *size).tolist()))
    assert found[0].tolist() == list(range(math.prod(size)))


def test_turned_images_hold_the_pixels_of_numpy_and_stay_one_where_they_were_one() -> None:
    x = torch.rand(2, 1, 3, 5, 5).expand(2, 7, 3, 5, 5)
    quarter = turned(x, turns("dihedral", 5, 5)[2])
    assert np.array_equal(quarter.numpy(), np.rot90(x.numpy(), axes=(-2, -1)))
    assert quarter.stride(1) == 0


@pytest.mark.parametrize("code", [True, False])
@pytest.mark.parametrize("shots", [0, 3])
def test_probabilities_of_all_512_images_sum_to_one(shots: int, code: bool) -> None:
    model = louder(few_shot(code=code)).eval()
    episode = Episode(images(1, shots, 1, 3, 3), NINE[None])
    assert not latent_sites(model, episode)
    with torch.no_grad():
        assert abs(log_weights(model, episode)[0, 0].exp().sum().item() - 1) <= 1e-12


def one_order(model: FewShotPixelCNN, order: int, episode: Episode) -> Tensor:
    """Probabilities by a model that knows raster order alone, of images that numpy turned, told the order by hand."""
    plain = few_shot(orders="raster").double()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name != "order"})
    told = model.order[order][:, None, None]
    plain.decode.register_forward_hook(lambda module, given, found: found + told)
    turn, mirror = divmod(order, 2)
    parts = [np.rot90(x.numpy(), turn, axes=(-2, -1)) for x in (episode.support, episode.query)]
    parts = [torch.as_tensor((x[..., ::-1] if mirror else x).copy()) for x in parts]
    return log_weights(plain, Episode(*parts))[0].exp()


def test_the_score_is_the_mean_over_orders_each_told_its_own() -> None:
    model = louder(few_shot()).eval()
    episode = Episode(images(2, 3, 1, 3, 3), images(2, 4, 1, 3, 3))
    with torch.no_grad():
        apart = torch.stack([one_order(model, order, episode) for order in range(8)])
        found = log_weights(model, episode)[0].exp()
    torch.testing.assert_close(found, apart.mean(0), rtol=0, atol=1e-14)
    assert (apart.std(0) / apart.mean(0)).min() > 0.01


def test_training_takes_one_order_after_the_other() -> None:
    model = louder(few_shot())
    episode = Episode(images(1, 3, 1, 3, 3), images(1, 1, 1, 3, 3))
    with torch.no_grad():
        known = [one_order(model, order, episode).log().item() for order in range(8)]
        seen = {round(log_weights(model, episode).item(), 9) for _ in range(200)}
    assert seen == {round(nats, 9) for nats in known}


def test_drawn_images_have_the_frequencies_of_their_scores() -> None:
    """Of each of several queries, which see other images, whatever the orders of the others."""
    model, count = louder(few_shot()).eval(), 40_000
    support, visible = images(2, 2, 1, 3, 3), torch.tensor([[True, True], [False, False]]).expand(2, 2, 2)
    drawn = simulate(model, Episode(support, images(2, 2, 1, 3, 3), visible), count)["x"].reshape(count, 2, 2, 9)
    codes = (drawn @ (2.0 ** torch.arange(8, -1, -1)).double()).long()
    for b in range(2):
        for q in range(2):
            asked = Episode(support[b : b + 1], NINE[None], visible[b : b + 1, q : q + 1].expand(1, 512, 2))
            with torch.no_grad():
                p = log_weights(model, asked)[0, 0].exp().numpy()
            seen = torch.bincount(codes[:, b, q], minlength=512).numpy()
            likely = p * count >= 5
            expected = np.array([*(p[likely] * count), p[~likely].sum() * count + 1e-9])
            observed = [*seen[likely], seen[~likely].sum()]
            assert likely.sum() > 20
            assert stats.chisquare(observed, expected * count / expected.sum()).pvalue > 1e-6
    pairs = codes[:, 0, 0] % 2, codes[:, 1, 1] % 2
    assert abs(np.corrcoef(*pairs)[0, 1]) < 5 / math.sqrt(count)


def test_orders_are_added_to_weights_that_read_in_one() -> None:
    """Each order then scores the turned image as those weights do."""
    small, larger = louder(few_shot(orders="raster")), few_shot().double().eval()
    larger.start_from(small.state_dict(), "weights")
    x = images(2, 3, 1, 3, 3)
    with torch.no_grad():
        each = [log_weights(small, Episode(turned(x, turn), turned(x[:, :1], turn))) for turn in larger.turns]
        found = log_weights(larger, Episode(x, x[:, :1]))
    torch.testing.assert_close(found, torch.stack(each).logsumexp(0) - math.log(8), rtol=0, atol=1e-12)


def test_attention_is_shown_in_raster_order() -> None:
    model = louder(few_shot((1, 6, 6))).eval()
    episode = Episode(images(1, 2, 1, 6, 6), images(1, 1, 1, 6, 6))
    patches, null = model.attention_maps(episode)
    torch.testing.assert_close(patches.sum((-1, -2, -3)) + null, torch.ones_like(null))
    moved = episode.query.clone()
    moved[..., -1, -1] = 1 - moved[..., -1, -1]
    assert torch.equal(patches, model.attention_maps(Episode(episode.support, moved))[0])


def test_unknown_orders_are_named() -> None:
    with pytest.raises(ValueError, match=r"no orders 'spiral'\. Known: raster, dihedral"):
        few_shot(orders="spiral")
