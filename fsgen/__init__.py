"""fsgen: a few images in, a probability distribution over images out.

The public names are loaded on first use, so that ``import fsgen`` and the command line answer at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Episode": "fsgen.episode",
    "EpisodeSampler": "fsgen.data.sampler",
    "LikelihoodClassifier": "fsgen.classification",
    "FeatureClassifier": "fsgen.classification",
    "ContextClassifier": "fsgen.classification",
    "EpisodicClassifier": "fsgen.classification",
    "Images": "fsgen.data.images",
    "FewShotModel": "fsgen.model",
    "ConditionalDensity": "fsgen.model",
    "build": "fsgen.registry",
    "load": "fsgen.model",
    "load_images": "fsgen.data.sources",
    "register": "fsgen.registry",
}
__all__ = [*sorted(_HOME), "__version__"]

if TYPE_CHECKING:
    from fsgen.classification import ContextClassifier, EpisodicClassifier, FeatureClassifier, LikelihoodClassifier
    from fsgen.data.images import Images
    from fsgen.data.sampler import EpisodeSampler
    from fsgen.data.sources import load_images
    from fsgen.episode import Episode
    from fsgen.model import ConditionalDensity, FewShotModel, load
    from fsgen.registry import build, register


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fsgen' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
