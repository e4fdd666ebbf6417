"""Show what the library does, on real data.

The posterior of eight schools, then a walker tracked through a radio recording. Model files and
data are copied to a folder, and `probinf infer` and `probinf filter` run on them as they would on
files of your own. Under a minute. (In a checkout, `make demo` tells the whole story of the
recording.)

Example:
  probinf demo --out demo
"""

from __future__ import annotations

import argparse
import importlib.resources
import importlib.util
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from probinf.commands import filter as filtering
from probinf.commands import infer as inferring
from probinf.commands.shared import table
from probinf.errors import ArgumentError

_FILES = "demo_files"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `probinf demo`."""
    parser.add_argument("--out", default="probinf-demo", metavar="DIR", help="a folder (default probinf-demo)")
    parser.add_argument("--particles", type=int, default=2000, metavar="N", help="of the tracker (default 2000)")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Copy the files, run both commands, say how far the track is off."""
    out = Path(args.out)
    copy_files(out)
    seed = f"--seed {args.seed}"
    print("1. The effect of coaching in eight schools\n")  # noqa: T201
    schools = f"{out / 'schools.py'}:schools --data {out / 'schools.csv'} --out {out / 'schools.npz'}"
    status = _call("infer", inferring, f"{schools} --method nuts --set target_acceptance=0.95 {seed}")
    print("\n2. A walker tracked by ranges to four radio anchors, 30 s\n")  # noqa: T201
    walker = f"{out / 'walker.py'}:walker --data {out / 'ranges.csv'} --out {out / 'beliefs.csv'}"
    _call("filter", filtering, f"{walker} --method particle --set num_particles={args.particles} {seed}")
    times, means, sds = track(out / "beliefs.csv")
    truth = table.read(str(out / "truth.csv"))
    true = [np.interp(times, truth.numbers("time"), truth.numbers(axis)) for axis in ("x", "y")]
    errors = np.hypot(*(means.T - np.stack(true)))
    print(  # noqa: T201
        f"{len(times)} ranges; root mean squared error {np.sqrt(np.mean(errors**2)):.2f} m, largest "
        f"{errors.max():.2f} m, at up to {np.hypot(*true).max():.0f} m from the anchors"
    )
    if importlib.util.find_spec("matplotlib") is None:
        print("No picture: it needs Matplotlib, pip install 'probinf[plots]'.")  # noqa: T201
    else:
        picture(out / "track.png", means, sds, np.stack(true, axis=1))
    print(f"\nEverything is in {out}: change the models there, and run the commands again.")  # noqa: T201
    return status


def copy_files(folder: Path) -> None:
    """The model files and data of the demonstration, into a folder that is made if need be.

    Raises:
        ArgumentError: they were not installed.
    """
    source = importlib.resources.files("probinf.commands") / _FILES
    if not source.is_dir():
        raise ArgumentError(f"the files of the demonstration are not installed: {source} is missing. Install again.")
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.name.endswith((".py", ".csv", ".md")):
            (folder / file.name).write_bytes(file.read_bytes())


def track(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times (T,), means and standard deviations (T, 2) of the position, m, from a file of beliefs."""
    data = table.read(str(path))
    return data.numbers("time"), data.numbers("mean")[:, :2], data.numbers("sd")[:, :2]


def picture(path: Path, means: np.ndarray, sds: np.ndarray, truth: np.ndarray) -> None:
    """The track, its uncertainty along the axes, and the true track."""
    import matplotlib

    matplotlib.use("Agg")
    from probinf.plots.track import plot_track

    covs = sds[:, :, None] ** 2 * np.eye(2)
    figure = plot_track(means, covs, truth=truth).get_figure(root=True)
    assert figure is not None
    figure.savefig(path)
    print(f"picture: {path}")  # noqa: T201


def _call(name: str, command: Any, line: str) -> int:
    """Run a subcommand as from the shell."""
    print(f"$ probinf {name} {line}", flush=True)  # noqa: T201
    parser = argparse.ArgumentParser()
    command.arguments(parser)
    run: Callable[[argparse.Namespace], int] = command.run
    return run(parser.parse_args(shlex.split(line)))
