"""Claims L1 to L5, decided from rows whose answer is known."""

import functools
import itertools
import math

import numpy as np
import pytest
from loss_modelling_rows import ERROR_GAPS, LOSS_GAPS, loss_gap, run, workload

from pruning_jax.analysis import claims, statistics
from pruning_jax.studies.loss_modelling import claims as study_claims
from pruning_jax.studies.loss_modelling import findings, tables
from pruning_jax.studies.loss_modelling.gaps import random_cost, spread
from pruning_jax.studies.loss_modelling.prunings import select

ALL = ("L1", "L2", "L3", "L4", "L5")


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    quick = functools.partial(statistics.bootstrap_interval, resamples=500)
    monkeypatch.setattr(statistics, "bootstrap_interval", quick)


def decided(work, rows):
    found = {claim.id: claims.check(claim) for claim in study_claims.decide(rows, work)}
    assert all(claim.source.startswith("S3") and claim.published for claim in found.values())
    return found


def changed(by, **columns):
    """`loss_gap`, with `by` added where a pruning carries every value."""

    def gap(unit):
        return loss_gap(unit) + by * all(unit[key] == value for key, value in columns.items())

    return gap


def test_all_hold_where_the_rows_are_the_papers():
    work = workload()
    found = decided(work, run(work))
    assert {id: claim.verdict for id, claim in found.items()} == dict.fromkeys(ALL, "holds")
    assert all(claim.n == 8 for claim in found.values())


def test_the_numbers_are_those_of_the_definition():
    work = workload()
    rows = run(work)
    found = decided(work, rows)

    def gaps(**columns):
        at = [r for r in rows if r["phase"] == "pruned" and r["epoch"] == "best"]
        at = [r for r in at if all(r[key] == value for key, value in columns.items())]
        return np.array([abs(next(r for r in at if r["seed"] == s)["penalty"]) for s in work.seeds])

    best = {"stages": 140, "step_penalty": 0.01}
    differences = gaps(criterion="quadratic", **best) - gaps(criterion="linear", **best)
    assert found["L1"].estimate == pytest.approx(differences.mean())
    margin = 1.96 * differences.std(ddof=1) / math.sqrt(8)
    low, high = found["L1"].ci
    assert low < differences.mean() - margin and differences.mean() + margin < high
    assert found["L1"].p_value == 3 / 2**8
    flips = np.array(list(itertools.product([1, -1], repeat=8)))
    exact = np.mean(flips @ differences <= differences.sum())
    assert found["L1"].p_value == pytest.approx(3 * exact)
    many = gaps(criterion="linear", stages=140, step_penalty=0.0)
    one = gaps(criterion="linear", stages=1, step_penalty=0.0)
    assert found["L2"].estimate == pytest.approx((many - one).mean())


def test_the_spread_of_methods_by_hand():
    values = np.array([[1.0, 4.0], [3.0, 6.0]])
    assert spread(values) == pytest.approx((3 / math.sqrt(2)) / math.sqrt(2))
    with pytest.raises(ValueError, match="varies"):
        spread(np.array([[1.0, 4.0], [1.0, 4.0]]))


def test_the_ratio_of_l4_by_hand():
    work = workload()
    rows = run(work)
    dense = {r["seed"]: r["validation_accuracy"] for r in rows if r["phase"] == "pretrained"}
    retrained = [r for r in rows if r["phase"] == "retrained"]
    error, loss = np.empty((8, 4)), np.empty((8, 4))
    for m, criterion in enumerate(ERROR_GAPS):
        for s, seed in enumerate(work.seeds):
            unit = {"seed": seed, "criterion": criterion}
            row = next(r for r in retrained if unit.items() <= r.items())
            columns = ("seed", "criterion", "stages", "step_penalty", "epoch")
            unit = {"phase": "pruned"} | {name: row[name] for name in columns}
            loss[s, m] = abs(next(r for r in rows if unit.items() <= r.items())["penalty"])
            error[s, m] = 100 * (dense[seed] - row["validation_accuracy"])

    def by_hand(v):
        return np.std(v.mean(0), ddof=1) / np.sqrt(np.mean(np.var(v, axis=0, ddof=1)))

    claim = decided(work, rows)["L4"]
    assert claim.estimate == pytest.approx(by_hand(error) / by_hand(loss))
    low, high = claim.ci
    assert low < claim.estimate < high < 0.5
    assert "Spearman" in claim.note


@pytest.mark.parametrize(
    "id, gap, verdict",
    [
        ("L1", changed(-0.5, criterion="obd", stages=140), "holds"),
        ("L1", changed(-0.9, criterion="obd", stages=140), "fails"),
        ("L1", changed(0.13, criterion="quadratic", stages=140), "inconclusive"),
        ("L1", changed(0.2, criterion="quadratic", stages=140), "fails"),
        ("L2", changed(4.0, criterion="obd", stages=140), "fails"),
        ("L2", changed(1.05 * 1.5, criterion="quadratic", stages=140), "inconclusive"),
        ("L3", changed(4.0, criterion="linear", step_penalty=0.01, stages=1), "holds"),
        ("L3", changed(-2.0, criterion="linear", step_penalty=0.0, stages=1), "fails"),
        ("L5", changed(-2.0, criterion="obd", epoch=5), "fails"),
        ("L5", changed(2.0, criterion="obd", epoch=100), "fails"),
    ],
)
def test_the_verdict_follows_the_rows(id, gap, verdict):
    work = workload()
    assert decided(work, run(work, gap=gap))[id].verdict == verdict


def test_no_larger_allows_a_difference_that_counts_as_none():
    work = workload()
    equal = changed(LOSS_GAPS["linear"] - LOSS_GAPS["quadratic"], criterion="quadratic", stages=140)
    claim = decided(work, run(work, gap=equal, noise=0.002))["L1"]
    assert abs(claim.estimate) < 0.7 and claim.verdict == "holds"


@pytest.mark.parametrize("by, verdict", [(0.25, "holds"), (0.4, "fails")])
def test_the_matched_means_lie_near_the_published(by, verdict):
    def gap(unit):
        return loss_gap(unit) + by

    work = workload()
    claim = decided(work, run(work, gap=gap))["L1"]
    assert claim.verdict == verdict
    assert ("not within 0.3" in claim.note) == (verdict == "fails")
    other = workload("another")
    assert decided(other, run(other, gap=gap))["L1"].verdict == "holds"


def test_a_mean_near_the_edge_of_what_is_matched_decides_nothing():
    work = workload()
    gaps = {c: np.full(8, value) for c, value in LOSS_GAPS.items()}
    gaps["linear"] = 1.47 + 0.1 * np.linspace(-1, 1, 8) + 0.01
    finding = findings.Finding("holds", "", len(work.seeds), -1.0, (-2.0, 0.0))
    assert findings.matched(finding, gaps).verdict == "inconclusive"


@pytest.mark.parametrize(
    "error_gaps, verdict",
    [
        (ERROR_GAPS, "holds"),
        ({"magnitude": 30.0, "obd": 20.0, "linear": 10.0, "quadratic": 1.0}, "fails"),
    ],
)
def test_l4_weighs_the_spread_after_fine_tuning(error_gaps, verdict):
    work = workload()
    assert decided(work, run(work, error_gaps=error_gaps))["L4"].verdict == verdict


def test_five_seeds_cannot_pass_three_tests():
    work = workload(seeds=5)
    found = decided(work, run(work))
    for id in ("L1", "L2", "L3", "L5"):
        assert found[id].verdict == "inconclusive"
        assert "can reach p < 0.05" in found[id].note
    assert found["L4"].verdict == "holds" and found["L4"].n == 5


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_few_seeds_decide_nothing(seeds):
    work = workload(seeds=seeds)
    found = decided(work, run(work))
    assert {claim.verdict for claim in found.values()} == {"inconclusive"}
    assert all(claim.n == seeds for claim in found.values())


def test_a_claim_waits_for_its_rows():
    work = workload()
    rows = run(work)
    before_retraining = decided(work, [row for row in rows if row["phase"] != "retrained"])
    verdicts = {id: claim.verdict for id, claim in before_retraining.items()}
    assert verdicts == dict.fromkeys(ALL, "holds") | {"L4": "not tested"}
    assert before_retraining["L4"].n == 0 and before_retraining["L4"].estimate is None
    last = [r for r in rows if r["seed"] != work.seeds[-1]]
    assert {claim.verdict for claim in decided(work, last).values()} == {"not tested"}


def test_any_beginning_of_a_run_can_be_read():
    work = workload()
    rows = run(work)
    order = np.random.default_rng(1).permutation(len(rows))
    for count in range(0, len(rows), 41):
        decided(work, rows[:count])
        decided(work, [rows[i] for i in order[:count]])
    assert {claim.verdict for claim in decided(work, []).values()} == {"not tested"}


def test_a_loss_that_is_not_finite_decides_nothing():
    work = workload()
    rows = run(work, gap=changed(math.inf, criterion="obd", seed=work.seeds[2]))
    verdicts = {id: claim.verdict for id, claim in decided(work, rows).items()}
    assert verdicts == dict.fromkeys(ALL, "inconclusive")


def test_a_saturated_setting_decides_nothing():
    work = workload()
    rows = run(work, random_accuracy=0.97)
    assert random_cost(rows, work) < 2
    found = decided(work, rows)
    assert {claim.verdict for claim in found.values()} == {"inconclusive"}
    assert all("saturated" in claim.note for claim in found.values())


def test_hyper_parameters_are_chosen_on_the_tuning_seeds_alone():
    work = workload()
    rows = run(work)
    for row in rows:
        if row["phase"] == "pruned" and row["seed"] in work.seeds and row["step_penalty"] == 1.0:
            row["penalty"] = 0.0
    assert select(rows, work, "linear", "best", [1]) == (1, 0.01)
    assert "LM 0.01 < 0" in decided(work, rows)["L3"].note


def test_a_workload_is_asked_what_it_can_answer():
    other = workload("small_conv_cifar10", stages=(1, 14), early_epochs=(), early_stages=())
    rows = run(workload()) + run(other)
    found = decided(other, rows)
    assert list(found) == ["L2", "L3", "L4"]
    assert all(claim.workload.startswith("B: Small Conv") for claim in found.values())
    assert "14 < 1" in found["L2"].note
    assert "PreActResNet-18" in found["L4"].published


def test_one_number_of_stages_or_no_penalty_leaves_a_claim_untested():
    work = workload(stages=(1,), step_penalties=(0.0,), early_epochs=())
    found = decided(work, run(work))
    assert found["L2"].verdict == found["L3"].verdict == "not tested"


def test_the_published_means_are_in_the_papers_order():
    for name in ("mlp_mnist", "preact_resnet18_cifar10"):
        means = [mean for mean, _ in study_claims.PUBLISHED[name]["loss_gap"].values()]
        assert means == sorted(means, reverse=True)


def test_what_counts_as_none_is_small_beside_what_was_published():
    published = study_claims.PUBLISHED["mlp_mnist"]["loss_gap"]
    apart = published["linear"][0] - published["quadratic"][0]
    assert 0 < findings.EQUAL_GAP < apart / 10
    assert statistics.non_inferior(np.full(3, apart), findings.EQUAL_GAP)


def test_the_table_puts_ours_beside_the_papers():
    work = workload()
    rows = run(work)
    tuning = {work.name: work.settings["tuning_seeds"]}
    lines = tables.beside_published(rows, tuning).splitlines()
    assert len(lines) == 2 + len(ERROR_GAPS)
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells[1] == "QM" and cells[3] == "1.05 ± 0.04" and cells[5] == "1.90 ± 0.20"
    assert float(cells[2].split(" ± ")[0]) == pytest.approx(1.05, abs=0.03)
    assert float(cells[4].split(" ± ")[0]) == pytest.approx(1.9, abs=0.3)
    assert cells[6] == "8"


def test_the_table_of_part_of_a_run_has_blanks():
    work = workload()
    rows = run(work)
    tuning = {work.name: work.settings["tuning_seeds"]}
    for count in range(0, len(rows), 31):
        tables.beside_published(rows[:count], tuning)
    assert "|  |" in tables.beside_published(rows[:5], tuning)


def test_every_verdict_is_put_in_words():
    work = workload()
    rows = run(work)
    for found in (rows, [row for row in rows if row["phase"] != "retrained"]):
        text = tables.verdicts(study_claims.decide(found, work))
        for claim in study_claims.decide(found, work):
            assert f"**{claim.id}, {claim.workload}: {claim.verdict}**" in text
            assert claim.note in text


def test_equal_methods_leave_l4_inconclusive_not_failed():
    work = workload()
    rows = run(work, gap=lambda unit: 2.3 if unit["criterion"] == "random" else 1.5)
    claim = decided(work, rows)["L4"]
    assert claim.verdict == "inconclusive"
    assert "do not differ in loss gap beyond noise" in claim.note
