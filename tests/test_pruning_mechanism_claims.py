"""Claims E1 to E7 and R6, decided from rows whose answer is known."""

import itertools
import math

import numpy as np
import pytest
from pruning_mechanism_rows import (
    DURING_TRAINING,
    RESNET8,
    ablated,
    accuracy,
    arm,
    barrier,
    built,
    drops,
    run,
    train_accuracy,
    utility,
    workload,
)

from pruning_jax.analysis import claims, landscape
from pruning_jax.measurements import pruning_mechanism as measured
from pruning_jax.studies.pruning_mechanism import claims as study_claims

OF_D = ("E2", "E3", "E4", "E5", "E6", "E6", "E7", "R6")
TUNED, REWOUND = "fine_tuning", "learning_rate_rewinding"


@pytest.fixture(scope="module")
def work():
    return workload()


@pytest.fixture(scope="module")
def rows(work):
    return run(work)


@pytest.fixture(scope="module")
def decided(work, rows):
    return by_id(work, rows)


def decide(work, rows):
    found = [claims.check(claim) for claim in study_claims.decide(rows, built(work))]
    assert [claim.id for claim in found] == sorted(claim.id for claim in found)
    assert all(claim.source.startswith("S0") and claim.published for claim in found)
    assert all(claims.from_dict(claims.to_dict(claim)) == claim for claim in found)
    return found


def by_id(work, rows):
    """The claims by their codes; of E6, the one on the arm `channel`."""
    found = {}
    for claim in decide(work, rows):
        found.setdefault(claim.id, claim)
    return found


def standings(work, rows):
    return [(claim.id, claim.standing) for claim in decide(work, rows)]


def part(claim, start):
    (found,) = [part for part in claim.parts if part.label.startswith(start)]
    return found


def one(rows, **columns):
    (found,) = [row for row in rows if all(row.get(key) == of for key, of in columns.items())]
    return found


def matching(unit, columns):
    return all(unit.get(key) == of for key, of in columns.items())


def scaled(by, of=utility, moments=("mean", "std", "minimum", "maximum"), odd=False, **columns):
    """Figures of a unit, times `by` where it carries every value; `odd`: in every second seed."""

    def changed(unit):
        applies = matching(unit, columns) and (not odd or unit["seed"] % 2)
        found = of(unit)
        if isinstance(found, dict):
            return {key: v * (by if applies and key in moments else 1) for key, v in found.items()}
        return found * (by if applies else 1)

    return changed


def moved(by, of, odd=False, **columns):
    """An accuracy, plus `by` where a unit carries every value."""

    def changed(unit):
        applies = matching(unit, columns) and (not odd or unit["seed"] % 2)
        return of(unit) + (by if applies else 0)

    return changed


def test_all_agree_where_the_rows_are_the_papers(work, rows):
    assert standings(work, rows) == [(id, "agrees") for id in OF_D]
    assert all(claim.n == 8 for claim in decide(work, rows))
    for name, letter in (("small_conv", "B"), ("small_conv_bn", "C")):
        other = workload(name)
        (claim,) = decide(other, run(other) + rows)
        assert (claim.id, claim.standing, claim.fidelity) == ("E1", "agrees", "proxy")
        assert claim.workload.startswith(f"{letter}: Small Conv")


def test_labels_say_what_ran(work, decided):
    label = "D: ResNet-8 with a stem of stride 2, CIFAR-10, 4,000 images: a proxy for ResNet-20"
    assert decided["E2"].workload == label
    normalised = workload("small_conv_bn")
    normalised.examples = 1234
    text = "C: Small Conv with batch normalisation, CIFAR-10 (1,234 images)"
    assert study_claims.label_of(normalised) == text
    labels = [c.workload for c in study_claims.decide([], built(work)) if c.id == "E6"]
    assert labels == [
        f"{label}; channels, 20 % a cycle, after cycle 5",
        f"{label}; channels, 50 % a cycle, after cycle 3",
    ]


def test_a_claim_without_its_section_is_not_listed(rows):
    for section, gone in (
        ("sizes", {"E2", "E3", "E4"}),
        ("one_shot", {"E5"}),
        ("paths", {"E6"}),
        ("arms", {"E6", "E7", "R6"}),
    ):
        found = {claim.id for claim in study_claims.decide(rows, built(workload(**{section: {}})))}
        assert found == set(OF_D) - gone
    assert study_claims.decide([], built(workload("small_conv", during_training={}))) == []
    both = workload(during_training=DURING_TRAINING)
    assert {claim.id for claim in decide(both, run(both))} == {"E1", *OF_D}


def ranks(values):
    return [sorted(values).index(value) for value in values]


def test_e1_by_hand():
    work = workload("small_conv")
    rows = run(work, noise=0.4)
    found = {}
    for moment, ratio in itertools.product(("std", "mean", "minimum"), (0.05, 0.1, 0.2)):
        for seed in work.seeds:
            own = {"phase": "utility", "seed": seed, "ratio": ratio}
            along = [one(rows, **own, epoch=e)[moment] for e in DURING_TRAINING["epochs"]]
            square = sum((a - b) ** 2 for a, b in enumerate(ranks(along)))
            found.setdefault((moment, ratio), []).append(1 - 6 * square / (6 * 35))
    claim = by_id(work, rows)["E1"]
    assert min(min(values) for values in found.values()) < 1 and claim.standing == "agrees"
    for (moment, ratio), values in found.items():
        np.testing.assert_allclose(part(claim, f"{moment} at {ratio:g} >").values, values)


def test_e2_by_hand(work, rows, decided):
    ranges, gaps = {}, []
    for ratio in RESNET8["sizes"]["ratios"]:
        own = {"phase": "utility", "network": "dense", "among": 1.0, "ratio": ratio}
        found = [one(rows, **own, epoch="last", seed=seed) for seed in work.seeds]
        ranges[ratio] = [100 * (r["accuracy_maximum"] - r["accuracy_minimum"]) for r in found]
    for seed in work.seeds:
        accuracies = one(rows, phase="bands", seed=seed)["accuracy"]
        gaps.append(100 * (accuracies[0] - accuracies[-1]))
    claim = decided["E2"]
    widest = max(ranges, key=lambda ratio: np.mean(ranges[ratio]))
    np.testing.assert_allclose(part(claim, f"range at {widest:g}").values, ranges[widest])
    assert part(claim, "range").p_value == 5 / 2**8, "the best of five ratios"
    np.testing.assert_allclose(part(claim, "largest - smallest").values, gaps)


def curve(rows, seed, moment, ratios, **network):
    own = {"phase": "utility", "seed": seed, "epoch": "last", "among": 1.0} | network
    return [one(rows, **own, ratio=ratio)[moment] for ratio in ratios]


def apart(first, second):
    return [abs(a - b) / ((a + b) / 2) for a, b in zip(first, second, strict=True)]


def test_e3_by_hand(work, rows, decided):
    differences, sizes = [], (1.0, 0.5, 0.25)
    own_ratios = {1.0: (0.05, 0.1, 0.2), 0.5: (0.1, 0.2, 0.4), 0.25: (0.2, 0.4, 0.8)}
    for seed in work.seeds:
        at_ratio, at_number = [], []
        for moment, (a, b) in itertools.product(("mean", "std"), itertools.combinations(sizes, 2)):
            network = {
                size: {"network": "dense" if size == 1 else "small", "density": size}
                | ({} if size == 1 else {"schedules": 1})
                for size in sizes
            }
            at_ratio += apart(
                *(curve(rows, seed, moment, own_ratios[1.0], **network[size]) for size in (a, b))
            )
            at_number += apart(
                *(curve(rows, seed, moment, own_ratios[size], **network[size]) for size in (a, b))
            )
        differences.append(np.mean(at_ratio) - np.mean(at_number) / 2)
    claim = decided["E3"]
    np.testing.assert_allclose(claim.parts[0].values, differences)


def test_e4_and_e5_by_hand(work, rows, decided):
    largest, distances = [], {0.5: [], 0.25: []}
    for seed in work.seeds:
        small = {"network": "small", "density": 0.25, "schedules": 1}
        dense = {"network": "dense", "density": 1.0}
        a, b = (curve(rows, seed, "maximum", (0.05, 0.1), **n) for n in (small, dense))
        largest.append(np.subtract(a, b))
        for density, found in distances.items():
            pruned = {"network": "one_shot", "density": density}
            small = {"network": "small", "density": density, "schedules": 2}
            kept = dense | {"among": density}
            gaps = [
                np.mean(
                    [
                        apart(*(curve(rows, seed, m, (0.1, 0.2), **n) for n in (network, kept)))
                        for m in ("mean", "std")
                    ]
                )
                for network in (pruned, small)
            ]
            found.append(gaps[0] - gaps[1])
    np.testing.assert_allclose([of.values for of in decided["E4"].parts], np.transpose(largest))
    np.testing.assert_allclose(decided["E5"].parts[0].values, distances[0.5])
    assert "at density 0.25" in decided["E5"].here


def test_e6_by_hand(work, rows):
    """A dip is below the worse end of a path, which a straight climb or fall has none of."""
    claim, harsh = (claim for claim in decide(work, rows) if claim.id == "E6")
    for name, regime, label in (
        ("weight", TUNED, "weights, fine-tuning"),
        ("weight", REWOUND, "weights, rewinding"),
        ("channel", REWOUND, "channels, rewinding"),
    ):
        own = {"phase": "path", "arm": name, "regime": regime, "moments": "estimated"}
        paths = [np.array(one(rows, **own, seed=seed)["accuracy"]) for seed in work.seeds]
        dips = [100 * max(min(path[0], path[-1]) - min(path), 0) for path in paths]
        np.testing.assert_allclose(part(claim, label).values, dips, atol=1e-9)
        bound = part(claim, label).bound
        assert (bound, part(claim, label).sign) == (2.0, 1 if name == "channel" else -1)
    assert harsh.parts[2].values != claim.parts[2].values


def test_e7_and_r6_by_hand(work, rows, decided):
    def reached(regime, cycle, name="weight", splits=("validation", "test")):
        own = {"phase": "network", "arm": name, "regime": regime, "cycle": cycle}
        found = [one(rows, **own, seed=seed) for seed in work.seeds]
        return 100 * np.array([np.mean([row[f"{s}_accuracy"] for s in splits]) for row in found])

    first = reached(REWOUND, 5) - reached(TUNED, 5)
    np.testing.assert_allclose(decided["E7"].parts[0].values, first)
    channel = reached("small", 5, "channel") - reached(REWOUND, 5, "channel")
    np.testing.assert_allclose(part(decided["E7"], "channel: small").values, channel)
    held = ("validation",)
    gains = [reached(REWOUND, c, splits=held) - reached(TUNED, c, splits=held) for c in (3, 5, 6)]
    np.testing.assert_allclose(decided["R6"].parts[0].values, gains[-1])
    x = -np.log2(0.7) * np.array([3, 5, 6])
    centred = x - x.mean()
    slopes = centred @ np.array(gains) / (centred**2).sum()
    np.testing.assert_allclose(part(decided["R6"], "growth").values, slopes, rtol=1e-3)
    assert "+1.01 at 3.05x" in decided["R6"].published
    assert "rewinding 91.90" in decided["E7"].published


def test_a_dense_network_that_is_not_converged_or_not_as_long_is_unfit(work):
    rows = run(work, accuracy=moved(0.05, accuracy, arm="weight", regime=REWOUND, cycle=1))
    found = {claim.id: claim.standing for claim in decide(work, rows)}
    assert {id for id, standing in found.items() if standing == "unfit"} == {"E6", "E7", "R6"}
    rows = [
        row | {"epochs": 60} if row.get("network") == "one_shot" and "epochs" in row else row
        for row in run(work)
    ]
    found = {claim.id: claim.standing for claim in decide(work, rows)}
    assert {id for id, standing in found.items() if standing == "unfit"} == {"E5"}


def declining(unit):
    """Utilities that fall while a network trains."""
    return utility(unit | {"epoch": 31 - unit["epoch"]})


def declining_in(seeds):
    return lambda unit: (declining if unit["seed"] in seeds else utility)(unit)


def late_start(unit):
    """In one seed the two first epochs have the largest minima: a correlation of -13 / 35."""
    first = unit["seed"] == 3 and unit["epoch"] in (1, 2)
    found = utility(unit)
    return found | {"minimum": found["minimum"] * (1e3 if first else 1)}


def narrow(by):
    """Random ablations whose accuracies differ by as many pp."""
    return lambda unit: (0.3, 0.3, 0.3 + by / 100)


def narrow_in_odd_seeds(unit):
    return (0.3, 0.3, 0.45) if unit["seed"] % 2 else ablated(unit)


def by_number(unit):
    """Utilities that follow the number of weights, not the ratio."""
    return utility(unit | {"ratio": unit["ratio"] * unit["density"]})


def by_number_in_odd_seeds(unit):
    return by_number(unit) if unit["seed"] % 2 else utility(unit)


WEIGHT, CHANNEL = {"arm": "weight"}, {"arm": "channel"}
AT_LAST = {"arm": "weight", "regime": REWOUND, "cycle": 6}


@pytest.mark.parametrize(
    "id, change, verdict",
    [
        ("E1", {"utility": declining}, "contradicts"),
        ("E1", {"utility": declining_in((1, 3, 5, 7))}, "undecided"),
        ("E1", {"utility": late_start}, "agrees"),
        ("E1", {"utility": scaled(50.0, moments=["minimum"], epoch=1)}, "agrees"),
        ("E1", {"utility": scaled(0.0, moments=["minimum"])}, "undecided"),
        ("E1", {"utility": scaled(math.nan, moments=["std"], epoch=4)}, "absent"),
        ("E2", {"ablated": narrow(19)}, "contradicts"),
        ("E2", {"ablated": narrow(21)}, "agrees"),
        ("E2", {"ablated": narrow_in_odd_seeds}, "undecided"),
        ("E2", {"ablated": narrow(math.nan)}, "absent"),
        ("E2", {"drops": lambda bands: drops(bands)[::-1]}, "contradicts"),
        ("E2", {"drops": lambda bands: np.zeros(bands)}, "undecided"),
        ("E3", {"utility": by_number}, "contradicts"),
        ("E3", {"utility": by_number_in_odd_seeds}, "undecided"),
        ("E3", {"utility": scaled(math.nan, density=0.25)}, "absent"),
        ("E4", {"utility": scaled(0.1, moments=["maximum"], density=0.25)}, "contradicts"),
        ("E4", {"utility": scaled(0.1, density=0.25, ratio=0.1)}, "contradicts"),
        ("E4", {"utility": scaled(0.1, odd=True, density=0.25, ratio=0.1)}, "undecided"),
        ("E5", {"utility": scaled(4.0, network="one_shot")}, "contradicts"),
        ("E5", {"utility": scaled(4.0, odd=True, network="one_shot")}, "undecided"),
        ("E5", {"utility": scaled(4.0, network="one_shot", density=0.25)}, "agrees"),
        ("E6", {"barrier": moved(9.0, barrier, arm="weight", regime=TUNED)}, "contradicts"),
        ("E6", {"barrier": moved(2.0, barrier, odd=True, **WEIGHT)}, "undecided"),
        ("E6", {"barrier": moved(9.0, barrier, **WEIGHT, moments="kept")}, "agrees"),
        ("E6", {"barrier": scaled(0.0, barrier, regime=REWOUND, **CHANNEL)}, "contradicts"),
        ("E6", {"train_accuracy": moved(0.2, train_accuracy, **CHANNEL)}, "contradicts"),
        ("E6", {"train_accuracy": moved(math.nan, train_accuracy, **CHANNEL)}, "absent"),
        ("E7", {"accuracy": moved(0.2, accuracy, arm="channel", regime=TUNED)}, "contradicts"),
        ("E7", {"accuracy": moved(0.06, accuracy, odd=True, regime="small")}, "undecided"),
        ("E7", {"accuracy": moved(0.08, accuracy, arm="weight", regime="small")}, "contradicts"),
        ("R6", {"accuracy": moved(-0.1, accuracy, **AT_LAST)}, "contradicts"),
        ("R6", {"accuracy": moved(0.2, accuracy, **AT_LAST | {"cycle": 3})}, "contradicts"),
        ("R6", {"accuracy": moved(-0.05, accuracy, odd=True, **AT_LAST)}, "undecided"),
    ],
)
def test_the_verdict_follows_the_rows(id, change, verdict):
    section = {"E5": "one_shot", "E6": "paths", "E7": "arms", "R6": "arms"}.get(id, "sizes")
    needed = {"sizes", section} | ({"arms"} if section == "paths" else set())
    unused = {name: {} for name in RESNET8 if name not in needed}
    work = workload("small_conv") if id == "E1" else workload(**unused)
    claim = by_id(work, run(work, **change))[id]
    assert claim.standing == verdict, claim.note


@pytest.mark.parametrize(
    "phase, columns, untested",
    [
        ("bands", {}, {"E2"}),
        ("utility", {"network": "dense", "among": 1.0, "ratio": 0.4}, {"E2"}),
        ("utility", {"network": "dense", "among": 1.0, "ratio": 0.8}, {"E2", "E3", "E4", "E5"}),
        ("utility", {"density": 0.25, "schedules": 1, "ratio": 0.8}, {"E3"}),
        ("utility", {"density": 0.25, "schedules": 1, "ratio": 0.05}, {"E3", "E4"}),
        ("utility", {"network": "one_shot", "density": 0.25, "ratio": 0.1}, {"E5"}),
        ("utility", {"among": 0.5, "ratio": 0.2}, {"E5"}),
        ("path", {"arm": "weight", "regime": TUNED, "moments": "estimated"}, {"E6"}),
        ("path", {"arm": "weight", "regime": TUNED, "moments": "kept"}, set()),
        ("network", {"network": "dense"}, {"E5", "E6", "E7", "R6"}),
        ("network", {"arm": "channel", "regime": "small"}, {"E7"}),
        ("network", {"arm": "weight", "regime": REWOUND, "cycle": 6}, {"R6"}),
        ("network", {"arm": "weight", "regime": REWOUND, "cycle": 5}, {"E7", "R6"}),
        ("pruned", {}, set()),
        ("surface", {}, set()),
    ],
)
def test_nothing_is_decided_until_every_seed_has_its_rows(work, rows, phase, columns, untested):
    columns = columns | {"phase": phase}
    if phase not in ("pruned", "surface"):
        columns["seed"] = work.seeds[3]
    kept = [row for row in rows if not matching(row, columns)]
    assert len(kept) < len(rows)
    found = decide(work, kept)
    assert {claim.id for claim in found if claim.standing == "absent"} == untested
    assert all(c.n == 0 and "no row for" in c.note for c in found if c.id in untested)
    assert all(claim.standing == "agrees" for claim in found if claim.id not in untested)


def test_any_part_of_a_run_is_decided_without_an_error(rows):
    work = workload(seeds=6)
    order = np.random.default_rng(0).permutation(len(rows))
    for count in range(0, len(rows), 151):
        decide(work, rows[:count])
        decide(work, [rows[i] for i in order[:count]])
    assert {verdict for _, verdict in standings(work, [])} == {"absent"}


def test_a_saturated_setting_is_unfit(work):
    rows = run(work, ablated=lambda unit: (0.94, 0.5, 0.95))
    assert study_claims.sensitive(rows, built(work)).value == pytest.approx(1.0, abs=0.5)
    unfit = {id for id, standing in standings(work, rows) if standing == "unfit"}
    assert unfit == {"E2", "E3", "E4", "E5"}


@pytest.mark.parametrize("seeds", [1, 2, 4])
def test_too_few_seeds_show_nothing(seeds):
    for name in ("small_conv", "resnet8"):
        few = workload(name, seeds=seeds)
        found = decide(few, run(few))
        assert {claim.verdict for claim in found} == {"undecided"}


def test_five_seeds_show_whatever_all_parts_show():
    few, other = workload(seeds=5), workload("small_conv", seeds=5)
    found = by_id(few, run(few))
    shown = {id for id, claim in found.items() if claim.verdict == "agrees"}
    assert shown == {*OF_D} - {"E2"}, "but for the best of five ratios"
    assert standings(other, run(other)) == [("E1", "agrees")]
    assert standings(other, run(other, utility=declining)) == [("E1", "undecided")]


@pytest.mark.parametrize(
    "changes, untested",
    [
        ({"sizes": RESNET8["sizes"] | {"densities": (0.5,)}}, {"E4"}),
        ({"sizes": RESNET8["sizes"] | {"bands": 5}}, {"E2"}),
        ({"sizes": RESNET8["sizes"] | {"ratios": (0.1, 0.2, 0.4, 0.8)}}, {"E3", "E4"}),
        ({"one_shot": RESNET8["one_shot"] | {"densities": (0.25,)}}, {"E5"}),
        ({"arms": {"weight": arm("weights", 0.3, 6, 5)}}, {"E7"}),
        ({"arms": {"channel": arm("channels", 0.2, 5, 5)}}, {"E6", "E7", "R6"}),
        ({"arms": RESNET8["arms"] | {"weight": arm("weights", 0.3, 5, 5)}}, {"R6"}),
        ({"arms": RESNET8["arms"] | {"weight": arm("weights", 0.3, 6, 5, (TUNED,))}}, OF_D[4:]),
    ],
)
def test_a_workload_without_what_a_claim_needs_leaves_it_untested(changes, untested):
    work = workload(seeds=6, **changes)
    found = decide(work, run(work))
    assert {claim.id for claim in found if claim.standing == "absent"} == set(untested)
    assert not any("no row for" in claim.note for claim in found)


def barrier_of(positions, accuracy):
    return measured.path_barrier({"positions": list(positions), "accuracy": list(accuracy)})


def test_barriers_by_hand():
    assert barrier_of([0, 0.5, 1], [1.0, 0.2, 0.8]) == pytest.approx(70)
    assert barrier_of([0, 0.25, 1], [1.0, 0.6, 0.0]) == pytest.approx(15)
    assert barrier_of([0, 0.5, 1], [0.2, 0.9, 0.4]) == 0.0
    t, a = np.linspace(0, 1, 9), np.random.default_rng(0).random(9)
    expected = 100 * landscape.barrier(a, t, better="higher")
    assert barrier_of(t, a) == pytest.approx(expected)
    with pytest.raises(ValueError, match="not finite"):
        barrier_of([0, 1], [1, math.nan])


def test_distances_by_hand():
    one, other = np.array([[1.0, 0.0, 2.0, 2.0]]), np.array([[3.0, 0.0, 2.0, 2.0]])
    assert study_claims.distance(one, one) == [0]
    assert study_claims.distance(one, other) == [0.25]
    np.testing.assert_array_equal(study_claims.distance(one.T, other.T), [1, 0, 0, 0])
    with pytest.raises(ValueError, match="is -3"):
        study_claims.distance(one, -other)


def test_curves_of_the_rows(work, rows):
    network = {"network": "dense", "density": 1.0, "among": 0.25}
    found = study_claims.curves(rows, built(work), (0.1, 0.2), **network)
    assert found.shape == (8, 4)
    for place, seed in enumerate(work.seeds):
        of = [curve(rows, seed, moment, (0.1, 0.2), **network) for moment in ("mean", "std")]
        np.testing.assert_array_equal(found[place], np.ravel(of))
    assert study_claims.own_ratio(built(work), 0.1 + 1e-9) == 0.1
    with pytest.raises(LookupError, match=r"share of 0.3 were run; there are 0.05, 0.1"):
        study_claims.own_ratio(built(work), 0.3)
    row = one(rows, seed=1, phase="network", arm="weight", regime=TUNED, cycle=6)
    assert study_claims.compression(row) == pytest.approx(0.7**-6, rel=1e-3)


def test_a_surface_shows_what_there_is(rows):
    plane = one(rows, phase="plane", arm="channel", regime=REWOUND)
    kept = [row for row in rows if row.get("block") != 3]
    whole, part = (measured.surface(r, plane, "loss", "estimated") for r in (rows, kept))
    assert whole.values.shape == (len(whole.y), len(whole.x)) == (7, 9)
    assert np.isfinite(whole.values).all() and np.isnan(part.values[3]).all()
    np.testing.assert_array_equal(np.delete(part.values, 3, 0), np.delete(whole.values, 3, 0))
    row = one(rows, phase="surface", arm="channel", regime=REWOUND, moments="estimated", block=2)
    np.testing.assert_array_equal(whole.values[2], row["loss"])
