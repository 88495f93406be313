"""Windows and canvas against grid_sample, antialiased interpolation, an explicit loop and linearity."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from fsgen.nets.attention import LEAST, MOST, Locate, Window, filter_bank, resample, whole
from fsgen.nets.canvas import Canvas, HalfMaps

exactly = {"rtol": 0, "atol": 1e-12}


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def window(centre: tuple[float, float], scale: tuple[float, float]) -> Window:
    return Window(torch.tensor(centre, dtype=torch.float64), torch.tensor(scale, dtype=torch.float64))


def read(images: Tensor, seen: Window, points: tuple[int, int]) -> Tensor:
    """Windows [N, C, *points] of images [N, C, H, W]."""
    banks = (bank.expand(len(images), -1, -1) for bank in seen.banks(points, (images.shape[2], images.shape[3])))
    return resample(images.transpose(1, 2), *banks).transpose(1, 2)


def by_grid_sample(images: Tensor, seen: Window, points: tuple[int, int]) -> Tensor:
    (y, x), (tall, wide) = seen.centre.tolist(), seen.scale.tolist()
    affine = torch.tensor([[wide, 0.0, x], [0.0, tall, y]], dtype=torch.float64).expand(len(images), 2, 3)
    grid = F.affine_grid(affine, [len(images), images.shape[1], *points], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@pytest.mark.parametrize("centre", [(0.0, 0.0), (0.3, -0.2), (-0.9, 0.95)], ids=str)
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.37, 0.8)], ids=str)
def test_a_window_with_denser_samples_than_pixels_is_that_of_a_spatial_transformer(
    centre: tuple[float, float], scale: tuple[float, float]
) -> None:
    images, seen, points = draw(2, 3, 5, 7), window(centre, scale), (6, 9)
    torch.testing.assert_close(read(images, seen, points), by_grid_sample(images, seen, points), **exactly)


def test_a_filter_bank_is_its_formula_in_a_loop() -> None:
    """Where samples are sparser than pixels too."""
    centre, scale, points, size = 0.2, 0.9, 3, 10
    at, extent = torch.tensor([centre, scale], dtype=torch.float64)
    bank = filter_bank(at, extent, points, size)
    width = max(1.0, scale * size / points)
    for i in range(points):
        place = centre + scale * (-1 + (2 * i + 1) / points)
        pixel = (place + 1) / 2 * size - 0.5
        for j in range(size):
            assert bank[i, j].item() == pytest.approx(max(0.0, 1 - abs(pixel - j) / width) / width, abs=1e-12)


def test_a_sparse_window_of_the_whole_is_antialiased_interpolation_away_from_the_border() -> None:
    images = draw(1, 1, 30, 30)
    small = read(images, whole(images), (10, 10))
    wanted = F.interpolate(images, (10, 10), mode="bilinear", antialias=True)
    torch.testing.assert_close(small[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], **exactly)


def test_the_whole_window_at_full_resolution_is_the_image() -> None:
    images = draw(2, 3, 5, 7)
    torch.testing.assert_close(read(images, whole(images), (5, 7)), images, **exactly)


def test_the_window_of_a_mean_is_the_mean_of_the_windows() -> None:
    images, seen = draw(6, 2, 9, 9), window((0.2, -0.4), (0.5, 1.3))
    mean = read(images.mean(0, keepdim=True), seen, (4, 4))
    torch.testing.assert_close(mean[0], read(images, seen, (4, 4)).mean(0), **exactly)


def test_a_patch_read_through_the_inverse_window_fills_the_window_of_the_map() -> None:
    """Rows 2 to 5 and columns 0 to 3 of a 6x6 map, from a 4x4 patch."""
    patch, place = draw(1, 1, 4, 4), window((1 / 3, -1 / 3), (2 / 3, 2 / 3))
    written = read(patch, place.inverse(), (6, 6))
    torch.testing.assert_close(written, F.pad(patch, (0, 2, 2, 0)), **exactly)


def test_a_window_has_the_slope_of_finite_differences_in_place_and_map() -> None:
    maps = draw(2, 5, 3, 6).requires_grad_()
    raw = torch.tensor([[0.11, -0.23, 0.71, 1.37], [0.3, 0.4, 0.31, 0.52]]).double().requires_grad_()

    def look(maps: Tensor, raw: Tensor) -> Tensor:
        return resample(maps, *Window(raw[:, :2], raw[:, 2:]).banks((3, 2), (5, 6)))

    assert torch.autograd.gradcheck(look, (maps, raw))


def test_a_state_asks_at_first_for_about_the_whole_map_and_never_for_less_or_more_than_allowed() -> None:
    locate = Locate(4).double()
    seen = locate(torch.zeros(1, 4).double())
    torch.testing.assert_close(seen.scale, torch.ones(1, 2).double(), rtol=0, atol=1e-6)
    assert not seen.centre.any()
    far = locate(1e4 * draw(50, 4))
    assert far.centre.abs().max() <= 1
    assert far.scale.min() >= LEAST
    assert far.scale.max() <= MOST


def canvas(**options: bool) -> Canvas:
    made = Canvas(5, (2, 7, 9), channels=3, patch=2, blocks=1, **options).double()
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("attention", [True, False])
def test_a_canvas_is_its_initial_value_and_the_sum_of_what_each_state_writes(attention: bool) -> None:
    paint, states = canvas(attention=attention), draw(4, 2, 3, 5)
    wanted = paint.initial + sum(paint.write(state) for state in states)
    torch.testing.assert_close(paint.paint(states), wanted, **exactly)
    assert paint(states).shape == (2, 3, 2, 7, 9)


def test_a_canvas_on_which_nothing_is_written_stays_as_it_was() -> None:
    paint = canvas()
    torch.nn.init.zeros_(paint.patch.weight)
    torch.nn.init.zeros_(paint.patch.bias)
    painted = paint.paint(draw(4, 2, 5))
    torch.testing.assert_close(painted, paint.initial.expand_as(painted), rtol=0, atol=0)


def test_maps_at_half_resolution_belong_to_one_image_each_and_keep_its_place() -> None:
    maps = HalfMaps((1, 7, 9), 2).double()
    images = draw(2, 1, 7, 9).requires_grad_()
    made = maps(images)
    assert made.shape == (2, 4, 2, 5)
    (slope,) = torch.autograd.grad(made[0, 0, :, 0].sum(), images)
    assert slope[0, 0, :6, :6].any()
    assert not slope[0, 0, 6:].any()
    assert not slope[0, 0, :, 6:].any()
    assert not slope[1].any()
