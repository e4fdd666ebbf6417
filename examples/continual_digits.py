"""Exact heads and baselines on the embedded digits: accuracy, forgetting and calibration in one table.

    python -m examples.continual_digits [--seeds N] [--out FOLDER]

With `--out` the runs are also written as CSV and JSON.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Sequence

import continual


def learners() -> dict[str, continual.AbstractLearner]:
    """What is compared; the exact heads share their features."""
    features = continual.RandomFourier(300, gamma=0.1)
    training = continual.Training(hidden=(64,), epochs=20, learning_rate=3e-3, batch=32)
    return {
        "exact linear head": continual.Featured(features, continual.BayesianLinearHead(10, ridge=0.1)),
        "exact shared covariance": continual.Featured(features, continual.SharedCovarianceGaussian(10)),
        "fine-tuning": continual.FineTuning(10, training),
        "replay, 100 examples": continual.Replay(10, continual.ReservoirMemory(100), training),
        "GDumb, 100 examples": continual.GDumb(10, continual.BalancedMemory(100), training),
        "joint": continual.Joint(10, training),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, list[continual.Result]]:
    """Run all learners on class-incremental digits and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=pathlib.Path)
    given = parser.parse_args(arguments)
    streams = [continual.split(continual.load("digits"), seed=seed) for seed in range(given.seeds)]
    runs = {
        name: [continual.run(learner, stream, seed=seed) for seed, stream in enumerate(streams)]
        for name, learner in learners().items()
    }
    print(continual.as_table(runs))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        continual.write_csv(given.out / "digits.csv", runs)
        continual.write_json(given.out / "digits.json", runs)
    return runs


if __name__ == "__main__":
    main()
