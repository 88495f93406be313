"""Pictures of what a model does: nearest training images of samples, reconstructions, set codes, attention maps.

A picture is a function registered in ``PICTURES``; a model that lacks the part which it shows gets a reason instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fsgen.classification import Learner
from fsgen.classification.classifier import still
from fsgen.data.images import Images
from fsgen.data.sampler import Draw, EpisodeSampler
from fsgen.episode import Episode
from fsgen.errors import InputError
from fsgen.inference import PerView, latents, reconstruct
from fsgen.model import Attends, FewShotModel
from fsgen.quality import draws_of
from fsgen.sheets import contact_sheet

SEARCHED = 4096  # images compared at a time
MAPPED, SIDE = 150, 760  # sets on a map, and its pixels a side
TINTS = [[0, 114, 178], [213, 94, 0], [0, 158, 115], [204, 121, 167], [230, 159, 0], [0, 0, 0]]  # Okabe & Ito (2008)

READ, MARK = np.array([[[230]], [[110]], [[0]]]) / 255, np.array([[[213]], [[0]], [[50]]]) / 255
ATTENDED, ASKED = 3, 4  # sets on a sheet of attention maps, and the most pixels, or images, that ask of one set


@dataclass(frozen=True)
class Scene:
    """What pictures are made of.

    Attributes:
        model, critic: the critic, or None, adds the neighbours by its features.
        sampler: support/query episodes of one way, of classes the model has not seen. train: what it was trained on.
        sets: rows of a sheet. seed: of samples.
    """

    model: FewShotModel
    critic: Learner | None
    sampler: EpisodeSampler
    train: Images
    sets: int
    seed: int

    def episode(self) -> Episode:
        """Its episodes 0, 1, ... as one batch, on the model's device."""
        return self.sampler.episode(range(self.sets)).to(next(self.model.parameters()))


@dataclass(frozen=True)
class Picture:
    """A sheet uint8 [height, width, 3] and what it shows; or no sheet, and why there is none."""

    sheet: np.ndarray | None
    caption: str


PICTURES: dict[str, Callable[[Scene], Picture]] = {}


def picture(name: str) -> Callable[[Callable[[Scene], Picture]], Callable[[Scene], Picture]]:
    """Enters a function into ``PICTURES``."""

    def add(make: Callable[[Scene], Picture]) -> Callable[[Scene], Picture]:
        PICTURES[name] = make
        return make

    return add


@torch.no_grad()
def pictures(scene: Scene) -> dict[str, Picture]:
    """Every picture of ``PICTURES``; the global generator is left as it was."""
    with torch.random.fork_rng(), still(scene.model):
        torch.manual_seed(scene.seed)
        return {name: make(scene) for name, make in PICTURES.items()}


@picture("neighbours")
def neighbours(scene: Scene) -> Picture:
    """Samples, and below each the training image nearest to it: one that copies its training set shows here."""
    episode, count = scene.episode(), scene.sampler.queries
    samples = draws_of(scene.model)(episode.support, count).cpu().clamp(0, 1)
    flat = samples.flatten(0, 1)
    kinds: dict[str, Callable[[Tensor], Tensor]] = {"pixels": lambda images: images.flatten(1)}
    if scene.critic is not None:
        kinds["the critic's features"] = scene.critic.embed
    found = [
        _values(scene.train, nearest(flat, scene.train, by)).unflatten(0, samples.shape[:2]) for by in kinds.values()
    ]
    rows = [
        [*_arrays(support if i == 0 else support * 0), *_arrays(line[b])]
        for b, support in enumerate(episode.support.cpu())
        for i, line in enumerate([samples, *found])
    ]
    said = " and ".join(kinds)
    caption = f"Support to the left; samples to the right, and under each the nearest training image by {said}."
    return Picture(contact_sheet(rows, split=episode.shots), caption)


def nearest(images: Float[Tensor, "N C H W"], among: Images, by: Callable[[Tensor], Tensor]) -> np.ndarray:
    """For each image the index of that ``among`` others whose features ``by`` are the nearest, the first of equals."""
    asked, best = by(images), torch.full((len(images),), torch.inf, dtype=torch.float64)
    index = torch.zeros(len(images), dtype=torch.long)
    for start in range(0, len(among.pixels), SEARCHED):
        held = by(_values(among, np.arange(start, min(start + SEARCHED, len(among.pixels)))).to(images))
        apart, place = torch.cdist(asked, held).double().min(1)
        closer = apart < best
        best, index = torch.where(closer, apart, best), torch.where(closer, start + place, index)
    return index.numpy()


@picture("reconstructions")
def reconstructions(scene: Scene) -> Picture:
    """Images of the class, and each from the mean of its latents under q(z | image, support)."""
    episode = scene.episode()
    if isinstance(scene.model, PerView) or not latents(scene.model.guide, episode.sharing()):
        return Picture(None, "The model has no latent, so there is nothing to reconstruct from.")
    try:
        again = reconstruct(scene.model, episode)
    except NotImplementedError:
        return Picture(None, "The likelihood of the model has no mean in closed form to show.")
    rows = [
        [*_arrays(support if i == 0 else support * 0), *_arrays(line)]
        for support, query, mean in zip(episode.support, episode.query, again, strict=True)
        for i, line in enumerate([query, mean])
    ]
    caption = (
        "Support to the left; other images of the class to the right, and under each the mean of p(x | z, support) at "
        "the mean of q(z | image, support)."
    )
    return Picture(contact_sheet(rows, split=episode.shots), caption)


@picture("codes")
def codes(scene: Scene) -> Picture:
    """Sets of unseen classes, each where principal components put the mean of the latent drawn first given it."""
    model, sampler = scene.model, scene.sampler
    if isinstance(model, PerView) or not latents(model.model, scene.episode().sharing()):
        return Picture(None, "The model has no latent, so a set has no code.")
    draws = _of_few_groups(sampler)
    sets = sampler.gather(draws)[:, : sampler.shots].to(next(model.parameters()))
    drawn_first = next(iter(latents(model.model, Episode(sets, sets[:, :1]).sharing()).values()))
    means = drawn_first.mean.expand(drawn_first.batch_shape + drawn_first.event_shape)
    points = means.double().reshape(len(sets), -1).cpu().numpy()
    points = points - points.mean(0)
    if np.ptp(points, axis=0).max() < 1e-6:
        return Picture(None, "The latents of the model do not depend on the support, so a set has no code.")
    left, sizes, _ = np.linalg.svd(points, full_matrices=False)
    groups = [sampler.images.groups[sampler.images.labels[d.images[0]]] for d in draws]
    names = sorted(set(groups))
    tints = np.array(TINTS)[[names.index(group) for group in groups]]
    share = 100 * (sizes[:2] ** 2).sum() / (sizes**2).sum()
    caption = (
        f"{len(sets)} sets of {sampler.shots} images, each drawn as its first image where two principal components "
        f"({share:.0f} % of the variance) put the mean of its latent given the set; a colour a group: "
        f"{', '.join(names)}."
    )
    return Picture(_placed((left * sizes)[:, :2], sets[:, 0].cpu().numpy(), tints), caption)


@picture("attention")
def attention(scene: Scene) -> Picture:
    """What a model reads of its support, for single pixels of an image or for the whole of it."""
    model, episode = scene.model, scene.episode()
    if not isinstance(model, Attends):
        return Picture(None, "The model does not attend to its support, so there is no attention to show.")
    episode = Episode(episode.support[:ATTENDED], episode.query[:ATTENDED, :ASKED])
    try:
        patches, nothing = (shares.float().cpu().numpy() for shares in model.attention_maps(episode))
    except InputError as error:
        return Picture(None, str(error))
    by_pixel, rows = patches.shape[2] * patches.shape[3] > 1, []
    for b, (support, queries) in enumerate(zip(*map(_inked, (episode.support, episode.query)), strict=True)):
        if by_pixel:
            for y, x in _asking(queries[0], ASKED):
                drawn, none = _as_far_as(queries[0], y, x), float(nothing[b, 0, y, x].mean())
                rows.append(_reading(drawn, support, patches[b, 0, y, x].mean(0), none))
        else:
            for q, n in np.ndindex(len(queries), patches.shape[4]):
                rows.append(_reading(queries[q], support, patches[b, q, 0, 0, n], float(nothing[b, q, 0, 0, n])))
    return Picture(contact_sheet(rows, scale=3, split=1), _asked(by_pixel, patches.shape[4]) + READING)


READING = (
    " Right: the support; the deeper the orange, the more is read there, full orange where most is in that row. The "
    "bar under an image is its share of all that is read; the frame without an image stands for reading nothing."
)


def _asked(by_pixel: bool, readings: int) -> str:
    """The first words of the caption: who asks."""
    if by_pixel:
        heads = f", in the mean of {readings} heads" if readings > 1 else ""
        return f"Left: an image as far as it is drawn; the pixel at the tip of the red line asks{heads}."
    steps = f", a row each of {readings} attention steps" if readings > 1 else ""
    return f"Left: an image of the class that is encoded{steps}."


def _inked(images: Tensor) -> np.ndarray:
    """Images as colours [..., 3, H, W] with dark ink on white, or pale where they have colours of their own."""
    values = images.clamp(0, 1).float().cpu().numpy()
    return np.repeat(1 - values, 3, -3) if values.shape[-3] == 1 else 0.4 + 0.6 * values


def _asking(image: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Places of pixels that split the ink of an image [3, H, W], in the order of drawing, into equal parts."""
    ink = (1 - image.mean(0)).ravel().astype(np.float64) + 1e-6
    drawn = ink.cumsum() / ink.sum()
    found = np.searchsorted(drawn, (np.arange(count) + 0.5) / count)
    return [divmod(int(i), image.shape[-1]) for i in found]


def _as_far_as(image: np.ndarray, y: int, x: int) -> np.ndarray:
    """An image [3, H, W] up to a pixel, at which a line ends from below; grey after it."""
    drawn = image.copy()
    drawn[:, y, x + 1 :] = drawn[:, y + 1 :] = 0.85
    drawn[:, y : y + 4, x] = MARK[:, :, 0]
    return drawn


def _reading(query: np.ndarray, support: np.ndarray, shares: np.ndarray, none: float) -> list[np.ndarray]:
    """A row of a sheet: the query, the support tinted by shares [S, h, w], and an empty frame, above bars of shares."""
    frame = np.ones_like(query)
    most = max(float(shares.max(initial=0)), 1e-12)
    row = [_above_a_bar(query, 0.0)]
    for image, share in zip(support, shares, strict=True):
        rows, columns = (np.arange(n) * k // n for n, k in zip(image.shape[1:], share.shape, strict=True))
        strength = share[np.ix_(rows, columns)] / most
        row.append(_above_a_bar(image * (1 - strength * (1 - READ)), float(share.sum())))
    return [*row, _above_a_bar(frame, none)]


def _above_a_bar(image: np.ndarray, share: float) -> np.ndarray:
    """An image [3, H, W] above a bar that fills a share of its width, 4 rows higher."""
    strip = np.ones((3, 4, image.shape[-1]))
    strip[:, 0] = 0.9
    strip[:, 1:3, : round(share * image.shape[-1])] = READ[:, :1]
    return np.concatenate([image, strip], 1)


def _of_few_groups(sampler: EpisodeSampler) -> list[Draw]:
    """The sampler's first draws whose classes are of the first groups that have a colour."""
    groups, found, kept = sampler.images.groups, list[Draw](), list[str]()
    for i in range(20 * MAPPED):
        draw = sampler.draw(i)
        group = groups[sampler.images.labels[draw.images[0]]]
        if group not in kept and len(kept) < len(TINTS):
            kept.append(group)
        if group in kept:
            found.append(draw)
        if len(found) == MAPPED:
            break
    return found


def _placed(points: np.ndarray, images: np.ndarray, tints: np.ndarray) -> np.ndarray:
    """A map of images at their points, their ink in their tint on white; ink of several is mixed."""
    height, width = images.shape[-2:]
    low, high = points.min(0), points.max(0)
    place = ((points - low) / np.maximum(high - low, 1e-12) * (SIDE - max(height, width) - 1)).astype(int)
    canvas = np.full((SIDE, SIDE, 3), 255.0)
    for (x, y), image, tint in zip(place, images, tints, strict=True):
        ink = image.mean(0)[..., None]
        part = canvas[y : y + height, x : x + width]
        part[:] = np.minimum(part, 255 * (1 - ink) + ink * tint)
    return canvas.round().astype(np.uint8)


def _arrays(images: Tensor) -> list[np.ndarray]:
    return [image.clamp(0, 1).float().cpu().numpy() for image in images]


def _values(images: Images, index: Any) -> Tensor:
    return torch.from_numpy(images.pixels[index]).float() / (images.levels - 1)
