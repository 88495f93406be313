"""What a training run is made of: dataclasses read from YAML and flags."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fsgen.errors import InputError


@dataclass
class DataConfig:
    """Where the images come from.

    Args:
        name: a data source listed by `fsgen data`.
        options: keyword arguments of the source.
        root: folder of data files; default the environment variable FSGEN_DATA, else ./data.
    """

    name: str = "glyphs"
    options: dict[str, Any] = field(default_factory=dict)
    root: str | None = None


@dataclass
class EpisodesConfig:
    """How episodes are drawn for training.

    Args:
        ways: classes an episode; several numbers are drawn from uniformly.
        length: images an episode, each scored given those before it.
        shots: images a class that are shown; makes support/query episodes, of one number of ways, in place of those
            of ``length``. A generative model then scores each query given the shots of its own class.
        queries: images a class that are asked about in support/query episodes.
        batch: episodes a step.
        protocol: strict (distinct classes, no image twice) or published (everything with replacement).
        augment: dihedral makes new classes by rotation and reflection; none does not.
        augment_share: share of the classes drawn that are rotated or reflected; the others stay upright.
        small: what to do with classes that cannot fill an episode.
        workers: processes that prepare episodes ahead; 0 prepares them in the training process.
    """

    ways: list[int] = field(default_factory=lambda: [1, 2])
    length: int = 20
    shots: int | None = None
    queries: int = 1
    batch: int = 10
    protocol: Literal["strict", "published"] = "strict"
    augment: Literal["none", "dihedral"] = "dihedral"
    augment_share: float = 1.0
    small: Literal["refuse", "skip"] = "refuse"
    workers: int = 0


@dataclass
class ModelConfig:
    """Which model is trained.

    Args:
        name: a model listed by `fsgen models`.
        preset: a named set of options the model declares, such as paper for gmn.
        options: keyword arguments of the model; they override the preset. event_shape comes from the data.
        init: folder of a run or saved model whose weights to start from; the architectures must agree.
    """

    name: str = "gmn"
    preset: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    init: str | None = None


@dataclass
class ObjectiveConfig:
    """What is maximised.

    Args:
        name: elbo or iwae.
        particles: importance samples K.
        kl_warmup: steps over which the weight of the KL terms grows from 0 to 1; 0 starts at 1.
        free_nats: latent sites below this mean KL get no gradient from it; 0 is off.
        alpha: weighs the likelihood by 1 + alpha and the KL terms by 1 / (1 + alpha) at first; 0 is off.
        alpha_halving: steps in which alpha falls to its half; 0 keeps it.
        label_weight: lambda of log p(x | own class) + lambda log p(class | x), by Bayes' rule over the classes of
            support/query episodes; 0 is purely generative.
    """

    name: Literal["elbo", "iwae"] = "elbo"
    particles: int = 1
    kl_warmup: int = 0
    free_nats: float = 0.0
    alpha: float = 0.0
    alpha_halving: int = 0
    label_weight: float = 0.0


@dataclass
class OptimiserConfig:
    """How the parameters move.

    Args:
        name: adam or adamw.
        learning_rate: peak value.
        schedule: constant; cosine to a hundredth of the peak; thirds, the published 1, 0.3, 0.1 times the peak.
        warmup: steps of linear warm-up.
        betas: of Adam.
        weight_decay: of AdamW (adam refuses a value other than 0).
        clip: largest norm of the gradient; 0 does not clip.
        ema: decay of the averaged weights that are validated and kept; 0 keeps the last weights.
    """

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine", "thirds"] = "cosine"
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.0
    clip: float = 100.0
    ema: float = 0.999


@dataclass
class ValidationConfig:
    """How weights are selected, on the validation classes.

    Args:
        every: steps between validations.
        sets: episodes scored, the same ones every time.
        particles: importance samples K.
        protocol: of those episodes, strict or published.
    """

    every: int = 1000
    sets: int = 50
    particles: int = 10
    protocol: Literal["strict", "published"] = "strict"


@dataclass
class TrainConfig:
    """One training run.

    Args:
        data: where the images come from.
        episodes: how episodes are drawn.
        model: which model.
        objective: what is maximised.
        optimiser: how the parameters move.
        validation: how weights are selected.
        steps: optimiser steps.
        seed: of weights, episodes and latents.
        device: cpu, cuda, cuda:1, mps.
        threads: CPU threads; 0 leaves torch's choice.
        bf16: autocast networks to bfloat16; densities stay in full precision.
        channels_last: memory layout of convolutions.
        compile: compile the networks with torch.compile.
        compile_mode: of torch.compile: default, reduce-overhead (CUDA graphs) or max-autotune.
        checkpoint_every: steps between checkpoints.
    """

    data: DataConfig = field(default_factory=DataConfig)
    episodes: EpisodesConfig = field(default_factory=EpisodesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    steps: int = 10_000
    seed: int = 0
    device: str = "cpu"
    threads: int = 0
    bf16: bool = False
    channels_last: bool = True
    compile: bool = False
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    checkpoint_every: int = 500

    def check(self) -> None:
        """Refuses values out of range.

        Raises:
            InputError: names the field, its value and what it takes.
        """
        least = {
            "steps": (self.steps, 1),
            "checkpoint_every": (self.checkpoint_every, 1),
            "threads": (self.threads, 0),
            "seed": (self.seed, 0),
            "episodes.batch": (self.episodes.batch, 1),
            "episodes.shots": (self.episodes.shots or 0, 0),
            "episodes.queries": (self.episodes.queries, 1),
            "episodes.workers": (self.episodes.workers, 0),
            "objective.particles": (self.objective.particles, 1),
            "objective.kl_warmup": (self.objective.kl_warmup, 0),
            "objective.free_nats": (self.objective.free_nats, 0),
            "objective.alpha": (self.objective.alpha, 0),
            "objective.alpha_halving": (self.objective.alpha_halving, 0),
            "objective.label_weight": (self.objective.label_weight, 0),
            "optimiser.warmup": (self.optimiser.warmup, 0),
            "optimiser.weight_decay": (self.optimiser.weight_decay, 0),
            "optimiser.clip": (self.optimiser.clip, 0),
            "validation.every": (self.validation.every, 1),
            "validation.sets": (self.validation.sets, 2),
            "validation.particles": (self.validation.particles, 1),
        }
        for name, (value, bound) in least.items():
            if not value >= bound:
                raise InputError(f"{name} is {value}; give {bound} or more.")
        if self.episodes.shots is not None and len(self.episodes.ways) != 1:
            raise InputError(f"episodes.ways is {self.episodes.ways}; give one number where episodes.shots is given.")
        if self.objective.label_weight and not (self.episodes.shots and self.episodes.ways[0] > 1):
            raise InputError(
                "objective.label_weight needs --episodes.shots, 1 or more, and --episodes.ways, 2 or more."
            )
        if not 0 < self.optimiser.learning_rate < float("inf"):
            raise InputError(f"optimiser.learning_rate is {self.optimiser.learning_rate}; give a positive number.")
        if not 0 <= self.optimiser.ema < 1:
            raise InputError(f"optimiser.ema is {self.optimiser.ema}; give a decay from 0 up to, not including, 1.")
        if self.optimiser.name == "adam" and self.optimiser.weight_decay:
            raise InputError("optimiser.weight_decay needs --optimiser.name adamw.")


SECTIONS = (DataConfig, EpisodesConfig, ModelConfig, ObjectiveConfig, OptimiserConfig, ValidationConfig)


def as_plain(config: TrainConfig) -> dict[str, Any]:
    """The configuration as nested plain values, as they stand in a run's config.yaml."""
    return dataclasses.asdict(config)


def from_plain(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """The inverse of :func:`as_plain`; fields that are missing take their defaults.

    Raises:
        InputError: a field that ``kind`` does not have.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}
    if unknown := [name for name in values if name not in fields]:
        raise InputError(f"{kind.__name__} has no field '{unknown[0]}'. It has: {', '.join(fields)}.")
    made = {}
    for name, value in values.items():
        factory: Any = fields[name].default_factory
        nested = factory in SECTIONS
        made[name] = from_plain(factory, value) if nested else value
    return kind(**made)


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined by dots; tuples become lists, and ``options`` of models and sources stay whole.

    >>> flat({"a": {"b": (1, 2)}, "options": {"c": 3}})
    {'a.b': [1, 2], 'options': {'c': 3}}
    """
    out: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and key != "options":
            out.update(flat(value, f"{prefix}{key}."))
        else:
            out[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return out
