"""Kill runs of every kind with `kill -9` at random moments; what is continued must end in the same bits.

    python -m benchmarks.resume --json benchmarks/results/resume.json

Each run is a process of its own, with a checkpoint every few tenths of a second. It is killed, started again, killed
again, and compared with one that nobody disturbed. `--worker KIND` is what those processes run.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.record import Row, parser, rows_of, write

_LONGEST = 600.0  # seconds for a run that is left alone


def work(kind: str, folder: pathlib.Path, out: pathlib.Path) -> None:
    """One run of some kind, to its end; its numbers go to `out`."""
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import probinf as pi
    import smc

    @pi.model
    def regression(x):  # ten coefficients, badly scaled, so that a run takes some seconds
        b = pi.sample("b", dist.Normal(jnp.zeros(10), 10.0 ** jnp.linspace(-1.0, 1.0, 10)).to_event(1))
        noise = pi.sample("noise", dist.HalfNormal(1.0))
        pi.sample("y", dist.Normal(x @ b, noise).to_event(1))

    @pi.model
    def walk(ys):
        def step(x, y):
            x = pi.sample("x", dist.Normal(x, spread))
            pi.observe("y", dist.Normal(x, 0.5), y)
            return x, None

        import jax

        spread = pi.sample("spread", dist.HalfNormal(1.0))
        jax.lax.scan(step, jnp.zeros(()), ys)

    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 10))
    program = regression(x).given(y=x @ rng.normal(size=10) + rng.normal(size=200))
    checkpoint = pi.Checkpoint(folder, every=0.1)
    if kind == "nuts":
        method, target = pi.NUTS(num_warmup=500, num_draws=4000, num_chains=2), program
    elif kind == "chees":
        method, target = pi.ChEES(num_draws=1500, num_chains=16), program
    elif kind == "tempered":
        method, target = smc.TemperedSMC(1000, num_leapfrog=20, threshold=0.9), program
    elif kind == "smc2":
        method, target = smc.SMC2(64, 64, num_runs=2), walk(np.cumsum(rng.normal(size=100)) + rng.normal(size=100))
    else:
        stream(checkpoint, out)
        return
    posterior = pi.infer(target, method, seed=1, progress=False, checkpoint=checkpoint)
    evidence = np.asarray(posterior.log_evidence if posterior.log_evidence is not None else 0.0)
    arrays = {"log_weights": posterior.weights, "log_evidence": evidence, **posterior.draws}
    np.savez(out, allow_pickle=False, **arrays)


def stream(checkpoint: Any, out: pathlib.Path) -> None:
    """Four thousand events, one by one, through a particle filter."""
    import jax.numpy as jnp
    import numpyro.distributions as dist

    import probinf as pi
    import smc

    system = pi.System(
        prior=dist.Normal(jnp.zeros(2), 1.0).to_event(1),
        move=lambda x, dt: dist.Normal(x, jnp.sqrt(dt)).to_event(1),
        see={"gps": lambda x: dist.Normal(x, 0.5).to_event(1)},
    )
    values = np.cumsum(np.random.default_rng(2).normal(size=(4000, 2)), axis=0)
    with system.filter(smc.ParticleFilter(500)).stream(checkpoint, key=0, t0=0.0) as running:
        for i in range(running.num_events, len(values)):
            running.update(float(i + 1), "gps", values[i])
    belief = running.belief
    np.savez(out, mean=belief.mean, cov=belief.cov, log_evidence=np.asarray(belief.log_evidence))


KINDS = ("nuts", "chees", "tempered", "smc2", "stream")


def start(kind: str, folder: pathlib.Path, out: pathlib.Path, cache: pathlib.Path) -> subprocess.Popen:
    """A process that runs or continues a run; what was compiled is shared through `cache`."""
    command = [sys.executable, "-m", "benchmarks.resume", "--worker", kind, "--folder", str(folder), "--out", str(out)]
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


def numbers(path: pathlib.Path) -> dict[str, np.ndarray]:
    """What a run left."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def kills(kind: str, num_kills: int, seed: int) -> Iterator[Row]:
    """Runs that are killed until so many kills have been survived; rows of what was found."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        home = pathlib.Path(name)
        # Twice, so that the second finds everything compiled: its time is what a kill is drawn from.
        for run in ("first", "whole"):
            alone = time.perf_counter()
            process = start(kind, home / run, home / f"{run}.npz", home / "cache")
            _, message = process.communicate(timeout=_LONGEST)
            if process.returncode:
                raise RuntimeError(message.decode()[-300:])
            alone = time.perf_counter() - alone
        whole = numbers(home / "whole.npz")
        done = survived = different = continued = 0
        while done < num_kills:
            folder, out = home / f"run{survived}", home / f"run{survived}.npz"
            while True:
                process = start(kind, folder, out, home / "cache")
                try:
                    if done < num_kills:
                        process.wait(timeout=float(rng.uniform(0.2, 1.0)) * alone)
                    else:
                        process.wait(timeout=_LONGEST)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    done += 1
                    continued += any(folder.glob("manifest-*")) if folder.exists() else 0
                    continue
                break
            if process.returncode:
                raise RuntimeError((process.stderr.read() if process.stderr else b"").decode()[-300:])
            found = numbers(out)
            same = found.keys() == whole.keys() and all(np.array_equal(found[n], whole[n]) for n in whole)
            different += not same
            survived += 1
    note = f"{survived} runs that ended after {done} kills, {continued} of them with a checkpoint to continue"
    yield Row(f"{kind}: runs that differ in a bit", different, "runs", 0, "lower", note, n=done)
    yield Row(f"{kind}: kills", done, "kills", None, "higher", note, seconds=time.perf_counter() - begin)


def main() -> int:
    """Kill and compare every kind, or be one of the processes."""
    options = parser(str(__doc__).splitlines()[0])
    options.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    options.add_argument("--kills", type=int, help="kills of each kind; 50 by default, 3 with --quick")
    options.add_argument("--worker", choices=KINDS, help=argparse.SUPPRESS)
    options.add_argument("--folder", type=pathlib.Path, help=argparse.SUPPRESS)
    options.add_argument("--out", type=pathlib.Path, help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.worker:
        work(args.worker, args.folder, args.out)
        return 0
    wanted = args.kills or (3 if args.quick else 50)
    rows: list[Row] = []
    for kind in args.only:
        rows += rows_of(
            f"{kind}: runs that differ in a bit", "runs", 0, lambda kind=kind: kills(kind, wanted, args.seed)
        )
        write(args.json, "resume", args.quick, rows)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
