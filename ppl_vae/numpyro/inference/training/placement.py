"""Where the arrays of a run lie: on one device, or on those of a mesh, which share its batches."""

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
    """The devices of a run. Weights and data lie on each of them, a batch is cut into equal parts.

    Args:
        devices: One device, or a mesh with one axis.
    """

    def __init__(self, devices: jax.Device | Mesh) -> None:
        self.parts: NamedSharding | None = None
        self.size = 1
        if isinstance(devices, Mesh):
            # Without the types of its axes: how the rest of a program is cut is left to jax.
            mesh, self.size = Mesh(devices.devices, devices.axis_names), devices.size
            spec: Any = PartitionSpec  # whose arguments have no types
            self.parts = NamedSharding(mesh, spec(*devices.axis_names))
            self.whole: Any = NamedSharding(mesh, spec())
        else:
            self.whole = SingleDeviceSharding(devices)

    @classmethod
    def find(cls, device: str | jax.Device, mesh: Mesh | None) -> Self:
        """The placement that the arguments `device` and `mesh` of `fit` ask for.

        Raises:
            ValueError: there is no such device, the mesh is none or has several axes, or both are
                given.
        """
        if mesh is None:
            return cls(find_device(device))
        if not isinstance(mesh, Mesh):
            raise ValueError(f"mesh should be a jax.sharding.Mesh, was {mesh!r}")
        if len(mesh.axis_names) != 1:
            raise ValueError(
                "mesh should have one axis, by which batches are cut, had the axes "
                f"{mesh.axis_names}"
            )
        if not (isinstance(device, str) and device == "auto"):
            raise ValueError(f"device should be auto where mesh names the devices, was {device!r}")
        return cls(mesh)

    @property
    def writes(self) -> bool:
        """Whether files are written by this process, which may be one of several of a mesh."""
        return self.parts is None or jax.process_index() == 0

    def anywhere(self, yes: bool) -> bool:
        """Whether it is so in one of the processes of the mesh, which all have to ask."""
        if self.parts is None or jax.process_count() == 1:
            return yes
        return bool(np.asarray(multihost_utils.process_allgather(np.array(yes))).any())

    def rank_0_first(self, find: Callable[[], Found]) -> Found:
        """What `find` returns, called in the process that writes before it is in the others."""
        if self.parts is None or jax.process_count() == 1:
            return find()
        found = find() if self.writes else None
        multihost_utils.sync_global_devices("found")
        return find() if not self.writes or found is None else found

    def put(self, tree: Any) -> Any:
        """A copy of arrays on each device; a program may take over its memory."""
        return jax.device_put(jax.tree.map(np.array, tree), self.whole)

    def here(self, tree: Any) -> Any:
        """A copy of arrays on one device of this process."""
        return jax.tree.map(lambda array: jnp.copy(array.addressable_data(0)), tree)

    def alone(self) -> "Placement":
        """That of what `here` returns."""
        devices = self.whole.addressable_devices
        return Placement(min(devices, key=lambda device: device.id))

    def check_sizes(self, size: int) -> None:
        """Raises a ValueError unless batches of this size can be cut into equal parts."""
        if size % self.size:
            raise ValueError(
                f"batch_size should give batches that the {self.size} devices of mesh can share "
                f"equally, gave batches of {size}"
            )

    def shared(self, batch: tuple[Array, ...]) -> tuple[Array, ...]:
        """The batch, of which each device has a part; in a compiled program.

        A last one that is smaller and cannot be cut is left whole.
        """
        if self.parts is None or len(batch[0]) % self.size:
            return batch
        cut: Any = jax.lax.with_sharding_constraint  # whose arguments have no types
        return tuple(cut(part, self.parts) for part in batch)
