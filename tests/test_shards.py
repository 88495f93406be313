"""Shards of an evaluation: joined they are one run, number by number, and what does not fit is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scored import annealed
from tiny import SMALL_MODELS, strokes

from fsgen.cli import main
from fsgen.data.sampler import EpisodeSampler
from fsgen.errors import FsgenError, InputError
from fsgen.evaluation import PerSet, evaluate, score_sets
from fsgen.evaluation_shards import WHOLE, Shard, join
from fsgen.inference import latent_sites
from fsgen.model import FewShotModel
from fsgen.registry import SOURCES, build
from fsgen.run.log import Log

EVENT, SHOTS, SETS, BUDGET = (1, 4, 4), [0, 2, 5], 13, 9
NAMES = ["beta-bernoulli", "gmn"]
SCORED = [
    "--data",
    "strokes",
    "--length",
    6,
    "--sets",
    SETS,
    "--particles",
    4,
    "--budget",
    BUDGET,
    "--quiet",
    "--by-particles",
]
ROWS = ["--shots", *SHOTS, "--classes", 1, 2, "--protocol", "published"]
SAMPLER = EpisodeSampler(strokes("test", Path()), length=6, protocol="published")
Line = dict[str, Any]


@pytest.fixture(autouse=True)
def strokes_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES.members, "strokes", strokes)
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@lru_cache
def small(name: str) -> FewShotModel:
    model = build(name, event_shape=EVENT, **SMALL_MODELS[name])
    assert isinstance(model, FewShotModel)
    return model


def scored(name: str, shard: Shard = WHOLE, advance: Callable[[int], None] = print) -> list[PerSet]:
    return score_sets(small(name), SAMPLER, SHOTS, SETS, 4, budget=BUDGET, shard=shard, advance=advance)


@pytest.fixture(params=NAMES)
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model's folder, the exact one's and then the latent one's."""
    small(request.param).save(tmp_path / "run")
    return tmp_path / "run"


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """The three shards of an evaluation of the exact model."""
    small("beta-bernoulli").save(tmp_path / "run")
    return in_shards(tmp_path / "run", 3)


def call(*words: Any) -> None:
    assert main([str(word) for word in words]) == 0


def in_shards(run: Path, n: int, *more: Any) -> list[Path]:
    paths = [run / f"shard-{i}-of-{n}.jsonl" for i in range(1, n + 1)]
    for i in reversed(range(1, n + 1)):
        call("evaluate", run, *SCORED, *ROWS, "--shard", f"{i}/{n}", *more)
    return paths


def lines(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def apart_from_provenance(path: Path) -> list[list[tuple[str, Any]]]:
    """The lines as ordered pairs, without what says where they were made."""
    return [[(key, value) for key, value in line.items() if key != "provenance"] for line in lines(path)]


@given(st.integers(1, 300), st.integers(1, 40), st.data())
def test_shards_cut_the_list_into_whole_groups_where_there_are_enough(total: int, group: int, data: Any) -> None:
    n = data.draw(st.integers(1, total))
    parts = [Shard(i, n).sets(total, group) for i in range(1, n + 1)]
    assert [number for part in parts for number in part] == list(range(total))
    assert all(parts)
    unit = group if -(-total // group) >= n else 1
    assert all(part.start % unit == 0 for part in parts)
    assert max(map(len, parts)) - min(map(len, parts)) <= 2 * unit - 1


@pytest.mark.parametrize("name", NAMES)
@given(n=st.integers(1, SETS))
def test_the_shards_of_a_list_score_as_the_list_bit_by_bit(name: str, n: int) -> None:
    whole, done = scored(name), []
    parts = [scored(name, Shard(i, n), done.append) for i in range(1, n + 1)]
    assert sum(done) == SETS
    for column, cell in enumerate(whole):
        cells = [part[column] for part in parts]
        assert [c.first for c in cells] == [sum(len(c.nats) for c in cells[:i]) for i in range(n)]
        for values in ("nats", "ess", "repeated"):
            assert [v for c in cells for v in getattr(c, values)] == getattr(cell, values)
        assert {site: [v for c in cells for v in c.terms[site]] for site in cell.terms} == cell.terms


@pytest.mark.parametrize("name", NAMES)
def test_what_is_found_set_by_set_is_what_an_evaluation_sums(name: str) -> None:
    assert bool(latent_sites(small(name), SAMPLER.episode([0]))) == (name == "gmn")
    assert [cell.score() for cell in scored(name)] == evaluate(small(name), SAMPLER, SHOTS, SETS, 4, budget=BUDGET)


@pytest.mark.usefixtures("as_a_user")
def test_merged_shards_are_the_lines_and_the_table_of_one_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    call("evaluate", run, *SCORED, *ROWS)
    table = capsys.readouterr().out.splitlines()[:-1]
    expected = apart_from_provenance(run / "results.jsonl")
    assert [dict(line).get("shots") for line in expected] == [*SHOTS, *SHOTS, None, None]
    held = [dict(line)["terms"].keys() for line in expected if "terms" in dict(line)]
    assert held == ([] if dict(expected[0])["exact"] else [{"z", "x"}] * len(SHOTS) * 2)
    for n in (1, 2, 3, 5):
        paths, out = in_shards(run, n), tmp_path / f"{n}.jsonl"
        assert [line["shard"] for path in paths for line in lines(path)[:1]] == [
            {"index": i, "of": n} for i in range(1, n + 1)
        ]
        capsys.readouterr()
        Log(out).append(annealed())
        call("merge", *reversed(paths), "--out", out)
        assert lines(out)[0] == annealed()
        assert apart_from_provenance(out)[1:] == expected
        assert len(lines(out)[1]["provenance"]["shards"]) == n
        said = capsys.readouterr().out.splitlines()
        assert said == [table[0].replace(str(run), run.name), *table[1:], f"results: {out}"]


def test_a_shard_is_written_whole_and_again_in_its_own_place(shards: list[Path], tmp_path: Path) -> None:
    def values(path: Path) -> list[Line]:
        return [line["per_set"] for line in lines(path)]

    run, before = tmp_path / "run", values(shards[1])
    shards[1].write_text(shards[1].read_text()[:-100])  # torn
    call("evaluate", run, *SCORED, *ROWS, "--shard", "2/3")
    assert values(shards[1]) == before
    assert not (run / "results.jsonl").exists()


@pytest.mark.usefixtures("as_a_user")
def test_a_stopped_shard_leaves_no_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*args: Any, **options: Any) -> list[PerSet]:
        if args[1].ways == (2,):
            raise KeyboardInterrupt
        return score_sets(*args, **options)

    monkeypatch.setattr("fsgen.evaluation.score_sets", stopped)
    assert main([str(word) for word in ["evaluate", run, *SCORED, *ROWS, "--shard", "1/2"]]) == 130
    assert list(run.glob("*.jsonl")) == []


def test_a_set_of_probability_zero_survives_the_file(tmp_path: Path) -> None:
    kept = {"kind": "likelihood-shard", "run": "r", "data": {}, "list_digest": "d", "sets": 2, "levels": 2}
    for i, (nats, share) in enumerate([(math.inf, math.nan), (3.5, 0.25)]):
        cell = PerSet(i, 1, 0, False, 4, None, [nats], [share], [False], [[nats, 1.0]], {"x": [nats], "z": [0.5]})
        part = {**kept, "shard": {"index": i + 1, "of": 2}, "per_set": cell.record()}
        Log(tmp_path / str(i)).replace([part])
    (line,) = join([tmp_path / "1", tmp_path / "0"])
    assert line["per_set"]["nats"] == [math.inf, 3.5]
    assert math.isnan(line["per_set"]["ess"][0])
    score = PerSet(**line["per_set"]).score()
    assert score.nats == math.inf
    assert score.terms == {"x": math.inf, "z": 0.5}
    assert [(bound["particles"], bound["nats"]) for bound in score.bounds] == [(1, math.inf), (2, 1.0)]


def changed(path: Path, change: Callable[[Line], Any]) -> None:
    found = lines(path)
    for line in found:
        change(line)
    Log(path).replace(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda line: line.update(weights_sha256="0"), "differ in weights_sha256"),
        (lambda line: line.update(list_digest="0"), "differ in list_digest"),
        (lambda line: line.update(protocol="strict"), "differ in protocol (published and strict)"),
        (lambda line: line.update(seed=1), "differ in seed (0 and 1)"),
        (lambda line: line.update(budget=512), "differ in budget (9 and 512)"),
        (lambda line: line["per_set"].update(particles=9), "differ in particles (1 and 9)"),
        (lambda line: line["data"].update(digest="0"), "differ in data.digest"),
        (lambda line: line["data"].update(options={"classes": 3}), "differ in data.options.classes (None and 3)"),
        (lambda line: line.update(sets=14), "differ in sets (13 and 14)"),
        (lambda line: line["shard"].update(of=4), "one of 3 shards"),
        (lambda line: line["shard"].update(index=1), "both hold shard 1 of 3"),
        (lambda line: line["shard"].update(index=4), "does not hold what `fsgen evaluate --shard` writes"),
        (lambda line: line.update(kind="likelihood"), "does not hold what `fsgen evaluate --shard` writes"),
        (lambda line: line["per_set"].pop("ess"), "does not hold what `fsgen evaluate --shard` writes"),
        (lambda line: line["per_set"].update(nats=["x"]), "does not hold what `fsgen evaluate --shard` writes"),
        (lambda line: line["per_set"].update(bounds=[["x"]]), "does not hold what `fsgen evaluate --shard` writes"),
        (lambda line: line["per_set"].update(terms=[1.0]), "does not hold what `fsgen evaluate --shard` writes"),
        (lambda line: line["per_set"].update(terms={"x": ["a"]}), "does not hold what `fsgen evaluate --shard` writes"),
        (lambda line: line["per_set"].update(terms={"z": [1.0] * len(line["per_set"]["nats"])}), "(none and z)"),
        (
            lambda line: line["per_set"].update(bounds=[[1.0] for _ in line["per_set"]["nats"]]),
            "differ in --by-particles",
        ),
        (lambda line: line["per_set"]["nats"].pop(), "holds other sets than its shard"),
        (lambda line: line["per_set"].update(first=0), "holds other sets than its shard"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_shards_that_do_not_fit_are_refused(change: Callable[[Line], Any], said: str, shards: list[Path]) -> None:
    changed(shards[1], change)
    with pytest.raises(InputError) as refused:
        join(shards)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.usefixtures("as_a_user")
def test_shards_of_before_there_were_terms_are_joined_with_their_like_alone(tmp_path: Path) -> None:
    small("gmn").save(tmp_path / "run")
    paths = in_shards(tmp_path / "run", 2)
    assert all(set(line["per_set"]["terms"]) == {"x", "z"} for line in join(paths))
    changed(paths[0], lambda line: line["per_set"].pop("terms"))
    with pytest.raises(InputError, match=r"differ in the sites of their terms \(none and z, x\); score all shards"):
        join(paths)
    changed(paths[1], lambda line: line["per_set"].pop("terms"))
    assert all("terms" not in PerSet(**line["per_set"]).score().record() for line in join(paths))


def test_shards_that_are_missing_doubled_or_mixed_are_refused(shards: list[Path], tmp_path: Path) -> None:
    a, b, c = shards
    shutil.copy(a, tmp_path / "copy")
    both = tmp_path / "both"
    both.write_text(a.read_text() + b.read_text())
    short = tmp_path / "short"
    short.write_text(c.read_text().split("\n")[0] + "\n")
    (tmp_path / "empty").touch()
    (tmp_path / "torn").write_text("{\n{}\n")
    wrong: list[tuple[list[Path], str]] = [
        ([a, c], "no file holds shard 2 of 3; add it, or score it with `fsgen evaluate --shard 2/3`"),
        ([b], "no file holds shard 1, 3 of 3"),
        ([a, b, c, tmp_path / "copy"], f"{a} and {tmp_path / 'copy'} both hold shard 1 of 3; give each shard once"),
        ([both, c], "holds lines of several shards"),
        ([a, b, short], "has 6 lines and"),
        ([tmp_path / "empty"], "does not hold what"),
        ([tmp_path / "absent"], "no such file"),
        ([tmp_path / "torn"], "line 1, is no JSON object"),
    ]
    for paths, said in wrong:
        with pytest.raises(FsgenError) as refused:
            join(paths)
        assert said in str(refused.value)


@pytest.mark.usefixtures("as_a_user")
def test_wrong_words_are_refused_in_one_line(shards: list[Path], tmp_path: Path, capsys: Any) -> None:
    run, results = tmp_path / "run", tmp_path / "results.jsonl"
    call("evaluate", run, *SCORED, *ROWS, "--out", results)
    before = results.read_bytes()
    undescribed = [shutil.copy(path, tmp_path / f"undescribed-{i}") for i, path in enumerate(shards)]
    for path in undescribed:
        changed(path, lambda line: line.update(covariates={"ink": {}}))
    scored = ["evaluate", run, *SCORED, *ROWS]
    wrong: list[tuple[list[Any], str]] = [
        *[([*scored, "--shard", part], "give i/n") for part in ("0/3", "4/3", "3", "a/b", "1/2/3", "1/0", "")],
        ([*scored, "--shard", "1/14"], "13 sets make no more than 13 shards"),
        ([*scored, "--shard", "1/2", "--against", run], "leave out --against"),
        ([*scored, "--shard", "1/2", "--out", results], "holds lines of something else"),
        ([*scored, "--shard", "1/2", "--out", shards[0]], "holds lines of something else"),
        ([*scored, "--shard", "1/3", "--seed", 1], "shard-1-of-3.jsonl holds lines of something else"),
        ([*scored, "--shard", "1/3", "--shots", 1], "shard-1-of-3.jsonl holds lines of something else"),
        ([*scored, "--shard", "1/2", "--out", tmp_path / "absent" / "o"], "no such folder"),
        (["merge", *shards], "out is required"),
        (["merge", *shards, "--out", shards[0]], "is the file of a shard"),
        (["merge", results, "--out", tmp_path / "o"], "does not hold what"),
        (["merge", *shards[:2], "--out", tmp_path / "o"], "no file holds shard 3 of 3"),
        (["merge", *undescribed, "--out", tmp_path / "o"], "'mean' is missing; a number is needed"),
    ]
    capsys.readouterr()
    for words, said in wrong:
        assert main([str(word) for word in words]) == 2
        err = capsys.readouterr().err
        assert said in err, err
        assert err.count("\n") == 1
    assert results.read_bytes() == before
    assert not (tmp_path / "o").exists()
