"""Copies a finished run to assets/models: its configuration, its weights in half precision, its logs.

    python experiments/publish.py runs/gmn-omniglot assets/models/gmn-omniglot

Evaluate the copy, not the run, so that the committed figures belong to the committed weights.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import torch

from fsgen import storage
from fsgen.run import CONFIG, WEIGHTS, Run

LOGS = ("metrics.jsonl", "sessions.jsonl")


def publish(run: Path, target: Path) -> None:
    """Writes ``target``; pages and results that are there already stay."""
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
        if (run / log).exists():
            shutil.copyfile(run / log, target / log)
    print(f"{target}: {sum(map(len, files.values())) / 2**20:.1f} MiB")


def main() -> None:
    """Parses and publishes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args()
    publish(args.run, args.target)


if __name__ == "__main__":
    main()
