"""Rows of two sides of a benchmark as a table: seconds, ratios, gradients, memory, values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Key = tuple[str, str, str]  # workload, operation, phase

NEGLIGIBLE_S = 1e-4  # a row faster than this on both sides does not count
VALUE_TOLERANCE = 1e-3
HEADER = ["workload", "operation", "phase", "s", "theirs", "ratio", "gradients", "theirs", "MB",
          "theirs", "values"]  # fmt: skip
PEER_COLUMNS = {4, 5, 7, 9, 10}


def load(file: Path, threads: int, workloads: list[str]) -> dict[Key, Row]:
    """The rows of a file, if it exists."""
    rows = json.loads(file.read_text()) if file.exists() else []
    return {
        (row["workload"], row["operation"], row["phase"]): row
        for row in rows
        if row["threads"] == threads and row["workload"] in workloads
    }


def is_first_product(key: Key) -> bool:
    """Set-up of a matrix-free operator."""
    return key[1].endswith("-vector") and key[2] == "setup"


def whole_first_products(theirs: dict[Key, Row]) -> dict[Key, Row]:
    """Adds a product to the set-up of matrix-free operators, as ours has one: theirs keeps nothing
    between products."""
    whole = dict(theirs)
    for key, row in theirs.items():
        product = theirs.get((*key[:2], "product"))
        if is_first_product(key) and measured(row, product):
            seconds = {name: row[name] + product[name] for name in ("median_s", "min_s")}
            whole[key] = product | seconds
    return whole


def measured(*rows: Row | None) -> bool:
    return all(row is not None and row["median_s"] is not None for row in rows)


def agreement(operation: str, ours: Row, theirs: Row) -> str:
    a, b = ours.get("value"), theirs.get("value")
    if a is None or b is None or "mc" in operation.split("-") or "hutch" in operation:
        return ""
    difference = abs(a - b) / max(abs(a), abs(b), 1e-30)
    return "same" if difference <= VALUE_TOLERANCE else f"differ by {difference:.1e}"


def cells(row: Row | None, gradient: float | None) -> list[str]:
    """Seconds, gradients, megabytes."""
    if not measured(row):
        return [row.get("note", "") if row else "", "", ""]
    seconds = row["median_s"]
    return [f"{seconds:.4f}", f"{seconds / gradient:.2f}" if gradient else "",
            f"{row['peak_rss_mb']:.0f}"]  # fmt: skip


def sum_up(ratios: dict[Key, float]) -> list[str]:
    if not ratios:
        return []
    later = {key: ratio for key, ratio in ratios.items() if not is_first_product(key)}
    lines = [
        f"geometric mean of {len(some)} ratios, {what}: "
        f"{math.exp(sum(map(math.log, some.values())) / len(some)):.3f}"
        for some, what in ((ratios, "all but gradient"), (later, "without first products"))
        if some
    ]
    return lines + [f"above 0.9: {' '.join(key)}: {r:.2f}" for key, r in ratios.items() if r > 0.9]


def compare(
    ours: dict[Key, Row], theirs: dict[Key, Row], order: dict[str, int]
) -> tuple[list[list[str]], list[str]]:
    """The lines of the table, operations in `order`, and what sums it up. A gradient is the peer's
    where there is one."""
    theirs = whole_first_products(theirs)
    workloads = list(dict.fromkeys(key[0] for key in ours))
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if key[0] in workloads]
    place = {key: order.get(key[1].removesuffix("-inverse"), len(order)) for key in keys}
    lines: list[list[str]] = []
    ratios: dict[Key, float] = {}
    for key in sorted(keys, key=lambda key: (workloads.index(key[0]), place[key])):
        mine, peer = ours.get(key), theirs.get(key)
        unit = (key[0], "gradient", "product")
        gradient = (theirs.get(unit) or ours.get(unit) or {}).get("median_s")
        ratio, values = "", ""
        if measured(mine, peer):
            quotient = mine["median_s"] / peer["median_s"]
            ratio, values = f"{quotient:.2f}", agreement(key[1], mine, peer)
            if key[1] != "gradient" and max(mine["median_s"], peer["median_s"]) >= NEGLIGIBLE_S:
                ratios[key] = quotient
        pairs = zip(cells(mine, gradient), cells(peer, gradient))
        seconds, gradients, megabytes = (list(pair) for pair in pairs)
        lines.append([*key, *seconds, ratio, *gradients, *megabytes, values])
    return lines, sum_up(ratios)


def aligned(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines)]
    left = {0, 1, 2, len(widths) - 1}
    rows = ([c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))]
            for line in lines)  # fmt: skip
    return "\n".join("  ".join(row).rstrip() for row in rows)


def markdown(lines: list[list[str]], summary: list[str]) -> str:
    lines = [lines[0], ["---"] * len(lines[0]), *lines[1:]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n".join([table, "", *(f"* {line}" for line in summary)]).rstrip() + "\n"
