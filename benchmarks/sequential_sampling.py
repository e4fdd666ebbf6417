"""Does sequential Bayes forget when every posterior is sampled to convergence? Accuracy on task 1 after each task.

    python -m benchmarks.sequential_sampling --json benchmarks/results/sequential_sampling.json --cells FOLDER \
        [--data FOLDER] [--only toys mnist] [--seeds N] [--figure docs/images/sequential_sampling.png]

Toys: five tasks of two blobs in the plane, network 2-10-10-2 (162 weights), full size. MNIST: class-incremental, a
network of 280 weights over 16 frozen features of the first task's unlabelled images, 200 training images a task: not
the full data set. `--cells` keeps finished runs, a file for each learner and seed; the same command goes on from
there. The normalising flow needs flowjax. Run it without XLA_FLAGS that switch optimisation off.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import continual
import probinf as pi
from benchmarks.record import Row, parser, rows_of, write
from continual import metrics, predictive
from continual import sequential_sampling as sampling
from probinf.runs import files

JOINT, SMC = "joint HMC", "SMC over tasks"
LABELS = (JOINT, SMC, "normalising flow", "mixture, units aligned", "mixture", "Gaussian")
CHAINS = pi.ChEES(num_warmup=250, num_draws=800, num_chains=8, target_acceptance=0.5, init="prior")
ORACLE = "joint NUTS"  # the same posterior by another sampler, on the toys
NUTS = pi.NUTS(num_warmup=400, num_draws=500, init="prior")
POWERS = (0.1, 0.3, 0.6)
_NUM_SEEDS = 5
_CONVERGED = 1.01
_IMAGES = 200  # training images of each MNIST task


def learners(network: sampling.SoftmaxNetwork, grid: np.ndarray, quick: bool) -> dict[str, Any]:
    """What is compared, cheapest first."""
    chains = dataclasses.replace(CHAINS, num_warmup=30, num_draws=30) if quick else CHAINS
    settings: Any = {"sampler": chains, "grid": grid, "powers": POWERS[1:2] if quick else POWERS}
    mixture = sampling.MixtureEstimator((1, 2, 4))
    estimators = {
        "Gaussian": sampling.GaussianEstimator(),
        "mixture": mixture,
        "mixture, units aligned": sampling.Aligned(mixture, network),
        "normalising flow": sampling.FlowEstimator(epochs=2 if quick else 20),
    }
    found = {label: sampling.PosteriorAsPrior(network, each, **settings) for label, each in estimators.items()}
    particles = 16 if quick else 256
    smc = sampling.TaskSMC(network, num_particles=particles, max_moves=4 if quick else 32, grid=grid)
    joint = sampling.JointSampling(network, **settings)
    return found | {SMC: smc, JOINT: joint, ORACLE: sampling.JointSampling(network, NUTS, grid=grid)}


def toys(quick: bool, seed: int, data: pathlib.Path | None) -> tuple[Any, Any, np.ndarray]:
    """Stream, network, grid."""
    x, y = np.meshgrid(np.linspace(-0.3, 2.7, 13), np.linspace(-0.7, 1.3, 9))
    hidden = (3,) if quick else (10, 10)
    stream = continual.toy_gaussians(20 if quick else 80, seed=seed)
    stream = stream.in_order(range(2)) if quick else stream
    return stream, sampling.SoftmaxNetwork(2, 2, hidden), np.stack([x.ravel(), y.ravel()], axis=1)


def mnist(quick: bool, seed: int, data: pathlib.Path | None) -> tuple[Any, Any, np.ndarray]:
    """Stream, network, grid. Features: principal components of random-patch features, from images of task 1 only."""
    found = continual.load("digits") if quick else continual.load("mnist", data)
    stream = continual.split(found, seed=seed)
    stream = continual.imbalanced(stream, [20 if quick else _IMAGES] * len(stream.tasks), seed=seed)
    stream = stream.in_order(range(2)) if quick else stream
    patches = continual.RandomPatches(32, size=3 if quick else 6).fit(seed, stream.tasks[0].train.inputs)
    stream = stream.map(patches)
    components = continual.Whitening(15).fit(seed, stream.tasks[0].train.inputs)  # and a constant
    stream = stream.map(components)
    grid = np.concatenate([task.train.inputs[:20] for task in stream.tasks])  # for R-hat only
    return stream, sampling.SoftmaxNetwork(16, 10, (3,) if quick else (10,), prior_scale=0.5), grid


STREAMS = {"toys": toys, "mnist": mnist}


def cell(learner: Any, stream: continual.TaskStream, seed: int) -> dict[str, Any]:
    """One learner through one stream: matrices by stage, R-hat, predictions on the grid."""
    found: dict[str, list] = {n: [] for n in ("accuracy", "nll", "r_hat", "ess", "grid", "seconds", "log_evidence")}
    belief = learner.start(seed)
    for t, task in enumerate(stream.tasks):
        began = time.perf_counter()
        belief, _ = learner.update(belief, t, "label", task.train.targets, inputs=task.train.inputs)
        found["seconds"].append(time.perf_counter() - began)
        predictor, converged = learner.predictor(belief), learner.convergence(belief)
        tested = [(predictor(each.test.inputs), each.test.targets) for each in stream.tasks]
        found["accuracy"].append([predictive.accuracy(*pair) for pair in tested])
        found["nll"].append([predictive.negative_log_likelihood(*pair) for pair in tested])
        found["r_hat"].append(converged.r_hat)
        found["ess"].append(converged.ess)
        found["grid"].append(np.asarray(predictor(belief.grid), float).round(6).tolist())
        evidence = [] if belief.log_evidence is None else np.asarray(belief.log_evidence, float).tolist()
        found["log_evidence"].append(evidence)
        first = found["accuracy"][-1][0]
        print(f"  task {t}: task 1 {first:.3f}, R-hat {converged.r_hat:.4f}, {found['seconds'][-1]:.0f} s", flush=True)
    return found


Runs = Mapping[str, Mapping[int, Mapping[str, Any]]]  # learner -> seed -> what `cell` found


def cells(name: str, given: Any) -> Runs:
    """All runs of a benchmark; those in files are read. A run that breaks down is left out."""
    found: dict[str, dict[int, Any]] = {}
    for seed in range(given.seed, given.seed + (1 if given.quick else given.seeds)):
        labels = (*LABELS, ORACLE) if name == "toys" and not given.quick else LABELS
        paths = {
            label: None if given.cells is None else given.cells / f"{name}, {label}, {seed}.json" for label in labels
        }
        missing = []
        for label, path in paths.items():
            if path is not None and path.is_file():
                found.setdefault(label, {})[seed] = json.loads(path.read_text())
            else:
                missing.append(label)
        if given.recorded or not missing:
            continue
        stream, network, grid = STREAMS[name](given.quick, seed, given.data)
        for label, learner in learners(network, grid, given.quick).items():
            if label not in missing or label not in (given.learners or labels):
                continue
            path = paths[label]
            print(f"{name}, {label}, seed {seed}", flush=True)
            try:
                run = cell(learner, stream, seed)
            except pi.InferenceError as error:  # flowjax is absent, or a run broke down: its row says so
                print(f"  {error}", flush=True)
                continue
            found.setdefault(label, {})[seed] = run
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                files.write(path, json.dumps(run).encode())
    return found


def gaps(found: Runs, label: str) -> np.ndarray:
    """Mean total variation to the joint predictive on the grid, (seeds with both, stages)."""
    joint = found.get(JOINT, {})
    pairs = [(run["grid"], joint[seed]["grid"]) for seed, run in found[label].items() if seed in joint]
    return np.array(
        [[metrics.posterior_gap(np.array(a), np.array(b)) for a, b in zip(*pair, strict=True)] for pair in pairs]
    )


def table(name: str, found: Runs) -> Iterator[Row]:
    """Rows of one benchmark."""
    for label in (*LABELS, ORACLE) if ORACLE in found else LABELS:
        runs = found.get(label, {})
        claim = f"{name}, {label}: accuracy on task 1 after the last task"
        if not runs:
            yield Row(claim, None, "%", None, "higher", "not run")
            continue
        accuracy = 100 * np.array([run["accuracy"] for run in runs.values()])
        last = [metrics.average_accuracy(matrix) for matrix in accuracy]
        yield Row(
            claim,
            float(accuracy[:, -1, 0].mean()),
            "%",
            None,
            "higher",
            f"after each task {by_stage(accuracy[:, :, 0].mean(axis=0), 1)}; average over tasks {np.mean(last):.1f}",
            len(runs),
            seconds=float(np.sum([run["seconds"] for run in runs.values()])),
        )
        r_hat = np.array([run["r_hat"] for run in runs.values()])
        claim = f"{name}, {label}: R-hat of functions on the grid, worst over tasks and seeds"
        peer = f"after each task {by_stage(r_hat.max(axis=0), 4)}"
        yield Row(claim, float(r_hat.max()), "", _CONVERGED, peer=peer, n=len(runs))
        gap = gaps(found, label)
        if label != JOINT and len(gap):
            claim = f"{name}, {label}: posterior gap to joint HMC after the last task, total variation"
            peer = f"after each task {by_stage(gap.mean(axis=0), 3)}"
            yield Row(claim, float(gap[:, -1].mean()), "", None, peer=peer, n=len(gap))
    both = set(found.get(SMC, {})) & set(found.get(JOINT, {}))
    if both:
        last = [[found[label][seed]["accuracy"][-1][0] for label in (SMC, JOINT)] for seed in both]
        claim = f"{name}: accuracy on task 1 after the last task, SMC over tasks against joint HMC, largest difference"
        yield Row(claim, float(100 * np.abs(np.diff(last, axis=1)).max()), "%", 2.0, n=len(both))
    complete = set.intersection(*(set(found.get(label, {})) for label in LABELS))
    yield Row(f"{name}: seeds with every learner", float(len(complete)), "seeds", float(_NUM_SEEDS), "higher")


def by_stage(values: np.ndarray, digits: int) -> str:
    """Numbers after each task."""
    return ", ".join(f"{value:.{digits}f}" for value in values)


def picture(curves: Mapping[str, Mapping[str, Any]], path: pathlib.Path) -> None:
    """Accuracy on task 1, and the gap to the joint posterior, after each task; at least one curve."""
    import matplotlib.pyplot as plt

    from probinf.plots.style import CYCLE, style

    with style():
        figure, axes = plt.subplots(2, len(curves), figsize=(1 + 4.6 * len(curves), 6.2), squeeze=False, sharex="col")
        for column, (name, lines) in enumerate(curves.items()):
            colours = (*CYCLE[: len(LABELS)], CYCLE[-1])  # the next one is a pale yellow
            for colour, label in zip(colours, (*LABELS, ORACLE), strict=True):
                if label not in lines:
                    continue
                line, seeds = lines[label], lines[label]["seeds"]
                stages = np.arange(1, len(line["first"]) + 1)
                rows = [100 * np.array(line["first"])] + [line["gap"]] * bool(line["gap"])
                for axis, values in zip(axes[:, column], rows, strict=False):
                    named = f"{label}, {seeds} seed" + "s" * (seeds > 1) if axis is axes[0, column] else None
                    width = 4 if label == JOINT else None  # SMC's line lies on it
                    axis.plot(stages, values, color=colour, lw=width, label=named)
                    for stage, value, r_hat in zip(stages, values, line["r_hat"], strict=True):
                        face = colour if r_hat < _CONVERGED else "white"
                        axis.plot(stage, value, "o", ms=5, color=colour, markerfacecolor=face)
            axes[0, column].set(title=name, ylabel="accuracy on task 1 [%]")
            axes[1, column].set(xlabel="tasks learnt", ylabel="posterior gap to joint", xticks=stages)
            axes[1, column].set_ylim(bottom=0)
            axes[0, column].legend(
                fontsize=8,
                loc="lower center",
                bbox_to_anchor=(0.5, 1.12),
                ncols=2,
                title="hollow: R-hat of 1.01 or more",
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
        plt.close(figure)


def curves_of(found: Runs) -> dict[str, Any]:
    """By stage, for the figure: means over seeds, and the largest R-hat."""
    lines = {}
    for label in (*LABELS, ORACLE):
        runs = list(found.get(label, {}).values())
        if runs:
            accuracy = np.mean([run["accuracy"] for run in runs], axis=0)
            gap = gaps(found, label) if label != JOINT else np.zeros(0)
            lines[label] = {
                "first": accuracy[:, 0].tolist(),
                "accuracy": accuracy.tolist(),
                "nll": np.mean([run["nll"] for run in runs], axis=0).tolist(),
                "r_hat": np.max([run["r_hat"] for run in runs], axis=0).tolist(),
                "gap": gap.mean(axis=0).tolist() if len(gap) else [],
                "log_evidence": [run["log_evidence"] for run in runs],
                "seeds": len(runs),
            }
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser((__doc__ or "").splitlines()[0])
    options.add_argument("--only", nargs="+", choices=[*STREAMS], default=[*STREAMS])
    options.add_argument("--data", type=pathlib.Path, help="folder of the data sets; else PROBINF_DATA")
    options.add_argument("--seeds", type=int, default=_NUM_SEEDS, help="how many, from --seed on")
    options.add_argument("--learners", nargs="+", choices=(*LABELS, ORACLE), help="only these are run")
    options.add_argument("--cells", type=pathlib.Path, help="folder for finished runs")
    options.add_argument("--recorded", action="store_true", help="rows and picture of the runs in --cells, no new run")
    options.add_argument("--figure", type=pathlib.Path, help="picture of the curves")
    given = options.parse_args(arguments)
    rows: list[Row] = []
    curves: dict[str, Any] = {}
    for name in given.only:

        def measured(name: str = name) -> Iterator[Row]:
            found = cells(name, given)
            curves[name] = curves_of(found)
            yield from table(name, found)

        rows += rows_of(name, "", None, measured)
    content = write(None, "sequential_sampling", given.quick, rows) | {"curves": curves}
    if given.json is not None:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    if given.figure is not None:
        drawn = {name: lines for name, lines in curves.items() if lines}
        if drawn:
            picture(drawn, given.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
