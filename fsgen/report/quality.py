"""Samples beside images, as critics saw them: findings, and their section with a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fsgen.report import charts
from fsgen.report.blocks import Block, Chart, Note, Section, Table
from fsgen.report.charts import Spot
from fsgen.report.lines import FIGURES, Judged
from fsgen.report.names import shown
from fsgen.report.results import Subject
from fsgen.report.wording import NONE, counted, known, short, with_interval

IMAGES = "images of the class"
ALIKE = 0.1  # share of the images' spread, or distance, below which samples are called alike, or copies

Finding = Mapping[str, Any]


def qualities(subjects: Sequence[Subject]) -> list[dict[str, Any]]:
    """One finding for each critic and kind of episode: each run at each shot count, the best recognized first."""
    tasks: dict[tuple[Any, ...], list[tuple[str, Judged]]] = {}
    for s in subjects:
        for j in s.judged:
            key = (j.on.data, j.on.split, j.on.protocol, j.on.ways, j.about["seed"], j.critic_weights, *j.size)
            tasks.setdefault(key, []).append((s.label, j))
    found = []
    for rows in tasks.values():
        rows.sort(key=lambda row: (row[1].shots, -row[1].figures["recognizability"].mean))
        first = rows[0][1]
        found.append(
            {
                "data": {**first.about["data"], "split": first.on.split, "digest": first.on.data},
                "protocol": first.on.protocol,
                "ways": first.on.ways,
                "seed": first.about["seed"],
                "list_digest": first.on.digest,
                "critic": {"run": first.critic, "weights_sha256": first.critic_weights},
                "episodes": first.size[0],
                "samples": first.size[1],
                "chance": first.chance,
                "judged": [_row(label, j) for label, j in rows],
            }
        )
    return found


def _row(label: str, j: Judged) -> dict[str, Any]:
    figures = {name: {"mean": f.mean, "interval": f.interval and list(f.interval)} for name, f in j.figures.items()}
    return {"run": label, "shots": j.shots, "sets": j.size[0], "list_digest": j.on.digest, **figures}


def section(number: int, finding: Finding, colours: Mapping[str, int]) -> Section:
    """Recognizability, diversity and novelty of one kind of episode; ``colours`` numbers the runs."""
    data = finding["data"]
    ways, samples = counted(finding["ways"], "way", "ways"), counted(finding["samples"], "sample", "samples")
    title = f"Sample quality: {shown(data['name'])}, {shown(data['split'])} classes, {ways}"
    about = (
        f"{counted(finding['episodes'], 'episode', 'episodes')} of {samples} a class, seed {known(finding['seed'])}, "
        f"beside as many other images of the class. Critic: {finding['critic']['run']}, weights "
        f"{short(finding['critic']['weights_sha256'])}. Data digest {short(data['digest'])}. Recognized: the critic, "
        "shown the support of every class, puts the sample into its own. Diversity: spread of the critic's features "
        "within a class, over that of its images. Novelty: distance from the nearest support image, likewise; 0 is a "
        "copy. Samples are as models draw them, with the noise of their pixels. Intervals are over episodes."
    )
    blocks: list[Block | None] = [Note(about), _table(finding), _alike(finding), _chart(number, finding, colours)]
    return Section(f"quality-{number}", title, tuple(block for block in blocks if block))


def _table(finding: Finding) -> Table:
    head = ("samples of", "shots", "recognized, %", "diversity", "novelty")
    body = [
        (r["run"], str(r["shots"]), _percent(r["recognizability"]), *(_plain(r[name]) for name in FIGURES[2:]))
        for r in finding["judged"]
    ]
    real = {r["shots"]: r["real_recognizability"] for r in finding["judged"]}
    body += [(IMAGES, str(shots), _percent(figure), "1", "1") for shots, figure in real.items()]
    body.append(("guessing", NONE, f"{100 * finding['chance']:.1f}", NONE, NONE))
    return Table("Samples beside images [95 % intervals]", head, tuple(body), left=1)


def _percent(figure: Mapping[str, Any]) -> str:
    ends = figure["interval"] and [100 * end for end in figure["interval"]]
    return with_interval({"mean": 100 * figure["mean"], "interval": ends}, "mean", 1, "")


def _plain(figure: Mapping[str, Any]) -> str:
    return with_interval(figure, "mean", 2, "")


def _alike(finding: Finding) -> Note | None:
    """Which samples hardly differ from each other, or from the support."""
    words = []
    for name, said in (("diversity", "hardly differ from each other"), ("novelty", "are copies of the support")):
        rows = [r for r in finding["judged"] if r[name]["mean"] < ALIKE]
        if who := [f"{r['run']} ({counted(r['shots'], 'shot', 'shots')})" for r in rows]:
            words.append(f"{', '.join(who)}: {name} below {ALIKE}, so these samples {said}.")
    return Note(" ".join(words)) if words else None


def _chart(number: int, finding: Finding, colours: Mapping[str, int]) -> Chart:
    spots = [
        Spot(r["run"], colours[r["run"]], str(r["shots"]), *_ends(r["diversity"], r["recognizability"]))
        for r in finding["judged"]
    ]
    real = {r["shots"]: r["real_recognizability"] for r in finding["judged"]}
    one = {"mean": 1.0, "interval": None}
    spots += [Spot(IMAGES, None, str(shots), *_ends(one, figure)) for shots, figure in real.items()]
    svg = charts.scatter(spots, "diversity, spread of the class = 1", "recognized", finding["chance"])
    caption = (
        "Recognizability against diversity, numbered by shots, with 95 % intervals; grey: the images themselves; "
        "dotted: guessing. Samples as good as images lie on them."
    )
    return Chart(f"quality-{number}", svg, "recognizability against diversity", caption)


def _ends(*figures: Mapping[str, Any]) -> list[tuple[float, float, float]]:
    """Low end, mean and high end of each."""
    means = [(figure["interval"] or [figure["mean"]] * 2, figure["mean"]) for figure in figures]
    return [(low, mean, high) for (low, high), mean in means]
