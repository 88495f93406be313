"""The plates every program of fsgen lives in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyro

from fsgen.episode import Episode


@contextmanager
def plates(episode: Episode) -> Iterator[None]:
    """The plates "episodes" [B] and "queries" [Q]: sites inside have batch shape [K, B, Q]."""
    with pyro.plate("episodes", episode.batch, dim=-2), pyro.plate("queries", episode.queries, dim=-1):
        yield
