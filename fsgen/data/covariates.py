"""Simple numbers of the images that are scored, whose means over all images are known exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

from fsgen.data.images import Images
from fsgen.data.sampler import EpisodeSampler

_AT_A_TIME = 1024  # images


def covariates(images: Images) -> dict[str, np.ndarray]:
    """Numbers of every image, float64 [N]: its ink, its edges, and the square of its ink.

    Ink is the sum of the pixels in [0, 1]. Edges are the sum of the absolute differences of pixels side by side or one
    above the other; in a binary image, the number of unequal pairs. Rotations and reflections change neither.
    """
    ink, edges = np.zeros(len(images.pixels)), np.zeros(len(images.pixels))
    for start in range(0, len(ink), _AT_A_TIME):
        part = slice(start, start + _AT_A_TIME)
        pixels = images.pixels[part].astype(np.int64)
        ink[part] = pixels.sum((1, 2, 3))
        edges[part] = sum(np.abs(np.diff(pixels, axis=axis)).sum((1, 2, 3)) for axis in (2, 3))
    top = images.levels - 1
    return {"ink": ink / top, "edges": edges / top, "ink squared": (ink / top) ** 2}


def query_law(sampler: EpisodeSampler) -> np.ndarray:
    r"""The probability of each image to be the last one of a sequential episode, float64 [N].

    Under the published protocol, and with one class a set, a class is drawn uniformly and then an image of it:
    :math:`1 / (C n_c)` for an image of a class of n_c, one of C. A strict set of w > 1 classes is a random order of
    all their images, so that a large class is scored more often:

    .. math:: \frac{w}{C}\, E \frac{1}{n_c + s}

    with s the images of w - 1 other classes, drawn without replacement; of equal classes this is 1 / (C n_c) again.
    """
    law, (ways,) = np.zeros(len(sampler.images.pixels)), sampler.ways
    for pool in sampler.pools:
        sizes = np.array([len(sampler.images.members[c]) for c in pool])
        each = {size: 1 / (len(pool) * size) for size in set(sizes.tolist())}
        if sampler.protocol == "strict" and len(each) > 1 and ways > 1:
            each = {size: ways / len(pool) * _mean_inverse(size, sizes, ways - 1) for size in each}
        for c, size in zip(pool, sizes.tolist(), strict=True):
            law[sampler.images.members[c]] += each[size] / len(sampler.pools)
    return law


def _mean_inverse(size: int, sizes: np.ndarray, others: int) -> float:
    """E 1 / (size + s): s the sum of ``others`` of ``sizes`` without one that is ``size``, all subsets alike."""
    subsets = np.zeros((others + 1, others * int(sizes.max()) + 1))  # how many, by members and sum
    subsets[0, 0] = 1
    for n in np.delete(sizes, np.flatnonzero(sizes == size)[0]):
        subsets[1:, n:] += subsets[:-1, :-n].copy()
    share = subsets[-1] / subsets[-1].sum()
    return float((share / (size + np.arange(len(share)))).sum())


def covariates_record(sampler: EpisodeSampler, sets: int) -> dict[str, Any]:
    """The covariates of the scored image of sets 0 ... sets-1, and their means under :func:`query_law`."""
    law, scored = query_law(sampler), np.array([sampler.draw(i).images[-1] for i in range(sets)])
    return {
        name: {"mean": float(law @ values), "per_set": [round(v, 4) for v in values[scored].tolist()]}
        for name, values in covariates(sampler.images).items()
    }
