"""Claims M1 to M7, decided from rows whose answer is known."""

import math

import numpy as np
import pytest
from mean_replacement_rows import PENALTIES, built, chosen, penalty, run, squares, tuned, workload

from pruning_jax.analysis import claims
from pruning_jax.studies.mean_replacement import claims as study_claims

ALL = ("M1", "M2", "M3", "M4", "M5", "M6", "M7")


@pytest.fixture(scope="module")
def work():
    return workload()


@pytest.fixture(scope="module")
def rows(work):
    return run(work)


def decided(work, rows):
    found = {claim.id: claims.check(claim) for claim in study_claims.decide(rows, built(work))}
    assert all(claim.source.startswith("S4") and claim.published for claim in found.values())
    assert all(claims.from_dict(claims.to_dict(claim)) == claim for claim in found.values())
    return found


def standings(work, rows):
    return {id: claim.standing for id, claim in decided(work, rows).items()}


def scaled(by, of=penalty, **columns):
    """A penalty, times `by` where a pruning carries every value."""

    def changed(unit, *steps):
        applies = all(unit[key] == value for key, value in columns.items())
        return of(unit, *steps) * (by if applies else 1.0)

    return changed


def scaled_in_odd_seeds(by, of=penalty, **columns):
    """`scaled`, in every second seed."""
    changed = scaled(by, of, **columns)
    return lambda unit, *steps: (changed if unit["seed"] % 2 else of)(unit, *steps)


def of_seed(rows, seed, phase, **columns):
    own = [row for row in rows if row["seed"] == seed and row["phase"] == phase]
    return [row for row in own if all(row[key] == of for key, of in columns.items())]


def part(claim, start):
    (found,) = [part for part in claim.parts if part.label.startswith(start)]
    return found


def test_all_agree_where_the_rows_are_the_papers(work, rows):
    found = decided(work, rows)
    assert {id: claim.standing for id, claim in found.items()} == dict.fromkeys(ALL, "agrees")
    assert all(claim.n == 8 and claim.fidelity == "proxy" for claim in found.values())
    label = "B: Small Conv, CIFAR-10 subset; training examples"
    assert {claim.workload for claim in found.values()} == {label}


def test_the_split_that_decides_is_the_one_of_the_scores():
    work = workload(evaluation_splits=("train", "scored"))
    worse = scaled(2.0, split="train", replacement="mean")
    found = decided(work, run(work, penalty=worse))
    assert found["M1"].standing == "agrees" and found["M1"].workload.endswith("; D_s")


def test_m1_by_hand(work, rows):
    claim, changes = decided(work, rows)["M1"], []
    for seed in work.seeds:
        own = [row for row in of_seed(rows, seed, "probed") if sum(row["removed"].values())]
        both = [row["penalty"]["weight_norm"] for row in own]
        changes.append(np.mean([pair["mean"] - pair["zero"] for pair in both]))
    assert len(own) < len(of_seed(rows, seed, "probed"))
    np.testing.assert_allclose(part(claim, "weight_norm").values, changes)
    assert part(claim, "share").values == (1.0,) * 8
    assert "0 lie above y = x" in claim.note and "100 % of" in claim.note


def test_m2_by_hand(work, rows):
    claim = decided(work, rows)["M2"]
    gaps = {"0": [], "100": [], "500": []}
    for count, found in gaps.items():
        for seed in work.seeds:
            by = {}
            for kind in ("zero", "mean"):
                own = of_seed(rows, seed, "fine_tuned", replacement=kind, fraction=0.1)
                own = [row for row in own if row["criterion"] != "random"]
                by[kind] = np.mean([row["penalty"][count] for row in own])
            found.append(by["zero"] - by["mean"])
    shrinks = np.subtract(gaps["0"], gaps["500"])
    np.testing.assert_allclose(part(claim, "f = 0.1: gap(0) - gap(500)").values, shrinks)
    np.testing.assert_allclose(part(claim, "f = 0.1: gap(100)").values, gaps["100"])
    assert len(claim.parts) == 3, "of the fractions up to .2 alone"


def test_m3_by_hand(work, rows):
    differences = []
    for seed in work.seeds:
        area, count = dict.fromkeys(PENALTIES, 0.0), 0
        for row in of_seed(rows, seed, "probed"):
            if row["fraction"] == "one" or not sum(row["removed"].values()):
                continue
            costs = [of for both in row["penalty"].values() for of in both.values()]
            if len(set(costs)) == 1:
                continue
            count += 1
            for name in area:
                own = {n: both["zero"] for n, both in row["penalty"].items()}
                spread = max(own.values()) - min(own.values())
                area[name] += (max(own.values()) - own[name]) / spread
        differences.append((area["abs_rs"] - area["random"]) / count)
    claim = decided(work, rows)["M3"]
    np.testing.assert_allclose(part(claim, "zero: abs_rs - random").values, differences)
    assert len(claim.parts) == 8


def test_m5_and_m6_by_hand(work, rows):
    found = decided(work, rows)
    squared, covered, anew, stable = [], [], [], []
    for seed in work.seeds:
        own = of_seed(rows, seed, "probed", layers="midconv", fraction=0.1)
        per_probe = [r["mean_square"]["mrs"] - r["mean_square"]["abs_mrs"] for r in own]
        squared.append(np.mean(per_probe))
        sets = [row["units"] for row in of_seed(rows, seed, "selected")]

        def ever(name, first=0, sets=sets):
            return len(set().union(*(units[name] for units in sets[first:]))) / 20

        def same(name, sets=sets):
            pairs = [(set(a[name]), set(b[name])) for a, b in zip(sets, sets[1:], strict=False)]
            return np.mean([len(a & b) / len(a | b) for a, b in pairs])

        third = len(sets) // 3
        covered.append(ever("abs_rs") - ever("random"))
        anew.append(ever("abs_rs", third) - ever("random", third))
        stable.append(same("abs_rs") - same("random"))
    np.testing.assert_allclose(found["M5"].parts[0].values, squared)
    for start, values in (
        ("coverage: abs_rs", covered),
        ("coverage after a third: abs_rs", anew),
        ("overlap of successive selections: abs_rs", stable),
    ):
        np.testing.assert_allclose(part(found["M6"], start).values, values)


@pytest.mark.parametrize(
    "first, second, expected", [([1, 2], [2, 3], 1 / 3), ([], [1], 0), ([1], [1], 1)]
)
def test_overlaps_by_hand(first, second, expected):
    assert study_claims.overlap(first, second) == expected
    assert math.isnan(study_claims.overlap([], []))


def often_worse(share, by=1.1):
    """Folding raises the penalty, by little, in a share of the settings of every seed."""
    draw = np.random.default_rng(7)
    worse = {}

    def changed(unit):
        place = unit["step"], unit["layers"], unit["fraction"], unit["criterion"]
        if unit["replacement"] == "mean" and worse.setdefault(place, draw.random() < share):
            return penalty(unit | {"replacement": "zero"}) * by
        return penalty(unit)

    return changed


def active_first(criterion, draw, count, size):
    """|MRS| removes the most active units, as MRS does."""
    return chosen("mrs" if criterion == "abs_mrs" else criterion, draw, count, size)


def drifting(criterion, draw, count, size):
    """Every criterion covers all units in time."""
    return chosen("random", draw, count, size)


@pytest.mark.parametrize(
    "id, change, standing",
    [
        ("M1", {"penalty": scaled(2.0, criterion="random", replacement="mean")}, "contradicts"),
        ("M1", {"penalty": scaled_in_odd_seeds(9.0, replacement="mean")}, "undecided"),
        ("M1", {"penalty": often_worse(0.1)}, "agrees"),
        ("M1", {"penalty": often_worse(0.4)}, "contradicts"),
        ("M2", {"tuned": scaled_in_odd_seeds(9.0, tuned, replacement="mean")}, "undecided"),
        ("M2", {"tuned": scaled(2.0, tuned, replacement="mean")}, "contradicts"),
        ("M3", {"penalty": scaled(9.0, criterion="abs_rs")}, "contradicts"),
        ("M3", {"penalty": scaled(0.1, criterion="mrs")}, "contradicts"),
        ("M4", {"penalty": scaled(3.0, criterion="abs_rs")}, "contradicts"),
        ("M4", {"penalty": scaled(1.1, criterion="abs_rs")}, "agrees"),
        ("M4", {"chosen": active_first}, "contradicts"),
        ("M5", {"chosen": active_first}, "undecided"),
        ("M5", {"squares": lambda size: squares(size)[::-1]}, "contradicts"),
        ("M6", {"chosen": drifting}, "undecided"),
        ("M7", {"relative_error": 2e-5}, "contradicts"),
        ("M7", {"relative_error": math.nan}, "absent"),
    ],
)
def test_the_verdict_follows_the_rows(work, id, change, standing):
    assert decided(work, run(work, **change))[id].standing == standing


@pytest.mark.parametrize(
    "phase, columns, absent",
    [
        ("probed", {"step": 1000, "layers": "all", "fraction": 0.1}, ALL[:-1]),
        ("probed", {"step": 250, "layers": "lastconv", "fraction": 0.2}, ("M1", "M3", "M4", "M5")),
        ("fine_tuned", {"criterion": "abs_rs", "step": 750, "fraction": 0.1}, ("M2",)),
        ("selected", {"step": 25}, ("M6",)),
        ("activations", {}, ("M6",)),
        ("linear_regression", {}, ("M7",)),
    ],
)
def test_nothing_is_decided_until_every_seed_has_its_rows(work, rows, phase, columns, absent):
    columns |= {"phase": phase, "seed": work.seeds[3]}
    kept = [row for row in rows if any(row.get(name) != of for name, of in columns.items())]
    assert len(kept) < len(rows)
    found = decided(work, kept)
    assert {id for id in ALL if found[id].standing == "absent"} == set(absent)


def test_any_part_of_a_run_is_decided_without_an_error(work, rows):
    order = np.random.default_rng(0).permutation(len(rows))
    for count in range(0, len(rows), 397):
        decided(work, rows[:count])
        decided(work, [rows[i] for i in order[:count]])
    assert set(standings(work, []).values()) == {"absent"}


def test_a_penalty_that_is_not_finite_decides_nothing(work):
    for bad in (math.inf, math.nan):
        rows = run(work, penalty=scaled(bad, criterion="abs_rs", step=500, layers="all"))
        found = standings(work, rows)
        assert {found[id] for id in ("M1", "M3", "M4")} == {"absent"}


@pytest.mark.parametrize(
    ("change", "unfit", "gate"),
    [
        ({"random_accuracy": 0.69}, ALL[:-1], "sensitive"),
        ({"pruned_accuracy": 0.3, "random_accuracy": 0.1}, ("M1", "M2", "M3", "M4"), "alive"),
        ({"overfitted": 30.0}, ("M1", "M2", "M3"), "not overfitted"),
    ],
)
def test_a_workload_that_cannot_tell_is_unfit(work, change, unfit, gate):
    found = decided(work, run(work, **change))
    assert {id for id, claim in found.items() if claim.standing == "unfit"} == set(unfit)
    for id in unfit:
        assert gate in {of.name for of in found[id].gates if of.met is False}


def test_fine_tuning_of_more_than_an_epoch_is_unfit():
    tuning = workload().settings["fine_tuning"] | {"steps": (10, 100, 600)}
    work = workload(fine_tuning=tuning)  # epochs have 500 steps
    (short,) = [gate for gate in decided(work, run(work))["M2"].gates if gate.met is False]
    assert short.name == "short" and short.value == 600


def test_a_workload_without_a_criterion_leaves_claims_absent():
    criteria = ("random", "abs_rs")
    tuning = workload().settings["fine_tuning"] | {"criteria": criteria}
    work = workload("other", criteria=criteria, fine_tuning=tuning)
    found = decided(work, run(work) + run(workload()))
    absent = {id for id, claim in found.items() if claim.standing == "absent"}
    assert absent == {"M1", "M3", "M4", "M5", "M6"}
    assert "criteria not run: " in found["M3"].note
