"""Counts of parameters and multiply-accumulates against networks that really are smaller."""

import jax
import jax.numpy as jnp
import narrow_networks
import numpy as np
import pytest

from pruning_jax import tracing, trees, units


def parameters(variables):
    """The entries of the leaves that are no running moments."""
    leaves = trees.named_leaves(variables)
    return sum(leaf.size for name, leaf in leaves.items() if "batch_stats" not in name)


def check(name, unit_masks):
    apply_fn, variables, inputs = narrow_networks.network(name)
    graph = narrow_networks.graph(name)
    found = units.counts(graph, unit_masks)
    cut = narrow_networks.cut(graph, variables, unit_masks)
    smaller = tracing.trace(narrow_networks.narrower(name, unit_masks), cut, inputs)
    for dense, layer, count in zip(graph.trace.layers, smaller.layers, found.layers, strict=False):
        assert count == (dense.name, dense.parameters, dense.macs, layer.parameters, layer.macs)
    total = found.total
    assert (total.parameters, total.kept_parameters) == (parameters(variables), parameters(cut))
    assert total.macs == sum(layer.macs for layer in graph.trace.layers)
    assert total.kept_macs == sum(layer.macs for layer in smaller.layers)
    return found


@pytest.mark.parametrize("name", narrow_networks.NETWORKS)
def test_counts_are_those_of_the_really_smaller_network(name):
    found = check(name, narrow_networks.masks(name))
    assert found.total.kept_parameters < found.total.parameters
    assert found.total.kept_macs < found.total.macs
    assert found.compression == found.total.parameters / found.total.kept_parameters
    assert found.mac_ratio == found.total.macs / found.total.kept_macs


@pytest.mark.parametrize("name", ["mlp", "residual", "concatenated", "small_conv"])
def test_counts_of_one_space_at_a_time(name):
    for space, mask in narrow_networks.masks(name).items():
        check(name, {space: mask})


@pytest.mark.parametrize("name", narrow_networks.NETWORKS)
def test_without_masks_nothing_is_pruned(name):
    found = check(name, {})
    assert found.compression == found.mac_ratio == 1
    assert found == units.counts(
        narrow_networks.graph(name),
        {s.name: jnp.ones(s.size, bool) for s in narrow_networks.graph(name).prunable},
    )


def test_counts_of_a_residual_network_by_hand():
    """Images 6x6x3; a stream of 6 channels, of which 2 go; 5 inside the block, of which 1 goes."""
    kept = {"params/Conv_0": np.arange(6) > 1, "params/Conv_1": np.arange(5) > 0}
    found = units.counts(narrow_networks.graph("residual"), kept)
    places = 36
    assert found.layers == (
        ("params/Conv_0", 9 * 3 * 6 + 6, places * 9 * 3 * 6, 9 * 3 * 4 + 4, places * 9 * 3 * 4),
        ("params/Conv_1", 9 * 6 * 5 + 5, places * 9 * 6 * 5, 9 * 4 * 4 + 4, places * 9 * 4 * 4),
        ("params/Conv_2", 9 * 5 * 6 + 6, places * 9 * 5 * 6, 9 * 4 * 4 + 4, places * 9 * 4 * 4),
        ("params/Dense_0", 6 * 4 + 4, 6 * 4, 4 * 4 + 4, 4 * 4),
    )


def test_a_grouped_convolution_loses_the_entries_of_its_group_alone():
    """Conv_1 is 3x3x(6/2)x4 in two groups: each removed input leaves two outputs without it."""
    graph = narrow_networks.graph("grouped")
    found = units.counts(graph, {"params/Conv_0": np.array([0, 1, 1, 1, 1, 1], bool)})
    (grouped,) = (count for count in found.layers if count.name == "params/Conv_1")
    assert (grouped.parameters, grouped.kept_parameters) == (9 * 3 * 4 + 4, 9 * (3 * 4 - 2) + 4)
    assert (grouped.macs, grouped.kept_macs) == (16 * 9 * 3 * 4, 16 * 9 * (3 * 4 - 2))


def test_norms_count_by_leaf_and_running_moments_do_not():
    unit_masks = narrow_networks.masks("small_conv")
    found = units.counts(narrow_networks.graph("small_conv"), unit_masks)
    norms = {count.name: count for count in found.layers if "BatchNorm" in count.name}
    kept = [int(mask.sum()) for mask in unit_masks.values()]
    expected = {
        f"params/BatchNorm_{i}/{leaf}": (width, 0, kept[i], 0)
        for i, width in enumerate((3, 4, 5, 6, 7))
        for leaf in ("bias", "scale")
    }
    assert {name: count[1:] for name, count in norms.items()} == expected


def test_leaves_of_no_space_count_as_parameters_that_stay_and_unused_ones_do_not():
    variables = {
        "w": jnp.ones((3, 5)),
        "gain": jnp.ones(()),
        "o": jnp.ones((5, 2)),
        "x": jnp.ones(9),
    }

    def apply_fn(v, x):
        return (v["gain"] * jax.nn.relu(x @ v["w"])) @ v["o"]

    graph = units.graph(tracing.trace(apply_fn, variables, jnp.ones((2, 3))))
    found = units.counts(graph, {"w": np.array([1, 0, 0, 1, 1], bool)})
    assert found.layers == (("w", 15, 15, 9, 9), ("o", 10, 10, 6, 6), ("gain", 1, 0, 1, 0))


def test_table():
    kept = {"params/Conv_0": np.arange(6) > 1, "params/Conv_1": np.arange(5) > 0}
    lines = str(units.counts(narrow_networks.graph("residual"), kept)).splitlines()
    assert lines[0].split() == ["layer", "parameters", "pruned", "MACs", "pruned"]
    assert lines[2].split() == ["params/Conv_0", "168", "112", "5,832", "3,888"]
    assert lines[-3].split() == ["total", "747", "428", "25,296", "14,272"]
    assert lines[-2].startswith("1.75 times fewer parameters, 1.77 times fewer MACs")
    assert "multiply-accumulates" in lines[-1]


def test_traced_masks_are_refused():
    graph = narrow_networks.graph("mlp")
    with pytest.raises(ValueError, match="outside jit"):
        jax.jit(lambda mask: units.counts(graph, {"0": mask}).total[1])(jnp.ones(7, bool))
