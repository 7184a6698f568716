"""Rows of two sides of a benchmark as a table: seconds, ratios, gradients, memory, values."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Key = tuple[str, str, str]  # workload, operation, phase

NEGLIGIBLE_S = 1e-4  # a row faster than this on both sides does not count
FIRST_PRODUCT = "first-product"
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


def measured(*rows: Row) -> bool:
    return all(row.get("median_s") is not None for row in rows)


def join(ours: dict[Key, Row], theirs: dict[Key, Row]) -> list[tuple[Key, Row, Row]]:
    """Both rows of each key. Our first product includes what the peer's set-up and product do."""
    pairs = []
    for key in dict.fromkeys([*ours, *theirs]):
        peer = theirs.get(key, {})
        if key[2] == FIRST_PRODUCT:
            parts = [theirs.get((*key[:2], phase), {}) for phase in ("setup", "product")]
            peer = plus(*parts) if measured(*parts) else {}
        pairs.append((key, ours.get(key, {}), peer))
    return pairs


def plus(setup: Row, product: Row) -> Row:
    return {"median_s": setup["median_s"] + product["median_s"],
            "peak_rss_mb": product["peak_rss_mb"]}  # fmt: skip


def agreement(operation: str, ours: Row, theirs: Row) -> str:
    a, b = ours.get("value"), theirs.get("value")
    if a is None or b is None or "mc" in operation.split("-") or "hutch" in operation:
        return ""
    difference = abs(a - b) / max(abs(a), abs(b), 1e-30)
    return "same" if difference <= VALUE_TOLERANCE else f"differ by {difference:.1e}"


def cells(row: Row, gradient: float | None) -> list[str]:
    """Seconds, gradients, megabytes."""
    if not measured(row):
        return [row.get("note", ""), "", ""]
    seconds = row["median_s"]
    return [f"{seconds:.4f}", f"{seconds / gradient:.2f}" if gradient else "",
            f"{row['peak_rss_mb']:.0f}"]  # fmt: skip


def sum_up(ratios: dict[Key, float]) -> list[str]:
    if not ratios:
        return []
    later = {key: ratio for key, ratio in ratios.items() if key[2] != FIRST_PRODUCT}
    lines = [
        f"geometric mean of {len(some)} ratios, {what}: "
        f"{math.exp(sum(map(math.log, some.values())) / len(some)):.3f}"
        for some, what in ((ratios, "all but gradient"), (later, "without first products"))
        if some
    ]
    return lines + [f"above 0.9: {' '.join(key)}: {r:.2f}" for key, r in ratios.items() if r > 0.9]


def compare(
    ours: dict[Key, Row], theirs: dict[Key, Row], workloads: list[str], order: dict[str, int]
) -> tuple[list[list[str]], list[str]]:
    """The lines of the table, operations in `order`, and what sums it up. A gradient is the peer's
    where there is one."""

    def place(pair: tuple[Key, Row, Row]) -> tuple[int, int]:
        workload, operation, _ = pair[0]
        return workloads.index(workload), order.get(operation.removesuffix("-inverse"), len(order))

    lines: list[list[str]] = []
    ratios: dict[Key, float] = {}
    for key, mine, peer in sorted(join(ours, theirs), key=place):
        unit = (key[0], "gradient", "product")
        gradient = (theirs.get(unit) or ours.get(unit) or {}).get("median_s")
        ratio, values = "", ""
        if measured(mine, peer):
            quotient = mine["median_s"] / peer["median_s"]
            ratio, values = f"{quotient:.2f}", agreement(key[1], mine, peer)
            if key[1] != "gradient" and max(mine["median_s"], peer["median_s"]) >= NEGLIGIBLE_S:
                ratios[key] = quotient
        seconds, gradients, megabytes = zip(cells(mine, gradient), cells(peer, gradient))
        lines.append([*key, *seconds, ratio, *gradients, *megabytes, values])
    return lines, sum_up(ratios)
