"""The table that `fsgen evaluate` and `fsgen merge` print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def print_table(name: str, rows: Sequence[Mapping[str, Any]], *, in_bits: bool) -> None:
    """One line a number of classes and shot count; ``name`` is that of the run, ``in_bits`` adds bits per dimension."""
    first = rows[0]
    unit = "nats per image" if first["bits_per_dim"] is not None else "nats per image of a density over [0, 1]"
    bound = "exact likelihood" if first["exact"] else f"importance-weighted bound, K = {first['particles']}"
    print(
        f"{name}: NLL in {unit}, lower is better; {first['data']['name']} {first['data']['split']}, "
        f"{first['protocol']}, {first['sets']} sets, {bound}"
    )
    split = first["protocol"] == "published"
    bits = f" {'bits/dim':>8}" * in_bits
    print(
        f"{'classes':>7} {'shots':>5} {'nats':>8} {'+- s.e.':>8}{bits} {'ESS':>7}"
        + "   unrepeated        repeated" * split
    )
    for row in rows:
        bits = f" {row['bits_per_dim']:8.4f}" if in_bits else ""
        line = f"{row['ways']:7d} {row['shots']:5d} {row['nats']:8.2f} {row['se']:8.2f}{bits} {row['ess']:7.1%}"
        if split:
            line += "".join(f"   {_cell(row[part])}" for part in ("unrepeated", "repeated"))
        print(line)


def _cell(part: Mapping[str, Any]) -> str:
    value = "-" if part["nats"] is None else f"{part['nats']:.2f}"
    return f"{value:>7} ({part['sets']})"
