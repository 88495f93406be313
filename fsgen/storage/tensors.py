"""Tensors and training state as bytes; reading them runs no code from the file. Torch is imported when needed."""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fsgen.errors import CheckpointError
from fsgen.storage.files import RESTORE

if TYPE_CHECKING:
    from torch import Tensor

SAME = "same"
SHARED_FROM = 4096  # bytes from which equal tensors are written once; small ones are equal by chance, as zeros are


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Named tensors in the safetensors format; equal tensors give equal bytes.

    A large tensor that stands under several names, as that of a module shared by two others, is written under the first
    of them; the file's metadata give under ``SAME``, for each other name, the one that holds it, as JSON.
    """
    import safetensors.torch
    import torch

    own: dict[str, Tensor] = {}
    names: dict[tuple[Any, ...], str] = {}
    same: dict[str, str] = {}
    for name, value in sorted(tensors.items()):
        tensor = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        if tensor.nbytes >= SHARED_FROM:
            held = names.setdefault((tensor.dtype, tensor.shape, _digest(tensor)), name)
            if held != name:
                same[name] = held
                continue
        own[name] = tensor
    return safetensors.torch.save(own, metadata={SAME: json.dumps(same)} if same else None)


def tensors_from_bytes(data: bytes, *, source: str) -> dict[str, Tensor]:
    """The tensors written by ``tensors_to_bytes``, on the CPU; ``source`` names them in messages.

    Raises:
        CheckpointError: not in the safetensors format, or of a type torch does not have.
    """
    import safetensors.torch

    try:
        found = safetensors.torch.load(data)
        for name, held in _same(data).items():
            if name not in found and held in found:
                found[name] = found[held]
        return found
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise CheckpointError(f"{source} is no safetensors file: {reason}. {RESTORE}") from error


def _same(data: bytes) -> dict[str, str]:
    """The name that holds the tensor of each name without one, in a file whose header was read before without error."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(json.loads(header.get("__metadata__", {}).get(SAME, "{}")))


def _digest(tensor: Tensor) -> bytes:
    import torch

    return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().tobytes()).digest()


def check_state_dict(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], source: str) -> None:
    """Refuses tensors that are not those of a model, before a partial load can pass for a whole one.

    Args:
        expected: ``state_dict()`` of the model.
        found: what is to be loaded into it.
        source: names ``found`` in the message.

    Raises:
        CheckpointError: names the first missing, unexpected and mis-shaped tensors.
    """
    both = [name for name in expected if name in found]
    misfits = {
        "missing": [name for name in expected if name not in found],
        "not of this model": [name for name in found if name not in expected],
        "of another shape": [
            f"{name} {list(found[name].shape)} instead of {list(expected[name].shape)}"
            for name in both
            if found[name].shape != expected[name].shape
        ],
        "of another kind of number": [
            f"{name} {found[name].dtype} instead of {expected[name].dtype}"
            for name in both
            if found[name].is_floating_point() != expected[name].is_floating_point()
        ],
    }
    if parts := [
        f"{len(names)} tensor{'s' * (len(names) > 1)} {what} ({_some(names)})"
        for what, names in misfits.items()
        if names
    ]:
        raise CheckpointError(
            f"{source} holds the weights of another model: {'; '.join(parts)}. "
            f"Build the model from the config.yaml beside those weights, or load another run."
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(ascii(name)[1:-1][:80] for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def state_to_bytes(state: Any) -> bytes:
    """Training state: nested dicts, lists and tuples of tensors, numbers, strings, booleans and None.

    Raises:
        TypeError: anything else in it; the message names the place.
    """
    import torch

    def own(tensor: Tensor, where: str) -> Tensor:
        return tensor.detach().cpu().clone()

    buffer = io.BytesIO()
    torch.save(_plain(state, "state", own), buffer)
    return buffer.getvalue()


def state_from_bytes(data: bytes, *, source: str) -> Any:
    """What ``state_to_bytes`` was given, on the CPU. Runs no code from the file; ``source`` names it in messages.

    Raises:
        CheckpointError: damaged, or holding anything but such state (a pickled call, a memory bomb).
    """
    import torch

    seen: set[int] = set()

    def bounded(tensor: Tensor, where: str) -> Tensor:
        if tensor.device.type != "cpu" or tensor.nbytes > tensor.untyped_storage().nbytes():
            raise TypeError(f"{where} is a tensor larger than its data")
        return tensor.detach()

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
        if any(m.compress_type for m in members) or sum(m.file_size for m in members) > len(data):
            raise TypeError("it would unpack to more than its size")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about formats that are refused anyway
            loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return _plain(loaded, "state", bounded, seen)
    except Exception as error:  # damaged archives raise a dozen types, of zipfile, pickle and torch
        raise CheckpointError(f"{source} is no training state: {_reason(error)}. {RESTORE}") from error


def _reason(error: Exception) -> str:
    asked = re.search(r"GLOBAL (\S+)", str(error))
    if asked:
        return f"it asks for {asked[1][:80]!a}, and only tensors, numbers and text may be in it"
    if isinstance(error, TypeError):
        return str(error).split("\n")[0][:120]
    return f"{type(error).__name__} while reading"


def _plain(value: Any, where: str, tensor: Callable[[Tensor, str], Tensor], seen: set[int] | None = None) -> Any:
    """A copy of ``value`` in builtin types. With ``seen``, a container met twice is refused: it could nest for ever."""
    import torch

    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None:
        return None
    if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_quantized:
        return tensor(value, where)
    if not isinstance(value, Mapping | list | tuple):
        raise TypeError(f"{where} is a {type(value).__name__}; only tensors, numbers and text can be saved")
    if seen is not None and value:
        if id(value) in seen:
            raise TypeError(f"{where} is held twice")
        seen.add(id(value))
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str | int)]:
            raise TypeError(f"{where} has the key {ascii(odd[0])[:40]}; only text and whole numbers can be keys")
        return {
            _plain(k, where, tensor): _plain(v, f"{where}[{ascii(k)[:40]}]", tensor, seen) for k, v in value.items()
        }
    parts = (_plain(part, f"{where}[{i}]", tensor, seen) for i, part in enumerate(value))
    return tuple(parts) if isinstance(value, tuple) else list(parts)
