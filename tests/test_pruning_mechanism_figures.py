"""Figures 1 to 6 of made-up rows: what is drawn where, and that parts of a run can be drawn too."""

import io

import numpy as np
import pruning_mechanism_rows as made_up
import pytest
from matplotlib.figure import Figure

from pruning_jax import figures
from pruning_jax.measurements import pruning_mechanism as measured
from pruning_jax.measurements.landscape import interval
from pruning_jax.studies.pruning_mechanism.claims import PUBLISHED

OF_RESNET8 = [f"figure_{kind}_w" for kind in ("1", "3", "4", "5", "6", "6_kept", "6_barriers")]
BLACK, BLUE, ORANGE, GREEN = "#000000", "#0072B2", "#D55E00", "#009E73"


@pytest.fixture(scope="module")
def rows():
    found = made_up.run(made_up.workload(seeds=3))
    return [row | {"workload": "w"} for row in found]


@pytest.fixture(scope="module")
def early():
    return made_up.run(made_up.workload("small_conv", seeds=3))


@pytest.fixture(scope="module")
def drawn(rows, early):
    return figures.pruning_mechanism(rows + early, published=PUBLISHED)


def rendered(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=30)
    return buffer.getvalue()


def labels(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def curve(ax, colour, line="-"):
    """The points of the one line of a colour, without those of the legend alone."""
    lines = [one for one in ax.lines if len(one.get_xdata()) and one.get_linestyle() == line]
    (found,) = [one.get_xydata() for one in lines if one.get_color() == colour]
    return {round(float(x), 9): y for x, y in found}


def of_seeds(rows, column, **columns):
    found = [row for row in rows if all(row.get(name) == value for name, value in columns.items())]
    assert len(found) == 3
    return np.array([row[column] for row in found], dtype=float)


def test_each_workload_has_its_figures(drawn):
    assert set(drawn) == {*OF_RESNET8, "accuracies_w", "figure_2_small_conv"}
    assert all(isinstance(figure, Figure) and rendered(figure) for figure in drawn.values())


def test_titles_tell_of_how_many_seeds_a_figure_is(drawn, early):
    for name in ("figure_1_w", "figure_3_w", "accuracies_w", "figure_2_small_conv"):
        assert "95 % interval of 3 seeds" in drawn[name].get_suptitle()
    one = figures.pruning_mechanism([row for row in early if row["seed"] == 1])
    assert "one seed" in one["figure_2_small_conv"].get_suptitle()
    assert not one["figure_2_small_conv"].axes[0].collections


def test_figure_1_has_the_range_at_random_and_the_bands(rows, drawn):
    random, by_band, utility = drawn["figure_1_w"].axes
    dense = {"phase": "utility", "network": "dense", "among": 1.0, "epoch": "last"}
    means = curve(random, BLUE)
    for ratio in (0.05, 0.8):
        assert means[ratio] == pytest.approx(
            100 * of_seeds(rows, "accuracy_mean", **dense, ratio=ratio).mean()
        )
        edge = random.collections[0].get_paths()[0].vertices
        for end in ("minimum", "maximum"):
            mean = 100 * of_seeds(rows, f"accuracy_{end}", **dense, ratio=ratio).mean()
            assert np.isclose(edge, [ratio, mean]).all(axis=1).any()
    accuracy = 100 * of_seeds(rows, "accuracy", phase="bands").mean(axis=0)
    np.testing.assert_allclose([*curve(by_band, ORANGE).values()], accuracy)
    nats = of_seeds(rows, "utility", phase="bands").mean(axis=0)
    assert curve(utility, ORANGE) == pytest.approx(dict(zip(range(1, 11), nats, strict=True)))
    assert "nothing removed" in labels(drawn["figure_1_w"])


def test_figure_2_follows_training_and_has_two_histograms(early, drawn):
    axes = drawn["figure_2_small_conv"].axes
    titles = ["mean", "standard deviation", "minimum", "maximum"]
    assert [ax.get_title() for ax in axes[:4]] == titles
    assert [ax.get_title() for ax in axes[4:]] == [f"5 % removed, epoch {e}" for e in (1, 30)]
    for ax, column in zip(axes, ("mean", "std", "minimum", "maximum"), strict=False):
        epochs = sorted({row["epoch"] for row in early if row["phase"] == "utility"})
        expected = {e: of_seeds(early, column, epoch=e, ratio=0.2).mean() for e in epochs}
        assert curve(ax, ORANGE) == pytest.approx(expected)
    heights = axes[5].patches[0].get_data().values
    assert heights.sum() == pytest.approx(100)
    assert labels(drawn["figure_2_small_conv"]) == [f"{r} % removed" for r in (5, 10, 20)]


def test_a_band_is_the_interval_of_the_mean(early, drawn):
    ax = drawn["figure_2_small_conv"].axes[0]
    edge = ax.collections[2].get_paths()[0].vertices
    _, low, high = interval(of_seeds(early, "mean", epoch=30, ratio=0.2))
    for end in (low, high):
        assert np.isclose(edge, [30, end]).all(axis=1).any()


def test_figure_3_has_own_ratios_beside_absolute_numbers(rows, drawn):
    axes = drawn["figure_3_w"].axes
    for line, column in ((axes[:2], "mean"), (axes[2:], "std")):
        for density, colour in ((0.5, BLUE), (0.25, ORANGE)):
            own = {"phase": "utility", "network": "small", "density": density, "schedules": 1}
            expected = {r: of_seeds(rows, column, **own, ratio=r).mean() for r in (0.05, 0.1, 0.8)}
            by_ratio, by_number = (curve(ax, colour) for ax in line)
            for ratio, mean in expected.items():
                assert by_ratio[ratio] == pytest.approx(mean)
                assert by_number[ratio * density] == pytest.approx(mean)
    assert labels(drawn["figure_3_w"]) == ["1× network", "0.5× network", "0.25× network"]


def test_figure_4_has_the_maximum_of_each_size(rows, drawn):
    (ax,) = drawn["figure_4_w"].axes
    dense = {"phase": "utility", "network": "dense", "among": 1.0, "ratio": 0.1}
    small = {"phase": "utility", "density": 0.25, "schedules": 1, "ratio": 0.1}
    for colour, own in ((BLACK, dense), (ORANGE, small)):
        assert curve(ax, colour)[0.1] == pytest.approx(of_seeds(rows, "maximum", **own).mean())


def test_figure_5_compares_three_networks_at_each_density(rows, drawn):
    axes = drawn["figure_5_w"].axes
    assert [ax.get_title() for ax in axes[:2]] == ["50 % pruned", "75 % pruned"]
    for ax, (column, density) in zip(
        axes, [("mean", 0.5), ("mean", 0.25), ("std", 0.5), ("std", 0.25)], strict=True
    ):
        networks = {
            BLACK: {"network": "dense", "among": density},
            BLUE: {"network": "one_shot", "density": density},
            GREEN: {"network": "small", "density": density, "schedules": 2},
        }
        for colour, own in networks.items():
            expected = of_seeds(rows, column, phase="utility", ratio=0.2, **own).mean()
            assert curve(ax, colour)[0.2] == pytest.approx(expected)


def test_figure_6_has_a_plane_an_arm_and_regime(rows, drawn):
    for name, moments in (("figure_6_w", "re-estimated"), ("figure_6_kept_w", "kept")):
        figure = drawn[name]
        titles = [ax.get_title() for ax in figure.axes[:4]]
        arms = [
            f"{arm}, {of}" for arm in ("weights", "channels") for of in ("fine-tuning", "rewinding")
        ]
        assert titles == arms
        assert moments in figure.get_suptitle() and "seed 1" in figure.get_suptitle()
        assert labels(figure) == ["pretraining", "retraining"]
        assert figure.axes[4].get_ylabel() == "training accuracy (%)"
    plane = next(row for row in rows if row["phase"] == "plane")
    lines = [line.get_xydata().tolist() for line in drawn["figure_6_w"].axes[0].lines]
    assert lines[0] == plane["paths"]["pretraining"]
    assert lines[1] == [plane["points"]["pruned"], *plane["paths"]["retraining"]]
    assert lines[2:] == [[point] for point in plane["points"].values()]
    names = {text.get_text() for text in drawn["figure_6_w"].axes[0].texts}
    assert names == {"$W^*$", "$W^p$", "$W^r$"}


def test_all_planes_of_figure_6_share_a_scale_of_colours(drawn):
    scales = {ax.collections[0].get_clim() for ax in drawn["figure_6_w"].axes[:4]}
    assert len(scales) == 1


def test_the_barriers_are_drawn_and_named(rows, drawn):
    axes = drawn["figure_6_barriers_w"].axes
    assert [ax.get_title() for ax in axes[:3]] == ["weights", "channels", "channels, harsher"]
    for ax, moments in ((axes[2], "estimated"), (axes[5], "kept")):
        own = {"phase": "path", "arm": "harsh_channel", "moments": moments}
        paths = [r for r in rows if all(r.get(k) == v for k, v in own.items())]
        mine = [row for row in paths if row["regime"] == "learning_rate_rewinding"]
        mean = 100 * np.mean([row["accuracy"] for row in mine], axis=0)
        np.testing.assert_allclose([*curve(ax, ORANGE).values()], mean)
        named = {text.get_color(): text.get_text() for text in ax.texts}
        assert named[ORANGE] == f"{np.mean([measured.path_barrier(row) for row in mine]):.1f}"
    assert "range of 3 seeds" in labels(drawn["figure_6_barriers_w"])


def test_accuracies_stand_beside_the_published_ones(rows, drawn):
    figure = drawn["accuracies_w"]
    weights, channels, harsher, *pruned = figure.axes
    own = {"phase": "network", "arm": "weight", "regime": "learning_rate_rewinding"}
    found = {c: of_seeds(rows, "validation_accuracy", **own, cycle=c) for c in range(1, 7)}
    expected = {cycle: 100 * values.mean() for cycle, values in found.items()}
    assert curve(weights, ORANGE) == pytest.approx(expected)
    assert curve(channels, GREEN, "--").keys() == {5}
    for ax, arm in ((weights, "weight"), (channels, "channel")):
        written = {text.get_color(): text.get_text() for text in ax.texts[1:]}
        regimes = {BLUE: "fine_tuning", ORANGE: "learning_rate_rewinding", GREEN: "small"}
        assert written == {c: f"{PUBLISHED[arm][of]:.1f}" for c, of in regimes.items()}
    assert not harsher.texts
    ticks = [tick.get_text() for tick in weights.get_xticklabels()]
    assert ticks[0] == "1\n70" and ticks[4] == "5\n17"
    assert not [line for ax in pruned for line in ax.lines if line.get_color() == GREEN]


def test_the_dense_accuracy_is_of_the_same_seeds(rows):
    networks = [row for row in rows if row["phase"] == "network"]
    own = [row for row in networks if row["seed"] == 1 or row["network"] == "dense"]
    ax = figures.pruning_mechanism(own)["accuracies_w"].axes[0]
    (dense,) = [row for row in own if row["network"] == "dense" and row["seed"] == 1]
    assert curve(ax, "black", "--")[0] == pytest.approx(100 * dense["validation_accuracy"])


def test_small_networks_of_every_cycle_are_drawn(rows):
    small = next(r for r in rows if r.get("regime") == "small" and r["phase"] == "network")
    more = [small | {"cycle": cycle, "seed": 1} for cycle in range(5)]
    networks = [row for row in rows if row["phase"] == "network"]
    ax = figures.pruning_mechanism(networks + more)["accuracies_w"].axes[0]
    assert [*curve(ax, GREEN, "--")] == [0, 1, 2, 3, 4, 5]
    assert "0" in [tick.get_text() for tick in ax.get_xticklabels()]


def test_a_plane_of_another_seed_has_a_figure_of_its_own(rows):
    planes = [row for row in rows if row["phase"] in ("plane", "surface")]
    planes = [row for row in planes if row["regime"] == "fine_tuning"]
    again = figures.pruning_mechanism(planes + [row | {"seed": 2} for row in planes])
    assert set(again) == {f"figure_6{of}_w" for of in ("", "_kept", "_seed_2", "_kept_seed_2")}
    assert "seed 2" in again["figure_6_seed_2_w"].get_suptitle()


def test_a_plane_that_is_half_measured_is_drawn(rows):
    planes = [row for row in rows if row["phase"] in ("plane", "surface")]
    half = [row for row in planes if row.get("block", 0) < 3 and row.get("arm") == "weight"]
    found = figures.pruning_mechanism(half)
    assert set(found) == {"figure_6_w", "figure_6_kept_w"} and rendered(found["figure_6_w"])
    without = [row for row in half if row["phase"] == "plane"]
    assert not figures.pruning_mechanism(without)


@pytest.mark.parametrize("count", [0, 1, 9, 40])
def test_any_beginning_of_a_run_and_any_rows_of_it_are_drawn(rows, early, count):
    every = rows + early
    order = np.random.default_rng(count).permutation(len(every))
    figures.pruning_mechanism(rows[: 3 * count] + early[: count // 9])
    part = [every[i] for i in order[:count]]
    for figure in figures.pruning_mechanism(part, published=PUBLISHED).values():
        rendered(figure)


def test_utilities_that_are_not_finite_are_left_out(early):
    bad = [row | {"mean": np.nan} if row["epoch"] == 4 else row for row in early if "epoch" in row]
    figure = figures.pruning_mechanism(bad)["figure_2_small_conv"]
    assert [*curve(figure.axes[0], BLUE)] == [1, 2, 8, 16, 30] and rendered(figure)


def test_names_without_a_label_of_their_own_are_drawn(rows):
    mine = {"arm": "my_arm", "regime": "my_regime"}
    rows = [row | mine if row.get("arm") == "weight" else row for row in rows]
    found = figures.pruning_mechanism([row for row in rows if row.get("arm") == "my_arm"])
    assert "my regime" in labels(found["accuracies_w"])
    assert [ax.get_title() for ax in found["figure_6_barriers_w"].axes] == ["my arm", ""]


def test_the_same_rows_give_the_same_bytes(rows):
    own = [row for row in rows if row["phase"] in ("plane", "surface", "path")]
    own = [row for row in own if row["arm"] == "weight" and row.get("moments") != "kept"]
    first, again = figures.pruning_mechanism(own), figures.pruning_mechanism(own)
    for name in ("figure_6_w", "figure_6_barriers_w"):
        assert rendered(first[name]) == rendered(again[name])
