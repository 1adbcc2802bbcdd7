"""Sums over examples for many points of one function: in blocks of points, on every device."""

import collections
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from pruning_jax import choices
from pruning_jax.lab import meshes, processes, replicates
from pruning_jax.types import PyTree

_AXES = (meshes.REPLICATES, meshes.BATCH)
_CHUNK = {"cpu": 100}
_CHUNK_ELSEWHERE = 1_000


def split(examples: PyTree, chunk: int | None = None) -> list[PyTree]:
    """Examples in as few chunks as hold them, of one size or of two that differ by one example.

    On CPU a chunk is a view of its examples, not a copy.

    Args:
      examples: a pytree such as a `Batch`, whose leaves have examples on their first axis.
      chunk: the most examples of a chunk; by default what the fastest forward passes have, 100 on
        CPU (activations then stay in the cache) and 1,000 on an accelerator.

    Raises:
      ValueError: there are no examples; leaves differ in their number; `chunk` is no integer or
        below 1.
    """
    chunk = _CHUNK.get(jax.default_backend(), _CHUNK_ELSEWHERE) if chunk is None else chunk
    chunk = choices.whole("chunk", chunk, "example")
    lengths = sorted({leaf.shape[0] for leaf in jax.tree.leaves(examples)})
    if len(lengths) != 1 or not lengths[0]:
        raise ValueError(f"the leaves have {lengths} examples; give 1 or more, the same for all")
    if jax.default_backend() == "cpu":
        examples = jax.tree.map(np.asarray, examples)
    count = -(-lengths[0] // chunk)
    stops = [lengths[0] * number // count for number in range(count + 1)]
    return [
        jax.tree.map(lambda leaf, at=slice(first, last): leaf[at], examples)
        for first, last in itertools.pairwise(stops)
    ]


def sums(
    function: Callable[[PyTree, PyTree, PyTree], PyTree],
    points: Iterable[PyTree],
    shared: PyTree,
    chunks: list[PyTree],
    *,
    size: int | None = None,
) -> Iterator[PyTree]:
    """What `function` sums over examples, at every one of many points.

        S_p = sum_c function(point_p, shared, chunk_c)

    A block of points is one jitted call a chunk, spread over all devices; each device runs one
    point as it is, and several under `jax.vmap`. The next call is dispatched before the one before
    is fetched. On CPU the sums do not depend on the number of devices.

    Args:
      function: (point, shared, chunk) -> a pytree of arrays, sums over the chunk's examples. It is
        compiled once for an identity: build it by a cached function.
      points: pytrees of one structure and of equal shapes, drawn a block at a time.
      shared: a pytree, the same for every point.
      chunks: pytrees of examples, as `split` makes them; each of their shapes is compiled.
      size: points of a block, rounded up to as many on every device. By default one per device on
        CPU, and as many as half its memory holds on an accelerator.

    Yields:
      The sums of every point, in order: NumPy arrays in double precision.

    Raises:
      ValueError: no chunks; a size that is no integer or below 1; points of different structure
        or shapes.
    """
    if not chunks:
        raise ValueError("chunks is empty; give at least one chunk of examples")
    size = None if size is None else choices.whole("size", size, "point")
    return _sums(function, iter(points), shared, chunks, size, meshes.current())


def _sums(
    function: Callable,
    points: Iterator,
    shared: PyTree,
    chunks: list[PyTree],
    size: int | None,
    mesh: Mesh,
) -> Iterator[PyTree]:
    first = next(points, None)
    if first is None:
        return
    points = itertools.chain([first], points)
    shared = meshes.put(shared, mesh)
    if jax.default_backend() != "cpu":
        chunks = meshes.put(chunks, mesh)
    if size is None:
        size = _default_size(function, first, shared, chunks[0], mesh)
    block = list(itertools.islice(points, max(size, mesh.size)))
    local = -(-len(block) // mesh.size)
    blocks = itertools.chain([block], _batched(points, local * mesh.size))
    program = _program(function, local, mesh)
    calls = _calls(program, blocks, _shapes(first), shared, chunks, local * mesh.size, mesh)
    del first, block  # held by the iterators as long as they are needed
    pending: collections.deque = collections.deque()
    ahead = 1 if jax.default_backend() == "cpu" else len(chunks)
    totals = None
    for call in itertools.chain(calls, [None] * ahead):
        if call is not None:
            pending.append(call)
        if not pending or (call is not None and len(pending) <= ahead):
            continue
        count, last, part = pending.popleft()
        part = jax.tree.map(lambda leaf: processes.fetch(leaf).astype(np.float64), part)
        totals = part if totals is None else jax.tree.map(np.add, totals, part)
        if last:
            yield from (jax.tree.map(lambda leaf, i=i: leaf[i], totals) for i in range(count))
            totals = None


def _batched(points: Iterator, size: int) -> Iterator[list[PyTree]]:
    while block := list(itertools.islice(points, size)):
        yield block


def _calls(
    program: Callable,
    blocks: Iterable[list[PyTree]],
    shapes: tuple,
    shared: PyTree,
    chunks: list[PyTree],
    size: int,
    mesh: Mesh,
) -> Iterator[tuple[int, bool, PyTree]]:
    """Dispatches a block's chunks one by one: its points, whether it is the last, its sums."""
    for block in blocks:
        stacked = _stacked(block, shapes, size, mesh)
        for number, chunk in enumerate(chunks):
            yield len(block), number + 1 == len(chunks), program(stacked, shared, chunk)


def _shapes(point: PyTree) -> tuple[Any, list]:
    """The structure of a point, and the shapes of its leaves."""
    leaves, structure = jax.tree.flatten(point)
    return structure, [np.shape(leaf) for leaf in leaves]


def _stacked(block: list[PyTree], shapes: tuple, size: int, mesh: Mesh) -> PyTree:
    """The points of a block on a leading axis over all devices, the last repeated up to `size`."""
    for point in block:
        if _shapes(point) != shapes:
            raise ValueError(
                f"a point has structure and shapes {_shapes(point)}, the first {shapes}; points "
                "must all have the same"
            )
    block = block + block[-1:] * (size - len(block))

    def stack(*leaves):
        on_host = not any(isinstance(leaf, jax.Array) for leaf in leaves)
        return (np if on_host else jnp).stack(leaves)

    return meshes.put(jax.tree.map(stack, *block), mesh, *_AXES)


@functools.lru_cache(maxsize=64)
def _program(function: Callable, local: int, mesh: Mesh) -> Callable:
    """One call: `function` of `local` points on every device, with one chunk."""

    def on_device(points, shared, chunk):
        def one(point):
            return jax.tree.map(jnp.asarray, function(point, shared, chunk))

        return replicates.lift(one, local)(points)

    spread, same = PartitionSpec(_AXES), PartitionSpec()
    return jax.jit(
        jax.shard_map(
            on_device,
            mesh=mesh,
            in_specs=(spread, same, same),
            out_specs=spread,
            check_vma=False,
        )
    )


def _default_size(
    function: Callable, point: PyTree, shared: PyTree, chunk: PyTree, mesh: Mesh
) -> int:
    """One point a device on CPU; elsewhere as many as `meshes.fitting` says."""
    if mesh.devices.flat[0].platform == "cpu":
        return mesh.size
    stacked = _stacked([point], _shapes(point), mesh.size, mesh)
    leaves, structure = jax.tree.flatten((stacked, shared, chunk))
    one = _bytes(function, mesh, structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves))
    return mesh.size * meshes.fitting(one, mesh)


@functools.lru_cache(maxsize=64)
def _bytes(function: Callable, mesh: Mesh, structure: Any, arrays: tuple) -> int | None:
    """What a call with one point takes of a device's memory, if its compiler says so."""
    described = [jax.ShapeDtypeStruct(*array) for array in arrays]
    points, *others = jax.tree.unflatten(structure, described)
    needs = _program(function, 1, mesh).lower(points, *others).compile().memory_analysis()
    if needs is None:
        return None
    own = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(points)) // mesh.size
    return needs.temp_size_in_bytes + needs.output_size_in_bytes + own
