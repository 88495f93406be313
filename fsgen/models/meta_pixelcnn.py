"""Meta PixelCNN: a PixelCNN that takes gradient steps on the support, and is trained through them.

References:
    Reed et al. (2018), "Few-shot autoregressive density estimation", ICLR; arXiv:1710.10304.
    Finn, Abbeel & Levine (2017), "Model-agnostic meta-learning for fast adaptation of deep networks", arXiv:1703.03400.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fsgen.adaptation import Adapted, InnerLoss, Learned, Likelihood, Sum
from fsgen.errors import InputError
from fsgen.registry import build, register


@register("meta-pixelcnn")
class MetaPixelCNN(Adapted):
    r"""PixelCNN whose parameters take gradient steps on the support, trained through the steps; exact likelihood.

    .. math::
        \theta' = \theta - \alpha \odot \nabla_\theta \frac1S \sum_s \ell_\psi(x_s; \theta), \qquad
        p(x \mid \text{support}) = \prod_i p_{\theta'}(x_i \mid x_{<i})

    Training may start from the weights of a ``pixelcnn`` with the same options.

    Options:
        event_shape: one image, (C, H, W).
        context, stages, dim_condition, channels, layers, kernel, first_kernel, likelihood: of the pixelcnn that is
            adapted.
        steps: inner gradient steps.
        rate: their size at first; each parameter tensor learns its own.
        inner: loss of a support image: its likelihood; learned, from the pixel parameters; or the sum of both.
        width: channels of the learned loss.
        first_order: drop the second derivatives of the model.
        only: beginnings of the names of the parameters to adapt, such as net.layers.7; None adapts all.
    """

    def __init__(
        self,
        *,
        event_shape: tuple[int, int, int] = (1, 28, 28),
        context: int = 16,
        stages: Sequence[int] = (32, 64),
        dim_condition: int = 32,
        channels: int = 32,
        layers: int = 8,
        kernel: int = 3,
        first_kernel: int = 7,
        likelihood: str = "bernoulli",
        steps: int = 1,
        rate: float = 1e-4,
        inner: str = "learned",
        width: int = 16,
        first_order: bool = False,
        only: Sequence[str] | None = None,
    ) -> None:
        base = build(
            "pixelcnn",
            event_shape=event_shape,
            context=context,
            stages=stages,
            dim_condition=dim_condition,
            channels=channels,
            layers=layers,
            kernel=kernel,
            first_kernel=first_kernel,
            likelihood=likelihood,
        )
        likelihood_loss = Likelihood(leave_one_out=False)
        learned = Learned(pixel_parameters, event_shape[0] + base.likelihood.outputs, width)
        losses: dict[str, InnerLoss] = {
            "learned": learned,
            "likelihood": likelihood_loss,
            "both": Sum(likelihood_loss, learned),
        }
        if inner not in losses:
            raise InputError(f"meta-pixelcnn: no inner loss '{inner}'. Known: {', '.join(losses)}.")
        super().__init__(
            base, losses[inner], steps=steps, rate=rate, first_order=first_order, only=only, vectorised=True
        )

    @classmethod
    def tiny(cls, event_shape: tuple[int, int, int]) -> MetaPixelCNN:
        return cls(
            event_shape=event_shape,
            context=2,
            stages=(4,),
            dim_condition=3,
            channels=4,
            layers=2,
            first_kernel=3,
            width=4,
        )


def pixel_parameters(base: Any, images: Tensor) -> Tensor:
    """Parameters [N, P, H, W] of every pixel of images [N, C, H, W] from those before it."""
    found: Tensor = base.program.parameters(images)
    return found
