"""The one door to torchvision, which must also open where its wheel was built for another torch."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from fsgen.errors import DataError

_OPERATORS = "torchvision::"


@functools.cache
def torchvision() -> ModuleType:
    """torchvision; its data sets, transforms, models and utils work even if its compiled operators do not load.

    torchvision's published Linux wheel is built for CUDA. Beside a CPU-only torch its extension does not
    load, and its import then fails on registering shapes for operators that were never defined. Only then is
    it imported again with those registrations left out; ``torchvision.ops.nms`` and its like keep their own
    error. Installing both packages from one index avoids all this.

    Raises:
        DataError: torchvision is not installed.
        RuntimeError: its import failed for another reason.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Failed to load image Python extension", UserWarning)
        try:
            return _imported()
        except RuntimeError as error:
            if f"operator {_OPERATORS}" not in str(error):
                raise
        for name in [n for n in sys.modules if n.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        with _without_fakes():
            return _imported()


def _imported() -> ModuleType:
    try:
        import torchvision
        import torchvision.datasets
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
        raise DataError(
            "torchvision is not installed: pip install torchvision, from the same package index as torch."
        ) from error
    return torchvision


@contextmanager
def _without_fakes() -> Iterator[None]:
    """While open, ``torch.library.register_fake`` passes over torchvision's operators."""
    import torch

    genuine = torch.library.register_fake

    @functools.wraps(genuine)
    def register_fake(op: Any, *args: Any, **options: Any) -> Callable[..., Any]:
        if str(op).startswith(_OPERATORS):
            return lambda function: function
        return genuine(op, *args, **options)

    torch.library.register_fake = register_fake
    try:
        yield
    finally:
        torch.library.register_fake = genuine
