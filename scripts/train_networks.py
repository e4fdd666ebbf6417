"""Train the networks that ship with transformers_gmm, several at a time.

    python scripts/train_networks.py --tasks growth beacons --out weights --seconds 300

With --seconds each task gets that much wall time, and the number of steps is set from the speed of its first pieces;
without it, the steps of the task's own settings are run. Each task is a process of its own, so that they share a GPU.
What was used is written into every file's header.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path


def train_one(
    name: str, out: Path, seconds: float | None, steps: int | None, batch: int | None, start: Path | None, every: int
) -> None:
    """Train one task and save its network and its record."""
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    from flax import nnx

    from transformers_gmm.tasks.registry import make_task
    from transformers_gmm.training import Training
    from transformers_gmm.weights import load_network, save_network

    began = time.perf_counter()
    task = make_task(name)
    config = task.training
    if batch is not None:
        config = dataclasses.replace(config, batch=batch)
    if steps is not None:
        config = dataclasses.replace(config, steps=steps)
    network = task.network(nnx.Rngs(config.seed))
    earlier = None
    if start is not None and (start / f"{name}.safetensors").is_file():
        network, header = load_network(start / f"{name}.safetensors", {type(network).__name__: type(network)})
        earlier = header["record"]
    loop = Training(task, config, network, every=every)
    loop.advance()
    first = time.perf_counter()
    print(f"{name}: first piece after {first - began:.0f} s", flush=True)
    if seconds is not None:
        for _ in range(2):
            loop.advance()
        each = (time.perf_counter() - first) / (2 * loop.every)
        left = seconds - (time.perf_counter() - began)
        total = loop.done + max(int(0.97 * left / each) // loop.every, 1) * loop.every
        # The schedule stretches over what can be done; the steps so far lie within the warm-up.
        loop.config = dataclasses.replace(config, steps=total)
        print(f"{name}: {each * 1e3:.2f} ms a step, {total} steps", flush=True)
    while not loop.is_finished and (seconds is None or time.perf_counter() - began < seconds + 10):
        loop.advance()
        if loop.done % (loop.every * 5) == 0:
            print(f"{name}: {loop.done} {loop.losses[-1]:.5f} {loop.held_out[-1]:.5f}", flush=True)
    took = time.perf_counter() - began
    thin = max(len(loop.losses) // 100, 1)
    record = {
        "training": dataclasses.asdict(loop.config),
        "steps_done": loop.done,
        "optimiser_steps": loop.done * loop.updates,
        "seconds": round(took, 1),
        "device": jax.devices()[0].device_kind,
        "loss": [round(float(x), 6) for x in loop.losses[::thin]],
        "held_out": [round(float(x), 6) for x in loop.held_out[::thin]],
        "best_held_out": float(loop.best_loss),
    } | ({} if earlier is None else {"started_from": earlier})
    kind = type(loop.network()).__name__
    save_network(out / f"{name}.safetensors", loop.network(), kind=kind, task=name, record=record)
    save_network(out / f"{name}.last.safetensors", loop.network("last"), kind=kind, task=name, record=record)
    print(f"{name}: done {loop.done} steps in {took:.0f} s, held out {float(loop.best_loss):.5f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("weights"))
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--start", type=Path, help="folder with earlier weights to go on from")
    parser.add_argument("--every", type=int, default=20, help="steps in one compiled piece")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if len(given.tasks) == 1:
        train_one(given.tasks[0], given.out, given.seconds, given.steps, given.batch, given.start, given.every)
        return
    rest = [part for name in ("seconds", "steps", "batch", "start", "every") if getattr(given, name) is not None
            for part in (f"--{name}", str(getattr(given, name)))]  # fmt: skip
    runs = {
        name: subprocess.Popen([sys.executable, __file__, "--tasks", name, "--out", str(given.out), *rest])
        for name in given.tasks
    }
    codes = {name: run.wait() for name, run in runs.items()}
    print(json.dumps(codes))
    if any(codes.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
