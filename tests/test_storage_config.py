"""Configs come back as they were, and a hostile one costs nothing."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsgen import storage
from fsgen.errors import CheckpointError

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda part: st.lists(part) | st.dictionaries(st.text(), part),
    max_leaves=5,
)


@given(st.dictionaries(st.text(), plain))
def test_any_plain_config_comes_back(config: dict[str, Any]) -> None:
    data = storage.config_to_bytes(config)
    assert storage.config_from_bytes(data, source="c") == config


def test_a_list_used_twice_is_written_twice() -> None:
    shape = (1, 2, 2)
    data = storage.config_to_bytes({"model": [shape, shape], "data": shape})
    assert storage.config_from_bytes(data, source="c") == {"model": [[1, 2, 2]] * 2, "data": [1, 2, 2]}


@pytest.mark.parametrize("odd", [Path("a"), print, 1j, object()], ids=lambda odd: type(odd).__name__)
def test_a_config_of_other_things_is_not_written(odd: Any) -> None:
    with pytest.raises(TypeError, match="a config is numbers, text, lists and mappings"):
        storage.config_to_bytes({"a": [odd]})


@pytest.mark.parametrize(
    "text",
    [
        b"a: &x [1]\nb: *x",
        b"a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]",
        b"a: !!python/object/apply:os.system [touch canary]",
        b"a: !!python/name:os.system",
        b"a: !!int ''",
        b"a: !!bool x",
        b"? [a]\n: b",
        b"[" * 60_000,
        b"{a: " * 15_000,
        b"- " * 30_000,
        b"? " * 30_000,
        b"".join(b" " * depth + b"a:\n" for depth in range(300)),
        b"a: " + b"[]," * 20_000,
        b"a: &x 1\n" + b"&y " * 20_000,
        b"a: 1\n--- \nb: 2",
        b"%YAML 9.9\n---\na: 1",
        b"a: !!timestamp x",
        b"a: 2001-99-99",
        b"- a",
        b"",
        b"a: \xff",
        b"a: " + b"b" * 70_000,
        b"a: b: c",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_hostile_config_is_refused_at_once(text: bytes) -> None:
    start = time.process_time()
    with pytest.raises(CheckpointError, match=r"^run/config\.yaml is no config: ") as caught:
        storage.config_from_bytes(text, source="run/config.yaml")
    assert time.process_time() - start < 1
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()
