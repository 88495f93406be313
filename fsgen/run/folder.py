"""The run folder as an object."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsgen import storage
from fsgen.errors import CheckpointError
from fsgen.run.lock import exclusive
from fsgen.run.log import Log

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, STATE, LOCK = "config.yaml", "weights.safetensors", "state.pt", "lock"
_KEPT = 2
_STEP = re.compile(r"step-(\d{8,12})(-replaced)?")


@dataclass(frozen=True)
class Checkpoint:
    """What training continues from.

    Attributes:
        step: optimiser steps taken.
        weights: the model's tensors.
        state: everything else, as given to ``Run.save_checkpoint``.
        skipped: one line for each newer checkpoint that was torn or altered.
    """

    step: int
    weights: dict[str, Tensor]
    state: Any
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run folder; made by ``create`` or ``open``.

    Attributes:
        path: the folder.
        config: content of its config.yaml.
    """

    path: Path
    config: dict[str, Any]

    @classmethod
    def create(cls, path: str | Path, config: Mapping[str, Any]) -> Run:
        """A new run in a folder that is missing, empty, or left by a ``create`` that was interrupted.

        Raises:
            CheckpointError: the folder holds something; the message says what.
            TypeError: ``config`` holds more than numbers, text, lists and mappings.
            StorageError: it cannot be written.
        """
        path = Path(path)
        data = storage.config_to_bytes(config)
        run = cls(path, storage.config_from_bytes(data, source=str(path / CONFIG)))
        _refuse_taken(path)
        with storage.refusals(path, len(data)):
            path.mkdir(parents=True, exist_ok=True)
            storage.sync_folder(path.parent)
        with run.lock():
            _refuse_taken(path)  # by another process, until the lock was ours
            storage.update_folder(path, {CONFIG: data})
        return run

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """An existing run; nothing is written.

        Raises:
            CheckpointError: no run folder, or its config is altered or no config.
        """
        path = Path(path)
        if not path.is_dir():
            raise CheckpointError(
                f"{path} is no run folder: there is no such folder. `fsgen train --out {path}` makes it."
            )
        if lacking := [name for name in (storage.MANIFEST, CONFIG) if not os.path.lexists(path / name)]:
            raise CheckpointError(
                f"{path} is no run folder: it lacks {' and '.join(lacking)}. Name a folder made by train."
            )
        return cls(path, storage.config_from_bytes(storage.read_file(path, CONFIG), source=str(path / CONFIG)))

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keeps a second trainer out; also removes the scraps of trainers that died.

        The lock falls with its process, however that ends, and forked workers do not hold it. File systems without
        locks, and Windows, keep nobody out.

        Raises:
            CheckpointError: another process trains here; the message gives its number and host.
        """
        with exclusive(self.path / LOCK):
            storage.clean_stale(self.path)
            storage.clean_stale(self.path / "checkpoints")
            yield

    def save_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Replaces the selected weights, those that ``fsgen.load`` reads.

        Raises:
            StorageError: they cannot be written; the old ones are intact.
        """
        storage.update_folder(self.path, {WEIGHTS: storage.tensors_to_bytes(weights)})

    def load_weights(self) -> dict[str, Tensor]:
        """The selected weights.

        Raises:
            CheckpointError: there are none yet, or they are torn or altered.
        """
        if not os.path.lexists(self.path / WEIGHTS):
            raise CheckpointError(f"{self.path} has no {WEIGHTS} yet. Train it: `fsgen train --out {self.path}`.")
        return storage.tensors_from_bytes(storage.read_file(self.path, WEIGHTS), source=str(self.path / WEIGHTS))

    def save_checkpoint(self, step: int, weights: Mapping[str, Tensor], state: Any) -> None:
        """Adds what training can continue from. Once it is safe, all others but the one before it are removed.

        Args:
            step: optimiser steps taken; a checkpoint of this step is replaced.
            weights: the model's tensors.
            state: nested dicts, lists and tuples of tensors, numbers, text and None.

        Raises:
            StorageError: it cannot be written; older ones are intact. TypeError: ``state`` holds anything else.
        """
        folder = self.path / "checkpoints" / f"step-{step:08d}"
        files = {
            WEIGHTS: storage.tensors_to_bytes(weights),
            STATE: storage.state_to_bytes({"step": step, "state": state}),
        }
        with storage.refusals(folder, sum(map(len, files.values()))):
            folder.parent.mkdir(exist_ok=True)
            for log in self.path.glob("*.jsonl"):  # lines up to this step must not be lost when the power fails
                Log(log).sync()
            storage.sync_folder(self.path)
            if folder.exists():
                _set_aside(folder)
        storage.write_folder(folder, files)
        older = [old for at, old in self._checkpoints() if at < step]
        for _, old in self._checkpoints():
            if old != folder and old not in older[: _KEPT - 1]:
                storage.remove_folder(old)

    def load_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None if there is none at all.

        Raises:
            CheckpointError: there are some, and all are torn or altered.
        """
        skipped: list[str] = []
        for step, folder in self._checkpoints():
            try:
                weights, state = _read_checkpoint(step, folder)
                return Checkpoint(step, weights, state, tuple(skipped))
            except CheckpointError as error:
                skipped.append(str(error))
        if skipped:
            raise CheckpointError(
                f"{self.path / 'checkpoints'} holds no checkpoint that is whole; the newest: {skipped[0]}"
            )
        return None

    def append(self, log: str, record: Mapping[str, Any]) -> None:
        """Adds a line to ``<log>.jsonl``; see ``Log.append``."""
        self._log(log).append(record)

    def records(self, log: str) -> list[dict[str, Any]]:
        """The records of ``<log>.jsonl`` in order; see ``Log.records``."""
        return self._log(log).records()

    def rewind(self, log: str, step: int) -> None:
        """Drops the records of ``<log>.jsonl`` beyond ``step``, before training repeats them; see ``Log.rewind``."""
        self._log(log).rewind(step)

    def _checkpoints(self) -> list[tuple[int, Path]]:
        """Step and folder of each checkpoint, the newest first; one that was being replaced comes after the new one."""
        paths = (self.path / "checkpoints").glob("step-*")
        found = [(int(match[1]), match[2] is None, path) for path in paths if (match := _STEP.fullmatch(path.name))]
        return [(step, path) for step, _, path in sorted(found, reverse=True)]

    def _log(self, log: str) -> Log:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", log):
            raise ValueError(f"no log can be called {log!r}: name it in small letters, without '.jsonl'.")
        return Log(self.path / f"{log}.jsonl")


def _refuse_taken(path: Path) -> None:
    if os.path.lexists(path) and not path.is_dir():
        raise CheckpointError(f"{path} is no folder. Choose another --out.")
    names = sorted(os.listdir(path)) if path.is_dir() else []
    if {storage.MANIFEST, CONFIG} <= set(names):
        raise CheckpointError(f"{path} holds a run already. Continue it with --resume, or choose another --out.")
    if held := [name for name in names if name not in (storage.MANIFEST, LOCK) and not name.startswith(".tmp-")]:
        shown = ", ".join(held[:3]) + (f" and {len(held) - 3} more" if len(held) > 3 else "")
        raise CheckpointError(f"{path} is no run folder and not empty: it holds {shown}. Choose another --out.")


def _set_aside(folder: Path) -> None:
    aside = folder.with_name(f"{folder.name}-replaced")
    if aside.exists():
        storage.remove_folder(aside)
    os.rename(folder, aside)


def _read_checkpoint(step: int, folder: Path) -> tuple[dict[str, Tensor], Any]:
    if folder.is_symlink():
        raise CheckpointError(f"{folder} is a symbolic link. Put the folder itself in its place, or remove the link.")
    weights = storage.tensors_from_bytes(storage.read_file(folder, WEIGHTS), source=str(folder / WEIGHTS))
    content = storage.state_from_bytes(storage.read_file(folder, STATE), source=str(folder / STATE))
    if not isinstance(content, dict) or content.keys() != {"step", "state"} or content["step"] != step:
        raise CheckpointError(f"{folder / STATE} is not of step {step}: folders were swapped. Remove {folder}.")
    return weights, content["state"]
