#!/usr/bin/env python3
"""Compare `curvature replay` with formulas written in NumPy, and resumed training with whole runs.

    --tool PATH --cases DIR

One line for each failing check, then `N passed, M failed`. Exit status 0 only if every check
passed. Needs NumPy only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

STEPS = 12
SHAPES = {"matrix": (4, 3), "wide": (2, 7), "filter": (4, 3, 2, 2), "vector": (5,), "scalar": (),
          "row": (1, 6)}
TOLERANCE = 1e-10


def as_matrix(x: np.ndarray) -> np.ndarray:
    """The first axis longer than 1 against all others."""
    shape = [d for d in x.shape if d != 1]
    return x.reshape(shape[0], -1) if len(shape) > 1 else x.reshape(shape)


def adamw(gradients, rate=1e-3, beta1=0.9, beta2=0.95, epsilon=1e-8) -> Iterator[np.ndarray]:
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
        yield rate * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + epsilon)


def muon(gradients, rate=0.02, momentum=0.95, steps=5) -> Iterator[np.ndarray]:
    m = 0.0
    for g in gradients:
        m = momentum * m + (1 - momentum) * g
        x = (1 - momentum) * g + momentum * m
        x = x / (np.linalg.norm(x) + 1e-7)
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        for _ in range(steps):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        yield rate * np.sqrt(max(1, g.shape[0] / g.shape[1])) * (x.T if tall else x)


def sirf(gradients, rate=1e-3, speed=0.01, alpha1=0.9, alpha2=0.5, damping=1e-3,
         batch_size=8) -> Iterator[np.ndarray]:
    sizes = gradients[0].shape
    k = [np.eye(d) for d in sizes]
    n = [np.zeros((d, d)) for d in sizes]
    m = 0.0
    for g in gradients:
        x = k[0].T @ g @ k[1]
        h = []
        for i, rows in enumerate((x, x.T)):
            other = k[1 - i]
            trace = np.trace(other.T @ other) / sizes[1 - i]
            h.append((batch_size / rows.shape[1] * rows @ rows.T + damping * trace * k[i].T @ k[i]
                      - np.eye(sizes[i])) / 2)
        for i in range(2):
            n[i] = alpha2 * n[i] + (1 - alpha2) * h[i]
            k[i] = k[i] @ (np.eye(sizes[i]) - speed / max(1, np.linalg.norm(n[i])) * n[i])
        m = alpha1 * m + k[0] @ k[0].T @ g @ k[1] @ k[1].T
        yield rate * m


def psgd(gradients, quad: bool, rate=1e-3, speed=0.1, decay=0.9,
         momentum=0.9) -> Iterator[np.ndarray]:
    sizes, count = gradients[0].shape, gradients[0].size
    dense = [d > 1 and d * d <= count for d in sizes]
    scale = np.mean(gradients[0] ** 4) ** (-1 / 16)
    q = [scale * (np.eye(d) if full else np.ones(d)) for d, full in zip(sizes, dense)]
    bounds = [0.0, 0.0]
    m = 0.0

    def whiten(x: np.ndarray) -> np.ndarray:
        p = [f.T @ f if full else np.diag(f * f) for f, full in zip(q, dense)]
        return p[0] @ x @ p[1]

    for t, g in enumerate(gradients, 1):
        b = min((t - 1) / t, momentum)
        m = b * m + (1 - b) * g
        white = whiten(g)
        for i, rows in enumerate((white, white.T)):
            c = count / sizes[i]
            a = rows @ rows.T if dense[i] else (rows**2).sum(1)
            bound = (np.linalg.norm(a, 2) if dense[i] else a.max()) + c
            bounds[i] = max(decay * bounds[i] + (1 - decay) * bound, bound)
            q[i] = psgd_moved(q[i], a, c, speed / bounds[i], quad)
        u = whiten(m)
        u = u * min(1.0, 2 / np.sqrt(np.mean(u * u)))
        yield rate * np.clip(u, -10, 10)


def psgd_moved(q: np.ndarray, a: np.ndarray, c: float, h: float, quad: bool) -> np.ndarray:
    if q.ndim == 1:
        return q * (1 - h / 2 * (a - c)) ** 2 if quad else q * (1 - h * (a - c))
    if quad:
        b = q - h / 2 * (a @ q - c * q)
        b = b - h / 2 * (b @ a - c * b)
        return (b + b.T) / 2
    q = q - h * (a @ q - c * q)
    n = q.T - q
    if not n.any():
        return q
    n = n / np.linalg.norm(n, 2)
    w, z = np.trace(n @ q), np.trace(n @ n @ q)
    angle = min(1 / 8, -w / z) if z < 0 else 1 / 8
    return q + angle * (n @ q + angle / 2 * n @ n @ q)


def spectral(gradients, rate=1e-3, beta1=0.9, beta2=0.95, epsilon=1e-8, tolerance=1e-6,
             cap=0.5) -> Iterator[np.ndarray]:
    sizes = gradients[0].shape
    scale = np.mean(gradients[0] ** 2)
    e = [np.ones(d) for d in sizes]
    q = [np.eye(d) for d in sizes]
    m, speed = 0.0, 1 - beta2
    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        if t > 1:
            p = q[0].T @ g @ q[1]
            grams = [p / e[1] @ p.T / (sizes[1] * scale), p.T / e[0] @ p / (sizes[0] * scale)]
            ratios = [np.diag(gram) / l for gram, l in zip(grams, e)]
            scale *= np.exp(speed * (ratios[0].mean() - 1))
            for i, gram in enumerate(grams):
                gaps = e[i][:, None] - e[i][None, :]
                far = np.tril(np.abs(gaps) > tolerance, -1)
                z = np.where(far, -gram / np.where(far, gaps, 1), 0)
                turn = speed / 2 * (z - z.T)
                turn *= min(1.0, cap / max(np.linalg.norm(turn), 1e-300))
                e[i] = e[i] * np.exp(speed * (ratios[i] - ratios[i].mean()))
                one = np.eye(sizes[i])
                q[i] = q[i] @ (one + turn) @ np.linalg.inv(one - turn)
        u = q[0].T @ (m / (1 - beta1**t)) @ q[1]
        u = u / (np.sqrt(scale * np.outer(e[0], e[1])) + epsilon)
        yield rate * q[0] @ u @ q[1].T


def root_free(gradients, after: bool, rate=1e-3, beta1=0.9, beta2=0.99, epsilon=1e-5,
              batch_size=8) -> Iterator[np.ndarray]:
    m, v = 0.0, 1 / batch_size
    for g in gradients:
        v = beta2 * v + (1 - beta2) * g * g
        scale = batch_size * v + epsilon
        m = beta1 * m + (g / scale if after else (1 - beta1) * g)
        yield rate * (m if after else m / scale)


def psgd_dense(gradients, geometry: str, rate=1e-3, speed=0.1, decay=0.9,
               momentum=0.9) -> Iterator[np.ndarray]:
    count = gradients[0].size
    one = np.eye(count)
    q = np.mean(gradients[0] ** 4) ** (-1 / 8) * one
    m, bound = 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        b = min((t - 1) / t, momentum)
        m = b * m + (1 - b) * g
        if geometry == "eq":
            a, inverse = q @ g.ravel(), np.linalg.inv(q)
            first, second = np.outer(a, a), inverse.T @ inverse
            size = np.linalg.norm(first + second, 2)
        else:
            a = q.T @ q @ g.ravel()
            first, size = np.outer(a, a), a @ a + 1
        bound = max(decay * bound + (1 - decay) * size, size)
        if geometry == "eq":
            q = q - speed / bound * np.triu(first - second) @ q
        else:
            q = psgd_moved(q, first, 1, speed / bound, geometry == "quad")
        u = (q.T @ q @ m.ravel()).reshape(g.shape)
        u = u * min(1.0, 2 / np.sqrt(np.mean(u * u)))
        yield rate * np.clip(u, -10, 10)


def psgd_diagonal(gradients, rate=1e-3, speed=0.1, decay=0.9, momentum=0.9) -> Iterator[np.ndarray]:
    d = np.full(gradients[0].shape, np.mean(gradients[0] ** 4) ** (-1 / 8))
    m, bound = 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        b = min((t - 1) / t, momentum)
        m = b * m + (1 - b) * g
        first, second = (d * g) ** 2, d**-2.0
        size = first.max() + second.max()
        bound = max(decay * bound + (1 - decay) * size, size)
        d = d - speed / bound * (first - second) * d
        u = d * d * m
        u = u * min(1.0, 2 / np.sqrt(np.mean(u * u)))
        yield rate * np.clip(u, -10, 10)


def kl_shampoo(gradients, rate=1e-3, beta1=0.9, beta2=0.95, epsilon=1e-8, interval=10,
               warm=20) -> Iterator[np.ndarray]:
    sizes = gradients[0].shape
    m = 0.0

    def direction(t: int) -> np.ndarray:
        u = q[0].T @ (m / (1 - beta1**t)) @ q[1]
        return rate * q[0] @ (u / (np.sqrt(np.outer(l[0], l[1])) + epsilon)) @ q[1].T

    for t, g in enumerate(gradients, 1):
        m = beta1 * m + (1 - beta1) * g
        if t == 1:
            start = np.sqrt(np.mean(g * g))
            q = [np.eye(d) for d in sizes]
            s = [start * np.eye(d) for d in sizes]
            l = [start * np.ones(d) for d in sizes]
            yield direction(t)
            continue
        yield direction(t)
        b = 1 - (1 - beta2) / (1 - beta2**t)
        p = q[0].T @ g @ q[1]
        halves = [g @ q[1] / np.sqrt(l[1]), g.T @ q[0] / np.sqrt(l[0])]
        samples = [(p**2 / l[1]).mean(1), (p.T**2 / l[0]).mean(1)]
        for i in range(2):
            s[i] = b * s[i] + (1 - b) / sizes[1 - i] * halves[i] @ halves[i].T
            l[i] = b * l[i] + (1 - b) * samples[i]
        mean = np.sqrt(l[0].mean() * l[1].mean())
        for i in range(2):
            balance = mean / l[i].mean()
            s[i], l[i] = s[i] * balance, l[i] * balance
            if t % interval == 0 or t <= warm:
                q[i] = np.linalg.qr(s[i] @ q[i])[0]


METHODS: list[tuple[str, dict[str, str], Callable, float]] = [
    ("adamw", {}, adamw, 1e-3),
    ("muon", {}, muon, 0.02),
    ("sirf-shampoo", {"batch_size": "8"}, sirf, 1e-3),
    ("psgd-kron", {}, lambda g: psgd(g, quad=False), 1e-3),
    ("psgd-kron", {"geometry": "quad"}, lambda g: psgd(g, quad=True), 1e-3),
    ("psgd-dense", {}, lambda g: psgd_dense(g, "q0.5eq1.5"), 1e-3),
    ("psgd-dense", {"geometry": "quad"}, lambda g: psgd_dense(g, "quad"), 1e-3),
    ("psgd-dense", {"geometry": "eq"}, lambda g: psgd_dense(g, "eq"), 1e-3),
    ("psgd-lra", {"rank": "0"}, psgd_diagonal, 1e-3),
    ("rf-adamw", {"batch_size": "8"}, lambda g: root_free(g, after=False), 1e-3),
    ("rf-rmsprop", {"batch_size": "8"}, lambda g: root_free(g, after=True), 1e-3),
    ("spectral-factorized", {}, spectral, 1e-3),
    ("kl-shampoo", {}, kl_shampoo, 1e-3),
    # As many eigenpairs as there are; no epsilon.
    ("spiked-kl-shampoo", {}, lambda g: kl_shampoo(g, epsilon=0), 1e-3),
]
ENTRY_BY_ENTRY = ("adamw", "rf-adamw", "rf-rmsprop")

# Values that must make a difference to what the defaults (or `CONTEXT`) give.
CONTEXT = {"psgd-newton": {"learning_rate": "0.1"}, "spiked-kl-shampoo": {"warm_refresh": "0"}}
PSGD = {"preconditioner_rate": "0.3", "lipschitz_decay": "0.1", "refresh_interval": "3",
        "noise": "0.1", "momentum": "0.5"}
OPTIONS: dict[str, dict[str, str]] = {
    "psgd-kron": {**PSGD, "geometry": "eq", "max_skew": "9"},
    "psgd-dense": {**PSGD, "geometry": "qeq"},
    "psgd-lra": {**PSGD, "rank": "2"},
    "rf-adamw": {"beta1": "0.5", "beta2": "0.5", "epsilon": "0.1", "batch_size": "8"},
    "rf-rmsprop": {"beta1": "0.5", "beta2": "0.5", "epsilon": "0.1", "batch_size": "8"},
    "spiked-kl-shampoo": {"rank": "1", "damping": "0.1", "exponent": "0.25", "debias": "false",
                          "refresh_interval": "3", "warm_refresh": "2"},
    "psgd-newton": {"form": "lra", "preconditioner_rate": "0.3", "refresh_interval": "3",
                    "noise": "0.1", "momentum": "0.5", "clip_norm": "0.01", "geometry": "quad",
                    "max_skew": "0.1", "curvature": "ggn", "weight_decay": "0.1"},
}


class Checker:
    def __init__(self, tool: str) -> None:
        self.tool = tool
        self.counts = {True: 0, False: 0}

    def run(self, *arguments: str) -> None:
        subprocess.run([self.tool, *arguments], check=True, stdout=subprocess.DEVNULL)

    def expect(self, what: str, holds: bool, detail: object = "") -> None:
        self.counts[holds] += 1
        if not holds:
            print(f"FAIL {what} {detail}")

    def trajectories(self, folder: Path) -> None:
        random = np.random.default_rng(0)
        start = {name: random.standard_normal(shape) for name, shape in SHAPES.items()}
        gradients = {name: 0.3 * random.standard_normal((STEPS, *shape))
                     for name, shape in SHAPES.items()}
        np.savez(folder / "start.npz", **start)
        np.savez(folder / "gradients.npz", **gradients)
        for name, options, method, rate in METHODS:
            assignments = [part for item in options.items() for part in
                           ("--option", "=".join(item))]
            self.run("replay", "--optimizer", name, *assignments, "--parameters",
                     str(folder / "start.npz"), "--gradients", str(folder / "gradients.npz"),
                     "--output", str(folder / "values.npz"))
            with np.load(folder / "values.npz") as values:
                for parameter in SHAPES:
                    g = gradients[parameter]
                    if name in ENTRY_BY_ENTRY:
                        steps = method(g)
                    elif as_matrix(g[0]).ndim == 2:
                        steps = method([as_matrix(x) for x in g])
                    else:
                        steps = adamw(g, rate)
                    moved = [step.reshape(g[0].shape) for step in steps]
                    expected = start[parameter] - np.cumsum(moved, axis=0)
                    error = np.abs(values[parameter] - expected).max()
                    self.expect(f"{name} {options} {parameter}", error < TOLERANCE, error)

    def options(self, folder: Path, case: Path) -> None:
        for name, options in OPTIONS.items():
            plain = self.outcome(folder, case, name, {})
            for option, value in options.items():
                changed = self.outcome(folder, case, name, {option: value})
                self.expect(f"{name}: {option} matters", plain != changed)

    def outcome(self, folder: Path, case: Path, name: str, options: dict[str, str]) -> bytes:
        assignments = [part for item in (CONTEXT.get(name, {}) | options).items() for part in
                       ("--option", "=".join(item))]
        if name == "psgd-newton":
            output = folder / "values.safetensors"
            self.run("train", "--model", str(case / "model.pt"), "--inputs",
                     str(case / "inputs.npy"), "--targets", str(case / "targets.npy"),
                     "--optimizer", name, *assignments, "--steps", "5", "--batch-size", "4",
                     "--log", str(folder / "log.jsonl"), "--output", str(output))
            return bytes_of(str(output))
        self.run("replay", "--optimizer", name, *assignments, "--parameters",
                 str(folder / "start.npz"), "--gradients", str(folder / "gradients.npz"),
                 "--output", str(folder / "values.npz"))
        with np.load(folder / "values.npz") as values:
            return b"".join(values[parameter].tobytes() for parameter in SHAPES)

    def resumed_runs(self, folder: Path, case: Path) -> None:
        listing = subprocess.run([self.tool, "optimizers", "--json"], check=True,
                                 capture_output=True, text=True).stdout
        names = [entry["name"] for entry in json.loads(listing)["optimizers"]]
        for name in names:
            common = ["train", "--model", str(case / "model.pt"), "--inputs",
                      str(case / "inputs.npy"), "--targets", str(case / "targets.npy"),
                      "--optimizer", name, "--batch-size", "4", "--batch-order", "shuffled",
                      "--threads", "1", "--dtype", "float32"]
            place = folder / name
            place.mkdir()
            whole, part = place / "whole", place / "part"
            self.run(*common, "--steps", "9", "--log", f"{whole}.jsonl", "--output",
                     f"{whole}.safetensors")
            checkpoint = str(place / "checkpoint")
            self.run(*common, "--steps", "3", "--log", f"{part}.jsonl", "--checkpoint", checkpoint)
            # Twice: what a resumed run saves must be whole as well.
            self.run(*common, "--steps", "6", "--log", f"{part}.jsonl", "--resume", checkpoint,
                     "--checkpoint", checkpoint)
            self.run(*common, "--steps", "9", "--log", f"{part}.jsonl", "--resume", checkpoint,
                     "--output", f"{part}.safetensors")
            self.expect(f"{name}: log", log_of(f"{whole}.jsonl") == log_of(f"{part}.jsonl"))
            self.expect(f"{name}: weights",
                        bytes_of(f"{whole}.safetensors") == bytes_of(f"{part}.safetensors"))


def log_of(name: str) -> list[dict]:
    rows = [json.loads(line) for line in Path(name).read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def bytes_of(name: str) -> bytes:
    """The numbers of a safetensors file, without its header."""
    content = Path(name).read_bytes()
    return content[8 + int.from_bytes(content[:8], "little"):]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tool", required=True)
    parser.add_argument("--cases", required=True, type=Path)
    arguments = parser.parse_args()
    checker = Checker(arguments.tool)
    with tempfile.TemporaryDirectory() as folder:
        checker.trajectories(Path(folder))
        checker.options(Path(folder), arguments.cases / "mlp-gelu-ce-mean")
        checker.resumed_runs(Path(folder), arguments.cases / "mlp-gelu-ce-mean")
    print(f"{checker.counts[True]} passed, {checker.counts[False]} failed")
    return 0 if checker.counts[True] and not checker.counts[False] else 1


if __name__ == "__main__":
    sys.exit(main())
