"""How far the importance-weighted bound of a trained model lies from annealed importance sampling, on a few sets.

    python experiments/annealing/measure.py assets/models/conditional-vae-omniglot
    python experiments/annealing/measure.py assets/models/conditional-vae-omniglot --smoke
    python experiments/annealing/measure.py assets/models/conditional-vae-omniglot --recorded

Adds its figures to annealing.json, and as a line to the run's results.jsonl, which `fsgen report` shows; or prints them
alone with --smoke. --recorded measures nothing: the run's figures in annealing.json become lines of its results. The
sets are the first of the list that `fsgen evaluate` scores, under the strict protocol.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

import fsgen
from fsgen import storage
from fsgen.annealing import annealed_log_weights, tuned
from fsgen.cli.evaluate import identity
from fsgen.data.sampler import EpisodeSampler
from fsgen.errors import InputError
from fsgen.evaluation import scored_episode
from fsgen.inference import couples_queries, log_weights
from fsgen.objectives import ess, iwae
from fsgen.run import Run, provenance
from fsgen.run.log import Log

RESULT = Path(__file__).parent / "annealing.json"


def mean(values: torch.Tensor) -> dict[str, float]:
    """Mean over sets and its standard error."""
    return {"nats": values.mean().item(), "se": values.std().item() / math.sqrt(len(values))}


def line(folder: Path, row: dict[str, Any], root: str | None) -> dict[str, Any]:
    """A row of annealing.json as a line of results.jsonl, of kind "annealing"; the row's figures and provenance stay.

    Raises:
        InputError: the row's list of sets is not the one that is drawn from the data here.
    """
    data = Run.open(folder).config["training"]["data"]
    sampler = EpisodeSampler(fsgen.load_images(data["name"], "test", root, **data["options"]))
    if (sampler.images.digest, sampler.digest(row["sets"])) != (row["data"]["digest"], row["list_digest"]):
        raise InputError(f"{folder.name}: its row is of other sets, {row['list_digest'][:12]}; measure it again.")
    about = {"protocol": sampler.protocol, "length": sampler.length, "seed": sampler.seed, "ways": sampler.ways[0]}
    of_sets = {"data": {**row["data"], "options": data["options"]}, **about}
    return {"kind": "annealing", **identity(folder, fsgen.load(folder)), **of_sets} | {
        name: value for name, value in row.items() if name not in ("run", "data")
    }


def append(folder: Path, rows: list[dict[str, Any]], root: str | None) -> None:
    """Adds the rows' lines to the results of the run, but for those that it holds."""
    log = Log(folder / "results.jsonl")
    held = log.records()
    for row in rows:
        found = json.loads(json.dumps(line(folder, row, root)))  # as it is read again
        if found not in held:
            log.append(found)


def measured(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """NLL of the same sets by both estimators, in nats per image, and their difference set by set."""
    model, data = fsgen.load(folder), Run.open(folder).config["training"]["data"]
    images = fsgen.load_images(data["name"], "test", args.data_root, **data["options"])
    sampler, like = EpisodeSampler(images), next(model.parameters())
    draws = [sampler.draw(i) for i in range(args.sets)]
    apart = couples_queries(model, scored_episode(sampler, draws[:1], [args.shots], like))
    episode = scored_episode(sampler, draws, [args.shots], like, apart)
    torch.manual_seed(0)
    started = time.process_time()
    with torch.no_grad():
        weights = log_weights(model, episode, args.particles, chunk=max(1, 512 // args.sets))
    bounded = time.process_time()
    tuning = tuned(model, episode, args.temperatures, leaps=args.leaps, pilots=args.chains)
    chains = annealed_log_weights(model, episode, args.chains, tuning, leaps=args.leaps)
    plain, annealed = -iwae(weights).flatten(), -iwae(chains).flatten()
    return {
        "run": folder.name,
        "data": {"name": data["name"], "split": "test", "digest": images.digest},
        "list_digest": sampler.digest(args.sets),
        "sets": args.sets,
        "shots": args.shots,
        "importance": {"particles": args.particles, **mean(plain), "ess": ess(weights).mean().item()},
        "annealed": {
            "chains": args.chains,
            "temperatures": args.temperatures,
            "leaps": args.leaps,
            **mean(annealed),
            "ess": ess(chains).mean().item(),
            "accepted": tuning.accepted.mean().item(),
        },
        "difference": mean(plain - annealed),
        "per_set": {"importance": plain.tolist(), "annealed": annealed.tolist()},
        "cpu_seconds": {"importance": bounded - started, "annealed": time.process_time() - bounded},
        "provenance": provenance(),
    }


def _about(row: dict[str, Any]) -> tuple[Any, ...]:
    """What two rows must differ in to stand side by side."""
    return row["run"], row["shots"], row["sets"], row["annealed"]["temperatures"]


def main() -> None:
    """Parses, measures, and writes what was found."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--data-root", default=None)
    for name, value in {"sets": 10, "shots": 5, "particles": 100, "chains": 8, "temperatures": 20, "leaps": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--smoke", action="store_true", help="two sets, a few temperatures, nothing written")
    parser.add_argument("--recorded", action="store_true", help="results get what annealing.json holds of the run")
    args = parser.parse_args()
    held = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else []
    if args.recorded:
        append(args.run, [row for row in held if row["run"] == args.run.name], args.data_root)
        return
    if args.smoke:
        args.sets, args.chains, args.temperatures, args.leaps = 2, 2, 3, 1
    torch.distributions.Distribution.set_default_validate_args(False)
    row = measured(args.run, args)
    ours, theirs, gap = row["annealed"], row["importance"], row["difference"]
    print(
        f"{row['run']}, {args.sets} sets, {args.shots} shots: NLL {theirs['nats']:.2f} (IWAE, K = {args.particles}), "
        f"{ours['nats']:.2f} (AIS); IWAE - AIS = {gap['nats']:.2f} +- {gap['se']:.2f} nats"
    )
    if not args.smoke:
        kept = [other for other in held if _about(other) != _about(row)]
        storage.write_bytes(RESULT, (json.dumps([*kept, row], indent=1) + "\n").encode())
        append(args.run, [row], args.data_root)


if __name__ == "__main__":
    main()
