r"""Simulation-based calibration: the rank of the truth among posterior draws is uniform when the posterior is right.

Parameters and data are drawn from the joint law, the posterior of those data is drawn from by the method, and the truth
is ranked (Talts et al. 2018), by every scalar parameter and by the joint log density, which sees errors that no
parameter alone shows (Modrák et al. 2023). With draws q_i of weight W_i, the truth's q* among them if it is one,

    u = sum_i W_i 1[q_i < q*] + V sum_i W_i 1[q_i = q*],   V ~ U(0, 1).

If, given the whole weighted set, each member is the truth with probability W_i, then u is exactly uniform for any
number of draws: L independent posterior draws and the truth, all of weight 1 / (L + 1), are such a set, and so are the
particles of conditional SMC (`probinf.validity.samplers`).
Where the truth stands outside of a self-normalised sample, u is uniform as the number of particles grows only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from probinf.errors import ArgumentError, ArgumentTypeError, ModelError
from probinf.kernels.kernel import Kernel
from probinf.language.program import Program, refuse_unnamed
from probinf.random import as_key
from probinf.validity.report import FALSE_ALARM_BUDGET, Check, statistical_check
from probinf.validity.samplers import Chains, Draws, joint, latent_of, with_data
from probinf.validity.significance import p_of_levels

JOINT = "log joint"
_BATCH = 500  # replicates side by side


@dataclasses.dataclass(frozen=True, repr=False)
class Calibration:
    """Ranks of the truth.

    Attributes:
        method: how the posterior was drawn from.
        program: name of the program.
        ranks: quantity -> (R,) numbers, uniform on [0, 1] if the posterior is right: histograms of them are the plot.
        num_draws: draws for each replicate.
        bound: the smallest p-value that passes; the quantities share a false-alarm probability of 1e-6.
    """

    method: str
    program: str
    ranks: Mapping[str, np.ndarray]
    num_draws: int

    @property
    def bound(self) -> float:
        """The smallest p-value that passes."""
        return FALSE_ALARM_BUDGET / len(self.ranks)

    @property
    def p_values(self) -> dict[str, float]:
        """By quantity, exact at any number of replicates (Dvoretzky-Kiefer-Wolfowitz)."""
        return {name: p_of_levels(u) for name, u in self.ranks.items()}

    @property
    def passed(self) -> bool:
        """Whether no quantity's ranks contradict uniformity."""
        return min(self.p_values.values()) >= self.bound

    def __bool__(self) -> bool:
        return self.passed

    def checks(self, name: str | None = None) -> Iterator[Check]:
        """As checks of the validity suite, at its share of the budget."""
        for quantity, p in self.p_values.items():
            num = len(self.ranks[quantity])
            yield statistical_check(name or self.method, "calibrated", f"{self.program}, {quantity}", p, num)

    def __repr__(self) -> str:
        width = max(len(n) for n in (*self.ranks, "quantity"))
        lines = [f"{'quantity':{width}}  {'mean rank':>9} {'spread':>7} {'p':>9}  verdict"]
        for name, p in self.p_values.items():
            mean, spread = float(np.mean(self.ranks[name])), float(np.std(self.ranks[name])) * np.sqrt(12)
            verdict = "uniform" if p >= self.bound else f"NOT UNIFORM: {_reading(mean, spread)}"
            lines.append(f"{name:{width}}  {mean:>9.3f} {spread:>7.3f} {p:>9.1e}  {verdict}")
        num = len(next(iter(self.ranks.values())))
        lines.append(
            f"{self.method} on {self.program}: {num} replicates of {self.num_draws} draws; right are mean rank 0.5 and "
            f"spread 1; p below {self.bound:.1e} fails (false alarms at most {FALSE_ALARM_BUDGET:g} in all)"
        )
        return "\n".join(lines)


def _reading(mean: float, spread: float) -> str:
    shift = abs(mean - 0.5) * np.sqrt(12)
    if shift > abs(spread - 1.0):
        return "draws too low" if mean > 0.5 else "draws too high"
    return "draws too narrow" if spread > 1 else "draws too wide"


def sbc(
    program: Program,
    method: Any,
    *,
    num_replicates: int | None = None,
    thin: int | None = None,
    seed: Any = 0,
) -> Calibration:
    """Check a method's calibration on a program.

    Args:
        program: with data given by name, `model().given(y=data)`. The data are replaced by replicates; only their
            shapes matter.
        method: an inference method (`pi.NUTS(...)`, `pi.MCMC(...)`, `smc.SMC(...)`), run once for each replicate, or a
            kernel or one of `probinf.validity.samplers`, which run all replicates in one compiled program.
        num_replicates: 1000 by default for compiled samplers and 200 for methods.
        thin: of a method without weights take every `thin`-th draw of each chain. By default only the last draw of
            each chain is used: draws along a chain are correlated, and their ranks are then not uniform. Many short
            chains give the finest ranks.
        seed: an integer or a key.

    Returns:
        Ranks by quantity; prints as a table, and is true when no ranks contradict uniformity. For weighted draws of a
        method, and for chains that have not converged, uniformity itself is an approximation.

    Raises:
        ArgumentError: no data are given, or a number is outside its range.
        ArgumentTypeError: an argument of the wrong kind.
        ModelError: the program has scores that are no data, so there is no joint law to draw from.
    """
    _check_program(program)
    if isinstance(method, Kernel):
        method = Chains(method)
    is_method = callable(getattr(method, "run", None))
    if not is_method and not callable(method):
        raise ArgumentTypeError(
            f"method: expected an inference method, a kernel or a sampler, found {method!r} of type "
            f"{type(method).__name__}."
        )
    count = (200 if is_method else 1000) if num_replicates is None else num_replicates
    for argument, value, least in (("num_replicates", count, 20), ("thin", thin, 1)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise ArgumentError(f"{argument}: expected an integer of at least {least}, found {value!r}.")
    key = as_key(seed)
    if is_method:
        ranks, size = _of_method(program, method, thin, key, count)
        name = type(method).__name__
    else:
        ranks, size = _of_sampler(program, cast(Callable[[Program, jax.Array], Draws], method), key, count)
        name = getattr(method, "name", getattr(method, "__name__", repr(method)))
    return Calibration(name, program.name, ranks, size)


def _check_program(program: Any) -> None:
    if not isinstance(program, Program):
        raise ArgumentTypeError(
            f"program: expected a program with data given, such as model().given(y=data), found {program!r} of type "
            f"{type(program).__name__}."
        )
    for site in program.sites:
        if site.kind == "factor" or (site.kind == "observe" and site.name not in program.values):
            raise ModelError(
                f"Site {site.site.label} scores an execution and is not data given by name, so the joint law of "
                "parameters and data cannot be drawn from. Write data as pi.sample without obs, and give them: "
                "model().given(y=data)."
            )
    if not program.values:
        raise ArgumentError(f"program: no site of {program.name!r} has data. Write model().given(y=data).")
    refuse_unnamed(program)


def _of_sampler(
    program: Program, sampler: Callable[[Program, jax.Array], Draws], key: jax.Array, count: int
) -> tuple[dict[str, np.ndarray], int]:
    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        k_draw, k_ties = jax.random.split(key)
        found = sampler(program, k_draw)
        levels = randomised_ranks(
            _quantities(found.program, found.truth, found.values), found.log_weights, found.own, k_ties
        )
        return levels, jnp.zeros(found.log_weights.shape)

    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=min(_BATCH, count)))
    levels, shapes = run(jax.random.split(key, count))
    return _named(program, np.asarray(levels)), shapes.shape[1]


def _of_method(
    program: Program, method: Any, thin: int | None, key: jax.Array, count: int
) -> tuple[dict[str, np.ndarray], int]:
    def rank(operands: Any, truth: dict, values: dict, *weights_and_key: jax.Array) -> jax.Array:
        return randomised_ranks(_quantities(program.with_operands(operands), truth, values), *weights_and_key)

    compiled = jax.jit(rank)
    rows, size = [], 0
    for k in jax.random.split(key, count):
        k_joint, k_run, k_ties = jax.random.split(k, 3)
        truth, data = joint(program, k_joint)
        here = with_data(program, data)
        posterior = method.run(here, k_run, progress=False)
        draws, log_weights = latent_of(program, posterior.draws), posterior.log_weights
        if log_weights is None:
            kept = {n: v[:, -1:] if thin is None else v[:, ::-1][:, ::thin] for n, v in draws.items()}
            own = 0.0  # the truth is one of equals
        else:
            kept, own = draws, -np.inf
        values = {n: jnp.asarray(v.reshape(-1, *v.shape[2:])) for n, v in kept.items()}
        size = len(next(iter(values.values())))
        weights = jnp.zeros(size) if log_weights is None else jnp.asarray(log_weights.reshape(-1))
        rows.append(np.asarray(compiled(here.operands, truth, values, weights, jnp.asarray(own, float), k_ties)))
    return _named(program, np.stack(rows)), size


def _quantities(program: Program, truth: dict, values: dict) -> tuple[jax.Array, jax.Array]:
    """(Q,) of the truth and (L, Q) of the draws: all scalars in order, then the joint log density."""

    def one(values: dict) -> jax.Array:
        scalars = [jnp.asarray(values[s.name], float).reshape(-1) for s in program.staged.latent()]
        flat = jnp.concatenate([*scalars, program.log_density(values).astype(float).reshape(1)])
        return jnp.where(jnp.isnan(flat), -jnp.inf, flat)  # sites that are not reached: below all values

    return one(truth), jax.vmap(one)(values)


def randomised_ranks(
    quantities: tuple[jax.Array, jax.Array], log_weights: jax.Array, own: jax.Array, key: jax.Array
) -> jax.Array:
    """(Q,), the randomised weighted ranks of the truth: quantities of the truth (Q,) and of the draws (L, Q)."""
    mine, theirs = quantities
    every = jax.nn.softmax(jnp.concatenate([log_weights.astype(float), own.astype(float).reshape(1)]))
    weights, share = every[:-1, None], every[-1]
    below = jnp.sum(jnp.where(theirs < mine[None], weights, 0.0), axis=0)
    equal = jnp.sum(jnp.where(theirs == mine[None], weights, 0.0), axis=0) + share
    return jnp.clip(below + jax.random.uniform(key, mine.shape) * equal, 0.0, 1.0)


def _named(program: Program, levels: np.ndarray) -> dict[str, np.ndarray]:
    names = []
    for site in program.staged.latent():
        size = int(np.prod(site.shape, dtype=int))
        if site.shape == ():
            names.append(site.name)
        else:
            names += [f"{site.name}[{','.join(map(str, np.unravel_index(i, site.shape)))}]" for i in range(size)]
    return dict(zip([*names, JOINT], np.asarray(levels, np.float64).T, strict=True))
