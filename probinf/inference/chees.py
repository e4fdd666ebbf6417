"""ChEES-HMC as an inference method: an ensemble of chains that adapts together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from probinf.errors import ArgumentError
from probinf.inference.ensemble_run import ChEESLoop
from probinf.inference.gradient_method import AbstractGradientMethod, divergence_notes
from probinf.inference.gradient_target import check_init, gradient_target
from probinf.inference.method import check_count, check_fraction
from probinf.inference.posterior import Posterior
from probinf.kernels.chees import EnsembleDraws
from probinf.runs.trees import shapes

_FEWEST_CHAINS = 4


@dataclasses.dataclass(frozen=True)
class ChEES(AbstractGradientMethod):
    """Hamiltonian Monte Carlo of many chains that share step size, diagonal metric and trajectory length.

    All chains take the same number of leapfrog steps, so one gradient of the ensemble is one batch: for regressions one
    matrix product. The length is learned by maximising the change in squared distance from the mean (ChEES), the step
    size by the harmonic mean of the acceptance rates.

    Args:
        num_warmup: warm-up steps of each chain, discarded. Pooling makes a short warm-up enough.
        num_draws: steps of each chain after warm-up.
        num_chains: number of chains, at least 4; what is learned is learned from all of them.
        target_acceptance: harmonic mean over chains of the acceptance rate; the arithmetic mean lies above it.
        max_leapfrogs: at most so many gradients in a step.
        init: `"uniform"` on (-2, 2) in unconstrained space, `"prior"` for draws from the prior, or a dict from each
            latent site to its value, of the site's shape or with a leading axis of length `num_chains`.
        non_centred: names of Normal or MultivariateNormal sites to be sampled through their standardised value.
        thinning: keep every `thinning`-th draw.
        keep: names of the sites to store; all latent and deterministic ones by default.

    Raises:
        ArgumentError: a setting has an impossible value; it is named.
        ArgumentTypeError: a setting is of the wrong kind.

    References:
        Hoffman, Radul & Sountsov (2021), An Adaptive-MCMC Scheme for Setting Trajectory Lengths in Hamiltonian Monte
        Carlo. The metric is that of Seyboldt, Carlson & Carpenter (2026), pooled over the ensemble.
    """

    num_warmup: int = 400
    num_draws: int = 500
    num_chains: int = 64
    target_acceptance: float = 0.651
    max_leapfrogs: int = 1000
    init: str | Mapping[str, Any] = "uniform"
    non_centred: Sequence[str] = ()
    thinning: int = 1
    keep: Sequence[str] | None = None

    def __post_init__(self) -> None:
        check_count("num_warmup", self.num_warmup, minimum=0)
        check_count("num_draws", self.num_draws)
        check_count("num_chains", self.num_chains, minimum=_FEWEST_CHAINS)
        check_fraction("target_acceptance", self.target_acceptance)
        check_count("max_leapfrogs", self.max_leapfrogs)
        check_count("thinning", self.thinning)
        if self.thinning > self.num_draws:
            raise ArgumentError(f"thinning: {self.thinning} keeps none of num_draws={self.num_draws} draws.")
        check_init(self.init)
        for name in ("keep", "non_centred"):
            if isinstance(getattr(self, name), str):
                object.__setattr__(self, name, (getattr(self, name),))

    def loop(self, program: Any, key: jax.Array, judge: Any = None) -> ChEESLoop:
        return ChEESLoop(self, gradient_target(program, "ChEES", self.non_centred, self.keep), key, judge)

    def check_restorable(self, loop: ChEESLoop, stored: Mapping[str, np.ndarray]) -> None:
        if (
            [leaf.shape for leaf in jax.tree.leaves(loop.template())] != shapes(stored, "ensemble")
            or "key_0" not in stored
            or int(stored["next_step"]) < loop.num_warmup
        ):
            raise ArgumentError(
                f"posterior: it was not made by ChEES with {self.num_chains} chains in {loop.programs.layout.dim} "
                "dimensions, so this method cannot continue it."
            )

    def posterior_of(self, loop: ChEESLoop, draws: EnsembleDraws, values: Mapping[str, np.ndarray]) -> Posterior:
        """The posterior of some draws, `values` the sites' at their positions."""
        shape = draws.lp.shape
        rows = {
            n: v if v.ndim == 2 else np.broadcast_to(v[:, None], shape) for n, v in draws._asdict().items() if n != "x"
        }
        stats = {name: np.swapaxes(value, 0, 1) for name, value in rows.items()}
        assert loop.ensemble is not None
        length = float(np.exp(loop.ensemble.trajectory.log_length_average))
        target = loop.target
        return Posterior(
            draws=values,
            sample_stats=stats,
            dims={name: tuple(target.dims[name]) for name in values if name in target.dims},
            coords=dict(target.coords),
            method=f"ChEES, diagonal metric, {self.num_warmup} warm-up steps, trajectories up to {length:.2g}",
            claim="invariant",
            warnings=self.notes(loop, stats),
            is_partial=loop.is_partial,
            checkpoint=loop.state(),
            model=target.name,
        )

    def notes(self, loop: ChEESLoop, stats: Mapping[str, np.ndarray]) -> tuple[str, ...]:
        notes = divergence_notes(stats)
        capped = float(np.mean(stats["n_steps"] >= self.max_leapfrogs))
        if self.max_leapfrogs > 1 and capped > 0.01:
            notes.append(f"{capped:.0%} of the trajectories reached max_leapfrogs={self.max_leapfrogs}: slow mixing.")
        return tuple(notes)
