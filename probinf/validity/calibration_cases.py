"""What the suite calibrates: kernels as samplers and populations, each by a method whose ranks are known to be uniform.

Exactly uniform for reversible kernels (started from the truth and back) and conditional populations, at any number of
steps and particles. For `nuts_kernel` from the prior uniformity rests on convergence: 8 trajectories on a well-scaled
normal posterior. For the ordinary population it rests on N: with N = 400 the levels are off by a few parts in a
thousand, and a test at p = 2e-9 and 4000 replicates sees distances above 0.05.
"""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpyro.distributions as dist

from probinf.kernels.gradient_moves import hmc, nuts_kernel
from probinf.kernels.trace_moves import random_walk, trace_mh
from probinf.language import statements as pi
from probinf.language.program import Program, model
from probinf.transformations.resampling import SCHEMES
from probinf.validity.calibration import sbc
from probinf.validity.report import Check
from probinf.validity.samplers import Chains, Particles

REPLICATES = 4000


@model
def mean_and_scale() -> None:
    """Mean and scale unknown."""
    mu = pi.sample("mu", dist.Normal(0.0, 1.0))
    sigma = pi.sample("sigma", dist.LogNormal(0.0, 0.5))
    pi.sample("y", dist.Normal(mu, sigma).expand([3]).to_event(1))


@model
def regression() -> None:
    """Two coefficients, three observations: a normal posterior."""
    b = pi.sample("b", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    design = jnp.array([[1.0, 0.2], [1.0, -0.9], [1.0, 1.1]])
    pi.sample("y", dist.Normal(design @ b, 0.8).to_event(1))


@model
def short_walk() -> None:
    """A random walk with an unknown step, observed twice."""
    scale = pi.sample("scale", dist.LogNormal(-0.5, 0.4))

    def step(x: jax.Array, _: None) -> tuple[jax.Array, None]:
        x = pi.sample("x", dist.Normal(x, scale))
        pi.sample("y", dist.Normal(x, 0.5))
        return x, None

    jax.lax.scan(step, jnp.zeros(()), None, length=2)


def cases() -> Iterator[tuple[Program, Chains | Particles]]:
    """Programs and samplers."""
    both = mean_and_scale().given(y=jnp.zeros(3))
    values = ("mu", "sigma")
    yield both, Chains(trace_mh(), start="truth")
    yield both, Chains(random_walk(0.6), values=values, start="truth")
    yield both, Chains(hmc(0.3, 4), values=values, start="truth")
    lines = regression().given(y=jnp.zeros(3))
    yield lines, Chains(nuts_kernel(0.4, max_tree_depth=4), num_chains=7, num_steps=8, values=("b",))
    walk = short_walk().given(y=jnp.zeros(2))
    for scheme in SCHEMES:
        yield walk, Particles(8, scheme)
    yield walk, Particles(8, "systematic", 0.5)
    yield walk, Particles(400, "systematic", conditional=False)


def check_calibration(seed: int = 0) -> Iterator[Check]:
    """All of them."""
    for program, sampler in cases():
        yield from sbc(program, sampler, num_replicates=REPLICATES, seed=seed).checks()
