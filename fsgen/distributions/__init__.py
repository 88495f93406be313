"""Distributions from network outputs, and the plates they live in."""

from fsgen.distributions.heads import HEADS, BernoulliHead, Head, bernoulli, head
from fsgen.distributions.latents import full_precision, gaussian, standard_normal
from fsgen.distributions.plates import plates

__all__ = [
    "HEADS",
    "BernoulliHead",
    "Head",
    "bernoulli",
    "full_precision",
    "gaussian",
    "head",
    "plates",
    "standard_normal",
]
