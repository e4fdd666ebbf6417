"""Digits: a classifier that learns by predictive coding, and a memory that fills in hidden pixels.

    python -m examples.deep_predictive_coding [--quick] [--out FOLDER]

1,297 training and 500 test images of 8 x 8 pixels, which come with the package. The memory's settings were chosen on
297 of the training images.
"""

from __future__ import annotations

import argparse
import pathlib
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import optax

import continual
from probinf.predictive_coding import deep


class Result(NamedTuple):
    """What the pictures are drawn from."""

    classifier: deep.Trained
    accuracy: float
    memory: deep.Trained
    pictures: dict[str, np.ndarray]
    errors: dict[str, float]


def classify(train: Any, test: Any, epochs: int, seed: int) -> tuple[deep.Trained, float]:
    """Incremental predictive coding: accuracy on the test images."""
    network = deep.mlp((64, 64, 64, 10), key=seed)
    rule = deep.Incremental(8, optax.sgd(0.5, momentum=0.35))
    settings = deep.Training(rule, optax.adamw(1e-3, weight_decay=0.01), batch_size=32, num_epochs=epochs)
    trained = deep.train(network, settings, inputs=train[0], outputs=deep.one_hot(train[1], 10), seed=seed)
    guessed = np.argmax(np.asarray(trained.network(test[0])), axis=1)
    return trained, float((guessed == test[1]).mean())


def memorise(train: Any, epochs: int, seed: int) -> deep.Trained:
    """A generative network: causes of each image are inferred, then the weights follow."""
    layers = deep.mlp((16, 64, 64), key=seed, activation="tanh").layers
    network = deep.DeepNetwork(layers, 16, energies=[deep.Gaussian(1.0), deep.Gaussian(2.0)])
    rule = deep.AfterInference(deep.FixedSteps(30, optax.sgd(0.05, momentum=0.8)))
    settings = deep.Training(rule, optax.adam(2e-3), batch_size=64, num_epochs=epochs)
    return deep.train(network, settings, outputs=train[0], seed=seed)


def run(quick: bool, seed: int) -> Result:
    """Train both networks and complete test images of which half the pixels are hidden."""
    found = continual.load("digits")
    train, test = ((p.inputs.reshape(len(p.inputs), -1) / p.inputs.max(), p.targets) for p in (found.train, found.test))
    classifier, accuracy = classify(train, test, 5 if quick else 40, seed)
    memory = memorise(train, 5 if quick else 60, seed)
    images = test[0]
    seen = np.random.default_rng(seed).random(images.shape) < 0.5
    recalled = np.asarray(deep.recall(memory.network, images, seen))
    shown = np.asarray(deep.reconstruct(memory.network, images))
    hidden = {"recalled": recalled, "mean image": np.broadcast_to(train[0].mean(axis=0), images.shape)}
    errors = {name: float(np.sqrt(np.mean((guess - images)[~seen] ** 2))) for name, guess in hidden.items()}
    shapes = {"digit": images, "seen": np.where(seen, images, np.nan), "recalled": recalled, "reconstructed": shown}
    return Result(
        classifier, accuracy, memory, {name: value[:10].reshape(10, 8, 8) for name, value in shapes.items()}, errors
    )


def draw(result: Result, out: pathlib.Path) -> list[pathlib.Path]:
    """Energies while learning, and digits beside what the memory makes of them."""
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / "deep_energies.png", out / "deep_memory.png"]
    ax = deep.plot_energies(result.classifier.energies, window=10)
    ax.set_title(f"classifier: test accuracy {100 * result.accuracy:.1f} %")
    ax.figure.savefig(paths[0])
    deep.plot_images(result.pictures).savefig(paths[1])
    return paths


def main(argv: list[str] | None = None) -> Result:
    """Run, print accuracy and errors, save the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("figures"))
    args = parser.parse_args(argv)
    matplotlib.use("Agg")
    result = run(args.quick, args.seed)
    print(f"test accuracy of the classifier  {100 * result.accuracy:.1f} %")
    for name, error in result.errors.items():
        print(f"hidden pixels, {name:<12} root mean square error {error:.3f}")
    for path in draw(result, args.out):
        print(f"Picture: {path}")
    return result


if __name__ == "__main__":
    main()
