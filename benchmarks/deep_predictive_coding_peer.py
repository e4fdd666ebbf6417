"""The training step and the epoch of `deep_predictive_coding.py` by pcx; run by it in pcx's own environment.

    python deep_predictive_coding_peer.py PROBLEM.npz

PROBLEM holds the batch (`x`, `y`), the weights (`w0`, `b0`, ...), and what to do (`num_steps`, `step_size`, `rate`).
Prints where the weights after one step are, then answers each line of its input with one line of JSON: `step N` with
the median milliseconds of N steps, `epoch N` with the seconds of N steps in a row.
"""

import itertools
import json
import sys
import time

import jax
import numpy as np
import optax
import pcx.functional as pxf
import pcx.nn as pxnn
import pcx.predictive_coding as pxc
import pcx.utils as pxu

OF_EACH_ROW = pxc.VodeParam | pxc.VodeParam.Cache
HIDDEN = pxu.M_hasnot(pxc.VodeParam, frozen=True)


class Network(pxc.EnergyModule):
    """A perceptron with a value node behind each layer; the last one holds the label."""

    def __init__(self, sizes):
        super().__init__()
        self.layers = [pxnn.Linear(*pair) for pair in itertools.pairwise(sizes)]
        self.vodes = [pxc.Vode() for _ in sizes[1:]]
        self.vodes[-1].h.frozen = True

    def __call__(self, x, y):
        for layer, vode in zip(self.layers[:-1], self.vodes[:-1], strict=True):
            x = vode(jax.nn.gelu(layer(x)))
        self.vodes[-1](self.layers[-1](x))
        if y is not None:
            self.vodes[-1].set("h", y)


@pxf.vmap(pxu.M(OF_EACH_ROW).to((None, 0)), in_axes=(0, 0), out_axes=0)
def forward(x, y, *, network):
    network(x, y)


@pxf.vmap(pxu.M(OF_EACH_ROW).to((None, 0)), in_axes=(0,), out_axes=None, axis_name="batch")
def energy(x, *, network):
    network(x, None)
    return jax.lax.pmean(network.energy().sum(), "batch")


@pxf.jit(static_argnums=0)
def train(num_steps, x, y, *, network, of_weights, of_activities):
    network.train()
    with pxu.step(network, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
        forward(x, y, network=network)
    of_activities.init(HIDDEN(network))
    for _ in range(num_steps):
        with pxu.step(network, clear_params=pxc.VodeParam.Cache):
            _, gradient = pxf.value_and_grad(HIDDEN.to((False, True)))(energy)(x, network=network)
        of_activities.step(network, gradient["network"])
    of_activities.clear()
    with pxu.step(network, clear_params=pxc.VodeParam.Cache):
        _, gradient = pxf.value_and_grad(pxu.M(pxnn.LayerParam).to((False, True)))(energy)(x, network=network)
    of_weights.step(network, gradient["network"])


def main():
    problem = np.load(sys.argv[1])
    x, y, count = jax.numpy.asarray(problem["x"]), jax.numpy.asarray(problem["y"]), int(problem["layers"])
    weights = [problem[f"w{i}"] for i in range(count)]
    network = Network([weights[0].shape[1], *(len(w) for w in weights)])
    for i, layer in enumerate(network.layers):
        layer.nn.weight.set(jax.numpy.asarray(weights[i]))
        layer.nn.bias.set(jax.numpy.asarray(problem[f"b{i}"]))
    with pxu.step(network, pxc.STATUS.INIT, clear_params=pxc.VodeParam.Cache):
        forward(x, y, network=network)
    step_size = float(problem["step_size"]) * len(x)  # its energy is the mean over rows
    of_activities = pxu.Optim(lambda: optax.sgd(step_size))
    of_weights = pxu.Optim(lambda: optax.adamw(float(problem["rate"])), pxu.M(pxnn.LayerParam)(network))

    def step():
        optimisers = {"of_weights": of_weights, "of_activities": of_activities}
        train(int(problem["num_steps"]), x, y, network=network, **optimisers)
        jax.block_until_ready([layer.nn.weight.get() for layer in network.layers])

    step()
    moved = f"{sys.argv[1]}.moved.npz"
    np.savez(moved, **{f"w{i}": np.asarray(layer.nn.weight.get()) for i, layer in enumerate(network.layers)})
    print(json.dumps(moved), flush=True)
    step()
    for line in sys.stdin:
        what, repeats = line.split()
        taken = []
        for _ in range(int(repeats)):
            began = time.perf_counter()
            step()
            taken.append(time.perf_counter() - began)
        print(json.dumps(sum(taken) if what == "epoch" else 1e3 * float(np.median(taken))), flush=True)


if __name__ == "__main__":
    main()
