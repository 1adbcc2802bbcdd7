"""Figures 2 to 9 of made-up rows: what is drawn where, and that parts of a run can be drawn too."""

import math

import numpy as np
import pytest
from matplotlib.figure import Figure
from mean_replacement_rows import PENALTIES, penalty, run, workload
from reading_figures import curve, labels, panels, rendered

from pruning_jax import figures
from pruning_jax.measurements import mean_replacement as measured
from pruning_jax.measurements.profiles import profile

NUMBERS = range(2, 10)
LABELS = ["random", "weight norm", "RS", "MRS", "|RS|", "|MRS|"]
LAYERS = ["all", "firstconv", "midconv", "lastconv", "firstdense"]
CELLS = "settings in a cell"
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


def look(criterion, replacement):
    """The label and the line of a method's curve."""
    label = dict(zip(PENALTIES, LABELS, strict=True)).get(criterion, criterion)
    return label, {"zero": "--", "mean": "-"}[replacement]


def settings(rows, **columns):
    found = [row for row in rows if row["phase"] == "probed" and sum(row["removed"].values())]
    return [row for row in found if all(row[name] == of for name, of in columns.items())]


def test_a_workload_has_eight_figures(rows, drawn):
    assert set(drawn) == {f"figure_{number}_w" for number in NUMBERS}
    assert all(isinstance(figure, Figure) and rendered(figure) for figure in drawn.values())
    both = figures.mean_replacement(rows + run(small("other", seeds=1)))
    assert set(both) == {f"figure_{n}_{name}" for n in NUMBERS for name in ("w", "other")}


def test_every_figure_says_of_how_many_seeds_it_is(drawn):
    assert all("n = 3 seeds" in figure.get_suptitle() for figure in drawn.values())
    assert all(ax.get_xlabel() for ax in drawn["figure_9_w"].axes)


def test_figure_2_has_a_curve_a_method_of_means_over_seeds(rows, drawn):
    (ax,) = drawn["figure_2_w"].axes
    assert labels(drawn["figure_2_w"]) == LABELS + BOTH
    for criterion, replacement in (("abs_rs", "mean"), ("mrs", "zero")):
        points = curve(ax, *look(criterion, replacement))
        assert list(points) == [250, 500, 750, 1000]
        for step, height in points.items():
            own = settings(rows, layers="midconv", fraction=0.1, step=step)
            costs = [row["penalty"][criterion][replacement] for row in own]
            assert len(costs) == 3 and height == pytest.approx(np.mean(costs))


def cells(ax):
    """The counts of a panel's cells, and the edges of the cells."""
    mesh = ax.collections[0]
    return np.ma.filled(mesh.get_array(), 0), mesh.get_coordinates()


def test_figure_3_has_a_panel_a_criterion_and_counts_every_setting(rows, drawn):
    axes = panels(drawn["figure_3_w"])
    assert list(axes) == [f"{label}\n100 % below (100 to 100)" for label in LABELS]
    own = [row["penalty"]["abs_rs"] for row in settings(rows)]
    counts, edges = cells(axes["|RS|\n100 % below (100 to 100)"])
    assert counts.sum() == len(own)
    x, y = edges[0, :, 0], edges[:, 0, 1]
    for both in own[::50]:
        row = min(np.searchsorted(y, both["mean"], side="right") - 1, len(y) - 2)
        column = min(np.searchsorted(x, both["zero"], side="right") - 1, len(x) - 2)
        assert counts[row, column] >= 1
    line = drawn["figure_3_w"].axes[0].lines[-1].get_xydata()
    np.testing.assert_array_equal(line[:, 0], line[:, 1])
    assert drawn["figure_3_w"].axes[-1].get_ylabel() == "settings in a cell"


def test_the_share_below_is_of_seeds_and_within_its_bounds(work):
    def mixed(unit):
        worse = unit["replacement"] == "mean" and unit["step"] <= 250 * (unit["seed"] == 1)
        return penalty(unit) * (3 if worse else 1)

    figure = figures.mean_replacement(run(work, penalty=mixed))["figure_3_w"]
    shares = np.array([75, 100, 100])
    low = shares.mean() - 4.302653 * shares.std(ddof=1) / np.sqrt(3)
    assert list(panels(figure))[0] == f"random\n92 % below ({low:.0f} to 100)"


def test_figure_4_has_a_panel_for_each_criterion_and_number_of_steps(rows, drawn):
    axes = panels(drawn["figure_4_w"])
    criteria = ("random", "weight norm", "|RS|", "|MRS|")
    grid = [f"{name}, {count} steps" for name in criteria for count in (10, 100, 500)]
    assert [title.split("\n")[0] for title in axes] == grid
    assert all("100 % below" in title for title in axes)
    own = [row for row in rows if row["phase"] == "fine_tuned" and row["criterion"] == "abs_mrs"]
    assert cells([*axes.values()][-1])[0].sum() == len(own) / 2


def test_figure_5_draws_the_profiles(rows, drawn):
    (ax,) = drawn["figure_5_w"].axes
    own = settings(rows)
    methods = [(c, r) for c in PENALTIES for r in ("zero", "mean")]
    costs = [[row["penalty"][c][r] for row in own] for c, r in methods]
    taus = np.linspace(0, 1, 201)
    for method, shares in zip(methods, profile(costs, taus), strict=True):
        found = curve(ax, *look(*method))
        np.testing.assert_allclose([*found.values()], shares, atol=1e-12)
    assert f"{len(own)} settings" in drawn["figure_5_w"].get_suptitle()


def test_figure_6_has_all_units_and_those_chosen(drawn):
    every, removed = drawn["figure_6_w"].axes
    assert sum(every.patches[0].get_data().values) == pytest.approx(1)
    assert len(removed.patches) == 4 and removed.get_xscale() == "log"
    assert set(labels(drawn["figure_6_w"])) == {"all units", "RS", "MRS", "|RS|", "|MRS|"}


@pytest.mark.parametrize("squares", [np.zeros, lambda size: np.arange(size) % 3 / 2.0])
def test_units_that_are_never_active_are_drawn(work, squares):
    every = figures.mean_replacement(run(work, squares=squares))["figure_6_w"].axes[0]
    heights = every.patches[0].get_data().values
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
        found = curve(ax, look(criterion, "mean")[0])
        assert found[1000] == pytest.approx(np.mean(shares)) and max(found) == 1000
    assert labels(drawn["figure_7_w"]) == LABELS


def test_figure_8_has_a_panel_a_layer_set(rows, work, drawn):
    axes = [ax for ax in drawn["figure_8_w"].axes if ax.get_title()]
    assert [ax.get_title() for ax in axes] == list(work.settings["layers"])
    ticks = [tick.get_text() for tick in axes[-1].get_xticklabels()]
    assert ticks == ["one", "5", "10", "20", "50"]
    own = settings(rows, layers="lastconv", fraction=0.2)
    expected = np.mean([row["penalty"]["rs"]["zero"] for row in own])
    assert curve(axes[3], *look("rs", "zero"))[3] == pytest.approx(expected)
    assert labels(drawn["figure_8_w"]) == LABELS + BOTH


def test_a_fraction_that_removes_no_unit_has_no_point(work):
    work = small(fractions=(0.05, 0.1))
    axes = figures.mean_replacement(run(work))["figure_8_w"].axes
    assert [len(curve(ax, *look("rs", "zero"))) for ax in axes[:3]] == [2, 1, 2]


def test_figure_9_has_the_areas_of_each_layer_set(rows, drawn):
    (ax,) = drawn["figure_9_w"].axes
    own = [measured.method_areas(settings(rows, layers="all", seed=seed)) for seed in (1, 2, 3)]
    marks = {(c[0].get_label(), c[0].get_markerfacecolor() != "white"): c for c in ax.containers}
    assert len(marks) == 12
    for criterion, replacement in own[0]:
        areas = [area[criterion, replacement] for area in own]
        mark = marks[look(criterion, "mean")[0], replacement == "mean"]
        assert mark[0].get_ydata()[0] == pytest.approx(np.mean(areas))
        low, high = mark[2][0].get_segments()[0][:, 1]
        half = 4.302653 * np.std(areas, ddof=1) / np.sqrt(3)
        assert [low, high] == pytest.approx(np.clip(np.mean(areas) + [-half, half], 0, 1))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == LAYERS
    assert set(labels(drawn["figure_9_w"])) == {*LABELS, *BOTH}


def test_any_beginning_of_a_run_is_drawn(rows):
    order = np.random.default_rng(0).permutation(len(rows))
    for part in (rows[:0], rows[:42], [rows[i] for i in order[:2]], [rows[i] for i in order[:99]]):
        for figure in figures.mean_replacement(part).values():
            figure.draw_without_rendering()


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_penalties_that_are_not_finite_are_left_out(work, bad):
    def changed(unit, steps=None):
        return bad if unit["criterion"] == "abs_rs" and unit["seed"] == 1 else penalty(unit)

    found = figures.mean_replacement(run(work, penalty=changed, tuned=changed))
    assert len(found) == 8 and all(rendered(found[f"figure_{n}_w"]) for n in (3, 4, 9))
    assert cells(found["figure_3_w"].axes[0])[0].sum() == 2 / 3 * 288


def test_penalties_of_all_sizes_and_both_signs_are_drawn(work):
    draw = np.random.default_rng(0)
    found = figures.mean_replacement(
        run(work, penalty=lambda unit: draw.choice([-0.1, 1]) * 10.0 ** draw.uniform(-6, 1))
    )
    for number in (2, 3, 8):
        figure = found[f"figure_{number}_w"]
        assert {ax.get_yscale() for ax in figure.axes if ax.get_ylabel() != CELLS} == {"symlog"}
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
    assert all("mine" in labels(found[f"figure_{n}_w"]) for n in (2, 5, 7, 8, 9))
    for number in (3, 4):
        assert any("mine" in title for title in panels(found[f"figure_{number}_w"]))


def test_the_same_rows_give_the_same_bytes(rows):
    first, again = figures.mean_replacement(rows), figures.mean_replacement(rows)
    for name in ("figure_3_w", "figure_9_w"):
        assert rendered(first[name]) == rendered(again[name])
