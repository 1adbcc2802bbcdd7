"""Planes and paths against dense linear algebra in double precision, surfaces point by point."""

import collections
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from closeness import EPS, NETWORK, ROUNDING, assert_close
from scipy.sparse import linalg

from pruning_jax import evaluation, losses
from pruning_jax.analysis import landscape
from pruning_jax.types import Batch

LABELS = 3


def params(seed, scale=1.0):
    """Parameters of two kernels and two vectors, and a counter that does not move."""
    generator = np.random.default_rng(seed)

    def noise(*shape):
        return jnp.asarray(scale * generator.standard_normal(shape), jnp.float32)

    return {
        "conv": {"kernel": noise(2, 2, 3, 4), "bias": noise(4)},
        "dense": [noise(5, 6), noise(6)],
        "steps": jnp.int32(7),
        "nothing": None,
    }


def flat(tree):
    """Floating leaves in one vector of double precision, by this file's own order."""
    leaves = [tree["conv"]["kernel"], tree["conv"]["bias"], *tree["dense"]]
    return np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in leaves])


def norm(x):
    return np.linalg.norm(x)


@functools.cache
def triple():
    first, second, third = (params(seed) for seed in range(3))
    return first, second, third, landscape.plane(first, second, third)


def test_directions_span_the_same_plane_as_qr_and_are_orthonormal():
    first, second, third, plane = triple()
    offsets = np.stack([flat(second) - flat(first), flat(third) - flat(first)], 1)
    q, r = np.linalg.qr(offsets)
    q, r = q * np.sign(np.diag(r)), r * np.sign(np.diag(r))[:, None]
    found = np.stack([flat(d) for d in plane.directions], 1)
    # Worked out in double precision, and rounded once.
    assert_close(found, q, EPS)
    assert_close(found.T @ found, np.eye(2), EPS)
    points = [landscape.coordinates(plane, p) for p in (first, second, third)]
    assert_close(np.array(points), np.array([[0, 0], *r.T]), EPS)


def test_three_points_land_at_their_own_coordinates():
    first, second, third, plane = triple()
    for wanted in (first, second, third):
        found = landscape.point(plane, landscape.coordinates(plane, wanted))
        assert jax.tree.structure(found) == jax.tree.structure(wanted)
        assert norm(flat(found) - flat(wanted)) <= 1e-6 * norm(flat(wanted))
        assert found["steps"] == 7 and found["steps"].dtype == jnp.int32


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_points_at_any_scale(scale):
    points = [params(seed, scale) for seed in range(3)]
    plane = landscape.plane(*points)
    for wanted in points:
        found = landscape.point(plane, landscape.coordinates(plane, wanted))
        assert norm(flat(found) - flat(wanted)) <= 1e-6 * norm(flat(wanted))


def test_points_close_together_land_at_their_coordinates():
    first = params(0)
    near = [
        jax.tree.map(lambda a, b: a + (1e-3 * b).astype(a.dtype), first, params(s)) for s in (1, 2)
    ]
    plane = landscape.plane(first, *near)
    for wanted in near:
        position = landscape.coordinates(plane, wanted)
        again = landscape.coordinates(plane, landscape.point(plane, position))
        assert norm(again - position) <= 1e-4 * norm(position), "rounding of the point itself"


def test_coordinates_off_the_plane_are_those_of_least_squares():
    *_, plane = triple()
    skewed = plane._replace(directions=(plane.directions[0], params(5)))
    design = np.stack([flat(d) for d in skewed.directions], 1)
    wanted, *_ = np.linalg.lstsq(design, flat(params(6)) - flat(plane.origin))
    np.testing.assert_allclose(landscape.coordinates(skewed, params(6)), wanted, rtol=1e-9)


def test_a_path_goes_from_the_first_to_the_last():
    first, last = params(0), params(1)
    path = landscape.path(first, last)
    for share in (0.0, 0.25, 1.0):
        wanted = (1 - share) * flat(first) + share * flat(last)
        assert_close(flat(landscape.point(path, [share])), wanted, 2 * EPS)
    np.testing.assert_allclose(landscape.coordinates(path, last), [1.0], rtol=1e-6)


def test_half_precision_moves_in_single():
    half = [{"w": params(seed)["dense"][0].astype(jnp.bfloat16)} for seed in range(2)]
    path = landscape.path(*half)
    assert path.directions[0]["w"].dtype == jnp.float32
    assert landscape.point(path, [1.0])["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(landscape.point(path, [1.0])["w"], half[1]["w"])


def test_axes_cover_the_points_with_a_margin():
    x, y = landscape.grid([[0, 0], [4, 0], [1, 2]], (3, 5), margin=0.5)
    np.testing.assert_allclose(x, [-2, 0, 2, 4, 6])
    np.testing.assert_allclose(y, [-1, 1, 3])
    x, y = landscape.grid([[0, 1], [2, 1]], (2, 2))
    np.testing.assert_allclose((x, y), [[-0.5, 2.5], [0.5, 1.5]])


def test_filters_of_random_directions_have_the_norms_of_the_weights():
    weights = params(0)
    weights["conv"]["kernel"] = weights["conv"]["kernel"].at[..., 1].set(0.0)
    one, two = landscape.random_directions(jax.random.key(0), weights)
    for found in (one, two):
        for leaf, w in (
            (found["conv"]["kernel"], weights["conv"]["kernel"]),
            (found["dense"][0], weights["dense"][0]),
        ):
            rows, wanted = (np.asarray(x).reshape(-1, x.shape[-1]) for x in (leaf, w))
            np.testing.assert_allclose(norm_of(rows), norm_of(wanted), rtol=1e-5)
        assert not found["conv"]["bias"].any() and not found["dense"][1].any()
        assert found["steps"] is None
    cosine = flat(one) @ flat(two) / norm(flat(one)) / norm(flat(two))
    assert abs(cosine) < 0.5


def norm_of(rows):
    return np.sqrt((rows.astype(np.float64) ** 2).sum(0))


def test_other_normalisations_of_random_directions():
    key, weights = jax.random.key(1), params(0)
    (by_row,) = landscape.random_directions(key, weights, 1, filter_axis=0)
    rows, wanted = by_row["dense"][0].T, weights["dense"][0].T
    np.testing.assert_allclose(norm_of(np.asarray(rows)), norm_of(np.asarray(wanted)), rtol=1e-5)
    (by_layer,) = landscape.random_directions(key, weights, 1, normalisation="layer")
    for leaf, w in zip(jax.tree.leaves(by_layer), jax.tree.leaves(weights), strict=False):
        np.testing.assert_allclose(norm(leaf), norm(w), rtol=1e-5)
    (raw,) = landscape.random_directions(key, weights, 1, normalisation=None)
    scaled = flat(raw) / flat(by_layer)
    assert_close(scaled[:48], np.full(48, scaled[0]), ROUNDING)
    (same,) = landscape.random_directions(key, weights, 1, normalisation=None)
    np.testing.assert_array_equal(flat(raw), flat(same))


def tanh_net(variables, inputs):
    hidden = jnp.tanh(inputs @ variables["params"]["a"] + variables["shift"])
    return hidden @ variables["params"]["b"]


@functools.cache
def tanh_problem():
    drawn = {"a": networks.draw(0, 3, 4), "b": networks.draw(1, 4, LABELS)}
    inputs = networks.draw(2, 12, 3)
    labels = jax.random.randint(jax.random.key(3), (12,), 0, LABELS)
    return drawn, {"shift": networks.draw(4, 4)}, Batch(inputs, labels)


def test_eigenvectors_are_those_of_the_dense_hessian():
    drawn, state, batch = tanh_problem()
    halves = [jax.tree.map(lambda x, at=at: x[at], batch) for at in (slice(6), slice(6, 12))]
    values, vectors = landscape.eigenvectors(
        tanh_net, drawn, halves, 3, key=jax.random.key(5), state=state
    )
    vector, unravel = jax.flatten_util.ravel_pytree(drawn)

    @jax.jit
    @jax.hessian
    def hessian(vector):
        logits = tanh_net({"params": unravel(vector), **state}, batch.inputs)
        return losses.cross_entropy.value(logits, batch.labels).mean()

    wanted_values, wanted = np.linalg.eigh(np.asarray(hessian(vector), np.float64))
    assert_close(values, wanted_values[::-1][:3], NETWORK)
    found = np.stack([jax.flatten_util.ravel_pytree(v)[0] for v in vectors], 1)
    assert_close(np.abs(wanted[:, ::-1][:, :3].T @ found), np.eye(3), NETWORK)
    assert (found[np.abs(found).argmax(0), range(3)] > 0).all()


def test_eigenvectors_have_none_for_integers():
    drawn, state, batch = tanh_problem()
    counted = {**drawn, "steps": jnp.int32(3)}
    values, (vector,) = landscape.eigenvectors(tanh_net, counted, batch, 1, key=KEY, state=state)
    assert values > 0 and vector["steps"] is None and vector["a"].shape == drawn["a"].shape


def test_eigenvectors_that_lanczos_does_not_find_are_reported(monkeypatch):
    def failing(*args, **given):
        raise linalg.ArpackNoConvergence("no convergence", np.zeros(0), np.zeros((0, 0)))

    monkeypatch.setattr(linalg, "eigsh", failing)
    with pytest.raises(ValueError, match="no 2 leading eigenvectors .* ask for fewer"):
        leading()


def test_points_of_numpy_in_double_precision():
    first, last = ({"w": np.full(3, value)} for value in (0.5, 1.5))
    path = landscape.path(first, last)
    assert path.directions[0]["w"].dtype == jnp.float32
    np.testing.assert_array_equal(landscape.point(path, [1.0])["w"], last["w"])
    np.testing.assert_array_equal(landscape.coordinates(path, last), [1.0])


class NormNet(nn.Module):
    """A convolution and a dense layer, each with batch normalisation."""

    @nn.compact
    def __call__(self, inputs, train=False):
        norm = functools.partial(nn.BatchNorm, use_running_average=not train, momentum=0.8)
        hidden = nn.relu(norm(epsilon=1e-3)(nn.Conv(4, (3, 3), strides=2)(inputs)))
        return nn.Dense(LABELS)(norm()(hidden.reshape(hidden.shape[0], -1)))


MODULE = NormNet()


def norm_apply(variables, inputs):
    return MODULE.apply(variables, inputs)


def norm_train(variables, inputs, key):
    del key
    logits, state = MODULE.apply(variables, inputs, train=True, mutable=["batch_stats"])
    kept = {name: tree for name, tree in variables.items() if name != "params"}
    return logits, {**kept, **state}


@functools.cache
def norm_problem():
    inputs = networks.draw(0, 10, 4, 4, 2)
    variables = networks.drawn(jax.eval_shape(MODULE.init, jax.random.key(0), inputs))
    labels = jax.random.randint(jax.random.key(1), (10,), 0, LABELS)
    first, state = variables["params"], {"batch_stats": variables["batch_stats"]}
    others = [jax.tree.map(lambda leaf, k=k: jnp.roll(leaf, k) + 0.1, first) for k in (1, 2)]
    return landscape.plane(first, *others), state, Batch(inputs, labels)


POSITIONS = np.array([[0.0, 0.0], [1.5, -0.5], [0.3, 2.0]])


@pytest.mark.parametrize("chunk, size", [(None, None), (4, None), (10, 2)])
def test_a_plane_is_what_its_points_are_one_by_one(chunk, size):
    plane, state, batch = norm_problem()
    found = landscape.evaluate(
        norm_apply, plane, POSITIONS, batch, state=state, chunk=chunk, size=size
    )
    for position, metrics in zip(POSITIONS, found, strict=True):
        variables = {"params": landscape.point(plane, position), **state}
        wanted = evaluation.evaluate(norm_apply, variables, batch)
        np.testing.assert_allclose(metrics.loss, wanted.loss, rtol=1e-5)
        assert metrics.accuracy == wanted.accuracy


def test_a_path_of_whole_variables():
    drawn, state, batch = tanh_problem()
    first = {"params": drawn, **state}
    path = landscape.path(first, jax.tree.map(lambda leaf: leaf + 0.5, first))
    found = list(
        landscape.evaluate(tanh_net, path, [[0.0], [1.0]], batch, loss=losses.squared_error)
    )
    for share, metrics in zip((0.0, 0.5), found, strict=True):
        moved = jax.tree.map(lambda leaf, s=share: leaf + s, first)
        wanted = evaluation.evaluate(tanh_net, moved, batch, loss=losses.squared_error)
        np.testing.assert_allclose(metrics.loss, wanted.loss, rtol=1e-5)


def moments_by_hand(params, inputs):
    """Means and variances before both normalisations, in double precision but the convolution."""
    hidden = nn.Conv(4, (3, 3), strides=2).apply({"params": params["Conv_0"]}, inputs)
    hidden = np.asarray(hidden, np.float64)
    found = {"BatchNorm_0": {"mean": hidden.mean((0, 1, 2)), "var": hidden.var((0, 1, 2))}}
    scaled = (hidden - hidden.mean((0, 1, 2))) / np.sqrt(hidden.var((0, 1, 2)) + 1e-3)
    own = {name: np.asarray(leaf, np.float64) for name, leaf in params["BatchNorm_0"].items()}
    hidden = np.maximum(scaled * own["scale"] + own["bias"], 0).reshape(len(hidden), -1)
    return found | {"BatchNorm_1": {"mean": hidden.mean(0), "var": hidden.var(0)}}


@pytest.mark.parametrize("chunk, pieces", [(10, [(0, 10)]), (4, [(0, 3), (3, 6), (6, 10)])])
def test_estimated_moments_are_those_of_the_examples(chunk, pieces):
    plane, state, batch = norm_problem()
    moments = Batch(batch.inputs[::-1] + 0.2, batch.labels)
    found = landscape.evaluate(
        norm_apply,
        plane,
        POSITIONS,
        batch,
        state=state,
        train_fn=norm_train,
        moments=moments,
        chunk=chunk,
    )
    for position, metrics in zip(POSITIONS, found, strict=True):
        params = landscape.point(plane, position)
        parts = [moments_by_hand(params, moments.inputs[a:b]) for a, b in pieces]
        shares = [(b - a) / 10 for a, b in pieces]
        mean = jax.tree.map(
            lambda *x, w=shares: jnp.float32(np.average(x, axis=0, weights=w)), *parts
        )
        variables = {"params": params, "batch_stats": mean}
        wanted = evaluation.evaluate(norm_apply, variables, batch)
        assert_close(metrics.loss, wanted.loss, NETWORK)
        assert metrics.accuracy == wanted.accuracy


def test_a_model_without_state_has_nothing_to_estimate():
    drawn, state, batch = tanh_problem()

    def apply_fn(variables, inputs):
        return tanh_net({**variables, **state}, inputs)

    path = landscape.path(drawn, jax.tree.map(lambda leaf: -leaf, drawn))
    given = {"train_fn": lambda v, x, key: (apply_fn(v, x), {}), "moments": batch}
    plain = list(landscape.evaluate(apply_fn, path, [[0.3]], batch, state={}))
    assert list(landscape.evaluate(apply_fn, path, [[0.3]], batch, state={}, **given)) == plain


def test_state_that_is_no_float_or_never_updated_stays():
    drawn, state, batch = tanh_problem()
    state = {"shift": state["shift"], "mean": jnp.zeros(4), "count": jnp.int32(3)}

    def train_fn(variables, inputs, key):
        hidden = (inputs @ variables["params"]["a"]).mean(0)
        kept = {"shift": variables["shift"], "count": variables["count"] + 1}
        return None, {**kept, "mean": 0.5 * variables["mean"] + 0.5 * hidden}

    def apply_fn(variables, inputs):
        scale = jnp.where(variables["count"] == 3, 1.0, jnp.nan)
        centred = inputs @ variables["params"]["a"] - variables["mean"]
        return scale * jnp.tanh(centred + variables["shift"]) @ variables["params"]["b"]

    path = landscape.path(drawn, jax.tree.map(lambda leaf: 2 * leaf, drawn))
    (found,) = landscape.evaluate(
        apply_fn, path, [[0.0]], batch, state=state, train_fn=train_fn, moments=batch, chunk=5
    )
    state["mean"] = (batch.inputs @ drawn["a"]).mean(0)
    wanted = evaluation.evaluate(apply_fn, {"params": drawn, **state}, batch)
    np.testing.assert_allclose(found.loss, wanted.loss, rtol=1e-5)


def test_points_are_evaluated_as_they_are_drawn():
    plane, state, batch = norm_problem()
    many = np.zeros((10_000, 2))
    found = landscape.evaluate(norm_apply, plane, many, batch, state=state)
    assert next(found) == next(found)


def test_barrier_is_the_largest_excess_over_the_line():
    assert landscape.barrier([1, 4, 3], [0, 1, 2]) == 2
    assert landscape.barrier([1, 4, 3], [0, 1, 4]) == 2.5
    assert landscape.barrier([1, 1.5, 3], [0, 1, 2]) == 0
    assert landscape.barrier([0.9, 0.5, 0.7], [0, 0.5, 1], better="higher") == pytest.approx(0.3)
    assert landscape.barrier([0.9, 0.9, 0.7], [0, 0.5, 1], better="higher") == 0
    assert landscape.barrier([1, np.inf, 3], [0, 1, 2]) == np.inf


def with_leaf(change):
    tree = params(2)
    tree["conv"]["bias"] = change(tree["conv"]["bias"])
    return tree


def between(share):
    return jax.tree.map(lambda a, b: a + (share * (b - a)).astype(a.dtype), params(0), params(1))


def evaluated(coordinates=POSITIONS, **changed):
    plane, state, batch = norm_problem()
    given = {"batch": batch, "state": state} | changed
    return landscape.evaluate(norm_apply, plane, coordinates, **given)


def counting(variables, inputs, key):
    return None, jax.tree.map(lambda leaf: leaf + 1, {"batch_stats": variables["batch_stats"]})


def mixing(variables, inputs, key):
    return None, jax.tree.map(
        lambda leaf: leaf[::-1] / 2, {"batch_stats": variables["batch_stats"]}
    )


def shrinking(variables, inputs, key):
    return None, {}


def broadcasting():
    """A path whose direction has a leaf of another shape than the origin's."""
    path = landscape.path(params(0), params(1))
    path.directions[0]["dense"][1] = jnp.ones(1)
    return path


FLAT = losses.cross_entropy._replace(value=lambda logits, labels: logits.sum(1) * 0)


def leading(**changed):
    drawn, state, batch = tanh_problem()
    given = {"count": 2, "key": KEY, "state": state} | changed
    return landscape.eigenvectors(tanh_net, drawn, batch, **given)


BATCH = Batch(np.zeros((2, 4, 4, 2), np.float32), np.zeros(2, np.int32))
KEY = jax.random.key(0)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: landscape.plane(params(0), params(1), {"w": jnp.ones(3)}), "'w'|absent"),
        (
            lambda: landscape.plane(params(0), params(1), with_leaf(lambda b: b[:2])),
            r"conv/bias.*\(2,\)",
        ),
        (
            lambda: landscape.plane(params(0), params(1), with_leaf(lambda b: b / 0)),
            "not all finite",
        ),
        (
            lambda: landscape.plane(params(0), params(0), params(1)),
            "first and the second .*coincide",
        ),
        (
            lambda: landscape.plane(params(0), params(1), params(0)),
            "first and the third .*coincide",
        ),
        (lambda: landscape.plane(params(0), params(1), between(0.3)), "one line"),
        (lambda: landscape.plane(params(0), params(1), between(-40.0)), "one line"),
        (lambda: landscape.path(params(0), params(0)), "coincide"),
        (lambda: landscape.path({"n": jnp.int32(1)}, {"n": jnp.int32(2)}), "no floating leaf"),
        (lambda: landscape.path({}, {}), "no floating leaf"),
        (lambda: landscape.path({"w": 1.0}, {"w": 2.0}), "'w' of the first point is 1.0"),
        (lambda: landscape.path({"f": jnp.tanh}, {"f": jnp.tanh}), "partition"),
        (
            lambda: landscape.path(
                collections.OrderedDict(b=jnp.ones(2), a=jnp.zeros(2)),
                {"a": jnp.zeros(2), "b": jnp.ones(2)},
            ),
            "structure PyTreeDef",
        ),
        (
            lambda: landscape.path(
                list(jnp.arange(11.0)), {str(n): jnp.float32(n) for n in range(11)}
            ),
            "structure PyTreeDef",
        ),
        *(
            (
                lambda k=k: landscape.path(
                    {"a": jnp.ones(2), "b": jnp.ones(2)}, {"a": jnp.ones(2), "b": jnp.ones(2, k)}
                ),
                "'b' .*not floating",
            )
            for k in (int, complex)
        ),
        (lambda: landscape.point(broadcasting(), [1.0]), r"'dense/1' of direction 0 .*\(1,\)"),
        (lambda: landscape.coordinates(broadcasting(), params(1)), "'dense/1' of direction 0"),
        (
            lambda: landscape.evaluate(tanh_net, broadcasting(), [[1.0]], tanh_problem()[2]),
            "'dense/1' of direction 0",
        ),
        (
            lambda: landscape.point(triple()[3]._replace(directions=({"w": jnp.ones(2)},)), [1.0]),
            "direction 0 has the structure",
        ),
        (lambda: landscape.point(triple()[3], [1.0, 1e39]), "beyond float32"),
        (lambda: landscape.grid([[0, 0], [1, 1]], 5), "shape is 5"),
        (lambda: landscape.grid([[0, 0], [1, 1]], (5, 5), margin="a"), "margin is 'a'"),
        (lambda: landscape.point(triple()[3], [1.0]), r"\(1, 1\)"),
        (lambda: landscape.point(triple()[3], [1.0, np.nan]), "not finite"),
        (lambda: landscape.coordinates(triple()[3], {"w": jnp.ones(3)}), "absent"),
        (
            lambda: landscape.coordinates(
                triple()[3]._replace(directions=triple()[3].directions[:1] * 2), params(1)
            ),
            "one line",
        ),
        (lambda: landscape.grid([[0, 0], [1, 1]], (0, 5)), r"shape is \(0, 5\)"),
        (lambda: landscape.grid([[0, 0], [1, 1]], (5, 5), margin=-1), "margin is -1"),
        (lambda: landscape.grid([[0, 1], [1, 1]], (5, 5), margin=0), "size"),
        (lambda: landscape.grid([[1, 1], [1, 1]], (5, 5)), "size"),
        (lambda: landscape.grid([], (5, 5)), "plane_points"),
        (lambda: landscape.grid([[0, np.inf]], (5, 5)), "finite"),
        (lambda: landscape.random_directions(KEY, params(0), 0), "count is 0"),
        (lambda: landscape.random_directions(KEY, params(0), 1.5), "count is 1.5; .* integer"),
        (lambda: landscape.random_directions(None, params(0)), "key is None"),
        (lambda: landscape.random_directions(0, params(0)), "one random key"),
        (lambda: landscape.random_directions(KEY, params(0), normalisation="x"), "normalisation"),
        (lambda: landscape.random_directions(KEY, params(0), filter_axis=3), "dense/0"),
        (lambda: landscape.random_directions(KEY, {"n": jnp.int32(1)}), "no floating leaf"),
        (lambda: landscape.eigenvectors(tanh_net, {"w": jnp.ones(2)}, [], key=KEY), "count is 2"),
        (lambda: leading(count=2.5), "count is 2.5; .* integer"),
        (lambda: leading(key=None), "key is None"),
        (lambda: leading(key=0), "one random key"),
        (lambda: leading(loss=FLAT), "Hessian is zero"),
        (lambda: evaluated(np.zeros((0, 2))), r"\(0, 2\)"),
        (lambda: evaluated(np.zeros((4, 3))), r"\(4, 3\)"),
        (lambda: evaluated([[0, 0], [0, np.inf]]), "point 1 "),
        (lambda: evaluated(batch=jax.tree.map(lambda x: x[:0], BATCH)), "0 examples"),
        (lambda: evaluated(batch=BATCH._replace(labels=np.full(2, 5))), "labels go from 5"),
        (lambda: evaluated(chunk=0), "chunk is 0"),
        (lambda: evaluated(size=0), "size is 0"),
        (lambda: evaluated(loss="cross_entropy"), "loss must be"),
        (lambda: evaluated(train_fn=norm_train), "train_fn without moments"),
        (lambda: evaluated(moments=BATCH), "moments without train_fn"),
        (lambda: evaluated(chunk=2.5), "chunk is 2.5"),
        (lambda: evaluated(size=2.5), "size is 2.5"),
        *(
            (lambda m=m: evaluated(train_fn=norm_train, moments=m), "moments must be one Batch")
            for m in ([BATCH], BATCH.inputs)
        ),
        (
            lambda: evaluated(
                train_fn=norm_train, moments=BATCH._replace(inputs=BATCH.inputs + np.nan)
            ),
            "inputs of moments are not all finite",
        ),
        (
            lambda: landscape.evaluate(
                tanh_net,
                landscape.path(
                    {"params": tanh_problem()[0], **tanh_problem()[1]},
                    {"params": tanh_problem()[0], "shift": jnp.ones(4)},
                ),
                [[0.0]],
                tanh_problem()[2],
                train_fn=norm_train,
                moments=BATCH,
            ),
            "state is None",
        ),
        (lambda: evaluated(train_fn=counting, moments=BATCH), "running average"),
        (lambda: evaluated(train_fn=mixing, moments=BATCH), "running average"),
        (lambda: evaluated(train_fn=shrinking, moments=BATCH), "structure"),
        (lambda: landscape.barrier([1.0], [0.0]), "2 or more"),
        (lambda: landscape.barrier([1, 2, 3], [0, 1]), "as many"),
        (lambda: landscape.barrier([1, 2, 3], [0, 2, 1]), "ascend"),
        (lambda: landscape.barrier([1, np.nan, 3], [0, 1, 2]), "numbers"),
        (lambda: landscape.barrier([1, 2, 3], [0, 1, 2], better="up"), "better"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
