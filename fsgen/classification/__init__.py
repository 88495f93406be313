"""Few-shot classifiers: by likelihood, by what a model infers, and baselines without training."""

from fsgen.classification.accuracy import Accuracy, accuracy
from fsgen.classification.classifier import EpisodicClassifier, ModelClassifier
from fsgen.classification.context import ContextClassifier
from fsgen.classification.decision import Decision
from fsgen.classification.density import KernelDensity
from fsgen.classification.learner import Learner
from fsgen.classification.likelihood import LikelihoodClassifier
from fsgen.classification.neighbours import FeatureClassifier, PixelNeighbours

__all__ = [
    "Accuracy",
    "ContextClassifier",
    "Decision",
    "EpisodicClassifier",
    "FeatureClassifier",
    "KernelDensity",
    "Learner",
    "LikelihoodClassifier",
    "ModelClassifier",
    "PixelNeighbours",
    "accuracy",
]
