"""fsgen report: results files as one page, with tables, charts and intervals."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import Namespace

from fsgen.cli.parsing import Parser
from fsgen.errors import InputError

PUBLISHED = Path(__file__).resolve().parents[2] / "assets" / "published.json"


def parser() -> Parser:
    """The options of a report."""
    p = Parser(
        "report",
        "Writes report.html (one file, nothing fetched), report.md with its pictures, and report.json, from the "
        "results.jsonl of runs: NLL by shots with standard errors, paired differences with bootstrap intervals, gains "
        "over no support, charts, sample sheets, cost of training, and where each number came from. Models are not "
        "loaded. Only numbers of the same data, list of sets and protocol stand in one table.",
    )
    p.add_argument(
        "runs",
        type=str,
        nargs="+",
        metavar="RUN",
        help="run folders that `fsgen evaluate` has scored, or results files",
    )
    p.add_argument("--out", type=str, default="report", metavar="DIR", help="folder of the report")
    p.add_argument("--title", type=str, default="Likelihood report", metavar="TEXT", help="heading of the report")
    p.add_argument(
        "--against",
        type=str,
        default=None,
        metavar="NAME",
        help="run that the others are compared with; default: on each list, the best at the most shots",
    )
    p.add_argument(
        "--published",
        type=str,
        default=None,
        metavar="FILE",
        help="printed figures to show beside; default: assets/published.json where fsgen runs from its repository",
    )
    p.add_argument("--force", action="store_true", help="replace a report that --out holds")
    return p


def run(args: Namespace) -> int:
    """Builds the report and writes it."""
    from fsgen.report.build import HTML, build, read_published, require_free, write
    from fsgen.run.provenance import shortened

    out = Path(args.out)
    if not args.title.strip():
        raise InputError("--title is empty; give some words, or leave it out.")
    require_free(out, args.force)
    file = Path(args.published) if args.published else PUBLISHED
    published = read_published(file) if args.published or file.exists() else {}
    command = [shortened(word) for word in sys.argv]
    files = build(args.runs, title=args.title, against=args.against, published=published, command=command)
    write(out, files, force=args.force)
    print(
        f"{out / HTML}: {len(files[HTML]) / 1e6:.1f} MB; report.md, report.json and {len(files) - 3} pictures beside it"
    )
    return 0
