"""Copies a finished run to assets/models: its configuration, its weights in half precision, its logs.

    python experiments/publish.py runs/first-phase runs/last-phase assets/models/NAME

Logs are those of all phases, in order; configuration and weights are those of the last one.

Evaluate the copy, not the run, so that the committed figures belong to the committed weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from fsgen import storage
from fsgen.run import CONFIG, WEIGHTS, Run

LOGS = ("metrics", "sessions")


def publish(runs: list[Path], target: Path) -> None:
    """Writes ``target``; pages and results that are there already stay."""
    run = runs[-1]
    source = Run.open(run)
    half = {
        name: tensor.to(torch.float16) if tensor.is_floating_point() else tensor
        for name, tensor in source.load_weights().items()
    }
    if broken := [name for name, tensor in half.items() if not bool(tensor.isfinite().all())]:
        raise SystemExit(f"{run}: {broken[0]} does not fit half precision.")
    target.mkdir(parents=True, exist_ok=True)
    files = {CONFIG: storage.config_to_bytes(source.config), WEIGHTS: storage.tensors_to_bytes(half)}
    storage.update_folder(target, files)
    for log in LOGS:
        lines = [{"run": r.name, **record} for r in runs for record in Run.open(r).records(log)]
        (target / f"{log}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    print(f"{target}: {sum(map(len, files.values())) / 2**20:.1f} MiB")


def main() -> None:
    """Parses and publishes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    publish(args.runs, args.target)


if __name__ == "__main__":
    main()
