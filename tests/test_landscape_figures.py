"""Contours, profiles and surfaces of made-up values: what is drawn where, and what is refused."""

import itertools
import sys

import numpy as np
import pytest
from matplotlib import colormaps
from reading_figures import curve, labels, pixels

from pruning_jax import figures
from pruning_jax.measurements import landscape as measured

X, Y = np.linspace(-2.0, 8.0, 6), np.linspace(-1.0, 5.0, 4)
LEANING = 3 * X + 0.5 * Y[:, None]
POINTS = {"pretrained": (0, 0), "pruned": (6, 0.0), "retrained": (5.0, 4.0)}
PATHS = {"pretraining": [[-5, 3], [-1, 1], [0, 0]], "retraining": np.array([[6, 0], [5, 4.0]])}


def colour_at(figure, image, at):
    column, row = figure.axes[0].transData.transform(at).astype(int)
    return image[row, column]


def boxes(figure):
    """The names written in the first axes and the boxes that they cover, in pixels."""
    figure.draw_without_rendering()
    return {text.get_text(): text.get_window_extent() for text in figure.axes[0].texts}


def test_a_colour_stands_where_its_value_does():
    figure = figures.contours(X, Y, LEANING, limits=(-10, 30))
    image, shown = pixels(figure), colormaps["viridis"]
    for at in ((-1.5, -0.7), (-1.3, 4.2), (3.1, 2.2), (7.4, -0.6), (7.2, 4.6)):
        share = (3 * at[0] + 0.5 * at[1] + 10) / 40
        np.testing.assert_allclose(colour_at(figure, image, at), shown(share)[:3], atol=0.12)


def test_points_and_paths_lie_at_their_coordinates():
    figure = figures.contours(X, Y, LEANING, points=POINTS, paths=PATHS, label="loss (nats)")
    ax, bar = figure.axes
    lines = [line.get_xydata() for line in ax.lines]
    for path, line in zip(PATHS.values(), lines, strict=False):
        np.testing.assert_array_equal(line, path)
    np.testing.assert_array_equal(np.concatenate(lines[2:]), list(POINTS.values()))
    assert bar.get_ylabel() == "loss (nats)"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(PATHS)
    assert (ax.get_xlim(), ax.get_ylim()) == ((-2, 8), (-1, 5))


@pytest.mark.parametrize(
    "points",
    [
        POINTS,
        {"pretrained": (1, 1), "pruned": (1.4, 1), "retrained": (1.2, 1.3)},
        {"pretrained": (-2, -1), "pruned": (8, -1), "retrained": (8, 5)},
        {"pretrained": (3, 2), "pruned": (3, 2), "retrained": (3, 2)},
    ],
)
def test_names_are_apart_and_inside(points):
    figure = figures.contours(X, Y, LEANING, points=points, paths=PATHS)
    found, ax = boxes(figure), figure.axes[0]
    assert set(found) == set(points)
    for one, other in itertools.combinations(found.values(), 2):
        assert not one.overlaps(other)
    for box in found.values():
        assert ax.bbox.contains(box.x0, box.y0) and ax.bbox.contains(box.x1, box.y1)


def test_what_is_not_finite_stays_grey():
    values = LEANING.copy()
    values[2:] = np.nan
    values[0, 0] = np.inf
    figure = figures.contours(X, Y, values)
    image = pixels(figure)
    for at in ((3.1, 2.4), (-1.9, -0.9)):
        np.testing.assert_allclose(colour_at(figure, image, at), 0xDD / 255, atol=0.01)
    assert np.ptp(colour_at(figure, image, (3.1, -0.5))) > 0.1


@pytest.mark.parametrize("values", [np.ones_like(LEANING), np.where(Y[:, None] < 0, 1.0, np.nan)])
def test_a_plain_or_hardly_begun_plane_is_drawn(values):
    pixels(figures.contours(X, Y, values + 0 * X))


def test_values_beyond_the_limits_share_the_colour_of_the_end():
    figure = figures.contours(X, Y, LEANING, limits=(0, 10))
    image = pixels(figure)
    ends = [colormaps["viridis"](share)[:3] for share in (0, 1.0)]
    for place, end in zip(((-1.5, 0), (7, 0)), ends, strict=True):
        np.testing.assert_allclose(colour_at(figure, image, place), end, atol=0.08)


def test_the_bar_of_colours_has_its_ticks_where_their_values_are():
    for limits in ((20, 60), (-3, 17.5)):
        figure = figures.contours(X, Y, 10 * LEANING, limits=limits)
        figure.draw_without_rendering()
        scale = figure.axes[1].yaxis
        ends = np.array([figure.axes[1].transData.transform((0, end))[1] for end in limits])
        shown = [tick for tick in scale.get_major_ticks() if tick.label1.get_text()]
        assert len(shown) >= 3
        for tick in shown:
            value = float(tick.label1.get_text().replace("\N{MINUS SIGN}", "-"))
            assert limits[0] <= value <= limits[1]
            place = figure.axes[1].transData.transform((0, tick.get_loc()))[1]
            share = (value - limits[0]) / (limits[1] - limits[0])
            assert place == pytest.approx(ends[0] + share * np.ptp(ends), abs=1)


def test_a_plane_has_the_same_scale_both_ways_unless_it_is_a_strip():
    strip = np.linspace(0, 1, 4)
    assert figures.contours(X, Y, LEANING).axes[0].get_aspect() == 1
    ax = figures.contours(X, strip, LEANING).axes[0]
    assert ax.get_aspect() == "auto" and "not to scale" in ax.get_ylabel()


def test_a_profile_is_the_mean_with_its_interval_and_chord():
    t = np.linspace(0, 1, 15)
    seeds = np.array([t**2, 3 * t**2, 2 * t**2 + 1])
    figure = figures.profiles(t, {"several": seeds, "one": 1 - t}, label="loss (nats)")
    (ax,) = figure.axes
    expected = dict(zip(t.round(9), seeds.mean(axis=0), strict=True))
    assert curve(ax, "several") == pytest.approx(expected)
    assert curve(ax, "one") == pytest.approx(dict(zip(t.round(9), 1 - t, strict=True)))
    chord = ax.lines[0].get_xydata()
    np.testing.assert_allclose(chord, [[0, seeds[:, 0].mean()], [1, seeds[:, -1].mean()]])
    edge = ax.collections[0].get_paths()[0].vertices
    half = 4.302653 * seeds.std(axis=0, ddof=1) / np.sqrt(3)
    for end in (seeds.mean(axis=0) - half, seeds.mean(axis=0) + half):
        for point in zip(t, end, strict=True):
            assert np.isclose(edge, point).all(axis=1).any()
    assert labels(figure) == ["several", "one", "line between the ends"]
    assert "95 % interval" in figure.get_suptitle() and "n = 1 to 3" in figure.get_suptitle()
    pixels(figure)


def test_a_surface_has_its_points_and_paths_on_it():
    graph = figures.surface(X, Y, LEANING, points=POINTS, paths=PATHS, label="loss (nats)")
    ground, first, second, *points = graph.data
    np.testing.assert_array_equal(ground.z, LEANING)
    lift = 0.01 * np.ptp(LEANING)
    assert np.isnan(first.z[0])
    np.testing.assert_allclose(first.z[1:], [-3 + 0.5 + lift, lift])
    np.testing.assert_allclose(second.z, [18 + lift, 17 + lift])
    found = {trace.text[0]: (trace.x[0], trace.y[0]) for trace in points}
    assert found == POINTS
    assert graph.layout.scene.zaxis.title.text == "loss (nats)"
    assert "pretrained" in graph.to_html(include_plotlyjs=False)


def test_a_surface_is_cut_off_at_its_limits():
    values = np.where(LEANING > 20, np.inf, LEANING)
    graph = figures.surface(X, Y, values, limits=(0, 10))
    heights = graph.data[0].z
    assert np.isnan(heights).sum() == (LEANING > 20).sum()
    assert (np.nanmin(heights), np.nanmax(heights)) == (0, 10)


def test_without_plotly_the_error_names_the_extra(monkeypatch):
    for name in ("plotly", "plotly.graph_objects"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"extra `notebooks`.*pruning_jax\[notebooks\]"):
        figures.surface(X, Y, LEANING)
    figures.contours(X, Y, LEANING)


@pytest.mark.parametrize("draw", [figures.contours, figures.surface])
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"x": X[:1]}, r"x has shape \(1,\); it must be \(n,\), n >= 2"),
        ({"x": X[::-1]}, "x is .*; it must be finite and rise"),
        ({"y": [0, 1, np.nan, 2]}, "y is .*; it must be finite and rise"),
        ({"values": LEANING.T}, r"values has shape \(6, 4\); it must be \(y, x\): \(4, 6\)"),
        ({"values": np.full_like(LEANING, np.nan)}, "values has no finite entry"),
        ({"points": {"a": (1, 2, 3)}}, r"points\['a'\] is \(1, 2, 3\); .* two finite numbers"),
        ({"points": {"a": (1, np.inf)}}, r"points\['a'\] is .*; .* two finite numbers"),
        ({"paths": {"b": [1, 2]}}, r"paths\['b'\] has shape \(2,\); it must be \(steps, 2\)"),
        ({"limits": (1, 1)}, r"limits is \(1, 1\); the first must be below the second"),
    ],
)
def test_planes_that_cannot_be_drawn_are_refused(draw, changes, message):
    with pytest.raises(ValueError, match=message):
        draw(**({"x": X, "y": Y, "values": LEANING} | changes))


@pytest.mark.parametrize(
    "positions, curves, message",
    [
        ([0, 0], {"a": [1, 2]}, "positions is .*; it must be finite and rise"),
        ([0, 1], {}, "curves is empty"),
        ([0, 1], {"a": [1, 2, 3]}, r"curves\['a'\] has shape \(3,\); it must be \(2,\) or"),
        ([0, 1], {"a": np.ones((1, 1, 2))}, r"curves\['a'\] has shape \(1, 1, 2\); it must be"),
    ],
)
def test_profiles_that_cannot_be_drawn_are_refused(positions, curves, message):
    with pytest.raises(ValueError, match=message):
        figures.profiles(positions, curves)


def test_an_interval_is_student_s():
    mean, low, high = measured.interval([1.0, 2.0, 4.0])
    half = 4.302653 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    np.testing.assert_allclose([mean, low, high], [7 / 3, 7 / 3 - half, 7 / 3 + half], rtol=1e-6)
    assert measured.interval([5.0]) == (5, 5, 5)


def test_pooled_histograms_weigh_the_same_and_lie_where_they_were():
    one = {"counts": [5, 5], "edges": [0.0, 1.0, 2.0]}
    other = {"counts": [0, 40], "edges": [2.0, 3.0, 4.0]}
    shares, edges = measured.pooled([one, other], bins=4)
    np.testing.assert_allclose(edges, [0, 1, 2, 3, 4])
    np.testing.assert_allclose(shares, [0.25, 0.25, 0, 0.5])
    shares, edges = measured.pooled([{"counts": [7], "edges": [3.0, 3.0]}])
    assert shares.tolist() == [1] and edges[0] < 3 < edges[1]


def test_paths_of_other_positions_or_that_are_not_finite_are_left_out():
    paths = [
        {"positions": [0, 1], "accuracy": [0.5, 0.75]},
        {"positions": [0, 0.5, 1], "accuracy": [1, 1, 1]},
        {"positions": [0, 1], "accuracy": [np.nan, 1]},
    ]
    positions, values = measured.along(paths, "accuracy")
    assert positions.tolist() == [0, 1] and values.tolist() == [[0.5, 0.75]]
    assert measured.along(paths[2:], "accuracy")[1].shape == (0, 2)
