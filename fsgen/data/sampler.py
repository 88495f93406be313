"""Episodes drawn from images: episode i depends on the seed and on i alone."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from fsgen.data.augment import transforms
from fsgen.data.images import Images
from fsgen.episode import Episode
from fsgen.errors import DataError, InputError

PROTOCOLS = ("strict", "published")
LIST_VERSION = 1
WHOLE = slice(None)


@dataclass(frozen=True)
class Draw:
    """The choices behind one episode.

    Attributes:
        images: int64 [T], indices into ``Images.pixels``; support first, then queries, in support/query episodes.
        ways: int64 [T], which of the episode's classes each image belongs to, 0 ... ways-1.
        transform: int64 [T], class-making transform of each image; 0 is none.
    """

    images: np.ndarray
    ways: np.ndarray
    transform: np.ndarray


class EpisodeSampler:
    """Episodes of a few classes, by counter-based random numbers.

    Sequential episodes (``length`` T) score image t given images 0 ... t-1. Support/query episodes (``shots`` and
    ``queries`` a class) show every query the whole support.

    Protocols: "strict" (default) draws distinct classes and no image twice. "published" is that of the generative
    matching networks' code: classes, the class of each image, and images are all drawn with replacement, so that a
    target repeats one of t conditioning images with probability 1 - (1 - 1/(20 C))^t.

    Args:
        images: what to draw from.
        ways: classes an episode; several numbers are drawn from uniformly, episode by episode.
        length: T of sequential episodes; ignored where ``shots`` is given.
        shots, queries: images a class in support/query episodes.
        protocol: "strict" or "published".
        grouped: draw the classes of an episode from one group, such as an alphabet; every group that holds enough
            classes is as likely as another.
        augment: "none" or "dihedral" (see :func:`fsgen.data.augment.transforms`), one transform a class.
        augment_share: share of the classes that get a transform at all; the others stay as they are.
        seed: of this stream of episodes.
        small: "refuse" classes that cannot fill an episode, or "skip" them.

    Raises:
        DataError: too few classes, or classes with too few images; names them and gives the edit.
        InputError: an option out of range.

    Source of the published protocol: Bartunov & Vetrov (2018), sec. 4.1, and their code.
    """

    def __init__(
        self,
        images: Images,
        *,
        ways: int | Sequence[int] = 1,
        length: int = 20,
        shots: int | None = None,
        queries: int = 1,
        protocol: str = "strict",
        grouped: bool = False,
        augment: str = "none",
        augment_share: float = 1.0,
        seed: int = 0,
        small: str = "refuse",
    ) -> None:
        self.ways = (ways,) if isinstance(ways, int) else tuple(ways)
        if protocol not in PROTOCOLS:
            raise InputError(f"no protocol '{protocol}'. Known: {', '.join(PROTOCOLS)}.")
        if small not in ("refuse", "skip"):
            raise InputError(f"small='{small}': give 'refuse' or 'skip'.")
        for name, value, least in (
            ("ways", min(self.ways, default=0), 1),
            ("length", length, 1),
            ("queries", queries, 1),
        ):
            if value < least:
                raise InputError(f"episodes: {name} is {value}; give {least} or more.")
        if shots is not None and shots < 0:
            raise InputError(f"episodes: shots is {shots}; give 0 or more.")
        if not 0 <= seed < 2**64:
            raise InputError(f"episodes: seed is {seed}; give 0 or more, and less than 2**64.")
        self.images, self.length, self.shots, self.queries = images, length, shots, queries
        self.protocol, self.seed = protocol, seed
        if not 0 <= augment_share <= 1:
            raise InputError(f"episodes.augment_share is {augment_share}; give a share from 0 to 1.")
        self.permutations = transforms(augment, *images.event_shape[1:])
        self.augment_share = augment_share
        self._flat = images.pixels.reshape(*images.pixels.shape[:2], -1)
        self.classes = self._usable_classes(small)
        self.pools = self._groups() if grouped else [self.classes]

    def _usable_classes(self, small: str) -> np.ndarray:
        counts = np.array([len(members) for members in self.images.members])
        needed = 1
        if self.protocol == "strict":
            needed = -(-self.length // min(self.ways)) if self.shots is None else self.shots + self.queries
        short = np.flatnonzero(counts < needed)
        if len(short) and small == "refuse":
            worst = ", ".join(f"'{self.images.class_names[c]}' ({counts[c]})" for c in short[:5])
            more = f" and {len(short) - 5} more" if len(short) > 5 else ""
            raise DataError(
                f"{self.images}: an episode needs {needed} images a class, but {worst}{more} hold fewer; "
                f"shorten the episodes to {int(counts.min())} images a class, add images, or skip small classes "
                f"with --episodes.small skip."
            )
        usable = np.flatnonzero(counts >= needed)
        if len(usable) < (max(self.ways) if self.protocol == "strict" else 1):
            raise DataError(
                f"{self.images}: {len(usable)} classes can fill an episode of {max(self.ways)} ways; "
                f"lower --episodes.ways or add classes."
            )
        return usable

    def _groups(self) -> list[np.ndarray]:
        """The usable classes of each group that can fill an episode."""
        groups, ways = np.array(self.images.groups), max(self.ways)
        if not any(self.images.groups):
            raise InputError(
                f"{self.images}: its classes are in no groups (no name is GROUP/CLASS), such as alphabets; "
                f"draw classes at random, or choose a source with groups."
            )
        members = [self.classes[groups[self.classes] == group] for group in sorted(set(groups))]
        if not (pools := [pool for pool in members if len(pool) >= ways]):
            raise DataError(
                f"{self.images}: the largest of {len(members)} groups holds {max(map(len, members))} usable classes, "
                f"an episode {ways}; lower the ways."
            )
        return pools

    def draw(self, i: int) -> Draw:
        """The choices of episode ``i``."""
        rng = np.random.Generator(np.random.Philox(key=[self.seed, LIST_VERSION], counter=[0, 0, 0, i]))
        ways = self.ways[rng.integers(len(self.ways))] if len(self.ways) > 1 else self.ways[0]
        replace = self.protocol == "published"
        classes = self.pools[rng.integers(len(self.pools))] if len(self.pools) > 1 else self.pools[0]
        if replace:
            chosen = classes[rng.integers(len(classes), size=ways)]
        else:
            chosen = rng.choice(classes, ways, replace=False)
        turned = rng.integers(len(self.permutations), size=ways)
        if self.augment_share < 1:
            turned = np.where(rng.random(ways) < self.augment_share, turned, 0)
        pools = [self.images.members[c] for c in chosen]
        if self.shots is not None:
            index, way = self._by_class(rng, pools, replace)
        elif replace:
            way = rng.integers(ways, size=self.length)
            index = np.array([pools[w][rng.integers(len(pools[w]))] for w in way])
        else:
            pooled, owner = np.concatenate(pools), np.repeat(np.arange(ways), [len(p) for p in pools])
            order = rng.permutation(len(pooled))[: self.length]
            index, way = pooled[order], owner[order]
        return Draw(index, way, turned[way])

    def _by_class(
        self, rng: np.random.Generator, pools: list[np.ndarray], replace: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        assert self.shots is not None
        rows = np.stack([rng.choice(pool, self.shots + self.queries, replace=replace) for pool in pools])
        index = np.concatenate([rows[:, : self.shots].ravel(), rows[:, self.shots :].ravel()])
        ways = np.arange(len(pools))
        return index, np.concatenate([np.repeat(ways, self.shots), np.repeat(ways, self.queries)])

    def gather(self, draws: Sequence[Draw]) -> torch.Tensor:
        """Images of several draws of equal length, float32 [B, T, C, H, W] in [0, 1]."""
        index = np.stack([d.images for d in draws])
        pixels = self._flat[index]
        if len(self.permutations) > 1:
            turn = np.stack([d.transform for d in draws])
            for t in range(1, len(self.permutations)):
                pixels[turn == t] = pixels[turn == t][..., self.permutations[t]]
        values = torch.from_numpy(pixels.reshape(*index.shape, *self.images.event_shape))
        return values.float() if self.images.levels == 2 else values.float() / (self.images.levels - 1)

    def episode(self, indices: Sequence[int]) -> Episode:
        """A batch of the episodes numbered ``indices``."""
        draws = [self.draw(i) for i in indices]
        if self.shots is None:
            return Episode.sequential(self.gather(draws))
        if len({len(d.images) for d in draws}) > 1:
            raise InputError("support/query episodes with different numbers of ways cannot share a batch; give one.")
        images = self.gather(draws)
        cut = images.shape[1] * self.shots // (self.shots + self.queries)
        return Episode(images[:, :cut], images[:, cut:], ways=len(np.unique(draws[0].ways)))

    def stream(
        self,
        batch: int,
        start: int = 0,
        steps: int | None = None,
        workers: int = 0,
        share: slice = WHOLE,
    ) -> Iterator[Episode]:
        """Batches start, start+1, ... ; batch s holds episodes s*batch ... s*batch + batch-1.

        Args:
            steps: number of batches; None goes on for ever.
            workers: processes that prepare batches ahead; they change nothing but the speed.
            share: which episodes of each batch to draw, where others draw the rest.
        """
        batches = _Batches(self, batch, share)
        stop = start + steps if steps is not None else 2**62
        if workers == 0:
            for step in range(start, stop):
                yield batches[step]
        else:
            own = torch.Generator()  # else the loader takes a number from the one that latents are drawn from
            yield from DataLoader(
                batches,
                batch_size=None,
                sampler=range(start, stop),
                num_workers=workers,
                generator=own,
                worker_init_fn=_leave_signals_to_the_trainer,
            )

    def digest(self, count: int) -> str:
        """sha256 over the images' digest and the choices of episodes 0 ... count-1: the name of an evaluation list."""
        h = hashlib.sha256(f"{LIST_VERSION} {self.images.digest} {self.protocol}".encode())
        for i in range(count):
            d = self.draw(i)
            h.update(np.stack([d.images, d.ways, d.transform]).astype("<i8").tobytes())
        return h.hexdigest()


class _Batches(Dataset[Episode]):
    def __init__(self, sampler: EpisodeSampler, batch: int, share: slice) -> None:
        self.sampler, self.batch, self.share = sampler, batch, share

    def __getitem__(self, step: int) -> Episode:
        return self.sampler.episode(range(step * self.batch, (step + 1) * self.batch)[self.share])


def _leave_signals_to_the_trainer(worker: int) -> None:
    """A stop signal often goes to all processes of a job; a worker that died of it would break the trainer's step."""
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):
        if hasattr(signal, name):
            signal.signal(signal.Signals[name], signal.SIG_IGN)
