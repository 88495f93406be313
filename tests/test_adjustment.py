"""Adjusted means: against a second regression, enumerated draws, and the truth of synthetic evaluations."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from commands import Command, refusal
from scored import annealed, line, scored

from fsgen.data.covariates import covariates, query_law
from fsgen.data.images import Images
from fsgen.data.sampler import EpisodeSampler
from fsgen.errors import InputError
from fsgen.registry import build as build_model
from fsgen.report.adjustment import Adjusted, Covariates, adjusted
from fsgen.report.build import build
from fsgen.report.estimates import Estimate
from fsgen.run.log import Log

SIZES = (3, 4, 12, 5)
GLYPHS = "{alphabets: 6, characters: 4, drawers: 6, size: 12}"


def of_images(sizes: tuple[int, ...] = SIZES, groups: str = "aabb", levels: int = 2) -> Images:
    """Random images of classes of these sizes; the later a class, the more ink."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    inked = rng.random((len(labels), 1, 3, 4)) < (0.2 + 0.2 * labels)[:, None, None, None]
    pixels = (inked * rng.integers(1, levels, inked.shape)).astype(np.uint8)
    return Images("made", "test", pixels, labels, tuple(f"{g}/{i}" for i, g in enumerate(groups)), levels)


def known(x: np.ndarray, mean: Any) -> Covariates:
    return Covariates(tuple(map(str, range(x.shape[1]))), np.atleast_1d(mean), x)


def found(y: np.ndarray, covariates: Covariates) -> Adjusted:
    estimate = adjusted(y, covariates)
    assert estimate is not None
    return estimate


def test_one_covariate_gives_the_intercept_of_a_regression_about_its_mean() -> None:
    rng = np.random.default_rng(0)
    x = rng.exponential(100, 40)
    y = 0.5 * x + rng.normal(0, 10, 40)
    ours, theirs = found(y, known(x[:, None], 110.0)), scipy.stats.linregress(x - 110.0, y)
    assert (ours.mean, ours.se) == pytest.approx((theirs.intercept, theirs.intercept_stderr), rel=1e-10)
    half = scipy.stats.t(38).ppf(0.975) * theirs.intercept_stderr
    assert (ours.low, ours.high) == pytest.approx((ours.mean - half, ours.mean + half), rel=1e-10)
    assert ours.explained == pytest.approx(1 - (1 - theirs.rvalue**2) * 39 / 38, rel=1e-10)


def test_what_is_linear_is_known_exactly() -> None:
    x = np.random.default_rng(1).normal(size=(15, 3)) * (1, 50, 4000) + (0, 100, 1e4)
    ours = found(x @ (2.0, 0.3, 0.01) + 7, known(x, (1.0, 90.0, 9e3)))
    assert ours.mean == pytest.approx(2 + 27 + 90 + 7, abs=1e-8)
    assert ours.se == pytest.approx(0, abs=1e-8)
    assert ours.explained == pytest.approx(1)


def evaluations(curved: bool, sets: int = 80, slope: float = 0.4) -> list[tuple[bool, bool, float]]:
    """Of 1000 synthetic evaluations: whether the adjusted interval, and one as short about the plain mean, hold the
    truth; and the ratio of the adjusted error to the plain one."""
    rng, means = np.random.default_rng(7), (100.0, 60.0)
    rows = []
    for _ in range(1000):
        x = np.stack([rng.gamma(9, 100 / 9, sets), rng.gamma(4, 15, sets)], 1)
        y = 20 + slope * x.sum(1) + rng.normal(0, 8, sets)
        truth = 20 + slope * sum(means)
        if curved:  # a bend and a spread that grow with x, as ink does to the NLL
            y += 0.002 * x[:, 0] ** 2 + rng.normal(0, 0.08, sets) * x[:, 0]
            truth += 0.002 * (100**2 + 9 * (100 / 9) ** 2)
        ours = found(y, known(x, means))
        half = (ours.high - ours.low) / 2
        rows.append((ours.low <= truth <= ours.high, abs(y.mean() - truth) <= half, ours.se * sets**0.5 / y.std()))
    return rows


@pytest.mark.parametrize("curved", [False, True], ids=["linear", "curved"])
def test_adjusted_intervals_cover_the_truth_as_often_as_they_say(curved: bool) -> None:
    held, planted, ratio = np.mean(evaluations(curved), 0)
    assert 0.92 <= held <= 0.97
    assert planted < 0.8
    assert ratio < 0.7


def test_few_sets_are_covered_as_well() -> None:
    held, planted, _ = np.mean(evaluations(False, sets=14), 0)
    assert 0.92 <= held <= 0.97
    assert planted < 0.85


def test_covariates_that_explain_nothing_change_nothing() -> None:
    held, planted, ratio = np.mean(evaluations(False, sets=300, slope=0.0), 0)
    assert 0.92 <= held <= 0.97
    assert planted == pytest.approx(held, abs=0.02)
    assert ratio == pytest.approx(1, abs=0.01)


def test_a_covariate_that_does_not_vary_gives_the_plain_mean() -> None:
    y = np.random.default_rng(2).normal(80, 30, 50)
    ours = found(y, known(np.full((50, 1), 7.0), 9.0))
    assert (ours.mean, ours.se) == pytest.approx((y.mean(), y.std(ddof=1) / 50**0.5), rel=1e-12)
    assert ours.explained == pytest.approx(0, abs=1e-12)


def test_a_covariate_that_the_others_give_adds_nothing() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(30, 2))
    y = x.sum(1) + rng.normal(size=30)
    twice = found(y, known(np.hstack([x, x[:, :1] - 2 * x[:, 1:]]), (0.1, 0.2, -0.3)))
    once = found(y, known(x, (0.1, 0.2)))
    assert (twice.mean, twice.se, twice.high) == pytest.approx((once.mean, once.se, once.high), rel=1e-9)


def test_too_few_sets_and_infinite_scores_are_not_adjusted() -> None:
    x = np.random.default_rng(5).normal(size=(20, 3))
    assert adjusted(x[:14, 0] ** 2, known(x[:14], (0, 0, 0))) is not None
    assert adjusted(x[:13, 0] ** 2, known(x[:13], (0, 0, 0))) is None
    assert adjusted(np.append(x[1:, 0], np.inf), known(x, (0, 0, 0))) is None
    assert adjusted(x[:19, 0], known(x, (0, 0, 0))) is None


@pytest.mark.parametrize("levels", [2, 256])
def test_ink_and_edges_are_those_of_a_walk_over_the_pixels(levels: int) -> None:
    images = of_images(levels=levels)
    ours, top = covariates(images), levels - 1
    for i, (image,) in enumerate(images.pixels.astype(int).tolist()):
        pairs = [(row[x], row[x + 1]) for row in image for x in range(3)]
        pairs += [(image[y][x], image[y + 1][x]) for y in range(2) for x in range(4)]
        assert ours["ink"][i] == pytest.approx(sum(map(sum, image)) / top)
        assert ours["edges"][i] == pytest.approx(sum(abs(a - b) for a, b in pairs) / top)
        assert ours["ink squared"][i] == pytest.approx((sum(map(sum, image)) / top) ** 2)


def enumerated(images: Images, ways: int, pools: list[tuple[int, ...]]) -> np.ndarray:
    """How often each image ends a strict set, over all choices of a pool and of classes in it."""
    law = np.zeros(len(images.pixels))
    for pool in pools:
        chosen = list(itertools.combinations(pool, ways))
        for classes in chosen:
            held = np.concatenate([images.members[c] for c in classes])
            law[held] += 1 / len(held) / len(chosen) / len(pools)
    return law


@pytest.mark.parametrize("ways", [1, 2, 3, 4])
def test_the_law_of_strict_sets_is_that_of_all_choices_of_classes(ways: int) -> None:
    images = of_images()
    law = query_law(EpisodeSampler(images, ways=ways, length=3))
    np.testing.assert_allclose(law, enumerated(images, ways, [(0, 1, 2, 3)]), rtol=1e-12)
    assert law.sum() == pytest.approx(1)


def test_the_law_of_grouped_sets_is_that_of_their_pools() -> None:
    images = of_images()
    law = query_law(EpisodeSampler(images, ways=2, length=3, grouped=True))
    np.testing.assert_allclose(law, enumerated(images, 2, [(0, 1), (2, 3)]), rtol=1e-12)


@pytest.mark.parametrize(("protocol", "ways"), [("strict", 1), ("strict", 2), ("published", 2)])
def test_sets_are_drawn_by_the_law(protocol: str, ways: int) -> None:
    images = of_images()
    sampler = EpisodeSampler(images, ways=ways, length=3, protocol=protocol)
    last = [sampler.draw(i).images[-1] for i in range(3000)]
    counts = np.bincount(last, minlength=len(images.pixels))
    assert scipy.stats.chisquare(counts, 3000 * query_law(sampler)).pvalue > 1e-4
    assert scipy.stats.chisquare(counts, np.full(len(counts), 3000 / len(counts))).pvalue < 1e-3


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def evaluated(tmp_path: Path, fsgen_: Command) -> Path:
    """A run whose results hold two protocols, with their covariates."""
    run = tmp_path / "run"
    build_model("beta-bernoulli", event_shape=(1, 12, 12)).save(run)
    data = ["--data", "glyphs", "--data-options", GLYPHS]
    for protocol in ("strict", "published"):
        words = ["--classes", 1, 2, "--shots", 0, 2, "--length", 4, "--sets", 40, "--protocol", protocol]
        status, out, _ = fsgen_("evaluate", run, *data, *words, "--quiet")
        assert status == 0
        assert " adjusted  +- s.e. " in out
    return run


@pytest.mark.usefixtures("as_a_user")
def test_results_without_covariates_get_those_of_a_new_evaluation(evaluated: Path, fsgen_: Command) -> None:
    file = evaluated / "results.jsonl"
    whole = lines(file)
    assert [line["kind"] for line in whole] == ([*["likelihood"] * 4, *["covariates"] * 2]) * 2
    file.write_text("".join(json.dumps(line) + "\n" for line in whole if line["kind"] == "likelihood"))
    Log(file).append(annealed())
    before = file.read_bytes()
    status, out, _ = fsgen_("adjust", evaluated)
    assert status == 0
    assert file.read_bytes().startswith(before)
    assert len(out.splitlines()) == 2 + 8

    def listed(held: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in line.items() if k != "provenance"} for line in held if line["kind"] == "covariates"]

    assert listed(lines(file)) == listed(whole)
    after = file.read_bytes()
    assert fsgen_("adjust", evaluated)[1] == out
    assert file.read_bytes() == after
    ours = found(np.array(whole[0]["per_set"]), Covariates.of(whole[4]["covariates"]))
    assert f" {ours.mean:8.2f} +- {ours.se:4.2f} {ours.explained:9.0%}" in out.splitlines()[2]
    few = fsgen_("adjust", evaluated, "--first", 20)[1].splitlines()[2]
    assert f"     20      1 {np.mean(whole[0]['per_set'][:20]):8.2f} +- " in few


@pytest.mark.usefixtures("as_a_user")
def test_sets_that_cannot_be_drawn_again_are_refused(evaluated: Path, fsgen_: Command) -> None:
    file = evaluated / "results.jsonl"
    first = lines(file)[0]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"seed": 1}, "cannot be drawn again; evaluate again"),
        ({"data": first["data"] | {"digest": "0" * 64}}, "but what was scored 000000000000; give the data"),
        ({"seed": None}, "'seed' is None; a whole number is needed"),
        ({"per_set": None}, "holds no scores of single sets"),
    ]
    for changes, said in cases:
        file.write_text(json.dumps(first | changes) + "\n")
        refusal(fsgen_("adjust", evaluated), said)
        assert len(lines(file)) == 1
    refusal(fsgen_("adjust", evaluated, "--first", 1), "--first is 1; give 2 or more")


def covariates_line(values: np.ndarray, mean: float, **changes: Any) -> dict[str, Any]:
    kept = ("data", "protocol", "length", "seed", "list_digest", "ways", "sets", "provenance")
    about = {name: value for name, value in line().items() if name in kept}
    return {"kind": "covariates", **about, "covariates": {"ink": {"mean": mean, "per_set": values.tolist()}}} | changes


def test_a_report_shows_plain_and_adjusted_figures_of_every_run_on_the_list(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    ink = rng.gamma(4, 25, 40)
    runs = [
        scored(tmp_path / "a", line(values=ink + rng.normal(0, 5, 40)), covariates_line(ink, 100.0)),
        scored(tmp_path / "b", line(run="b", values=2 * ink), line(run="b", list_digest="f" * 64)),
    ]
    files = build(runs)
    content = json.loads(files["report.json"])
    by = {(s["run"], i): s["adjusted"] for i, found in enumerate(content["likelihood"]) for s in found["scores"]}
    assert by["b", 0]["nats"] == pytest.approx(200, abs=0.01)
    assert by["first", 0]["explained"] > 0.9
    assert by["b", 1] is None
    assert "| b | 200.0 ± 0.0 (100 %) |" in files["report.md"].decode()
    for changes, said in (
        ({"sets": 39}, "a list of 39 numbers"),
        ({"covariates": {"ink": {"mean": None, "per_set": [1.0] * 40}}}, "'mean' is None; a number"),
        ({"covariates": None}, "'covariates' is None; a mapping"),
    ):
        with pytest.raises(InputError, match=said):
            build([scored(tmp_path / "c", line(), covariates_line(ink, 100.0, **changes))])


def test_an_adjusted_mean_is_an_estimate_with_one_number_more() -> None:
    held = Adjusted(1.0, 0.5, 0.0, 2.0, 9, 0.25)
    assert held.record() == {**Estimate(1.0, 0.5, 0.0, 2.0, 9).record(), "explained": 0.25}
