"""Set encoders: ``embed`` each element once, then ``pool`` what each query may see.

Every encoder here takes ``visible [B, Q, S]`` (a hidden element counts as absent), returns a finite code for
an empty set, and does not depend on the order of the elements.
"""

from fsgen.sets.encoder import SetEncoder
from fsgen.sets.matching import Controller, Matching
from fsgen.sets.names import SET_ENCODERS, set_encoder
from fsgen.sets.patches import PatchMemory
from fsgen.sets.pooling import MaxPool, MeanPool, SumPool
from fsgen.sets.statistic import StatisticNetwork
from fsgen.sets.transformer import SetTransformer

__all__ = [
    "SET_ENCODERS",
    "Controller",
    "Matching",
    "MaxPool",
    "MeanPool",
    "PatchMemory",
    "SetEncoder",
    "SetTransformer",
    "StatisticNetwork",
    "SumPool",
    "set_encoder",
]
