"""The one mesh: which devices a run uses, and how its replicates and batches lie on them.

A mesh has two axes. Replicates of an experiment lie along `REPLICATES`; the examples of each
replicate's batch along `BATCH`; and what has an axis of its own, such as the points of a landscape,
along both. A result does not depend on the mesh beyond rounding. Nor do its bits, unless a batch is
shared or a device has several replicates at once.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from pruning_jax import choices
from pruning_jax.lab import processes
from pruning_jax.types import PyTree

REPLICATES = "replicates"
BATCH = "batch"

_SHARE = 0.5
"""Of a device's memory, for what is there many times; the rest is for everything else."""

_current: contextvars.ContextVar[Mesh | None] = contextvars.ContextVar("mesh", default=None)


def make(devices: int | None = None, replicates: int | None = None) -> Mesh:
    """A mesh of some devices, or all.

    Args:
      devices: how many, the same number of every process; by default all there are.
      replicates: how many replicates lie beside each other, a divisor of the devices; the devices
        of each share its batches. By default every device has replicates of its own.

    Raises:
      ValueError: more devices than there are, or another number that the mesh cannot have.
    """
    there, hosts = len(jax.devices()), jax.process_count()
    count = there if devices is None else choices.whole("devices", devices, "device")
    if count > there:
        kind = f"{there} {jax.devices()[0].platform} device{'s' * (there > 1)}"
        more = "; JAX_NUM_CPU_DEVICES sets how many a CPU has" * ("cpu" in kind)
        raise ValueError(f"devices is {count}, and there are {kind}; give at most {there}{more}")
    if count % hosts:
        raise ValueError(
            f"devices is {count}, which the {hosts} processes of the job do not divide; give a "
            f"multiple of {hosts}"
        )
    across = count if replicates is None else choices.whole("replicates", replicates, "replicate")
    if count % across:
        divisors = [number for number in range(1, count + 1) if count % number == 0]
        raise ValueError(
            f"replicates is {across}, which does not divide the {count} devices of the mesh; it "
            f"must be one of {divisors}"
        )
    chosen = [
        device
        for host in range(hosts)
        for device in jax.local_devices(process_index=host)[: count // hosts]
    ]
    shape, types = (across, count // across), (AxisType.Auto, AxisType.Auto)
    return jax.make_mesh(shape, (REPLICATES, BATCH), axis_types=types, devices=chosen)


@contextlib.contextmanager
def use(mesh: Mesh) -> Iterator[None]:
    """Runs everything within on `mesh`, of `make`.

    In a generator, do not yield within: what draws from it would run on the mesh too.
    """
    token = _current.set(mesh)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Mesh:
    """The mesh in use: every device there is, unless `use` says another."""
    return _current.get() or _everything()


@functools.cache
def _everything() -> Mesh:
    return make()


def fitting(need: int | None, mesh: Mesh) -> int:
    """How many things of `need` bytes every device holds in half its memory, if so much is free.

    The same on every process; 1 at least, and where `need` is not known or a device does not tell.
    """
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    limits = [stat.get("bytes_limit", 0) for stat in stats]
    free = [limit - stat.get("bytes_in_use", 0) for limit, stat in zip(limits, stats, strict=True)]
    room = min(_SHARE * min(limits), *free)
    return processes.least(max(1, int(room / need)) if need else 1)


def put(tree: PyTree, mesh: Mesh, *axes: str) -> PyTree:
    """Arrays on the devices of a mesh.

    Args:
      tree: arrays, the same on every process of the job.
      mesh: where to.
      axes: of the mesh, over which every leaf's first axis is split; its length must be a multiple
        of their devices. Without any, every device has all of it.
    """
    sharding = NamedSharding(mesh, PartitionSpec(axes) if axes else PartitionSpec())
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(functools.partial(_put, sharding), tree)


def share(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Lets devices share a batch's examples, in a function of one replicate.

    XLA pads what does not divide and masks the padding, so every number of examples will do.
    """
    if mesh is None or mesh.shape[BATCH] == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, PartitionSpec(BATCH))


def _put(sharding: NamedSharding, leaf: Any) -> jax.Array:
    """An array over the devices of several processes."""
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _put(sharding, jax.random.key_data(leaf))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    host = processes.fetch(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: np.asarray(host[index]))
