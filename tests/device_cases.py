"""Filters on several devices, for tests/test_devices.py: a program of its own, because devices are counted at start.

`python -m tests.device_cases four` compares one device with four virtual ones; `... draws` is run with one and with
four; `... pair PORT RANK` is one of two processes with two devices each. All print one line of JSON. XLA_FLAGS in the
environment says how many devices there are.
"""

import hashlib
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

import probinf as pi
import smc
from probinf.errors import ArgumentError


class Plane(smc.StateSpaceModel):
    def initial(self):
        return dist.Normal(jnp.zeros(2), 1.0).to_event(1)

    def transition(self, t, x):
        moved = jnp.array([[0.9, 0.3], [-0.2, 0.8]]) @ jnp.sin(x)
        return dist.Normal(moved, 0.6).to_event(1)

    def observation(self, t, x):
        return dist.StudentT(4.0, x[0] * x[1], 0.5)


def data():
    rng = np.random.default_rng(8)
    return jnp.asarray(rng.standard_t(4, 25), jnp.float32)


def exact(mesh, **settings):
    return smc.particle_filter(Plane(), data(), 3, num_particles=512, threshold=0.7, mesh=mesh, **settings)


def islands(mesh):
    return smc.island_filter(Plane(), data(), 3, num_particles=512, num_islands=8, mesh=mesh)


def mesh_of(num):
    return jax.sharding.Mesh(np.array(jax.devices()[:num]), ("particles",))


def same(a, b):
    return bool((np.asarray(a) == np.asarray(b)).all())


def gap(a, b):
    return float(np.max(np.abs(np.asarray(a) - np.asarray(b)) / np.maximum(1.0, np.abs(np.asarray(b)))))


def refused(call):
    try:
        call()
    except ArgumentError as error:
        return str(error)
    return ""


def training():
    """Four devices that share a batch, beside one device that is given the four shares side by side."""
    from flax import nnx

    from transformers_gmm.config import TrainingConfig
    from transformers_gmm.tasks.conjugate import Conjugate
    from transformers_gmm.training import Training, train

    class Shares(Conjugate):
        def simulate(self, key, n):
            shares = [super(Shares, self).simulate(jax.random.fold_in(key, i), n // 4) for i in range(4)]
            return jax.tree.map(lambda *parts: jnp.concatenate(parts), *shares)

    config = TrainingConfig(steps=3, batch=64, learning_rate=1e-2, warm_up=0.5, seed=3)
    runs = [
        Training(kind(2), config, kind(2).network(nnx.Rngs(3)), every=3, devices=devices)
        for kind, devices in ((Conjugate, jax.devices()), (Shares, None))
    ]
    start = runs[0].weights
    for run in runs:
        run.advance()
    moved = [gap(a, b) for a, b in zip(*map(jax.tree.leaves, (runs[0].weights, start)), strict=True)]
    # Averages of gradients: Adam divides by their size, and so makes steps of what is rounding.
    ours, theirs = (np.concatenate([x.ravel() for x in jax.tree.leaves(run.moments[1].mu)]) for run in runs)
    return {
        "moved": max(moved),
        "gradients": float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)),
        "losses": gap(*(run.losses for run in runs)),
        "held out": gap(*(run.held_out for run in runs)),
        "uneven": refused(lambda: train(Conjugate(2), TrainingConfig(steps=1, batch=66), devices=jax.devices())),
    }


def four():
    plain, many = (exact(mesh, history=True) for mesh in (mesh_of(1), mesh_of(4)))
    alone, ring = (islands(mesh) for mesh in (None, mesh_of(4)))
    resampled = np.asarray(plain.history.ancestors) != np.arange(512)
    return {
        "resampled": int(resampled.any(axis=1).sum()),
        "exact": {
            "ancestors": same(many.history.ancestors, plain.history.ancestors),
            "particles": same(many.history.particles, plain.history.particles),
            "log_weights": same(many.history.log_weights, plain.history.log_weights),
            "log_increments": same(many.log_increments, plain.log_increments),
            "ess": same(many.ess, plain.ess),
            "moments": max(gap(many.mean, plain.mean), gap(many.variance, plain.variance)),
        },
        "pieces": [piece.data.shape for piece in many.history.particles.addressable_shards],
        "islands": {
            "particles": same(ring.particles, alone.particles),
            "log_weights": same(ring.log_weights, alone.log_weights),
            "log_increments": same(ring.log_increments, alone.log_increments),
            "moments": max(gap(ring.mean, alone.mean), gap(ring.variance, alone.variance)),
        },
        "log_evidence": [float(many.log_evidence), float(ring.log_evidence)],
        "training": training(),
        "fast key": refused(
            lambda: smc.particle_filter(Plane(), data(), pi.fast_key(0), num_particles=8, mesh=mesh_of(4))
        ),
        "fast key, islands": refused(
            lambda: smc.island_filter(Plane(), data(), pi.fast_key(0), num_particles=8, num_islands=4, mesh=mesh_of(4))
        ),
        "uneven": refused(lambda: smc.particle_filter(Plane(), data(), 0, num_particles=510, mesh=mesh_of(4))),
        "uneven islands": refused(
            lambda: smc.island_filter(Plane(), data(), 0, num_particles=60, num_islands=6, mesh=mesh_of(4))
        ),
    }


@pi.model
def normal(y):
    mean = pi.sample("mean", dist.Normal(0.0, 2.0))
    sd = pi.sample("sd", dist.HalfNormal(1.0))
    with pi.plate("obs", len(y)):
        pi.sample("y", dist.Normal(mean, sd), obs=y)


def draws():
    """A digest of the draws of each kind of sampler."""
    methods = {
        "nuts": (pi.NUTS(num_warmup=40, num_draws=40, num_chains=4), normal(data())),
        "chees": (pi.ChEES(num_warmup=40, num_draws=40, num_chains=8), normal(data())),
        "tempered": (smc.TemperedSMC(128), normal(data())),
    }
    found = {"devices": jax.device_count()}
    for name, (method, program) in methods.items():
        posterior = pi.infer(program, method, seed=2, progress=False)
        found[name] = hashlib.sha256(b"".join(posterior[site].tobytes() for site in posterior.sites)).hexdigest()
    return found


def pair(port, rank):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", num_processes=2, process_id=int(rank))
    mesh = mesh_of(4)
    found = [float(exact(mesh).log_evidence), float(islands(mesh).log_evidence)]
    return {"devices": jax.device_count(), "here": jax.local_device_count(), "log_evidence": found}


if __name__ == "__main__":
    print(json.dumps({"four": four, "draws": draws, "pair": pair}[sys.argv[1]](*sys.argv[2:])))
