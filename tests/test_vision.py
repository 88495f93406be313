"""The one door to torchvision: it opens beside any torch, and torch is left as it was."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fsgen.data import vision
from fsgen.errors import DataError

ROOT = Path(__file__).resolve().parents[1]
FAILING = "import torch\n@torch.library.register_fake('torchvision::no_such')\ndef f(x): return x\n"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of a torchvision package of our own, imported in place of the installed one."""
    mine = [name for name in sys.modules if name.partition(".")[0] == "torchvision"]
    for name in mine:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "datasets.py").write_text("class Omniglot: pass\n")
    genuine = torch.library.register_fake
    yield tmp_path / "torchvision" / "__init__.py"
    assert torch.library.register_fake is genuine
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def test_the_installed_torchvision_gives_its_data_sets_and_leaves_torch_as_it_was() -> None:
    code = """
import torch
before = torch.library.register_fake
from fsgen.data.vision import torchvision
package = torchvision()
import torchvision.transforms.v2
assert package.datasets.Omniglot.__name__ == "Omniglot"
assert package is torchvision
assert torch.library.register_fake is before
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        timeout=170,
    )
    assert done.returncode == 0, done.stderr


def test_a_torchvision_built_for_another_torch_is_opened(package: Path) -> None:
    package.write_text(FAILING)
    with pytest.raises(RuntimeError, match="operator torchvision::no_such does not exist"):
        importlib.import_module("torchvision")
    opened = vision.torchvision.__wrapped__()
    assert Path(opened.__file__) == package
    assert opened.f(3) == 3
    assert opened.datasets.Omniglot.__name__ == "Omniglot"


def test_only_the_operators_of_torchvision_are_passed_over(package: Path) -> None:
    package.write_text(f"{FAILING}torch.library.register_fake('elsewhere::no_such')(f)\n")
    with pytest.raises(RuntimeError, match="operator elsewhere::no_such does not exist"):
        vision.torchvision.__wrapped__()


@pytest.mark.parametrize("before", ["", FAILING], ids=["first import", "second import"])
def test_another_failure_of_torchvision_is_passed_on(package: Path, before: str) -> None:
    package.write_text(f"{before}raise RuntimeError('something else')\n")
    with pytest.raises(RuntimeError, match="something else"):
        vision.torchvision.__wrapped__()


def test_a_missing_torchvision_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(DataError, match="pip install torchvision"):
        vision.torchvision.__wrapped__()
