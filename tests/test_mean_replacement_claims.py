"""Claims M1 to M7, decided from rows whose answer is known."""

import itertools
import math

import numpy as np
import pytest
from mean_replacement_rows import PENALTIES, chosen, penalty, run, squares, tuned, workload

from pruning_jax.analysis import claims
from pruning_jax.measurements import mean_replacement as measured
from pruning_jax.studies.mean_replacement import claims as study_claims
from pruning_jax.studies.mean_replacement.readings import random_cost

ALL = ("M1", "M2", "M3", "M4", "M5", "M6", "M7")
CONTROLLED = ALL[:-1]


@pytest.fixture(scope="module")
def work():
    return workload()


@pytest.fixture(scope="module")
def rows(work):
    return run(work)


def decided(work, rows):
    found = {claim.id: claims.check(claim) for claim in study_claims.decide(rows, work)}
    assert all(claim.source.startswith("S4") and claim.published for claim in found.values())
    assert all(claims.from_dict(claims.to_dict(claim)) == claim for claim in found.values())
    return found


def verdicts(work, rows):
    return {id: claim.verdict for id, claim in decided(work, rows).items()}


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


def of_seed(rows, seed, phase):
    return [row for row in rows if row["seed"] == seed and row["phase"] == phase]


def test_all_hold_where_the_rows_are_the_papers(work, rows):
    found = decided(work, rows)
    assert {id: claim.verdict for id, claim in found.items()} == dict.fromkeys(ALL, "holds")
    assert all(claim.n == 8 for claim in found.values())
    assert all(claim.workload.startswith("B: Small Conv") for claim in found.values())


def test_m1_by_hand(work, rows):
    claim, changes = decided(work, rows)["M1"], []
    for seed in work.seeds:
        own = [row for row in of_seed(rows, seed, "probed") if sum(row["removed"].values())]
        both = [row["penalty"]["weight_norm"] for row in own]
        changes.append(np.mean([pair["mean"] - pair["zero"] for pair in both]))
    assert len(own) < len(of_seed(rows, seed, "probed"))
    assert claim.estimate == pytest.approx(np.mean(changes))
    assert claim.ci[0] < claim.estimate < claim.ci[1] < 0
    assert claim.p_value == 4 / 2**8
    assert "weight_norm 100 % (0 % on it)" in claim.note
    flips = np.array(list(itertools.product([1, -1], repeat=8)))
    assert claim.p_value == pytest.approx(4 * np.mean(flips @ changes <= np.sum(changes)))


def test_m2_by_hand(work, rows):
    gaps = {}
    for count in ("10", "500"):
        gaps[count] = []
        for seed in work.seeds:
            by = {
                r: np.mean(
                    [
                        row["penalty"][count]
                        for row in of_seed(rows, seed, "fine_tuned")
                        if row["replacement"] == r
                    ]
                )
                for r in ("zero", "mean")
            }
            gaps[count].append(by["zero"] - by["mean"])
    claim = decided(work, rows)["M2"]
    assert claim.estimate == pytest.approx(np.mean(gaps["10"]) - np.mean(gaps["500"]))
    assert f"gap(500) {np.mean(gaps['500']):.3g}" in claim.note


def test_m3_by_hand(work, rows):
    names = [(c, r) for c in PENALTIES for r in ("zero", "mean")]
    differences = []
    for seed in work.seeds:
        area, count = dict.fromkeys(names, 0.0), 0
        for row in of_seed(rows, seed, "probed"):
            costs = [row["penalty"][c][r] for c, r in names]
            if len(set(costs)) == 1:
                continue
            count += 1
            for name, cost in zip(names, costs, strict=True):
                area[name] += (max(costs) - cost) / (max(costs) - min(costs))
        both = {c: sum(area[c, r] for r in ("zero", "mean")) / 2 / count for c in PENALTIES}
        differences.append(both["abs_rs"] - both["random"])
    claim = decided(work, rows)["M3"]
    assert "abs_rs > random decides" in claim.note
    assert claim.estimate == pytest.approx(np.mean(differences))


def test_m5_and_m6_by_hand(work, rows):
    found = decided(work, rows)
    squared, covered = [], []
    for seed in work.seeds:
        own = of_seed(rows, seed, "probed")
        own = [r for r in own if (r["layers"], r["fraction"]) == ("midconv", 0.1)]
        per_probe = [r["mean_square"]["mrs"] - r["mean_square"]["abs_mrs"] for r in own]
        squared.append(np.mean(per_probe))
        sets = [row["units"] for row in of_seed(rows, seed, "selected")]
        ever = {c: set().union(*(units[c] for units in sets)) for c in sets[0]}
        covered.append((len(ever["random"]) - len(ever["abs_rs"])) / 20)
    assert found["M5"].estimate == pytest.approx(np.mean(squared))
    assert "random covers more than abs_rs decides" in found["M6"].note
    assert found["M6"].estimate == pytest.approx(np.mean(covered))


def test_shares_ever_selected_by_hand():
    rows = [{"step": step, "units": {"a": units}} for step, units in ((2, [1, 3]), (1, [1]))]
    np.testing.assert_allclose(measured.ever_selected(rows, 4)["a"], [0.25, 0.5])


@pytest.mark.parametrize(
    "first, second, expected", [([1, 2], [2, 3], 1 / 3), ([], [1], 0), ([1], [1], 1)]
)
def test_overlaps_by_hand(first, second, expected):
    assert measured.overlap(first, second) == expected
    assert math.isnan(measured.overlap([], []))


def often_worse(share, by=1.1):
    """Folding raises the penalty, by little, in a share of the settings; which ones is drawn."""
    draw = np.random.default_rng(7)

    def changed(unit):
        worse = unit["replacement"] == "mean" and draw.random() < share
        return penalty(unit | {"replacement": "zero"}) * by if worse else penalty(unit)

    return changed


def active_first(criterion, draw, count, size):
    """|MRS| removes the most active units, as MRS does."""
    return chosen("mrs" if criterion == "abs_mrs" else criterion, draw, count, size)


def drifting(criterion, draw, count, size):
    """Every criterion covers all units in time."""
    return chosen("random", draw, count, size)


@pytest.mark.parametrize(
    "id, change, verdict",
    [
        ("M1", {"penalty": scaled(2.0, criterion="random", replacement="mean")}, "fails"),
        ("M1", {"penalty": scaled(1 / 0.6, replacement="mean")}, "fails"),
        ("M1", {"penalty": scaled_in_odd_seeds(9.0, replacement="mean")}, "inconclusive"),
        ("M1", {"penalty": often_worse(0.1)}, "holds"),
        ("M1", {"penalty": often_worse(0.4)}, "fails"),
        ("M2", {"tuned": scaled_in_odd_seeds(9.0, tuned, replacement="mean")}, "inconclusive"),
        ("M2", {"tuned": scaled(2.0, tuned, replacement="mean")}, "fails"),
        ("M3", {"penalty": scaled(9.0, criterion="abs_rs")}, "fails"),
        ("M3", {"penalty": scaled(0.1, criterion="mrs")}, "fails"),
        ("M4", {"penalty": scaled(3.0, criterion="abs_rs")}, "fails"),
        ("M4", {"penalty": scaled(1.2, criterion="abs_rs")}, "holds"),
        ("M4", {"penalty": scaled_in_odd_seeds(3.0, criterion="abs_rs")}, "inconclusive"),
        ("M4", {"chosen": active_first}, "fails"),
        ("M5", {"chosen": active_first}, "inconclusive"),
        ("M5", {"squares": lambda size: squares(size)[::-1]}, "fails"),
        ("M6", {"chosen": drifting}, "inconclusive"),
        ("M7", {"relative_error": 2e-5}, "fails"),
        ("M7", {"relative_error": math.nan}, "inconclusive"),
    ],
)
def test_the_verdict_follows_the_rows(work, id, change, verdict):
    assert decided(work, run(work, **change))[id].verdict == verdict


def test_a_criterion_that_folding_seldom_helps_is_named(work):
    claim = decided(work, run(work, penalty=often_worse(0.4)))["M1"]
    assert claim.p_value is None and 0.5 < claim.estimate < 0.7
    assert "in less than 80 %" in claim.note


@pytest.mark.parametrize(
    "phase, columns, untested",
    [
        ("probed", {"step": 1000, "layers": "all", "fraction": 0.5}, CONTROLLED),
        ("probed", {"step": 250, "layers": "lastconv", "fraction": 0.2}, ("M1", "M3", "M4", "M5")),
        ("fine_tuned", {"criterion": "abs_rs", "step": 750, "fraction": 0.1}, ("M2",)),
        ("selected", {"step": 25}, ("M6",)),
        ("activations", {}, ("M6",)),
        ("linear_regression", {}, ("M7",)),
    ],
)
def test_nothing_is_decided_until_every_seed_has_its_rows(work, rows, phase, columns, untested):
    columns |= {"phase": phase, "seed": work.seeds[3]}
    kept = [row for row in rows if any(row.get(name) != of for name, of in columns.items())]
    assert len(kept) < len(rows)
    found = decided(work, kept)
    assert {id for id in ALL if found[id].verdict == "not tested"} == set(untested)
    assert all(found[id].n == 0 and "no row for" in found[id].note for id in untested)


def test_any_part_of_a_run_is_decided_without_an_error(work, rows):
    order = np.random.default_rng(0).permutation(len(rows))
    for count in range(0, len(rows), 97):
        decided(work, rows[:count])
        decided(work, [rows[i] for i in order[:count]])
    assert set(verdicts(work, []).values()) == {"not tested"}


def test_a_penalty_that_is_not_finite_decides_nothing(work):
    for bad in (math.inf, math.nan):
        rows = run(work, penalty=scaled(bad, criterion="abs_rs", step=500, layers="all"))
        found = verdicts(work, rows)
        assert {found[id] for id in ("M1", "M3", "M4")} == {"inconclusive"}


def test_a_saturated_setting_decides_nothing_but_the_identity(work):
    rows = run(work, random_accuracy=0.79)
    assert random_cost(rows, work) == pytest.approx(1.0)
    found = decided(work, rows)
    assert {found[id].verdict for id in CONTROLLED} == {"inconclusive"}
    assert all("saturated" in found[id].note for id in CONTROLLED)
    assert found["M7"].verdict == "holds"


def test_too_few_seeds_show_nothing(work):
    few = workload(seeds=2)
    found = decided(few, run(few))
    assert {found[id].verdict for id in CONTROLLED if id != "M7"} == {"inconclusive"}
    assert "can reach p < 0.05" in found["M1"].note
    one = workload(seeds=1)
    assert set(verdicts(one, run(one)).values()) == {"inconclusive"}


def test_a_workload_without_a_criterion_leaves_claims_untested():
    criteria = ("random", "abs_rs")
    tuning = workload().settings["fine_tuning"] | {"criteria": criteria}
    work = workload("other", criteria=criteria, fine_tuning=tuning)
    found = decided(work, run(work) + run(workload()))
    untested = {id for id, claim in found.items() if claim.verdict == "not tested"}
    assert untested == {"M1", "M3", "M4", "M5", "M6"}
    assert "criteria not run: " in found["M3"].note and found["M2"].workload == "other, train loss"
