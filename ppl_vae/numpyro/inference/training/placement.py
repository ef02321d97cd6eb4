"""Placement of the arrays of a run: on one device, or on a mesh that shares each batch."""

from collections.abc import Callable
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ppl_vae.numpyro.inference.batches import find_device

Found = TypeVar("Found")


class Placement:
    """The devices of a run. Weights and data are replicated, batches are split into equal parts.

    Args:
        devices: One device, or a mesh with one axis.
    """

    def __init__(self, devices: jax.Device | Mesh) -> None:
        self.parts: NamedSharding | None = None
        self.size = 1
        if isinstance(devices, Mesh):
            # Without axis types: jax chooses the sharding of intermediate values.
            mesh, self.size = Mesh(devices.devices, devices.axis_names), devices.size
            spec: Any = PartitionSpec  # its arguments are untyped
            self.parts = NamedSharding(mesh, spec(*devices.axis_names))
            self.whole: Any = NamedSharding(mesh, spec())
        else:
            self.whole = SingleDeviceSharding(devices)

    @classmethod
    def find(cls, device: str | jax.Device, mesh: Mesh | None) -> Self:
        """Return the placement for the arguments `device` and `mesh` of `fit`.

        Raises:
            ValueError: The device does not exist, the mesh is not a mesh with one axis, or both are
                given.
        """
        if mesh is None:
            return cls(find_device(device))
        if not isinstance(mesh, Mesh):
            raise ValueError(f"mesh should be a jax.sharding.Mesh, was {mesh!r}")
        if len(mesh.axis_names) != 1:
            raise ValueError(
                "mesh should have one axis, along which batches are split, had the axes "
                f"{mesh.axis_names}"
            )
        if not (isinstance(device, str) and device == "auto"):
            raise ValueError(f"device should be auto where mesh names the devices, was {device!r}")
        return cls(mesh)

    @property
    def writes(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.parts is None or jax.process_index() == 0

    def anywhere(self, yes: bool) -> bool:
        """Whether `yes` holds in any process of the mesh; all processes must call this."""
        if self.parts is None or jax.process_count() == 1:
            return yes
        return bool(np.asarray(multihost_utils.process_allgather(np.array(yes))).any())

    def rank_0_first(self, find: Callable[[], Found]) -> Found:
        """Return `find()`, called in the process that writes before it is called in the others."""
        if self.parts is None or jax.process_count() == 1:
            return find()
        found = find() if self.writes else None
        multihost_utils.sync_global_devices("found")
        return find() if not self.writes or found is None else found

    def put(self, tree: Any) -> Any:
        """Copy arrays to each device; the copy's buffers may be donated."""
        return jax.device_put(jax.tree.map(np.array, tree), self.whole)

    def here(self, tree: Any) -> Any:
        """Copy arrays to one device of this process."""
        return jax.tree.map(lambda array: jnp.copy(array.addressable_data(0)), tree)

    def alone(self) -> "Placement":
        """Return the placement of the arrays that `here` returns."""
        devices = self.whole.addressable_devices
        return Placement(min(devices, key=lambda device: device.id))

    def check_sizes(self, size: int) -> None:
        """Check that batches of this size can be split into equal parts."""
        if size % self.size:
            raise ValueError(
                f"batch_size should give batches that the {self.size} devices of mesh can share "
                f"equally, gave batches of {size}"
            )

    def shared(self, batch: tuple[Array, ...]) -> tuple[Array, ...]:
        """Split a batch over the devices, inside a compiled program.

        A smaller last batch that cannot be split evenly is computed whole on every device.
        """
        if self.parts is None or len(batch[0]) % self.size:
            return batch
        cut: Any = jax.lax.with_sharding_constraint  # its arguments are untyped
        return tuple(cut(part, self.parts) for part in batch)
