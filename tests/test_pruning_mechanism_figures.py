"""Figures 1 to 6 of made-up rows: what is drawn where, and that parts of a run can be drawn too."""

import re

import numpy as np
import pruning_mechanism_rows as made_up
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from reading_figures import curve, has_curve, intervals, labels, rendered

from pruning_jax import figures
from pruning_jax.measurements import pruning_mechanism as measured
from pruning_jax.studies.pruning_mechanism.claims import PUBLISHED

OF_RESNET8 = [f"figure_{kind}_w" for kind in ("1", "3", "4", "5", "6", "6_kept", "6_barriers")]
TUNED, REWOUND, SMALL = "fine-tuning", "rewinding", "small from the start"


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


def of_seeds(rows, column, **columns):
    found = [row for row in rows if all(row.get(name) == value for name, value in columns.items())]
    assert len(found) == 3
    return np.array([row[column] for row in found], dtype=float)


def mean_of(rows, column, **columns):
    return of_seeds(rows, column, **columns).mean()


def test_each_workload_has_its_figures(drawn):
    of_conv = {"figure_2_small_conv", "figure_2_histogram_small_conv"}
    assert set(drawn) == {*OF_RESNET8, "accuracies_w"} | of_conv
    assert all(isinstance(figure, Figure) and rendered(figure) for figure in drawn.values())


def test_titles_tell_of_how_many_seeds_a_figure_is(drawn, early):
    for name in set(drawn) - {"figure_6_w", "figure_6_kept_w"}:
        assert "n = 3 seeds" in drawn[name].get_suptitle(), name
    one = figures.pruning_mechanism([row for row in early if row["seed"] == 1])
    assert "n = 1 seed" in one["figure_2_small_conv"].get_suptitle()
    assert not intervals(one["figure_2_small_conv"].axes[0], "5 % removed")


def test_figure_1_has_the_subsets_at_random_and_the_bands(rows, drawn):
    random, by_band, utility = drawn["figure_1_w"].axes
    dense = {"phase": "utility", "network": "dense", "among": 1.0, "epoch": "last"}
    names = {"mean": "mean over subsets", "minimum": "most harmful subset"}
    for column, label in (names | {"maximum": "least harmful subset"}).items():
        for ratio in (0.05, 0.8):
            mean = 100 * mean_of(rows, f"accuracy_{column}", **dense, ratio=ratio)
            assert curve(random, label)[100 * ratio] == pytest.approx(mean)
    accuracy = 100 * of_seeds(rows, "accuracy", phase="bands").mean(axis=0)
    bands = "a band of magnitudes"
    assert curve(by_band, bands) == pytest.approx(dict(zip(range(1, 11), accuracy, strict=True)))
    nats = of_seeds(rows, "utility", phase="bands").mean(axis=0)
    assert curve(utility, bands) == pytest.approx(dict(zip(range(1, 11), nats, strict=True)))
    assert curve(random, "nothing removed")[5] == pytest.approx(95)
    scales = [ax.get_yscale() for ax in (random, by_band, utility)]
    assert scales == ["linear", "linear", "log"]
    assert [ax.get_ylabel() for ax in drawn["figure_1_w"].axes][1:] == [
        "training accuracy (%)",
        "utility U (nats)",
    ]


def test_figure_2_follows_training_and_has_two_histograms(early, drawn):
    axes = drawn["figure_2_small_conv"].axes
    titles = ["mean", "standard deviation", "minimum", "maximum"]
    assert [ax.get_title() for ax in axes[:4]] == titles
    for ax, column in zip(axes, ("mean", "std", "minimum", "maximum"), strict=False):
        epochs = sorted({row["epoch"] for row in early if row["phase"] == "utility"})
        expected = {e: of_seeds(early, column, epoch=e, ratio=0.2).mean() for e in epochs}
        assert curve(ax, "20 % removed") == pytest.approx(expected)
    assert labels(drawn["figure_2_small_conv"]) == [f"{r} % removed" for r in (5, 10, 20)]
    figure = drawn["figure_2_histogram_small_conv"]
    assert [ax.get_title() for ax in figure.axes] == ["epoch 1", "epoch 30"]
    assert sum(figure.axes[1].patches[0].get_data().values) == pytest.approx(100)
    assert figure.get_suptitle().startswith("5 % removed")


def test_a_bar_is_the_interval_of_the_mean(early, drawn):
    found = intervals(drawn["figure_2_small_conv"].axes[0], "20 % removed")[30]
    values = of_seeds(early, "mean", epoch=30, ratio=0.2)
    half = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    assert found == pytest.approx((values.mean() - half, values.mean() + half))


def test_figure_3_has_own_ratios_beside_absolute_numbers(rows, drawn):
    axes = drawn["figure_3_w"].axes
    for line, column in ((axes[:2], "mean"), (axes[2:], "std")):
        for density in (0.5, 0.25):
            own = {"phase": "utility", "network": "small", "density": density, "schedules": 1}
            by_ratio, by_number = (curve(ax, f"{density}× network") for ax in line)
            for ratio in (0.05, 0.1, 0.8):
                mean = mean_of(rows, column, **own, ratio=ratio)
                assert by_ratio[100 * ratio] == pytest.approx(mean)
                assert by_number[100 * ratio * density] == pytest.approx(mean)
    assert labels(drawn["figure_3_w"]) == ["1× network", "0.5× network", "0.25× network"]


def test_figure_4_has_the_maximum_of_each_size(rows, drawn):
    (ax,) = drawn["figure_4_w"].axes
    dense = {"phase": "utility", "network": "dense", "among": 1.0, "ratio": 0.1}
    small = {"phase": "utility", "density": 0.25, "schedules": 1, "ratio": 0.1}
    for label, own in (("1×", dense), ("0.25×", small)):
        found = curve(ax, f"{label} network")[10]
        assert found == pytest.approx(mean_of(rows, "maximum", **own))


def test_figure_5_compares_three_networks_at_each_density(rows, drawn):
    axes = drawn["figure_5_w"].axes
    assert [ax.get_title() for ax in axes[:2]] == ["50 % pruned", "75 % pruned"]
    for ax, (column, density) in zip(
        axes, [("mean", 0.5), ("mean", 0.25), ("std", 0.5), ("std", 0.25)], strict=True
    ):
        networks = {
            "pretrained, subsets above the threshold": {"network": "dense", "among": density},
            "pruned and retrained": {"network": "one_shot", "density": density},
            "small, from scratch": {"network": "small", "density": density, "schedules": 2},
        }
        for label, own in networks.items():
            expected = mean_of(rows, column, phase="utility", ratio=0.2, **own)
            assert curve(ax, label)[20] == pytest.approx(expected)


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
        np.testing.assert_allclose([*curve(ax, REWOUND).values()], mean)
        heights = [measured.path_barrier(row) for row in mine]
        half = 4.302653 * np.std(heights, ddof=1) / np.sqrt(3)
        low, high = np.clip([np.mean(heights) - half, np.mean(heights) + half], 0, 100)
        (colour,) = [line.get_color() for line in ax.lines if line.get_label() == REWOUND]
        named = {text.get_color(): text.get_text() for text in ax.texts}
        numbers = [float(number) for number in re.findall(r"[\d.]+", named[colour])]
        assert numbers == pytest.approx([np.mean(heights), low, high], rel=0.05)
    assert "line between the ends" in labels(drawn["figure_6_barriers_w"])


def test_accuracies_stand_beside_the_published_ones(rows, drawn):
    figure = drawn["accuracies_w"]
    weights, channels, harsher, *pruned = figure.axes
    own = {"phase": "network", "arm": "weight", "regime": "learning_rate_rewinding"}
    found = {c: of_seeds(rows, "validation_accuracy", **own, cycle=c) for c in range(1, 7)}
    expected = {cycle: 100 * values.mean() for cycle, values in found.items()}
    assert curve(weights, REWOUND) == pytest.approx(expected)
    assert curve(channels, SMALL).keys() == {5}
    colours = {line.get_label(): line.get_color() for line in channels.lines}
    for ax, arm in ((weights, "weight"), (channels, "channel")):
        written = {text.get_color(): text.get_text() for text in ax.texts[1:]}
        regimes = {TUNED: "fine_tuning", REWOUND: "learning_rate_rewinding", SMALL: "small"}
        assert written == {colours[c]: f"{PUBLISHED[arm][of]:.1f}" for c, of in regimes.items()}
    assert not harsher.texts
    ticks = [tick.get_text() for tick in weights.get_xticklabels()]
    assert ticks[0] == "1\n70" and ticks[4] == "5\n17"
    assert not any(has_curve(ax, SMALL) for ax in pruned)
    assert len({to_hex(colour) for colour in colours.values()}) >= 3


def test_the_dense_accuracy_is_of_the_same_seeds(rows):
    networks = [row for row in rows if row["phase"] == "network"]
    own = [row for row in networks if row["seed"] == 1 or row["network"] == "dense"]
    ax = figures.pruning_mechanism(own)["accuracies_w"].axes[0]
    (dense,) = [row for row in own if row["network"] == "dense" and row["seed"] == 1]
    assert curve(ax, "dense")[1] == pytest.approx(100 * dense["validation_accuracy"])


def test_small_networks_of_every_cycle_are_drawn(rows):
    small = next(r for r in rows if r.get("regime") == "small" and r["phase"] == "network")
    more = [small | {"cycle": cycle, "seed": 1} for cycle in range(5)]
    networks = [row for row in rows if row["phase"] == "network"]
    ax = figures.pruning_mechanism(networks + more)["accuracies_w"].axes[0]
    assert [*curve(ax, SMALL)] == [0, 1, 2, 3, 4, 5]
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
    assert [*curve(figure.axes[0], "5 % removed")] == [1, 2, 8, 16, 30] and rendered(figure)


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
