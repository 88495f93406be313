"""Seconds and memory of `fsgen report` on ten results files of 32 lines and 1000 sets each.

python benchmarks/bench_report.py
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

FILES, SETS, SHOTS = 10, 1000, (0, 1, 2, 3, 4, 5, 10, 19)
LISTS = tuple((protocol, ways) for protocol in ("strict", "published") for ways in (1, 2))


def lines(run: int) -> list[dict[str, Any]]:
    """Invented scores of one run on every list."""
    rng, found = np.random.default_rng(run), []
    for (protocol, ways), shots in ((where, t) for where in LISTS for t in SHOTS):
        values = np.round(rng.gamma(9, 10, SETS) - shots, 4)
        part = {"sets": SETS, "nats": values.mean(), "se": values.std(ddof=1) / np.sqrt(SETS)}
        data = {"name": "omniglot28", "options": {}, "split": "test", "digest": "d" * 64}
        place = {"data": data, "protocol": protocol, "ways": ways, "list_digest": f"{protocol} {ways}", "length": 20}
        about = {"kind": "likelihood", "run": f"run-{run}", "model": {"name": "gmn"}, "weights_sha256": str(run)}
        kept = {"repeated": part, "unrepeated": part, "per_set": values.tolist()}
        bound = {"exact": False, "particles": 100, "ess": 0.1, "ess_min": 0.01, "bits_per_dim": values.mean() / 543}
        found.append({**about, **place, "seed": 0, "shots": shots, **part, **bound, **kept})
    return found


def main() -> None:
    """Prints the seconds of each repetition, wall and CPU, and the most memory."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        for run in range(FILES):
            text = "".join(json.dumps(line) + "\n" for line in lines(run))
            (Path(place) / f"run-{run}.jsonl").write_text(text, encoding="utf-8")
        runs = sorted(map(str, Path(place).glob("*.jsonl")))
        command = [sys.executable, "-m", "fsgen", "report", *runs, "--out", f"{place}/report", "--force"]
        for _ in range(args.repetitions):
            before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_NUM_THREADS": "1"})
            wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            print(f"{FILES} files: {wall:.1f} s, {cpu:.1f} s of CPU, {after.ru_maxrss / 1024:.0f} MiB at most")


if __name__ == "__main__":
    main()
