"""Files appear whole or not at all, and no altered file is read."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from crashes import crashes, in_child, scraps

from fsgen import storage
from fsgen.errors import CheckpointError, StorageError

OLD = {"a": b"old content of a", "b": b"old content of b"}
NEW = {"a": b"the new content of a", "c": b"c is new"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    storage.write_folder(tmp_path / "folder", OLD)
    return tmp_path / "folder"


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_is_old_or_new_wherever_its_writer_dies(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "file").write_bytes(b"old")
    found = []
    for place in crashes(tmp_path / "t", lambda place: storage.write_bytes(place / "file", b"newer")):
        found.append((place / "file").read_bytes())
        storage.clean_stale(place)
        assert scraps(place) == []
    assert len(found) >= 7
    assert (found[0], found[-1], set(found)) == (b"old", b"newer", {b"old", b"newer"})


def test_the_enumeration_finds_a_writer_that_is_not_atomic(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "file").write_bytes(b"old")

    def in_place(place: Path) -> None:
        fd = os.open(place / "file", os.O_WRONLY | os.O_TRUNC)
        os.write(fd, b"newer")
        os.fsync(fd)

    found = {(place / "file").read_bytes() for place in crashes(tmp_path / "t", in_place)}
    assert found - {b"old", b"newer"}


def test_a_folder_is_absent_or_whole_wherever_its_writer_dies(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    seen = []
    for place in crashes(tmp_path / "t", lambda place: storage.write_folder(place / "new", NEW)):
        seen.append((place / "new").exists())
        if seen[-1]:
            assert {name: storage.read_file(place / "new", name) for name in NEW} == NEW
        storage.clean_stale(place)
        assert scraps(place) == []
    assert len(seen) >= 15
    assert set(seen) == {False, True}


def test_every_file_reads_old_or_new_wherever_one_and_a_second_update_die(folder: Path) -> None:
    def check(place: Path, *versions: dict[str, bytes]) -> None:
        assert storage.read_file(place, "b") == OLD["b"]
        assert storage.read_file(place, "a") in [version["a"] for version in versions]

    last = {"a": b"third"}
    places = list(crashes(folder, lambda place: storage.update_folder(place, NEW)))
    visible = {
        tuple((name, (place / name).read_bytes()) for name in (storage.MANIFEST, "a")): place for place in places
    }
    assert len(places) >= 25
    assert len(visible) == 4  # nothing yet; manifest of both; file; manifest of the new one
    for place in places:
        check(place, OLD, NEW)
    for place in visible.values():
        for again in crashes(place, lambda place: storage.update_folder(place, last)):
            check(again, OLD, NEW, last)
        assert storage.read_file(again, "a") == b"third"


def test_a_finished_update_accepts_the_new_content_only(folder: Path) -> None:
    old = (folder / "a").read_bytes()
    storage.update_folder(folder, NEW)
    assert {name: storage.read_file(folder, name) for name in "abc"} == OLD | NEW
    (folder / "a").write_bytes(old)
    with pytest.raises(CheckpointError, match="a is altered"):
        storage.read_file(folder, "a")


def test_an_update_starts_a_manifest_where_there_is_none(tmp_path: Path) -> None:
    storage.update_folder(tmp_path, NEW)
    assert storage.read_file(tmp_path, "c") == NEW["c"]


def test_a_file_replaced_while_it_is_read_is_read_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, updates = os.open, [{"a": b"third"}, NEW]

    def late(path: Path, *args: Any, **kwargs: Any) -> int:
        if path == folder / "a" and updates:
            update = updates.pop()
            monkeypatch.setattr(os, "open", real)
            storage.update_folder(folder, update)
            monkeypatch.setattr(os, "open", late)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", late)
    assert storage.read_file(folder, "a") == b"third"
    assert updates == []


WRITERS: dict[str, Callable[[Path], Any]] = {
    "write_bytes": lambda folder: storage.write_bytes(folder / "a", NEW["a"]),
    "write_folder": lambda folder: storage.write_folder(folder / "new", NEW),
    "update_folder": lambda folder: storage.update_folder(folder, NEW),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_content_is_on_the_device_before_its_name_and_names_are_at_the_end(
    folder: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the death of a process cannot show, a power failure would: the order of fsync and rename."""
    paths, unsafe, renamed = {}, set(), 0

    def opened(path: Path, *args: Any, real: Any = os.open, **kwargs: Any) -> int:
        paths[fd := real(path, *args, **kwargs)] = Path(path)
        return fd

    def written(fd: int, data: Any, real: Any = os.write) -> int:
        unsafe.add(paths[fd])
        return real(fd, data)

    def synced(fd: int, real: Any = os.fsync) -> None:
        unsafe.discard(paths[fd])
        real(fd)

    def moved(source: Path, target: Path, real: Any = os.replace) -> None:
        nonlocal renamed
        assert not [path for path in unsafe if path == source or source in path.parents]
        unsafe.add(target.parent)
        renamed += 1
        real(source, target)

    for name, call in {"open": opened, "write": written, "fsync": synced, "rename": moved, "replace": moved}.items():
        monkeypatch.setattr(os, name, call)
    WRITERS[writer](folder)
    assert unsafe == set()
    assert renamed == {"write_bytes": 1, "write_folder": 1, "update_folder": 4}[writer]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk full. Free"),
        (errno.EDQUOT, "quota exceeded. Free"),
        (errno.EROFS, "read-only file system. Choose another --out"),
        (errno.EFBIG, "file too large. Raise"),
        (errno.EIO, "the device failed. Check the disk"),
        (errno.EBUSY, "busy. Choose another --out"),
    ],
)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_refused_write_leaves_the_old_content_and_no_scrap(
    folder: Path, writer: str, number: int, words: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(number, os.strerror(number))

    before = contents(folder)
    if call == "open":
        real = os.open
        monkeypatch.setattr(
            os, "open", lambda p, flags, *a, **k: (refuse if flags & os.O_CREAT else real)(p, flags, *a)
        )
    else:
        for name in {"rename": ["rename", "replace"]}.get(call, [call]):
            monkeypatch.setattr(os, name, refuse)
    with pytest.raises(StorageError) as caught:
        WRITERS[writer](folder)
    monkeypatch.undo()
    message = str(caught.value)
    assert contents(folder) == before
    assert message.startswith(f"cannot write {folder}")
    assert "bytes)" in message
    assert words.lower() in message.lower()
    assert "\n" not in message
    assert caught.value.exit_status == 74


def test_a_file_beyond_the_size_limit_is_refused_by_name_and_size(folder: Path) -> None:
    before = contents(folder)

    def limited() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        with pytest.raises(StorageError) as caught:
            storage.update_folder(folder, {"a": bytes(5000)})
        return str(caught.value)

    status, message = in_child(limited)
    assert status == 0
    assert message.startswith(f"cannot write {folder / 'a'} (5000 bytes): file too large.")
    assert contents(folder) == before


def test_a_disk_that_takes_one_byte_at_a_time_gets_them_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:1]))
    storage.write_bytes(tmp_path / "file", b"one by one")
    assert (tmp_path / "file").read_bytes() == b"one by one"


def test_a_folder_that_holds_something_is_not_overwritten(folder: Path) -> None:
    with pytest.raises(StorageError, match="exists and is not empty"):
        storage.write_folder(folder, NEW)
    assert storage.read_file(folder, "a") == OLD["a"]
    assert scraps(folder.parent) == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"file \(3 bytes\): no such folder. Create it"):
        storage.write_bytes(tmp_path / "none" / "file", b"abc")


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "/a", "a\\b", "c:a", "a\0", "a\n", storage.MANIFEST])
def test_only_plain_names_are_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="no plain file name"):
        storage.write_folder(tmp_path / "new", {name: b""})
    with pytest.raises(ValueError, match="no plain file name"):
        storage.update_folder(tmp_path, {name: b""})


def test_every_truncation_and_every_flipped_bit_is_found(tmp_path: Path) -> None:
    """2000 random alterations: none is read as if nothing had happened."""
    draw = random.Random(5)
    files = {name: draw.randbytes(size) for name, size in (("weights", 400), ("state", 900), ("small", 3))}
    storage.write_folder(tmp_path / "f", files)
    whole = contents(tmp_path / "f")
    for trial in range(2000):
        name = draw.choice(sorted(whole))
        data = bytearray(whole[name])
        if trial % 2:
            del data[draw.randrange(len(data)) :]
        else:
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        (tmp_path / "f" / name).write_bytes(data)
        found = 0
        for read in files if name == storage.MANIFEST else [name]:
            try:
                storage.read_file(tmp_path / "f", read)
            except CheckpointError:
                found += 1
        assert found
        (tmp_path / "f" / name).write_bytes(whole[name])


def put_symlink(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def swap(path: Path) -> None:
    a, b = path.read_bytes(), path.with_name("b").read_bytes()
    path.write_bytes(b)
    path.with_name("b").write_bytes(a)


ALTERATIONS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), "a is missing"),
    "empty": (lambda path: path.write_bytes(b""), "a is altered: MANIFEST.json lists 16 bytes .* holds 0 bytes"),
    "longer": (lambda path: path.write_bytes(OLD["a"] + b"!"), "a is altered: it holds 17 bytes, expected 16"),
    "swapped": (swap, "a is altered: .* with sha256 .* holds 16 bytes with sha256"),
    "link": (put_symlink, "a cannot be read: it is a symbolic link"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "a (is no regular file|cannot be read)"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "a is no regular file"),
}


@pytest.mark.parametrize("kind", ALTERATIONS)
def test_an_altered_file_is_refused_with_what_was_found(folder: Path, kind: str) -> None:
    alter, words = ALTERATIONS[kind]
    alter(folder / "a")
    with pytest.raises(CheckpointError, match=words) as caught:
        storage.read_file(folder, "a")
    assert "Restore it from a copy" in str(caught.value)
    assert "\n" not in str(caught.value)


EMPTY = hashlib.sha256(b"").hexdigest()


def manifest(name: str = "a", sha256: Any = EMPTY, size: Any = 0, **more: Any) -> bytes:
    return json.dumps({"format": 1, "files": {name: {"sha256": sha256, "bytes": size}}, **more}).encode()


MANIFESTS = {
    "empty": b"",
    "no JSON": b"{'a': 1}",
    "no UTF-8": b"\xff\xfe{}",
    "a list": b"[]",
    "null": b"null",
    "no files": b'{"format": 1}',
    "files a list": b'{"format": 1, "files": ["a"]}',
    "no format": b'{"files": {}}',
    "format true": manifest(format=True),
    "nested": b"[" * 200_000,
    "nested objects": b'{"format":' * 100_000,
    "long number": b'{"format": ' + b"1" * 100_000 + b"}",
    "huge": b" " * (1 << 21) + manifest(),
    "up": manifest("../a"),
    "absolute": manifest("/a"),
    "drive": manifest("c:a"),
    "itself": manifest(storage.MANIFEST),
    "control": manifest("a\x1b[2J"),
    "hash a number": manifest(sha256=3),
    "hash short": manifest(sha256="ab"),
    "size negative": manifest(size=-1),
    "size a float": manifest(size=0.0),
    "size true": manifest(size=True),
    "previous up": manifest(previous={"a": {"sha256": "../a", "bytes": 0}}),
    "previous a number": manifest(previous=3),
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_manifest_that_is_damaged_or_hostile_is_refused(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / storage.MANIFEST).write_bytes(manifest())
    assert storage.read_file(tmp_path, "a") == b""
    (tmp_path / storage.MANIFEST).write_bytes(MANIFESTS[kind])
    with pytest.raises(CheckpointError, match=storage.MANIFEST) as caught:
        storage.read_file(tmp_path, "a")
    assert len(str(caught.value)) < 400 + len(str(tmp_path))
    assert str(caught.value).isprintable()


def test_a_newer_format_asks_for_a_newer_fsgen(tmp_path: Path) -> None:
    (tmp_path / storage.MANIFEST).write_bytes(manifest(format=2))
    with pytest.raises(CheckpointError, match="upgrade fsgen"):
        storage.read_file(tmp_path, "a")


def test_a_file_that_is_not_listed_is_not_read(folder: Path) -> None:
    (folder / "notes").write_text("mine")
    with pytest.raises(CheckpointError, match=r"notes is not listed in MANIFEST.json, which holds: a, b\."):
        storage.read_file(folder, "notes")


def test_scraps_of_dead_processes_go_and_those_of_live_ones_stay(tmp_path: Path) -> None:
    _, dead = in_child(os.getpid)
    (tmp_path / f".tmp-{dead}-file").write_bytes(b"torn")
    (tmp_path / f".tmp-{dead}-folder" / "deep").mkdir(parents=True)
    (tmp_path / f".tmp-{dead}-link").symlink_to(tmp_path / "kept")
    (tmp_path / ".tmp-99999999999999999999-file").write_bytes(b"")
    kept = {"kept", f".tmp-{os.getpid()}-file", f".tmp-{os.getppid()}-file", ".tmp-x-file"}
    for name in kept:
        (tmp_path / name).write_bytes(b"")
    storage.clean_stale(tmp_path)
    assert set(contents(tmp_path)) == kept


def test_a_removed_folder_is_whole_or_gone_wherever_its_remover_dies(folder: Path) -> None:
    whole = contents(folder)
    (folder.parent / "t").mkdir()
    folder.rename(folder.parent / "t" / "folder")
    for place in crashes(folder.parent / "t", lambda place: storage.remove_folder(place / "folder")):
        assert not (place / "folder").exists() or contents(place / "folder") == whole
    assert list(place.iterdir()) == []


def test_storage_and_runs_need_no_torch() -> None:
    code = "import sys, fsgen.storage, fsgen.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
