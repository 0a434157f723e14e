"""Adapters of the reference: every adapted weight of a transformers model is computed as W + alpha / rank * B A."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.utils import parametrize

RANK, ALPHA = 4, 6.0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
FILE = "adapters.safetensors"


class _Sum(torch.nn.Module):
    """Adds a product to a weight."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Parameter(first), torch.nn.Parameter(second)

    def forward(self, weight: Tensor) -> Tensor:
        return weight + ALPHA / RANK * self.second @ self.first


def save_adapters(directory: Path, model: torch.nn.Module) -> None:
    """Draws A and B of every linear layer of the model, neither of them zero, and writes them beside it."""
    drawn: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name.endswith(TARGETS):
            outputs, inputs = module.weight.shape
            drawn[f"base_model.model.{name}.lora_A.weight"] = torch.randn(RANK, inputs) / inputs**0.5
            drawn[f"base_model.model.{name}.lora_B.weight"] = torch.randn(outputs, RANK) * 0.3
    save_file(drawn, directory / FILE)


def adapt(directory: Path, model: Any, targets: tuple[str, ...]) -> dict[str, torch.nn.Parameter]:
    """Adds the products to the weights that ``targets`` name; returns their matrices, all that is trained, by name."""
    drawn, found = load_file(directory / FILE), {}
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name.endswith(targets):
            first, second = (f"base_model.model.{name}.lora_{letter}.weight" for letter in "AB")
            added = _Sum(drawn[first].double(), drawn[second].double())
            parametrize.register_parametrization(module, "weight", added)
            found |= {first: added.first, second: added.second}
    return found
