"""Seconds a query of a 20-way 5-shot decision with K = 100, batched, beside one call a class and query.

The reference asks ``model.condition(support of a class).log_prob(query)`` for every class and query. It costs the same
for every query, so the calls of a few queries are timed and scaled. Repetitions are paired, in alternation, so that all
see the same machine. "every particle" gives all classes all particles; "leaving behind" is the default, which
stops at classes that are far behind; "bfloat16" is the default under autocast; "one query" is a decision on its own.

    python benchmarks/bench_classify.py --out benchmarks/results/classify.json
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent))
from timing import parser, prepare, speeds, write

import fsgen
from fsgen.classification import Decision, LikelihoodClassifier

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
    options = parser(__doc__)
    options.add_argument("--model", type=Path, default=MODEL)
    options.add_argument("--data", default="glyphs", help="data source of 28x28 binary images")
    options.add_argument("--queries", type=int, default=WAYS, help="queries of a batched decision")
    options.add_argument("--reference-queries", type=int, default=1, help="queries timed for the reference")
    args = options.parse_args()
    prepare(args.threads)
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
    found = speeds(times)
    for name, row in found.items():
        row.update(queries=candidates[name][1], milliseconds_a_query=1000 * row["seconds"])
        row["right"] = statistics.mean(right[name])
    settings = {"ways": WAYS, "shots": SHOTS, "particles": PARTICLES, "model": args.model.name, "data": args.data}
    write(args, **settings, candidates=found)


if __name__ == "__main__":
    main()
