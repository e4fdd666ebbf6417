"""Continual learning: named learners on a named benchmark, over seeds, with a report page.

    probinf bench continual --benchmark split-fashion-mnist --strategies exact-head ewc vcl --seeds 5 --out runs

Without options: all strategies on the embedded digits, one seed. The folder of `--out` holds each finished run and the
state of the one at work: the same command after a kill goes on to the same numbers. At the end it has `report.html`,
`runs.csv` and `runs.json`. `--workers` trains several seeds side by side, to the same numbers.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from continual.bench.comparing import Run, by_learner, compared
from continual.bench.learners import LEARNERS, Scale, checked, learner
from continual.bench.report import page
from continual.datasets import load
from continual.export import as_table, write_csv, write_json
from continual.metrics import summarise
from continual.sources import SOURCES
from continual.strategies import Training
from continual.streams import TaskStream, permuted, rotated, split
from probinf.arguments import positive_integer
from probinf.errors import InferenceError, ProbinfError, UnknownNameError
from probinf.runs.files import write

_DATA = ("digits", *SOURCES)
BENCHMARKS = tuple(f"{kind}-{name}" for kind in ("split", "permuted", "rotated") for name in _DATA)
_DEGREES = (0, 15, 30, 45, 60)
_MODULE = "continual.bench.command"  # this file, also where it is run as a script


def stream(
    name: str, seed: int, *, scenario: str | None = None, folder: Path | None = None, download: bool = False
) -> TaskStream:
    """A benchmark by its name, "split-mnist" say.

    Args:
        name: "split-", "permuted-" (10 tasks) or "rotated-" (5 tasks, 0 to 60 degrees), and a data set.
        seed: of the order within tasks, and of permutations.
        scenario: of split data, class-incremental by default.
        folder: where data sets are.
        download: fetch a data set that is absent; see `continual.load`.

    Raises:
        UnknownNameError: there is no such benchmark.
        DataError: the data set is absent, or could not be fetched.
    """
    if name not in BENCHMARKS:
        raise UnknownNameError(name, BENCHMARKS, "benchmark", "probinf bench continual")
    kind, _, data_name = name.partition("-")
    data = load(data_name, folder, download=download)
    if kind == "split":
        return split(data, scenario=scenario or "class", seed=seed)  # pyright: ignore[reportArgumentType]
    return permuted(data, seed=seed) if kind == "permuted" else rotated(data, _DEGREES, seed=seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    given = _parser().parse_args(arguments)
    try:
        return _run(given, arguments)
    except ProbinfError as error:
        print(f"probinf bench continual: {error}", file=sys.stderr)  # noqa: T201
        return 2


def _run(given: argparse.Namespace, arguments: Sequence[str]) -> int:
    names = checked(given.strategies or list(LEARNERS))
    seeds = range(given.seed, given.seed + positive_integer("--seeds", given.seeds))
    options: dict[str, Any] = {"scenario": given.scenario, "folder": given.data, "download": given.download}
    streams = {s: stream(given.benchmark, s, **options) for s in seeds}
    first = streams[given.seed]
    epochs = 1 if given.quick else given.epochs
    training = Training(tuple(given.hidden), given.learning_rate, epochs, given.batch)
    shape = first.tasks[0].train.inputs.shape[1:]
    scale = Scale(first.num_classes, len(first.tasks), shape, training, given.memory)
    folder: Path = given.out / given.benchmark
    folder.mkdir(parents=True, exist_ok=True)
    if positive_integer("--workers", given.workers) > 1 and len(seeds) > 1:
        _side_by_side(seeds, arguments, given.workers)  # their runs are read below
    runs: list[Run] = []
    total = len(names) * len(seeds)
    for one in compared({name: learner(name, scale) for name in names}, streams, folder, progress=True):
        runs.append(one)
        found = summarise(one.result)
        score = f"average accuracy {100 * found.average_accuracy:.2f} %, negative log likelihood {found.nll:.3f} nats"
        print(f"[{len(runs)}/{total}] {one.name}, seed {one.seed}: {score}, {found.seconds:.0f} s", flush=True)  # noqa: T201
    if given.runs_only:
        return 0
    results = by_learner(runs)
    print(as_table(results))  # noqa: T201
    write_csv(folder / "runs.csv", results)
    write_json(folder / "runs.json", results)
    if given.json is not None:
        write_json(given.json, results)
    title = f"{given.benchmark}, {first.scenario}-incremental, {len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    write(folder / "report.html", page(title, _notes(scale), results).encode())
    print(f"The report is in {folder / 'report.html'}.")  # noqa: T201
    return 0


def _side_by_side(seeds: Sequence[int], arguments: Sequence[str], workers: int) -> None:
    """Runs of all seeds into the folder, each seed in a process of its own: their loops are on the host."""
    waiting, running = list(seeds), []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                one = ["--seed", str(waiting.pop(0)), "--seeds", "1", "--workers", "1", "--runs-only"]
                running.append(subprocess.Popen([sys.executable, "-m", _MODULE, *arguments, *one]))
            time.sleep(0.1)
            failed = [child.args for child in running if child.poll()]
            if failed:
                raise InferenceError(f"a worker failed, see above; its command was {' '.join(map(str, failed[0]))}.")
            running = [child for child in running if child.poll() is None]
    finally:
        for child in running:
            child.terminate()
        for child in running:
            child.wait()


def _notes(scale: Scale) -> list[str]:
    training = scale.training
    return [
        f"Dense networks with hidden layers {list(training.hidden)}, Adam at {training.learning_rate:g}, batches of "
        f"{training.batch}, {training.epochs} epochs of each task; learners with a memory keep {scale.memory} examples "
        "in all. Mean ± standard deviation over seeds. No test label is used in training or evaluation.",
        "A row of a matrix is the state after learning a task, a column is the task tested.",
    ]


def _parser() -> argparse.ArgumentParser:
    text = re.sub(r"`", "", __doc__ or "")
    parser = argparse.ArgumentParser(
        prog="probinf bench continual", description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--benchmark", default="split-digits", help="such as split-mnist, permuted-fashion-mnist")
    parser.add_argument("--strategies", nargs="+", metavar="NAME", help=f"some of {', '.join(LEARNERS)}")
    parser.add_argument("--scenario", choices=("class", "task", "domain"), help="of split data; class by default")
    parser.add_argument("--seeds", type=int, default=1, help="how many, from --seed on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="seeds that are trained side by side, each by a process")
    parser.add_argument("--runs-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--epochs", type=int, default=5, help="passes over each task")
    parser.add_argument("--hidden", type=int, nargs="*", default=[256], help="widths of hidden layers")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--memory", type=int, default=1000, help="examples kept in all")
    parser.add_argument("--data", type=Path, help="folder of the data sets; else PROBINF_DATA")
    parser.add_argument("--download", action="store_true", help="fetch a data set that is absent; SHA-256 is compared")
    parser.add_argument("--out", type=Path, default=Path("continual-runs"), help="folder for runs and report")
    parser.add_argument("--json", type=Path, help="file for the runs, besides the one in the folder")
    parser.add_argument("--quick", action="store_true", help="one epoch: the numbers mean little")
    return parser


if __name__ == "__main__":
    sys.exit(main())
