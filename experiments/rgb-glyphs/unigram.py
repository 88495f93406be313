"""Bits per dimension of the test images if every pixel were drawn alone, from a histogram of its channel.

    python experiments/rgb-glyphs/unigram.py --data runs/rgb-glyphs

The histogram of 256 values is that of the training images, one a channel and the same at every position, with one
count added to each value. What a model must beat before it has learnt anything of shape, class or correlation.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from fsgen.data.sources import load_images


def bits_per_dim(train: np.ndarray, test: np.ndarray) -> tuple[float, float]:
    """Mean and standard error over the test images, of pixels uint8 [N, C, H, W]."""
    channels = range(train.shape[1])
    counts = np.stack([np.bincount(train[:, c].ravel(), minlength=256) for c in channels]) + 1
    bits = -np.log2(counts / counts.sum(1, keepdims=True))
    each = np.stack([bits[c][test[:, c]] for c in channels], 1).mean((1, 2, 3))
    return float(each.mean()), float(each.std(ddof=1) / np.sqrt(len(each)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder written by make_folder.py")
    options = {"path": str(parser.parse_args().data.absolute()), "mode": "rgb"}
    train, test = (load_images("folder", split, None, **options) for split in ("train", "test"))
    mean, se = bits_per_dim(train.pixels, test.pixels)
    print(
        json.dumps(
            {
                "baseline": "unigram",
                "bits_per_dim": round(mean, 4),
                "se": round(se, 4),
                "images": len(test.pixels),
                "train_digest": train.digest,
                "test_digest": test.digest,
            }
        )
    )


if __name__ == "__main__":
    main()
