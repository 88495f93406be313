"""The main job on the embedded data: train a matching network on procedural handwriting, score it, sample it.

Everything goes through the command line that users have; each command is printed before it runs.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
OUT = Path("runs") / "demo"


def fsgen(*words: str) -> None:
    """Runs one command of fsgen, and stops the demo if it fails."""
    print(f"\n$ fsgen {shlex.join(words)}", flush=True)
    if status := subprocess.run([sys.executable, "-m", "fsgen", *words], check=False).returncode:
        raise SystemExit(status)


def main() -> None:
    """Runs the demo in ``runs/demo`` of the current folder."""
    started = time.monotonic()
    if OUT.exists():
        shutil.rmtree(OUT)
    fsgen("train", "--config", str(HERE / "config.yaml"), "--out", str(OUT))
    fsgen("evaluate", str(OUT), "--sets", "60", "--particles", "100", "--shots", "0", "1", "2", "5", "10", "19")
    fsgen("sample", str(OUT), "--data", "glyphs", "--sets", "8", "--num", "12", "--out", str(OUT / "samples.png"))
    print(f"\nDone in {time.monotonic() - started:.0f} s. Look at:")
    for path, what in (
        (OUT / "samples.png", "characters never seen in training: five given ones, then samples"),
        (OUT / "results.jsonl", "the table above, with its provenance"),
        (OUT, "the run: `fsgen train --out runs/demo --resume` reads it, fsgen.load(...) loads it"),
    ):
        print(f"  {path.resolve()}  {what}")


if __name__ == "__main__":
    main()
