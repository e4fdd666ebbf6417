"""Train the networks that ship with transformers_gmm, several at a time.

    python scripts/train_networks.py --tasks growth beacons --out weights --seconds 300

With --seconds each task gets that much wall time, and the schedule is stretched over the steps that fit, from the speed
of the latest pieces; without it, the steps of the task's own settings are run. Each task is a process of its own, so
that they share a GPU. What was used is written into every file's header; the weights of the last step, beside those of
the lowest held-out loss, go into the folder `last`.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

_SAVE_SECONDS = 45.0  # between two files of the best weights so far
_WINDOWS = {
    "horizon": "steps of a training series, for tasks that filter",
    "unroll": "steps through which a gradient flows, for tasks that filter",
    "groups": "optimiser steps for each batch of series, for tasks that filter",
}


def train_one(name: str, given: argparse.Namespace) -> None:
    """Train one task; the best network and its record are saved now and then, and at the end."""
    import jax

    jax.config.update("jax_default_matmul_precision", "highest")
    from flax import nnx

    from probinf.errors import InferenceError
    from transformers_gmm.tasks.registry import make_task
    from transformers_gmm.training import Training
    from transformers_gmm.weights import load_network, save_network

    began = time.perf_counter()
    task = make_task(name)
    windows = {key: getattr(given, key) for key in _WINDOWS if getattr(given, key) is not None}
    task = dataclasses.replace(task, **windows)
    changes = {"batch": given.batch, "steps": given.steps, "learning_rate": given.rate, "precision": given.precision}
    config = dataclasses.replace(task.training, **{key: value for key, value in changes.items() if value is not None})
    network = task.network(nnx.Rngs(config.seed))
    earlier = None
    if given.start is not None and (given.start / f"{name}.safetensors").is_file():
        found, header = load_network(given.start / f"{name}.safetensors", {type(network).__name__: type(network)})
        if found.config == task.config:
            network, earlier = found, header["record"]
        else:
            print(f"{name}: the weights to start from are of another size; started afresh", flush=True)
    devices = jax.devices() if len(jax.devices()) > 1 else None  # each takes its share of every batch
    loop = Training(task, config, network, every=given.every, devices=devices)
    kind = type(network).__name__

    def save() -> None:
        thin = max(len(loop.losses) // 100, 1)
        record = {
            "training": dataclasses.asdict(loop.config) | windows,
            "steps_done": loop.done,
            "optimiser_steps": loop.done * loop.updates,
            "seconds": round(time.perf_counter() - began, 1),
            "device": jax.devices()[0].device_kind,
            "loss": [round(float(x), 6) for x in loop.losses[::thin]],
            "held_out": [round(float(x), 6) for x in loop.held_out[::thin]],
            "best_held_out": float(loop.best_loss),
        } | ({} if earlier is None else {"started_from": earlier})
        for folder, which in ((given.out, "best"), (given.out / "last", "last")):
            save_network(folder / f"{name}.safetensors", loop.network(which), kind=kind, task=name, record=record)

    loop.advance()
    first = saved = time.perf_counter()
    print(f"{name}: first piece after {first - began:.0f} s, held out {loop.held_out[0]:.5f}", flush=True)
    ends = [first]
    while not loop.is_finished:
        if given.seconds is not None and len(ends) > 1:
            # Other runs share the device, so the speed changes: the schedule stretches over what can still be done.
            recent = ends[-11:]
            each = (recent[-1] - recent[0]) / (len(recent) - 1)
            left = int((given.seconds - (ends[-1] - began)) / each)
            if left < 1:
                break
            loop.config = dataclasses.replace(config, steps=loop.done + left * loop.every)
        try:
            loop.advance()
        except InferenceError as error:  # what was best before stays in the file
            save()
            sys.exit(f"{name}: {error}")
        ends.append(time.perf_counter())
        if len(ends) in (2, 4) or len(ends) % 10 == 0:
            speed = (ends[-1] - ends[-2]) / loop.every
            losses = f"{loop.losses[-1]:.5f} {loop.held_out[-1]:.5f}"
            print(f"{name}: {loop.done} of {loop.config.steps} {losses} {1e3 * speed:.1f} ms a step", flush=True)
        if ends[-1] - saved > _SAVE_SECONDS:
            save()
            saved = time.perf_counter()
    save()
    took = time.perf_counter() - began
    print(f"{name}: done {loop.done} steps in {took:.0f} s, held out {float(loop.best_loss):.5f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("weights"))
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int)
    parser.add_argument("--rate", type=float, help="learning rate at its peak")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), help="of the network's products")
    for name, text in _WINDOWS.items():
        parser.add_argument(f"--{name}", type=int, help=text)
    parser.add_argument("--start", type=Path, help="folder with earlier weights to go on from")
    parser.add_argument("--every", type=int, default=20, help="steps in one compiled piece")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if len(given.tasks) == 1:
        train_one(given.tasks[0], given)
        return
    names = ("seconds", "steps", "batch", "rate", "precision", "start", "every", *_WINDOWS)
    chosen = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    rest = [part for name, value in chosen.items() for part in (f"--{name}", str(value))]
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
