"""The table that `fsgen evaluate` and `fsgen merge` print, and the lines that adjust it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fsgen.run.log import Log

_LIST = ("data", "protocol", "length", "seed", "list_digest", "ways", "sets")


def covariates_line(row: Mapping[str, Any], covariates: Mapping[str, Any]) -> dict[str, Any]:
    """The line of a results file that describes the scored images of a row's list of sets."""
    about = {name: row[name] for name in _LIST}
    return {"kind": "covariates", **about, "covariates": covariates, "provenance": row["provenance"]}


def append_covariates(log: Log, lines: Iterable[Mapping[str, Any]]) -> None:
    """Adds the lines of those lists that the results file does not describe yet."""
    held = {record.get("list_digest") for record in log.records() if record.get("kind") == "covariates"}
    for line in lines:
        if line["list_digest"] not in held:
            held.add(line["list_digest"])
            log.append(line)


def print_table(
    name: str, rows: Sequence[Mapping[str, Any]], described: Sequence[Mapping[str, Any]], *, in_bits: bool
) -> None:
    """One line a number of classes and shot count, with the plain mean and, by the covariates, the adjusted one.

    Args:
        name: of the run. described: lines of kind "covariates" of the rows' lists. in_bits: adds bits per dimension.
    """
    from fsgen.report.adjustment import Covariates

    first = rows[0]
    unit = "nats per image" if first["bits_per_dim"] is not None else "nats per image of a density over [0, 1]"
    bound = "exact likelihood" if first["exact"] else f"importance-weighted bound, K = {first['particles']}"
    print(
        f"{name}: NLL in {unit}, lower is better; {first['data']['name']} {first['data']['split']}, "
        f"{first['protocol']}, {first['sets']} sets, {bound}"
    )
    split = first["protocol"] == "published"
    known = {line["list_digest"]: Covariates.of(line["covariates"]) for line in described}
    bits = f" {'bits/dim':>8}" * in_bits
    print(
        f"{'classes':>7} {'shots':>5} {'nats':>8} {'+- s.e.':>8} {'adjusted':>8} {'+- s.e.':>8}{bits} {'ESS':>7}"
        + "   unrepeated        repeated" * split
    )
    for row in rows:
        bits = f" {row['bits_per_dim']:8.4f}" if in_bits else ""
        line = f"{row['ways']:7d} {row['shots']:5d} {row['nats']:8.2f} {row['se']:8.2f}"
        line += f"{_adjusted(row, known.get(row['list_digest']))}{bits} {row['ess']:7.1%}"
        if split:
            line += "".join(f"   {_cell(row[part])}" for part in ("unrepeated", "repeated"))
        print(line)


def _adjusted(row: Mapping[str, Any], covariates: Any) -> str:
    """The mean adjusted for covariates, and its error; dashes where it cannot be told."""
    from fsgen.report.adjustment import adjusted

    found = adjusted(row["per_set"], covariates) if covariates else None
    return f" {'-':>8} {'-':>8}" if found is None else f" {found.mean:8.2f} {found.se:8.2f}"


def _cell(part: Mapping[str, Any]) -> str:
    value = "-" if part["nats"] is None else f"{part['nats']:.2f}"
    return f"{value:>7} ({part['sets']})"
