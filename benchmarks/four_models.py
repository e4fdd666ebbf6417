"""Four models in probinf and in NumPyro: lines of code, and the time to the first posterior in a fresh process.

Each pair says the same model in the shortest natural way of its library: a plain function that the call of the sampler
wraps (`pi.model(function)` here, `NUTS(function)` there). Counted are the lines of code of the function, and with them
those of `draw` or `draw_numpyro`, to the draws in hand. Blank lines, comments and docstrings do not count.

    python -m benchmarks.four_models --library probinf --model eight_schools    one run, timings as JSON
"""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.contrib.control_flow import scan

import probinf as pi
from benchmarks.record import Row


def outliers(x, y):
    """Linear regression; each point is an outlier with unknown probability."""
    a = pi.sample("a", dist.Normal(0.0, 5.0))
    b = pi.sample("b", dist.Normal(0.0, 5.0))
    sigma = pi.sample("sigma", dist.HalfNormal(1.0))
    share = pi.sample("share", dist.Beta(1.0, 9.0))
    which = dist.Categorical(jnp.stack([1.0 - share, share]))
    noise = dist.Normal((a + b * x)[:, None], jnp.stack([sigma, sigma + 5.0]))
    pi.observe("y", dist.MixtureSameFamily(which, noise).to_event(1), y)


def outliers_numpyro(x, y):
    """The same for NumPyro."""
    a = numpyro.sample("a", dist.Normal(0.0, 5.0))
    b = numpyro.sample("b", dist.Normal(0.0, 5.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    share = numpyro.sample("share", dist.Beta(1.0, 9.0))
    which = dist.Categorical(jnp.stack([1.0 - share, share]))
    noise = dist.Normal((a + b * x)[:, None], jnp.stack([sigma, sigma + 5.0]))
    numpyro.sample("y", dist.MixtureSameFamily(which, noise).to_event(1), obs=y)


def eight_schools(y, sigma):
    """Eight schools; `non_centred` is a setting of the sampler."""
    mu = pi.sample("mu", dist.Normal(0.0, 5.0))
    tau = pi.sample("tau", dist.HalfCauchy(5.0))
    theta = pi.sample("theta", dist.Normal(mu, tau).expand([8]))
    pi.observe("y", dist.Normal(theta, sigma), y)


def eight_schools_numpyro(y, sigma):
    """The same for NumPyro, non-centred by a reparameterisation."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.handlers.reparam(config={"theta": numpyro.infer.reparam.LocScaleReparam(0)}):
        theta = numpyro.sample("theta", dist.Normal(mu, tau).expand([8]))
    numpyro.sample("y", dist.Normal(theta, sigma), obs=y)


def volatility(y):
    """Stochastic volatility: the log variance is a random walk that returns to its mean."""
    mu = pi.sample("mu", dist.Normal(-1.0, 1.0))
    rho = pi.sample("rho", dist.Uniform(0.6, 0.99))
    sigma = pi.sample("sigma", dist.HalfNormal(0.5))

    def step(x, y):
        x = pi.sample("x", dist.Normal(mu + rho * (x - mu), sigma))
        pi.observe("y", dist.Normal(0.0, jnp.exp(x / 2)), y)
        return x, None

    jax.lax.scan(step, mu, y)


def volatility_numpyro(y):
    """The same for NumPyro, non-centred by a reparameterisation."""
    mu = numpyro.sample("mu", dist.Normal(-1.0, 1.0))
    rho = numpyro.sample("rho", dist.Uniform(0.6, 0.99))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))

    def step(x, y):
        with numpyro.handlers.reparam(config={"x": numpyro.infer.reparam.LocScaleReparam(0)}):
            x = numpyro.sample("x", dist.Normal(mu + rho * (x - mu), sigma))
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(x / 2)), obs=y)
        return x, None

    scan(step, mu, y)


def stick_breaking(y):
    """Mixture of normals with eight components, weights by breaking a stick."""
    alpha = pi.sample("alpha", dist.Gamma(2.0, 1.0))
    sticks = pi.sample("sticks", dist.Beta(jnp.ones(7), alpha))
    means = pi.sample("means", dist.Normal(0.0, 5.0).expand([8]))
    sds = pi.sample("sds", dist.LogNormal(0.0, 0.5).expand([8]))
    left = jnp.concatenate([jnp.ones(1), jnp.cumprod(1.0 - sticks)])
    weights = left * jnp.concatenate([sticks, jnp.ones(1)])
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(means, sds))
    pi.observe("y", mixture.expand([y.size]), y)


def stick_breaking_numpyro(y):
    """The same for NumPyro."""
    alpha = numpyro.sample("alpha", dist.Gamma(2.0, 1.0))
    sticks = numpyro.sample("sticks", dist.Beta(jnp.ones(7), alpha))
    means = numpyro.sample("means", dist.Normal(0.0, 5.0).expand([8]))
    sds = numpyro.sample("sds", dist.LogNormal(0.0, 0.5).expand([8]))
    left = jnp.concatenate([jnp.ones(1), jnp.cumprod(1.0 - sticks)])
    weights = left * jnp.concatenate([sticks, jnp.ones(1)])
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(means, sds))
    numpyro.sample("y", mixture.expand([y.size]), obs=y)


def _data() -> dict[str, tuple[np.ndarray, ...]]:
    """Simulated data (fixed seed), except for the eight schools'."""
    rng = np.random.default_rng(3)
    x = rng.uniform(-2, 2, 100)
    bad = rng.uniform(size=100) < 0.1
    line = 1.0 + 2.0 * x + np.where(bad, 5.0, 0.5) * rng.normal(size=100)
    h, returns = 0.0, []
    for _ in range(300):
        h = 0.95 * h + 0.25 * rng.normal()
        returns.append(np.exp((h - 1.0) / 2) * rng.normal())
    which = rng.choice(3, 200, p=[0.5, 0.3, 0.2])
    clusters = np.array([-4.0, 0.0, 5.0])[which] + np.array([1.0, 0.5, 1.5])[which] * rng.normal(size=200)
    schools = np.array([28.0, 8, -3, 7, -1, 1, 18, 12]), np.array([15.0, 10, 16, 11, 9, 11, 10, 18])
    return {
        "outliers": (x, line),
        "eight_schools": schools,
        "volatility": (np.array(returns),),
        "stick_breaking": (clusters,),
    }


MODELS = {
    "outliers": (outliers, outliers_numpyro, {}),
    "eight_schools": (eight_schools, eight_schools_numpyro, {"non_centred": ("theta",)}),
    "volatility": (volatility, volatility_numpyro, {"non_centred": ("x",)}),
    "stick_breaking": (stick_breaking, stick_breaking_numpyro, {}),
}


def lines_of_code(function: Callable) -> int:
    """Lines of a function that hold code: no blank lines, comments or docstring."""
    source = inspect.getsource(inspect.unwrap(function))
    (definition,) = ast.parse(source).body
    docstring = definition.body[0]
    skipped = range(docstring.lineno, docstring.end_lineno + 1) if ast.get_docstring(definition) else ()
    lines = source.splitlines()
    return sum(
        1 for n, line in enumerate(lines, 1) if n not in skipped and line.strip() and not line.strip().startswith("#")
    )


def draw(model: Callable, data: tuple, settings: dict[str, Any], seed: int) -> Any:
    """From a model to its draws."""
    return pi.infer(pi.model(model)(*data), pi.NUTS(**settings), seed=seed, progress=False)


def draw_numpyro(model: Callable, data: tuple, settings: dict[str, Any], seed: int) -> Any:
    """From a NumPyro model to its draws."""
    mcmc = numpyro.infer.MCMC(numpyro.infer.NUTS(model), num_chains=4, progress_bar=False, **settings)
    mcmc.run(jax.random.key(seed), *data)
    return mcmc.get_samples(group_by_chain=True)


def run_once(library: str, name: str, num_warmup: int, num_draws: int, seed: int) -> float:
    """Four chains of NUTS; seconds from the model to the draws on the host, without the imports."""
    ours, theirs, settings = MODELS[name]
    data = _data()[name]
    begin = time.perf_counter()
    if library == "probinf":
        draw(ours, data, {"num_warmup": num_warmup, "num_draws": num_draws, **settings}, seed)
    else:
        how = {"num_warmup": num_warmup, "num_samples": num_draws, "chain_method": library.removeprefix("numpyro-")}
        jax.block_until_ready(draw_numpyro(theirs, data, how, seed))
    return time.perf_counter() - begin


def _fresh(library: str, name: str, num_warmup: int, num_draws: int, seed: int) -> tuple[float, float]:
    """`run_once` in a process of its own: seconds of the whole process, and of the work without imports."""
    command = [sys.executable, "-m", "benchmarks.four_models", "--library", library, "--model", name]
    command += ["--num-warmup", str(num_warmup), "--num-draws", str(num_draws), "--seed", str(seed)]
    environment = dict(os.environ)
    if library == "numpyro-parallel":
        environment["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
    begin = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=pathlib.Path(__file__).parent.parent, env=environment, check=False
    )
    wall = time.perf_counter() - begin
    if done.returncode:
        raise RuntimeError(f"{library}, {name}: {done.stderr[-300:]}")
    return wall, float(json.loads(done.stdout.splitlines()[-1])["seconds"])


def code_rows() -> Iterator[Row]:
    """Lines of code of each pair."""
    running, running_theirs = lines_of_code(draw) - 1, lines_of_code(draw_numpyro) - 1
    for name, (ours, theirs, settings) in MODELS.items():
        model, model_theirs = lines_of_code(ours), lines_of_code(theirs)
        setting = f"; NUTS gets {settings}" if settings else ""
        yield Row(
            f"{name}: lines of code of the model",
            model,
            "lines",
            model_theirs,
            peer=f"NumPyro {model_theirs}; with the lines that run it {model + running} and "
            f"{model_theirs + running_theirs}{setting}",
        )


def time_row(name: str, quick: bool, seed: int) -> Row:
    """Time to the first posterior beside NumPyro's, each in a fresh process, one after the other."""
    num_warmup, num_draws = (50, 50) if quick else (1000, 1000)
    libraries = ("probinf", "numpyro-parallel")  # chains in parallel on four host devices: NumPyro's fastest on a CPU
    (wall, work), (wall_theirs, work_theirs) = (
        _fresh(library, name, num_warmup, num_draws, seed) for library in libraries
    )
    return Row(
        f"{name}: time to the first posterior of a fresh process, 4 x {num_draws} draws",
        wall,
        "s",
        None,
        peer=f"NumPyro {wall_theirs:.1f} s, ratio {wall / wall_theirs:.2f}; "
        f"without imports {work:.1f} and {work_theirs:.1f} s",
        seconds=wall + wall_theirs,
    )


def main() -> None:
    """One run of one library; the timings as JSON on the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", choices=("probinf", "numpyro-parallel", "numpyro-vectorized"), required=True)
    parser.add_argument("--model", choices=tuple(MODELS), required=True)
    parser.add_argument("--num-warmup", type=int, default=1000)
    parser.add_argument("--num-draws", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    seconds = run_once(args.library, args.model, args.num_warmup, args.num_draws, args.seed)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
