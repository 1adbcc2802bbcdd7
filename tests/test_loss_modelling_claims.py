"""Claims L1 to L5, decided from rows whose answer is known."""

import math

import numpy as np
import pytest
from loss_modelling_rows import ERROR_GAPS, LOSS_GAPS, built, loss_gap, run, workload

from pruning_jax.analysis import claims
from pruning_jax.studies import questions
from pruning_jax.studies.loss_modelling import claims as study_claims
from pruning_jax.studies.loss_modelling.claims import PUBLISHED, Thresholds

ALL = ("L1", "L2", "L3", "L4", "L5")
NO_TUNING = {"tuning_seeds": ()}


def flat(unit, gap):
    """Fine-tuned error that does not follow the loss gap."""
    return 0.02


def decided(work, rows):
    found = {claim.id: claims.check(claim) for claim in study_claims.decide(rows, built(work))}
    assert all(claim.source.startswith("S3") and claim.published for claim in found.values())
    return found


def changed(by, **columns):
    """`loss_gap`, with `by` added where a pruning carries every value."""

    def gap(unit):
        return loss_gap(unit) + by * all(unit[key] == value for key, value in columns.items())

    return gap


@pytest.mark.parametrize("seeds", [5, 8])
@pytest.mark.parametrize("tuning", [NO_TUNING, {}])
def test_all_agree_where_the_rows_are_the_papers(tuning, seeds):
    """With five seeds too, which a conjunction lets decide."""
    work = workload(seeds=seeds, **tuning)
    found = decided(work, run(work, tuned=flat))
    standings = {id: claim.standing for id, claim in found.items()}
    assert standings == dict.fromkeys(ALL, "agrees") | ({} if tuning else {"L4": "absent"})
    assert {claim.n for claim in found.values() if claim.parts} == {seeds}
    assert {claim.fidelity for claim in found.values()} == {"matched"}


def gaps(rows, work, **columns):
    at = [row for row in rows if row["phase"] == "pruned" and row["epoch"] == "best"]
    at = [row for row in at if all(row[key] == value for key, value in columns.items())]
    return np.array([abs(next(r for r in at if r["seed"] == s)["penalty"]) for s in work.seeds])


def test_the_numbers_are_those_of_the_definition():
    work = workload()
    rows = run(work)
    found, best = decided(work, rows), {"stages": 140, "step_penalty": 0.01}
    first, second, _ = found["L1"].parts
    own = {c: gaps(rows, work, criterion=c, **best) for c in ("quadratic", "linear", "obd")}
    np.testing.assert_allclose(first.values, own["quadratic"] - own["linear"])
    np.testing.assert_allclose(second.values, own["linear"] - own["obd"])
    assert first.bound == Thresholds().excess and first.p_value == 1 / 2**8
    assert f"QM {own['quadratic'].mean():.3g} nats" in found["L1"].here
    one = gaps(rows, work, criterion="linear", stages=1, step_penalty=0.01)
    np.testing.assert_allclose(found["L2"].parts[0].values, own["linear"] - one)


def test_a_hyper_parameter_is_chosen_on_the_other_seeds():
    work = workload(seeds=4, **NO_TUNING)
    rows, lucky = run(work), work.seeds[0]
    for row in rows:
        of = (row["phase"], row.get("criterion"), row.get("stages"), row.get("step_penalty"))
        if of == ("pruned", "linear", 1, 1.0):
            row["penalty"] = 0.0 if row["seed"] == lucky else 9.0
    found, made = study_claims.Gaps(rows, built(work)).chosen("best", "linear", [1])
    assert [choice for choice in made] == [(1, 0.01)] * 4, "its own luck does not count"
    np.testing.assert_allclose(
        found, gaps(rows, work, criterion="linear", stages=1, step_penalty=0.01)
    )


@pytest.mark.parametrize(
    "id, gap, verdict",
    [
        ("L1", changed(-0.5, criterion="obd", stages=140), "agrees"),
        ("L1", changed(-0.9, criterion="obd", stages=140), "contradicts"),
        ("L1", changed(0.2, criterion="quadratic", stages=140), "contradicts"),
        ("L2", changed(4.0, criterion="obd", stages=140), "agrees"),  # 14 stages are as good
        ("L3", changed(4.0, criterion="linear", step_penalty=0.01, stages=1), "agrees"),
        # no one of 18 opposites can be shown with 8 seeds
        ("L3", changed(-2.0, criterion="linear", step_penalty=0.0, stages=1), "undecided"),
        ("L5", changed(-2.0, criterion="obd", epoch=5), "contradicts"),
    ],
)
def test_the_verdict_follows_the_rows(id, gap, verdict):
    work = workload(**NO_TUNING)
    assert decided(work, run(work, gap=gap, tuned=flat))[id].verdict == verdict


@pytest.mark.parametrize(
    "tuned, verdict",
    [(flat, "agrees"), (lambda unit, gap: 0.02 + 0.02 * gap, "contradicts")],
)
def test_l4_is_the_slope_of_error_on_loss_within_a_seed(tuned, verdict):
    work = workload(**NO_TUNING)
    rows = run(work, tuned=tuned)
    claim, spans = decided(work, rows)["L4"], []
    for seed in work.seeds:
        own = [row for row in rows if row["phase"] == "retrained" and row["seed"] == seed]
        columns = ("criterion", "stages", "step_penalty")
        x = [gaps(rows, workload(seeds=8), **{c: row[c] for c in columns}) for row in own]
        x = np.array([of[work.seeds.index(seed)] for of in x])
        y = np.array([100 * (1 - row["test_accuracy"]) for row in own])
        spans.append(np.cov(x, y)[0, 1] / np.var(x, ddof=1) * (x.max() - x.min()))
    assert len(own) == 3 * 3 * 3 + 1 and claim.verdict == verdict
    np.testing.assert_allclose(claim.parts[0].values, spans)


@pytest.mark.parametrize(
    ("change", "gate"),
    [
        ({"pruned_accuracy": 0.13}, "alive"),
        ({"random_accuracy": 0.79}, "sensitive"),
        ({"overfitted": 30.0}, "not overfitted"),
    ],
)
def test_a_workload_that_cannot_tell_is_unfit(change, gate):
    work = workload(**NO_TUNING)
    found = decided(work, run(work, tuned=flat, **change))
    for id in ("L1", "L2", "L3", "L5"):
        assert found[id].standing == "unfit"
        assert gate in {of.name for of in found[id].gates if of.met is False}


def test_a_question_that_was_put_after_the_rows_were_seen_is_undecided():
    work = workload(thresholds=vars(Thresholds(put_later=("L2",))))
    found = decided(work, run(work))
    assert found["L1"].standing == "agrees" and found["L2"].standing == "undecided"
    assert max(part.p_value for part in found["L2"].parts) < 0.05


@pytest.mark.parametrize("by, near", [(0.25, "within"), (0.4, "NOT within")])
def test_the_matched_means_are_put_beside_the_published(by, near):
    work = workload()
    claim = decided(work, run(work, gap=lambda unit: loss_gap(unit) + by))["L1"]
    assert f"nats, {near} 0.3" in claim.note


def test_one_seed_and_missing_or_infinite_rows_decide_nothing():
    one = workload(seeds=1)
    assert {claim.verdict for claim in decided(one, run(one)).values()} == {"undecided"}
    work = workload()
    rows = run(work)
    last = [row for row in rows if row["seed"] != work.seeds[-1]]
    assert {claim.standing for claim in decided(work, last).values()} == {"absent"}
    rows = run(work, gap=changed(math.inf, criterion="obd", seed=work.seeds[2]))
    found = decided(work, rows)
    assert {found[id].verdict for id in ("L1", "L2", "L3", "L5")} == {"undecided"}


def test_any_beginning_of_a_run_can_be_read():
    work = workload()
    rows = run(work)
    order = np.random.default_rng(1).permutation(len(rows))
    for count in range(0, len(rows), 83):
        decided(work, rows[:count])
        decided(work, [rows[i] for i in order[:count]])


def test_a_workload_is_asked_what_it_can_answer():
    other = workload("small_conv_cifar10", stages=(1, 14), early_epochs=(), early_stages=())
    found = decided(other, run(workload()) + run(other))
    assert list(found) == ["L2", "L3", "L4"]
    assert all(claim.workload.startswith("B: Small Conv") for claim in found.values())
    assert {claim.fidelity for claim in found.values()} == {"proxy"}
    assert "PreActResNet-18" in found["L4"].published
    single = workload(stages=(1,), step_penalties=(0.0,), early_epochs=())
    found = decided(single, run(single))
    assert found["L2"].standing == found["L3"].standing == "absent"


def test_the_published_means_are_in_the_papers_order():
    for name in ("mlp_mnist", "preact_resnet18_cifar10"):
        means = [mean for mean, _ in PUBLISHED[name]["loss_gap"].values()]
        assert means == sorted(means, reverse=True)
    apart = LOSS_GAPS["linear"] - LOSS_GAPS["quadratic"]
    assert 0 < Thresholds().excess < apart / 10


@pytest.mark.parametrize("tuning", [NO_TUNING, {}])
def test_the_table_puts_ours_beside_the_papers(tuning):
    work = workload(**tuning)
    rows = run(work)
    seeds = {work.name: work.settings["tuning_seeds"]}
    lines = study_claims.beside_published(rows, seeds).splitlines()
    assert len(lines) == 2 + len(ERROR_GAPS)
    cells = [cell.strip() for cell in lines[-1].strip("|").split("|")]
    assert cells[1] == "QM" and cells[3] == "1.05 ± 0.04" and cells[5] == "1.90 ± 0.20"
    assert float(cells[2].split(" ± ")[0]) == pytest.approx(1.05, abs=0.03)
    assert float(cells[4].split(" ± ")[0]) == pytest.approx(1.9, abs=0.3)
    assert cells[6] == "8"
    for count in range(0, len(rows), 101):
        study_claims.beside_published(rows[:count], seeds)
    assert "|  |" in study_claims.beside_published(rows[:5], seeds)


def test_every_verdict_is_put_in_words():
    work = workload()
    found = study_claims.decide(run(work), built(work))
    text = questions.verdicts(found)
    for claim in found:
        assert f"**{claim.id}, {claim.workload}: {claim.standing}**" in text
        assert claim.note in text and claim.here in text
