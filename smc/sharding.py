"""The particle axis of a filter over several devices: what is split, what every device has whole."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from probinf.errors import ArgumentError, ArgumentTypeError
from probinf.representations.concrete import is_concrete


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where the rows of a population live: split evenly over the devices of a mesh, or on one device (`mesh=None`).

    States are split. Weights and ancestors are whole on every device, and pinned so wherever they meet something
    split: sums over them are then taken in one order, whatever the number of devices, and every device draws the same
    ancestors bit for bit. A partitioned sum would differ in its last bit, and one last bit can flip an ancestor.
    """

    mesh: Mesh | None = None

    @property
    def num_devices(self) -> int:
        """Number of devices in the mesh, of all processes together."""
        return 1 if self.mesh is None else self.mesh.size

    def split(self, rows: Any) -> Any:
        """Rows (N, ...), or a pytree of them, split along their leading axis."""
        return rows if self.mesh is None else self._pinned(rows, PartitionSpec(self.mesh.axis_names))

    def whole(self, rows: Any) -> Any:
        """The same rows, all of them on every device."""
        return rows if self.mesh is None else self._pinned(rows, PartitionSpec())

    def _pinned(self, rows: Any, spec: PartitionSpec) -> Any:
        assert self.mesh is not None
        return jax.lax.with_sharding_constraint(rows, NamedSharding(self.mesh, spec))

    def put(self, tree: Any) -> Any:
        """Arrays of this process, the same in all processes, as arrays that are whole on every device of the mesh."""
        if self.mesh is None:
            return tree
        everywhere = NamedSharding(self.mesh, PartitionSpec())

        def one(x: Any) -> Any:
            if not isinstance(x, jax.Array) or not is_concrete(x):
                return x
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
                return jax.random.wrap_key_data(one(jax.random.key_data(x)), impl=jax.random.key_impl(x))
            return jax.device_put(np.asarray(x) if jax.process_count() > 1 else x, everywhere)

        return jax.tree.map(one, tree)


ONE_DEVICE = Placement()


def placement(mesh: Any, num_rows: int, argument: str) -> Placement:
    """A checked mesh.

    Raises:
        ArgumentTypeError: `mesh` is not a `jax.sharding.Mesh`.
        ArgumentError: `num_rows`, the argument of this name, is not a multiple of the number of devices.
    """
    if mesh is None:
        return ONE_DEVICE
    if not isinstance(mesh, Mesh):
        raise ArgumentTypeError(
            f"mesh: expected a jax.sharding.Mesh such as jax.make_mesh((jax.device_count(),), ('particles',)), found "
            f"{type(mesh).__name__}."
        )
    if num_rows % mesh.size:
        below, above = num_rows // mesh.size * mesh.size, -(-num_rows // mesh.size) * mesh.size
        nearest = f"{above}" if below == 0 else f"{below} or {above}"
        raise ArgumentError(
            f"{argument}: expected a multiple of the {mesh.size} devices of the mesh, found {num_rows}; take {nearest}."
        )
    # Our pins say where things go; a mesh of explicit axes would ask the same of every operation of the model.
    return Placement(Mesh(mesh.devices, mesh.axis_names))


def check_generator(key: jax.Array, where: Placement) -> None:
    """Refuse a generator whose numbers cannot be drawn a part at a time.

    Raises:
        ArgumentError: it is another one than threefry, and there are several devices.
    """
    generator = str(jax.random.key_impl(key))
    if where.num_devices > 1 and generator != "threefry2x32":
        raise ArgumentError(
            f"key: expected a key of threefry2x32 on a mesh of {where.num_devices} devices, found one of {generator}: "
            "its numbers cannot be drawn a part at a time, or differ with the number of devices. Give a seed or "
            "jax.random.key(seed)."
        )
