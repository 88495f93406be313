"""The discretised mixture of logistics: a probability for each of the 256 values of a pixel, with channels in a chain.

Reference: Salimans, Karpathy, Chen & Kingma (2017), "PixelCNN++: improving the PixelCNN with discretized logistic
mixture likelihood and other modifications", ICLR; arXiv:1701.05517.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints
from torch.nn import functional as F

TOP = 255
HALF_BIN = 1 / TOP  # pixels are placed on [-1, 1]: value k at 2k/255 - 1
LEAST_LOG_SCALE, MOST_LOG_SCALE = -7.0, 7.0


def parameters_of(channels: int) -> int:
    """Parameters of one component at one pixel: weight, C means, C scales, C(C-1)/2 coefficients."""
    return 1 + 2 * channels + channels * (channels - 1) // 2


class LogisticMixture(TorchDistribution):
    r"""Independent pixels of 256 values, each a mixture over components that its channels share.

    With :math:`x_c = 2k_c/255 - 1` for value :math:`k_c` of channel c (eq. 2 and 3; the chain for any C):

    .. math::
        p(k) = \sum_i \pi_i \prod_c \left[ \sigma\!\left(\frac{x_c + 1/255 - m_{ic}}{s_{ic}}\right)
               - \sigma\!\left(\frac{x_c - 1/255 - m_{ic}}{s_{ic}}\right) \right], \quad
        m_{ic} = \mu_{ic} + \sum_{j<c} \tanh(a_{icj})\, x_j

    with the open tails in the bins of 0 and 255, so that the values sum to one. Zero parameters are a broad mixture:
    means at the centres of equal parts of the range, scales half as wide as a part. The scales keep above exp(-7),
    about an eighth of a bin, where a gradient still flows, and below exp(7).

    Args:
        parameters: of the network; component by component weight, means, scales and coefficients (c by c, then j).
        channels: C. components: M.

    Raises:
        ValueError: parameters of another number.
    """

    arg_constraints = {"parameters": constraints.independent(constraints.real, 3)}  # noqa: RUF012
    support = constraints.independent(constraints.unit_interval, 3)

    def __init__(
        self,
        parameters: Float[Tensor, "*batch P H W"],
        channels: int,
        components: int,
        validate_args: bool | None = None,
    ) -> None:
        wanted = components * parameters_of(channels)
        if parameters.shape[-3] != wanted:
            raise ValueError(
                f"LogisticMixture: {components} components of {channels} channels take {wanted} parameters a pixel, "
                f"got {parameters.shape[-3]}; decode to Head.outputs."
            )
        self.parameters, self.channels, self.components = parameters, channels, components
        event = torch.Size((channels, *parameters.shape[-2:]))
        super().__init__(parameters.shape[:-3], event, validate_args=validate_args)

    def expand(self, batch_shape: Sequence[int], _instance: object = None) -> LogisticMixture:
        expanded = self.parameters.expand(*batch_shape, *self.parameters.shape[-3:])
        return LogisticMixture(expanded, self.channels, self.components, validate_args=False)

    def log_prob(self, value: Float[Tensor, "*images C H W"]) -> Float[Tensor, "*batch"]:
        """Nats of images with values in [0, 1]; one between two values counts as the nearer of them."""
        if self._validate_args:
            self._validate_sample(value)
        weights, means, log_scales, coefficients = self._parts()
        level = (value * TOP).round().unsqueeze(-4)  # [..., 1, C, H, W]
        x = 2 * level / TOP - 1
        chained = [means[..., c, :, :] + _chain(coefficients, x, c) for c in range(self.channels)]
        bins = log_bin(level, torch.stack(chained, -3), log_scales)
        return (weights.log_softmax(-3) + bins.sum(-3)).logsumexp(-3).sum((-2, -1))

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> Float[Tensor, "*shape C H W"]:
        """Images with values k/255: a component a pixel, then one channel after the other."""
        with torch.no_grad():
            parts = self._parts()
            weights = parts[0].movedim(-3, -1)
            shape = torch.Size(sample_shape)
            chosen = torch.distributions.Categorical(logits=weights, validate_args=False).sample(shape)
            index = chosen[..., None, None, :, :]  # [..., 1, 1, H, W]
            means, log_scales, coefficients = (_pick(part, index) for part in parts[1:])
            x = torch.zeros_like(means)
            for c in range(self.channels):
                loc = means[..., c, :, :] + _chain(coefficients, x, c)
                u = torch.rand_like(loc).clamp(torch.finfo(loc.dtype).tiny, 1 - torch.finfo(loc.dtype).eps)
                drawn = loc + log_scales[..., c, :, :].exp() * u.logit()
                x[..., c, :, :] = 2 * _nearest_level(drawn) / TOP - 1
            return _nearest_level(x) / TOP

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-weights [..., M, H, W]; means and log-scales [..., M, C, H, W]; coefficients [..., M, C(C-1)/2, H, W]."""
        c, m = self.channels, self.components
        raw = self.parameters.unflatten(-3, (m, parameters_of(c)))
        weights, means, scales, coefficients = raw.split((1, c, c, c * (c - 1) // 2), -3)
        centres = (2 * torch.arange(m, dtype=raw.dtype, device=raw.device) + 1) / m - 1
        at_zero = -math.log(m) - LEAST_LOG_SCALE
        log_scales = LEAST_LOG_SCALE + F.softplus(scales + math.log(math.expm1(at_zero)))
        means = means + centres[:, None, None, None]
        return weights.squeeze(-3), means, log_scales.clamp(max=MOST_LOG_SCALE), coefficients.tanh()


def log_bin(
    level: Float[Tensor, "*#shape"], loc: Float[Tensor, "*#shape"], log_scale: Float[Tensor, "*#shape"]
) -> Float[Tensor, "*shape"]:
    r"""Log-mass of the bins ``level`` (0 to 255) under a logistic on [-1, 1], open at both ends.

    Stable and of finite gradient everywhere by
    :math:`\sigma(a) - \sigma(b) = \sigma(a)\, \sigma(-b)\, (1 - e^{b-a})`; at an end one factor remains.
    """
    centred, precision = 2 * level / TOP - 1 - loc, (-log_scale).exp()
    bottom, top = level <= 0, level >= TOP
    zero = centred.new_zeros(())
    below = torch.where(top, zero, F.logsigmoid((centred + HALF_BIN) * precision))
    above = torch.where(bottom, zero, F.logsigmoid((HALF_BIN - centred) * precision))
    inside = torch.where(bottom | top, zero, (-torch.expm1(-2 * HALF_BIN * precision)).log())
    return below + above + inside


def _chain(coefficients: Tensor, x: Tensor, c: int) -> Tensor:
    """What the channels before c add to the mean of channel c, [..., H, W]; 0 for the first."""
    start = c * (c - 1) // 2
    return (coefficients[..., start : start + c, :, :] * x[..., :c, :, :]).sum(-3)


def _pick(part: Tensor, index: Tensor) -> Tensor:
    """The chosen component of [*batch, M, D, H, W] at every pixel: [*shape, *batch, D, H, W]."""
    shape = (*index.shape[:-4], *part.shape[-4:])
    wanted = (*index.shape[:-4], 1, part.shape[-3], *part.shape[-2:])
    return part.expand(shape).gather(-4, index.expand(wanted)).squeeze(-4)


def _nearest_level(x: Tensor) -> Tensor:
    """The value 0 ... 255 in whose bin ``x`` of [-1, 1] lies; what lies outside goes to the ends."""
    return ((x + 1) * (TOP / 2)).round().clamp(0, TOP)
