"""Utility against scipy in double precision, against networks zeroed by hand, and by counting."""

import collections
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from closeness import NETWORK, ROUNDING, assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import special, stats

from pruning_jax import masks, trees
from pruning_jax.analysis import utility
from pruning_jax.types import Batch

LOGITS = arrays.arrays(
    np.float32, (2, 3, 4), elements=st.floats(-1e4, 1e4, width=32) | st.sampled_from([0.0, -1e4])
)
compiled = jax.jit(utility.divergences)


def reference(logits, others):
    """KL in double precision, by its definition."""
    log_p, log_q = (special.log_softmax(np.asarray(x, np.float64), 1) for x in (logits, others))
    return np.sum(np.exp(log_p) * (log_p - log_q), 1)


def rounding_of_reference(logits):
    """It is a difference of logarithms as large as the logits, in double precision."""
    return 16 * np.finfo(np.float64).eps * np.abs(logits).max()


def terms(logits, others):
    """The magnitudes that a divergence is a difference of: of logarithms, and of the logits."""
    logits, others = (np.asarray(x, np.float64) for x in (logits, others))
    log_p, log_q = (special.log_softmax(x, 1) for x in (logits, others))
    return np.sum(np.exp(log_p) * (np.abs(log_p - log_q) + np.abs(logits - others)), 1)


@settings(deadline=None, max_examples=200)
@given(LOGITS)
def test_divergences_are_those_of_scipy_and_never_negative(pair):
    found = np.asarray(compiled(*pair))
    assert np.isfinite(found).all() and (found >= 0).all()
    allowed = ROUNDING * terms(*pair) + rounding_of_reference(pair)
    assert (np.abs(found - reference(*pair)) <= allowed).all()


def test_extreme_logits_have_their_divergence():
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0], [3e38, -3e38, 0.0]])
    others = logits[:, ::-1]
    found = np.asarray(compiled(logits, others))
    np.testing.assert_allclose(found[:3], reference(logits, others)[:3], rtol=1e-6)
    assert np.isfinite(found).all() and found[3] > 1e38
    assert (np.asarray(compiled(logits, logits)) == 0).all()
    assert (np.asarray(compiled(logits[:3], logits[:3] - 8)) == 0).all()


def small(logits, others):
    """KL in double precision, without a difference of logarithms."""
    p = special.softmax(np.asarray(logits, np.float64), 1)
    x = np.asarray(others, np.float64) - logits
    y = x - (p * x).sum(1, keepdims=True)
    wide = np.longdouble(y)
    return np.float64(np.log1p((p * (np.expm1(wide) - wide)).sum(1)))


@pytest.mark.parametrize("scale", [1, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6])
@pytest.mark.parametrize("size", [1, 10])
def test_small_divergences_keep_their_digits(scale, size):
    logits, noise = np.random.default_rng(0).standard_normal((2, 50, 10)).astype(np.float32)
    logits = np.float32(size) * logits
    others = logits + np.float32(scale) * noise
    found = compiled(logits, others)
    np.testing.assert_allclose(found, small(logits, others), rtol=1e-5)
    if scale >= 1e-3:
        expected, allowed = reference(logits, others), rounding_of_reference(logits)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=allowed)
    assert (np.asarray(compiled(logits, logits)) == 0).all()
    assert compiled(jnp.bfloat16(logits), jnp.bfloat16(others)).dtype == jnp.float32


def equinox():
    shapes = eqx.filter_eval_shape(networks.EquinoxNet, jax.random.key(0))
    arrays, static = eqx.partition(shapes, lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct))

    def apply_fn(variables, inputs):
        return jax.vmap(eqx.combine(variables, static))(inputs)

    return apply_fn, networks.drawn(arrays), networks.draw(1, 3, 2, 6, 6)


def network(build):
    """A network, those of its weights with two axes or more, and a batch."""
    apply_fn, variables, inputs = build()
    leaves = trees.named_leaves(variables)
    weights = trees.select(variables, [name for name, leaf in leaves.items() if leaf.ndim > 1])
    labels = np.arange(len(inputs)) % networks.CLASSES
    return apply_fn, variables, weights, Batch(inputs, jnp.asarray(labels))


def zeroed(variables, kept):
    """A copy of the variables with the ablated weights zero."""
    found = {name: np.array(leaf) for name, leaf in trees.named_leaves(variables).items()}
    for name, mask in trees.named_leaves(kept).items():
        found[name][~np.asarray(mask)] = 0
    return jax.tree.unflatten(jax.tree.structure(variables), found.values())


@pytest.mark.parametrize("build, chunk", [(networks.linen, None), (equinox, 3), (networks.tied, 2)])
def test_utilities_are_those_of_networks_zeroed_by_hand(build, chunk):
    apply_fn, variables, weights, batch = network(build)
    ablations = list(utility.random_subsets(jax.random.key(0), weights, 3, ratio=0.3))
    found = utility.measure(apply_fn, variables, iter(ablations), batch, chunk=chunk)
    run = jax.jit(apply_fn)
    whole = np.asarray(run(variables, batch.inputs))
    logits = [np.asarray(run(zeroed(variables, kept), batch.inputs)) for kept in ablations]
    wanted = [reference(whole, each).mean() for each in logits]
    assert_close(found.divergence, np.array(wanted), NETWORK)
    right = [np.mean(each.argmax(1) == batch.labels) for each in [whole, *logits]]
    assert_close(np.array([found.unablated_accuracy, *found.accuracy]), np.array(right), ROUNDING)
    assert min(wanted) > 1e-3 and found.divergence.dtype == np.float64


def test_what_is_known_without_measuring():
    apply_fn, variables, weights, batch = network(networks.tied)
    all_kept = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), weights)
    head = [*all_kept[:2], ~all_kept[2]]
    found = utility.measure(apply_fn, variables, [all_kept, head, all_kept], batch, size=2)
    p = special.softmax(np.asarray(apply_fn(variables, batch.inputs), np.float64), 1)
    entropy = special.entr(p).sum(1).mean()
    wanted = [0, np.log(networks.CLASSES) - entropy, 0]
    assert_close(found.divergence, np.array(wanted), ROUNDING)
    assert found.accuracy[0] == found.accuracy[2] == found.unablated_accuracy


def test_float_targets_and_masks_on_the_device_do():
    apply_fn, variables, weights, batch = network(networks.tied)
    ablations = list(utility.random_subsets(jax.random.key(0), weights, 2, number=40))
    on_device = [jax.tree.map(jnp.asarray, kept) for kept in ablations]
    targets = Batch(batch.inputs, jax.nn.one_hot(batch.labels, networks.CLASSES))
    one = utility.measure(apply_fn, variables, ablations, batch)
    other = utility.measure(apply_fn, variables, on_device, targets)
    jax.tree.map(np.testing.assert_array_equal, one, other)


WEIGHTS = {"a": np.ones((2, 3), np.float32), "bias": None, "b": [np.ones(4, np.float32)]}
AMONG = {"a": np.array([[1, 1, 0], [0, 1, 1]], bool), "bias": None, "b": [np.ones(4, bool)]}


def flat(tree):
    return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def subsets(count=20, key=0, **choice):
    return list(utility.random_subsets(jax.random.key(key), WEIGHTS, count, **choice))


@pytest.mark.parametrize(
    "choice, size",
    [({"ratio": 0.05 * i}, round(0.5 * i)) for i in (2, 7, 13, 20)]
    + [({"number": i}, i) for i in (1, 5, 10)]
    + [({"ratio": r, "among": AMONG}, round(8 * r)) for r in (0.1, 0.5, 0.8, 1.0)],
)
def test_subsets_have_their_size_and_lie_where_they_may(choice, size):
    may = flat(choice.get("among", jax.tree.map(np.ones_like, AMONG)))
    for kept in subsets(**choice):
        assert jax.tree.structure(kept) == jax.tree.structure(WEIGHTS)
        assert jax.tree.map(np.shape, kept) == jax.tree.map(np.shape, WEIGHTS)
        ablated = ~flat(kept)
        assert ablated.dtype == bool and ablated.sum() == size and not (ablated & ~may).any()


@pytest.mark.parametrize("number", [2, 6])
def test_every_subset_is_as_likely(number):
    drawn = subsets(4_000, number=number, among=AMONG)
    counts = collections.Counter(tuple(np.flatnonzero(~flat(kept))) for kept in drawn)
    possible = list(itertools.combinations(np.flatnonzero(flat(AMONG)), number))
    assert len(possible) == 28 and counts.keys() <= set(possible)
    assert stats.chisquare([counts[each] for each in possible]).pvalue > 1e-3


def test_subsets_are_of_the_key_and_the_index_alone():
    few, many, again = (subsets(count, ratio=0.4) for count in (3, 9, 9))
    for kept, other in zip(many, again, strict=True):
        jax.tree.map(np.testing.assert_array_equal, kept, other)
    for kept, other in zip(few, many, strict=False):
        jax.tree.map(np.testing.assert_array_equal, kept, other)
    raw = utility.random_subsets(jax.random.PRNGKey(0), WEIGHTS, 1, ratio=0.4)
    np.testing.assert_array_equal(flat(next(raw)), flat(many[0]))
    several = [flat(kept).tobytes() for key in range(5) for kept in subsets(5, key, ratio=0.4)]
    assert len(set(several)) > 20


def test_subsets_of_a_large_network_have_their_size():
    weights = {"a": jax.ShapeDtypeStruct((424_394,), jnp.float32)}
    for ratio in (0.1, 0.5, 0.9):
        [kept] = utility.random_subsets(jax.random.key(1), weights, 1, ratio=ratio)
        assert np.count_nonzero(~kept["a"]) == round(ratio * 424_394)
        share = 1 - kept["a"].reshape(2, -1).mean(1)
        np.testing.assert_allclose(share, ratio, atol=0.005)


@pytest.mark.parametrize("bands", [1, 3, 5])
def test_bands_are_what_magnitude_pruning_removes_bit_by_bit(bands):
    weights = {"a": networks.draw(0, 5, 3), "none": None, "b": networks.draw(1, 15).round(1)}
    found = utility.magnitude_bands(weights, bands)
    scores = trees.map_selected(jnp.abs, weights)
    for stage in range(1, bands + 1):
        wanted = masks.from_scores(scores, stage / bands, allow_empty_layers=True)
        together = jax.tree.map(lambda *kept: np.logical_and.reduce(kept), *found[:stage])
        jax.tree.map(np.testing.assert_array_equal, together, wanted)
    assert [masks.removed(kept) for kept in found] == [30 // bands] * bands


def test_bands_lie_among_what_pruning_kept():
    weights = {"a": jnp.array([[5.0, -1.0, 9.0], [9.0, -2.0, 0.5]]), "b": [jnp.arange(4.0)]}
    among = {"a": AMONG["a"], "b": AMONG["b"]}
    found = utility.magnitude_bands(weights, 3, among=among)
    magnitudes = [np.abs(flat(weights))[~flat(kept)].tolist() for kept in found]
    assert [sorted(each) for each in magnitudes] == [[0, 0.5, 1], [1, 2, 2], [3, 5]]


def test_a_summary_is_that_of_numpy():
    values = np.random.default_rng(0).gamma(2.0, size=500)
    found = utility.summary(values)
    wanted = (values.mean(), values.std(), values.min(), values.max())
    np.testing.assert_allclose(found[:4], wanted)
    counts, edges = np.histogram(values, 40)
    assert found.counts == counts.tolist() and found.edges == edges.tolist()
    assert utility.summary([1.0, 3.0], bins=2) == (2, 1, 1, 3, [1, 1], [1, 2, 3])


@pytest.mark.parametrize("value", [0.0, 0.3, 1e-30, 1e20])
def test_a_summary_of_equal_values_has_a_histogram(value):
    for values in ([value] * 3, [value, np.nextafter(value, np.inf)]):
        found = utility.summary(values)
        assert sum(found.counts) == len(values) and found.std <= 1e-15 * value


KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({}, "either ratio or number"),
        ({"ratio": 0.1, "number": 1}, "either ratio or number"),
        *(({"ratio": ratio}, "in \\(0, 1\\]") for ratio in (0, 0.0, -1, 1.1, np.nan, "1", True)),
        ({"ratio": 0.05}, "more than 0.05"),
        *(({"number": number}, "from 1 to 10") for number in (0, -1, 11)),
        ({"number": 9, "among": AMONG}, "from 1 to 8"),
        ({"number": 2.0}, "number must be an integer"),
        ({"number": 1, "count": 0}, "count is 0"),
        ({"number": 1, "count": 1.5}, "count must be an integer"),
        ({"number": 1, "key": None}, "need a key"),
        ({"number": 1, "key": 0}, "key must be one random key"),
        ({"number": 1, "key": jax.random.split(KEY)}, "key must be one random key"),
        ({"number": 1, "weights": {"a": None}}, "no prunable leaf"),
        ({"number": 1, "weights": {"a": np.ones(3, int)}}, "'a' are int64"),
        ({"number": 1, "weights": {"a": np.tanh}}, "'a' are ufunc"),
        ({"number": 1, "among": AMONG | {"a": None}}, "'a' in among is NoneType"),
        (
            {"number": 1, "among": AMONG | {"a": np.ones((2, 2), bool)}},
            "'a' in among .* \\(2, 3\\)",
        ),
        ({"number": 1, "among": AMONG | {"bias": np.ones(2, bool)}}, "'bias' .* must be None"),
        ({"number": 1, "among": AMONG | {"b": [np.ones(4)]}}, "'b/0' in among is float64"),
        ({"number": 1, "among": AMONG | {"c": None}}, "a leaf 'c', unlike the weights"),
        ({"number": 1, "among": jax.tree.map(np.zeros_like, AMONG)}, "False for every weight"),
    ],
)
def test_wrong_subsets_are_refused_at_once(change, message):
    given = {"key": KEY, "weights": WEIGHTS, "count": 2} | change
    with pytest.raises(ValueError, match=message):
        utility.random_subsets(**given)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bands": 0}, "from 1 to 10"),
        ({"bands": 11}, "from 1 to 10"),
        ({"bands": 9, "among": AMONG}, "from 1 to 8"),
        ({"bands": 2.5}, "bands must be an integer"),
        ({"weights": {"a": np.array([1.0, np.nan])}}, "'a' are not all finite"),
        ({"weights": {}}, "no prunable leaf"),
        ({"among": {"a": AMONG["a"]}}, "no leaf 'b/0'"),
    ],
)
def test_wrong_bands_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        utility.magnitude_bands(**{"weights": WEIGHTS, "bands": 2} | change)


@pytest.mark.parametrize(
    "values, bins, message",
    [
        ([], 40, "shape \\(0,\\)"),
        ([[1.0]], 40, "shape \\(1, 1\\)"),
        ([1.0, np.nan], 40, "values\\[1\\] is nan"),
        ([1.0], 0, "bins is 0"),
        ([1.0], 2.5, "bins is 2.5"),
    ],
)
def test_wrong_values_have_no_summary(values, bins, message):
    with pytest.raises(ValueError, match=message):
        utility.summary(values, bins)


def linear(variables, inputs):
    return inputs @ variables["params"]["w"] + variables["params"]["b"]


VARIABLES = {"params": {"w": networks.draw(0, 2, 3), "b": jnp.zeros(3)}, "other": jnp.zeros(2)}
KEPT = {"params": {"w": np.ones((2, 3), bool), "b": None}, "other": None}
MASKS_OTHER = KEPT | {"other": np.ones(2, bool)}
BATCH = Batch(networks.draw(1, 4, 2), jnp.zeros(4, int))


def masked(w):
    return [KEPT, {"params": {"w": w, "b": None}, "other": None}]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"ablations": []}, "ablations is empty"),
        ({"ablations": 3}, "iterable of mask trees, not int"),
        ({"ablations": KEPT}, "ablation 0 has no leaf 'other'"),
        ({"ablations": [KEPT["params"]]}, "'other', unlike the variables; .* whole tree"),
        ({"ablations": masked(np.ones((3, 2), bool))}, "'params/w' in ablation 1 .* \\(2, 3\\)"),
        ({"ablations": masked(np.ones((2, 3)))}, "'params/w' in ablation 1 is float64"),
        ({"ablations": masked(True)}, "'params/w' in ablation 1 is bool of shape \\(\\)"),
        ({"ablations": masked(None)}, "ablation 1 masks nothing"),
        ({"ablations": [KEPT, KEPT | {"other": np.ones(2, bool)}]}, "None in other places"),
        ({"ablations": [KEPT | {"params": (KEPT["params"]["w"], None)}]}, "no leaf 'params/"),
        ({"batch": None}, "batch must be a Batch"),
        ({"batch": Batch(BATCH.inputs[:0], BATCH.labels[:0])}, "at least one example"),
        ({"batch": Batch(BATCH.inputs, BATCH.labels + 3)}, "labels go from 3"),
        ({"batch": Batch(BATCH.inputs[:, :1], BATCH.labels)}, "apply_fn failed"),
        ({"chunk": 0}, "chunk is 0"),
        ({"size": 0}, "size is 0"),
        ({"chunk": 2.5}, "chunk is 2.5; .* integer"),
        ({"size": 2.5}, "size is 2.5; .* integer"),
        (
            {"variables": VARIABLES | {"other": jnp.zeros(2, int)}, "ablations": [MASKS_OTHER]},
            "ablation 0 masks 'other', which is int32; only floats",
        ),
        (
            {"variables": VARIABLES | {"params": {"w": np.full((2, 3), np.inf), "b": np.ones(3)}}},
            "not all finite",
        ),
        ({"apply_fn": lambda variables, inputs: linear(variables, inputs)[:, :1]}, "one output"),
    ],
)
def test_wrong_measurements_are_refused(change, message):
    given = {"apply_fn": linear, "variables": VARIABLES, "ablations": [KEPT], "batch": BATCH}
    with pytest.raises(ValueError, match=message):
        utility.measure(**given | change)


def test_an_ablation_that_leaves_no_finite_logits_is_named():
    def apply_fn(variables, inputs):
        return linear(variables, inputs) / jnp.abs(variables["params"]["w"]).sum()

    with pytest.raises(FloatingPointError, match="ablation 1 "):
        utility.measure(apply_fn, VARIABLES, masked(np.zeros((2, 3), bool)), BATCH)
