#!/usr/bin/env python3
"""Compares the tool with PyTorch on small, randomly initialised models of the package transformers.

    python3 tests/models/huggingface.py build/release/curvature

Needs torch, numpy and transformers (5.x here), which the build does not install; so CTest does not run it.
Each model is traced behind a wrapper that returns the logits. Gradient and Hessian product come
once from the tool and once from double backward in Python, in float32.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

TOLERANCE = 1e-5  # float32


class Logits(torch.nn.Module):
    """Takes tensors in order, returns one tensor: what the tool expects of `forward`."""

    def __init__(self, model: torch.nn.Module, first: str) -> None:
        super().__init__()
        self.model, self.first = model, first

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        extra = {} if mask is None else {"attention_mask": mask}
        return self.model(**{self.first: x}, **extra).logits


def cases() -> dict[str, tuple[torch.nn.Module, str, list[Tensor], Tensor]]:
    tokens, images = torch.randint(0, 50, (6, 7)), torch.randn(6, 3, 32, 32)
    mask = torch.ones_like(tokens)
    mask[2, 5:] = 0
    successors, classes = torch.randint(0, 50, (6, 7)), torch.randint(0, 4, (6,))
    encoder = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
               "intermediate_size": 32}
    text = {**encoder, "vocab_size": 50, "max_position_embeddings": 16}
    t = transformers
    return {
        "gpt2": (t.GPT2LMHeadModel(t.GPT2Config(
            vocab_size=50, n_positions=16, n_embd=16, n_layer=2, n_head=2)),
            "input_ids", [tokens, mask], successors),
        "bert": (t.BertForSequenceClassification(t.BertConfig(**text, num_labels=4)),
                 "input_ids", [tokens, mask], classes),
        "llama": (t.LlamaForCausalLM(t.LlamaConfig(**text, num_key_value_heads=1)),
                  "input_ids", [tokens], successors),
        "mamba": (t.MambaForCausalLM(t.MambaConfig(
            vocab_size=50, hidden_size=8, state_size=4, num_hidden_layers=1)),
            "input_ids", [tokens], successors),
        "vit": (t.ViTForImageClassification(t.ViTConfig(
            **encoder, image_size=32, patch_size=8, num_labels=4)),
            "pixel_values", [images], classes),
        "resnet": (t.ResNetForImageClassification(t.ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic",
            num_labels=4)), "pixel_values", [images], classes),
    }


def flat(parts: list[Tensor | None], parameters: list[Tensor]) -> Tensor:
    filled = [torch.zeros_like(p) if g is None else g for g, p in zip(parts, parameters)]
    return torch.cat([part.detach().reshape(-1) for part in filled])


def by_pytorch(model: Logits, inputs: list[Tensor], targets: Tensor) -> tuple[Tensor, ...]:
    """A random vector, the gradient and the Hessian times the vector."""
    parameters = list(model.parameters())
    with sdpa_kernel(SDPBackend.MATH):
        logits = model(*inputs)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
    gradient = torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True)
    vector = [torch.randn_like(p) for p in parameters]
    inner = sum((g * v).sum() for g, v in zip(gradient, vector) if g is not None)
    product = torch.autograd.grad(inner, parameters, allow_unused=True)
    return tuple(flat(list(part), parameters) for part in (vector, gradient, product))


def by_tool(tool: str, folder: Path, command: list[str], num_inputs: int) -> Tensor:
    problem = ["--model", folder / "model.pt", "--targets", folder / "targets.npy"]
    for i in range(num_inputs):
        problem += ["--inputs", folder / f"inputs{i}.npy"]
    output = folder / "output.npy"
    subprocess.run([tool, *command, *problem, "--output", output], check=True,
                   stdout=subprocess.DEVNULL)
    return torch.from_numpy(np.load(output))


def check(tool: str, folder: Path, model: Logits, inputs: list[Tensor], targets: Tensor) -> float:
    """The larger relative error of gradient and Hessian product."""
    torch.jit.trace(model, tuple(inputs), check_trace=False).save(folder / "model.pt")
    vector, gradient, product = by_pytorch(model, inputs, targets)
    for i, tensor in enumerate(inputs):
        np.save(folder / f"inputs{i}.npy", tensor.numpy())
    np.save(folder / "targets.npy", targets.numpy())
    np.save(folder / "vector.npy", vector.numpy())
    apply = ["apply", "--operator", "hessian", "--vectors", folder / "vector.npy"]
    errors = [
        (by_tool(tool, folder, command, len(inputs)) - expected).norm() / expected.norm()
        for command, expected in ((["gradient"], gradient), (apply, product))
    ]
    return max(error.item() for error in errors)


def main() -> int:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    failed = 0
    for name, (model, first, inputs, targets) in cases().items():
        with tempfile.TemporaryDirectory() as folder:
            error = check(sys.argv[1], Path(folder), Logits(model, first).eval(), inputs, targets)
        failed += error > TOLERANCE
        print(f"{name:8s} relative error {error:.1e}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
