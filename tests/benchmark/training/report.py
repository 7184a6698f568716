"""What curvature_training_bench found: report.py ROWS prints the table of docs/optimizers.md;
with --data FOLDER it writes what docs/pictures/draw_training.sh draws."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any

Row = dict[str, Any]

BASELINE = "adamw"  # its median final loss is the target
ORDER = [BASELINE, "schedule-free-adamw", "muon", "psgd-kron", "shampoo", "soap", "kl-shampoo",
         "kl-soap"]  # fmt: skip
LARGEST_RATIO = 5.0  # of the performance profile
HEADER = ["task", "method", "learning rate", "final loss", "steps to target",
          "seconds to target", "seconds a step"]  # fmt: skip


@dataclass
class Runs:
    """The trials of a method on a task."""

    tuning: list[Row]  # seed 0
    seeds: list[Row]  # the others, with the best rate

    @property
    def rate(self) -> float:
        return self.seeds[0]["learning_rate"]

    @property
    def rate_at_edge(self) -> bool:
        rates = [row["learning_rate"] for row in self.tuning]
        return self.rate in (min(rates), max(rates))

    @property
    def final_losses(self) -> list[float]:
        return [loss_of(row) for row in self.seeds]

    @property
    def seconds_per_step(self) -> float:
        return median(row["seconds"] / row["steps"] for row in self.seeds)


def loss_of(row: Row) -> float:
    return math.inf if row["final_loss"] is None else row["final_loss"]


def place(key: tuple[str, str]) -> tuple[str, int]:
    return key[0], ORDER.index(key[1]) if key[1] in ORDER else len(ORDER)


def load(file: Path) -> dict[str, dict[str, Runs]]:
    """Complete methods by task."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    tasks: dict[str, dict[str, Runs]] = {}
    found = dict.fromkeys((row["task"], row["method"]) for row in rows)
    for task, method in sorted(found, key=place):
        mine = [row for row in rows if (row["task"], row["method"]) == (task, method)]
        tuning = [row for row in mine if row["seed"] == 0]
        best = min(tuning, key=loss_of)["learning_rate"]
        seeds = [row for row in mine if row["seed"] > 0 and row["learning_rate"] == best]
        if seeds:
            tasks.setdefault(task, {})[method] = Runs(tuning, seeds)
    return {task: methods for task, methods in tasks.items() if BASELINE in methods}


def target_of(methods: dict[str, Runs]) -> float:
    return median(methods[BASELINE].final_losses)


def time_to_target(row: Row, target: float) -> tuple[float, float]:
    """Steps and seconds until the first evaluation at the target; infinite if there is none."""
    for steps, loss, seconds in row["curve"]:
        if loss <= target:
            return steps, seconds
    return math.inf, math.inf


def with_range(values: list[float], form: str) -> str:
    """The median, and the range of those that are finite."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return "never"
    middle = median(values)
    text = format(middle, form) if math.isfinite(middle) else "never"
    if len(finite) < len(values):
        return f"{text} ({len(finite)} of {len(values)} seeds: from {format(min(finite), form)})"
    return f"{text} ({format(min(values), form)} to {format(max(values), form)})"


def line_of(task: str, method: str, runs: Runs, target: float) -> list[str]:
    steps, seconds = zip(*(time_to_target(row, target) for row in runs.seeds))
    losses = runs.final_losses
    return [task, method, f"{runs.rate:g}" + (", at an edge" if runs.rate_at_edge else ""),
            f"{mean(losses):.3f} ({min(losses):.3f} to {max(losses):.3f})",
            with_range(list(steps), ".0f"), with_range(list(seconds), ".1f"),
            f"{runs.seconds_per_step:.3f}"]  # fmt: skip


def print_table(tasks: dict[str, dict[str, Runs]]) -> None:
    print("| " + " | ".join(HEADER) + " |")
    print("|---" * len(HEADER) + "|")
    for task, methods in tasks.items():
        for method, runs in methods.items():
            print("| " + " | ".join(line_of(task, method, runs, target_of(methods))) + " |")
    for task, methods in tasks.items():
        print(f"\nTarget of {task}: {target_of(methods):.4f}")


def curve(runs: Runs) -> list[tuple[float, float, float]]:
    """Steps, loss, seconds: medians over the seeds at the evaluations that all reached."""
    return [(points[0][0], median(p[1] for p in points), median(p[2] for p in points))
            for points in zip(*(row["curve"] for row in runs.seeds))]  # fmt: skip


def profile(
    tasks: dict[str, dict[str, Runs]], method: str, what: int
) -> list[tuple[float, float]]:
    """Points (tau, fraction of the problems solved within tau times the best method's time).
    A problem is a task with a seed; `what` is 0 for steps, 1 for seconds."""
    ratios = []
    for methods in tasks.values():
        target = target_of(methods)
        for i in range(len(methods[BASELINE].seeds)):
            times = {name: time_to_target(runs.seeds[i], target)[what]
                     for name, runs in methods.items()}  # fmt: skip
            best = min(times.values())
            mine = times.get(method, math.inf)
            ratios.append(mine / best if math.isfinite(mine) else math.inf)
    within = sorted(ratio for ratio in ratios if ratio <= LARGEST_RATIO)
    steps = [(ratio, (i + 1) / len(ratios)) for i, ratio in enumerate(within)]
    return [(1.0, 0.0), *steps, (LARGEST_RATIO, len(within) / len(ratios))]


def write_blocks(file: Path, blocks: dict[str, list[tuple[float, ...]]]) -> None:
    """Blocks for gnuplot's `index`, each with its name first."""
    file.write_text("\n\n".join(
        f'"{name}"\n' + "".join(" ".join(f"{x:.6g}" for x in point) + "\n" for point in points)
        for name, points in blocks.items()
    ))  # fmt: skip


def write_data(tasks: dict[str, dict[str, Runs]], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    found = {name for methods in tasks.values() for name in methods}
    names = sorted(found, key=lambda name: place(("", name)))
    for task, methods in tasks.items():
        nothing = [(math.nan,) * 3]  # keeps the colours of the others
        write_blocks(folder / task, {name: curve(methods[name]) if name in methods else nothing
                                     for name in names})  # fmt: skip
        (folder / f"{task}.target").write_text(f"{target_of(methods):.6g}\n")
    for what, name in enumerate(("steps", "seconds")):
        write_blocks(folder / f"profile_{name}",
                     {method: profile(tasks, method, what) for method in names})  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--data", type=Path, help="folder for the pictures' numbers")
    arguments = parser.parse_args()
    tasks = load(arguments.rows)
    print_table(tasks)
    if arguments.data:
        write_data(tasks, arguments.data)


if __name__ == "__main__":
    main()
