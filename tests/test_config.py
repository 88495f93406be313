"""Configurations: what is written is what is read, and nothing that is written can surprise a person."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from hypothesis import strategies as st
from tiny import SMALL_MODELS, config, flags, strokes

from fsgen.cli import main
from fsgen.cli.train import parser
from fsgen.config import OptimiserConfig, TrainConfig, as_plain, flat, from_plain
from fsgen.errors import InputError
from fsgen.registry import SOURCES
from fsgen.run import Run
from fsgen.training import Outcome, Trainer

pytestmark = pytest.mark.usefixtures("as_a_user")
KEYS = sorted(flat(as_plain(TrainConfig())))


@pytest.fixture(autouse=True)
def strokes_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES.members, "strokes", strokes)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that is built and checked, and takes no step."""
    monkeypatch.setattr(Trainer, "fit", lambda *args, **kwargs: Outcome("finished", 12, None))


def answer(words: list[str]) -> tuple[int, str, str]:
    """Exit status, output and error output of a command."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main(words)
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 99
    return status, out.getvalue(), err.getvalue()


def nested(path: str, value: Any) -> dict[str, Any]:
    head, _, rest = path.partition(".")
    return {head: nested(rest, value) if rest else value}


def merged(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    both = {**a, **b}
    for key in a.keys() & b.keys():
        if isinstance(a[key], dict) and isinstance(b[key], dict):
            both[key] = merged(a[key], b[key])
    return both


def test_plain_values_are_read_back() -> None:
    settings = config("gmn", episodes={"ways": [1, 2]}, optimiser={"betas": (0.5, 0.6)}, data={"classes": 3})
    assert from_plain(TrainConfig, as_plain(settings)) == settings
    written = yaml.safe_load(yaml.safe_dump(flat(as_plain(settings))))
    assert written == flat(as_plain(settings))
    assert from_plain(TrainConfig, {}) == TrainConfig()
    assert from_plain(TrainConfig, {"optimiser": {"ema": 0.5}}).optimiser == OptimiserConfig(ema=0.5)


def test_fields_that_do_not_exist_are_named() -> None:
    with pytest.raises(InputError, match=r"TrainConfig has no field 'stepz'.*steps"):
        from_plain(TrainConfig, {"stepz": 3})
    with pytest.raises(InputError, match=r"OptimiserConfig has no field 'lr'.*learning_rate"):
        from_plain(TrainConfig, {"optimiser": {"lr": 3}})


@pytest.mark.parametrize(
    ("key", "value", "edit"),
    [
        ("steps", 0, "1 or more"),
        ("seed", -1, "0 or more"),
        ("threads", -1, "0 or more"),
        ("checkpoint_every", 0, "1 or more"),
        ("episodes.batch", 0, "1 or more"),
        ("episodes.workers", -1, "0 or more"),
        ("objective.particles", 0, "1 or more"),
        ("objective.kl_warmup", -1, "0 or more"),
        ("objective.free_nats", -0.5, "0 or more"),
        ("objective.free_nats", math.nan, "0 or more"),
        ("objective.alpha", -0.5, "0 or more"),
        ("objective.alpha_halving", -1, "0 or more"),
        ("optimiser.learning_rate", 0.0, "a positive number"),
        ("optimiser.learning_rate", math.inf, "a positive number"),
        ("optimiser.learning_rate", math.nan, "a positive number"),
        ("optimiser.warmup", -1, "0 or more"),
        ("optimiser.clip", -1.0, "0 or more"),
        ("optimiser.ema", 1.0, "from 0 up to, not including, 1"),
        ("optimiser.weight_decay", 0.1, "--optimiser.name adamw"),
        ("validation.every", 0, "1 or more"),
        ("validation.sets", 1, "2 or more"),
        ("validation.particles", 0, "1 or more"),
    ],
)
def test_values_out_of_range_are_refused_with_the_edit(key: str, value: Any, edit: str) -> None:
    with pytest.raises(InputError) as refused:
        from_plain(TrainConfig, nested(key, value)).check()
    assert key in str(refused.value)
    assert edit in str(refused.value)
    TrainConfig().check()


def write(path: Path, content: Any) -> str:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("# caf\xe9\nsteps: 5\n".encode("latin-1"), ["{file} is not UTF-8", "save it as UTF-8"]),
        ("- steps\n- 5\n", ["{file}: it holds no mapping", "`steps: 1000`"]),
        ("12\n", ["{file}: it holds no mapping"]),
        ("", ["{file}: it holds no mapping"]),
        ("steps: [\n", ["{file}: Problems parsing config"]),
        ("steps:\t- 5\n", ["{file}: Problems parsing config"]),
        (b"steps: 5\0\n", ["{file}: Problems parsing config"]),
        ("steps: !!python/object/apply:os.system [exit]\n", ["{file}: Problems parsing config", "tag"]),
        ({"stepz": 5}, ["{file}: no option 'stepz'", "Did you mean 'steps'?"]),
        ({"optimiser": {"learning_rat": 1}}, ["no option 'optimiser.learning_rat'", "'optimiser.learning_rate'?"]),
        ({"optimiser": {"lr": 1}}, ["no option 'optimiser.lr'", "'optimiser' takes: name, learning_rate"]),
        ({"learning_rate": 1}, ["no option 'learning_rate'", "Did you mean 'optimiser.learning_rate'?"]),
        ({"steps": None}, ["steps is null; give a value such as 10000"]),
        ({"optimiser": None}, ["--optimiser is a group of options; give --optimiser.name"]),
        ({"optimiser": 3}, ["--optimiser is a group of options; give --optimiser.name"]),
        ({"steps": "many"}, ["steps is many; give a whole number"]),
        ({"steps": 1.5}, ["steps is 1.5; give a whole number"]),
        ({"bf16": "perhaps"}, ["bf16 is perhaps; give true or false"]),
        ({"optimiser": {"clip": "hard"}}, ["optimiser.clip is hard; give a number"]),
        ({"episodes": {"ways": 2}}, ["episodes.ways is 2; give a list such as [1, 2]"]),
        ({"episodes": {"protocol": "strickt"}}, ["strickt; give strict or published. Did you mean 'strict'?"]),
        ({"objective": {"name": "iwea"}}, ["objective.name is iwea; give elbo or iwae. Did you mean 'iwae'?"]),
        ({"model": {"options": 5}}, ["model.options is 5; give a mapping"]),
        ({"model": {"name": "gnm"}}, ["no model 'gnm'", "Did you mean 'gmn'?", "beta-bernoulli"]),
        ({"model": {"options": {"dim_y": 5}}}, ["model 'gmn' has no option 'dim_y'", "Did you mean 'dim_z'?"]),
        ({"model": {"options": {"dim_z": "big"}}}, ["model 'gmn': dim_z is big; give a whole number"]),
        ({"model": {"preset": "papr"}}, ["model 'gmn' has no preset 'papr'", "Did you mean 'paper'?"]),
        ({"data": {"name": "omniglut"}}, ["no data source 'omniglut'", "Did you mean 'omniglot'?"]),
        ({"data": {"name": "strokes", "options": {"clases": 3}}}, ["has no option 'clases'", "'classes'?"]),
        ({"data": {"name": "strokes", "options": {"classes": "x"}}}, ["data source 'strokes': classes is x; give"]),
        ({"data": {"name": "folder"}}, ["data source 'folder' needs", "'path'"]),
    ],
    ids=str,
)
def test_a_wrong_file_is_refused_in_one_line(content: Any, said: list[str], tmp_path: Path) -> None:
    file = write(tmp_path / "run.yaml", content)
    status, out, err = answer(["train", "--out", str(tmp_path / "run"), "--config", file])
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert [words for words in said if words.format(file=file) not in err] == []
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["nowhere.yaml", "."])
def test_a_file_that_is_none_is_named(name: str, tmp_path: Path) -> None:
    status, _, err = answer(["train", "--out", "run", "--config", str(tmp_path / name)])
    assert (status, err.count("\n")) == (2, 1)
    assert str(tmp_path) in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--steps", "many"], "steps is many; give a whole number."),
        (["--stepz", "5"], "no option 'stepz'. Did you mean 'steps'?"),
        (["--model.nam", "vae"], "no option 'model.nam'. Did you mean 'model.name'?"),
        (
            ["--model", "vae"],
            "--model is a group of options; give --model.name, --model.preset, --model.options, --model.init.",
        ),
        (["--steps"], "argument --steps: expected one argument"),
        (["vae"], "unrecognized arguments: vae"),
        (["--max-minutes", "soon"], "max_minutes is soon; give a number."),
        (["--steps", "x" * 500], "..."),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:30],
)
def test_wrong_flags_are_refused_in_one_line(words: list[str], said: str, tmp_path: Path) -> None:
    status, out, err = answer(["train", "--out", str(tmp_path / "run"), *words])
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert len(err) < 400


def test_the_run_folder_has_to_be_given() -> None:
    status, _, err = answer(["train"])
    assert status == 2
    assert "out is required" in err


def resolved(words: list[str]) -> dict[str, Any]:
    args = parser().parse(words).as_dict()
    return {key: value for key, value in args.items() if key not in ("config", "given", "out")}


CHOICES: dict[str, Callable[[], Any]] = {
    "steps": lambda: st.integers(1, 10**6),
    "seed": lambda: st.integers(0, 2**63),
    "bf16": st.booleans,
    "device": lambda: st.sampled_from(["cpu", "cuda:1", "5", "null", "yes", ""]),
    "data.root": lambda: st.sampled_from([None, "a b", "~/x: y", "é"]),
    "data.options": lambda: st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(), st.text(), st.none())),
    "episodes.ways": lambda: st.lists(st.integers(1, 9), max_size=3),
    "episodes.protocol": lambda: st.sampled_from(["strict", "published"]),
    "model.preset": lambda: st.sampled_from([None, "paper"]),
    "model.options": lambda: st.dictionaries(st.sampled_from("abc"), st.lists(st.floats(allow_nan=False))),
    "optimiser.learning_rate": lambda: st.floats(1e-12, 1e6),
    "optimiser.betas": lambda: st.tuples(st.floats(0, 1), st.floats(0, 1)),
}


@hypothesis.settings(max_examples=30)
@hypothesis.given(st.data())
def test_a_printed_configuration_is_read_back_the_same(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    folder = tmp_path_factory.mktemp("config")
    chosen = data.draw(st.fixed_dictionaries({}, optional={key: make() for key, make in CHOICES.items()}))
    content: dict[str, Any] = {}
    for key, value in chosen.items():
        content = merged(content, nested(key, list(value) if isinstance(value, tuple) else value))
    words = ["--config", write(folder / "a.yaml", content)] if content else []
    status, printed, err = answer(["train", "--print_config", "--out", "x", "--quiet", *words])
    assert (status, err) == (0, "")
    again = resolved(["--config", write(folder / "b.yaml", printed)])
    assert again == resolved(["--out", "x", "--quiet", *words])
    assert {key: flat(again)[key] for key in chosen} == {key: flat(nested(key, v))[key] for key, v in chosen.items()}


def test_flags_and_files_give_the_same_run(untrained: None, tmp_path: Path) -> None:
    settings = config("gmn", episodes={"ways": [1, 2]}, bf16=True, optimiser={"betas": (0.5, 0.6)}, data={"classes": 7})
    file = write(tmp_path / "a.yaml", yaml.safe_dump(yaml.safe_load(str(flat_yaml(settings)))))
    assert answer(["train", "--out", str(tmp_path / "a"), *flags(settings)])[0] == 0
    assert answer(["train", "--out", str(tmp_path / "b"), "--config", file])[0] == 0
    a, b = (Run.open(tmp_path / name).config for name in "ab")
    assert a == b
    assert from_plain(TrainConfig, a["training"]).episodes == settings.episodes
    overridden = ["train", "--out", str(tmp_path / "c"), "--config", file, "--steps", "77"]
    assert answer(overridden)[0] == 0
    assert Run.open(tmp_path / "c").config["training"] == {**a["training"], "steps": 77}


def flat_yaml(settings: TrainConfig) -> str:
    plain = as_plain(settings)
    plain["optimiser"]["betas"] = list(plain["optimiser"]["betas"])
    return yaml.safe_dump(plain)


ODD = st.one_of(
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**63, 2**64, 2**70, -(2**63), 10**12]),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=12),
    st.sampled_from(["", "nan", "1e400", "[", "{", "&a", "*a", "!!x", "\0", "\n", "--", "=", "é" * 20, "cuda", "meta"]),
    st.lists(st.one_of(st.integers(-3, 40), st.floats(), st.text(max_size=3)), max_size=3),
    st.dictionaries(st.one_of(st.text(max_size=6), st.integers(0, 3)), st.integers(-3, 9), max_size=2),
)
FUZZED = [key for key in KEYS if key not in ("data.options", "model.options")]
FUZZED += ["model.options." + option for option in SMALL_MODELS["gmn"]] + ["data.options.seeds", "stepz", "optimiser"]


@pytest.mark.filterwarnings("ignore")
@hypothesis.settings(
    max_examples=300,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
@hypothesis.given(st.data())
def test_no_configuration_ends_in_a_traceback(
    untrained: None, tmp_path_factory: pytest.TempPathFactory, data: Any
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    content = yaml.safe_load(flat_yaml(config("gmn")))
    for key in data.draw(st.lists(st.sampled_from(FUZZED), min_size=1, max_size=2)):
        value = data.draw(ODD)
        content = merged(content, nested(key, value))
    words = ["train", "--out", str(folder / "run"), "--quiet", "--config", write(folder / "run.yaml", content)]
    if data.draw(st.booleans()):
        words += [f"--{data.draw(st.sampled_from(FUZZED))}={data.draw(ODD)}"]
    status, _, err = answer(words)
    hypothesis.note(err)
    assert status in (0, 1, 2)
    assert err.count("\n") == (status != 0)
    assert "Traceback" not in err


@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.one_of(st.binary(max_size=40), st.text(max_size=40).map(lambda text: text.encode("utf-16"))))
def test_no_bytes_end_in_a_traceback(untrained: None, tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("bytes")
    status, _, err = answer(["train", "--out", str(folder / "run"), "--config", write(folder / "run.yaml", content)])
    assert status == 2
    assert err.count("\n") == 1
