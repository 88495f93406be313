"""What README and the pages of trained models say is what the registry and the results files hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fsgen.registry import LEARNERS, MODELS, SOURCES
from fsgen.report.tables import (
    between,
    comparison_table,
    likelihood_table,
    model_table,
    read_results,
    sampling_table,
    scaling_table,
)

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_generated_tables_are_up_to_date():
    done = subprocess.run(
        [sys.executable, "experiments/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run python experiments/readme.py"


def test_model_table_names_every_model():
    assert model_table(MODELS) in README
    assert [f"`{name}`" in model_table(MODELS) for name in MODELS.catalogue()]


def test_learner_table_names_every_learner():
    assert model_table(LEARNERS) in README


def test_data_table_names_every_source():
    section = README.split("## Data")[1]
    assert set(re.findall(r"^\| `(\w+)`", section, flags=re.M)) == set(SOURCES.catalogue())


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_links_of_the_readme_lead_somewhere(target):
    assert (ROOT / target).exists()


def record(**changes):
    whole = {"sets": 3, "nats": 90.04, "se": 1.25}
    base = {"run": "m", "list_digest": "d", "shots": 0, "particles": 5, "protocol": "strict", "ways": 1, **whole}
    return {**base, "unrepeated": {"sets": 2, "nats": 95.0, "se": None}, "repeated": whole, **changes}


def test_likelihood_table_holds_each_cell_once_and_the_unrepeated_targets():
    table = likelihood_table([record(), record(shots=1, nats=80.0), record(protocol="published", list_digest="e")])
    lines = table.splitlines()
    assert lines[2] == "| m | strict | 1 | 90.0 ± 1.2 | 80.0 ± 1.2 |"
    assert lines[3] == "| m | published | 1 | 90.0 ± 1.2 |  |"
    assert lines[4] == "| m | published, targets not repeated | 1 | 95.0 |  |"


def test_the_last_record_of_a_cell_counts(tmp_path):
    import json

    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(record(nats=value)) + "\n" for value in (1.0, 2.0)), encoding="utf-8")
    assert [r["nats"] for r in read_results(path)] == [2.0]


def test_comparison_tables_hold_every_model_best_first():
    def row(name, nats, cpu):
        scores = {"0": {"nats": nats, "se": 1.04}, "5": {"nats": nats - 10, "se": 1.0}}
        return {
            "name": name,
            "exact": name == "good",
            "particles": 100,
            "parameters": 1_500_000,
            "training": {"seconds": 1800, "cpu_seconds": cpu, "threads": 1},
            "milliseconds_a_sample": 2.04,
            "nats": scores,
            "difference": {"5": {"nats": -1.234, "se": 0.5}},
        }

    found = {"rows": [row("poor", 90.0, None), row("good", 80.0, 1200.0)]}
    lines = comparison_table(found).splitlines()
    assert lines[1].count("|") == lines[0].count("|") == 8
    link = "[{0}](../../assets/models/{0}/README.md)"
    assert lines[2] == f"| {link.format('good')} | exact | 1.50 M | 30 (20 of CPU) | 2.0 | 80.0 ± 1.0 | 70.0 ± 1.0 |"
    assert lines[3] == f"| {link.format('poor')} | bound, K = 100 | 1.50 M | 30 | 2.0 | 90.0 ± 1.0 | 80.0 ± 1.0 |"
    lines = comparison_table(found, "difference").splitlines()
    assert lines[0] == "| model | 5 shots |"
    assert lines[2] == f"| {link.format('good')} | -1.23 ± 0.50 |"


def test_the_sampling_table_holds_both_times():
    found = {"seconds_naive": 200.04, "seconds_walk": 1.5, "ratio": {"min": 120.2, "median": 133.4, "max": 140.0}}
    lines = sampling_table({"candidates": {"pixelcnn": found}}).splitlines()
    assert lines[2] == "| pixelcnn | 200.0 | 1.50 | 133 | 120 to 140 |"
    assert lines[1].count("|") == lines[2].count("|")


def test_the_scaling_table_follows_its_formula():
    found = {"gradient_bytes": 5_000_000, "step_seconds": 0.1, "all_reduce_seconds": 0.02}
    machine = {"load_before": 0.04, "cores": 2}
    result = {**machine, "processes": 2, "agreement_seconds": 0.005, "models": {"gmn": found}}
    lines = scaling_table(result, bandwidth=1e9, latency=1e-4).splitlines()
    assert lines[1].count("|") == lines[0].count("|") == 8
    # 0.1 / (0.1 + 0.025); in a ring of 8, 14 messages of 0.625 ms and 3 x 14 of 0.1 ms; of 32, 62 and 186
    assert lines[2] == "| `gmn` | 5.00 | 0.100 | 20.00 | 80.0% | 88.5% | 77.9% |"
    assert lines[-1] == "Agreeing took 5.00 ms a step; the load before was 0.0 on 2 cores."


def test_marks_that_are_missing_are_named():
    assert between("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    with pytest.raises(ValueError, match="<!-- y -->"):
        between("a", "y", "new")
