"""Kill runs of every kind with `kill -9` at random moments; what is continued must end in the same bits.

    python -m benchmarks.resume --json benchmarks/results/resume.json [--only KIND ...]

Each run is a process of its own, with a checkpoint every tenth of a second where saving is cheap. It is killed, started
again, killed again, and compared with one that nobody disturbed.
"""

from __future__ import annotations

import json
import multiprocessing
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.record import Row, parser, rows_of, write

_LONGEST = 900.0  # seconds for a run that is left alone
Numbers = Mapping[str, Any]


def regression() -> Any:
    """A program with ten coefficients, badly scaled, so that a run takes some seconds."""
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import probinf as pi

    @pi.model
    def linear(x):
        b = pi.sample("b", dist.Normal(jnp.zeros(10), 10.0 ** jnp.linspace(-1.0, 1.0, 10)).to_event(1))
        noise = pi.sample("noise", dist.HalfNormal(1.0))
        pi.sample("y", dist.Normal(x @ b, noise).to_event(1))

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 10))
    return linear(x).given(y=x @ rng.normal(size=10) + rng.normal(size=200))


def walk() -> Any:
    """A program with a loop: a random walk of unknown spread, seen 100 times."""
    import jax
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import probinf as pi

    @pi.model
    def seen(ys):
        def step(x, y):
            x = pi.sample("x", dist.Normal(x, spread))
            pi.observe("y", dist.Normal(x, 0.5), y)
            return x, None

        spread = pi.sample("spread", dist.HalfNormal(1.0))
        jax.lax.scan(step, jnp.zeros(()), ys)

    rng = np.random.default_rng(0)
    return seen(np.cumsum(rng.normal(size=100)) + rng.normal(size=100))


def inferred(program: Any, method: Any, checkpoint: Any) -> Numbers:
    """Draws, weights and evidence of a posterior."""
    import probinf as pi

    posterior = pi.infer(program, method, seed=1, progress=False, checkpoint=checkpoint)
    evidence = {} if posterior.log_evidence is None else {"log_evidence": posterior.log_evidence}
    return {"log_weights": posterior.weights, **evidence, **posterior.sample_stats, **posterior.draws}


def nuts(checkpoint: Any) -> Numbers:
    """Warm-up and 4000 draws of two chains."""
    import probinf as pi

    return inferred(regression(), pi.NUTS(num_warmup=500, num_draws=4000, num_chains=2), checkpoint)


def chees(checkpoint: Any) -> Numbers:
    """Sixteen chains that adapt together."""
    import probinf as pi

    return inferred(regression(), pi.ChEES(num_draws=1500, num_chains=16), checkpoint)


def tempered(checkpoint: Any) -> Numbers:
    """Four hundred particles from prior to posterior, temperature by temperature."""
    import smc

    return inferred(regression(), smc.TemperedSMC(400, num_leapfrog=20, threshold=0.9), checkpoint)


def smc2(checkpoint: Any) -> Numbers:
    """Two runs of 64 parameter particles with 64 state particles each."""
    import smc

    return inferred(walk(), smc.SMC2(64, 64, num_runs=2), checkpoint)


def pmmh(checkpoint: Any) -> Numbers:
    """Two chains on the evidence of a particle filter, whose size the warm-up chooses."""
    import smc

    return inferred(walk(), smc.PMMH(num_warmup=200, num_draws=400, num_chains=2, paths=True), checkpoint)


def stream(checkpoint: Any) -> Numbers:
    """Twenty thousand events, one by one, through a particle filter."""
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import probinf as pi
    import smc

    system = pi.System(
        prior=dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        move=lambda x, dt: dist.Normal(x, jnp.sqrt(dt)).to_event(1),
        see={"gps": lambda x: dist.Normal(x, 0.5).to_event(1)},
    )
    values = np.cumsum(np.random.default_rng(2).normal(size=(20_000, 2)), axis=0)
    with system.filter(smc.ParticleFilter(500)).stream(checkpoint, key=0, t0=0.0) as running:
        for i in range(running.num_events, len(values)):
            running.update(float(i + 1), "gps", values[i])
    belief = running.belief
    return {"mean": belief.mean, "cov": belief.cov, "log_evidence": belief.log_evidence}


def continual(checkpoint: Any) -> Numbers:
    """Thirty tasks of permuted digits, with a network that replays a memory."""
    import jax

    import continual

    stream = continual.permuted(continual.load("digits"), 30)
    learner = continual.Replay(stream.num_classes, continual.ReservoirMemory(200))
    result = continual.run(learner, stream, seed=1, checkpoint=checkpoint)
    belief = {f"belief_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(result.belief))}
    return {"accuracy": result.accuracy, "nll": result.nll, "brier": result.brier, **belief}


def network(checkpoint: Any) -> Numbers:
    """Training of a small network of transformers_gmm."""
    import jax
    from flax import nnx

    from transformers_gmm.config import TrainingConfig
    from transformers_gmm.tasks.conjugate import Conjugate
    from transformers_gmm.training import train

    run = train(Conjugate(2), TrainingConfig(steps=3000, batch=64, seed=1), checkpoint=checkpoint, progress=False)
    weights = {f"weight_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(nnx.state(run.network("last"))))}
    return {"losses": run.losses, "held_out": run.held_out, **weights}


#: What runs, by its name: from a checkpoint to the numbers it ends with.
KINDS: dict[str, Callable[[Any], Numbers]] = {
    "nuts": nuts,
    "chees": chees,
    "tempered": tempered,
    "smc2": smc2,
    "pmmh": pmmh,
    "stream": stream,
    "continual": continual,
    "network": network,
}


def work(kind: str, home: str, name: str, is_ready: Any) -> None:
    """One run of some kind, to its end, in a process of its own; its numbers go to a file."""
    import jax

    import probinf as pi
    from probinf.runs.checkpoint import CheckpointFolder

    load = CheckpointFolder.load

    def loaded(self: CheckpointFolder) -> Any:
        saved = load(self)
        is_ready.set()  # moments count from here: before it there is nothing to lose
        return saved

    CheckpointFolder.load = loaded
    jax.config.update("jax_compilation_cache_dir", f"{home}/cache")  # what was compiled is shared
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    found = KINDS[kind](pi.Checkpoint(f"{home}/{name}", every=0.1))
    arrays = {key: jax.random.key_data(v) if _is_key(v) else np.asarray(v) for key, v in found.items()}
    np.savez(f"{home}/{name}.npz", allow_pickle=False, **arrays)


def _is_key(value: Any) -> bool:
    import jax

    return isinstance(value, jax.Array) and jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


#: Processes are forked from one that has imported the packages and done nothing else: a fresh start without the wait.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["benchmarks.record", "continual", "smc", "numpyro.distributions"])


class Run:
    """A process that starts a run, or continues it."""

    def __init__(self, kind: str, home: pathlib.Path, name: str) -> None:
        self.folder, self.out = home / name, home / f"{name}.npz"
        is_ready = FORKS.Event()
        self._process = FORKS.Process(target=work, args=(kind, str(home), name, is_ready))
        self._process.start()
        while not is_ready.wait(1.0) and self._process.exitcode is None:
            pass
        self.began = time.perf_counter()

    def end(self, seconds: float = _LONGEST) -> float | None:
        """Wait for its end and return how long it took; None if it goes on.

        Raises:
            RuntimeError: it broke down.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            return None
        if self._process.exitcode:
            raise RuntimeError(f"a run broke down with status {self._process.exitcode}; see stderr")
        return time.perf_counter() - self.began

    def kill(self) -> bool:
        """Kill it as `kill -9` does; whether it leaves a checkpoint."""
        self._process.kill()
        self._process.join()
        return any(self.folder.glob("manifest-*.json"))

    def numbers(self) -> dict[str, np.ndarray]:
        """What it ended with."""
        with np.load(self.out, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}


def differ(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    """Whether two runs differ in a bit of any array."""
    return a.keys() != b.keys() or any(a[n].dtype != b[n].dtype or a[n].tobytes() != b[n].tobytes() for n in a)


def kills(kind: str, num_kills: int, seed: int) -> Iterator[Row]:
    """Runs that are killed until so many kills have been survived; rows of what was found."""
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        home = pathlib.Path(name)
        # Twice: the second finds everything compiled, and its time is what the moments are drawn from.
        first = Run(kind, home, "first")
        first.end()
        whole = Run(kind, home, "whole")
        alone = whole.end()
        if alone is None or differ(first.numbers(), whole.numbers()):
            raise RuntimeError("two runs that nobody disturbed differ, or do not end")
        done = continued = different = ended = 0
        while done < num_kills:
            while True:
                run = Run(kind, home, f"run{ended}")
                if run.end(float(rng.uniform(0.0, alone)) if done < num_kills else _LONGEST) is not None:
                    break
                continued += run.kill()
                done += 1
            different += differ(run.numbers(), whole.numbers())
            ended += 1
            print(f"{kind}: {done} kills, {ended} runs ended, {different} differ", flush=True)
    note = f"{ended} runs that ended after {done} kills at moments drawn over all {alone:.1f} s of a run"
    seconds = time.perf_counter() - begin
    yield Row(f"{kind}: runs that differ in a bit", different, "runs", 0, "lower", note, n=done, seconds=seconds)
    yield Row(f"{kind}: kills", done, "kills", 50, "higher", n=done, seconds=seconds)
    yield Row(
        f"{kind}: kills that left a checkpoint to continue", continued, "kills", None, "higher", n=done, seconds=seconds
    )


def others(path: pathlib.Path, kinds: Sequence[str]) -> list[Row]:
    """Recorded rows of other kinds, which `--only` keeps."""
    recorded = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = [row for row in recorded if row["claim"].split(":")[0] not in kinds]
    return [Row(**{name: value for name, value in row.items() if name != "met"}) for row in kept]


def main() -> int:
    """Kill and compare every kind."""
    options = parser(str(__doc__).splitlines()[0])
    options.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS))
    options.add_argument("--kills", type=int, help="kills of each kind; 50 by default, 3 with --quick")
    args = options.parse_args()
    wanted = args.kills or (3 if args.quick else 50)
    rows = [] if args.json is None else others(args.json, args.only)
    for kind in args.only:
        rows += rows_of(
            f"{kind}: runs that differ in a bit", "runs", 0, lambda kind=kind: kills(kind, wanted, args.seed)
        )
        write(args.json, "resume", args.quick, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
