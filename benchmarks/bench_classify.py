"""Seconds a query of a 20-way 5-shot decision with K = 100, batched, beside one call a class and query.

The reference asks ``model.condition(support of a class).log_prob(query)`` for every class and query. It costs the same
for every query, so the calls of a few queries are timed and scaled. Repetitions are paired, in alternation, so that all
see the same machine. "every particle" gives all classes all particles; "leaving behind" is the default, which
stops at classes that are far behind; "bfloat16" is the default under autocast; "one query" is a decision on its own.

    python benchmarks/bench_classify.py --out benchmarks/results/classify.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

import fsgen
from fsgen.classification import Decision, LikelihoodClassifier
from fsgen.run import provenance

WAYS, SHOTS, PARTICLES = 20, 5, 100
MODEL = Path(__file__).resolve().parents[1] / "assets" / "models" / "gmn-omniglot"
Scored = Callable[[Decision], Tensor]


def one_by_one(model: fsgen.FewShotModel) -> Scored:
    """One call a class and query."""

    def scores(decision: Decision) -> Tensor:
        rows = [
            torch.cat([model.condition(own).log_prob(query[None], particles=PARTICLES) for own in decision.sets[0]])
            for query in decision.query[0]
        ]
        return torch.stack(rows)[None]

    return scores


def bfloat16(scores: Scored) -> Scored:
    """The same under autocast."""

    def cast(decision: Decision) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return scores(decision)

    return cast


def decision(sampler: fsgen.EpisodeSampler, number: int, queries: int) -> Decision:
    """Episode ``number`` of the sampler, with some of its queries."""
    images = sampler.gather([sampler.draw(number)])
    sets, query = images[:, : WAYS * SHOTS].unflatten(1, (WAYS, SHOTS)), images[:, WAYS * SHOTS :]
    return Decision(sets, query[:, torch.arange(queries) * WAYS // queries])


def main() -> None:
    """Prints and writes seconds a query and their ratio to the reference."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", default="glyphs", help="data source of 28x28 binary images")
    parser.add_argument("--queries", type=int, default=WAYS, help="queries of a batched decision")
    parser.add_argument("--reference-queries", type=int, default=1, help="queries timed for the reference")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None, help="JSON file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    pyro.enable_validation(False)
    torch.distributions.Distribution.set_default_validate_args(False)
    model = fsgen.load(args.model)
    sampler = fsgen.EpisodeSampler(fsgen.load_images(args.data, "test"), ways=WAYS, shots=SHOTS, queries=1)
    every = LikelihoodClassifier(model, particles=PARTICLES, screen=0).log_scores
    usual = LikelihoodClassifier(model, particles=PARTICLES).log_scores
    candidates: dict[str, tuple[Scored, int]] = {
        "one call a class and query": (one_by_one(model), args.reference_queries),
        "every particle": (every, args.queries),
        "leaving behind": (usual, args.queries),
        "leaving behind, bfloat16": (bfloat16(usual), args.queries),
        "leaving behind, one query": (usual, 1),
    }
    usual(decision(sampler, 0, 1))
    times: dict[str, list[float]] = {name: [] for name in candidates}
    right: dict[str, list[float]] = {name: [] for name in candidates}
    for repetition in range(args.repetitions):
        for name, (scores, queries) in candidates.items():
            asked = decision(sampler, repetition, queries)
            torch.manual_seed(repetition)
            started = time.perf_counter()
            answers = scores(asked).argmax(-1)[0]
            times[name].append((time.perf_counter() - started) / queries)
            right[name].append((answers == torch.arange(queries) * WAYS // queries).double().mean().item())
    found: dict[str, Any] = {}
    reference = times["one call a class and query"]
    for name, values in times.items():
        ratios = sorted(r / v for r, v in zip(reference, values, strict=True))
        found[name] = {
            "queries": candidates[name][1],
            "milliseconds_a_query": 1000 * statistics.median(values),
            "right": statistics.mean(right[name]),
            "ratio": {"min": ratios[0], "median": statistics.median(ratios), "max": ratios[-1]},
        }
        print(
            f"{name:27} {1000 * statistics.median(values):8.1f} ms/query   "
            f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})   "
            f"right {statistics.mean(right[name]):.0%}"
        )
    if args.out:
        result = {"ways": WAYS, "shots": SHOTS, "particles": PARTICLES, "model": args.model.name, "data": args.data}
        result |= {"threads": args.threads, "repetitions": args.repetitions}
        result |= {"candidates": found, "provenance": provenance()}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(f"written: {args.out}")


if __name__ == "__main__":
    main()
