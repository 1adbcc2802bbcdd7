"""Figures 2 to 9 of made-up rows: what is drawn where, and that parts of a run can be drawn too."""

import io
import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from mean_replacement_rows import PENALTIES, penalty, run, workload

from pruning_jax import figures
from pruning_jax.measurements import mean_replacement as measured
from pruning_jax.measurements.profiles import profile

NUMBERS = range(2, 10)
LABELS = ["random", "weight norm", "RS", "MRS", "|RS|", "|MRS|"]
BOTH = ["removed alone", "mean folded in"]


def small(name="w", seeds=3, **changes):
    return workload(name, seeds=seeds, **changes)


@pytest.fixture(scope="module")
def work():
    return small()


@pytest.fixture(scope="module")
def rows(work):
    return run(work)


@pytest.fixture(scope="module")
def drawn(rows):
    return figures.mean_replacement(rows)


def rendered(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return buffer.getvalue()


def labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def curves(ax):
    """Colour and line style -> the points of a line."""
    lines = [line for line in ax.lines if len(line.get_xdata())]
    return {(line.get_color(), line.get_linestyle()): line.get_xydata() for line in lines}


def look(criterion, replacement):
    color = figures.drawing.look(criterion)["color"]
    return color, {"zero": "--", "mean": "-"}[replacement]


def settings(rows, **columns):
    found = [row for row in rows if row["phase"] == "probed" and sum(row["removed"].values())]
    return [row for row in found if all(row[name] == of for name, of in columns.items())]


def test_a_workload_has_eight_figures(rows, drawn):
    assert set(drawn) == {f"figure_{number}_w" for number in NUMBERS}
    assert all(isinstance(figure, Figure) and rendered(figure) for figure in drawn.values())
    both = figures.mean_replacement(rows + run(small("other", seeds=1)))
    assert set(both) == {f"figure_{n}_{name}" for n in NUMBERS for name in ("w", "other")}


def test_figure_2_has_a_curve_a_method_of_means_over_seeds(rows, drawn):
    (ax,) = drawn["figure_2_w"].axes
    found = curves(ax)
    assert len(found) == 12 and labels(drawn["figure_2_w"])[:6] == LABELS
    for criterion, replacement in (("abs_rs", "mean"), ("mrs", "zero")):
        points = found[look(criterion, replacement)]
        for step, height in points:
            own = settings(rows, layers="midconv", fraction=0.1, step=step)
            costs = [row["penalty"][criterion][replacement] for row in own]
            assert len(costs) == 3 and height == pytest.approx(np.mean(costs))
    assert points[:, 0].tolist() == [250, 500, 750, 1000]


def test_figure_3_has_a_panel_a_criterion_and_a_point_a_setting(rows, drawn):
    figure = drawn["figure_3_w"]
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"{label}: 100 % below" for label in LABELS]
    points = figure.axes[LABELS.index("|RS|")].collections[0].get_offsets()
    own = [row["penalty"]["abs_rs"] for row in settings(rows)]
    np.testing.assert_allclose(points, [[pair["zero"], pair["mean"]] for pair in own])
    line = figure.axes[0].lines[-1].get_xydata()
    np.testing.assert_array_equal(line[:, 0], line[:, 1])


def test_figure_4_has_a_panel_for_each_number_of_steps(rows, drawn):
    figure = drawn["figure_4_w"]
    titles = [ax.get_title() for ax in figure.axes]
    assert titles == [f"{count} steps: 100 % below" for count in (10, 100, 500)]
    own = [row for row in rows if row["phase"] == "fine_tuned" and row["criterion"] == "abs_mrs"]
    expected = {r["penalty"]["100"] for r in own if r["replacement"] == "zero"}
    points = figure.axes[1].collections[-1].get_offsets()
    assert {x for x, _ in points} == expected
    assert set(labels(figure)) == {"random", "weight norm", "|RS|", "|MRS|", "y = x"}


def test_figure_5_draws_the_profiles(rows, drawn):
    (ax,) = drawn["figure_5_w"].axes
    found, own = curves(ax), settings(rows)
    methods = [(c, r) for c in PENALTIES for r in ("zero", "mean")]
    costs = [[row["penalty"][c][r] for row in own] for c, r in methods]
    taus = np.linspace(0, 1, 201)
    for method, shares in zip(methods, profile(costs, taus), strict=True):
        np.testing.assert_allclose(found[look(*method)], np.transpose([taus, shares]))
    assert ax.get_ylabel() == f"share of {len(own)} settings"


def test_figure_6_has_all_units_and_those_chosen(drawn):
    every, removed = drawn["figure_6_w"].axes
    assert sum(patch.get_height() for patch in every.patches) == pytest.approx(1)
    assert len(removed.patches) == 4
    assert set(labels(drawn["figure_6_w"])) == {"all units", "RS", "MRS", "|RS|", "|MRS|"}


@pytest.mark.parametrize("squares", [np.zeros, lambda size: np.arange(size) % 3 / 2.0])
def test_units_that_are_never_active_are_drawn(work, squares):
    every = figures.mean_replacement(run(work, squares=squares))["figure_6_w"].axes[0]
    heights = [patch.get_height() for patch in every.patches]
    assert sum(heights) == pytest.approx(1)
    assert heights[0] >= np.mean(squares(20) == 0)


def test_figure_7_ends_at_the_units_ever_selected(rows, drawn):
    (ax,) = drawn["figure_7_w"].axes
    own = [row for row in rows if row["phase"] == "selected"]
    for criterion in ("random", "abs_rs"):
        shares = []
        for seed in (1, 2, 3):
            of_seed = [set(row["units"][criterion]) for row in own if row["seed"] == seed]
            shares.append(len(set.union(*of_seed)) / 20)
        assert curves(ax)[look(criterion, "mean")][-1] == pytest.approx([1000, np.mean(shares)])
    assert labels(drawn["figure_7_w"]) == LABELS


def test_figure_8_has_a_panel_a_layer_set(rows, work, drawn):
    axes = [ax for ax in drawn["figure_8_w"].axes if ax.get_title()]
    assert [ax.get_title() for ax in axes] == list(work.settings["layers"])
    ticks = [tick.get_text() for tick in axes[-1].get_xticklabels()]
    assert ticks == ["one", "5", "10", "20", "50"]
    own = settings(rows, layers="lastconv", fraction=0.2)
    expected = np.mean([row["penalty"]["rs"]["zero"] for row in own])
    assert dict(curves(axes[3])[look("rs", "zero")])[3] == pytest.approx(expected)
    assert labels(drawn["figure_8_w"]) == LABELS + BOTH


def test_a_fraction_that_removes_no_unit_has_no_point(work):
    work = small(fractions=(0.05, 0.1))
    axes = figures.mean_replacement(run(work))["figure_8_w"].axes
    assert [len(curves(ax)[look("rs", "zero")]) for ax in axes[:3]] == [2, 1, 2]


def test_figure_9_has_the_areas_of_each_layer_set(rows, drawn):
    (ax,) = drawn["figure_9_w"].axes
    assert len(ax.containers) == 5 * 12
    own = [measured.method_areas(settings(rows, layers="all", seed=seed)) for seed in (1, 2, 3)]
    heights = [container[0].get_ydata()[0] for container in ax.containers[:12]]
    expected = [np.mean([area[method] for area in own]) for method in own[0]]
    np.testing.assert_allclose(heights, expected)
    assert set(labels(drawn["figure_9_w"])) == {*LABELS, *BOTH}


def test_any_beginning_of_a_run_is_drawn(rows):
    order = np.random.default_rng(0).permutation(len(rows))
    for count in (0, 2, 42, 300):
        for part in (rows[:count], [rows[i] for i in order[:count]]):
            for figure in figures.mean_replacement(part).values():
                rendered(figure)


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_penalties_that_are_not_finite_are_left_out(work, bad):
    def changed(unit, steps=None):
        return bad if unit["criterion"] == "abs_rs" and unit["seed"] == 1 else penalty(unit)

    found = figures.mean_replacement(run(work, penalty=changed, tuned=changed))
    assert len(found) == 8 and all(rendered(found[f"figure_{n}_w"]) for n in (3, 4, 9))
    assert len(found["figure_3_w"].axes[0].collections[0].get_offsets()) == 2 / 3 * 288


def test_penalties_of_all_sizes_and_both_signs_are_drawn(work):
    draw = np.random.default_rng(0)
    found = figures.mean_replacement(
        run(work, penalty=lambda unit: draw.choice([-0.1, 1]) * 10.0 ** draw.uniform(-6, 1))
    )
    for number in (2, 3, 8):
        figure = found[f"figure_{number}_w"]
        assert {ax.get_yscale() for ax in figure.axes} == {"symlog"}
        assert rendered(figure)


def test_a_criterion_without_a_style_of_its_own_is_drawn():
    work = small(criteria=("random", "mine"), fine_tuning=workload().settings["fine_tuning"])
    work.settings["fine_tuning"] |= {"criteria": ("random", "mine")}

    def mine(unit, steps=None):
        return 0.2 if unit["criterion"] == "mine" else penalty(unit)

    rows = run(
        work,
        penalty=mine,
        tuned=mine,
        chosen=lambda criterion, draw, count, size: list(range(count)),
    )
    found = figures.mean_replacement(rows)
    assert all("mine" in labels(found[f"figure_{n}_w"]) for n in (2, 4, 5, 7, 8, 9))


def test_the_same_rows_give_the_same_bytes(rows):
    first, again = figures.mean_replacement(rows), figures.mean_replacement(rows)
    for name in ("figure_3_w", "figure_9_w"):
        assert rendered(first[name]) == rendered(again[name])
