"""What every set encoder offers: ``embed`` each element once, then ``pool`` what each query may see."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fsgen.nets import over_images


class SetEncoder(nn.Module, ABC):
    """A set of images into one code a query.

    Args:
        element: network [N, C, H, W] -> [N, D], or None where the caller embeds the elements itself.

    Attributes:
        dim: R, the size of the set code.
    """

    dim: int

    def __init__(self, element: nn.Module | None) -> None:
        super().__init__()
        self.element = element

    def embed(self, elements: Float[Tensor, "B S *event"]) -> Float[Tensor, "B S D"]:
        """Features of every element; independent of the others, so computed once for all queries."""
        if self.element is None:
            raise TypeError(f"{type(self).__name__} was built without an element network: embed outside, then pool.")
        return over_images(self.element, elements)

    @abstractmethod
    def pool(
        self,
        embedded: Float[Tensor, "B S D"],
        visible: Bool[Tensor, "B Q S"],
        query: Float[Tensor, "*K B Q E"] | None = None,
    ) -> Float[Tensor, "*K B Q R"]:
        """The code of what each query sees; ``query`` steers encoders that attend."""


def for_each_query(code: Float[Tensor, "B Q R"], query: Float[Tensor, "*K B Q E"] | None) -> Float[Tensor, "*K B Q R"]:
    """The same code for every particle of ``query``: for encoders that no query steers."""
    return code if query is None else code.expand(*query.shape[:-1], -1)
