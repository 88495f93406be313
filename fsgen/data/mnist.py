"""MNIST under one fixed random binarisation.

Source: LeCun, Bottou, Bengio & Haffner (1998), "Gradient-based learning applied to document recognition";
binarised files of Bartunov & Vetrov (2018), "Few-shot generative modelling with generative matching networks".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fsgen.data.files import gmn_file
from fsgen.data.images import Images
from fsgen.registry import source

VALIDATION = 500  # last images of each class of the training file

TRAINING = gmn_file("binmnist_train.npz", "8457d814b7c8cf3ea3583a00ead4e5a4497a9b7fa1f59e682943a7a224c50e26")
TEST = gmn_file("binmnist_test.npz", "ef8ee8b6b99c560e20776db966b763171ddc2b299c5307fc7b6724e3943ff202")


@source("mnist28")
def mnist28(split: str, root: Path) -> Images:
    """MNIST at 28x28, fixed binarisation, from the generative matching networks paper's own files.

    The ten digits are the classes of *every* split, so this source measures transfer to other drawings
    (a model trained on Omniglot, shown digits), not new classes. Train is the training file without the last
    500 images of each digit, validation those 500, test the test file (892 to 1135 a digit). Ink is 1.

    Raises:
        DataError: the file is missing and cannot be downloaded, or is altered.
    """
    arrays = (TEST if split == "test" else TRAINING).arrays(root, r"\d")
    kept = {"train": slice(None, -VALIDATION), "validation": slice(-VALIDATION, None), "test": slice(None)}[split]
    names = tuple(sorted(arrays))
    digits = [(arrays[name][kept] > 0).astype(np.uint8) for name in names]
    labels = np.repeat(np.arange(len(names)), [len(d) for d in digits])
    return Images("mnist28", split, np.concatenate(digits)[:, None], labels, names)
