"""One run of the No-U-Turn sampler: the host loop around compiled pieces."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probinf.inference.starts import StartPrograms, search
from probinf.kernels.adaptation import Metric, apply_scale, warmup_segments
from probinf.kernels.banded import BandedScale
from probinf.kernels.chains import ChainMethod, ChainPrograms, States, cached, counted
from probinf.kernels.flat import FlatLayout
from probinf.kernels.laplace import CurvaturePrograms, find_mode
from probinf.kernels.nuts import Draws, Geometry
from probinf.kernels.whitening import Whitener, unwhiten
from probinf.progress import Progress

CAPACITY = 250  # rows of one compiled piece
_FIRST_PIECE = 10  # steps: early trees can be long
_SECONDS_PER_PIECE = 0.5  # how often the bar moves, and how long an interrupt waits
_POINTS_PER_CHAIN = 2  # positions in each chain whose curvature is averaged for the Laplace metric
_LAPLACE_PHASES = (0.1, 0.15, 0.25)  # shares of warm-up after which the Laplace metric is renewed


class ModelPrograms:
    """Everything compiled for one model and number of chains."""

    def __init__(self, target: Any, num_chains: int, metric: Metric, max_tree_depth: int, method: ChainMethod) -> None:
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
            ChainPrograms, logdensity, layout.dim, num_chains, metric, max_tree_depth, CAPACITY, method
        )

    def chains(self, geometry: Geometry) -> ChainPrograms:
        """The chain programs for a geometry: one for each form of the scale (none, full, a band)."""
        form = tuple(np.shape(leaf) for leaf in jax.tree.leaves(geometry.scale))
        if form not in self._chains:
            self._chains[form] = self._build()
        return self._chains[form]


def programs_for(
    target: Any, operands: Any, num_chains: int, metric: Metric, max_tree_depth: int, method: ChainMethod
) -> ModelPrograms:
    """The programs of a target from the cache, or new ones: neither data nor seed nor lengths are part of the key."""
    described = tuple((np.shape(leaf), str(jnp.result_type(leaf))) for leaf in jax.tree.leaves(operands))
    dtype = jnp.zeros(()).dtype
    settings = (num_chains, metric, max_tree_depth, method, dtype)
    key = (target.signature, jax.tree.structure(operands), described, settings)
    return cached(key, lambda: ModelPrograms(target, num_chains, metric, max_tree_depth, method))


@dataclasses.dataclass
class Run:
    """The state of a run; `warm_up` and `draw` may be interrupted and leave it whole.

    Attributes:
        next_step: steps taken by every chain since its start, which is also the number of the next step's randomness.
        is_interrupted: Ctrl-C arrived while drawing.
        notes: reasons for caution.
        is_repaired: the last curvature of the Laplace metric was not positive definite.
    """

    programs: ModelPrograms
    operands: Any
    keys: list[jax.Array]
    target_acceptance: float
    geometry: Geometry
    states: States = dataclasses.field(default_factory=list)
    next_step: int = 0
    is_interrupted: bool = False
    notes: list[str] = dataclasses.field(default_factory=list)
    is_repaired: bool = False
    _seconds_per_step: float | None = None

    @property
    def chains(self) -> ChainPrograms:
        """The compiled chains for the present geometry."""
        return self.programs.chains(self.geometry)

    def _advance(self, num_steps: int, bar: Progress | None, **flags: bool) -> Iterator[Draws]:
        """Take steps in pieces short enough to show progress and to hear an interrupt."""
        left = num_steps
        while left:
            pace = self._seconds_per_step
            wanted = _FIRST_PIECE if pace is None else int(_SECONDS_PER_PIECE / max(pace, 1e-9))
            size = max(1, min(left, wanted, CAPACITY))
            started = time.perf_counter()
            self.states, draws = self.chains.advance(
                self.operands,
                self.geometry,
                self.states,
                self.keys,
                target_acceptance=self.target_acceptance,
                first_step=self.next_step,
                num_steps=size,
                **flags,
            )
            self._seconds_per_step = (time.perf_counter() - started) / size
            self.next_step += size
            left -= size
            if bar is not None:
                bar.update(size, step_size=float(draws.step_size[:, -1].mean()), divergences=int(draws.diverging.sum()))
            yield draws

    def warm_up(self, z: jax.Array, num_warmup: int, bar: Progress | None) -> None:
        """Start the chains at z and adapt step size and scale (Stan's schedule)."""
        chains = self.chains
        self.states = chains.start(self.operands, self.geometry, z)
        for segment in warmup_segments(num_warmup, self.programs.metric):
            for _ in self._advance(segment.num_steps, bar, is_adapting=True, is_collecting=segment.is_collecting):
                pass
            if segment.renews:
                self.states = chains.renew(self.operands, self.geometry, self.states)

    def warm_up_laplace(self, z: jax.Array, num_warmup: int, bar: Progress | None) -> None:
        """Adapt the step size; three times on the way, take the curvature from where the chains are.

        The mean of -∇² log p over the posterior is the precision that matters where the density is not Gaussian: at a
        mode the noise levels of a model are often far from typical, and a mode may not even exist.
        """
        self.states = self.chains.start(self.operands, self.geometry, z)
        lengths = [int(share * num_warmup) for share in _LAPLACE_PHASES]
        if min(lengths) < _POINTS_PER_CHAIN:
            lengths = []
        for length in lengths:
            draws = list(self._advance(length, bar, is_adapting=True))
            x = np.concatenate([piece.x for piece in draws], axis=1)
            when = np.linspace(length // 2, length - 1, _POINTS_PER_CHAIN).astype(int)
            self._renew_geometry(x[:, when].reshape(-1, x.shape[-1]), x[:, -1])
        for _ in self._advance(num_warmup - sum(lengths), bar, is_adapting=True):
            pass

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

    def draw(self, num_draws: int, thinning: int, bar: Progress | None) -> Draws | None:
        """Take `num_draws` steps and keep every `thinning`-th; None if interrupted before the first kept one."""
        kept, taken = [], 0
        try:
            for piece in self._advance(num_draws, bar):
                size = piece.lp.shape[1]
                index = np.arange((-taken - 1) % thinning, size, thinning)
                taken += size
                # A copy: a view would keep the whole piece alive.
                kept.append(jax.tree.map(lambda rows, index=index: rows[:, index], piece))
        except KeyboardInterrupt:
            self.is_interrupted = True
        if sum(piece.lp.shape[1] for piece in kept) == 0:
            return None
        return jax.tree.map(lambda *pieces: np.concatenate(pieces, axis=1), *kept)

    def constrain(self, x: np.ndarray, keep: Sequence[str] | None) -> dict[str, np.ndarray]:
        """Latent and deterministic values at positions (chains, draws, dim), in blocks of one compiled size."""
        return constrain_in_blocks(self.programs.constrain, self.operands, x, keep, CAPACITY)

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Everything needed to go on drawing."""
        found = {
            "shift": np.asarray(self.geometry.shift),
            "keys": np.stack([np.asarray(jax.random.key_data(key)) for key in self.keys]),
            "next_step": np.asarray(self.next_step),
        }
        for group, tree in (("state", self.chains.gather(self.states)), ("scale", self.geometry.scale)):
            found |= {f"{group}_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(tree))}
        return found

    def restore(self, checkpoint: Mapping[str, np.ndarray]) -> None:
        """Continue from a checkpoint of a run with the same model and settings."""
        layout = self.programs.layout
        leaves = [jnp.asarray(leaf) for leaf in _group(checkpoint, "scale")]
        scale = leaves[0] if len(leaves) == 1 else BandedScale(*leaves)
        self.geometry = Geometry(jnp.asarray(checkpoint["shift"], layout.dtype), scale)
        zeros = jnp.zeros((len(self.keys), layout.dim), layout.dtype)
        template = self.chains.gather(self.chains.start(self.operands, self.geometry, zeros))
        gathered = jax.tree.unflatten(jax.tree.structure(template), _group(checkpoint, "state"))
        self.states = self.chains.scatter(gathered)
        self.next_step = int(checkpoint["next_step"])


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


def _group(checkpoint: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    return [checkpoint[f"{name}_{i}"] for i in range(sum(key.startswith(f"{name}_") for key in checkpoint))]


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


@contextlib.contextmanager
def bar_for(show: Any, total: int, label: str) -> Iterator[Progress | None]:
    """A progress bar, or None where none is wanted."""
    if not show:
        yield None
        return
    with Progress(total, label) as bar:
        yield bar
