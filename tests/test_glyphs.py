"""Procedural handwriting: counter-based, disjoint by split, recognisable and varied."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from fsgen.data.sources import SPLITS, load_images
from fsgen.data.strokes import draw_programs, keys, normals, render, uniforms
from fsgen.errors import InputError


def glyphs(split="train", **options):
    return load_images("glyphs", split, **{"alphabets": 6, "characters": 8, "drawers": 10, **options})


def test_more_characters_and_drawers_add_to_what_is_there():
    few, many = glyphs(characters=3, drawers=4), glyphs(characters=8, drawers=10)
    shared = many.pixels.reshape(6, 8, 10, 1, 28, 28)[:, :3, :4]
    np.testing.assert_array_equal(few.pixels.reshape(6, 3, 4, 1, 28, 28), shared)


def test_a_drawing_does_not_depend_on_its_batch():
    programs = draw_programs(3, np.array([0, 5, 9]), np.array([2, 0, 7]))
    alone = draw_programs(3, np.array([5]), np.array([0]))
    np.testing.assert_array_equal(render(programs, np.arange(6), 3)[1, 4:5], render(alone, np.array([4]), 3)[0])


def test_same_options_same_images_other_seed_other_images():
    assert glyphs().digest == glyphs().digest
    assert (glyphs().pixels != glyphs(seed=1).pixels).any((1, 2, 3)).mean() > 0.99


@pytest.mark.parametrize("alphabets", [1, 7, 40])
def test_splits_hold_different_alphabets(alphabets):
    groups = [set(glyphs(split, alphabets=alphabets, characters=1, drawers=1).groups) for split in SPLITS]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups))


def test_images_of_different_splits_differ():
    drawn = [{image.tobytes() for image in glyphs(split).pixels} for split in SPLITS]
    assert not any(a & b for i, a in enumerate(drawn) for b in drawn[:i])


def test_ink_is_that_of_handwriting():
    ink = glyphs(alphabets=20).pixels.mean((1, 2, 3))
    assert 0.05 < ink.mean() < 0.1
    assert ink.min() > 0
    assert ink.max() < 0.4


def nearest_mean_accuracy(shots):
    """5-way accuracy of the nearest class mean of blurred pixels, over 400 episodes."""
    images = glyphs(alphabets=10, characters=20)
    blurred = np.stack([gaussian_filter(image[0].astype(float), 1.0) for image in images.pixels])
    rng, right = np.random.default_rng(0), 0
    for _ in range(400):
        chosen = rng.choice(len(images.class_names), 5, replace=False)
        drawn = [rng.permutation(images.members[c])[: shots + 1] for c in chosen]
        distance = [((blurred[d[:-1]].mean(0) - blurred[drawn[0][-1]]) ** 2).sum() for d in drawn]
        right += int(np.argmin(distance) == 0)
    return right / 400


def test_classes_are_recognisable_but_not_copies():
    one, five = nearest_mean_accuracy(1), nearest_mean_accuracy(5)
    assert 0.5 < one < 0.98
    assert one < five


@pytest.mark.parametrize("size", [8, 28, 64])
def test_size_scales_the_drawing(size):
    images = glyphs(size=size, alphabets=2, drawers=2)
    assert images.event_shape == (1, size, size)
    assert 0.02 < images.pixels.mean() < 0.25


@pytest.mark.parametrize(("option", "value"), [("size", 4), ("drawers", 0), ("alphabets", 0), ("seed", -1)])
def test_an_option_out_of_range_is_named(option, value):
    with pytest.raises(InputError, match=rf"glyphs: {option} is {value}; give \d+ or more"):
        glyphs(**{option: value})


def test_random_numbers_are_uniform_normal_and_keyed():
    key = keys(7, np.arange(500))
    u, z = uniforms(key, 1, 40), normals(key, 2, 40)
    assert np.bincount((u * 10).astype(int).ravel(), minlength=10).std() < 5 * np.sqrt(2000 * 0.9)
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.std() - 1) < 5 / np.sqrt(2 * z.size)
    np.testing.assert_array_equal(u[3], uniforms(keys(7, np.array([3])), 1, 40)[0])
    assert len(np.unique(keys(np.arange(100)[:, None], np.arange(100)))) == 10_000
