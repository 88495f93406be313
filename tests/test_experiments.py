"""The plans of experiments: commands that fsgen takes, done when their results are there, and held to them."""

from __future__ import annotations

import hashlib
import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fsgen.adaptation import Adapted, Likelihood
from fsgen.errors import InputError
from fsgen.registry import MODELS
from fsgen.run.log import Log
from fsgen.storage import config_from_bytes

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "experiments"))
import run as plans  # noqa: E402

FOLDERS = sorted(path.parent for path in ROOT.glob("experiments/*/plan.yaml"))
STEPS = [
    step
    for folder in FOLDERS
    for step in plans.steps(config_from_bytes((folder / "plan.yaml").read_bytes(), source=str(folder)))
]


def test_there_are_plans() -> None:
    assert len(FOLDERS) > 2
    assert len(STEPS) > 20


@pytest.mark.parametrize("step", STEPS, ids=lambda step: " ".join(step.words))
def test_a_step_is_a_command_that_fsgen_takes(step: Any) -> None:
    command = importlib.import_module(f"fsgen.cli.{step.command}")
    command.parser().parse(step.words[1:])
    if step.command == "train":
        assert (ROOT / step.run).is_file()
        assert step.out.parent == ROOT / "runs"
    else:
        trained = [str(other.out.relative_to(ROOT)) for other in STEPS if other.command == "train"]
        assert step.out.parent.is_dir()
        assert step.run is None or step.run in trained or (ROOT / step.run).parent.name == "models"


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(plans, "ROOT", tmp_path)
    run = tmp_path / "model"
    run.mkdir()
    (run / "weights.safetensors").write_bytes(b"weights")
    (run / "config.yaml").write_text("training: {data: {name: glyphs}}\n")
    (step,) = plans.steps({"flags": {"seed": 0}, "steps": [{"evaluate": "model", "sets": 9, "shots": [0, 1]}]})
    return step


def lines(step: Any, **changes: Any) -> list[dict[str, Any]]:
    about = {"kind": "likelihood", "run": "model", "data": {"name": "glyphs"}, "seed": 0, "protocol": "strict"}
    found = {
        "sets": 9,
        "exact": True,
        "particles": 1,
        "ways": 1,
        "nats": 50.0,
        "se": 2.0,
        "weights_sha256": "of another model",
    }
    return [about | found | {"shots": shots} | changes for shots in (0, 1)]


def write(step: Any, records: list[dict[str, Any]], *, own: bool = True) -> None:
    weights = {"weights_sha256": hashlib.sha256(b"weights").hexdigest()} if own else {}
    step.out.write_text("".join(json.dumps(record | weights) + "\n" for record in records), encoding="utf-8")


def test_a_step_is_done_when_all_its_lines_are_there(step: Any) -> None:
    assert not step.done()
    write(step, lines(step)[:1])
    assert not step.done()
    write(step, lines(step))
    assert step.done()
    write(step, lines(step), own=False)
    assert not step.done()


@pytest.mark.parametrize(
    "other",
    [
        {"sets": 8},
        {"seed": 1},
        {"protocol": "published"},
        {"data": {"name": "mnist28"}},
        {"ways": 2},
        {"exact": False},
        {"kind": "classification"},
        {"kind": "annealing"},
    ],
    ids=str,
)
def test_lines_of_another_evaluation_do_not_count(step: Any, other: dict[str, Any]) -> None:
    write(step, lines(step, **other))
    assert not step.done()


def test_flags_under_each_are_run_value_by_value() -> None:
    item = {"classify": None, "each": {"ways": [5, 20], "shots": [1, 5]}, "data": "glyphs", "out": "x.jsonl"}
    found = [step.words for step in plans.steps({"flags": {"seed": 3}, "steps": [item]})]
    start = ["classify", "--seed", "3", "--data", "glyphs", "--out", "x.jsonl"]
    assert found == [[*start, "--ways", str(c), "--shots", str(s)] for c in (5, 20) for s in (1, 5)]


def test_a_small_run_may_differ_by_its_error_alone(step: Any) -> None:
    known, near, far = (lines(step, nats=nats)[0] for nats in (50.0, 62.0, 65.0))
    assert plans.far_off(near, known, "nats") is None
    assert "65.000 +- 2.828" in (plans.far_off(far, known, "nats") or "")
    asked = {"episodes": 4, "ways": 5, "queries": 1, "se": 0.0}
    known, right, wrong = (known | asked | {"accuracy": a} for a in (0.9, 1.0, 0.2))
    assert plans.far_off(right, known, "accuracy") is None
    assert "0.200" in (plans.far_off(wrong, known, "accuracy") or "")


PLAN = """
flags: {train: {seed: 3}, evaluate: {sets: 9, shots: [0, 1], out: results.jsonl}}
smoke: {train: {steps: 2}, evaluate: {sets: 2}}
steps:
- {train: config.yaml, out: runs/one, model.options: {steps: 0}}
- {evaluate: runs/one, protocol: strict}
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(plans, "ROOT", tmp_path)
    (tmp_path / "config.yaml").write_text("steps: 5\n")
    return list(plans.steps(config_from_bytes(PLAN.encode(), source="plan")))


def train(step: Any, at: int, reason: str) -> None:
    step.out.mkdir(parents=True, exist_ok=True)
    (step.out / "sessions.jsonl").write_text(json.dumps({"step": at, "reason": reason}) + "\n")
    (step.out / "config.yaml").write_text("training: {data: {name: glyphs}}\n")


def todo(plan: list[Any]) -> list[str]:
    return [step.command for step in plan if plans.missing(step, plan)]


def test_a_run_is_trained_by_one_resumable_command(plan: list[Any]) -> None:
    words = ["train", "--config", "config.yaml", "--seed", "3", "--out", "runs/one", "--model.options"]
    assert plan[0].words == [*words, '{"steps": 0}', "--resume"]
    assert plan[1].words[:4] == ["evaluate", "runs/one", "--sets", "9"]


def test_a_run_is_done_when_it_has_finished_at_the_last_step(plan: list[Any]) -> None:
    for at, reason, done in ((3, "signal 2", False), (4, "finished", False), (5, "finished", True)):
        train(plan[0], at, reason)
        assert plan[0].done() is done
    assert not plan[0].changed(steps=6).done()
    assert todo(plan) == ["evaluate"]


def test_a_run_that_is_not_here_counts_by_its_figures(plan: list[Any]) -> None:
    assert todo(plan) == ["train", "evaluate"]
    write(plan[1], lines(plan[1], run="one", exact=False, particles=1000)[:1], own=False)
    assert todo(plan) == ["train", "evaluate"]
    write(plan[1], lines(plan[1], run="two", exact=False, particles=1000), own=False)
    assert todo(plan) == ["train", "evaluate"]
    write(plan[1], lines(plan[1], run="one", exact=False, particles=1000), own=False)
    assert todo(plan) == []
    train(plan[0], 3, "signal 2")
    assert todo(plan) == ["train", "evaluate"]


def test_a_small_run_asks_what_it_trained_and_holds_it_to_nothing(
    plan: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[list[str]] = []
    monkeypatch.setattr(plans, "main_of_fsgen", lambda words: given.append(words) or 0)
    write(plan[1], lines(plan[1], run="one"), own=False)
    small = {"train": {"steps": 2}, "evaluate": {"sets": 2}}
    shown = list(plans.steps({"steps": [{"pictures": "model"}, {"pictures": "other"}]}))
    assert plans.smoke([*plan, plan[1], *shown], small) == 0
    trained, asked, drawn = given
    assert drawn[:2] == ["pictures", "model"]
    assert trained[trained.index("--steps") + 1] == "2"
    assert asked[1] == trained[trained.index("--out") + 1] != "runs/one"
    assert asked[asked.index("--sets") + 1] == "2"
    assert "0 figures held" in capsys.readouterr().out


def test_sheets_are_done_when_they_are_there_and_samples_by_their_critic(step: Any) -> None:
    about = {"critic": "models/judge", "ways": 20, "shots": [1], "samples": 5, "episodes": 30}
    items = [{"sample": "model", "out": "sheet.png", "each": {"seed": [0]}}, {"quality": "model", **about}]
    sheet, judged = plans.steps({"flags": {"sample": {"each": [0, 5]}}, "steps": items})
    assert sheet.words == ["sample", "model", "--each", "0", "5", "--out", "sheet.png", "--seed", "0"]
    assert not sheet.done()
    sheet.out.write_bytes(b"")
    assert sheet.done()
    (shown,) = plans.steps({"flags": {"pictures": {"critic": "models/judge"}}, "steps": [{"pictures": "model"}]})
    assert shown.words == ["pictures", "model", "--critic", "models/judge"]
    assert not shown.done()
    (plans.ROOT / "model" / "pictures").mkdir(parents=True)
    (plans.ROOT / "model" / "pictures" / "captions.yaml").write_bytes(b"")
    assert shown.done()
    found = {"kind": "quality", "ways": 20, "shots": 1, "samples": 5, "episodes": 30, "critic": {"run": "judge"}}
    write(judged, [lines(judged)[0] | found])
    assert judged.done()
    assert not judged.changed(critic="models/other").done()
    assert not judged.changed(shots=[1, 5]).done()


def test_the_annealing_figures_stand_in_the_results_of_their_runs(data_root: Path) -> None:
    measure = runpy.run_path(str(ROOT / "experiments/annealing/measure.py"), run_name="measure")
    for row in json.loads(measure["RESULT"].read_text(encoding="utf-8")):
        folder = ROOT / "assets" / "models" / row["run"]
        found = json.loads(json.dumps(measure["line"](folder, row, data_root)))
        (kept,) = (r for r in Log(folder / "results.jsonl").records() if r["kind"] == "annealing")
        known = kept["model"]["options"]  # those that the model had when it was measured
        assert known.items() <= found["model"]["options"].items()
        assert found | {"model": {**found["model"], "options": known}} == kept
        assert {name: found[name] for name in row if name != "data"} == {n: row[n] for n in row if n != "data"}
        with pytest.raises(InputError, match="its row is of other sets, 000000000000; measure it again"):
            measure["line"](folder, row | {"list_digest": "0" * 64}, data_root)


def test_annealing_figures_are_added_once(tmp_path: Path) -> None:
    measure = runpy.run_path(str(ROOT / "experiments/annealing/measure.py"), run_name="measure")
    append = measure["append"]
    append.__globals__["line"] = lambda folder, row, root: {"kind": "annealing", "sizes": (1, 2), **row}
    for _ in range(2):
        append(tmp_path, [{"shots": 1}, {"shots": 5}], None)
    assert [record["shots"] for record in Log(tmp_path / "results.jsonl").records()] == [1, 5]


def test_what_is_adapted_class_by_class_begins_as_adapted_to_the_first_and_goes_on_from_there() -> None:
    after = runpy.run_path(str(ROOT / "experiments/adaptation/measure.py"), run_name="measure")["after_arrivals"]
    base = MODELS.require("pixelcnn").tiny((1, 2, 2)).eval()
    model = Adapted(base, Likelihood(leave_one_out=False), steps=2, rate=0.1, learned_rates=False).eval()
    sets, queries = torch.rand(2, 3, 1, 2, 2).round(), torch.rand(4, 1, 2, 2).round()

    def nats(model: Any, support: torch.Tensor) -> float:
        return -float(model.condition(support).log_prob(queries).mean())

    found = after(model, sets, queries)
    assert found[:2] == pytest.approx([nats(base, sets[0, :0]), nats(model, sets[0])])
    assert abs(found[2] - nats(model, sets[1])) > 1e-4
    memory = MODELS.require("few-shot-pixelcnn").tiny((1, 2, 2)).eval()
    assert after(memory, sets, queries)[2] == pytest.approx(nats(memory, sets.flatten(0, 1)))
