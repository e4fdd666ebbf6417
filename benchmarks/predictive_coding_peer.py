"""The four calls of `predictive_coding.py` by pyhgf; run by it inside pyhgf's own environment, prints JSON."""

# isort: skip_file

import json
import sys
import time

import pyhgf  # noqa: F401  before JAX: it sets the runtime that its gradients need
import jax
import jax.numpy as jnp
import numpy as np
from pyhgf.model import Network


def median_time(call, repeats):
    for _ in range(2):
        jax.block_until_ready(call())
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def series(length, seed):
    rng = np.random.default_rng(seed)
    return (rng.random(length) < np.where(np.arange(length) // 80 % 2, 0.8, 0.2)).astype(float)


def likelihood(length, seed):
    """Tonic volatility of the second level to the log likelihood, on pyhgf's own scan function."""
    network = Network().add_nodes(kind="binary-state").add_nodes(value_children=0).add_nodes(volatility_children=1)
    u = series(length, seed)
    network = network.input_data(input_data=u[:3]) if hasattr(network, "input_data") else network
    network.create_belief_propagation_fn()
    attributes = network.attributes
    inputs = (
        (jnp.asarray(u)[:, None],),
        (jnp.ones(length, int),),
        jnp.ones(length),
        None,
    )

    def f(omega):
        changed = {key: dict(value) if isinstance(value, dict) else value for key, value in attributes.items()}
        changed[1]["tonic_volatility"] = omega
        _, trajectory = jax.lax.scan(network.scan_fn, changed, inputs)
        p = jnp.clip(trajectory[0]["expected_mean"], 1e-6, 1 - 1e-6)
        return jnp.sum(jnp.where(inputs[0][0][:, 0] > 0.5, jnp.log(p), jnp.log1p(-p)))

    return f


def main():
    length, short, sets, repeats, seed = map(int, sys.argv[1:])
    one, many = likelihood(length, seed), likelihood(short, seed)
    omega, omegas = jnp.asarray(-4.0), jnp.linspace(-5.0, -2.0, sets)
    calls = {
        "one series": (jax.jit(one), omega),
        "one series, gradient": (jax.jit(jax.value_and_grad(one)), omega),
        "batch": (jax.jit(jax.vmap(many)), omegas),
        "batch, gradient": (jax.jit(jax.vmap(jax.value_and_grad(many))), omegas),
    }
    print(json.dumps({name: median_time(lambda f=f, x=x: f(x), repeats) for name, (f, x) in calls.items()}))


if __name__ == "__main__":
    main()
