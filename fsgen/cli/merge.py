"""fsgen merge: the shards of an evaluation joined into the lines and the table of an undivided one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from fsgen.cli.likelihoods import append_covariates, covariates_line, print_table
from fsgen.cli.parsing import Parser
from fsgen.errors import InputError
from fsgen.evaluation_shards import join
from fsgen.run.log import Log


def parser() -> Parser:
    """The options of a merge."""
    p = Parser(
        "merge",
        "Joins the files of all shards of an evaluation (`fsgen evaluate --shard i/n`) into the lines that one run "
        "over all sets writes, and prints its table. Refuses shards that are missing, given twice or of different "
        "weights, data or options.",
    )
    p.add_argument("files", type=str, nargs="+", metavar="FILE", help="files of the shards, in any order")
    p.add_argument("--out", type=str, required=True, metavar="FILE", help="results file; lines are added at its end")
    return p


def run(args: Namespace) -> int:
    """Checks and joins the shards, prints the table, appends one line a row to the results file."""
    paths, out = [Path(name) for name in args.files], Path(args.out)
    if out.resolve() in [path.resolve() for path in paths]:
        raise InputError(f"--out {out} is the file of a shard; give another.")
    lines = join(paths)

    from fsgen.evaluation import PerSet
    from fsgen.report.lines import Fields, covariates_of
    from fsgen.run import provenance

    log, made_by = Log(out), provenance()
    log.records()  # refuses a file that is no results file before anything is written
    rows = [_row(line, PerSet(**line["per_set"]).score().record(), made_by) for line in lines]
    pairs = zip(rows, lines, strict=True)
    described = [covariates_line(row, line["covariates"]) for row, line in pairs if "covariates" in line]
    for line in described:
        covariates_of(Fields(line, str(paths[0])))
    for row in rows:
        log.append(row)
    append_covariates(log, described)
    in_bits = lines[0]["levels"] > 2 and rows[0]["bits_per_dim"] is not None
    print_table(rows[0]["run"], rows, described, in_bits=in_bits)
    print(f"results: {out}")
    return 0


def _row(line: dict[str, Any], score: dict[str, Any], made_by: dict[str, Any]) -> dict[str, Any]:
    """A joined line as `fsgen evaluate` writes it; the provenance keeps that of each shard."""
    own = ("sets", "levels", "list_digest", "covariates", "per_set", "provenance")
    settings = {**{key: value for key, value in line.items() if key not in own}, "kind": "likelihood"}
    shards = {**made_by, "shards": line["provenance"]}
    return {**settings, "list_digest": line["list_digest"], **score, "provenance": shards}
