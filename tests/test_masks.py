"""Masks against brute-force selection, and by properties."""

from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning_jax import masks, selection, trees

SHAPES = {"a": (2, 3, 2), "b": (5,), "c": (4, 3)}
SIZE = 12 + 5 + 12
SUBNORMAL = float(np.float32(1e-40))
VALUES = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5, SUBNORMAL, -SUBNORMAL, 3e38, -3e38]),
    st.floats(-4, 4, width=16),
)
SCORES = st.lists(VALUES, min_size=SIZE, max_size=SIZE)
HOST_AND_DEVICE = pytest.mark.parametrize("path", ["host", "device"])


def as_tree(flat, dtype=np.float32):
    """The flat numbers in the shapes of the layers, and a leaf that is not prunable."""
    offsets = np.cumsum([0, *(np.prod(shape) for shape in SHAPES.values())])
    flat = np.asarray(flat)
    tree = {
        name: jnp.asarray(flat[start:stop].reshape(shape), dtype)
        for (name, shape), start, stop in zip(
            SHAPES.items(), offsets[:-1], offsets[1:], strict=True
        )
    }
    return tree | {"bias": None}


def flat(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in trees.named_leaves(tree).values()])


def order(flat_scores, kept=None):
    """Indices from first to last removed: what is removed already, then by score and index."""
    kept = np.ones(len(flat_scores), bool) if kept is None else kept
    return sorted(range(len(flat_scores)), key=lambda i: (kept[i], flat_scores[i] * kept[i], i))


def brute_force(flat_scores, count, kept=None):
    expected = np.ones(len(flat_scores), bool)
    expected[order(flat_scores, kept)[:count]] = False
    return expected


def on(path):
    """Selection by the host's partition, or by the device's counting."""
    return mock.patch.object(selection, "on_host", lambda arrays: path == "host")


def from_scores(path, *args, **kwargs):
    with on(path):
        return masks.from_scores(*args, allow_empty_layers=True, **kwargs)


@HOST_AND_DEVICE
@settings(deadline=None)
@given(values=SCORES, sparsity=st.floats(0, 1))
def test_global_selection_is_brute_force_selection(path, values, sparsity):
    result = from_scores(path, as_tree(values), sparsity)
    np.testing.assert_array_equal(flat(result), brute_force(values, round(sparsity * SIZE)))
    assert result["bias"] is None
    assert jax.tree.structure(result) == jax.tree.structure(as_tree(values))


@HOST_AND_DEVICE
@settings(deadline=None)
@given(values=SCORES, later=SCORES, ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_what_is_pruned_stays_pruned_and_counts_first(path, values, later, ends):
    first, second = sorted(ends)
    before = from_scores(path, as_tree(values), first)
    after = from_scores(path, as_tree(later), second, masks=before)
    expected = brute_force(later, round(second * SIZE), flat(before))
    np.testing.assert_array_equal(flat(after), expected)
    assert not (flat(after) & ~flat(before)).any()


@pytest.mark.parametrize("scope", ["layer", "erk"])
@HOST_AND_DEVICE
@settings(deadline=None)
@given(values=SCORES, ends=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_layer_scopes_have_exact_counts_and_follow_each_other(scope, path, values, ends):
    before = None
    for sparsity in sorted(ends):
        result = from_scores(path, as_tree(values), sparsity, scope=scope, masks=before)
        assert masks.removed(result) == round(sparsity * SIZE)
        for name, leaf in trees.named_leaves(as_tree(values)).items():
            count = masks.counts(result)[name].removed
            expected = brute_force(np.asarray(leaf).ravel().tolist(), count)
            np.testing.assert_array_equal(np.asarray(result[name]).ravel(), expected)
        before = result


@pytest.mark.parametrize("scope", masks.SCOPES)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_the_same_under_jit_in_every_precision(scope, dtype):
    values = np.random.default_rng(0).integers(-20, 20, SIZE) / 8
    scores = as_tree(values, dtype)
    eager = masks.from_scores(scores, 0.6, scope=scope)
    jitted = jax.jit(lambda scores: masks.from_scores(scores, 0.6, scope=scope))(scores)
    np.testing.assert_array_equal(flat(eager), flat(jitted))
    assert masks.removed(eager) == round(0.6 * SIZE)


@HOST_AND_DEVICE
def test_zeros_of_both_signs_tie_and_subnormals_do_not(path):
    scores = {"a": jnp.asarray([0.0, -0.0, SUBNORMAL, -SUBNORMAL, 0.0, -0.0], jnp.float32)}
    kept = from_scores(path, scores, 3 / 6)["a"]
    np.testing.assert_array_equal(kept, [False, False, True, False, True, True])


@HOST_AND_DEVICE
def test_scores_of_mixed_precision_are_ranked_together(path):
    scores = {"a": jnp.asarray([1, 3], jnp.bfloat16), "b": jnp.asarray([2.0, 4.0, 1.0])}
    kept = from_scores(path, scores, 3 / 5)
    np.testing.assert_array_equal(flat(kept), [False, True, False, True, False])


def test_both_paths_agree_on_many_scores():
    rng = np.random.default_rng(1)
    scores = {
        k: jnp.asarray(rng.standard_normal(n).round(3), jnp.float32)
        for k, n in {"a": 30_000, "b": 10_001}.items()
    }
    for sparsity in (0.1, 0.5, 0.987):
        host = from_scores("host", scores, sparsity)
        device = from_scores("device", scores, sparsity)
        np.testing.assert_array_equal(flat(host), flat(device))


def test_stages_under_jit_compile_once_for_all_counts():
    scores = [jnp.arange(7.0)]
    before = selection.count_bitwise._cache_size()
    for count in range(8):
        kept = selection.count_bitwise(scores, [None], jnp.uint32(count))[0]
        np.testing.assert_array_equal(kept, np.arange(7) >= count)
    assert selection.count_bitwise._cache_size() == before + 1


def test_numpy_scores_are_welcome():
    kept = masks.from_scores({"a": np.asarray([3.0, 1.0, 2.0], np.float32)}, 1 / 3)["a"]
    np.testing.assert_array_equal(kept, [True, False, True])


@given(
    weights=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    caps=st.lists(st.integers(0, 30), min_size=6, max_size=6),
    data=st.data(),
)
def test_shares_are_exact_within_caps_and_never_fall(weights, caps, data):
    caps = caps[: len(weights)]
    total = data.draw(st.integers(0, sum(caps)))
    shares = selection.apportion(total, weights, caps)
    assert sum(shares) == total
    assert all(0 <= share <= cap for share, cap in zip(shares, caps, strict=True))
    if total < sum(caps):
        more = selection.apportion(total + 1, weights, caps)
        assert all(b >= a for a, b in zip(shares, more, strict=True))


def test_uniform_densities_round_each_layer():
    scores = {"a": jnp.arange(100.0), "b": jnp.arange(1000.0), "c": jnp.arange(10.0)}
    for sparsity in (0.1, 0.35, 0.9):
        counts = masks.counts(masks.from_scores(scores, sparsity, scope="layer"))
        for count in counts.values():
            assert abs(count.removed - sparsity * count.prunable) <= 1


def rigl_densities(shapes, density):
    """Densities after RigL, section 3: saturated layers are made dense one round at a time."""
    dense = set()
    while True:
        sizes = {name: np.prod(shape) for name, shape in shapes.items()}
        raw = {name: sum(shape) / np.prod(shape) for name, shape in shapes.items()}
        left = density * sum(sizes.values()) - sum(sizes[name] for name in dense)
        epsilon = left / sum(raw[n] * sizes[n] for n in shapes if n not in dense)
        full = {n for n in shapes if n not in dense and epsilon * raw[n] > 1}
        if not full:
            return {n: 1.0 if n in dense else epsilon * raw[n] for n in shapes}
        dense |= full


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_erk_densities_are_those_of_rigl(sparsity):
    shapes = {"conv1": (3, 3, 3, 16), "conv2": (3, 3, 16, 32), "dense": (128, 10), "head": (32, 64)}
    rng = np.random.default_rng(2)
    scores = {n: jnp.asarray(rng.standard_normal(shape)) for n, shape in shapes.items()}
    counts = masks.counts(masks.from_scores(scores, sparsity, scope="erk"))
    for name, density in rigl_densities(shapes, 1 - sparsity).items():
        kept = counts[name].prunable - counts[name].removed
        assert abs(kept - density * counts[name].prunable) <= 1
    assert sum(c.removed for c in counts.values()) == round(
        sparsity * sum(c.prunable for c in counts.values())
    )


def test_erk_leaves_a_saturated_layer_dense():
    shapes = {"conv1": (3, 3, 3, 16), "conv2": (3, 3, 64, 128)}
    scores = {name: jnp.ones(shape) for name, shape in shapes.items()}
    counts = masks.counts(masks.from_scores(scores, 0.5, scope="erk"))
    assert counts["conv1"].removed == 0


@settings(deadline=None)
@given(values=st.lists(VALUES, min_size=48, max_size=48), n=st.integers(1, 4))
def test_n_of_m_keeps_the_n_highest_of_every_group(values, n):
    scores = np.asarray(values, np.float32).reshape(2, 8, 3)
    kept = np.asarray(masks.n_of_m({"a": jnp.asarray(scores)}, n, 4, axis=-2)["a"])
    for i in range(2):
        for group in range(2):
            for j in range(3):
                window = (i, slice(4 * group, 4 * group + 4), j)
                expected = brute_force(scores[window].tolist(), 4 - n)
                np.testing.assert_array_equal(kept[window], expected)


def test_n_of_m_on_another_axis_keeps_what_is_pruned_pruned():
    scores = {"a": jnp.asarray([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])}
    before = {"a": jnp.asarray([[True, True, True, False], [True] * 4])}
    kept = masks.n_of_m(scores, 2, 4, axis=1, masks=before)["a"]
    np.testing.assert_array_equal(kept, [[False, True, True, False], [True, True, False, False]])
    jitted = jax.jit(lambda s: masks.n_of_m(s, 2, 4, axis=1, masks=before))(scores)["a"]
    np.testing.assert_array_equal(kept, jitted)


@pytest.mark.parametrize(
    ("n", "m", "axis", "message"),
    [
        (2, 3, -2, r"'a' of shape \(8, 3\) has no axis -2 in whole groups of 3"),
        (2, 4, 2, "no axis 2"),
        (0, 4, -2, "1 <= n <= m, and n is 0, m is 4"),
        (5, 4, -2, "1 <= n <= m"),
        (1.5, 4, -2, "integers, not 1.5"),
    ],
)
def test_n_of_m_refuses(n, m, axis, message):
    with pytest.raises(ValueError, match=message):
        masks.n_of_m({"a": jnp.ones((8, 3))}, n, m, axis=axis)


@pytest.mark.parametrize("sparsity", [-0.1, 1.2, float("nan")])
def test_a_sparsity_out_of_range_is_named(sparsity):
    with pytest.raises(ValueError, match=rf"sparsity is {sparsity}.*\[0, 1\]"):
        masks.from_scores({"a": jnp.ones(4)}, sparsity)


def test_a_traced_sparsity_is_refused():
    with pytest.raises(ValueError, match="known outside jit"):
        jax.jit(lambda k: masks.from_scores({"a": jnp.ones(4)}, k))(0.5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_scores_that_are_not_finite_are_named(value, dtype):
    scores = {"a": jnp.ones(4), "b": {"kernel": jnp.asarray([1.0, value], dtype)}}
    with pytest.raises(ValueError, match="'b/kernel' are not all finite"):
        masks.from_scores(scores, 0.5)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ({"a": None}, "no leaf is prunable"),
        ({"a": jnp.arange(4)}, "'a' are int32; they must be floats"),
    ],
)
def test_what_are_no_scores_is_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        masks.from_scores(scores, 0.5)


def test_an_unknown_scope_names_the_nearest():
    with pytest.raises(
        ValueError, match="unknown scope 'globl'.*mean 'global'.*global, layer, erk"
    ):
        masks.from_scores({"a": jnp.ones(4)}, 0.5, scope="globl")


def test_masks_unlike_the_scores_are_refused():
    scores = {"a": jnp.ones(4), "b": jnp.ones(4)}
    with pytest.raises(ValueError, match="different leaves: b"):
        masks.from_scores(scores, 0.5, masks={"a": jnp.ones(4, bool), "b": None})
    with pytest.raises(ValueError, match="'b' must be booleans of shape"):
        masks.from_scores(scores, 0.5, masks={"a": jnp.ones(4, bool), "b": jnp.ones(4)})


def test_fewer_removed_than_before_is_refused():
    before = {"a": jnp.asarray([False, False, True, True])}
    with pytest.raises(ValueError, match="2 weights of a are removed already, more than the 1"):
        masks.from_scores({"a": jnp.ones(4)}, 0.25, masks=before)


def test_an_emptied_layer_is_named_and_refused_unless_allowed():
    scores = {"a": jnp.zeros(3), "b": jnp.ones(5), "c": jnp.zeros(1)}
    with pytest.raises(ValueError, match="sparsity 0.5 would remove every weight of a, c"):
        masks.from_scores({**scores, "b": jnp.ones(4)}, 0.5)
    result = masks.from_scores(scores, 4 / 9, allow_empty_layers=True)
    assert masks.empty_layers(result) == ["a", "c"]


def test_a_sparsity_of_one_is_refused_even_under_jit():
    with pytest.raises(ValueError, match="every weight of a, b"):
        jax.jit(lambda s: masks.from_scores(s, 1.0))({"a": jnp.ones(3), "b": jnp.ones(2)})


def test_apply_zeroes_what_is_removed_and_nothing_else():
    params = {"a": jnp.asarray([1.0, jnp.nan, 3.0]), "bias": jnp.ones(2), "none": None}
    kept = {"a": jnp.asarray([True, False, True]), "bias": None, "none": None}
    masked = masks.apply(params, kept)
    np.testing.assert_array_equal(masked["a"], [1.0, 0.0, 3.0])
    assert masked["bias"] is params["bias"]
    assert masked["none"] is None
    assert masks.apply(params, None) is params
    with pytest.raises(ValueError, match=r"masks has shape \(2,\) at 'a', where the leaf has \(3,"):
        masks.apply(params, kept | {"a": jnp.ones(2, bool)})


def test_masks_of_another_model_are_refused_and_those_of_another_tree_of_it_taken():
    params = {"layer": {"kernel": jnp.ones(2)}}
    kept = jnp.asarray([True, False])
    with pytest.raises(ValueError, match="masks has a leaf 'kernel'; the leaves are layer/kernel"):
        masks.apply(params, {"kernel": kept})
    state = nnx.State({"layer": {"kernel": nnx.Param(jnp.ones(2))}})
    by_name = {"layer": {"kernel": {"value": kept}}}
    assert trees.named_leaves(by_name).keys() == trees.named_leaves(state).keys()
    masked = masks.apply(state, by_name)
    assert masked["layer"]["kernel"][...].tolist() == [1.0, 0.0]


def test_counts_and_their_table():
    result = masks.from_scores({"a": jnp.arange(4.0), "b": {"kernel": jnp.ones((3, 2))}}, 0.2)
    assert masks.counts(result) == {"a": (4, 2), "b/kernel": (6, 0)}
    assert (masks.prunable(result), masks.removed(result)) == (10, 2)
    assert masks.sparsity(result) == 0.2
    table = masks.table(result)
    assert [line.split() for line in table.splitlines()] == [
        ["layer", "prunable", "removed", "sparsity"],
        ["a", "4", "2", "0.5000"],
        ["b/kernel", "6", "0", "0.0000"],
        ["total", "10", "2", "0.2000"],
    ]


@pytest.mark.parametrize("sparsity", [True, "0.5", np.bool_(True)])
def test_texts_and_booleans_are_no_sparsity(sparsity):
    with pytest.raises(ValueError, match="sparsity must be a number in"):
        masks.from_scores(as_tree(np.arange(SIZE)), sparsity)
