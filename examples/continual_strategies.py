"""Which strategies remember? Springs, posteriors and prototypes on the embedded digits, with pictures.

    python -m examples.continual_strategies [--seeds N] [--epochs N] [--out FOLDER]

Prints accuracy and forgetting; with `--out` draws the average accuracy against tasks learnt, and each accuracy matrix.
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import continual
from continual import plots


def learners(epochs: int) -> dict[str, continual.AbstractLearner]:
    """A learner of each kind, with the same network; those with a memory keep 100 examples."""
    training = continual.Training(hidden=(64,), epochs=epochs, learning_rate=3e-3, batch=32)
    memory = continual.BalancedMemory(100)
    return {
        "fine-tuning": continual.FineTuning(10, training),
        "EWC": continual.EWC(10, training, strength=10.0),
        "online Laplace": continual.Laplace(10, training, "kronecker"),
        "VCL with coreset": continual.VCL(10, training, coreset=20),
        "function-space VI": continual.FunctionSpaceVI(10, training, memory, strength=0.1, prior_std=10.0),
        "ProtoCL": continual.ProtoCL(10, training, memory, dimension=16),
    }


def draw(file: pathlib.Path, plot: Callable[[Any], Any]) -> None:
    """Write one picture."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(layout="constrained")
    plot(ax)
    figure.savefig(file)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> dict[str, list[continual.Result]]:
    """Run all learners on class-incremental digits, print the table and draw the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=pathlib.Path)
    given = parser.parse_args(arguments)
    streams = [continual.split(continual.load("digits"), seed=seed) for seed in range(given.seeds)]
    runs = {
        name: [continual.run(learner, stream, seed=seed) for seed, stream in enumerate(streams)]
        for name, learner in learners(given.epochs).items()
    }
    print(continual.as_table(runs))
    if given.out is not None:
        given.out.mkdir(parents=True, exist_ok=True)
        draw(given.out / "average-accuracy.png", lambda ax: plots.plot_average_accuracy(runs, ax=ax))
        for name, results in runs.items():
            file = given.out / f"{name.lower().replace(' ', '-')}.png"
            draw(file, lambda ax, results=results: plots.plot_mean_accuracy(results, ax=ax))
    return runs


if __name__ == "__main__":
    main()
