#!/usr/bin/env python3
"""Run curvature_bench and curvlinops' benchmark alternately, and compare what they measured."""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path

from comparison import HEADER, PEER_COLUMNS, compare, load

# Operations of the peer (None: it has no such thing), and ours for the same rows.
PAIRS: list[tuple[str | None, list[str]]] = [
    *((name, [name]) for name in ("gradient", "hessian-vector", "ggn-vector", "ef-vector")),
    ("mc-fisher-vector", ["mc-fisher-vector"]),
    *((f"{name}-matrix", [f"{name}-matrix-8"]) for name in ("hessian", "ggn")),
    *((name, [name]) for name in ("kfac-type-2", "kfac-mc", "kfac-empirical", "ekfac-mc")),
    *((f"{c}-trace", [f"{c}-hutchpp-21", f"{c}-hutchinson-20"]) for c in ("hessian", "ggn")),
    ("hessian-spectrum", ["hessian-spectrum-20"]),
    *((f"{name}-top", [f"{name}-top-10"]) for name in ("hessian", "ggn")),
    (None, ["kfac-layers", "ggn-cg-20", "hessian-minres-20", "hessian-lanczos-20"]),
]
ORDER = {name: i for i, (peer, ours) in enumerate(PAIRS) for name in (peer, *ours) if name}
OPERATIONS = [name for _, ours in PAIRS for name in ours]


def run_both(options: argparse.Namespace) -> None:
    """Operation by operation, ours first."""
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    common = ["--threads", str(options.threads), "--budget", str(options.budget)]
    for workload in options.workloads:
        for peer, names in PAIRS:
            ours = [name for name in names if name in options.operations]
            if not ours:
                continue
            where = [str(options.directory), "--workloads", workload, *common, "--json"]
            command = [options.bench, *where, options.out / "ours.json", "--operations", *ours]
            if options.memory_budget is not None:
                command += ["--memory-budget", str(options.memory_budget)]
            subprocess.run(command, env=environment, check=True)
            if options.peer_python and peer:
                command = [options.peer_python, options.peer_script, *where]
                command += [options.out / "theirs.json", "--limit", str(options.limit)]
                subprocess.run([*command, "--ops", peer], env=environment, check=True)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path, help="the exported workloads")
    parser.add_argument("out", type=Path, help="folder for ours.json and theirs.json")
    parser.add_argument("--bench", type=Path, help="curvature_bench; else only print what is there")
    parser.add_argument("--peer-python", type=Path, help="else only ours is measured")
    parser.add_argument("--peer-script", type=Path, help="bench_curvlinops.py")
    names = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--workloads", default=["mlp", "conv", "cnn", "gpt"], **names)
    parser.add_argument("--operations", choices=OPERATIONS, default=OPERATIONS, **names)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=10, help="seconds for repeating a row")
    parser.add_argument("--limit", type=float, default=600, help="seconds for their operation")
    parser.add_argument("--memory-budget", type=int, help="bytes that our operators may keep")
    parser.add_argument("--markdown", type=Path, help="file for the table")
    options = parser.parse_args()
    if bool(options.peer_python) != bool(options.peer_script):
        parser.error("--peer-python and --peer-script go together")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.bench:
        run_both(options)

    ours, theirs = (
        load(options.out / f"{side}.json", options.threads, options.workloads)
        for side in ("ours", "theirs")
    )
    lines, summary = compare(ours, theirs, options.workloads, ORDER)
    lines = [HEADER, *lines]
    if not theirs:
        lines = [[c for i, c in enumerate(line) if i not in PEER_COLUMNS] for line in lines]
    print(aligned(lines), *summary, sep="\n")
    if options.markdown:
        options.markdown.write_text(markdown(lines, summary))


if __name__ == "__main__":
    main()
