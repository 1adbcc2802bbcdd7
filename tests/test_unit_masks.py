"""Masks of units against brute force, and what their parameter masks leave of a network."""

import jax
import jax.numpy as jnp
import narrow_networks
import numpy as np
import pytest
from closeness import NETWORK, assert_close, largest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_jax import masks, tracing, trees, units

SIZES = {"a": 5, "b": 1, "c": 10}
TOTAL = sum(SIZES.values())
VALUES = st.lists(
    st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 3e38]), st.floats(-4, 4, width=16)),
    min_size=TOTAL,
    max_size=TOTAL,
)


def as_scores(flat, dtype=jnp.float32):
    ends = np.cumsum(list(SIZES.values()))
    parts = np.split(np.asarray(flat, np.float32), ends[:-1])
    return {name: jnp.asarray(part, dtype) for name, part in zip(SIZES, parts, strict=True)}


def removed(unit_masks):
    return {name: np.flatnonzero(~np.asarray(mask)).tolist() for name, mask in unit_masks.items()}


def lowest(scores, count):
    """Indices of the lowest, the first of a tie first."""
    return sorted(sorted(range(len(scores)), key=lambda i: (scores[i] + 0.0, i))[:count])


@settings(deadline=None)
@given(values=VALUES, fraction=st.sampled_from([0, 0.0, 0.1, 0.29, 0.5, 0.7, 0.99]))
def test_a_layer_gives_up_the_floor_of_its_fraction(values, fraction):
    scores = as_scores(values)
    found = removed(units.from_scores(scores, fraction))
    for name, size in SIZES.items():
        count = int(round(100 * fraction) * size // 100)
        assert found[name] == lowest(np.asarray(scores[name]).tolist(), count)


@settings(deadline=None)
@given(values=VALUES, count=st.integers(0, TOTAL - len(SIZES)))
def test_global_selection_is_the_lowest_first_and_the_last_of_no_space(values, count):
    scores = as_scores(values)
    flat = [(float(s) + 0.0, n, i) for n, leaf in scores.items() for i, s in enumerate(leaf)]
    left, gone = dict(SIZES), {name: [] for name in SIZES}
    for _, name, index in sorted(flat):
        if sum(map(len, gone.values())) < count and left[name] > 1:
            left[name] -= 1
            gone[name].append(index)
    expected = {name: sorted(indices) for name, indices in gone.items()}
    assert removed(units.from_scores(scores, count=count, scope="global")) == expected


def test_a_global_fraction_is_of_all_units_together():
    found = removed(units.from_scores(as_scores(range(TOTAL)), 0.3, scope="global"))
    assert found == {"a": [0, 1, 2, 3], "b": [], "c": []}
    assert (
        sum(
            map(
                len,
                removed(units.from_scores(as_scores(range(TOTAL)), 0.7, scope="global")).values(),
            )
        )
        == 11
    )


@pytest.mark.parametrize("fraction", [0.29, np.float32(0.29), jnp.float32(0.29)])
def test_a_fraction_is_taken_as_it_is_written(fraction):
    (kept,) = units.from_scores({"a": np.arange(100.0)}, fraction).values()
    assert np.flatnonzero(~np.asarray(kept)).tolist() == list(range(29))


def test_normalised_scores_have_the_same_norm_in_every_space():
    scores = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([30.0, 1e25, 2e25]), "z": jnp.zeros(2)}
    unit = {"a": np.array([0.6, 0.8]), "b": np.array([1e-24, 1, 2]) / np.sqrt(5), "z": np.zeros(2)}
    for count in range(4):
        expected = removed(units.from_scores(unit, count=count, scope="global"))
        found = units.from_scores(scores, count=count, scope="global", normalise=True)
        assert removed(found) == expected
    assert removed(units.from_scores(scores, count=1)) == removed(
        units.from_scores(scores, count=1, normalise=True)
    )


@pytest.mark.parametrize("scope", units.SCOPES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_selection_is_the_same_under_jit_in_every_precision(scope, dtype):
    scores = as_scores(np.random.default_rng(0).integers(-20, 20, TOTAL) / 8, dtype)

    def select(scores):
        return units.from_scores(scores, 0.5, scope=scope, normalise=True)

    assert removed(jax.jit(select)(scores)) == removed(select(scores))


def test_requests_may_name_a_space_or_a_layer():
    graph = narrow_networks.graph("residual")
    scores = {space.name: np.arange(float(space.size)) for space in graph.prunable}
    stream, first, second = "params/Conv_0", "params/Conv_1", "params/Conv_2"
    assert graph[second].name == stream
    assert removed(units.from_scores(scores, {second: 0.5}, graph=graph)) == {stream: [0, 1, 2]}
    both = units.from_scores(scores, count={second: 1, stream: 1, first: 2}, graph=graph)
    assert removed(both) == {stream: [0], first: [0, 1]}
    assert removed(units.from_scores(scores, {stream: 0.5})) == {stream: [0, 1, 2]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, "either fraction or count, not neither"),
        ({"fraction": 0.1, "count": 1}, "not both"),
        ({"fraction": 1.5}, "fraction is 1.5; .* nearest of 5 units is 0.8"),
        ({"fraction": -0.1}, "fraction is -0.1; .* nearest of 5 units is 0"),
        ({"fraction": float("nan")}, "must be a number"),
        ({"fraction": "0.1"}, "must be a number"),
        ({"fraction": True}, "must be a number"),
        ({"fraction": 1.0}, "remove all 5 units of 'a'; .* remove 4 or fewer"),
        ({"count": 1}, "remove all 1 units of 'b'"),
        ({"count": 1.5}, "count is 1.5; it must be a whole number"),
        ({"count": -1}, "count is -1"),
        ({"count": 14, "scope": "global"}, "14 of 16 units; .* 3 spaces .* remove 13 or fewer"),
        ({"fraction": 1, "scope": "global"}, "16 of 16 units"),
        ({"fraction": {"a": 0.1}, "scope": "global"}, "needs scope='layer'"),
        ({"fraction": 0.1, "scope": "erk"}, "unknown scope 'erk'"),
        ({"fraction": {"d": 0.1}}, "no scores of 'd': .* a, b, c; to name layers, pass graph="),
        ({"scores": {}, "fraction": 0.1}, "no scores"),
        ({"scores": {"a": jnp.zeros((2, 2))}, "fraction": 0.1}, r"shape \(2, 2\), not \(size,\)"),
        ({"scores": {"a": jnp.arange(3)}, "fraction": 0.1}, "are int32; they must be floats"),
        ({"scores": {"a": jnp.array([0, jnp.nan])}, "fraction": 0.1}, "'a' are not all finite"),
        ({"scores": {"a": np.array([0, np.inf])}, "fraction": 0.1}, "'a' are not all finite"),
    ],
)
def test_bad_requests_are_refused(change, message):
    arguments = {"scores": as_scores(range(TOTAL))} | change
    with pytest.raises(ValueError, match=message):
        units.from_scores(arguments.pop("scores"), **arguments)


def test_a_fraction_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="known outside jit"):
        jax.jit(lambda fraction: units.from_scores(as_scores(range(TOTAL)), fraction))(0.1)


@pytest.mark.parametrize(
    "request_of, message",
    [
        ({"params/Conv_0": 0.2, "params/Conv_2": 0.4}, "'params/Conv_0' asks for 0.2 and .*0.4"),
        ({"params/Conv_9": 0.2}, "unknown unit space 'params/Conv_9' .*did you mean"),
        ({"params/Dense_0": 0.2}, "'params/Dense_0' is not prunable"),
    ],
)
def test_requests_that_do_not_fit_the_graph_are_refused(request_of, message):
    graph = narrow_networks.graph("residual")
    scores = {space.name: np.arange(float(space.size)) for space in graph.prunable}
    with pytest.raises(ValueError, match=message):
        units.from_scores(scores, request_of, graph=graph)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"params/Conv_9": np.ones(6)}, "unknown unit space"),
        ({"params/Dense_0": np.ones(4)}, "not prunable"),
        ({"params/Conv_0": np.ones(5)}, r"shape \(5,\), not \(6,\)"),
    ],
)
def test_scores_that_do_not_fit_the_graph_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        units.from_scores(change, 0.1, graph=narrow_networks.graph("residual"))


@pytest.mark.parametrize(
    "name, mask, message",
    [
        ("params/Conv_9", np.ones(6, bool), "unknown unit space 'params/Conv_9' .did you mean"),
        ("params/Conv_2", np.ones(6, bool), "unknown unit space 'params/Conv_2'"),
        ("inputs", np.ones(3, bool), "'inputs' is not prunable: .*; prunable: params/Conv_0"),
        ("params/Dense_0", np.ones(4, bool), "'params/Dense_0' is not prunable: .*output"),
        ("params/Conv_0", np.ones(5, bool), r"booleans of shape \(6,\), not bool of shape \(5,\)"),
        ("params/Conv_0", np.ones(6), r"booleans of shape \(6,\), not float64 of shape \(6,\)"),
        ("params/Conv_0", [True] * 6, r"booleans of shape \(6,\), not \[True"),
    ],
)
def test_unit_masks_that_do_not_fit_are_refused(name, mask, message):
    graph = narrow_networks.graph("residual")
    _, variables, _ = narrow_networks.network("residual")
    for check in (
        lambda: units.check_masks(graph, {name: mask}),
        lambda: units.parameter_masks(graph, variables, {name: mask}),
        lambda: units.counts(graph, {name: mask}),
    ):
        with pytest.raises(ValueError, match=message):
            check()


def test_other_variables_are_refused():
    graph = narrow_networks.graph("mlp")
    mask = {graph.prunable[0].name: np.ones(graph.prunable[0].size, bool)}
    _, variables, _ = narrow_networks.network("mlp")
    with pytest.raises(ValueError, match="unknown leaf of the variables '0/w'"):
        units.apply_masks(graph, variables[1:1], mask)
    with pytest.raises(ValueError, match=r"'0/w' has shape \(2, 2\); it was traced with"):
        units.apply_masks(graph, [variables[0] | {"w": jnp.ones((2, 2))}, *variables[1:]], mask)


@pytest.mark.parametrize("name", sorted(narrow_networks.NETWORKS.keys() - {"sigmoid"}))
def test_removed_units_are_zero_where_they_are_read_and_no_other_parameter_changes(name):
    _, variables, _ = narrow_networks.network(name)
    graph, read = narrow_networks.graph(name), narrow_networks.read(name)
    before, old = read(variables), trees.named_leaves(variables)
    assert graph.prunable
    for space in graph.prunable:
        mask = narrow_networks.mask(space)
        pruned = units.apply_masks(graph, variables, {space.name: mask})
        after = read(pruned)
        for reading in space.readings:
            gone = np.isin(reading.units, np.flatnonzero(~mask))
            assert np.moveaxis(before[reading.value], reading.axis + 1, 0)[gone].any()
            assert not np.moveaxis(after[reading.value], reading.axis + 1, 0)[gone].any()
        touched = {each.leaf for each in space.producers}
        for leaf, array in trees.named_leaves(pruned).items():
            changed = np.asarray(array != old[leaf])
            assert not changed.any() or (leaf in touched and not array[changed].any())


@pytest.mark.parametrize("name", narrow_networks.NETWORKS)
def test_removal_gives_the_really_smaller_network(name):
    apply_fn, variables, inputs = narrow_networks.network(name)
    graph, unit_masks = narrow_networks.graph(name), narrow_networks.masks(name)
    cut = narrow_networks.cut(graph, variables, unit_masks)
    expected = jax.jit(narrow_networks.narrower(name, unit_masks))(cut, inputs)
    dense_fn = jax.jit(apply_fn)
    removed = dense_fn(units.apply_masks(graph, variables, unit_masks), inputs)
    assert_close(removed, expected, NETWORK)
    assert np.abs(dense_fn(variables, inputs) - expected).max() > 10 * NETWORK * largest(expected)


@pytest.mark.parametrize("name", narrow_networks.NETWORKS)
def test_with_its_readers_all_that_a_smaller_network_lacks_is_zero_and_no_output_changes(name):
    apply_fn, variables, inputs = narrow_networks.network(name)
    graph, unit_masks = narrow_networks.graph(name), narrow_networks.masks(name)
    cut = trees.named_leaves(narrow_networks.cut(graph, variables, unit_masks))
    kept = units.parameter_masks(graph, variables, unit_masks, readers=True)
    fewer, found = trees.named_leaves(kept), masks.apply(variables, kept)
    for leaf, array in trees.named_leaves(variables).items():
        left = np.asarray(fewer[leaf]).sum() if leaf in fewer else array.size
        assert left == cut[leaf].size
    without = units.apply_masks(graph, variables, unit_masks)
    dense_fn = jax.jit(apply_fn)
    np.testing.assert_array_equal(dense_fn(found, inputs), dense_fn(without, inputs))


@pytest.mark.parametrize("name", narrow_networks.NETWORKS)
def test_parameter_masks_are_the_same_under_jit(name):
    _, variables, _ = narrow_networks.network(name)
    graph = narrow_networks.graph(name)
    unit_masks = {space.name: narrow_networks.mask(space) for space in graph.prunable}
    eager = units.parameter_masks(graph, variables, unit_masks)
    jitted = jax.jit(lambda masks: units.parameter_masks(graph, variables, masks))(unit_masks)
    assert jax.tree.structure(eager) == jax.tree.structure(jitted)
    jax.tree.map(np.testing.assert_array_equal, eager, jitted)
    found, leaves = trees.named_leaves(eager), trees.named_leaves(variables)
    assert all(mask.shape == leaves[leaf].shape for leaf, mask in found.items())
    jax.tree.map(
        np.testing.assert_array_equal,
        masks.apply(variables, eager),
        units.apply_masks(graph, variables, unit_masks),
    )


def test_no_unit_masks_change_nothing():
    _, variables, _ = narrow_networks.network("mlp")
    graph = narrow_networks.graph("mlp")
    assert not trees.named_leaves(units.parameter_masks(graph, variables, {}))
    jax.tree.map(np.testing.assert_array_equal, units.apply_masks(graph, variables, {}), variables)


def test_the_table_of_a_graph():
    lines = str(narrow_networks.graph("concatenated")).splitlines()
    rows = {line.split()[0]: line.split() for line in lines if not line.startswith(" ")}
    assert rows["params/Conv_2"][1:6] == ["4", "params/Conv_2", "params/Dense_0", "x4", "(n,"]
    assert "yes" in rows["params/Conv_0"] and "+3" in rows["params/Conv_1"]
    assert rows["params/Dense_0"][-1] == "no"
    assert lines[-1] == "not prunable: params/Dense_0: they are the network's outputs"
    assert all(line == line.rstrip() for line in lines)


def test_the_table_ends_with_what_was_not_understood():
    def apply_fn(variables, x):
        looped = (lambda s: s[1] < 2, lambda s: (s[0] @ variables["b"], s[1] + 1))
        return jax.lax.while_loop(*looped, (x @ variables["a"], 0))[0]

    variables = {"a": jnp.ones((3, 5)), "b": jnp.ones((5, 5))}
    graph = units.graph(tracing.trace(apply_fn, variables, jnp.ones((2, 3))))
    notes = [line for line in str(graph).splitlines() if not line.startswith("  ")]
    assert notes[-1].startswith("not supported: b: it enters while")
