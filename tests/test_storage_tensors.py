"""Tensors and state come back as they were; nothing a hostile file asks for is done."""

from __future__ import annotations

import builtins
import ctypes
import functools
import importlib
import io
import operator
import os
import pickle
import resource
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fsgen import storage
from fsgen.errors import CheckpointError

WATCHED: set[str] = set()


def watch(event: str, args: tuple[Any, ...]) -> None:
    if event in {"os.system", "subprocess.Popen", "socket.connect", "os.posix_spawn", "shutil.rmtree"}:
        WATCHED.add(event)


sys.addaudithook(watch)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, Tensor):
        return type(right) is Tensor and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and (left == right or left != left)


DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
tensors = st.builds(
    lambda shape, dtype: (torch.arange(float(np.prod(shape))).reshape(shape) % 3).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(DTYPES),
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(), tensors)
states = st.recursive(
    leaves,
    lambda part: st.lists(part) | st.lists(part).map(tuple) | st.dictionaries(st.text() | st.integers(), part),
    max_leaves=8,
)


@given(states)
def test_state_comes_back_as_it_was(state: Any) -> None:
    data = storage.state_to_bytes(state)
    assert same(state, storage.state_from_bytes(data, source="s"))
    assert data == storage.state_to_bytes(state)


@given(st.dictionaries(st.text(), tensors))
def test_tensors_come_back_as_they_were(named: dict[str, Tensor]) -> None:
    data = storage.tensors_to_bytes(named)
    back = storage.tensors_from_bytes(data, source="w")
    assert same(dict(sorted(named.items())), dict(sorted(back.items())))
    assert data == storage.tensors_to_bytes(dict(reversed(named.items())))


def test_views_ties_and_parameters_are_saved_as_what_they_show() -> None:
    base = torch.arange(100_000, dtype=torch.float64)
    given = {"view": base[3:5], "tied": base[3:5], "wide": torch.ones(1).expand(2, 2), "turned": torch.eye(3)[:2].T}
    given["learnt"] = torch.nn.Parameter(torch.ones(2))
    for data, back in (
        (storage.tensors_to_bytes(given), storage.tensors_from_bytes),
        (storage.state_to_bytes(given), storage.state_from_bytes),
    ):
        assert len(data) < 5000
        found = back(data, source="x")
        assert all(torch.equal(found[name], given[name]) and not found[name].requires_grad for name in given)


def test_a_large_tensor_of_several_names_is_written_once_and_read_under_all_of_them() -> None:
    shared, nan = torch.randn(64, 64), torch.full((2000,), torch.nan)
    given = {"b": shared, "a": shared.clone(), "turned": shared.T, "flat": shared.flatten(), "double": shared.double()}
    given |= {"nan": nan, "nothing": nan.clone(), "zero": torch.zeros(9), "other": torch.zeros(9)}
    data = storage.tensors_to_bytes(given)
    assert len(data) < sum(t.nbytes for t in given.values()) - shared.nbytes - nan.nbytes + 2000
    found = storage.tensors_from_bytes(data, source="w")
    assert found.keys() == given.keys()
    for name, tensor in given.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)
    assert data == storage.tensors_to_bytes(found)
    assert {"zero", "other"} < safetensors.torch.load(data).keys()


@pytest.mark.parametrize("held", ["no such", "a", "b"])
def test_a_file_cannot_give_a_tensor_a_name_that_it_has_or_one_that_is_not_there(held: str) -> None:
    same = f'{{\\"a\\": \\"b\\", \\"c\\": \\"{held}\\"}}'
    tensors = f'"a": {entry(0, 16)}, "b": {entry(16, 32)}'
    data = header(f'{{"__metadata__": {{"same": "{same}"}}, {tensors}}}'.encode(), data=bytes(32))
    found = storage.tensors_from_bytes(data, source="w")
    assert set(found) == ({"a", "b"} if held == "no such" else {"a", "b", "c"})
    assert found["a"].data_ptr() != found["b"].data_ptr()


def test_an_optimiser_a_generator_and_a_module_continue_from_their_state() -> None:
    net = torch.nn.Linear(2, 2)
    adam = torch.optim.AdamW(net.parameters(), betas=(0.8, 0.9))
    net(torch.ones(2)).sum().backward()
    adam.step()
    numbers = np.random.default_rng(3).bit_generator.state  # 128-bit integers
    given = {"net": net.state_dict(), "adam": adam.state_dict(), "rng": torch.get_rng_state(), "numpy": numbers}
    found = storage.state_from_bytes(storage.state_to_bytes(given), source="s")
    assert same(found["adam"], adam.state_dict())
    assert same(found["rng"], torch.get_rng_state())
    assert found["numpy"] == numbers
    net.load_state_dict(found["net"])
    adam.load_state_dict(found["adam"])


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ({"a": [np.zeros(2)]}, r"state\['a'\]\[0\] is a ndarray"),
        ({"a": np.int64(3)}, r"state\['a'\] is a int64"),
        ({"a": {1, 2}}, r"state\['a'\] is a set"),
        ({(1, 2): 3}, r"state has the key \(1, 2\)"),
        ([torch.eye(2).to_sparse()], r"state\[0\] is a Tensor"),
        (print, "state is a builtin_function_or_method"),
    ],
)
def test_what_cannot_be_read_back_is_not_saved(odd: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        storage.state_to_bytes(odd)


class Call:
    """Pickled, it asks the reader to call ``function(*args)``."""

    def __init__(self, function: Callable[..., Any], *args: Any, state: Any = None) -> None:
        self.function, self.args, self.state = function, args, state

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.function, self.args) if self.state is None else (self.function, self.args, self.state)


def archive(pickled: bytes, compression: int = zipfile.ZIP_STORED, **more: bytes) -> bytes:
    """What torch.save writes, around another pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, data in {"data.pkl": pickled, "byteorder": b"little", "version": b"3\n", **more}.items():
            file.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def asks(function: Callable[..., Any], *args: Any, protocol: int = 2) -> bytes:
    return archive(pickle.dumps({"step": Call(function, *args)}, protocol))


def tar(name: str, data: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for member in (name, "storages", "tensors", "pickle"):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def doubled(data: bytes) -> bytes:
    """An archive whose directory names one large member a hundred times."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        start = file.start_dir
    directory = data[start : data.rindex(b"PK\x05\x06")]
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 400, 400, len(directory) * 100, start, 0)
    return data[:start] + directory * 100 + end


TOUCH = "touch {canary}"
HOSTILE: dict[str, Callable[[str], bytes]] = {
    "os.system, protocol 0": lambda touch: asks(os.system, touch, protocol=0),
    "os.system, protocol 2": lambda touch: asks(os.system, touch),
    "os.system, protocol 4": lambda touch: asks(os.system, touch, protocol=4),
    "subprocess": lambda touch: asks(subprocess.Popen, touch.split()),
    "eval": lambda touch: asks(builtins.eval, f"__import__('os').system({touch!r})"),
    "exec": lambda touch: asks(builtins.exec, f"__import__('os').system({touch!r})"),
    "getattr": lambda touch: asks(builtins.getattr, "", "upper"),
    "open": lambda touch: asks(builtins.open, touch.split()[1], "w"),
    "import": lambda touch: asks(importlib.import_module, "antigravity"),
    "partial": lambda touch: asks(functools.partial, os.system, touch),
    "methodcaller": lambda touch: asks(operator.methodcaller, "system", touch),
    "a pickle in the pickle": lambda touch: asks(pickle.loads, pickle.dumps(Call(os.system, touch))),
    "torch.load": lambda touch: asks(torch.load, touch.split()[1]),
    "torch.hub": lambda touch: asks(torch.hub.load, touch.split()[1], "model"),
    "torch.jit": lambda touch: asks(torch.jit.load, touch.split()[1]),
    "a shared library": lambda touch: asks(ctypes.CDLL, touch.split()[1]),
    "an allowed class with a state": lambda touch: archive(
        pickle.dumps(Call(OrderedDict, state={"run": Call(os.system, touch)}), 2)
    ),
    "opcode INST": lambda touch: archive(b"(S'" + touch.encode() + b"'\nios\nsystem\n."),
    "opcode OBJ": lambda touch: archive(b"(cos\nsystem\nS'" + touch.encode() + b"'\no."),
    "opcode EXT": lambda touch: archive(b"\x80\x02\x82\x01."),
    "opcode PERSID": lambda touch: archive(b"P" + touch.encode() + b"\n."),
    "a persistent id that is no storage": lambda touch: archive(b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\ntQ."),
    "no end": lambda touch: archive(b"\x80\x02}"),
    "a long string that is not there": lambda touch: archive(b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"a."),
    "a long integer that is not there": lambda touch: archive(b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"\1."),
    "deep lists": lambda touch: archive(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."),
    "lists that double": lambda touch: archive(b"\x80\x02]q\x00" + b"](h\x00h\x00eq\x00" * 40 + b"."),
    "a list in itself": lambda touch: archive(b"\x80\x02]q\x00h\x00a."),
    "bytes": lambda touch: saved({"a": b"bytes"}),
    "a set": lambda touch: saved({"a": {1, 2}}),
    "an array of objects": lambda touch: saved(np.array([Call(os.system, touch)], dtype=object)),
    "a device": lambda touch: saved({"a": torch.device("cpu")}),
    "a sparse tensor": lambda touch: saved({"a": torch.eye(2).to_sparse()}),
    "a tensor without data": lambda touch: saved({"a": torch.empty(1 << 40, device="meta")}),
    "a tensor of a terabyte in four bytes": lambda touch: saved({"a": torch.ones(1).expand(1 << 38)}),
    "a plain pickle": lambda touch: pickle.dumps(Call(os.system, touch)),
    "the format before zip": lambda touch: saved({"a": Call(os.system, touch)}, _use_new_zipfile_serialization=False),
    "the format before that": lambda touch: tar("sys_info", pickle.dumps(Call(os.system, touch))),
    "a TorchScript archive": lambda touch: archive(
        pickle.dumps(Call(os.system, touch), 2), **{"constants.pkl": b"\x80\x02)."}
    ),
    "a zip in the zip": lambda touch: archive(asks(os.system, touch)),
    "a zip bomb": lambda touch: archive(pickle.dumps({}, 2), zipfile.ZIP_DEFLATED, **{"data/0": bytes(200 << 20)}),
    "overlapping members": lambda touch: doubled(archive(pickle.dumps({}, 2), **{"data/0": bytes(100_000)})),
    "nothing": lambda touch: b"",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_state_is_refused_and_does_nothing(kind: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    data = HOSTILE[kind](TOUCH.format(canary=canary))
    WATCHED.clear()
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=r"^run/state\.pt is no training state: ") as caught:
        storage.state_from_bytes(data, source="run/state.pt")
    assert time.process_time() - start < 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300 << (20 if sys.platform == "darwin" else 10)
    assert not canary.exists()
    assert not WATCHED
    assert "weights_only=False" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


def test_the_hostile_states_do_act_on_a_careless_reader(tmp_path: Path) -> None:
    """The canary lives: what is refused above is not refused for being malformed."""
    acted = 0
    for number, kind in enumerate(("os.system, protocol 0", "os.system, protocol 4", "eval", "exec", "opcode INST")):
        canary = tmp_path / str(number)
        with zipfile.ZipFile(io.BytesIO(HOSTILE[kind](TOUCH.format(canary=canary)))) as file:
            pickle.loads(file.read("archive/data.pkl"))
        acted += canary.exists()
    assert acted == 5


def test_what_a_state_asks_for_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"it asks for '(posix|nt)\.system'"):
        storage.state_from_bytes(asks(os.system, "true"), source="state.pt")


def header(content: Any, size: int | None = None, data: bytes = bytes(16)) -> bytes:
    text = content if isinstance(content, bytes) else str(content).replace("'", '"').encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def entry(start: int, end: int, shape: str = "[2, 2]", dtype: str = "F32") -> str:
    return f'{{"dtype": "{dtype}", "shape": {shape}, "data_offsets": [{start}, {end}]}}'


HEADERS = {
    "nothing": b"",
    "two gigabytes of header": header(b"{}", 2 << 30),
    "all of memory": header(b"{}", (1 << 64) - 1),
    "no JSON": header(b"{" * 1000),
    "nested": header(b'{"a":' * 100_000),
    "no UTF-8": header(b"\xff" * 20),
    "offsets that overlap": header(f'{{"a": {entry(0, 16)}, "b": {entry(0, 16)}}}'),
    "offsets below zero": header(f'{{"a": {entry(-16, 0)}}}'),
    "offsets beyond the end": header(f'{{"a": {entry(0, 1 << 40)}}}'),
    "offsets reversed": header(f'{{"a": {entry(16, 0)}}}'),
    "a hole": header(f'{{"a": {entry(4, 16, "[3]")}}}'),
    "a shape that is larger": header(f'{{"a": {entry(0, 16, "[1000, 1000]")}}}'),
    "a shape that overflows": header(f'{{"a": {entry(0, 16, "[4294967296, 4294967296, 4]")}}}'),
    "a negative shape": header(f'{{"a": {entry(0, 16, "[-2, -2]")}}}'),
    "an unknown type": header(f'{{"a": {entry(0, 16, dtype="O")}}}'),
    "bytes left over": header(f'{{"a": {entry(0, 16)}}}', data=bytes(17)),
    "names of no JSON": header(f'{{"__metadata__": {{"same": "["}}, "a": {entry(0, 16)}}}'),
    "a pickle": pickle.dumps(Call(os.system, "true")),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_hostile_weights_file_is_refused(kind: str) -> None:
    assert storage.tensors_from_bytes(header(f'{{"a": {entry(0, 16)}}}'), source="w")["a"].shape == (2, 2)
    start = time.process_time()
    with pytest.raises(CheckpointError, match=r"^run/w is no safetensors file: ") as caught:
        storage.tensors_from_bytes(HEADERS[kind], source="run/w")
    assert time.process_time() - start < 2
    assert len(str(caught.value)) < 300


EXPECTED = {"a": torch.zeros(2, 3), "b": torch.zeros(4), "c": torch.zeros(1, dtype=torch.int64)}


def test_the_tensors_of_a_model_are_recognised_in_any_float_type() -> None:
    storage.check_state_dict(EXPECTED, {name: t.clone() for name, t in EXPECTED.items()}, "w")
    storage.check_state_dict(EXPECTED, EXPECTED | {"a": torch.zeros(2, 3, dtype=torch.float64)}, "w")


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"a": torch.zeros(2, 3)}, r"2 tensors missing \(b, c\)\."),
        (EXPECTED | {"d": torch.zeros(1)}, r"1 tensor not of this model \(d\)\."),
        (EXPECTED | {"a": torch.zeros(3, 2)}, r"1 tensor of another shape \(a \[3, 2\] instead of \[2, 3\]\)\."),
        (EXPECTED | {"c": torch.zeros(1)}, r"1 tensor of another kind of number \(c torch.float32 instead of"),
        ({f"x\n{i}": torch.zeros(1) for i in range(9)}, r"3 tensors missing .*; 9 tensors .*x\\n0.* and 6 more\)"),
    ],
)
def test_the_tensors_of_another_model_are_listed(found: dict[str, Tensor], words: str) -> None:
    with pytest.raises(CheckpointError, match=words) as caught:
        storage.check_state_dict(EXPECTED, found, "runs/a/weights.safetensors")
    assert str(caught.value).startswith("runs/a/weights.safetensors holds the weights of another model: ")
    assert "\n" not in str(caught.value)
