"""Train a network on fresh simulations: one compiled piece of many optimiser steps after another."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from probinf.errors import ArgumentError, InferenceError
from probinf.random import as_key
from probinf.runs import Checkpoint, Loop, drive
from transformers_gmm.config import TrainingConfig
from transformers_gmm.task import AbstractTask

_SHARE = "share"  # the axis of devices
_HELD_OUT = 2**31 - 1  # folded into the seed: held-out problems are never trained on


class Training(Loop):
    """A run of `train`: its state is whole after every piece of `every` steps.

    On several devices each simulates and differentiates its share of the batch, and gradients are averaged.

    Attributes:
        losses: mean loss of each piece of steps finished so far, nats.
        held_out: loss on the same held-out problems after each piece, nats.
    """

    label = "train"
    unit = "step"

    def __init__(
        self,
        task: AbstractTask,
        config: TrainingConfig,
        network: nnx.Module,
        *,
        every: int = 100,
        devices: Sequence[Any] | None = None,
    ) -> None:
        self.task, self.config, self.every = task, config, min(every, config.steps)
        self.num_devices = 1 if devices is None else len(devices)
        if self.num_devices == 0:
            raise ArgumentError("devices: expected at least one device, found none.")
        if config.batch % (self.num_devices * task.updates):
            shares = f"{self.num_devices} devices x {task.updates} updates of a batch"
            raise ArgumentError(f"batch {config.batch} is no multiple of {shares}, which share it evenly.")
        self.rows = []
        self.steps_done = 0
        self._definition, self.weights = nnx.split(network, nnx.Param)
        key = as_key(config.seed, argument="seed")
        self._key = jax.random.fold_in(key, 1)
        self.updates = task.updates
        self.optimiser = optax.chain(optax.clip_by_global_norm(config.clip), optax.scale_by_adam())
        self.moments = self.optimiser.init(self.weights)
        self.best, self.best_loss = self.weights, jnp.asarray(jnp.inf, jnp.float32)
        self._held_out_key = jax.random.fold_in(key, _HELD_OUT)
        self._piece = jax.jit(self._on_devices(devices), static_argnums=4, donate_argnums=(0, 1))

    @property
    def done(self) -> int:
        return self.steps_done

    @property
    def total(self) -> int:
        return self.config.steps

    @property
    def is_finished(self) -> bool:
        return self.steps_done >= self.config.steps

    def start(self) -> None:
        """Nothing comes before the first piece."""

    def advance(self) -> Mapping[str, Any]:
        count = min(self.every, self.config.steps - self.steps_done)
        weights = jax.tree.map(jnp.copy, self.weights)
        self.weights, self.moments, loss, held_out = self._piece(
            weights, self.moments, jnp.asarray(self.steps_done), jnp.asarray(self.config.steps), count
        )
        self.steps_done += count
        if not np.isfinite(float(held_out)):
            error = InferenceError(
                f"Training of {self.task.name!r} ran away: after step {self.steps_done} of {self.config.steps} the "
                f"held-out loss is {float(held_out)}. Lower learning_rate, now {self.config.learning_rate:g}, or train "
                "in larger batches. The network of the lowest loss so far is `.partial.network()` of this error."
            )
            error.partial = self
            raise error
        if float(held_out) < float(self.best_loss):
            self.best, self.best_loss = self.weights, held_out
        row = {"loss": np.asarray(loss)[None], "held_out": np.asarray(held_out)[None]}
        self.rows.append(row)
        return {"loss": float(loss), "held out": float(held_out)}

    def _on_devices(self, devices: Sequence[Any] | None) -> Any:
        if devices is None:
            return self._run_piece
        mesh, same = Mesh(np.array(devices), (_SHARE,)), PartitionSpec()

        def run(weights: Any, moments: Any, first: jax.Array, total: jax.Array, count: int) -> Any:
            piece = functools.partial(self._run_piece, count=count)
            shared = jax.shard_map(piece, mesh=mesh, in_specs=same, out_specs=same, check_vma=False)
            return shared(weights, moments, first, total)

        return run

    def _run_piece(self, weights: Any, moments: Any, first: jax.Array, total: jax.Array, count: int) -> Any:
        def loss_of(weights, piece):
            return self.task.loss(self._merged(weights), piece)

        def update(state, given):
            weights, moments = state
            piece, done = given
            loss, gradient = self._averaged(jax.value_and_grad(loss_of)(weights, piece))
            # One impossible example would otherwise end the run: such a step is left out.
            sound = jnp.all(jnp.array([jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(gradient)]))
            gradient = jax.tree.map(lambda g: jnp.where(sound, g, 0), gradient)
            change, moments = self.optimiser.update(gradient, moments, weights)
            rate = learning_rate(self.config, done / total.astype(jnp.float32))
            change = jax.tree.map(lambda c: -rate * c, change)
            return (optax.apply_updates(weights, change), moments), loss

        def step(state, number):
            examples = self._simulated(jax.random.fold_in(self._key, number))
            pieces = self.task.pieces(self._merged(state[0]), examples)
            updates = jnp.arange(self.updates, dtype=jnp.float32)
            done = number.astype(jnp.float32) + updates / self.updates
            state, losses = jax.lax.scan(update, state, (pieces, done))
            return state, jnp.mean(losses)

        (weights, moments), losses = jax.lax.scan(step, (weights, moments), first + jnp.arange(count))
        return weights, moments, jnp.nanmean(losses), self._held_out_loss(weights)

    def _held_out_loss(self, weights: Any) -> jax.Array:
        """In full precision: that of the network that is kept."""
        network = nnx.merge(self._definition, weights)
        pieces = self.task.pieces(network, self._simulated(self._held_out_key))
        return self._averaged(jnp.mean(jax.lax.map(lambda piece: self.task.loss(network, piece), pieces)))

    def _merged(self, weights: Any) -> Any:
        if self.config.precision == "bfloat16":  # a network computes in the precision of its weights
            weights = jax.tree.map(lambda w: w.astype(jnp.bfloat16), weights)
        return nnx.merge(self._definition, weights)

    def _simulated(self, key: jax.Array) -> Any:
        """This device's share of a batch."""
        if self.num_devices > 1:
            key = jax.random.fold_in(key, jax.lax.axis_index(_SHARE))
        return self.task.simulate(key, self.config.batch // self.num_devices)

    def _averaged(self, values: Any) -> Any:
        return jax.lax.pmean(values, _SHARE) if self.num_devices > 1 else values

    def state(self) -> Mapping[str, np.ndarray]:
        whole = (self.weights, self.moments, self.best, self.best_loss)
        leaves = jax.tree.leaves(whole)
        return {"step": np.asarray(self.steps_done)} | {f"leaf{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}

    def restore(self, state: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        whole = (self.weights, self.moments, self.best, self.best_loss)
        leaves, structure = jax.tree.flatten(whole)
        saved = [jnp.asarray(state[f"leaf{i}"]) for i in range(len(leaves))]
        self.weights, self.moments, self.best, self.best_loss = jax.tree.unflatten(structure, saved)
        self.steps_done, self.rows = int(state["step"]), list(rows)

    def network(self, which: str = "best") -> Any:
        """The network with the weights of the lowest held-out loss ("best") or of the last step ("last")."""
        return nnx.merge(self._definition, self.best if which == "best" else self.weights)

    @property
    def losses(self) -> np.ndarray:
        return np.concatenate([row["loss"] for row in self.rows]) if self.rows else np.zeros(0)

    @property
    def held_out(self) -> np.ndarray:
        return np.concatenate([row["held_out"] for row in self.rows]) if self.rows else np.zeros(0)


def train(
    task: AbstractTask,
    config: TrainingConfig | None = None,
    *,
    network: nnx.Module | None = None,
    checkpoint: str | Checkpoint | None = None,
    progress: bool = True,
    devices: Sequence[Any] | None = None,
) -> Training:
    """Train a network for a task; Ctrl-C ends early with what is done.

    Args:
        task: the source of problems.
        config: how to train; the task's own settings if left out.
        network: where to start from; a fresh one of the task's sizes if left out.
        checkpoint: a folder in which to keep the state; a run found there goes on, bit for bit.
        progress: show a bar where stderr is a terminal.
        devices: that share every batch, `jax.devices()` for all; the default device alone if left out. Their number
            belongs to the run: another one draws other problems.

    Returns:
        The finished run: `run.network()`, `run.losses`, `run.held_out`.

    Raises:
        ArgumentError: no device, or a batch that devices and updates cannot share evenly.
        InferenceError: the held-out loss is not finite; the run so far is on `.partial`.
    """
    config = task.training if config is None else config
    network = task.network(nnx.Rngs(config.seed)) if network is None else network
    loop = Training(task, config, network, devices=devices)
    store = Checkpoint(checkpoint) if isinstance(checkpoint, str) else checkpoint
    drive(
        loop,
        progress=progress,
        checkpoint=store,
        fingerprint=lambda: {
            "task": repr(task),
            "training": repr(config),
            "network": repr(task.config),
            "devices": str(loop.num_devices),
        },
    )
    return loop


def learning_rate(config: TrainingConfig, share: jax.Array) -> jax.Array:
    """At a share of the run in [0, 1]: a line up to the peak, then half a cosine down to zero."""
    up = share / max(config.warm_up, 1e-9)
    down = 0.5 * (1 + jnp.cos(jnp.pi * (share - config.warm_up) / (1 - config.warm_up)))
    return config.learning_rate * jnp.where(share < config.warm_up, up, down)
