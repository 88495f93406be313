"""What a person sees of a training run: progress bar, log lines, TensorBoard."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from fsgen.config import flat
from fsgen.data.sampler import EpisodeSampler
from fsgen.model import FewShotModel, Trainable
from fsgen.sheets import contact_sheet

SMOOTHING = 0.99


class Monitor:
    """Shows and logs a run; nothing it does changes the run's numbers.

    Args:
        path: run folder; TensorBoard files go to ``path/tensorboard``.
        quiet: no output and no TensorBoard.
    """

    def __init__(self, path: Path, *, quiet: bool = False) -> None:
        self.path, self.quiet = path, quiet
        self.terminal = sys.stderr.isatty() and not quiet
        self.loss, self.started, self.first = math.nan, time.monotonic(), 0
        self.total = 0
        self.writer: Any = None
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    @contextlib.contextmanager
    def watching(self, total: int, start: int) -> Iterator[None]:
        """Shows progress from step ``start`` to ``total`` while the block runs."""
        self.total, self.first, self.started = total, start, time.monotonic()
        if not self.quiet:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(self.path / "tensorboard"), purge_step=start)
        columns = (
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
        )
        with Progress(*columns, disable=not self.terminal) as self.bar:
            self.task = self.bar.add_task("", total=total, completed=start, rate="", loss="")
            try:
                yield
            except BaseException:
                self._close()
                raise

    def step(self, step: int, loss: float) -> None:
        """Notes one step and its loss in nats per image."""
        if math.isfinite(loss):
            self.loss = loss if math.isnan(self.loss) else SMOOTHING * self.loss + (1 - SMOOTHING) * loss
        if self.terminal and self.bar is not None and self.task is not None:
            rate = (step - self.first) / max(time.monotonic() - self.started, 1e-9)
            self.bar.update(self.task, completed=step, rate=f"{rate:.1f} steps/s", loss=f"{self.loss:.2f} nats")

    def validated(self, record: Mapping[str, Any], model: Trainable, held_out: EpisodeSampler) -> None:
        """Shows a validation and logs its numbers and, of a generative model, a sheet of samples."""
        step = record["step"]
        rate = (step - self.first) / max(time.monotonic() - self.started, 1e-9)
        left = (self.total - step) / rate / 60
        accuracy = f"  accuracy {record['validation_accuracy']:.1%}" if "validation_accuracy" in record else ""
        self.say(
            f"step {step}/{self.total}  train {self.loss:.2f}  validation {record['validation_nats']:.2f} "
            f"+- {record['validation_se']:.2f} nats{accuracy}  {rate:.1f} steps/s  {left:.0f} min left"
            + ("  best" if record["best"] else "")
        )
        if self.writer is not None:
            for name in ("train_nats", "validation_nats", "validation_accuracy", "gradient_norm", "learning_rate"):
                if name in record:
                    self.writer.add_scalar(name, record[name], step)
            shots = record.get("validation_by_shots", [])
            for t in (0, 1, 2, 5, 10, 19):
                if t < len(shots):
                    self.writer.add_scalar(f"validation_shots/{t}", shots[t], step)
            if isinstance(model, FewShotModel) and math.isfinite(record["validation_nats"]):  # NaN cannot be sampled
                self.writer.add_image("samples", sample_sheet(model, held_out), step, dataformats="HWC")
            self.writer.flush()

    def say(self, message: str) -> None:
        """One line to the person at the terminal, or to the log that stands in for one."""
        if self.quiet:
            return
        if self.terminal and self.bar is not None:
            self.bar.console.print(message, highlight=False)
        else:
            print(message, file=sys.stderr, flush=True)

    def finish(self, config: Mapping[str, Any], best: float | None) -> None:
        """Logs the configuration beside its result and closes the files."""
        if self.writer is not None:
            settings = {k: v if isinstance(v, int | float | str | bool) else str(v) for k, v in flat(config).items()}
            result = math.nan if best is None else best
            self.writer.add_hparams(settings, {"best_validation_nats": result}, run_name=".")
        self._close()

    def _close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def sample_sheet(
    model: FewShotModel, sampler: EpisodeSampler, *, sets: int = 6, shots: int = 5, samples: int = 10, seed: int = 0
) -> np.ndarray:
    """A contact sheet: a few sets of the sampler, one a row; support to the left, samples to the right."""
    like = next(model.parameters())
    was_training, rows = model.training, []
    model.eval()
    with torch.random.fork_rng(devices=[like.device] if like.is_cuda else []):
        for i in range(sets):
            support = sampler.gather([sampler.draw(i)])[0, :shots].to(like)
            drawn = model.condition(support).sample((samples,), seed=seed + i)
            rows.append([*support.float().cpu().numpy(), *drawn.float().cpu().numpy()])
    model.train(was_training)
    return contact_sheet(rows, split=shots)
