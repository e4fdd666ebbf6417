"""Continual learning: exact heads on split image data, and a million examples at constant memory.

    python -m benchmarks.continual --json benchmarks/results/continual.json --data FOLDER [--only GROUP ...]

Groups: `mnist`, `fashion-mnist`, `cifar10` (class-incremental, one pass, no stored example), `stream` (throughput),
`choose` (validation scores that ridge and temperature below were taken from; never sees test data), `strategies` (every
strategy in one table) and `choose-strategies` (their validation scores); see `benchmarks/continual_strategies.py`;
`seeds` (a step of five seeds' networks in one vectorised program).
`--checkpoint FOLDER` keeps finished seeds; the same command after a kill goes on to the same numbers.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import continual
from benchmarks import continual_strategies
from benchmarks.record import Row, parser, quartiles, rows_of, write
from continual import predictive
from continual.strategies import network as networks
from probinf.runs import Checkpoint, Loop, drive

_NUM_SEEDS, _VALIDATION = 5, 0.1


@dataclasses.dataclass(frozen=True)
class Setting:
    """Settings of one benchmark, chosen by `--only choose`, and what it must reach."""

    target: float  # per cent
    published: float  # best published Bayesian method, per cent
    features: continual.RandomPatches
    ridge: float
    temperature: float


SETTINGS = {
    "mnist": Setting(97.5, 94.2, continual.RandomPatches(64), 3.0, 4.0),
    "fashion-mnist": Setting(89.5, 82.7, continual.RandomPatches(128), 3.0, 6.0),
    "cifar10": Setting(68.0, 55.8, continual.RandomPatches(128), 100.0, 2.0),
}
_RIDGES, _TEMPERATURES = (3.0, 10.0, 30.0, 100.0), (1.0, 2.0, 3.0, 4.0, 6.0)


class Seeds(Loop):
    """Seeds of one benchmark, one after the other; a row for each."""

    unit = "seed"

    def __init__(self, name: str, data: continual.Dataset, seeds: Sequence[int]) -> None:
        self.label, self.name, self.data, self.seeds = name, name, data, seeds
        self.rows: list[Mapping[str, np.ndarray]] = []

    @property
    def done(self) -> int:
        return len(self.rows)

    @property
    def total(self) -> int:
        return len(self.seeds)

    @property
    def is_finished(self) -> bool:
        return self.done >= self.total

    def start(self) -> None:
        pass

    def advance(self) -> Mapping[str, Any]:
        seed, setting, began = self.seeds[self.done], SETTINGS[self.name], time.perf_counter()
        stream = continual.split(self.data, seed=seed)
        features = setting.features.fit(seed, stream.tasks[0].train.inputs)  # unlabelled images of the first task
        head = continual.BayesianLinearHead(10, ridge=setting.ridge, temperature=setting.temperature)
        result = continual.run(head, stream.map(features), seed=seed)
        summary = dataclasses.asdict(continual.summarise(result)) | {"total_seconds": time.perf_counter() - began}
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        print(seed, {k: round(v, 4) for k, v in summary.items()}, round(cpu.ru_utime + cpu.ru_stime), flush=True)
        self.rows.append({name: np.asarray(value) for name, value in summary.items()} | {"matrix": result.accuracy})
        return {"accuracy": summary["average_accuracy"]}

    def state(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, state: Mapping[str, np.ndarray], rows: Sequence[Mapping[str, np.ndarray]]) -> None:
        self.rows = list(rows)


def exact_head(name: str, data: continual.Dataset, seeds: Sequence[int], folder: pathlib.Path | None) -> Iterator[Row]:
    """Accuracy, calibration and time of the exact linear head over seeds."""
    setting, loop = SETTINGS[name], Seeds(name, data, seeds)
    checkpoint = None if folder is None else Checkpoint(folder / name, every=0)
    drive(loop, checkpoint=checkpoint, fingerprint=lambda: {"setting": str(setting), "first seed": str(seeds[0])})

    n = len(loop.rows)  # a checkpoint may hold more seeds than were asked for

    def column(field: str) -> np.ndarray:
        return np.array([float(row[field]) for row in loop.rows])

    accuracy, seconds = 100 * column("average_accuracy"), column("total_seconds")
    claim = f"split-{name}, class-incremental, exact linear head"
    spread = "" if n < 2 else f"std {accuracy.std(ddof=1):.3f}; "
    yield Row(
        f"{claim}: average accuracy",
        float(accuracy.mean()),
        "%",
        setting.target,
        "higher",
        f"{spread}worst {accuracy.min():.2f}; best published Bayesian {setting.published}; "
        f"forgetting {100 * column('forgetting').mean():.2f}; one pass, no stored example",
        n,
        quartiles(accuracy),
        float(seconds.sum()),
    )
    yield Row(f"{claim}: longest seed", float(seconds.max()), "s", 300.0, peer="features included", n=n)
    yield Row(f"{claim}: negative log likelihood", float(column("nll").mean()), "nats", None, n=n)
    yield Row(f"{claim}: calibration error", float(column("calibration_error").mean()), "share", None, n=n)
    yield Row(f"{claim}: out-of-distribution AUROC", float(column("ood_auroc").mean()), "share", None, "higher", n=n)
    yield Row(f"{claim}: memory between tasks", float(column("memory").max()) / 2**20, "MiB", None, n=n)


def choices(name: str, data: continual.Dataset, num_train: int, num_validation: int) -> Iterator[Row]:
    """Validation accuracy and likelihood by ridge and temperature; training data only, a seed of its own."""
    features = SETTINGS[name].features
    stream = continual.split(data, validation=_VALIDATION, seed=100)
    fitted = features.fit(100, stream.tasks[0].train.inputs)
    head, count = continual.BayesianLinearHead(10), len(stream.tasks)
    belief, held, labels = head.start(0), [], []
    for t, task in enumerate(stream.tasks):
        train, kept = num_train // count, num_validation // count
        z = fitted(task.train.inputs[:train])
        belief, _ = head.update(belief, t, "label", task.train.targets[:train], inputs=z)
        held.append(fitted(task.validation.inputs[:kept]))
        labels.append(task.validation.targets[:kept])
    z, y = np.concatenate(held), np.concatenate(labels)
    for ridge in _RIDGES:
        p = continual.BayesianLinearHead(10, ridge=ridge).probabilities(belief, z)
        likelihoods = []
        for temperature in _TEMPERATURES:
            tempered = p.astype(float) ** (1 / temperature)
            tempered /= tempered.sum(axis=1, keepdims=True)
            likelihoods.append(f"{temperature:g}: {predictive.negative_log_likelihood(tempered, y):.4f}")
        yield Row(
            f"split-{name}: validation accuracy, {features.num_filters} filters, grid {features.grid}, ridge {ridge:g}",
            100 * predictive.accuracy(p, y),
            "%",
            None,
            "higher",
            f"negative log likelihood by temperature {', '.join(likelihoods)}; {num_train} training examples",
            len(y),
        )


def throughput(num_examples: int, num_features: int = 100, num_classes: int = 10, batch: int = 1000) -> Iterator[Row]:
    """Examples a second through the exact head, beside scikit-learn's incremental learners; turn by turn."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(num_classes, num_features))
    pool = [
        ((centres[y] + 2 * rng.normal(size=(batch, num_features))).astype(np.float32), y)
        for y in (rng.integers(0, num_classes, batch) for _ in range(100))
    ]
    head = continual.BayesianLinearHead(num_classes)
    belief, _ = head.update(head.start(0), 0, "label", pool[0][1], inputs=pool[0][0])
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(belief))
    peers: dict[str, Any] = {}
    try:
        from sklearn.linear_model import SGDClassifier  # pyright: ignore[reportMissingImports]
        from sklearn.naive_bayes import GaussianNB  # pyright: ignore[reportMissingImports]

        peers = {"SGDClassifier": SGDClassifier(loss="log_loss"), "GaussianNB": GaussianNB()}
    except ImportError:
        pass
    for peer in peers.values():
        peer.partial_fit(*pool[0], classes=np.arange(num_classes))
    seconds = dict.fromkeys(["ours", *peers], 0.0)
    rounds = max(1, num_examples // (batch * len(pool)))
    before = _resident()
    for _ in range(rounds):
        began = time.perf_counter()
        for z, y in pool:
            belief, _ = head.update(belief, 0, "label", y, inputs=z)
        jax.block_until_ready(belief)
        seconds["ours"] += time.perf_counter() - began
        for name, peer in peers.items():
            began = time.perf_counter()
            for z, y in pool:
                peer.partial_fit(z, y)
            seconds[name] += time.perf_counter() - began
    grown = (_resident() - before) / 2**20
    total = rounds * len(pool) * batch
    assert size == sum(leaf.nbytes for leaf in jax.tree.leaves(belief))
    what = f"{total:,} examples, {num_features} features, {num_classes} classes, batches of {batch}"
    yield Row(f"Stream: exact linear head, {what}", total / seconds["ours"], "examples/s", None, "higher")
    yield Row("Stream: size of the belief, first and last", size / 2**10, "KiB", None, peer="the same to the byte")
    yield Row("Stream: resident memory grown over the stream", grown, "MiB", 50.0)
    for name in ("SGDClassifier", "GaussianNB"):
        value = seconds[name] / seconds["ours"] if name in seconds else None
        peer = f"{total / seconds[name]:,.0f} examples/s" if name in seconds else "scikit-learn is not installed"
        yield Row(f"Stream: speed relative to scikit-learn's {name}", value, "ratio", 1.0, "higher", peer)
    clean_z, clean_y = centres.astype(np.float32), np.arange(num_classes)
    assert (head.probabilities(belief, clean_z).argmax(axis=1) == clean_y).all()


def seeds_at_once(num_seeds: int, repeats: int) -> Iterator[Row]:
    """A training step of several seeds' networks in one vectorised program, over as many steps of one network."""
    training, rng = networks.Training(hidden=(256, 256)), np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(num_seeds, training.batch, 784)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 10, (num_seeds, training.batch)))
    each = [networks.initial(jax.random.key(i), training, 784, 10, np.float32) for i in range(num_seeds)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    def step(state: networks.Trained, x: jax.Array, y: jax.Array) -> Any:
        return networks._step(training, state, x, y, None, networks.cross_entropy)

    vectorised = jax.jit(jax.vmap(step))
    calls = {
        "one by one": lambda: [step(*given) for given in zip(each, x, y, strict=True)],
        "at once": lambda: vectorised(together, x, y),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(repeats + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            jax.block_until_ready(jax.tree.leaves(call()))
            if k:
                taken[name].append(1e3 * (time.perf_counter() - began))
    ratios = np.array(taken["at once"]) / np.array(taken["one by one"])
    said = ", ".join(f"{name} {np.median(times):.2f} ms" for name, times in taken.items())
    claim = f"Seeds: a step of {num_seeds} networks 784-256-256-10 in one vectorised program, time over one by one"
    yield Row(claim, float(np.median(ratios)), "ratio", None, peer=said, n=repeats, spread=quartiles(ratios))


def _resident() -> int:
    """Resident bytes of this process."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument(
        "--only", nargs="+", choices=[*SETTINGS, "stream", "seeds", "choose", "strategies", "choose-strategies"]
    )
    options.add_argument("--data", type=pathlib.Path, help="folder of the data sets; else PROBINF_DATA")
    options.add_argument("--seeds", type=int, default=_NUM_SEEDS, help="how many, from --seed on")
    options.add_argument("--checkpoint", type=pathlib.Path, help="folder for finished seeds")
    options.add_argument("--benchmarks", nargs="+", choices=continual_strategies.BENCHMARKS, help="of the strategies")
    options.add_argument("--strategies", nargs="+", choices=continual_strategies.ALL, metavar="NAME")
    options.add_argument("--finished", action="store_true", help="rows of finished runs of strategies; train nothing")
    options.add_argument("--where", default="this machine", help="what --finished runs were trained on, for the rows")
    given = options.parse_args(arguments)
    groups = given.only or [*SETTINGS, "stream"]
    rows: list[Row] = []
    seeds = [given.seed + i for i in range(1 if given.quick else given.seeds)]
    for name in SETTINGS:
        if name in groups:
            claim = f"split-{name}, class-incremental, exact linear head"

            def measured(name: str = name) -> Iterator[Row]:
                data = continual.load(name, given.data)
                yield from exact_head(name, _shortened(data, 1000) if given.quick else data, seeds, given.checkpoint)

            rows += rows_of(claim, "%", SETTINGS[name].target, measured)
        if "choose" in groups:
            size = (1000, 500) if given.quick else (8_000, 2_000)

            def chosen(name: str = name, size: tuple[int, int] = size) -> Iterator[Row]:
                yield from choices(name, continual.load(name, given.data), *size)

            rows += rows_of(f"split-{name}: validation", "%", None, chosen)
    if "stream" in groups:
        rows += rows_of("Stream", "examples/s", None, lambda: throughput(100_000 if given.quick else 1_000_000))
    if "seeds" in groups:
        rows += rows_of("Seeds", "ratio", None, lambda: seeds_at_once(5, 5 if given.quick else 200))
    for name in given.benchmarks or continual_strategies.BENCHMARKS:
        if "choose-strategies" in groups or "strategies" in groups:
            rows += rows_of(f"split-{name}: strategies", "%", None, lambda name=name: _strategies(name, given, seeds))
    write(given.json, "continual", given.quick, rows)
    return 0


def _strategies(name: str, given: Any, seeds: Sequence[int]) -> Iterator[Row]:
    data, names = continual.load(name, given.data), given.strategies or continual_strategies.ALL
    if "choose-strategies" in given.only:
        yield from continual_strategies.choosing(name, data, names, given.quick)
    if "strategies" in given.only:
        with tempfile.TemporaryDirectory() as place:
            yield from continual_strategies.table(
                name,
                data,
                seeds,
                names,
                given.checkpoint or pathlib.Path(place),
                quick=given.quick,
                only_finished=given.finished,
                where=given.where,
            )


def _shortened(data: continual.Dataset, size: int) -> continual.Dataset:
    def part(examples: continual.Examples) -> continual.Examples:
        rows = np.random.default_rng(0).permutation(len(examples.inputs))[:size]
        return continual.Examples(examples.inputs[rows], examples.targets[rows])

    return dataclasses.replace(data, train=part(data.train), test=part(data.test))


if __name__ == "__main__":
    sys.exit(main())
