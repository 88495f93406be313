"""The numbers of a report: means, intervals and what is compared with what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from scored import annealed, judged, line, scored, verdict

from fsgen.errors import FsgenError, InputError
from fsgen.report import charts
from fsgen.report.build import build, read_published
from fsgen.report.estimates import bca, estimates
from fsgen.report.runs import cost

ROOT = Path(__file__).resolve().parents[1]
PUBLISHED = {"omniglot_nll": {"source": "S", "rows": [{"model": "M", "test_classes": 1, "nll_by_shots": {"1": 83.3}}]}}


def content(*paths: Path, **options: Any) -> dict[str, Any]:
    """What report.json holds."""
    found: dict[str, Any] = json.loads(build(paths, **options)["report.json"])
    return found


def test_a_paired_difference_by_hand(tmp_path: Path) -> None:
    ours, theirs = [1.0, 2.0, 3.0, 6.0], [2.0, 2.0, 1.0, 3.0]  # differences -1 0 2 3: mean 1, variance 10 / 3
    runs = [scored(tmp_path / name, line(run=name, values=values)) for name, values in {"a": ours, "b": theirs}.items()]
    (row,) = content(*runs, against="b")["likelihood"][0]["differences"]
    assert (row["run"], row["against"], row["nats"], row["sets"]) == ("a", "b", 1.0, 4)
    assert row["se"] == pytest.approx(np.sqrt(10 / 3) / 2)


def test_intervals_are_those_of_an_independent_bootstrap() -> None:
    rng = np.random.default_rng(5)
    for values in (rng.normal(3, 2, 60), rng.exponential(5, 60), -rng.exponential(5, 25)):
        options: dict[str, Any] = {"method": "BCa", "n_resamples": 20_000, "rng": np.random.default_rng(1)}
        theirs = scipy.stats.bootstrap((values,), np.mean, **options).confidence_interval
        (low,), (high,) = bca(values[:, None])
        tolerance = 0.12 * values.std() / np.sqrt(len(values))
        assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=tolerance)


def test_an_interval_does_not_depend_on_what_stands_beside_it() -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 30))
    assert estimates({"a": one})["a"].low == pytest.approx(estimates({"b": other, "a": one})["a"].low, abs=1e-12)


@pytest.mark.parametrize("skewed", [False, True], ids=["normal", "exponential"])
def test_intervals_cover_the_mean_as_often_as_they_say(skewed: bool) -> None:
    rng = np.random.default_rng(8)
    samples = rng.exponential(1.0, (60, 1000)) if skewed else rng.normal(1.0, 1.0, (60, 1000))
    low, high = bca(samples)
    assert 0.92 <= np.mean((low <= 1) & (high >= 1)) <= 0.97


def test_differences_of_pooled_queries_would_be_too_sure() -> None:
    rng = np.random.default_rng(8)
    episodes = rng.normal(0, 1, (20, 1, 500)) + rng.normal(0, 1, (20, 10, 500))
    low, high = bca(episodes.reshape(200, 500))
    assert np.mean((low <= 0) & (high >= 0)) < 0.75
    low, high = bca(episodes.mean(1))
    assert np.mean((low <= 0) & (high >= 0)) > 0.9


def test_a_constant_column_has_an_interval_of_no_width_and_one_set_has_none() -> None:
    found = estimates({"same": np.full(9, 2.5), "one": np.array([1.0])})
    assert set(found) == {"same"}
    assert (found["same"].low, found["same"].high) == (2.5, 2.5)


def test_gains_are_paired_with_no_shots_and_with_models_that_ignore_the_support(tmp_path: Path) -> None:
    zero, two = np.arange(10.0), np.arange(10.0) - np.tile([1.0, 3.0], 5)
    ours = scored(tmp_path / "a", line(values=zero), line(2, values=two))
    plain = line(run="plain", model={"name": "pixelcnn", "options": {}}, values=zero + 5, exact=True)
    gains = content(ours, scored(tmp_path / "plain", plain))["likelihood"][0]["gains"]
    found = {(g["run"], g["over"], g["shots"]): g["nats"] for g in gains}
    assert found == pytest.approx({("first", None, 2): 2.0, ("first", "plain", 0): 5.0, ("first", "plain", 2): 7.0})


def test_lists_data_and_protocols_never_share_a_table(tmp_path: Path) -> None:
    others: list[dict[str, Any]] = [
        {"list_digest": "1"},
        {"protocol": "published"},
        {"data": {"digest": "f" * 64}},
        {"ways": 2},
        {"data": {"split": "validation"}},
    ]
    run = scored(tmp_path / "a", line(), *(line(**changes) for changes in others))
    found = content(run, scored(tmp_path / "b", line(run="b")))["likelihood"]
    told = [
        (f["data"]["digest"][0], f["data"]["split"][0], f["protocol"][0], f["ways"], len(f["scores"])) for f in found
    ]
    strict = [("d", "t", "s", 1, 2), ("d", "t", "s", 1, 1), ("d", "t", "s", 2, 1)]
    assert told == [*strict, ("d", "t", "p", 1, 1), ("f", "t", "s", 1, 1), ("d", "v", "s", 1, 1)]
    assert [len(f["differences"]) for f in found] == [1, 0, 0, 0, 0, 0]


def test_the_last_line_of_a_cell_and_the_most_particles_count(tmp_path: Path) -> None:
    few = [line(values=[90.0, 92.0], particles=5), line(values=[85.0, 86.0], particles=5)]
    many = line(values=[81.0, 82.0], particles=500)
    found = content(scored(tmp_path / "a", *few, many, line(2)))["likelihood"][0]
    assert [(s["shots"], s["particles"]) for s in found["scores"]] == [(0, 500), (2, 50)]
    assert [(s["particles"], s["nats"]) for s in found["convergence"]] == [(5, 85.5), (500, 81.5)]


def test_parts_of_the_particles_of_one_evaluation_show_its_convergence(tmp_path: Path) -> None:
    parts = [
        {"particles": k, "sets": 40, "nats": 80 + 10 / k, "se": 1.25, "above": 10 / k, "above_se": 0.125}
        for k in (1, 5, 20)
    ]
    run = scored(tmp_path / "a", line(bounds=parts), line(particles=5, values=[85.0, 86.0]), line(2))
    files = build([run])
    (found,) = json.loads(files["report.json"])["likelihood"]
    rows = found["convergence"]
    assert [(r["shots"], r["particles"], r.get("above"), r.get("of")) for r in rows] == [
        (0, 1, 10.0, 50),
        (0, 5, None, None),
        (0, 20, 0.5, 50),
        (0, 50, None, None),
    ]
    assert "90.00 ± 1.25 (+10.00 ± 0.12)" in files["report.md"].decode()
    assert "particles-1.svg" in files
    for bad in ("x", [1], [{"particles": "many", "nats": 1.0}], [{"particles": 1, "nats": "x"}]):
        with pytest.raises(InputError, match="'bounds'"):
            build([scored(tmp_path / "b", line(bounds=bad))])


def test_printed_figures_stand_beside_their_own_protocol_data_and_classes_only(tmp_path: Path) -> None:
    cases: list[dict[str, Any]] = [{}, {"protocol": "strict"}, {"ways": 2}, {"data": {"name": "glyphs"}}]
    for i, changes in enumerate(cases):
        usual = {"protocol": "published", "data": {"name": "omniglot28"}} | changes
        found = content(scored(tmp_path / str(i), line(**usual)), published=PUBLISHED)["likelihood"][0]
        assert (found["printed"] is not None) == (i == 0)


def test_the_printed_figures_of_the_repository_can_be_read(tmp_path: Path) -> None:
    assert set(read_published(ROOT / "assets" / "published.json")) > set(PUBLISHED)
    (tmp_path / "p.json").write_text('{"omniglot_nll": {"rows": [{}]}}', encoding="utf-8")
    with pytest.raises(InputError, match=r"p\.json holds no printed figures \(KeyError: 'model'\)"):
        read_published(tmp_path / "p.json")


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    runs = [scored(tmp_path / place / "m", line(run="m", weights_sha256=place * 64)) for place in "ab"]
    assert [run["label"] for run in content(*runs)["runs"]] == ["m (aaaaaaaa)", "m (bbbbbbbb)"]
    runs = [scored(tmp_path / place / "n", line(run="n")) for place in "ab"]
    assert [run["label"] for run in content(*runs)["runs"]] == ["n (a/n)", "n (b/n)"]
    assert len(content(runs[0], runs[0])["runs"]) == 1


def test_against_names_one_run(tmp_path: Path) -> None:
    runs = [scored(tmp_path / place / "m", line(run="m", weights_sha256=place * 64)) for place in "ab"]
    with pytest.raises(InputError, match=r"several runs are called so; m \(aaaaaaaa\), m \(bbbbbbbb\)\."):
        build(runs, against="m")
    with pytest.raises(InputError, match="no run is called so; m "):
        build(runs, against="other")
    assert content(*runs, against="m (bbbbbbbb)")["likelihood"][0]["differences"][0]["against"] == "m (bbbbbbbb)"


def test_a_score_that_is_not_finite_is_shown_as_none(tmp_path: Path) -> None:
    broken = line(2) | {"nats": None, "se": None, "per_set": [None] * 40, "bits_per_dim": None}
    found = content(scored(tmp_path / "a", line(), broken), scored(tmp_path / "b", line(run="b"), line(2, run="b")))
    rows = {(s["run"], s["shots"]): s["nats"] for s in found["likelihood"][0]["scores"]}
    assert rows["first", 2] is None
    assert rows["b", 2] is not None
    assert [d["shots"] for d in found["likelihood"][0]["differences"]] == [0]


def test_classifications_keep_what_they_hold_and_may_lack_the_rest(tmp_path: Path) -> None:
    bare = {k: v for k, v in verdict(run="bare").items() if k not in ("accuracy", "low", "ece", "bins", "classifier")}
    runs = [scored(tmp_path / "a", line(), verdict()), scored(tmp_path / "b", bare, verdict(run="bare", shots=5))]
    one, five = content(*runs)["classification"]
    assert [(v["run"], v["accuracy"]) for v in one["verdicts"]] == [("first", 0.825), ("bare", None)]
    assert one["verdicts"][0]["interval"] == [0.79, 0.86]
    assert one["verdicts"][0]["bins"][1] == {"confidence": 0.9, "accuracy": 0.95, "queries": 30}
    assert (five["shots"], len(five["verdicts"])) == (5, 1)


def test_confidence_that_few_answers_have_is_not_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(charts, "reliability", lambda curves: drawn.extend(curves) or "<svg></svg>")
    bins = [{"confidence": c, "accuracy": 0.5, "queries": n} for c, n in ((0.1, 9), (0.4, 10), (0.9, 300))]
    again = verdict(bins=bins, classifier={"name": "cosine", "options": {}}, accuracy=0.5)
    text = build([scored(tmp_path / "a", verdict(bins=bins, episodes=1000), again)])["report.md"].decode()
    assert [(curve.label, curve.x) for curve in drawn] == [
        ("first, likelihood", (0.4, 0.9)),
        ("first, cosine", (0.4, 0.9)),
    ]
    assert len({curve.style for curve in drawn}) == 2
    assert "Episodes: 400 to 1000." in text


def test_longer_evaluations_of_one_list_of_episodes_stand_beside_shorter_ones(tmp_path: Path) -> None:
    longer = verdict(run="longer", list_digest="f" * 64, episodes=900)
    other = verdict(run="longer", task="alphabet")
    found = content(scored(tmp_path / "a", verdict()), scored(tmp_path / "b", longer, other))["classification"]
    assert [(f["task"], f["list_digest"][0], len(f["verdicts"])) for f in found] == [
        ("random", "f", 2),
        ("alphabet", "e", 1),
    ]


def test_a_classifier_without_a_model_goes_by_its_own_name(tmp_path: Path) -> None:
    by = {"name": "kernel-density", "options": {}}
    pixels = scored(tmp_path / "a", verdict(run=None, model=None, weights_sha256=None, classifier=by))
    found = content(pixels)["classification"]
    assert [(v["run"], v["method"]) for v in found[0]["verdicts"]] == [("kernel-density", "kernel-density")]


def altered(records: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The records with one field, at any depth, removed or of another kind."""
    for number, record in enumerate(records):
        spots = [(record, name) for name in record]
        spots += [(part, name) for part in record.values() if isinstance(part, dict) for name in part]
        for part, name in spots:
            kept = part.pop(name)
            yield records
            for value in (None, "x", -1, 1.5, [], {}, [None], float("nan"), 10**400):
                part[name] = value
                yield records
            part[name] = kept
        assert records[number] is record


def test_any_line_is_reported_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charts, "_drawn", lambda *_: "<svg></svg>")
    done, refusals = 0, []
    records = [line() | {"terms": {"z": 1.0}}, verdict(), annealed()]
    for number, changed in enumerate(altered(records)):
        if number % 7 == 0:
            runs = [scored(tmp_path / "a", *changed), scored(tmp_path / "b", line(run="b"))]
            try:
                done += bool(build(runs))
            except FsgenError as error:
                refusals.append(str(error))
    assert min(done, len(refusals)) > 10
    assert not [said for said in refusals if "\n" in said]


def test_two_estimators_stand_side_by_side_on_one_list(tmp_path: Path) -> None:
    more = annealed()["annealed"] | {"temperatures": 500, "nats": 64.0}
    again = annealed(annealed=more, difference={"nats": 5.06, "se": 0.5})
    apart = annealed(run="b", list_digest="9" * 64)
    runs = [scored(tmp_path / "a", annealed(), again, again), scored(tmp_path / "b", annealed(run="b"), apart)]
    first, second = content(*runs)["annealing"]
    assert [(r["run"], r["annealed"]["temperatures"], r["difference"]["nats"]) for r in first["annealed"]] == [
        ("first", 20, 3.55),
        ("first", 500, 5.06),
        ("b", 20, 3.55),
    ]
    assert [r["run"] for r in second["annealed"]] == ["b"]
    assert first["annealed"][0]["importance"] == {"nats": 69.06, "se": 11.87, "ess": 0.03125, "particles": 100}
    assert content(*runs)["likelihood"] == []


def test_samples_are_compared_by_one_critic_on_one_kind_of_episode(tmp_path: Path) -> None:
    copy = {"mean": 0.01, "se": 0.0, "low": 0.0, "high": 0.02}
    other = {"seed": 1, "list_digest": "1" * 64}
    runs = [
        scored(tmp_path / "a", judged(run="a"), judged(run="a", shots=5, list_digest="5" * 64)),
        scored(tmp_path / "b", judged(run="b", recognizability=copy), judged(run="b", diversity=copy, **other)),
    ]
    found = content(*runs)["quality"]
    assert [[(r["run"], r["shots"]) for r in finding["judged"]] for finding in found] == [
        [("a", 1), ("b", 1), ("a", 5)],
        [("b", 1)],
    ]
    assert found[0]["judged"][1]["recognizability"] == {"mean": 0.01, "interval": [0.0, 0.02]}
    assert found[0]["critic"] == {"run": "the-critic", "weights_sha256": "f" * 64}
    text = build(runs)["report.md"].decode()
    assert text.count("hardly differ from each other") == 1
    assert "b (1 shot): diversity below 0.1" in text
    assert text.count("| images of the class |") == 3


def test_the_cost_of_a_run_is_counted_once_and_that_of_a_lost_session_is_not_known() -> None:
    def session(run: str | None, begun: int, step: int, seconds: float, cpu: float | None) -> dict[str, Any]:
        named = {} if run is None else {"run": run}
        return named | {"from": begun, "step": step, "seconds": seconds} | ({} if cpu is None else {"cpu_seconds": cpu})

    first, resumed = session(None, 0, 888, 1100.0, 1000.0), session(None, 888, 1600, 1950.0, 800.0)
    assert cost([first]) == {"steps": 888, "seconds": 1100.0, "cpu_seconds": 1000.0}
    assert cost([first, resumed]) == {"steps": 1600, "seconds": 1950.0, "cpu_seconds": 1800.0}
    phases = [session("a", 0, 10, 5.0, 4.0), session("b", 0, 20, 7.0, 6.0), session("b", 20, 30, 9.0, 2.0)]
    assert cost(phases) == {"steps": 40, "seconds": 14.0, "cpu_seconds": 12.0}
    assert cost([resumed]) == {"steps": 1600, "seconds": 1950.0, "cpu_seconds": None}
    assert cost([phases[0], phases[2]])["cpu_seconds"] is None
    assert cost([session(None, 0, 5, 1.0, None)])["cpu_seconds"] is None
    assert cost([{"reason": "finished"}]) == {"steps": None, "seconds": None, "cpu_seconds": None}
