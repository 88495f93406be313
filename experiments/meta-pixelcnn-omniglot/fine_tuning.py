"""Plain fine-tuning of the trained PixelCNN at test time: the baseline of the meta-trained step, on the same sets.

The step size is chosen on validation classes; the figures are of test classes, strict, one class a set.

    python experiments/meta-pixelcnn-omniglot/fine_tuning.py --out experiments/meta-pixelcnn-omniglot/fine_tuning.json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

import fsgen
from fsgen.adaptation import Adapted, Likelihood
from fsgen.data.sampler import EpisodeSampler
from fsgen.data.sources import load_images
from fsgen.evaluation import evaluate
from fsgen.run import provenance

BASE = Path(__file__).resolve().parents[2] / "assets" / "models" / "pixelcnn-omniglot"
SHOTS, STEPS, RATES = (0, 1, 2, 5, 10, 19), 3, (1e-4, 3e-4, 1e-3)


def scores(rate: float, split: str, sets: int) -> dict[str, Any]:
    """Nats of the fine-tuned model at each shot count, and what they were computed on."""
    tuned = Adapted(
        fsgen.load(BASE), Likelihood(leave_one_out=False), steps=STEPS, rate=rate, learned_rates=False
    ).eval()
    sampler = EpisodeSampler(load_images("omniglot28", split, None), length=20, seed=0)
    found = evaluate(tuned, sampler, SHOTS, sets, 1)
    rows = [{"shots": s.shots, "nats": s.nats, "se": s.se} for s in found]
    print(split, rate, *(f"{row['nats']:.2f}" for row in rows), flush=True)
    return {"rate": rate, "split": split, "sets": sets, "list_digest": sampler.digest(sets), "rows": rows}


def main() -> None:
    """Chooses the rate, scores it on the test classes, writes both."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--validation-sets", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.distributions.Distribution.set_default_validate_args(False)
    tried = [scores(rate, "validation", args.validation_sets) for rate in RATES]
    best = min(tried, key=lambda found: sum(row["nats"] for row in found["rows"]))
    final = scores(best["rate"], "test", args.sets)
    result = {"model": BASE.name, "steps": STEPS, "validation": tried, "test": final, "provenance": provenance()}
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
