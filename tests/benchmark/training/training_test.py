"""training_test.py PROGRAM: a comparison of three steps on made-up data, continued after an
interruption; and the report of trials whose table is known."""

from __future__ import annotations

import gzip
import json
import random
import struct
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import report

METHODS = ["adamw", "schedule-free-adamw", "muon", "psgd-kron", "shampoo", "soap", "kl-shampoo",
           "kl-soap"]  # fmt: skip
TASKS = ["character-gpt", "fashion-mlp"]


def write_idx(file: Path, shape: list[int], values: bytes) -> None:
    header = struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape)
    file.write_bytes(gzip.compress(header + values))


def write_data(folder: Path) -> None:
    """Eight-by-eight images of noise, brighter the larger their class; a text of four words."""
    source = random.Random(0)
    for prefix, count in (("train", 64), ("t10k", 16)):
        labels = [i % 10 for i in range(count)]
        pixels = bytes(min(255, 20 * label + source.randrange(50))
                       for label in labels for _ in range(64))  # fmt: skip
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", [count, 8, 8], pixels)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", [count], bytes(labels))
    words = ["operator ", "matrix ", "step ", "loss "]
    (folder / "text").write_text("".join(source.choice(words) for _ in range(400)))


class ProgramTest(unittest.TestCase):
    program: str

    def run_program(self, folder: Path) -> list[dict]:
        subprocess.run(
            [self.program, "--rows", folder / "rows", "--text", folder / "text",
             "--fashion-mnist", folder, "--rates", "0.001,0.004", "--seeds", "1", "--every", "2",
             "--gpt-steps", "3", "--mlp-steps", "3", "--gpt-batch", "2", "--mlp-batch", "16"],
            check=True, stdout=subprocess.DEVNULL)  # fmt: skip
        return [json.loads(line) for line in (folder / "rows").read_text().splitlines()]

    def test_an_interrupted_comparison_continues_to_the_same_losses(self) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_data(folder)
            rows = self.run_program(folder)
            kinds = {(row["task"], row["method"], row["seed"]) for row in rows}
            self.assertEqual(
                kinds, {(t, m, s) for t in TASKS for m in METHODS for s in (0, 1)}
            )
            self.assertEqual(len(rows), len(TASKS) * len(METHODS) * 3)
            for row in rows:
                self.assertEqual([p[0] for p in row["curve"]], [3] if row["seed"] == 0 else [2, 3])
                self.assertEqual(row["curve"][-1][1], row["final_loss"])

            lost = rows[::5]
            kept = [row for row in rows if row not in lost]
            (folder / "rows").write_text("".join(json.dumps(row) + "\n" for row in kept))
            again = self.run_program(folder)
            self.assertEqual(again[: len(kept)], kept)
            self.assertEqual([row["final_loss"] for row in again[len(kept) :]],
                             [row["final_loss"] for row in lost])  # fmt: skip


def made_up(method: str, rate: float, seed: int, curve: list[list[float]]) -> dict:
    return {"task": "a", "method": method, "learning_rate": rate, "seed": seed, "steps": 30,
            "final_loss": curve[-1][1], "seconds": curve[-1][2], "curve": curve}  # fmt: skip


class ReportTest(unittest.TestCase):
    def setUp(self) -> None:
        rows = [made_up("adamw", rate, 0, [[30, loss, 3]]) for rate, loss in
                ((1, 3.0), (2, 2.0), (4, 2.5))]  # fmt: skip
        rows += [made_up("adamw", 2, seed, [[10, 3, 1], [20, 2.5, 2], [30, 2 + seed / 10, 3]])
                 for seed in (1, 2, 3)]  # fmt: skip
        rows += [made_up("fast", rate, 0, [[30, 4 - rate, 6]]) for rate in (1, 2)]
        rows += [made_up("fast", 2, seed, [[10, 2.7, 2], [20, 2.1, 4], [30, 1.5, 6]])
                 for seed in (1, 2, 3)]  # fmt: skip
        with tempfile.TemporaryDirectory() as name:
            file = Path(name) / "rows"
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            self.tasks = report.load(file)

    def test_a_line_says_rate_loss_and_time_to_the_baselines_median(self) -> None:
        target = report.target_of(self.tasks["a"])
        self.assertAlmostEqual(target, 2.2)
        self.assertEqual(
            report.line_of("a", "fast", self.tasks["a"]["fast"], target)[2:],
            ["2, at an edge", "1.500 (1.500 to 1.500)", "20 (20 to 20)", "4.0 (4.0 to 4.0)",
             "0.200"])  # fmt: skip
        self.assertEqual(
            report.line_of("a", "adamw", self.tasks["a"]["adamw"], target)[2:5],
            ["2", "2.200 (2.100 to 2.300)", "30 (2 of 3 seeds: from 30)"])  # fmt: skip

    def test_the_profile_counts_problems_by_their_ratio_to_the_best(self) -> None:
        self.assertEqual(report.profile(self.tasks, "fast", 0)[-1], (report.LARGEST_RATIO, 1.0))
        steps = report.profile(self.tasks, "adamw", 0)
        self.assertEqual(steps[1:3], [(1.5, 1 / 3), (1.5, 2 / 3)])
        self.assertEqual(steps[-1], (report.LARGEST_RATIO, 2 / 3))
        self.assertEqual(report.profile(self.tasks, "adamw", 1)[1], (1.0, 1 / 3))


if __name__ == "__main__":
    ProgramTest.program = sys.argv.pop()
    unittest.main()
