"""Settings of networks and of their training, as plain data that a checkpoint carries in its header."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from probinf.errors import ArgumentError, UnknownNameError

PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a network.

    Attributes:
        dim: D, latents in the unconstrained space.
        num_components: K of the answer.
        context: source -> width of its tokens.
        token_features: F, further features of each component.
        width, heads, layers, feedforward: of the decoder; `width` is a multiple of `heads`.
        by_rank: tell components apart by their rank in weight, so that equal ones can part ways. The answer then does
            not depend on the order of the components (they are sorted); without it, it is equivariant.
        prior_parameters: latent -> number of its prior's parameters, where the prior is no Gaussian mixture
            (`DistributionTransformer` only).
    """

    dim: int
    num_components: int
    context: Mapping[str, int]
    token_features: int = 0
    width: int = 64
    heads: int = 4
    layers: int = 3
    feedforward: int = 128
    by_rank: bool = True
    prior_parameters: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def __post_init__(self) -> None:
        for name in ("dim", "num_components", "width", "heads", "layers", "feedforward"):
            if getattr(self, name) < 1:
                raise ArgumentError(f"{name}: expected a positive integer, found {getattr(self, name)}.")
        if self.width % self.heads:
            raise ArgumentError(f"heads: expected a divisor of width {self.width}, found {self.heads}.")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)} | {
            "context": dict(self.context),
            "prior_parameters": dict(self.prior_parameters),
        }


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained: Adam, a linear warm-up over the first part of the steps, then a half cosine to zero.

    Attributes:
        steps: optimiser steps.
        batch: problems per step.
        learning_rate: at its peak.
        warm_up: share of the steps before the peak.
        clip: largest global norm of a gradient; longer ones are scaled down.
        seed: of the initial weights and of the simulations.
        precision: "float32", or "bfloat16" for the network's products; weights, moments, bases and the loss stay in
            float32. Pays on accelerators with units for it.
    """

    steps: int = 10_000
    batch: int = 1024
    learning_rate: float = 1e-3
    warm_up: float = 0.05
    clip: float = 1.0
    seed: int = 0
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UnknownNameError(self.precision, PRECISIONS, "precision", "TrainingConfig")
        for name in ("steps", "batch", "learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ArgumentError(f"{name}: expected a positive number, found {getattr(self, name)}.")
        if not 0 <= self.warm_up < 1:
            raise ArgumentError(f"warm_up: expected a share in [0, 1), found {self.warm_up}.")
