"""What README and the pages of trained models say is what the registry and the results files hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fsgen.registry import MODELS, SOURCES
from fsgen.report.tables import between, likelihood_table, model_table, read_results

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


def test_marks_that_are_missing_are_named():
    assert between("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", "new") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    with pytest.raises(ValueError, match="<!-- y -->"):
        between("a", "y", "new")
