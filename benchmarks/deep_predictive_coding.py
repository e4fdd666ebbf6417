"""Deep predictive-coding networks: time of a training step, and accuracy on MNIST and Fashion-MNIST.

    XLA_FLAGS= python -m benchmarks.deep_predictive_coding --task step --json FILE
    python -m benchmarks.deep_predictive_coding --task accuracy --data mnist --seeds 5 --folder DATA --json FILE

FILE is benchmarks/results/deep_predictive_coding.json; rows of other tasks that it holds stay. DATA holds the data sets
as `continual.load` reads them. `--task select` prints accuracies of the candidate settings on 10,000 images kept back
from the training set; `--task accuracy` trains on all of it with the first of them, or with the best (`--choose`), and
looks at the test set once. pcx needs an older JAX, so it runs in an environment of its own, `.venv-pcx` (or the one
that PROBINF_PCX names), which this script builds where it is missing.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import continual
from benchmarks import peer_environment, record
from benchmarks.record import Row, rows_of
from probinf.predictive_coding import deep

Part = tuple[np.ndarray, np.ndarray]  # rows in [-1, 1] and labels
SIZES = (784, 128, 128, 128, 10)
BATCH = 128
TARGETS = {"mnist": 98.4, "fashion-mnist": 89.6}
PEER, PEER_SCRIPT = "pcx==0.6.3", pathlib.Path(__file__).with_name("deep_predictive_coding_peer.py")
PEER_ENVIRONMENT = pathlib.Path(os.environ.get("PROBINF_PCX", ".venv-pcx"))
_PCX, _JPC = 1.6, 2.0  # how much faster to be


@dataclasses.dataclass(frozen=True)
class Setting:
    """How a network is trained: incremental predictive coding, AdamW with warm-up and a cosine.

    Pixels lie in [-1, 1]; `noise` is the standard deviation of what is added to them, anew in every batch.
    """

    activation: str
    num_steps: int
    step_size: float
    momentum: float
    learning_rate: float
    decay: float
    noise: float = 0.0
    epochs: int = 25

    @property
    def rule(self) -> deep.AbstractRule:
        return deep.Incremental(self.num_steps, optax.sgd(self.step_size, momentum=self.momentum))

    def optimiser(self, batches: int) -> optax.GradientTransformation:
        """Linear warm-up to 1.1 times the rate over a tenth of the steps, then a cosine down to 0.1 times."""
        total, rate = batches * self.epochs * self.num_steps, self.learning_rate
        schedule = optax.warmup_cosine_decay_schedule(rate, 1.1 * rate, total // 10, total, 0.1 * rate)
        return optax.adamw(schedule, weight_decay=self.decay)


#: Tried on the validation split, noise aside as published for MNIST; `--task accuracy` takes the first, which did best
#: there, unless told to choose.
CANDIDATES = {
    "mnist": [Setting("leaky_relu", 8, 0.85, 0.35, 2.5e-4, 0.033, noise) for noise in (0.3, 0.0, 0.6, 1.0)],
    "fashion-mnist": [Setting("leaky_relu", 8, 0.85, 0.35, 2.5e-4, 0.033, noise) for noise in (0.0, 0.1, 0.2)],
}


# -- accuracy


def rows_and_labels(part: continual.datasets.Examples) -> Part:
    """Pixels in [-1, 1], and labels."""
    return part.inputs.reshape(len(part.inputs), -1).astype(np.float32) / 127.5 - 1.0, part.targets


def accuracies(
    setting: Setting,
    train: Part,
    test: Part,
    seeds: range,
    note: Callable[[str], None],
) -> tuple[np.ndarray, float]:
    """Accuracy (%) of each seed after the last epoch, all seeds side by side, and seconds per epoch."""
    x, y = jnp.asarray(train[0]), jnp.asarray(deep.one_hot(train[1], SIZES[-1]))
    batches = len(x) // BATCH
    rule, optimiser = setting.rule, setting.optimiser(batches)
    keys = [jax.random.split(jax.random.key(seed)) for seed in seeds]
    networks = [deep.mlp(SIZES, key=key[0], activation=setting.activation) for key in keys]
    static = eqx.filter(networks[0], eqx.is_array, inverse=True)
    arrays = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(eqx.filter(n, eqx.is_array) for n in networks))

    def initial(arrays: Any) -> Any:
        return optimiser.init(deep.trainable(eqx.combine(arrays, static))[0])

    def batch(carry: Any, now: tuple[jax.Array, jax.Array]) -> Any:
        (arrays, state), (chosen, key) = carry, now
        noise = setting.noise * jax.random.normal(key, (BATCH, SIZES[0])) if setting.noise else 0.0
        clamp = deep.Clamp(x[chosen] + noise, y[chosen])
        moved, state, energy = rule.step(eqx.combine(arrays, static), state, optimiser, clamp)
        return (eqx.filter(moved, eqx.is_array), state), energy

    def epoch(arrays: Any, state: Any, key: jax.Array) -> Any:
        key_order, key_noise = jax.random.split(key)
        order = jax.random.permutation(key_order, len(x))[: batches * BATCH].reshape(batches, BATCH)
        keys = jax.random.split(key_noise, batches)
        (arrays, state), energy = jax.lax.scan(batch, (arrays, state), (order, keys))
        return arrays, state, jnp.mean(energy)

    advance, held_out = jax.jit(jax.vmap(epoch), donate_argnums=(0, 1)), jnp.asarray(test[0])
    classify = jax.jit(jax.vmap(lambda a: jnp.argmax(eqx.combine(a, static)(held_out), axis=1)))
    state, times = jax.jit(jax.vmap(initial))(arrays), []
    for number in range(setting.epochs):
        began = time.perf_counter()
        epoch_keys = jnp.stack([jax.random.fold_in(key[1], number) for key in keys])
        arrays, state, energy = jax.block_until_ready(advance(arrays, state, epoch_keys))
        times.append(time.perf_counter() - began)
        note(f"epoch {number + 1}: energy {np.mean(energy):.4f}, {times[-1]:.1f} s")
    correct = np.asarray(classify(arrays)) == test[1][None]
    return 100.0 * correct.mean(axis=1), float(np.median(times))


def load(name: str, folder: pathlib.Path | None) -> tuple[Part, Part]:
    """Training and test part."""
    found = continual.load(name, folder)
    return rows_and_labels(found.train), rows_and_labels(found.test)


def split(train: Part, held_out: int) -> tuple[Part, Part]:
    """The training part without, and only, `held_out` images drawn at random (the same ones always)."""
    order = np.random.default_rng(0).permutation(len(train[0]))
    (x, y), rest, kept = train, order[held_out:], order[:held_out]
    return (x[rest], y[rest]), (x[kept], y[kept])


def shortened(setting: Setting, epochs: int | None) -> Setting:
    return setting if epochs is None else dataclasses.replace(setting, epochs=epochs)


def select(args: Any) -> Setting:
    """Print the candidates' accuracies on the validation split; the best of them."""
    rest, validation = split(load(args.data, args.folder)[0], 10_000)
    chosen = range(len(CANDIDATES[args.data])) if args.candidate is None else [args.candidate]
    scores = {}
    for i in chosen:
        setting = shortened(CANDIDATES[args.data][i], args.epochs)
        found, seconds = accuracies(setting, rest, validation, range(args.seeds), lambda _: None)
        scores[setting] = found.mean()
        each = f"{found.mean():.2f} % {found.round(2).tolist()}"
        print(f"{args.data} {i} {setting}: {each}, {seconds:.2f} s an epoch", flush=True)
    return max(scores, key=scores.__getitem__)


def accuracy(args: Any) -> Iterator[Row]:
    """Test accuracy over seeds, and the time of an epoch."""
    train, test = load(args.data, args.folder)
    setting = select(args) if args.choose else shortened(CANDIDATES[args.data][0], args.epochs)
    if args.quick:
        train, test, setting = split(train, 2000)[1], split(test, 500)[1], shortened(setting, 1)
    found, seconds = accuracies(
        setting, train, test, range(args.seed, args.seed + args.seeds), lambda s: print(s, flush=True)
    )
    where = jax.devices()[0].device_kind
    said = f"{setting}, on {where}; seeds {found.round(2).tolist()}"
    published = {"mnist": 98.45, "fashion-mnist": 89.90}[args.data]
    yield Row(
        f"accuracy, {args.data}, 784-3x128-10, mean of {args.seeds} seeds",
        float(found.mean()),
        "%",
        TARGETS[args.data],
        better="higher",
        peer=f"{said}; published best of its kind {published}",
        n=args.seeds,
        spread=record.quartiles(found),
    )
    yield Row(f"time of an epoch, {args.data}, {args.seeds} seeds side by side", seconds, "s", None, peer=f"on {where}")


# -- time of a step

_NUM_STEPS, _STEP_SIZE, _RATE = 8, 0.05, 1e-3
_BATCHES = 60_000 // BATCH


def plain_step(num_steps: int, step_size: float, optimiser: optax.GradientTransformation) -> Callable[..., Any]:
    """The same step by plain functions: weights in a list, activities in a list, nothing else."""

    def predictions(weights: Any, above: Any) -> Any:
        found = [z @ w.T + b for (w, b), z in zip(weights, above, strict=True)]
        return [*map(jax.nn.gelu, found[:-1]), found[-1]]

    def energy(weights: Any, hidden: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        found = predictions(weights, [x, *hidden])
        return sum(0.5 * jnp.sum((z - u) ** 2) for z, u in zip([*hidden, y], found, strict=True))

    def step(weights: Any, state: Any, x: jax.Array, y: jax.Array) -> Any:
        hidden, z = [], x
        for w, b in weights[:-1]:
            z = jax.nn.gelu(z @ w.T + b)
            hidden.append(z)

        def descend(hidden: Any, _: None) -> Any:
            gradient = jax.grad(energy, argnums=1)(weights, hidden, x, y)
            return jax.tree.map(lambda z, g: z - step_size * g, hidden, gradient), None

        hidden, _ = jax.lax.scan(descend, hidden, length=num_steps)
        gradient = jax.tree.map(lambda g: g / len(x), jax.grad(energy)(weights, hidden, x, y))
        updates, state = optimiser.update(gradient, state, weights)
        return optax.apply_updates(weights, updates), state

    return jax.jit(step)


@jax.jit
def products(x: jax.Array, z: jax.Array, weights: list[jax.Array]) -> Any:
    """The matrix products that a step cannot do without, and nothing else: no activation, no error, no AdamW.

    Of the hidden layers 2 + 13 forwards (a layer that has not moved yet is not predicted anew), 13 back and 2 of the
    weights; of the outputs 8 and 8; of the inputs one forwards and one of the weights.
    """
    first, last = weights[0], weights[-1]
    hidden = x @ first.T + z
    for _ in range(15):
        hidden = (hidden @ weights[1].T) @ weights[2]
    output = hidden @ last.T
    for _ in range(7):
        output = (output @ last) @ last.T
    return hidden.T @ x, output @ last


class Peer:
    """pcx in its own environment: the same step from the same weights, timed on request."""

    def __init__(self, python: str, problem: dict[str, Any], folder: str) -> None:
        path = pathlib.Path(folder) / "problem.npz"
        np.savez(path, **problem)
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "XLA_FLAGS")}
        self._process = subprocess.Popen(
            [python, str(PEER_SCRIPT), str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        moved = np.load(self._answer())
        self.weights = [moved[f"w{i}"] for i in range(problem["layers"])]

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{PEER} stopped with exit status {self._process.wait()}")
        return json.loads(line)

    def ask(self, what: str, repeats: int) -> float:
        """`step`: median milliseconds of `repeats` steps; `epoch`: seconds of that many in a row."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what} {repeats}\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.kill()


def steps(args: Any, folder: str) -> Iterator[Row]:
    """One training step, 784-128-128-128-10, batch 128, eight relaxation steps, beside plain functions and pcx."""
    rng = np.random.default_rng(args.seed)
    x = jnp.asarray(rng.normal(size=(BATCH, SIZES[0])), jnp.float32)
    y = jnp.asarray(deep.one_hot(rng.integers(0, SIZES[-1], BATCH), SIZES[-1]))
    network, optimiser = deep.mlp(SIZES, key=args.seed), optax.adamw(_RATE)
    rule = deep.AfterInference(deep.FixedSteps(_NUM_STEPS, _STEP_SIZE))
    arrays, static = eqx.partition(network, eqx.is_array)

    @jax.jit
    def ours(arrays: Any, state: Any) -> Any:
        moved, state, _ = rule.step(eqx.combine(arrays, static), state, optimiser, deep.Clamp(x, y))
        return eqx.filter(moved, eqx.is_array), state

    count = 8 if args.quick else _BATCHES

    @jax.jit
    def epoch(arrays: Any, state: Any) -> Any:
        return jax.lax.scan(lambda carry, _: (ours(*carry), None), (arrays, state), length=count)[0]

    weights = [(layer.weight, layer.bias) for layer in network.layers]
    state, plain_state = optimiser.init(deep.trainable(network)[0]), optimiser.init(weights)
    plain = plain_step(_NUM_STEPS, _STEP_SIZE, optimiser)
    moved, by_hand = [layer.weight for layer in ours(arrays, state)[0].layers], plain(weights, plain_state, x, y)[0]
    before = [w for w, _ in weights]
    _same("plain functions", before, moved, [w for w, _ in by_hand])
    problem = {"x": x, "y": y, "layers": len(weights), "num_steps": _NUM_STEPS, "step_size": _STEP_SIZE, "rate": _RATE}
    problem |= {f"w{i}": w for i, (w, _) in enumerate(weights)} | {f"b{i}": b for i, (_, b) in enumerate(weights)}
    python, missing = peer_environment.interpreter(PEER_ENVIRONMENT, PEER)
    peer = None if python is None else Peer(python, problem, folder)

    calls: dict[str, Callable[[int], float]] = {
        "ours": lambda repeats: 1e3 * record.median_time(lambda: ours(arrays, state), repeats),
        "plain": lambda repeats: 1e3 * record.median_time(lambda: plain(weights, plain_state, x, y), repeats),
    }
    only = [w for w, _ in weights]
    zeros = jnp.zeros((BATCH, SIZES[1]))
    calls["products"] = lambda repeats: 1e3 * record.median_time(lambda: products(x, zeros, only), repeats)
    if peer is not None:
        _same(PEER, before, moved, peer.weights)
        calls["pcx"] = functools.partial(peer.ask, "step")
    jax.block_until_ready(epoch(arrays, state))
    found: dict[str, list[float]] = {name: [] for name in calls}
    epochs: dict[str, list[float]] = {"ours": [], "pcx": []}
    for _ in range(2 if args.quick else 9):  # in turns, so that a busy machine slows all alike
        for name, call in calls.items():
            found[name].append(call(5 if args.quick else 40))
    for _ in range(1 if args.quick else 5):
        epochs["ours"].append(record.median_time(lambda: epoch(arrays, state), 1, num_before=0))
        if peer is not None:
            epochs["pcx"].append(peer.ask("epoch", count))
    if peer is not None:
        peer.close()

    size = "784-128-128-128-10, batch 128, 8 relaxation steps"
    median = {name: float(np.median(times)) for name, times in found.items()}
    mine = f"ours {median['ours']:.2f} ms"
    n = len(found["ours"])
    yield Row(f"training step, {size}", median["ours"], "ms", None, n=n, spread=record.quartiles(found["ours"]))

    def over(name: str, times: dict[str, list[float]], claim: str, target: float | None, said: str) -> Row:
        ratios = np.array(times["ours"]) / np.array(times[name])
        spread = record.quartiles(ratios)
        return Row(claim, float(np.median(ratios)), "ratio", target, peer=said, n=len(ratios), spread=spread)

    claim = f"training step, {size}: time over "
    yield over("plain", found, f"{claim}plain functions'", 1.0, f"{mine}, plain functions {median['plain']:.2f} ms")
    bound = f"bound: the matrix products of a training step alone, {size}"
    yield Row(bound, median["products"], "ms", None, n=n, spread=record.quartiles(found["products"]))
    each = f"an epoch of {count} batches: time over pcx's"
    if peer is None:
        yield Row(f"{claim}pcx's", None, "ratio", 1.0 / _PCX, peer=missing)
        yield Row(each, None, "ratio", None, peer=missing)
    else:
        yield over("pcx", found, f"{claim}pcx's", 1.0 / _PCX, f"{mine}, {PEER} {median['pcx']:.2f} ms")
        ours_s, peer_s = (float(np.median(epochs[name])) for name in ("ours", "pcx"))
        said = f"ours {ours_s:.2f} s in one compiled loop, {PEER} {peer_s:.2f} s by its calls in a loop, no data moved"
        yield over("pcx", epochs, each, None, said)
    said = f"not measured: there is no jpc on the package index; 10.6 ms on another day, {mine}"
    yield Row(f"{claim}jpc's", None, "ratio", 1.0 / _JPC, peer=said)


def _same(name: str, before: Sequence[Any], ours: Sequence[Any], theirs: Sequence[Any]) -> None:
    """By the mean: AdamW moves by its rate whatever the gradient, so one that is 0 up to rounding goes either way."""
    mean = [np.mean([np.mean(np.abs(a - b)) for a, b in zip(ours, other, strict=True)]) for other in (theirs, before)]
    assert mean[0] < 1e-3 * mean[1], f"our step and that of {name} differ by {mean[0]}, and move weights by {mean[1]}"


def main(argv: list[str] | None = None) -> dict[str, Any]:
    parser = record.parser(__doc__.splitlines()[0])
    parser.add_argument("--task", choices=("step", "select", "accuracy"), default="step")
    parser.add_argument("--data", choices=tuple(TARGETS), default="mnist")
    parser.add_argument("--folder", type=pathlib.Path, help="where the data sets are; else PROBINF_DATA")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, help="fewer or more than the setting says")
    parser.add_argument(
        "--choose", action="store_true", help="before --task accuracy, run --task select and take its best"
    )
    parser.add_argument("--candidate", type=int, help="of --task select: only this one")
    args = parser.parse_args(argv)
    if args.task == "select":
        select(args)
        return {}
    if args.task == "step":
        with tempfile.TemporaryDirectory() as folder:
            found = rows_of("training step", "ratio", 1.0, functools.partial(steps, args, folder))
    else:
        target = TARGETS[args.data]
        found = rows_of(f"accuracy, {args.data}", "%", target, functools.partial(accuracy, args))
    content = record.write(None, "deep_predictive_coding", args.quick, found)
    if args.json is not None:
        new = {row["claim"] for row in content["rows"]}
        old = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
        content["rows"] = [row for row in old if row["claim"] not in new] + content["rows"]
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return content


if __name__ == "__main__":
    main(sys.argv[1:])
