"""Figures of made-up rows: what is drawn where, and that parts of a run can be drawn too."""

import io
import itertools

import narrow_networks
import numpy as np
import pytest
from loss_modelling_rows import ERROR_GAPS, LOSS_GAPS, built, run, workload
from matplotlib.figure import Figure

from pruning_jax import figures, measurements, units
from pruning_jax.studies.loss_modelling import select
from pruning_jax.studies.loss_modelling.claims import PUBLISHED

KINDS = ("step_penalty", "stages", "fine_tuning", "early_stopping")


def labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def lines(ax, label):
    """The points of the error-bar lines that have a label."""
    found = [container for container in ax.containers if container.get_label() == label]
    return [dict(zip(*container[0].get_data(), strict=True)) for container in found]


def rendered(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    return buffer.getvalue()


def drawn(work, rows):
    tuning = {work.name: work.settings["tuning_seeds"]}
    return figures.loss_modelling(rows, published=PUBLISHED, tuning_seeds=tuning)


@pytest.fixture(scope="module")
def work():
    return workload(seeds=3)


@pytest.fixture(scope="module")
def rows(work):
    return run(work)


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


def test_accuracy_by_sparsity_draws_means_in_percent():
    figure = figures.accuracy_by_sparsity(comparison())
    before, after = figure.axes
    (points,) = lines(before, "magnitude (MP)")
    assert points == {0: pytest.approx(66.5), 1: pytest.approx(46.5)}
    assert lines(after, "mine") == [{0: pytest.approx(91.5), 1: pytest.approx(91.5)}]
    dense = next(line for line in before.lines if line.get_label() == "dense")
    assert dense.get_ydata()[0] == pytest.approx(96.5)
    assert [tick.get_text() for tick in before.get_xticklabels()] == ["50", "90"]
    assert set(labels(figure)) == {"magnitude (MP)", "random", "mine", "dense"}


@pytest.mark.parametrize("seeds", [(1,), (1, 2)])
def test_bars_are_standard_deviations_over_seeds(seeds):
    figure = figures.accuracy_by_sparsity(comparison(seeds=seeds))
    container = next(c for c in figure.axes[0].containers if c.get_label() == "random")
    (low, high) = container[2][0].get_segments()[0][:, 1]
    expected = 2 * np.std([1, 2], ddof=1) if len(seeds) > 1 else 0
    assert high - low == pytest.approx(expected)


def test_a_criterion_without_a_style_of_its_own_is_drawn():
    assert "mine" in labels(figures.accuracy_by_sparsity(comparison(criteria=("mine",))))


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


def test_step_penalty_keeps_the_two_kinds_of_seeds_apart(work, rows):
    figure = drawn(work, rows)[f"step_penalty_{work.name}"]
    obd, linear, quadratic = figure.axes
    assert [ax.get_title() for ax in figure.axes] == ["OBD", "linear (LM)", "quadratic (QM)"]
    (tuning,) = lines(linear, "140 stages, tuning seeds")
    (test,) = lines(linear, "140 stages, test seeds")
    assert len(tuning) == 3 and len(test) == 2
    (one,) = lines(quadratic, "1 stage, test seeds")
    assert list(one) == [0, 1, 2] and min(one, key=one.get) == 1
    gaps = [
        row["penalty"]
        for row in rows
        if row["seed"] in work.settings["tuning_seeds"]
        and row.get("criterion") == "obd"
        and (row["stages"], row["step_penalty"], row["epoch"]) == (1, 0.01, "best")
    ]
    assert lines(obd, "1 stage, tuning seeds")[0][1] == pytest.approx(np.mean(gaps))


def test_stages_draws_the_selected_penalty_and_the_published_means(work, rows):
    figure = drawn(work, rows)[f"stages_{work.name}"]
    zero, selected = figure.axes
    assert lines(zero, "quadratic (QM)")[0][2] == pytest.approx(1.5 * 1.05, abs=0.05)
    assert lines(selected, "quadratic (QM)")[0][2] == pytest.approx(1.05, abs=0.05)
    (magnitude,) = lines(selected, "magnitude (MP)")
    assert list(magnitude) == [0, 1, 2] and len(set(magnitude.values())) == 1
    stars = [line for line in selected.lines if line.get_marker() == "*" and line.get_xdata().size]
    heights = [line.get_ydata()[0] for line in stars]
    assert heights == [LOSS_GAPS[name] for name in ERROR_GAPS]
    assert "published" in labels(figure)


def test_fine_tuning_has_a_point_a_seed_and_the_mean(work, rows):
    (ax,) = drawn(work, rows)[f"fine_tuning_{work.name}"].axes
    assert [len(points.get_offsets()) for points in ax.collections[:8]] == [3, 1] * 4
    seeds, mean = (points.get_offsets() for points in ax.collections[:2])
    np.testing.assert_allclose(seeds.mean(axis=0), mean[0])
    np.testing.assert_allclose(mean[0], [LOSS_GAPS["magnitude"], 2.4], atol=0.4)


def test_early_stopping_has_a_bar_for_each_epoch_and_criterion(work, rows):
    figure = drawn(work, rows)[f"early_stopping_{work.name}"]
    for ax in figure.axes:
        assert len(ax.patches) == 6
        assert [tick.get_text() for tick in ax.get_xticklabels()] == ["5", "100", "best"]
    assert labels(figure) == ["OBD", "quadratic (QM)"]
    assert figure.axes[1].patches[0].get_height() == pytest.approx(
        1.83 * 1.04 * 0.8 * 1.4, abs=0.05
    )


def test_any_beginning_of_a_run_is_drawn(work, rows):
    order = np.random.default_rng(0).permutation(len(rows))
    for count in range(0, len(rows), 97):
        for part in (rows[:count], [rows[i] for i in order[:count]]):
            for figure in drawn(work, part).values():
                rendered(figure)


def test_the_same_rows_give_the_same_bytes(work, rows):
    name = f"stages_{work.name}"
    assert rendered(drawn(work, rows)[name]) == rendered(drawn(work, rows)[name])


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
