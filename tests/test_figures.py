"""Figures of made-up rows: what is drawn where, and that parts of a run can be drawn too."""

import itertools

import narrow_networks
import numpy as np
import pandas
import pytest
from loss_modelling_rows import ERROR_GAPS, LOSS_GAPS, built, run, workload
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from reading_figures import curve, intervals, labels, pixels, rendered

from pruning_jax import figures, measurements, units
from pruning_jax.figures.looks import MARKERS, PALETTE
from pruning_jax.studies.loss_modelling import select
from pruning_jax.studies.loss_modelling.claims import PUBLISHED

KINDS = ("step_penalty", "stages", "fine_tuning", "early_stopping")
T_OF_2, T_OF_3 = 12.706205, 4.302653
"""Student's quantile .975 of one and of two degrees of freedom, from a printed table."""


def drawn(work, rows):
    tuning = {work.name: work.settings["tuning_seeds"]}
    return figures.loss_modelling(rows, published=PUBLISHED, tuning_seeds=tuning)


@pytest.fixture(scope="module")
def work():
    return workload(seeds=3)


@pytest.fixture(scope="module")
def rows(work):
    return run(work)


@pytest.fixture(scope="module")
def study(work, rows):
    return drawn(work, rows)


def comparison(criteria=("magnitude", "random", "mine"), sparsities=(0.5, 0.9), seeds=(1, 2)):
    rows = [
        {"phase": "pretrained", "workload": "c", "seed": seed, "test_accuracy": 0.95 + 0.01 * seed}
        for seed in seeds
    ]
    units = itertools.product(seeds, criteria, sparsities, ("pruned", "retrained"))
    for seed, criterion, sparsity, phase in units:
        unit = {"workload": "c", "seed": seed, "criterion": criterion, "sparsity": sparsity}
        accuracy = 0.9 - 0.5 * sparsity * (phase == "pruned") + 0.01 * seed
        rows.append(unit | {"phase": phase, "test_accuracy": accuracy})
    return rows


def swept(values, **columns):
    """A table of one curve at one place, a value a seed."""
    rows = [{"seed": seed, "x": 1.0, "y": y, "of": "a"} for seed, y in enumerate(values)]
    return pandas.DataFrame([row | columns for row in rows])


SWEEP = figures.Sweep("x", "y", "of")


def test_a_bar_is_the_interval_of_the_mean_and_the_figure_says_so():
    figure = figures.curves(swept([1.0, 2.0, 4.0]), SWEEP, "what")
    half = T_OF_3 * np.std([1, 2, 4], ddof=1) / np.sqrt(3)
    assert intervals(figure.axes[0], "a")[1] == pytest.approx((7 / 3 - half, 7 / 3 + half))
    text = "what\nmean and its 95 % interval (Student's t), n = 3 seeds"
    assert figure.get_suptitle() == text


def test_a_bar_stays_within_what_a_mean_can_be():
    half = T_OF_2 * np.std([10, 20], ddof=1) / np.sqrt(2)
    for within, low in (((0, 100), 0), ((-np.inf, np.inf), 15 - half), ((0, np.inf), 0)):
        sweep = SWEEP._replace(within=within)
        found = intervals(figures.curves(swept([10.0, 20.0]), sweep).axes[0], "a")[1]
        assert found == pytest.approx((low, min(15 + half, within[1])))


def test_one_seed_has_no_bar_and_the_figure_says_so():
    figure = figures.curves(swept([1.0]), SWEEP)
    assert not intervals(figure.axes[0], "a") and curve(figure.axes[0], "a") == {1: 1}
    assert figure.get_suptitle() == "n = 1 seed, so no interval"


def test_several_rows_of_a_seed_are_one_observation():
    several = pandas.concat([swept([1.0, 2.0, 4.0]), swept([3.0, 2.0, 0.0])])
    figure = figures.curves(several, SWEEP)
    assert intervals(figure.axes[0], "a")[1] == pytest.approx((2, 2))
    assert "n = 3 seeds" in figure.get_suptitle()


def test_a_curve_of_many_places_has_a_band():
    values = np.random.default_rng(0).normal(size=(3, 40))
    rows = [
        {"seed": seed, "x": x, "y": y, "of": "a"}
        for seed, heights in enumerate(values)
        for x, y in enumerate(heights)
    ]
    (ax,) = figures.curves(pandas.DataFrame(rows), SWEEP).axes
    edge = ax.collections[0].get_paths()[0].vertices
    half = T_OF_3 * values[:, 7].std(ddof=1) / np.sqrt(3)
    for end in (-half, half):
        assert np.isclose(edge, [7, values[:, 7].mean() + end]).all(axis=1).any()


def test_numbers_of_seeds_that_differ_are_told():
    table = pandas.concat([swept([1.0, 2.0]), swept([1.0, 2.0, 3.0], of="b")])
    assert "n = 2 to 3 seeds" in figures.curves(table, SWEEP).get_suptitle()


def test_heights_that_are_not_finite_are_left_out():
    figure = figures.curves(swept([1.0, np.nan, 3.0, np.inf]), SWEEP)
    assert curve(figure.axes[0], "a") == {1: 2} and "n = 2 seeds" in figure.get_suptitle()


def test_a_column_that_is_missing_is_named():
    with pytest.raises(ValueError, match="no column 'z'; its columns are 'seed', 'x', 'y', 'of'"):
        figures.curves(swept([1.0]), SWEEP._replace(y="z"))
    look = {"panel": "of", "labels": ("x", "y"), "title": "what"}
    with pytest.raises(ValueError, match="no column 'z'"):
        figures.density(swept([1.0]), "x", "z", **look)
    with pytest.raises(ValueError, match="no row"):
        figures.density(swept([1.0])[:0], "x", "y", **look)


@pytest.mark.parametrize("count", [2, 3])
def test_curves_that_coincide_are_all_seen(count):
    rows = [
        {"seed": seed, "x": x, "y": x, "of": name}
        for seed, x, name in itertools.product((1, 2), (1.0, 2.0, 3.0), "abc"[:count])
    ]
    figure = figures.curves(pandas.DataFrame(rows), SWEEP)
    ax, image = figure.axes[0], pixels(figure)
    box = ax.bbox.extents.astype(int)
    inside = image[box[1] : box[3], box[0] : box[2]]
    for line in ax.lines:
        colour = to_rgb(line.get_color())
        assert (np.abs(inside - colour).max(axis=-1) < 0.02).sum() > 200


LMS = np.array(
    [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
)
DEUTERANOPIA = np.array([[1, 0, 0], [0.494207, 0, 1.24827], [0, 0, 1]])
PROTANOPIA = np.array([[0, 2.02344, -2.52581], [0, 1, 0], [0, 0, 1]])
"""Vienot, Brettel and Mollon (1999): RGB -> LMS, and what a dichromat's cones see of it."""
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def cielab(colours, cones):
    rgb = np.array([to_rgb(colour) for colour in colours])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ (np.linalg.inv(LMS) @ cones @ LMS).T, 0, 1)
    ratios = seen @ XYZ.T / XYZ.sum(axis=1)
    f = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.T
    return np.transpose([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("cones", [np.eye(3), DEUTERANOPIA, PROTANOPIA])
def test_any_two_colours_are_told_apart(cones):
    places = cielab(PALETTE, cones)
    for one, other in itertools.combinations(range(len(PALETTE)), 2):
        assert np.linalg.norm(places[one] - places[other]) > 25, (PALETTE[one], PALETTE[other])
    assert len(set(MARKERS)) == len(PALETTE)


def test_the_simulation_sees_what_it_should():
    red, green = cielab(["#A00000", "#5F5F00"], DEUTERANOPIA)
    assert (
        np.linalg.norm(red - green)
        < 20
        < 60
        < np.linalg.norm(np.subtract(*cielab(["#A00000", "#5F5F00"], np.eye(3))))
    )
    np.testing.assert_allclose(cielab(["white", "black"], np.eye(3))[:, 0], [100, 0], atol=0.1)


def test_accuracy_by_sparsity_draws_means_in_percent():
    figure = figures.accuracy_by_sparsity(comparison())
    before, after = figure.axes
    assert curve(before, "magnitude (MP)") == {0: pytest.approx(66.5), 1: pytest.approx(46.5)}
    assert curve(after, "mine") == {0: pytest.approx(91.5), 1: pytest.approx(91.5)}
    assert curve(before, "dense")[0] == pytest.approx(96.5)
    assert [tick.get_text() for tick in before.get_xticklabels()] == ["50", "90"]
    assert set(labels(figure)) == {"magnitude (MP)", "random", "mine", "dense"}
    assert "n = 2 seeds" in figure.get_suptitle() and "(%" in before.get_xlabel()


def test_two_seeds_give_no_accuracy_beyond_100():
    rows = [row | {"test_accuracy": 1.0 - 0.1 * (row["seed"] == 2)} for row in comparison()]
    figure = figures.accuracy_by_sparsity(rows)
    assert intervals(figure.axes[1], "random")[0] == pytest.approx((95 - T_OF_2 * 5, 100))


def test_criteria_without_a_style_of_their_own_differ():
    figure = figures.accuracy_by_sparsity(comparison(criteria=("mine", "yours", "magnitude")))
    assert {"mine", "yours"} <= set(labels(figure))
    colours = {to_hex(line.get_color()) for line in figure.axes[0].lines if line.get_marker()}
    lines = [line for line in figure.axes[0].lines if line.get_label() in labels(figure)]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 4 and colours


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5])
def test_part_of_a_comparison_is_drawn(count):
    assert rendered(figures.accuracy_by_sparsity(comparison()[:count]))


def test_the_study_has_four_figures_a_workload(work, rows):
    other = workload("other", seeds=2, stages=(1, 14), early_epochs=())
    tuning = dict.fromkeys((work.name, other.name), work.settings["tuning_seeds"])
    found = figures.loss_modelling(rows + run(other), tuning_seeds=tuning)
    expected = {f"{kind}_{work.name}" for kind in KINDS}
    assert set(found) == expected | {f"{kind}_other" for kind in KINDS[:3]}
    assert all(isinstance(figure, Figure) and rendered(figure) for figure in found.values())


def test_step_penalty_keeps_the_two_kinds_of_seeds_apart(work, rows, study):
    figure = study[f"step_penalty_{work.name}"]
    obd, linear, quadratic = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["OBD", "linear (LM)", "quadratic (QM)"]
    assert (
        len(curve(linear, "140 stages", "--")) == 3 and len(curve(linear, "140 stages", "-")) == 2
    )
    one = curve(quadratic, "1 stage", "-")
    assert list(one) == [0, 1, 2] and min(one, key=one.get) == 1
    gaps = [
        row["penalty"]
        for row in rows
        if row["seed"] in work.settings["tuning_seeds"]
        and row.get("criterion") == "obd"
        and (row["stages"], row["step_penalty"], row["epoch"]) == (1, 0.01, "best")
    ]
    assert curve(obd, "1 stage", "--")[1] == pytest.approx(np.mean(gaps))
    assert {"tuning seeds", "test seeds"} < set(labels(figure))
    assert "n = 2 to 3 seeds" in figure.get_suptitle()


def test_a_line_does_not_cross_a_place_without_a_value(study, work):
    (line,) = [
        line
        for line in study[f"step_penalty_{work.name}"].axes[1].lines
        if (line.get_label(), line.get_linestyle()) == ("140 stages", "-")
    ]
    assert len(line.get_xdata()) == np.ptp(line.get_xdata()) + 1


def test_stages_draws_the_selected_penalty_and_the_published_means(work, study):
    figure = study[f"stages_{work.name}"]
    zero, selected = figure.axes
    assert curve(zero, "quadratic (QM)")[2] == pytest.approx(1.5 * 1.05, abs=0.05)
    assert curve(selected, "quadratic (QM)")[2] == pytest.approx(1.05, abs=0.05)
    magnitude = curve(selected, "magnitude (MP)")
    assert list(magnitude) == [0, 1, 2] and len({round(of, 9) for of in magnitude.values()}) == 1
    stars = [line for line in selected.lines if line.get_marker() == "*" and line.get_xdata().size]
    heights = [line.get_ydata()[0] for line in stars if line.get_label() not in labels(figure)]
    assert heights == [LOSS_GAPS[name] for name in ERROR_GAPS]
    assert "stars: the paper's means" in figure.get_suptitle()


def test_fine_tuning_has_a_point_a_seed_and_the_mean(work, study):
    figure = study[f"fine_tuning_{work.name}"]
    (ax,) = figure.axes
    seeds, mean = ax.lines[0].get_xydata(), ax.containers[0][0].get_xydata()
    assert len(seeds) == 3 and len(ax.containers) == 4
    np.testing.assert_allclose(seeds.mean(axis=0), mean[0])
    np.testing.assert_allclose(mean[0], [LOSS_GAPS["magnitude"], 2.4], atol=0.4)
    across, up = (bars.get_segments()[0] for bars in ax.containers[0][2])
    half = T_OF_3 * seeds.std(axis=0, ddof=1) / np.sqrt(3)
    assert np.ptp(across[:, 0]) == pytest.approx(2 * half[0])
    assert np.ptp(up[:, 1]) == pytest.approx(2 * half[1]) and "n = 3" in figure.get_suptitle()


def test_early_stopping_has_a_bar_for_each_epoch_and_criterion(work, study):
    figure = study[f"early_stopping_{work.name}"]
    for ax in figure.axes:
        assert len(ax.patches) == 6 and ax.get_ylim()[0] == 0
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["5", "100", "best"]
    assert labels(figure) == ["OBD", "quadratic (QM)"]
    assert figure.axes[1].patches[0].get_height() == pytest.approx(
        1.83 * 1.04 * 0.8 * 1.4, abs=0.05
    )


def test_any_beginning_of_a_run_is_drawn(work, rows):
    order = np.random.default_rng(0).permutation(len(rows))
    for count in (*range(0, 30, 7), len(rows) // 3, len(rows) - 10):
        for part in (rows[:count], [rows[i] for i in order[:count]]):
            for figure in drawn(work, part).values():
                figure.draw_without_rendering()


def test_the_same_rows_give_the_same_bytes(work, rows, study):
    name = f"stages_{work.name}"
    assert rendered(study[name]) == rendered(drawn(work, rows)[name])


def test_the_penalties_drawn_are_those_the_study_selects(work, rows):
    tuning = [row for row in rows if row["seed"] in work.settings["tuning_seeds"]]
    choice = measurements.best_penalties(measurements.where(tuning, phase="pruned"))
    assert choice
    for (epoch, criterion, stages), penalty in choice.items():
        assert select(rows, built(work), criterion, epoch, [stages]) == (stages, penalty)


@pytest.mark.parametrize("most, scale", [(9.0, "linear"), (30.0, "log")])
def test_gaps_of_many_sizes_have_a_logarithmic_axis(work, rows, most, scale):
    changed = [dict(row) for row in rows]
    for row in changed:
        if row.get("criterion") == "obd" and row["epoch"] == "best" and row["stages"] == 1:
            row["penalty"] = most
    for kind in ("step_penalty", "stages"):
        figure = drawn(work, changed)[f"{kind}_{work.name}"]
        assert {ax.get_yscale() for ax in figure.axes} == {scale}
        assert rendered(figure)


def test_the_sides_of_a_forest_plot_are_told():
    effects = [figures.Effect("A1 w  a", 2.0, "agrees", False)]
    (ax,) = figures.forest([*effects, figures.Effect("B", -1.0, "undecided", True)]).axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["A1 w  a", "B"]
    bars = [line.get_xdata() for line in ax.lines if len(line.get_xdata()) == 2]
    assert [list(bar) for bar in bars[:2]] == [[1, 3], [-2, 0]]
    assert "95 % interval" in ax.get_xlabel() and "right: as claimed" in ax.get_xlabel()


STREAM = [
    ("inputs", "inputs", 3, "stem", False),
    ("stem", "stem", 1600, "first", True),
    ("stem", "stem", 1600, "head", True),
    ("first", "first", 8, "second", True),
    ("second", "stem", 1600, "head", True),
    ("head", "head", 10, "outputs", False),
]


def test_the_unit_graph_has_a_box_a_layer_and_a_size_a_space():
    figure = figures.unit_graph(STREAM)
    (ax,) = figure.axes
    texts = {text.get_text(): text for text in ax.texts if text.get_text()}
    layers = ["inputs", "stem", "first", "second", "head", "outputs"]
    assert sorted(texts) == sorted([*layers, "3", "8", "10", "1,600"])
    heights = [texts[layer].get_position()[1] for layer in layers]
    assert heights == sorted(heights, reverse=True) and len(ax.patches) == len(layers)
    grey = texts["3"].get_color()
    assert texts["10"].get_color() == grey
    assert grey not in (texts["8"].get_color(), texts["1,600"].get_color())
    makers = [y for line in ax.lines if line.get_marker() == "o" for y in line.get_ydata()]
    assert len(makers) == 2, "stem and second add to the stream"
    arrows = [text.xy for text in ax.texts if not text.get_text()]
    assert sum(x == 0 for x, _ in arrows) == 3 and sum(x > 0 for x, _ in arrows) == 2
    assert rendered(figure) == rendered(figures.unit_graph(STREAM))


def test_spaces_side_by_side_do_not_run_over_each_other():
    edges = [(a, a, 4, c, True) for a, c in [("a", "c"), ("b", "d"), ("c", "e"), ("d", "e")]]
    (ax,) = figures.unit_graph([("a", "x", 4, "b", True), *edges]).axes
    lanes = [lines for lines in ax.collections if len({x for x, _ in lines.get_segments()[0]}) == 1]
    spans = [(c.get_segments()[0][0, 0], sorted(c.get_segments()[0][:, 1])) for c in lanes]
    for i, (x, (low, high)) in enumerate(spans):
        for other_x, (other_low, other_high) in spans[:i]:
            assert x != other_x or high < other_low or other_high < low


def test_the_unit_graph_of_a_real_network_and_of_none():
    graph = narrow_networks.graph("residual")
    assert units.edges(graph) == [
        ("inputs", "inputs", 3, "params/Conv_0", False),
        ("params/Conv_0", "params/Conv_0", 6, "params/Conv_1", True),
        ("params/Conv_0", "params/Conv_0", 6, "params/Dense_0", True),
        ("params/Conv_2", "params/Conv_0", 6, "params/Dense_0", True),
        ("params/Conv_1", "params/Conv_1", 5, "params/Conv_2", True),
        ("params/Dense_0", "params/Dense_0", 4, "outputs", False),
    ]
    assert rendered(figures.unit_graph(units.edges(graph)))
    with pytest.raises(ValueError, match="no edges"):
        figures.unit_graph([])
