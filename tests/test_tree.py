"""The rules of CONTRIBUTING.md that a program can check: who imports whom, sizes, unsafe calls, start-up."""

from __future__ import annotations

import ast
import os
import re
import runpy
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fsgen.data.sources import SPLITS, load_images
from fsgen.episode import Episode
from fsgen.inference import log_weights
from fsgen.registry import CLASSIFIERS, LEARNERS, MODELS, SOURCES, build

ROOT = Path(__file__).resolve().parents[1]
CODE = ("fsgen", "tests", "experiments", "benchmarks")
BASE = {"errors", "storage"}
ANY = {""}

# Room -> the rooms of fsgen it may import. A room is a module or a package with all it holds; the row of a module is
# the longest that fits, and `training` also covers a `training_loop` split off it. A room may import itself, but one
# module of `models` or `learners` never another.
ROOMS: dict[str, set[str]] = {
    "errors": set(),
    "storage": {"errors"},
    "episode": set(),
    "objectives": set(),
    "config": BASE,
    "registry": BASE,
    "sheets": BASE,
    "nets": set(),
    "sets": {"nets"},
    "distributions": {"nets", "episode"},
    "inference": {"episode"},
    "annealing": {"episode", "inference", "errors"},
    "data": {"episode", "registry"} | BASE,
    "run": {"registry", "config"} | BASE,
    "parallel": {"errors"},
    "model": {"episode", "inference", "objectives", "registry", "published"} | BASE,
    "adaptation": {"episode", "inference", "model", "registry", "errors"},
    "published": {"registry", "errors"},
    "models": {"adaptation", "episode", "nets", "sets", "distributions", "model", "registry"} | BASE,
    "evaluation": {"episode", "model", "inference", "objectives", "run", "data"} | BASE,
    "classification": {"episode", "model", "inference", "objectives", "run", "data", "nets"}
    | {"evaluation", "registry"}
    | BASE,
    "learners": {"classification", "episode", "nets", "inference", "registry", "errors"},
    "quality": {"classification", "data", "episode", "evaluation", "inference", "model", "errors"},
    "pictures": {"classification", "data", "episode", "inference", "model", "quality", "sheets"} | BASE,
    "training": {"episode", "distributions", "inference", "objectives", "run", "config", "registry", "data", "model"}
    | {"evaluation", "monitor", "parallel"}
    | BASE,
    "monitor": {"config", "data", "model", "sheets"} | BASE,
    "report": {"run", "registry"} | BASE,
    "cli": ANY,
    "__main__": ANY,
    "__init__": ANY,
}
APART = {"models", "learners"}
ONLY_IN = {"pyro.poutine": "inference", "torchvision": "data.vision", "torch.distributed": "parallel.processes"}
NEVER_IN = {
    "report": {"torch", "pyro", "torchvision"},
    "sheets": {"torch", "pyro", "torchvision", "matplotlib"},
    "objectives": {"pyro"},
}
VAGUE = {"utils", "util", "helpers", "misc", "common"}
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|tmp|root|home|Users|opt)/\w")
UNFINISHED = re.compile(r"\b(?:TO[D]O|FIX[M]E|X[X]X)\b")


def modules() -> dict[str, Path]:
    """Every module of fsgen by its name without the leading "fsgen."."""
    found = {}
    for path in sorted((ROOT / "fsgen").rglob("*.py")):
        parts = path.relative_to(ROOT / "fsgen").with_suffix("").parts
        found[".".join(parts)] = path
    return found


def sources(*folders: str) -> list[Path]:
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def texts() -> Iterator[tuple[str, str]]:
    """Name and content of every text file: those at the top, and those of the project's folders."""
    folders = [ROOT / name for name in (*CODE, "assets", "docs", ".ci", ".github")]
    for path in sorted(ROOT.iterdir()) + [path for folder in folders for path in sorted(folder.rglob("*"))]:
        if path.is_file() and "__pycache__" not in path.parts and b"\0" not in (content := path.read_bytes()):
            yield str(path.relative_to(ROOT)), content.decode("utf-8", errors="replace")


def imported(name: str, code: ast.Module) -> set[str]:
    """Absolute names that the module ``fsgen.<name>`` imports, at any depth; ``from a import b`` gives "a.b"."""
    package = ["fsgen", *name.split(".")][:-1]
    found: set[str] = set()
    for node in ast.walk(code):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            found |= {f"{origin}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ONLY_IN:
            found.add(ast.unparse(node))
    return found


def within(name: str, room: str) -> bool:
    """Whether a module is the room, lies in it, or was split off it (``training_loop``)."""
    return name == room or name.startswith((f"{room}.", f"{room}_"))


def room_of(name: str) -> str:
    rows = [room for room in ROOMS if within(name, room)]
    assert rows, f"no row covers fsgen/{name.replace('.', '/')}.py: add one to ROOMS and to CONTRIBUTING.md"
    return max(rows, key=len)


def wrong_imports(name: str, code: ast.Module) -> list[str]:
    """The imports of the module ``fsgen.<name>`` that the tables do not allow."""
    room, targets, wrong = room_of(name), sorted(imported(name, code)), []
    own = ".".join(name.split(".")[:2]) if room in APART else room
    for target in targets:
        if within(target, "fsgen") and ROOMS[room] != ANY:
            inner = target.partition(".")[2]
            wrong += [target] if not any(within(inner, allowed) for allowed in ROOMS[room] | {own}) else []
        wrong += [target for package, owner in ONLY_IN.items() if within(target, package) and name != owner]
        wrong += [target for package in NEVER_IN.get(room, ()) if within(target, package)]
    return wrong


def unsafe_calls(code: ast.Module) -> list[str]:
    """The calls that can run, or write anywhere, what a file or a user holds."""
    found = []
    for call in (node for node in ast.walk(code) if isinstance(node, ast.Call)):
        name, options = ast.unparse(call.func), {k.arg: ast.unparse(k.value) for k in call.keywords}
        bad = (
            name in {"eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load", "torch.hub.load"}
            or name.split(".")[0] in {"pickle", "dill", "marshal", "joblib"}
            or (name == "torch.load" and options.get("weights_only") != "True")
            or (name in {"np.load", "numpy.load"} and options.get("allow_pickle", "False") != "False")
            or (name in {"yaml.load", "yaml.load_all"} and "SafeLoader" not in ast.unparse(call))
            or options.get("shell", "False") != "False"
            or (name.endswith(".extractall") and options.get("filter") != "'data'")
            or name.endswith("unpack_archive")
        )
        found += [f"line {call.lineno}: {name}"] if bad else []
    return found


@pytest.mark.parametrize("name", modules())
def test_imports_follow_the_table(name: str) -> None:
    assert wrong_imports(name, ast.parse(modules()[name].read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("objectives", "import fsgen.episode"),
        ("inference", "def late():\n    from fsgen import model"),
        ("nets", "import fsgen"),
        ("models.gmn", "from fsgen.models.vae import VAE"),
        ("models.gmn", "from . import vae"),
        ("data.omniglot", "from ..training import fit"),
        ("data.__init__", "from fsgen.models import gmn"),
        ("data.omniglot", "from torchvision.datasets import Omniglot"),
        ("models.gmn", "from pyro import poutine"),
        ("model", "import pyro\npyro.poutine.trace(f)"),
        ("report.tables", "from torch import Tensor"),
    ],
)
def test_a_wrong_import_is_found(name: str, code: str) -> None:
    assert wrong_imports(name, ast.parse(code))


def test_a_module_without_a_row_is_found() -> None:
    with pytest.raises(AssertionError, match=r"no row covers fsgen/losses\.py"):
        room_of("losses")


def test_every_room_stands_in_the_rule_book() -> None:
    rules = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [room for room in ROOMS if not re.search(rf"`(?:fsgen/)?{room}(?:\.py|/)`", rules)] == []


def test_no_file_is_longer_than_400_lines() -> None:
    lines = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in sources(*CODE)}
    assert {name: count for name, count in lines.items() if count > 400} == {}


def test_files_are_named_for_what_they_hold() -> None:
    assert [str(path) for path in sources(*CODE) if VAGUE & {path.stem, path.parent.name}] == []


def test_nothing_runs_what_a_file_holds() -> None:
    calls = {
        str(path.relative_to(ROOT)): unsafe_calls(ast.parse(path.read_text(encoding="utf-8")))
        for path in sources("fsgen", "experiments", "benchmarks")
    }
    assert {name: found for name, found in calls.items() if found} == {}


@pytest.mark.parametrize(
    "code",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "pickle.load(f)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval(text)",
        "exec(text)",
        "subprocess.run(line, shell=True)",
        "archive.extractall(folder)",
        "shutil.unpack_archive(path)",
    ],
)
def test_an_unsafe_call_is_found(code: str) -> None:
    assert unsafe_calls(ast.parse(code))


@pytest.mark.parametrize(
    "code", ["torch.load(path, weights_only=True)", "np.load(path)", "model.eval()", "yaml.load(t, yaml.SafeLoader)"]
)
def test_a_safe_call_is_left_alone(code: str) -> None:
    assert unsafe_calls(ast.parse(code)) == []


@pytest.mark.parametrize("mark", [MACHINE_PATH, UNFINISHED], ids=["paths of one machine", "unfinished marks"])
def test_no_text_holds(mark: re.Pattern[str]) -> None:
    found = {name: match.group() for name, text in texts() if (match := mark.search(text))}
    assert found == {}


def test_versions_agree() -> None:
    read = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("pyproject.toml", "CITATION.cff")}
    change = re.search(r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    version = re.search(r'^version = "(.+)"', read["pyproject.toml"], re.M)
    cited = re.search(r"^version: (.+)", read["CITATION.cff"], re.M)
    assert change
    assert version
    assert cited
    assert version[1] == cited[1] == change[1]


def test_every_dependency_is_pinned_and_the_makefile_installs_the_pinned_torch() -> None:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M))
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = re.findall(r'^    "([A-Za-z][\w.-]*)(?:\[\w+\])?>=', project, re.M)
    make = dict(re.findall(r"^(TORCH\w*) \?= (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    assert len(wanted) > 20
    assert {name.lower() for name in wanted} - {name.lower() for name in pins} == set()
    assert make == {"TORCH": pins["torch"], "TORCHVISION": pins["torchvision"]}


def example(name: str, folder: Path) -> dict[str, Any]:
    """The globals of the worked example of CONTRIBUTING.md that holds ``name``, run as a file of its own."""
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M | re.S)
    (code,) = [block for block in blocks if name in block]
    (path := folder / "example.py").write_text(code, encoding="utf-8")
    return runpy.run_path(str(path))


def test_the_worked_model_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODELS, "members", dict(MODELS.discover()))
    model = example("toy-set-vae", tmp_path)["ToySetVAE"].tiny((1, 2, 2))
    weights = log_weights(model, Episode.sequential(torch.ones(3, 4, 1, 2, 2)), particles=5)
    assert weights.shape == (5, 3, 4)
    assert weights.isfinite().all()
    built = build("toy-set-vae", event_shape=(1, 2, 2))
    assert built.condition(torch.zeros(0, 1, 2, 2)).sample((6,)).shape == (6, 1, 2, 2)


def test_the_worked_source_has_disjoint_repeatable_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SOURCES, "members", dict(SOURCES.discover()))
    example("toy-stripes", tmp_path)
    splits = [load_images("toy-stripes", split, tmp_path) for split in SPLITS]
    assert len({name for images in splits for name in images.class_names}) == 36
    assert len({images.digest for images in splits}) == 3
    assert [load_images("toy-stripes", split, tmp_path).digest for split in SPLITS] == [i.digest for i in splits]
    assert np.bincount(splits[0].labels).tolist() == [20] * 12


def test_the_worked_set_encoder_masks_by_deletion(tmp_path: Path) -> None:
    encode = example("class SecondMomentPool", tmp_path)["SecondMomentPool"](None, 3)
    embedded = torch.randn(2, 4, 3, dtype=torch.float64)
    visible = torch.tensor([True, False, True, False]).expand(2, 1, 4)
    kept = encode.pool(embedded[:, [2, 0]], torch.ones(2, 1, 2, dtype=torch.bool))
    assert torch.equal(encode.pool(embedded, visible), kept)
    assert torch.equal(encode.pool(embedded[:, :0], visible[..., :0]), torch.zeros(2, 1, 3, dtype=torch.float64))


def test_the_worked_classifier_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CLASSIFIERS, "members", dict(CLASSIFIERS.discover()))
    nearest = example("toy-nearest-mean", tmp_path)["NearestMean"]()
    images = torch.eye(4).reshape(4, 1, 2, 2)
    assert nearest.fit(images, list("abca")).predict(images).tolist() == list("abca")


def test_the_worked_learner_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LEARNERS, "members", dict(LEARNERS.discover()))
    learner = example("toy-relation", tmp_path)["ToyRelation"].tiny((1, 4, 4))
    images = torch.eye(4).repeat_interleave(4, 1).reshape(4, 1, 4, 4)
    assert learner.fit(images, list("abca")).predict_proba(images).shape == (4, 3)
    assert log_weights(learner, Episode(images[None], images[None], ways=2)).shape == (1, 1, 4)


def modules_after(code: str) -> set[str]:
    """What ``sys.modules`` holds after ``code`` ran in a fresh interpreter."""
    report = "import sys; print('\\n' + ' '.join(sys.modules))"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_listing_what_is_registered_leaves_torch_alone() -> None:
    loaded = modules_after("import fsgen\nfrom fsgen.registry import MODELS, SOURCES\nMODELS.catalogue()")
    assert "fsgen.registry" in loaded
    assert "torch" not in loaded


@pytest.mark.parametrize("words", [["--help"], ["models"], ["data"], ["no-such-command"]], ids=" ".join)
def test_quick_commands_leave_torch_alone(words: list[str]) -> None:
    run = f"import sys\nfrom fsgen.cli import main\nsys.argv = {['fsgen', *words]}"
    loaded = modules_after(f"{run}\ntry:\n    main()\nexcept SystemExit:\n    pass")
    assert "fsgen.cli" in loaded
    assert "torch" not in loaded


def test_reports_are_written_without_torch() -> None:
    names = [name for name in modules() if within(name, "report") and not name.endswith("__main__")]
    if not names:
        pytest.skip("fsgen/report does not exist yet")
    imports = "\n".join(f"import fsgen.{name.removesuffix('.__init__')}" for name in names)
    assert "torch" not in modules_after(imports)


def test_the_suite_reaches_this_machine_only() -> None:
    with pytest.raises(RuntimeError, match="reached for the network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    with pytest.raises(RuntimeError, match="reached for the network"):
        socket.getaddrinfo("example.org", 443)
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=5).close()
