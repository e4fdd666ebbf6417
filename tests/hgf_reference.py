"""The networks of tests/data/hgf, built here, and their recorded trajectories."""

import functools
from pathlib import Path

import numpy as np

from probinf.predictive_coding import Enhanced, Network, Standard, Unbounded

DATA = Path(__file__).parent / "data" / "hgf"
MEAN_FIELD = {"mode": "mean-field", "compat": "pyhgf-0.3"}
RELAXED = {"mode": "relaxed", "compat": "pyhgf-0.3"}


@functools.cache
def recorded(name: str) -> dict[str, np.ndarray]:
    """Arrays of a file, by name."""
    with np.load(DATA / f"{name}.npz") as file:
        return {key: file[key] for key in file.files}


def decisions() -> np.ndarray:
    """What the person who saw the binary series decided, (320,), 0 or 1."""
    return np.array([float(c) for c in (DATA / "decisions.txt").read_text() if c in "01"])


def state(**numbers):
    """Fields of a state by the short names of the list below."""
    names = {"m": "mean", "p": "precision", "w": "tonic_volatility", "r": "drift"}
    return {names[key]: value for key, value in numbers.items()}


def continuous(levels: int, update) -> Network:
    network = Network(update=update, **MEAN_FIELD).continuous_input("n0", precision=1e4)
    network = network.continuous_state("n1", **state(m=1.04, p=1e4, w=-13.0)).value("n1", "n0")
    for level in range(2, levels + 1):
        network = network.continuous_state(f"n{level}", **state(m=1.0, p=10.0, w=-2.0))
        network = network.volatility(f"n{level}", f"n{level - 1}")
    return network


def binary(x2: dict, x3: dict | None = None, update=None, **settings) -> Network:
    network = Network(update=update or Standard(), **(settings or MEAN_FIELD)).binary_input("n0")
    network = network.continuous_state("n1", **x2).value("n1", "n0")
    return network if x3 is None else network.continuous_state("n2", **x3).volatility("n2", "n1")


def value_parents() -> Network:
    return (
        Network(update=Standard(), **RELAXED)
        .continuous_input("n0", precision=4.0)
        .continuous_state("n1", **state(p=1.0, w=-2.0))
        .continuous_state("n2", **state(p=2.0, w=-3.0, r=0.01))
        .continuous_state("n3", **state(p=5.0, w=-5.0))
        .value("n1", "n0", 0.7)
        .value("n2", "n0", -0.4)
        .value("n3", "n1", 0.5)
    )


def two_inputs() -> Network:
    return (
        Network(update=Enhanced(), **MEAN_FIELD)
        .continuous_input("n0", precision=10.0)
        .continuous_input("n1", precision=5.0)
        .continuous_state("n2", **state(w=-2.0))
        .continuous_state("n3", **state(w=-3.0))
        .value("n2", "n0")
        .value("n2", "n1", 0.5)
        .volatility("n3", "n2")
    )


def categorical() -> Network:
    network = Network(update=Enhanced(), **MEAN_FIELD).categorical_input("n0", 3)
    network = network.continuous_state("n7", **state(w=-4.0))
    for k in range(3):
        network = network.continuous_state(f"n{4 + k}", **state(m=-np.log(2.0), w=-4.0))
        network = network.value(f"n{4 + k}", f"n0[{k}]").volatility("n7", f"n{4 + k}")
    return network


def quirk() -> Network:
    settings = {"mode": "mean-field", "compat": "pyhgf-0.3-time-step"}
    network = Network(update=Standard(), **settings).continuous_input("n0", precision=25.0)
    network = network.continuous_state("n1", **state(p=4.0, w=-3.0)).continuous_state("n2", **state(w=-3.0))
    return network.value("n1", "n0").volatility("n2", "n1")


TOOLBOX = (state(w=-2.5), state(m=1.0, w=-6.0))
NETWORKS = {
    "s01_continuous_x1_x2_standard": lambda: continuous(2, Standard()),
    "s02_continuous_x1_x2_x3_ehgf": lambda: continuous(3, Enhanced()),
    "s03_binary_2level": lambda: binary(state(w=-3.0)),
    "s04_binary_3level_standard": lambda: binary(*TOOLBOX),
    "s05_binary_3level_unbounded_relaxed": lambda: binary(state(w=-4.0), state(w=-4.0), Unbounded(), **RELAXED),
    "s06_value_parents_relaxed": value_parents,
    "s07_missing_two_inputs_ehgf": two_inputs,
    "s08_categorical3_ehgf": categorical,
    "s10_binary_3level_irregular_standard": lambda: binary(*TOOLBOX),
    "s11_quirk_continuous_input_irregular": quirk,
}
FIELDS = {
    "mean": "mean",
    "precision": "precision",
    "expected_mean": "expected_mean",
    "expected_precision": "expected_precision",
    "conditional_expected_precision": "conditional_precision",
    "effective_precision": "effective_precision",
    "value_prediction_error": "value_error",
    "volatility_prediction_error": "volatility_error",
}


def run(name: str):
    """The network of a file, filtered over the file's series."""
    network, file = NETWORKS[name](), recorded(name)
    names = [node.name for node in network.fed_inputs()]
    if name.startswith("s08"):
        data = {"n0": np.argmax(file["input"], axis=1)}
    else:
        data = {n: file["input"][:, k] for k, n in enumerate(names)}
    observed = None
    if not file["observed"].all():
        observed = {n: file["observed"][:, k].astype(bool) for k, n in enumerate(names)}
    steps = None if (file["time_steps"] == 1.0).all() else file["time_steps"]
    return network.filter(data, time_steps=steps, observed=observed)
