"""The devices of a run: each batch is divided among them, and everything else is on all of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from .._run_folder import RunError


@dataclass(frozen=True)
class Devices:
    """One or more devices, of this process or of all processes in `jax.distributed`. Every
    process runs the same program; only the first one writes files."""

    mesh: Mesh | None = None

    @property
    def lead(self) -> bool:
        """Whether this process writes the files."""
        return self.mesh is None or jax.process_index() == 0

    @property
    def hosts(self) -> int:
        """The processes that train together."""
        return 1 if self.mesh is None else jax.process_count()

    def everywhere(self, tree: Any) -> Any:
        """The arrays of a tree, on every device."""
        if self.mesh is None:
            return tree
        whole = NamedSharding(self.mesh, PartitionSpec())

        def put(leaf: Any) -> Any:
            # Of arrays of this process alone; what is on all devices already stays.
            local = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
            return leaf if local else jax.device_put(np.asarray(leaf), whole)

        arrays, static = eqx.partition(tree, lambda leaf: eqx.is_array(leaf) or _is_numpy(leaf))
        return eqx.combine(jax.tree.map(put, arrays), static)

    def of_lead(self, tree: Any) -> Any:
        """The arrays of the first process, in all of them."""
        if self.hosts == 1:
            return tree
        arrays, static = eqx.partition(tree, eqx.is_array)
        found = multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, arrays))
        return eqx.combine(jax.tree.map(jax.numpy.asarray, found), static)

    def divided(self, rows: Any) -> Any:
        """Inside a program: the rows of a batch, divided among the devices."""
        return self._constrained(rows, PartitionSpec("batch"))

    def whole(self, tree: Any) -> Any:
        """Inside a program: arrays that every device holds."""
        return self._constrained(tree, PartitionSpec())

    def _constrained(self, tree: Any, spec: PartitionSpec) -> Any:
        if self.mesh is None:
            return tree
        sharding = NamedSharding(self.mesh, spec)
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, sharding), tree)

    def agree(self, stop: bool, count: int) -> tuple[bool, int]:
        """Whether one of the processes is to stop, and the fewest updates that one would make."""
        if self.hosts == 1:
            return stop, count
        said = multihost_utils.process_allgather(np.array([int(stop), count]))
        return bool(said[:, 0].any()), int(said[:, 1].min())

    def check(self, batch: int) -> None:
        """**Raises:** `RunError` if a batch cannot be divided."""
        count = 1 if self.mesh is None else self.mesh.size
        if batch % count:
            raise RunError(
                f"`batch` must be a multiple of the number of devices, {count}, got {batch}."
            )


def on(devices: Sequence[Any] | None) -> Devices:
    """These devices, or the default one."""
    if devices is None:
        return Devices()
    return Devices(Mesh(np.asarray(list(devices)), ("batch",)))


def _is_numpy(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | np.generic)
