"""Results files as `fsgen evaluate` writes them, of invented scores."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

SETS = 40


def line(shots: int = 0, values: Iterable[float] | None = None, **changes: Any) -> dict[str, Any]:
    """A line of kind "likelihood"; its sums follow from ``values``, one a set."""
    seed = [shots, len(str(changes.get("run", "")))]
    scores = np.round(np.random.default_rng(seed).normal(80 - shots, 9, SETS) if values is None else values, 4)
    mean, se = float(np.mean(scores)), float(np.std(scores, ddof=1) / np.sqrt(len(scores)))
    data = {"name": "glyphs", "options": {}, "split": "test", "digest": "d" * 64}
    record = {
        "kind": "likelihood",
        "run": "first",
        "model": {"name": "gmn", "options": {"event_shape": [1, 4, 4]}},
        "weights_sha256": "a" * 64,
        "data": data | changes.pop("data", {}),
        "protocol": "strict",
        "length": 20,
        "seed": 0,
        "list_digest": "c" * 64,
        "ways": 1,
        "shots": shots,
        "nats": mean,
        "se": se,
        "bits_per_dim": mean / (np.log(2) * 16),
        "ess": 0.25,
        "ess_min": 0.125,
        "exact": False,
        "particles": 50,
        "sets": len(scores),
        "repeated": {"sets": 0, "nats": None, "se": None},
        "unrepeated": {"sets": len(scores), "nats": mean, "se": se},
        "per_set": scores.tolist(),
        "provenance": {
            "fsgen": "0.1.0",
            "git": {"commit": "b" * 40, "dirty": False},
            "command": ["fsgen", "evaluate", "runs/first"],
            "time": "2026-01-02T03:04:05+00:00",
        },
    }
    return record | changes


def verdict(**changes: Any) -> dict[str, Any]:
    """A line of kind "classification"."""
    about = {name: line()[name] for name in ("run", "model", "weights_sha256", "data", "protocol", "seed")}
    found = {"accuracy": 0.825, "low": 0.79, "high": 0.86, "ece": 0.031, "episodes": 400}
    bins = [
        {"from": 0.0, "to": 0.5, "confidence": 0.3, "accuracy": 0.25, "queries": 10},
        {"from": 0.5, "to": 1.0, "confidence": 0.9, "accuracy": 0.95, "queries": 30},
    ]
    whole = {**about, **found, "bins": bins, "list_digest": "e" * 64, "task": "random"}
    by = {"name": "likelihood", "options": {}}
    return {"kind": "classification", **whole, "ways": 5, "shots": 1, "classifier": by} | changes


def judged(**changes: Any) -> dict[str, Any]:
    """A line of kind "quality"."""
    about = {name: line()[name] for name in ("run", "model", "weights_sha256", "data", "protocol", "seed")}
    names = ("recognizability", "real_recognizability", "diversity", "novelty")
    means = dict(zip(names, (0.5, 0.875, 1.25, 0.75), strict=True))
    figures = {name: {"mean": m, "se": 0.01, "low": m - 0.02, "high": m + 0.02} for name, m in means.items()}
    critic = {"run": "the-critic", "model": {"name": "prototypical-network"}, "weights_sha256": "f" * 64}
    sizes = {"ways": 20, "shots": 1, "samples": 5, "episodes": 30, "chance": 0.05, "list_digest": "9" * 64}
    return {"kind": "quality", **about, "critic": critic, **sizes, **figures, "per_episode": {}} | changes


def annealed(**changes: Any) -> dict[str, Any]:
    """A line of kind "annealing"."""
    names = ("run", "model", "weights_sha256", "data", "protocol", "length", "seed", "ways", "provenance")
    about = {name: line()[name] for name in names}
    bound = {"particles": 100, "nats": 69.06, "se": 11.87, "ess": 0.03125}
    chains = {"chains": 8, "temperatures": 20, "leaps": 3, "nats": 65.51, "se": 11.01, "ess": 0.3125, "accepted": 0.63}
    both = {"importance": bound, "annealed": chains, "difference": {"nats": 3.55, "se": 0.99}, "per_set": {}}
    return {"kind": "annealing", **about, "list_digest": "8" * 64, "sets": 10, "shots": 5, **both} | changes


def scored(folder: Path, *lines: dict[str, Any]) -> Path:
    """A run folder that holds these results and no more."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in lines)
    (folder / "results.jsonl").write_text(text, encoding="utf-8")
    return folder
