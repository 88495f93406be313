"""fsgen adjust: results files completed with what adjusts their means, without scoring anything again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fsgen.cli.likelihoods import append_covariates, covariates_line
from fsgen.cli.parsing import Parser
from fsgen.errors import DataError, InputError
from fsgen.run import provenance
from fsgen.run.log import Log

Line = Mapping[str, Any]


def parser() -> Parser:
    """The options of an adjustment."""
    p = Parser(
        "adjust",
        "Prints the NLL of evaluated runs beside their means adjusted by regression for ink and edges of the scored "
        "images, whose means over the split are known. Results that lack these numbers get them: the same sets are "
        "drawn again and their digest is checked; no model is loaded, and no line changes.",
    )
    p.add_argument("runs", type=str, nargs="+", metavar="RUN", help="folders that `fsgen evaluate` has scored")
    p.add_argument(
        "--data-root", type=str, default=None, metavar="DIR", help="data files; default $FSGEN_DATA or ./data"
    )
    p.add_argument(
        "--first", type=int, default=None, metavar="N", help="print figures of the first N sets of each list alone"
    )
    return p


def run(args: Namespace) -> int:
    """Adds the lines that are missing, and prints plain and adjusted means of every line that is scored."""
    from fsgen.report.results import source_of

    if args.first is not None and args.first < 2:
        raise InputError(f"--first is {args.first}; give 2 or more.")
    for name in args.runs:
        log = Log(source_of(Path(name)).file)
        rows, held = _checked(log)
        known = {line["list_digest"] for line in held}
        lacking = {row["list_digest"]: row for row in rows if row["list_digest"] not in known}
        new = [described(row, args.data_root) for row in lacking.values()]
        append_covariates(log, new)
        _print(name, rows, [*held, *new], args.first)
    return 0


def _checked(log: Log) -> tuple[list[Line], list[Line]]:
    """The lines of a results file that hold finite scores of every set, and those that hold covariates.

    Raises:
        InputError: a line of either kind that does not hold what it should; names it.
    """
    from fsgen.report.lines import COVARIATES, LIKELIHOOD, Fields, cell_of, covariates_of

    rows: list[Line] = []
    held: list[Line] = []
    for number, line in enumerate(log.records(), 1):
        fields = Fields(line, f"{log.path}, line {number}")
        if line.get("kind") == COVARIATES:
            covariates_of(fields)
            held.append(line)
        elif line.get("kind", LIKELIHOOD) == LIKELIHOOD:
            cell = cell_of(fields, {})
            for needed in ("length", "seed"):
                fields.whole(needed)
            rows += [] if cell.values is None or len(cell.values) < 2 else [line]
    if not rows:
        raise InputError(f"{log.path} holds no scores of single sets; evaluate the run again.")
    return rows, held


def described(row: Line, root: str | None) -> dict[str, Any]:
    """The line of covariates of a scored row, from its list of sets drawn again.

    Raises:
        DataError: the data, or the sets drawn from them, are not those that were scored.
    """
    from fsgen.data.covariates import covariates_record
    from fsgen.data.sampler import EpisodeSampler
    from fsgen.data.sources import load_images

    data = row["data"]
    images = load_images(data["name"], data["split"], root, **data.get("options", {}))
    if images.digest != data["digest"]:
        raise DataError(
            f"{images} has the digest {images.digest[:12]}, but what was scored {data['digest'][:12]}; give the data "
            f"that were scored with --data-root."
        )
    sampler = EpisodeSampler(images, ways=row["ways"], length=row["length"], protocol=row["protocol"], seed=row["seed"])
    if sampler.digest(row["sets"]) != row["list_digest"]:
        raise DataError(f"{row['run']}: its list {row['list_digest'][:12]} cannot be drawn again; evaluate again.")
    return covariates_line({**row, "provenance": provenance()}, covariates_record(sampler, row["sets"]))


def _print(name: str, rows: Sequence[Line], held: Sequence[Line], first: int | None) -> None:
    """One line a scored row: its plain mean and its adjusted one, of all sets or the first ones."""
    import numpy as np

    from fsgen.report.adjustment import Covariates, adjusted

    known = {line["list_digest"]: Covariates.of(line["covariates"]) for line in held}
    print(
        f"{name}: NLL in nats per image +- s.e., plain and adjusted for {', '.join(next(iter(known.values())).names)}"
    )
    print(f"{'protocol':>9} {'classes':>7} {'shots':>5} {'sets':>6} {'K':>6} {'plain':>16} {'adjusted':>16} explained")
    for row in rows:
        values = np.array(row["per_set"][:first])
        error, better = (
            values.std(ddof=1) / len(values) ** 0.5,
            adjusted(values, known[row["list_digest"]].first(len(values))),
        )
        about = f"{row['protocol']:>9} {row['ways']:7d} {row['shots']:5d} {len(values):6d} {row['particles']:6d}"
        cells = "" if better is None else f"{better.mean:8.2f} +- {better.se:4.2f} {better.explained:9.0%}"
        print(f"{about} {values.mean():8.2f} +- {error:4.2f} {cells or '-':>16}")
