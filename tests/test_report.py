"""The report as files: whole HTML, nothing fetched, nothing that a name can break, and errors of one line."""

from __future__ import annotations

import html.parser
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scored import annealed, judged, line, scored, verdict

from fsgen.cli import main
from fsgen.report.build import build, read_published

pytestmark = pytest.mark.usefixtures("as_a_user")
ROOT = Path(__file__).resolve().parents[1]
Command = Callable[..., tuple[int, str, str]]
ALONE = {"meta", "link", "img", "br", "hr", "input", "path", "use"}
NAMES = [
    "<script>alert(1)</script>",
    "../../etc/passwd",
    "a\nb\r\x00\x1b[31m",
    "n" * 4096,
    '"onload="x',
    "_$\\frac$|`*",
]
ODD = ["{{ 7 * 7 }}", "\ud800 lone", "‮reversed", "&amp;", "模型🙂", ""]


@pytest.fixture
def fsgen_(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command; gives its exit status, output and error output."""

    def call(*words: Any) -> tuple[int, str, str]:
        status = main([str(word) for word in words])
        said = capsys.readouterr()
        return status, said.out, said.err

    return call


@pytest.fixture
def rich(tmp_path: Path) -> list[Path]:
    """Runs that fill every kind of section."""
    bins = {"repeated": {"sets": 2, "nats": 70.04, "se": None}, "terms": {"z": 5.25, "x": 74.5}}
    published = {"protocol": "published", "list_digest": "2", "data": {"name": "omniglot28"}, **bins}
    lines = line(), line(2), line(2, particles=500), line(1, **published), verdict(), judged()
    lines = *lines, judged(shots=5), annealed()
    first = scored(tmp_path / "first", *lines)
    (first / "sessions.jsonl").write_text(
        json.dumps({"from": 0, "step": 300, "seconds": 90.0, "threads": 2, "reason": "finished"}) + "\n"
    )
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(first / "samples.png")
    (first / "README.md").write_text("# r\n\n![Samples](samples.png)\n\nTwo test\nclasses.\n\n<!-- x -->\n")
    second = scored(tmp_path / "second", line(run="second", exact=True, model={"name": "pixelcnn", "options": {}}))
    (second / "samples.png").write_bytes(b"\x89PNG no picture")
    return [first, second]


class Page(html.parser.HTMLParser):
    """What a page holds; a tag that is not closed, or closed out of turn, is an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of <{tag}> stands twice"
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in ALONE - {"path", "use"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def ids(self) -> list[str]:
        return [value for _, attrs in self.tags if (value := attrs.get("id"))]

    def references(self) -> list[str]:
        names = ("src", "href", "xlink:href", "srcset", "action", "data", "poster", "aria-labelledby")
        return [str(attrs[name]) for _, attrs in self.tags for name in names if name in attrs]


def page(paths: list[Path], **options: Any) -> Page:
    return Page(build(paths, **options)["report.html"].decode())


def markdown_tables(text: str) -> list[list[list[str]]]:
    """The cells of each table, unescaped."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
        rows = [re.split(r"(?<!\\) \| ", row.strip()[2:-2]) for row in block.splitlines()]
        found.append([[html.unescape(re.sub(r"\\(.)", r"\1", cell)) for cell in row] for row in (rows[0], *rows[2:])])
    return found


def test_the_page_is_whole_and_asks_nothing_of_anyone(rich: list[Path]) -> None:
    found = page(rich, published=read_published(ROOT / "assets" / "published.json"))
    ids = found.ids()
    assert len(set(ids)) == len(ids)
    for reference in found.references():
        assert reference.startswith("data:image/png;base64,") or reference.removeprefix("#") in ids
    inner = {
        ref for _, attrs in found.tags for ref in re.findall(r"url\(#?([^)]*)\)", " ".join(map(str, attrs.values())))
    }
    assert inner <= set(ids)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in found.tags}
    assert not [name for _, attrs in found.tags for name in attrs if name.startswith("on")]
    assert sum(tag == "svg" for tag, _ in found.tags) == 6
    assert ("html", {"lang": "en"}) in found.tags
    assert any(attrs.get("name") == "viewport" for _, attrs in found.tags)


def test_the_page_can_be_read_on_a_phone_by_ear_and_on_paper(rich: list[Path]) -> None:
    text = build(rich)["report.html"].decode()
    found = Page(text)
    tags = [tag for tag, _ in found.tags]
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in found.tags
    assert [tag for tag in tags if re.fullmatch("h[1-6]", tag)] == ["h1", *["h2"] * tags.count("section")]
    assert all(str(attrs.get("alt") or "").strip() for tag, attrs in found.tags if tag == "img")
    assert all(attrs.get("role") == "img" and attrs["aria-label"] for tag, attrs in found.tags if tag == "svg")
    boxes = [attrs for tag, attrs in found.tags if tag == "div"]
    assert len(boxes) == tags.count("table") > 10
    assert all("scroll" in str(box["class"]) and box["tabindex"] == "0" for box in boxes)
    ((style, paper),) = re.findall(r"<style>(.*?)@media print \{(.*?)</style>", text, re.S)
    assert ".scroll {\n  overflow-x: auto" in style
    for rule in ("size: landscape", "tr { break-inside: avoid; }", "thead { display: table-header-group; }",
                 "nav { display: none; }", ".number span { white-space: nowrap; }"):  # fmt: skip
        assert rule in paper
    assert re.search(r"figure \{[^}]*break-inside: avoid", style)
    sizes = [float(size) for size in re.findall(r"font(?:-size)?: ([\d.]+)px", text)]
    assert min(sizes) >= 10  # a chart is about as wide, in its own pixels, as a phone
    assert re.search(r'<td class="number"><span>[^<\[]+</span> <span>\[[^<]+\]</span></td>', text)


def test_every_section_is_there(rich: list[Path]) -> None:
    text = " ".join(" ".join(page(rich).words).split())
    for words in (
        "What was evaluated", "bound, K = 50 to 500, ESS 25.0 %", "exact", "Gain over the same model at 0 shots",
        "Gain over second, which ignores the support", "Difference to", "The bound with more particles",
        "targets that repeat an image", "Bits per dimension", "Terms by site", "Classification", "82.5 [79.0, 86.0]",
        "Reliability", "Cost of training", "first. Two test classes.", "second: samples.png cannot be read",
        "Sample quality: glyphs", "50.0 [48.0, 52.0]", "1.25 [1.23, 1.27]", "Critic: the-critic, weights ffffffffffff",
        "A second estimator: glyphs", "10 sets of 1 class", "69.1 ± 11.9", "65.5 ± 11.0", "3.55 ± 0.99",
        "Code, machine and command", "fsgen evaluate runs/first", "2026-01-02",
    ):  # fmt: skip
        assert words in text


def test_html_markdown_and_json_hold_the_numbers_of_the_files(rich: list[Path]) -> None:
    files = build(rich)
    tables = Page(files["report.html"].decode()).tables
    assert tables == markdown_tables(files["report.md"].decode())
    strict = line(2, particles=500)
    scores = json.loads(files["report.json"])["likelihood"][0]["scores"]
    (found,) = [s for s in scores if (s["run"], s["shots"]) == ("first", 2)]
    assert {name: found[name] for name in ("nats", "se", "ess", "particles", "bits_per_dim")} == {
        name: strict[name] for name in ("nats", "se", "ess", "particles", "bits_per_dim")
    }
    (row,) = [row for row in tables[1] if row[0] == "first"]
    assert row[2:] == [f"{r['nats']:.1f} ± {r['se']:.1f}" for r in (line(), strict)]


@pytest.mark.parametrize("name", NAMES + ODD, ids=ascii)
def test_no_name_breaks_the_page(name: str, tmp_path: Path) -> None:
    record = line(run=name, data={"name": name, "split": name, "options": {name: name}}, protocol=name)
    record |= {"model": {"name": name}, "provenance": {"command": [name], "git": {"commit": name}}}
    by = {"name": name, "options": {}}
    runs = [
        scored(tmp_path / "a", record, {**record, "shots": 3}, {**record, "shots": 3, "particles": 7}),
        scored(tmp_path / "b", {**record, "weights_sha256": name}, verdict(run=name, classifier=by), judged(run=name)),
    ]
    files = build(runs, title=name or "t", command=[name])
    found = Page(files["report.html"].decode())
    assert len(set(found.ids())) == len(found.ids())
    assert not {"script"} & {tag for tag, _ in found.tags}
    assert not [attr for _, attrs in found.tags for attr in attrs if attr.startswith("on")]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", files["report.html"].decode())
    assert max(len(cell) for table in found.tables for row in table for cell in row) < 700
    assert found.tables == markdown_tables(files["report.md"].decode())
    assert set(files) == {"report.html", "report.md", "report.json", *json.loads(files["report.json"])["pictures"]}
    if "<" in name:
        assert name in " ".join(found.words)


def test_the_same_results_give_the_same_bytes(rich: list[Path]) -> None:
    assert build(rich) == build(rich)


def test_the_command_writes_replaces_only_with_force_and_leaves_strangers_alone(
    rich: list[Path], tmp_path: Path, fsgen_: Command
) -> None:
    out = tmp_path / "deep" / "report"
    status, said, _ = fsgen_("report", *rich, "--out", out, "--title", "Both runs")
    assert (status, f"{out}/report.html: " in said) == (0, True)
    assert "<h1>Both runs</h1>" in (out / "report.html").read_text()
    for name in re.findall(r"\]\(([^)]*)\)", (out / "report.md").read_text()):
        assert (out / name).stat().st_size > 50
    assert (out / "sheet-1.png").exists()
    (out / "mine-1.png").write_text("kept")
    status, _, said = fsgen_("report", *rich, "--out", out)
    assert (status, "holds report.html already; replace it with --force" in said) == (2, True)
    assert fsgen_("report", rich[1], "--out", out, "--force")[0] == 0
    assert {path.name for path in out.iterdir()} == {"report.html", "report.md", "report.json", "mine-1.png"}


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda p: p / "none", "none is no run: there is no such folder or file. Name a folder made by `fsgen train`"),
        (lambda p: p, "is no run: it holds no results.jsonl"),
        (lambda p: (p / "config.yaml").write_text("") or p, "has no results.jsonl yet. Make it: `fsgen evaluate"),
        (lambda p: scored(p), "holds no results. Make them: `fsgen evaluate"),
        (lambda p: scored(p, line(), line(kind="speed")), "line 2: 'kind' is 'speed'; likelihood, classif"),
        (lambda p: scored(p, judged(diversity={})), "line 1, 'diversity': 'mean' is missing; a number is needed."),
        (lambda p: scored(p, line(), {"kind": "likelihood"}), "line 2: 'run' is missing; text is needed."),
        (lambda p: scored(p, line() | {"shots": "1\n2"}), r"line 1: 'shots' is '1\n2'; a whole number is needed."),
        (lambda p: scored(p, line() | {"data": "x"}), "line 1: 'data' is 'x'; a mapping is needed."),
        (lambda p: scored(p, line(nats=1.0)), "line 1: 'nats' is 1.0; "),
        (lambda p: scored(p, line(sets=3)), "line 1: 'per_set' is [81"),
        (lambda p: scored(p, line(ess=2.5)), "line 1: 'ess' is 2.5; a share from 0 to 1 is needed."),
        (lambda p: scored(p, annealed(annealed={})), "line 1, 'annealed': 'nats' is missing; a number is needed."),
        (
            lambda p: scored(p, annealed(difference={"nats": 1.0})),
            "'nats' is 1.0; 3.5500, 'importance' less",
        ),
        (lambda p: scored(p, verdict(accuracy=82.5)), "line 1: 'accuracy' is 82.5; a share from 0 to 1"),
        (lambda p: (scored(p, line()) / "results.jsonl").write_text("{}\nx\n{}\n") and p, "line 2, is no JSON object"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_input_is_one_line(make: Any, words: str, tmp_path: Path, fsgen_: Command) -> None:
    (tmp_path / "in").mkdir()
    status, out, said = fsgen_("report", make(tmp_path / "in"), "--out", tmp_path / "out")
    assert (status, out, said.count("\n")) == (2, "", 1)
    assert words in said
    assert not (tmp_path / "out").exists()


def test_places_where_no_report_can_go_are_refused(rich: list[Path], tmp_path: Path, fsgen_: Command) -> None:
    (tmp_path / "file").write_text("x")
    assert "is no folder; name another" in fsgen_("report", *rich, "--out", tmp_path / "file")[2]
    (rich[0] / "config.yaml").write_text("")
    assert "is a run folder; name another" in fsgen_("report", *rich, "--out", rich[0], "--force")[2]
    assert "--title is empty" in fsgen_("report", *rich, "--title", " ", "--out", tmp_path / "out")[2]
    assert "RUN" in fsgen_("report")[2] or "runs" in fsgen_("report")[2]


def test_a_results_file_can_be_named_itself(tmp_path: Path) -> None:
    folder = scored(tmp_path / "a", line())
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "samples.png")
    assert "sheet-1.png" in build([folder])
    assert "sheet-1.png" not in build([folder / "results.jsonl"])


def test_the_command_loads_no_torch(rich: list[Path], tmp_path: Path) -> None:
    code = "import sys; from fsgen.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = [sys.executable, "-c", code, "report", *map(str, rich), "--out", str(tmp_path / "out")]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(words, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_committed_report_is_of_the_committed_results() -> None:
    """README says which command writes it again."""
    committed = ROOT / "assets" / "report"
    found = json.loads((committed / "report.json").read_text(encoding="utf-8"))
    sheets = {path.parent.name: path for path in (ROOT / "assets" / "models").glob("*/results.jsonl")}
    fresh = json.loads(build([path.parent for path in sorted(sheets.values())])["report.json"])
    told = {run["label"]: run["results_sha256"] for run in found["runs"]}
    assert told == {run["label"]: run["results_sha256"] for run in fresh["runs"]}
    assert [f["scores"] for f in found["likelihood"]] == [
        [s | {"interval": pytest.approx(s["interval"])} for s in f["scores"]] for f in fresh["likelihood"]
    ]
    assert set(found["pictures"]) < {path.name for path in committed.iterdir()}
    Page((committed / "report.html").read_text(encoding="utf-8"))
