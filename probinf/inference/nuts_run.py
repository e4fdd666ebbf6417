"""The No-U-Turn sampler on the chains of one model: what the host loop advances."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.inference.posterior import Posterior
from probinf.inference.sampling_loop import Phase, SamplingLoop
from probinf.inference.starts import StartPrograms, find_starts, search
from probinf.kernels.adaptation import Metric, apply_scale, warmup_segments
from probinf.kernels.banded import BandedScale
from probinf.kernels.chains import ChainMethod, ChainPrograms, States, cached, counted
from probinf.kernels.flat import FlatLayout
from probinf.kernels.laplace import CurvaturePrograms, find_mode
from probinf.kernels.nuts import Draws, Geometry
from probinf.kernels.whitening import Whitener, unwhiten
from probinf.runs.loop import Arrays
from probinf.runs.trees import packed, shapes, unpacked

CAPACITY = 250  # rows of one compiled piece
_POINTS_PER_CHAIN = 2  # positions in each chain whose curvature is averaged for the Laplace metric
_LAPLACE_PHASES = (0.1, 0.15, 0.25)  # shares of warm-up after which the Laplace metric is renewed


class ModelPrograms:
    """Everything compiled for one model and number of chains."""

    def __init__(
        self, target: Any, num_chains: int, metric: Metric, max_tree_depth: int, method: ChainMethod, generator: str
    ) -> None:
        layout = FlatLayout(target.position_shapes)

        def logdensity(operands: Any, x: jax.Array) -> jax.Array:
            return target.logdensity(operands, layout.unravel(x)).astype(layout.dtype)

        def constrain(operands: Any, x: jax.Array) -> dict[str, jax.Array]:
            return target.constrain(operands, layout.unravel(x))

        self.layout = layout
        self.starts = StartPrograms(target, layout)
        self.curvature = CurvaturePrograms(logdensity)
        self.whitener = Whitener(self.curvature)
        self.constrain = counted(jax.vmap(constrain, in_axes=(None, 0)))
        self.metric: Metric = metric
        self._chains: dict[Any, ChainPrograms] = {}
        self._build = functools.partial(
            ChainPrograms, logdensity, layout.dim, num_chains, metric, max_tree_depth, CAPACITY, method, generator
        )

    def chains(self, geometry: Geometry) -> ChainPrograms:
        """The chain programs for a geometry: one for each form of the scale (none, full, a band)."""
        form = tuple(np.shape(leaf) for leaf in jax.tree.leaves(geometry.scale))
        if form not in self._chains:
            self._chains[form] = self._build()
        return self._chains[form]


def programs_for(
    target: Any,
    operands: Any,
    num_chains: int,
    metric: Metric,
    max_tree_depth: int,
    method: ChainMethod,
    generator: str,
) -> ModelPrograms:
    """The programs of a target from the cache, or new ones: neither data nor seed nor lengths are part of the key."""
    described = tuple((np.shape(leaf), str(jnp.result_type(leaf))) for leaf in jax.tree.leaves(operands))
    dtype = jnp.zeros(()).dtype
    settings = (num_chains, metric, max_tree_depth, method, dtype, generator)
    key = (target.signature, jax.tree.structure(operands), described, settings)
    return cached(key, lambda: ModelPrograms(target, num_chains, metric, max_tree_depth, method, generator))


class NUTSLoop(SamplingLoop):
    """The No-U-Turn sampler on all chains of one model.

    Args:
        method: the settings, a `NUTS`.
        target: the model on unconstrained space.
        key: one key for the whole run.
    """

    step_axis = 1

    def __init__(self, method: Any, target: Any, key: jax.Array) -> None:
        plan = laplace_plan(method.warmup) if method.metric == "fixed" else stan_plan(method.warmup, method.metric)
        super().__init__(
            f"NUTS, {method.num_chains} chains", CAPACITY, plan, int(method.num_draws), int(method.thinning)
        )
        self.method, self.target = method, target
        self.operands = jax.tree.map(jnp.asarray, target.operands)
        settings = (int(method.num_chains), method.metric, int(method.max_tree_depth), method.chain_method)
        self.programs = programs_for(target, self.operands, *settings, str(jax.random.key_impl(key)))
        layout = self.programs.layout
        self.geometry = Geometry(jnp.zeros(layout.dim, layout.dtype), jnp.zeros(0, layout.dtype))
        self.states: States = []
        self.is_repaired = False  # the last curvature of the Laplace metric was not positive definite
        self._key_start, self._key_mode, key_chains = jax.random.split(key, 3)
        self.keys = list(jax.random.split(key_chains, int(method.num_chains)))

    @property
    def chains(self) -> ChainPrograms:
        """The compiled chains for the present geometry."""
        return self.programs.chains(self.geometry)

    def start(self) -> None:
        if self.states:
            return
        programs, method = self.programs, self.method
        starts = find_starts(
            programs.starts,
            self.target,
            programs.layout,
            self.operands,
            self._key_start,
            int(method.num_chains),
            method.init,
        )
        z = jnp.asarray(starts)
        if method.metric == "fixed":
            self.geometry, z = laplace_geometry(programs, self.target, self.operands, self._key_mode, starts)
        self.states = self.chains.start(self.operands, self.geometry, z)

    def take(self, num_steps: int, phase: Phase, *, is_last: bool) -> Draws:
        self.states, draws = self.chains.advance(
            self.operands,
            self.geometry,
            self.states,
            self.keys,
            target_acceptance=float(self.method.target_acceptance),
            first_step=self.next_step,
            num_steps=num_steps,
            is_adapting=phase.is_adapting,
            is_collecting=phase.is_collecting,
        )
        return draws

    def end_phase(self, phase: Phase) -> None:
        if phase.renews:
            self.states = self.chains.renew(self.operands, self.geometry, self.states)
        if phase.is_kept:
            x = self.collected_rows(Draws).x
            when = np.linspace(phase.num_steps // 2, phase.num_steps - 1, _POINTS_PER_CHAIN).astype(int)
            self._renew_geometry(x[:, when].reshape(-1, x.shape[-1]), x[:, -1])
            self.collected = []

    def _renew_geometry(self, points: np.ndarray, last: np.ndarray) -> None:
        """Coordinates from the mean curvature at `points`, the chains at `last`; unchanged where it is not finite."""
        whitener, shift, dtype = self.programs.whitener, self.geometry.shift, self.geometry.shift.dtype
        precisions = [whitener.precision(self.operands, x, dtype) for x in points]
        precisions = [precision for precision in precisions if np.isfinite(precision).all()]
        if not precisions:
            return
        scale, self.is_repaired = whitener.scale(np.mean(precisions, axis=0), dtype)
        z = unwhiten(scale, last.astype(np.float64) - np.asarray(shift, np.float64)[None, :])
        self.geometry = Geometry(shift, scale)
        self.states = self.chains.start(self.operands, self.geometry, jnp.asarray(z, dtype))

    def constrain(self, x: np.ndarray, keep: Sequence[str] | None) -> dict[str, np.ndarray]:
        """Latent and deterministic values at positions (chains, draws, dim), in blocks of one compiled size."""
        return constrain_in_blocks(self.programs.constrain, self.operands, x, keep, CAPACITY)

    def posterior(self) -> Posterior:
        draws = self.drawn(Draws)
        how = "native" if self.chains.is_native else "vectorized"
        return self.method.posterior_of(self, draws, self.constrain(np.asarray(draws.x), self.method.keep), how)

    def state(self) -> dict[str, np.ndarray]:
        return {
            "shift": np.asarray(self.geometry.shift),
            "next_step": np.asarray(self.next_step),
            "is_repaired": np.asarray(self.is_repaired),
            **packed(jnp.stack(self.keys), "keys"),
            **packed(self.chains.gather(self.states), "state"),
            **packed(self.geometry.scale, "scale"),
            **self.collected_state(Draws),
        }

    def restore(self, state: Arrays, rows: Sequence[Arrays]) -> None:
        layout = self.programs.layout
        leaves = unpacked([0] * len(shapes(state, "scale")), state, "scale")
        scale = leaves[0] if len(leaves) == 1 else BandedScale(*leaves)
        self.geometry = Geometry(jnp.asarray(state["shift"], layout.dtype), scale)
        self.keys = list(unpacked(0, state, "keys"))
        zeros = jnp.zeros((len(self.keys), layout.dim), layout.dtype)
        template = self.chains.gather(self.chains.start(self.operands, self.geometry, zeros))
        self.states = self.chains.scatter(jax.tree.map(np.asarray, unpacked(template, state, "state")))
        self.next_step, self.is_repaired = int(state["next_step"]), bool(state["is_repaired"])
        self.rows = list(rows)
        self.restore_collected(Draws, state)


def stan_plan(num_warmup: int, metric: Metric) -> list[Phase]:
    """Stan's warm-up schedule."""
    return [
        Phase(segment.num_steps, is_collecting=segment.is_collecting, renews=segment.renews)
        for segment in warmup_segments(num_warmup, metric)
    ]


def laplace_plan(num_warmup: int) -> list[Phase]:
    """Adapt the step size; three times on the way, take the curvature from where the chains are.

    The mean of -∇² log p over the posterior is the precision that matters where the density is not Gaussian: at a mode
    the noise levels of a model are often far from typical, and a mode may not even exist.
    """
    lengths = [int(share * num_warmup) for share in _LAPLACE_PHASES]
    if min(lengths) < _POINTS_PER_CHAIN:
        lengths = []
    phases = [Phase(length, is_kept=True) for length in lengths] + [Phase(num_warmup - sum(lengths))]
    return [phase for phase in phases if phase.num_steps]


def constrain_in_blocks(
    constrain: Any, operands: Any, x: np.ndarray, keep: Sequence[str] | None, size: int
) -> dict[str, np.ndarray]:
    """Values at positions (chains, draws, dim), `size` positions at a time, so that one compiled program serves all."""
    chains, draws, dim = x.shape
    flat = x.reshape(chains * draws, dim)
    blocks: dict[str, list[np.ndarray]] = {}
    for start in range(0, flat.shape[0], size):
        block = flat[start : start + size]
        padded = np.concatenate([block, np.broadcast_to(block[-1:], (size - block.shape[0], dim))])
        for name, value in constrain(operands, jnp.asarray(padded)).items():
            if keep is None or name in keep:
                blocks.setdefault(name, []).append(np.asarray(value)[: block.shape[0]])
    joined = {name: np.concatenate(values) for name, values in blocks.items()}
    return {name: value.reshape(chains, draws, *value.shape[1:]) for name, value in joined.items()}


def laplace_geometry(
    programs: ModelPrograms, target: Any, operands: Any, key: jax.Array, starts: np.ndarray
) -> tuple[Geometry, jax.Array]:
    """Coordinates at the mode found from the first start, and whitened chain starts from N(mode, precision⁻¹).

    Without a mode (a density that grows without bound, as that of a centred hierarchy may) the chains begin at the
    starts, in coordinates of the mean curvature there, and warm-up finds better ones.
    """
    dtype, whitener = programs.layout.dtype, programs.whitener
    whitener.learn(operands, starts[:2], dtype)
    mode = find_mode(
        programs.curvature,
        lambda x: whitener.precision(operands, x, dtype),
        operands,
        jnp.asarray(starts[0], dtype),
    )
    if not mode.is_converged:
        shift = np.mean(starts, axis=0)
        scale, _ = whitener.scale(np.mean([whitener.precision(operands, x, dtype) for x in starts], axis=0), dtype)
        return Geometry(jnp.asarray(shift, dtype), scale), jnp.asarray(unwhiten(scale, starts - shift[None, :]), dtype)
    scale, _ = whitener.scale(mode.precision, dtype)
    shift, tries = jnp.asarray(mode.x, dtype), 0

    def draw(key: jax.Array) -> jax.Array:
        nonlocal tries
        # Shrinking towards the mode, which is legal: the search ends.
        z = 0.9**tries * jax.random.normal(key, starts.shape, dtype)
        tries += 1
        return shift[None, :] + jax.vmap(apply_scale, in_axes=(None, 0))(scale, z)

    x = search(programs.starts, target, programs.layout, operands, key, draw, "draws around the mode")
    return Geometry(shift, scale), jnp.asarray(unwhiten(scale, x - mode.x[None, :]), dtype)
