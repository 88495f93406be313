"""Findings as sections: tables, charts and what they mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fsgen.report import charts
from fsgen.report.blocks import Block, Chart, Note, Section, Table
from fsgen.report.charts import Curve
from fsgen.report.names import shown
from fsgen.report.wording import NONE, counted, known, likelihood_kind, percent, plus_minus, short, with_interval

Finding = Mapping[str, Any]
Rows = dict[str, dict[int, Mapping[str, Any]]]  # by run and shots

HOW_TO_READ = (
    "NLL is the negative log-likelihood of one image given the shots, in nats; lower is better. ± is one standard "
    "error over sets. Bands and brackets are 95 % intervals over sets: BCa bootstrap, 5000 resamples, fixed seed. "
    "Exact: the likelihood itself. Bound: an importance-weighted lower bound on it with K particles, so its NLL is an "
    "upper one; ESS is the effective share of these particles, and a small one means a loose bound. Strict: no image "
    "twice in a set. Published: images drawn with replacement, so a target can repeat an image of its support. "
    "Numbers of different data, lists of sets or protocols are in different tables."
)
FEW = 5  # effective particles below which a bound says little


def likelihood(number: int, finding: Finding, colours: Mapping[str, int]) -> Section:
    """All that is said of one list of sets; ``colours`` numbers the runs."""
    data = finding["data"]
    ways = counted(finding["ways"], "class", "classes")
    sets = f"{counted(finding['sets'], 'set', 'sets')} of {ways}"
    title = f"{shown(data['name'])}, {shown(data['split'])} classes: {shown(finding['protocol'])}, {sets}"
    blocks: list[Block | None] = [
        Note(_about(finding)),
        _scores(finding),
        _adjusted(finding),
        _loose(finding),
        _curves(number, finding, colours),
        _printed(finding),
        _parts(finding),
        _bits(finding),
        _ess(finding),
        *_gains(number, finding, colours),
        _differences(finding),
        *_convergence(number, finding, colours),
        *_terms(finding),
    ]
    return Section(f"list-{number}", title, tuple(block for block in blocks if block))


def _about(finding: Finding) -> str:
    data = finding["data"]
    options = "".join(f", {shown(k)} = {shown(v)}" for k, v in sorted(data["options"].items()))
    length = f" of {finding['length']} images" if finding["length"] else ""
    return (
        f"{counted(finding['sets'], 'set', 'sets')}{length}, seed {known(finding['seed'])}; "
        f"list {short(finding['list_digest'])}. Data: {shown(data['name'])}{options}, digest {short(data['digest'])}."
    )


def by_run(rows: Sequence[Mapping[str, Any]]) -> Rows:
    """Rows by run, in their order, and shots."""
    found: Rows = {}
    for row in rows:
        found.setdefault(row["run"], {})[row["shots"]] = row
    return found


def columns(rows: Rows) -> tuple[list[int], list[str]]:
    """Shot counts of a table and their heads."""
    shots = sorted({t for cells in rows.values() for t in cells})
    return shots, [counted(t, "shot", "shots") for t in shots]


def _table(
    caption: str, rows: Rows, cell: Callable[[Any], str], about: Callable[[Any], list[str]], *head: str
) -> Table:
    """One row a run, one column a shot count; ``about`` fills the columns under ``head`` after the run's name."""
    shots, names = columns(rows)
    body = [(run, *about(list(cells.values())), *(cell(cells.get(t)) for t in shots)) for run, cells in rows.items()]
    return Table(caption, ("model", *head, *names), tuple(body), left=1 + len(head))


def _plain(cells: Any) -> list[str]:
    return []


def _scores(finding: Finding) -> Table:
    rows = by_run(finding["scores"])
    return _table("NLL, nats per image", rows, plus_minus, lambda cells: [likelihood_kind(cells)], "likelihood")


def _adjusted(finding: Finding) -> Table | None:
    rows = by_run([score for score in finding["scores"] if score["adjusted"]])
    caption = (
        "NLL adjusted, by regression, for covariates of the scored images, such as their ink, whose means over all "
        "images are known: nats per image (share of the variance between sets that they explain)"
    )
    return _table(caption, rows, _with_share, _plain) if rows else None


def _with_share(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return NONE
    return f"{plus_minus(score['adjusted'])} ({percent(score['adjusted']['explained'], 0)})"


def _loose(finding: Finding) -> Note | None:
    few = [s for s in finding["scores"] if not s["exact"] and s["ess"] is not None and s["ess"] * s["particles"] < FEW]
    names = list(dict.fromkeys(s["run"] for s in few))
    if not names:
        return None
    return Note(
        f"Fewer than {FEW} effective particles on average, so these bounds are loose and more particles would lower "
        f"the NLL: {', '.join(names)}."
    )


def _ess(finding: Finding) -> Table | None:
    rows = by_run([score for score in finding["scores"] if not score["exact"] and score["ess"] is not None])
    return _table("Effective sample share, mean over sets (lowest of a set)", rows, _share, _plain) if rows else None


def _share(score: Mapping[str, Any] | None) -> str:
    if score is None:
        return NONE
    return percent(score["ess"]) + ("" if score["ess_min"] is None else f" ({percent(score['ess_min'])})")


def _bits(finding: Finding) -> Table | None:
    rows = by_run([score for score in finding["scores"] if score["bits_per_dim"] is not None and score["nats"]])
    return _table("Bits per dimension", rows, _in_bits, _plain) if rows else None


def _in_bits(score: Mapping[str, Any] | None) -> str:
    return NONE if score is None else plus_minus(score, 4, score["bits_per_dim"] / score["nats"])


def _curve(run: str, cells: Mapping[int, Mapping[str, Any]], colour: int, style: str, start: bool) -> Curve:
    """A run's numbers by shots; ``start`` adds the 0 that a gain has at no shots."""
    good = [(t, row) for t, row in sorted(cells.items()) if row["nats"] is not None]
    ends = [row["interval"] or _one_error(row) for _, row in good]
    zero = [0.0] if start else []
    return Curve(
        run,
        colour,
        style,
        zero + [float(t) for t, _ in good],
        zero + [row["nats"] for _, row in good],
        zero + [low for low, _ in ends],
        zero + [high for _, high in ends],
    )


def _one_error(row: Mapping[str, Any]) -> list[float]:
    """The ends of one standard error about a number that has no interval."""
    return [row["nats"] - (row["se"] or 0.0), row["nats"] + (row["se"] or 0.0)]


def _curves(number: int, finding: Finding, colours: Mapping[str, int]) -> Chart | None:
    style = finding["protocol"]
    curves = [_curve(run, cells, colours[run], style, False) for run, cells in by_run(finding["scores"]).items()]
    for i, row in enumerate((finding["printed"] or {"rows": []})["rows"]):
        cells = sorted((float(t), float(nats)) for t, nats in row["nll_by_shots"].items())
        curves.append(Curve(f"{shown(row['model'])} (printed)", i, charts.PRINTED, *zip(*cells, strict=True)))
    curves = [curve for curve in curves if curve.x]
    if len({x for curve in curves for x in curve.x}) < 2:
        return None
    caption = f"NLL by shots, {shown(finding['protocol'])} protocol; bands are 95 % intervals over sets."
    caption += " Dashed grey: printed figures." * bool(finding["printed"])
    return Chart(f"nll-{number}", charts.by_shots(curves, "NLL, nats per image"), "NLL against shots", caption)


def _printed(finding: Finding) -> Table | None:
    if not finding["printed"]:
        return None
    rows = finding["printed"]["rows"]
    shots = sorted({int(t) for row in rows for t in row["nll_by_shots"]})
    body = [(shown(row["model"]), *(str(row["nll_by_shots"].get(str(t), NONE)) for t in shots)) for row in rows]
    caption = f"Printed figures, nats per image, of other lists of sets: {shown(finding['printed']['source'], 300)}"
    return Table(caption, ("model", *(counted(t, "shot", "shots") for t in shots)), tuple(body))


def _parts(finding: Finding) -> Table | None:
    """Targets that repeat an image of their support, and the others, where both occur."""
    rows = by_run(finding["scores"])
    shots, names = columns(rows)
    if not any((score["repeated"] or {"sets": 0})["sets"] for score in finding["scores"]):
        return None
    body = []
    for run, cells in rows.items():
        for name, words in (("unrepeated", "not repeated"), ("repeated", "repeated")):
            parts = [cells[t][name] if t in cells else None for t in shots]
            body.append((run, words, *(f"{plus_minus(p)} ({p['sets']})" if p else NONE for p in parts)))
    caption = "NLL of targets that repeat an image of their support and of those that do not (sets)"
    return Table(caption, ("model", "targets", *names), tuple(body), left=2)


def _gains(number: int, finding: Finding, colours: Mapping[str, int]) -> list[Block]:
    blocks: list[Block] = []
    for base in dict.fromkeys(row["over"] for row in finding["gains"]):
        rows = by_run([row for row in finding["gains"] if row["over"] == base])
        over = "the same model at 0 shots" if base is None else f"{base}, which ignores the support"
        caption = f"Gain over {over}: nats per image, paired on the same sets; positive is better"
        blocks.append(_table(caption, rows, with_interval, _plain))
        if base is None:
            style = finding["protocol"]
            curves = [_curve(run, cells, colours[run], style, True) for run, cells in rows.items()]
            svg = charts.by_shots(curves, "gain, nats per image", zero=True)
            caption = f"What the support is worth, {shown(style)} protocol: gain over the same model at 0 shots."
            blocks.append(Chart(f"gain-{number}", svg, "gain against shots", caption))
    return blocks


def _differences(finding: Finding) -> Table | None:
    rows = by_run(finding["differences"])
    if not rows:
        return None
    against = finding["differences"][0]["against"]
    kinds = {score["exact"] for score in finding["scores"] if score["run"] in (*rows, against)}
    mixed = "; a bound against an exact likelihood, which favours the exact one" if len(kinds) > 1 else ""
    bounds = "; differences of bounds" if kinds == {False} else ""
    caption = f"Difference to {against}: nats per image, paired on the same sets; negative is better{mixed}{bounds}"
    return _table(caption, rows, with_interval, _plain)


def _convergence(number: int, finding: Finding, colours: Mapping[str, int]) -> list[Block]:
    rows = finding["convergence"]
    if not rows:
        return []
    cells: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["run"], row["shots"]), {})[row["particles"]] = row
    counts = sorted({row["particles"] for row in rows})
    body = [(run, str(t), *(_bound(by.get(k)) for k in counts)) for (run, t), by in cells.items()]
    head = ("model", "shots", *(f"K = {k}" for k in counts))
    curves = [
        _curve(f"{shown(run, 34)}, {t}", by, colours[run], finding["protocol"], False) for (run, t), by in cells.items()
    ]
    caption = (
        "The bound with more particles, nats per image (ESS; or, from a part of the particles of one evaluation, how "
        "far above the bound of all of them on the same sets)"
    )
    drawn = "The bound in K: model, shots. Bands are 95 % intervals, or one standard error where K is a part."
    svg = charts.by_particles([curve for curve in curves if curve.x], "NLL bound, nats per image")
    return [
        Table(caption, head, tuple(body), left=1),
        Chart(f"particles-{number}", svg, "NLL bound against particles", drawn),
    ]


def _bound(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return NONE
    if "above" not in row:
        return f"{plus_minus(row, 2)} ({percent(row['ess'])})"
    return f"{plus_minus(row, 2)} (+{plus_minus({'nats': row['above'], 'se': row['above_se']}, 2)})"


def _terms(finding: Finding) -> list[Block]:
    """Terms of the bound by site, where results hold them."""
    held = [score for score in finding["scores"] if "terms" in score]
    sites = list(dict.fromkeys(site for score in held for site in score["terms"]))
    if not sites:
        return []
    body = [
        (s["run"], str(s["shots"]), *(f"{s['terms'][site]:.2f}" if site in s["terms"] else NONE for site in sites))
        for s in held
    ]
    caption = (
        "Terms by site, nats per image: of x the expected -log p(x | latents), of a latent its divergence from its "
        "prior; their sum is the bound with one particle"
    )
    return [Table(caption, ("model", "shots", *map(shown, sites)), tuple(body))]
