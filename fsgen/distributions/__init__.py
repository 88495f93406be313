"""Distributions from network outputs, and the plates they live in."""

from fsgen.distributions.autoregressive import Autoregressive, GatedProgram, PixelProgram, RefinedProgram, decoded
from fsgen.distributions.heads import (
    HEADS,
    BernoulliHead,
    GaussianHead,
    Head,
    LogisticMixtureHead,
    bernoulli,
    head,
    head_for,
)
from fsgen.distributions.latents import full_precision, gaussian, standard_normal
from fsgen.distributions.logistics import LogisticMixture
from fsgen.distributions.orders import OrderAverage, turned, turns
from fsgen.distributions.plates import plates

__all__ = [
    "HEADS",
    "Autoregressive",
    "BernoulliHead",
    "GatedProgram",
    "GaussianHead",
    "Head",
    "LogisticMixture",
    "LogisticMixtureHead",
    "OrderAverage",
    "PixelProgram",
    "RefinedProgram",
    "bernoulli",
    "decoded",
    "full_precision",
    "gaussian",
    "head",
    "head_for",
    "plates",
    "standard_normal",
    "turned",
    "turns",
]
