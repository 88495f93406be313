"""Puts the trained Omniglot models side by side: likelihoods on one list of sets, size, training time, sampling time.

    python experiments/omniglot-comparison/measure.py

Reads every folder of assets/models that was evaluated on the list of the first one (strict protocol, one class), times
its samples, and writes comparison.json beside this file; `python experiments/readme.py` makes the tables of README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import pyro
import torch

import fsgen
from fsgen.data.sampler import EpisodeSampler
from fsgen.evaluation import paired
from fsgen.report.runs import cost
from fsgen.report.tables import read_results
from fsgen.run import provenance
from fsgen.run.log import Log

HERE = Path(__file__).resolve().parent
MODELS = HERE.parents[1] / "assets" / "models"
REFERENCE, SHOTS, BATCH = "gmn-omniglot", 5, 64


def strict(folder: Path) -> dict[int, dict[str, Any]]:
    """The strict one-class scores of a model, by shot count."""
    records = read_results(folder / "results.jsonl")
    return {r["shots"]: r for r in records if r["protocol"] == "strict" and r["ways"] == 1}


def training(folder: Path) -> dict[str, Any]:
    """Wall-clock seconds of all phases, and CPU seconds where every session logged them."""
    sessions = Log(folder / "sessions.jsonl").records()
    spent = cost(sessions)
    return {
        "seconds": spent["seconds"],
        "cpu_seconds": spent["cpu_seconds"],
        "threads": max(session["threads"] for session in sessions),
    }


def milliseconds_a_sample(model: Any, support: torch.Tensor, repetitions: int) -> float:
    """Median over repetitions of the time to draw a batch given ``support``, per image."""
    density, times = model.condition(support), []
    density.sample((2,), seed=0)
    for number in range(repetitions):
        started = time.perf_counter()
        density.sample((BATCH,), seed=number)
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times) / BATCH


def row(folder: Path, support: torch.Tensor, repetitions: int) -> dict[str, Any]:
    """All that the page says of one model."""
    model, scores = fsgen.load(folder), strict(folder)
    reference = strict(MODELS / REFERENCE)
    first = next(iter(scores.values()))
    difference = {
        shots: dict(zip(("nats", "se"), paired(r["per_set"], reference[shots]["per_set"]), strict=True))
        for shots, r in scores.items()
        if shots in reference
    }
    return {
        "name": folder.name,
        "model": model.recipe["name"],
        "weights_sha256": first["weights_sha256"],
        "list_digest": first["list_digest"],
        "sets": first["sets"],
        "exact": first["exact"],
        "particles": first["particles"],
        "ess": min(r["ess"] for r in scores.values()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "training": training(folder),
        "milliseconds_a_sample": milliseconds_a_sample(model, support, repetitions),
        "nats": {shots: {"nats": r["nats"], "se": r["se"]} for shots, r in scores.items()},
        "difference": difference,
    }


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)
    images = fsgen.load_images("omniglot28", "test")
    sampler = EpisodeSampler(images, shots=SHOTS, seed=0)
    support = sampler.gather([sampler.draw(0)])[0, :SHOTS]
    wanted = next(iter(strict(MODELS / REFERENCE).values()))["list_digest"]
    folders = [f for f in sorted(MODELS.iterdir()) if any(r["list_digest"] == wanted for r in strict(f).values())]
    rows = [row(folder, support, args.repetitions) for folder in folders]
    found = {"reference": REFERENCE, "shots": SHOTS, "batch": BATCH, "threads": args.threads, "rows": rows}
    out = HERE / "comparison.json"
    out.write_text(json.dumps({**found, "provenance": provenance()}, indent=1) + "\n", encoding="utf-8")
    for r in rows:
        print(f"{r['name']:32} {r['parameters'] / 1e6:6.2f} M   {r['milliseconds_a_sample']:8.2f} ms a sample")
    print(f"written: {out.name}")


if __name__ == "__main__":
    main()
