"""What checks cost: compiled loops with their fault flags beside the same loops without, and what the door takes.

    python -m benchmarks.check_cost --json benchmarks/results/check_cost.json

Loops without flags are the library's own: a filter whose method says "no fault" as a constant, from which XLA takes
flags and the choice they make out of the code, and a chain from which only draws and state are asked for. With and
without are timed turn by turn, in random order, in one process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
import smc
from benchmarks.record import Row, parser, quartiles, rows_of, write
from probinf import _jax
from probinf.kernels import nuts
from probinf.language import door
from probinf.streaming import compiled
from probinf.streaming.method import AbstractFilterMethod

TARGET = 1.05


class Unchecked(AbstractFilterMethod):
    """A filtering method whose steps are never at fault."""

    method: AbstractFilterMethod

    def init(self, key: Any, system: Any) -> Any:
        return self.method.init(key, system)

    def predict(self, state: Any, system: Any, dt: Any, control: Any) -> Any:
        return self.method.predict(state, system, dt, control)

    def update(self, state: Any, system: Any, sensor: str, value: Any, observed: Any, inputs: Any) -> Any:
        done, info = self.method.update(state, system, sensor, value, observed, inputs)
        return done, eqx.tree_at(lambda i: i.fault, info, jnp.zeros((), jnp.int32))

    def mean(self, state: Any) -> Any:
        return self.method.mean(state)

    def cov(self, state: Any) -> Any:
        return self.method.cov(state)

    def sample(self, state: Any, key: Any, n: int) -> Any:
        return self.method.sample(state, key, n)

    def log_prob(self, state: Any, x: Any) -> Any:
        return self.method.log_prob(state, x)

    def as_mixture(self, state: Any, k: int) -> Any:
        return self.method.as_mixture(state, k)

    def claim(self, system: Any) -> str:
        return self.method.claim(system)


def compared(claim: str, calls: dict[str, Callable[[], Any]], rounds: int, target: float | None = TARGET) -> Row:
    """Time of the first call over that of the second, turn by turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    rng = np.random.default_rng(0)
    for _ in range(rounds):
        for name in rng.permutation(list(calls)):
            began = perf_counter()
            jax.block_until_ready(calls[name]())
            times[name].append(perf_counter() - began)
    ours, bare = (np.array(taken) for taken in times.values())
    said = ", ".join(f"{name} {1e3 * np.median(taken):.4g} ms" for name, taken in times.items())
    ratios = ours / bare
    return Row(claim, float(np.median(ratios)), "ratio", target, peer=said, n=rounds, spread=quartiles(ratios))


@pi.state_space
def boat(drift: float) -> pi.System:
    """A position and a velocity in the plane, seen by a position sensor and by ranges to the origin."""

    def move(x: Any, dt: Any) -> dist.Distribution:
        return dist.MultivariateNormal((jnp.eye(4) + dt * jnp.eye(4, k=2)) @ x, drift * dt * jnp.eye(4))

    return pi.System(
        prior=dist.MultivariateNormal(jnp.array([5.0, 5.0, 0.0, 0.0]), jnp.eye(4)),
        move=move,
        see={
            "gps": pi.Sensor(lambda x: dist.Normal(x[:2], 0.5).to_event(1), missing="nan"),
            "range": lambda x: dist.Normal(jnp.linalg.norm(x[:2]), 0.3),
        },
    )


def log_of(num_events: int, seed: int) -> pi.Log:
    """Positions and ranges in turn, of a boat that hardly moves."""
    rng = np.random.default_rng(seed)
    seen = [
        ("gps", 5 + 0.5 * rng.normal(size=2)) if k % 2 else ("range", 7.07 + 0.3 * rng.normal())
        for k in range(num_events)
    ]
    return pi.Log([(0.1 * (k + 1), sensor, value) for k, (sensor, value) in enumerate(seen)])


def scans(method: Any, log: pi.Log) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A run over a log, and its compiled scan alone on arrays that are there already."""
    filter = boat(0.05).filter(method)
    kept: dict[str, Any] = {}
    inner = filter.scan

    def scan(*given: Any) -> Any:
        kept["given"] = given
        return inner(*given)

    filter.scan = scan  # what `run` hands to the scan
    filter.run(log)
    filter.scan = inner
    return lambda: filter.run(log).means, lambda: inner(*kept["given"])


#: Method, and the length of its log.
FILTERS = {"extended Kalman filter": (smc.EKF(), 20_000), "particle filter, N = 1000": (smc.ParticleFilter(1000), 1000)}


def logs(name: str, quick: bool, seed: int) -> Iterator[Row]:
    """A whole log."""
    method, num_events = FILTERS[name]
    num_events, rounds = (num_events // 40, 5) if quick else (num_events, 61)
    log = log_of(num_events, seed)
    whole, ours = scans(method, log)
    _, bare = scans(Unchecked(method), log)
    calls = {"with flags": ours, "without": bare}
    yield compared(f"{name}, a log of {num_events} events: flags over none", calls, rounds)
    calls = {"run": whole, "its scan alone": ours}
    yield compared(f"{name}, a log of {num_events} events: door checks and report over none", calls, rounds, None)


def streams(name: str, quick: bool) -> Iterator[Row]:
    """Event by event."""
    method, _ = FILTERS[name]
    num_steps, rounds = (20, 5) if quick else (200, 61)
    steps = {"with flags": stepping(method, num_steps), "without": stepping(Unchecked(method), num_steps)}
    yield compared(f"{name}, {num_steps} compiled steps of a stream: flags over none", steps, rounds)
    steps = {"Filter.update": updating(method, num_steps), "compiled steps alone": stepping(method, num_steps)}
    yield compared(f"{name}, {num_steps} updates of a stream: door checks over none", steps, rounds, None)


def stepping(method: Any, num_steps: int) -> Callable[[], Any]:
    """The compiled step of a stream, again and again, nothing looked at in between."""
    filter = boat(0.05).filter(method)
    belief = filter.start(0, 0.0)
    belief, _ = filter.update(belief, 0.1, "range", 7.1)
    kept: list[Any] = []
    call = filter._call

    def watched(*given: Any) -> Any:
        kept.append(given)
        return call(*given)

    filter._call = watched
    filter.update(belief, 0.2, "range", 7.1)
    make, channel, _, dt, event = kept[-1]

    def steps() -> Any:
        now = belief
        for _ in range(num_steps):
            state, evidence, _ = jax.block_until_ready(call(make, channel, now, dt, event))
            now = eqx.tree_at(lambda b: (b.state, b.evidence), now, (state, evidence))
        return now.state

    assert make is compiled.step
    return steps


def updating(method: Any, num_steps: int) -> Callable[[], Any]:
    """The same through the door, flags read after each."""
    filter = boat(0.05).filter(method)
    start = filter.start(0, 0.0)

    def steps() -> Any:
        belief = start
        for k in range(num_steps):
            belief, _ = filter.update(belief, 0.1 * (k + 1), "range", 7.1)
        return belief.state

    return steps


@pi.model
def logistic(x: Any) -> None:
    """Logistic regression."""
    b = pi.sample("b", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with pi.plate("rows", len(x)):
        pi.sample("y", dist.Bernoulli(logits=x @ b))


def data(num_rows: int, seed: int) -> Any:
    """A program with ten coefficients."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num_rows, 10)).astype(np.float32)
    y = rng.random(num_rows) < 1 / (1 + np.exp(-x @ rng.normal(size=10)))
    return logistic(x).given(y=y.astype(np.int32))


def chain(quick: bool, seed: int) -> Row:
    """A chain of NUTS, with and without its record of divergences, energies and depths."""
    rng = np.random.default_rng(seed)
    x = jnp.asarray(rng.normal(size=(200, 10)), jnp.float32)
    y = jnp.asarray(rng.random(200) < 1 / (1 + np.exp(-x @ rng.normal(size=10))))

    def logdensity(operands: Any, b: Any) -> Any:
        logits = operands[0] @ b
        return jnp.sum(jnp.where(operands[1], -jax.nn.softplus(-logits), -jax.nn.softplus(logits))) - 0.5 * b @ b

    num_steps = 20 if quick else 500
    geometry = nuts.Geometry(jnp.zeros(10, jnp.float32), jnp.zeros(0, jnp.float32))
    state = nuts.start_chain(logdensity, "diagonal", (x, y), geometry, jnp.zeros(10, jnp.float32))
    state = eqx.tree_at(lambda s: s.step_size, state, nuts.start_step_size(jnp.float32(0.15)))

    def run(state: Any, key: Any) -> Any:
        settings = (jnp.float32(0.8), jnp.int32(0), jnp.int32(num_steps), jnp.bool_(False), jnp.bool_(False))
        return nuts.advance_chain(logdensity, "diagonal", 10, num_steps, (x, y), geometry, *settings, state, key)

    key = jax.random.key(seed)

    def draws_alone(state: Any, key: Any) -> Any:
        end, draws = run(state, key)
        return end.z, draws.x

    pruned, used = _jax.without_dead_code(jax.make_jaxpr(draws_alone)(state, key))
    leaves = [leaf for leaf, there in zip(jax.tree.leaves((state, key)), used, strict=True) if there]
    bare, whole = jax.jit(_jax.jaxpr_as_fun(pruned)), jax.jit(run)
    np.testing.assert_array_equal(bare(*leaves)[1], whole(state, key)[1].x)
    calls = {"with flags": lambda: whole(state, key), "without": lambda: bare(*leaves)}
    return compared(f"NUTS, {num_steps} steps of logistic regression: flags over none", calls, 5 if quick else 61)


def doors(quick: bool, seed: int) -> Iterator[Row]:
    """What `pi.infer` looks at before it starts, beside the run."""
    program = data(100 if quick else 10_000, seed)
    operands, rounds = program.operands, 3 if quick else 21
    method = pi.NUTS(num_warmup=50, num_draws=50) if quick else pi.NUTS(num_warmup=300, num_draws=300)

    def checks() -> None:
        door.check_operands(program, program.staged, operands)
        door.check_rows(program.name, program.staged)
        door.check_reachable(program)

    calls = {"checks": checks, "pi.infer, compiled before": lambda: pi.infer(program, method, seed=seed).draws}
    rows = len(program.operands) and jax.tree.leaves(operands)[0].shape[0]
    yield compared(f"pi.infer on {rows} rows: door checks over the whole run", calls, rounds, TARGET - 1)
    arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(operands)]
    calls = {"checks": checks, "np.isfinite of the data": lambda: [np.isfinite(a).all() for a in arrays]}
    yield compared(f"pi.infer on {rows} rows: door checks over a pass over the data", calls, rounds, None)


def main(argv: list[str] | None = None) -> list[Row]:
    """Measure, print and write the rows."""
    args = parser(__doc__.splitlines()[0]).parse_args(argv)
    rows: list[Row] = []
    for name in FILTERS:
        of_log = functools.partial(logs, name, args.quick, args.seed)
        rows += rows_of(f"{name}, a log: flags over none", "ratio", TARGET, of_log)
        of_stream = functools.partial(streams, name, args.quick)
        rows += rows_of(f"{name}, a stream: flags over none", "ratio", TARGET, of_stream)
    rows += rows_of("NUTS: flags over none", "ratio", TARGET, lambda: chain(args.quick, args.seed))
    rows += rows_of("pi.infer: door checks", "ratio", TARGET - 1, lambda: doors(args.quick, args.seed))
    write(args.json, "check_cost", args.quick, rows)
    return rows


if __name__ == "__main__":
    main()
