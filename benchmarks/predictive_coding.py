"""Times of HGFs beside pyhgf, of hierarchical models, and studies of parameter and model recovery.

    XLA_FLAGS= python -m benchmarks.predictive_coding --json benchmarks/results/predictive_coding.json
    XLA_FLAGS= python -m benchmarks.predictive_coding --only recovery --json FILE      # one group of rows

pyhgf needs Python 3.12 and an older JAX, so it runs in an environment of its own, `.venv-pyhgf` (or the one that
PROBINF_PYHGF names), which this script builds where it is missing; where that fails the rows say so. Both sides run
turn by turn with the same network, rule, series and precision (float32, JAX's default).
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks import peer_environment, record
from benchmarks.record import Row, rows_of

PEER_ENVIRONMENT = pathlib.Path(os.environ.get("PROBINF_PYHGF", ".venv-pyhgf"))
PEER_SCRIPT = pathlib.Path(__file__).with_name("predictive_coding_peer.py")
OMEGA = "x2.tonic_volatility"


def series(length: int, seed: int) -> np.ndarray:
    """Outcomes whose probability reverses every 80 trials."""
    rng = np.random.default_rng(seed)
    return (rng.random(length) < np.where(np.arange(length) // 80 % 2, 0.8, 0.2)).astype(float)


def ours(rule: Any, lengths: tuple[int, int], sets: int, repeats: int, seed: int) -> dict[str, float]:
    """Seconds of the four calls."""
    from probinf import predictive_coding as hgf

    network = hgf.Network(mode="relaxed", update=rule).binary_input("u")
    network = network.continuous_state("x2").continuous_state("x3").value("x2", "u").volatility("x3", "x2")
    long, short = (network.prepare(series(n, seed)) for n in lengths)
    batch = network.replace({OMEGA: np.linspace(-5.0, -2.0, sets)})
    return {
        "one series": record.median_time(lambda: network.log_likelihood(long), repeats),
        "one series, gradient": record.median_time(lambda: network.value_and_gradient([OMEGA], long), repeats),
        "batch": record.median_time(lambda: batch.log_likelihood(short), repeats),
        "batch, gradient": record.median_time(lambda: batch.value_and_gradient([OMEGA], short), repeats),
    }


def empty_scan(length: int, repeats: int, seed: int) -> float:
    """Seconds of a scan that adds up the series: the least that any filter takes."""
    import jax
    import jax.numpy as jnp

    scan = jax.jit(lambda u: jax.lax.scan(lambda total, x: (total + x, None), jnp.zeros(()), u)[0])
    u = jnp.asarray(series(length, seed), jnp.float32)
    return record.median_time(lambda: scan(u), repeats)


def theirs(python: str, lengths: tuple[int, int], sets: int, repeats: int, seed: int) -> dict[str, float]:
    """The same four calls by pyhgf, in its own environment; raises with its message where it fails."""
    arguments = [*map(str, lengths), str(sets), str(repeats), str(seed)]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
    done = subprocess.run([python, str(PEER_SCRIPT), *arguments], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"pyhgf failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


TARGETS = {"one series": 1.0, "one series, gradient": 1.0, "batch": 0.25, "batch, gradient": 0.1}


def rows(quick: bool, seed: int) -> Iterator[Row]:
    """Ratios of times by rule: the peer's default rule, and our default."""
    from probinf import predictive_coding as hgf

    lengths, sets, repeats = ((500, 50), 20, 3) if quick else ((10_000, 320), 1000, 15)
    python, missing = peer_environment.interpreter(PEER_ENVIRONMENT, "pyhgf==0.3.2", "3.12")
    floor = 1e6 * empty_scan(lengths[0], repeats, seed) / lengths[0]
    rules = {"same rule (unbounded)": hgf.Unbounded(), "our default rule (enhanced)": hgf.Enhanced()}
    mine: dict[str, list[dict[str, float]]] = {name: [] for name in rules}
    peer: list[dict[str, float]] = []
    for _ in range(1 if quick else 2):  # turn by turn: a busy machine slows both
        for name, rule in rules.items():
            mine[name].append(ours(rule, lengths, sets, repeats, seed))
        if python is not None:
            peer.append(theirs(python, lengths, sets, repeats, seed))
    for name, case in itertools.product(rules, TARGETS):
        single = case.startswith("one")
        length = lengths[0] if single else lengths[1]
        size = f"T = {length}" + ("" if single else f", {sets} parameter sets")
        scale, unit = (1e6 / length, "us a step") if single else (1e3, "ms")
        said = f"ours {scale * np.median([m[case] for m in mine[name]]):.3g} {unit}; empty scan {floor:.3g} us a step"
        target = TARGETS[case] if name.startswith("same") or not single else 0.25
        claim = f"{case}, {size}, {name}: time over pyhgf's"
        if not peer:
            yield Row(claim, None, "ratio", target, peer=f"{said}; {missing}")
            continue
        ratios = [m[case] / t[case] for m, t in zip(mine[name], peer, strict=True)]
        said += f"; pyhgf 0.3.2 {scale * np.median([t[case] for t in peer]):.3g} {unit}"
        yield Row(claim, float(np.median(ratios)), "ratio", target, peer=said, n=len(ratios))


def inference(quick: bool, seed: int) -> Iterator[Row]:
    """Two-level parameter inference by NUTS, with and without compilation."""
    import numpyro.distributions as dist

    import probinf as pi
    from probinf import predictive_coding as hgf

    u, draws = series(320, seed), 50 if quick else 1000
    priors = {OMEGA: dist.Normal(-3.0, 2.0)}
    program = hgf.subject_program(hgf.binary_hgf(2), None, priors, u)
    method = pi.NUTS(num_warmup=draws, num_draws=draws, init=hgf.starting_values(priors))
    for words, target in (("cold", 5.0), ("warm", 1.5)):
        began = time.perf_counter()
        pi.infer(program, method, seed=seed, progress=False)
        yield Row(f"two-level inference, 4 x {2 * draws} steps, {words}", time.perf_counter() - began, "s", target)


def group_priors() -> dict[str, Any]:
    """A group whose members learn at different speeds and choose with different determination."""
    import numpyro.distributions as dist

    from probinf import predictive_coding as hgf

    return {
        OMEGA: hgf.GroupPrior(dist.Normal(-3.0, 1.0), dist.HalfNormal(1.0)),
        "response.inverse_temperature": hgf.GroupPrior(dist.Normal(1.0, 0.5), dist.HalfNormal(0.5), "exp"),
    }


def hierarchical(quick: bool, seed: int) -> Iterator[Row]:
    """Ten subjects, 160 trials each, by NUTS: the whole call, compilation included, and again."""
    import probinf as pi
    from probinf import predictive_coding as hgf

    trials, subjects, draws = (40, 3, 50) if quick else (160, 10, 500)
    priors, u = group_priors(), series(trials, seed)
    rng = np.random.default_rng(seed)
    truth = {
        OMEGA: rng.normal(-3.0, 0.7, subjects),
        "response.inverse_temperature": np.exp(rng.normal(1.0, 0.3, subjects)),
    }
    network, response = hgf.binary_hgf(2), hgf.UnitSquareSigmoid("u")
    program = hgf.group_program(network, response, priors, u, hgf.simulate_responses(network, response, truth, u, seed))
    method = pi.NUTS(num_warmup=draws, num_draws=draws, init=hgf.starting_values(priors, subjects))
    for words in ("cold", "warm"):
        began = time.perf_counter()
        posterior = pi.infer(program, method, seed=seed, progress=False)
        seconds = time.perf_counter() - began
        mean = posterior[f"{OMEGA}.mean"]
        told = f"mean tonic volatility of the group {mean.mean():.2f} ({mean.std():.2f}); {posterior.method}"
        claim = f"hierarchical model, {subjects} subjects x {trials} trials, 4 x {2 * draws} steps, {words}"
        yield Row(claim, seconds, "s", 15.0, peer=told)


def recovery(quick: bool, seed: int) -> Iterator[Row]:
    """Parameters of a hierarchical model of 200 simulated subjects, and which of three models simulated a subject."""
    import numpyro.distributions as dist

    import probinf as pi
    from probinf import predictive_coding as hgf

    trials, subjects, draws = (40, 4, 50) if quick else (160, 200, 400)
    priors, u = group_priors(), series(trials, seed)
    method = pi.NUTS(num_warmup=draws, num_draws=draws, init=hgf.starting_values(priors, subjects))
    began = time.perf_counter()
    study = hgf.recover(hgf.binary_hgf(2), hgf.UnitSquareSigmoid("u"), priors, u, subjects, method, seed=seed)
    seconds = time.perf_counter() - began
    size = f"{subjects} subjects x {trials} trials, hierarchical"
    for address, share in study.coverage().items():
        told = (
            f"between 0.85 and 0.95; correlation {study.correlation()[address]:.3f}, bias {study.bias()[address]:+.3f}"
        )
        claim = f"recovery, {size}: distance of the coverage of 90 % intervals from 0.9, {address}"
        yield Row(claim, abs(share - 0.9), "share", 0.05, peer=f"coverage {share:.3f}, {told}", n=subjects)
    yield Row(f"recovery, {size}: wall time of simulation and fit", seconds, "s", None, seconds=seconds)

    sigmoid, decisive = hgf.UnitSquareSigmoid("u"), {"response.inverse_temperature": dist.LogNormal(1.0, 0.4)}
    three = hgf.binary_hgf(3, update=hgf.Unbounded()).replace({OMEGA: -3.0})
    models = {
        "static": hgf.SubjectModel(
            hgf.binary_hgf(2).replace({OMEGA: -12.0}), sigmoid, {"x2.precision": dist.LogNormal(0.0, 0.5), **decisive}
        ),
        "two levels": hgf.SubjectModel(hgf.binary_hgf(2), sigmoid, {OMEGA: dist.Normal(-2.0, 0.7), **decisive}),
        "three levels": hgf.SubjectModel(three, sigmoid, {"x3.tonic_volatility": dist.Normal(-1.0, 0.5), **decisive}),
    }
    each, particles = (3, 64) if quick else (40, 512)
    began = time.perf_counter()
    found = hgf.recover_models(models, u, each, seed=seed, num_particles=particles)
    seconds = time.perf_counter() - began
    table = "; ".join(
        f"{name}: " + " ".join(f"{share:.2f}" for share in row)
        for name, row in zip(found.names, found.confusion(), strict=True)
    )
    claim = (
        f"model recovery, {len(models)} models x {each} subjects x {trials} trials: share for whom the true model won"
    )
    yield Row(claim, float(np.mean(np.diag(found.confusion()))), "share", None, "higher", peer=f"confusion {table}")
    yield Row(f"model recovery, {len(models)} x {each} subjects: wall time", seconds, "s", None, seconds=seconds)


GROUPS: dict[str, tuple[str, float, Callable[[bool, int], Iterator[Row]]]] = {
    "likelihood": ("ratio", 1.0, rows),
    "inference": ("s", 5.0, inference),
    "hierarchical": ("s", 15.0, hierarchical),
    "recovery": ("share", 0.05, recovery),
}


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=tuple(GROUPS), default=list(GROUPS), help="groups of rows")
    args = parser.parse_args(argv)
    found: list[Row] = []
    for name in args.only:
        unit, target, make = GROUPS[name]
        found += rows_of(name, unit, target, functools.partial(make, args.quick, args.seed))
    return record.write(args.json, "predictive_coding", args.quick, found)


if __name__ == "__main__":
    main(sys.argv[1:])
