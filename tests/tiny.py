"""Training runs small enough for a test: a source of 4x4 strokes, and configurations for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fsgen.config import (
    DataConfig,
    EpisodesConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimiserConfig,
    TrainConfig,
    ValidationConfig,
)
from fsgen.data.images import Images
from fsgen.data.sources import SPLITS
from fsgen.run import Run

SIDE = 4
SMALL_MODELS: dict[str, dict[str, Any]] = {
    "beta-bernoulli": {},
    "vae": {"dim_z": 2, "channels": [4], "dim_features": 6},
    "gmn": {"dim_z": 2, "steps": 2, "dim_state": 6, "dim_prior": 4, "channels": [4], "dim_features": 6},
}


def strokes(split: str, root: Path, *, classes: int = 8, images: int = 8, size: int = SIDE) -> Images:
    """A class is a set of inked rows; one pixel in ten is flipped. Computed, so that it needs no files."""
    rng = np.random.default_rng(SPLITS.index(split))
    rows = rng.random((classes, 1, 1, size, 1)) < 0.25
    flipped = rng.random((classes, images, 1, size, size)) < 0.1
    pixels = (rows ^ flipped).astype(np.uint8).reshape(-1, 1, size, size)
    names = tuple(f"{split}/{i:03d}" for i in range(classes))
    return Images("strokes", split, pixels, np.repeat(np.arange(classes), images), names)


def picture_folder(path: Path, *, classes: int = 8, images: int = 8) -> Path:
    """The strokes as a folder of PNG files, ink light on dark, for the source "folder"."""
    held = strokes("train", path, classes=classes, images=images)
    for c, members in enumerate(held.members):
        (path / f"class{c:02d}").mkdir(parents=True)
        for i, member in enumerate(members):
            Image.fromarray(held.pixels[member, 0] * 255).save(path / f"class{c:02d}" / f"{i:02d}.png")
    return path


def config(
    model: str = "vae",
    *,
    data: dict[str, Any] | None = None,
    episodes: dict[str, Any] | None = None,
    objective: dict[str, Any] | None = None,
    optimiser: dict[str, Any] | None = None,
    validation: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
    **top: Any,
) -> TrainConfig:
    """A run of 12 steps on the strokes that takes a fraction of a second; arguments replace single fields."""
    return TrainConfig(
        data=DataConfig(name="strokes", options=data or {}),
        episodes=EpisodesConfig(**{"ways": [1], "length": 4, "batch": 3, **(episodes or {})}),
        model=ModelConfig(name=model, options=SMALL_MODELS[model] if options is None else options),
        objective=ObjectiveConfig(**(objective or {})),
        optimiser=OptimiserConfig(**{"learning_rate": 0.01, "warmup": 2, "ema": 0.9, **(optimiser or {})}),
        validation=ValidationConfig(**{"every": 4, "sets": 4, "particles": 2, **(validation or {})}),
        **{"steps": 12, "checkpoint_every": 3, "threads": 1, **top},
    )


def flags(settings: TrainConfig) -> list[str]:
    """The words of ``fsgen train`` that ask for ``settings``."""
    words = []

    def add(prefix: str, value: Any) -> None:
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                add(f"{prefix}.{field.name}" if prefix else field.name, getattr(value, field.name))
        elif isinstance(value, dict):
            for key, item in value.items():
                add(f"{prefix}.{key}", item)
        elif value is not None:
            shown = list(value) if isinstance(value, tuple) else value
            words.append(f"--{prefix}={str(shown).lower() if isinstance(shown, bool) else shown}")

    add("", settings)
    return words


def left_by(path: Path) -> dict[str, Any]:
    """Everything a run leaves that a resumed one must repeat bit by bit: all but the seconds it took."""
    run = Run.open(path)
    checkpoint = run.load_checkpoint()
    assert checkpoint is not None
    state = {key: value for key, value in checkpoint.state.items() if key != "seconds"}
    return {
        "step": checkpoint.step,
        "weights": checkpoint.weights,
        "state": state,
        "selected": run.load_weights(),
        "metrics": (path / "metrics.jsonl").read_bytes(),
        "config": (path / "config.yaml").read_bytes(),
    }


def differences(a: Any, b: Any, where: str = "run") -> list[str]:
    """The places at which two nested values are not equal to the last bit."""
    import torch

    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [found for key in a for found in differences(a[key], b[key], f"{where}.{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [found for i, (x, y) in enumerate(zip(a, b, strict=True)) for found in differences(x, y, f"{where}.{i}")]
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        same = a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
        return [] if same else [where]
    return [] if type(a) is type(b) and a == b else [where]


def before_each(call: Callable[..., Any], action: Callable[[int], Any]) -> Callable[..., Any]:
    """``call``, with ``action(number of the call)`` run before it."""
    count = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        action(count)
        return call(*args, **kwargs)

    return wrapped
