"""Rules, gates and verdicts on differences whose answer is known, and the pages that show them."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from launch import claims as pages
from launch.written import tupled
from pruning_jax import data, studies
from pruning_jax.analysis import claims
from pruning_jax.lab import results
from pruning_jax.types import Batch

ROOT = Path(__file__).parents[1]


def differences(n=8, mean=-1.0, spread=0.1):
    return mean + spread * np.linspace(-1, 1, n)


def verdict(*parts):
    return claims.verdict_of(parts)


# The five rules.


@pytest.mark.parametrize("rule, sign", [(claims.below, 1), (claims.above, -1)])
def test_an_order_is_decided_by_exact_sign_flips(rule, sign):
    values = sign * differences(spread=1.5) + sign * 0.2
    part = rule("a", values)
    flips = np.array(list(itertools.product([1, -1], repeat=8)))
    assert part.p_value == pytest.approx(np.mean(sign * (flips @ values) <= sign * values.sum()))
    assert part.p_opposite == pytest.approx(np.mean(sign * (flips @ values) >= sign * values.sum()))
    assert part.interval.estimate == pytest.approx(values.mean())
    assert rule("a", values, 5 * sign).p_value == 1 / 2**8
    assert rule("a", values, -5 * sign).p_opposite == 1 / 2**8


@pytest.mark.parametrize(
    ("mean", "margin", "no_worse", "equal"),
    [
        (0.0, 0.5, "agrees", "agrees"),
        (-1.0, 0.5, "contradicts", "contradicts"),
        (1.0, 0.5, "agrees", "contradicts"),
        (-0.5, 0.5, "undecided", "undecided"),
    ],
)
def test_margins_are_decided_by_student(mean, margin, no_worse, equal):
    values = differences(mean=mean, spread=0.3)
    assert verdict(claims.no_worse("a", values, margin)) == no_worse
    assert verdict(claims.equal("a", values, margin)) == equal


def test_an_identity_has_no_test():
    assert verdict(claims.identity("a", [1e-7, 2e-7], 1e-5)) == "agrees"
    assert verdict(claims.identity("a", [1e-7, 2e-5], 1e-5)) == "contradicts"


# The conjunction.


def test_all_parts_must_be_shown_and_need_no_adjustment():
    five = [claims.below(name, differences(5)) for name in "abc"]
    assert verdict(*five) == "agrees" and {part.p_value for part in five} == {1 / 2**5}
    assert verdict(*five, claims.below("d", differences(5, 0.0, 1.0))) == "undecided"


def test_one_opposite_contradicts_with_holm():
    agreeing = [claims.below(name, differences()) for name in "ab"]
    assert verdict(*agreeing, claims.below("c", -differences())) == "contradicts"
    five = [claims.below(name, differences(5)) for name in "a"]
    opposite = claims.below("c", -differences(5))
    assert verdict(opposite) == "contradicts" and verdict(*five, opposite) == "undecided"


def test_parts_that_cannot_be_compared_are_refused():
    with pytest.raises(ValueError, match="one at least"):
        claims.verdict_of([])
    with pytest.raises(ValueError, match="'b': 5"):
        verdict(claims.below("a", differences(8)), claims.below("b", differences(5)))


@pytest.mark.parametrize(
    ("gate", "met"),
    [
        (claims.alive(60, 90, 10), True),
        (claims.alive(49, 90, 10), False),
        (claims.sensitive(60, 58), True),
        (claims.sensitive(60, 58.5), False),
        (claims.not_overfitted(95, 86), True),
        (claims.not_overfitted(95, 85), False),
        (claims.converged(0.9), True),
        (claims.converged(1.0), False),
        (claims.converged(None), None),
        (claims.equally_long(12, 12), True),
        (claims.equally_long(6, 12), False),
        (claims.resolution(claims.equal("a", differences(mean=0, spread=0.1), 0.2)), True),
        (claims.resolution(claims.equal("a", differences(mean=0, spread=1.0), 0.2)), False),
        (claims.fresh(False), False),
    ],
)
def test_a_gate_that_is_not_met_decides_nothing(gate, met):
    assert gate.met is met
    for values in (differences(), -differences()):
        decided = claims.verdict_of([claims.below("a", values)], [gate])
        assert (decided == "undecided") == (met is False)


# The claim.

PARTS = (claims.below("a < 0", differences()), claims.below("b < 0", differences(mean=-2.0)))
CLAIM = claims.Claim(
    id="L1",
    statement="QM loses less than MP",
    source="paper, table 1",
    workload="A: MLP, MNIST",
    published="1.05 / 2.02",
    here="1.04 / 2.00 nats",
    unit="nats",
    parts=PARTS,
    gates=(claims.sensitive(60, 10), claims.converged(None)),
    fidelity="matched",
    verdict="agrees",
)
UNFIT = CLAIM._replace(
    id="L2", gates=(claims.alive(12, 90, 10),), fidelity="unfit", verdict="undecided"
)
ABSENT = CLAIM._replace(id="L4", parts=(), gates=(), verdict="undecided", here="-", note="no row")


def test_a_claim_survives_json_and_says_how_it_stands():
    for claim, standing in ((CLAIM, "agrees"), (UNFIT, "unfit"), (ABSENT, "absent")):
        assert claims.from_dict(json.loads(json.dumps(claims.to_dict(claim)))) == claim
        assert claim.standing == standing
    assert CLAIM.deciding is PARTS[0] and CLAIM.n == 8 and ABSENT.n == 0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"verdict": "PASS"}, "choose from agrees, contradicts, undecided"),
        ({"fidelity": "near"}, "choose from matched, proxy, unfit"),
        ({"id": ""}, "id is empty"),
        ({"verdict": "contradicts"}, "parts and gates say 'agrees'"),
        ({"gates": (claims.fresh(False),)}, "parts and gates say 'undecided'"),
        ({"fidelity": "unfit"}, "its gates say otherwise"),
        ({"parts": (PARTS[0]._replace(p_value=1.5),)}, "outside"),
        ({"parts": (PARTS[0]._replace(values=(float("nan"),)),)}, "not finite"),
    ],
)
def test_a_claim_that_cannot_be_read_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        claims.to_dict(CLAIM._replace(**change))


def test_missing_and_unknown_fields_are_named():
    fields = claims.to_dict(CLAIM)
    del fields["verdict"]
    with pytest.raises(ValueError, match=r"missing: \['verdict'\], unknown: \['outcome'\]"):
        claims.from_dict(fields | {"outcome": "holds"})


# The pages.


@pytest.fixture
def root(tmp_path):
    """A repository with the claims of one study."""
    (tmp_path / "README.md").write_text("# A\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nb\n")
    folder = tmp_path / "notebooks" / "results" / "loss_modelling"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "notebooks/results/loss_modelling/config.json", folder)
    write(tmp_path, CLAIM, UNFIT, ABSENT)
    return tmp_path


def write(root, *decided):
    decided = [claim._replace(workload="A: MLP-300-100, MNIST") for claim in decided]
    path = root / "notebooks" / "results" / "loss_modelling" / "claims.json"
    path.write_text(json.dumps([claims.to_dict(claim) for claim in decided]))


def test_one_command_writes_the_table_the_figure_and_the_pages(root, capsys):
    assert pages.main(["--check"], root) == 1
    assert "run python -m launch.claims" in capsys.readouterr().out
    assert not (root / "docs").exists()
    assert pages.main([], root) == 0 and pages.main(["--check"], root) == 0
    lines = (root / "README.md").read_text().splitlines()
    assert lines[0] == "# A" and lines[-1] == "b"
    told = "1 agrees, 0 contradicts, 0 undecided, 1 unfit, 1 absent"
    assert lines[2] == f"Of 3 claims on their workloads: {told}."
    assert lines[8] == (
        "| [L1](docs/claims/L1.md) QM loses less than MP (A) | 1.05 / 2.02 | 1.04 / 2.00 nats | "
        "a < 0: -1 [-1.06, -0.941], p = 0.0039 | **agrees**, matched, n = 8 |"
    )
    assert "gates not met: alive 0.025 | **unfit** |" in lines[9]
    page = (root / "docs/claims/L1.md").read_text()
    for text in (
        "MLP-300-100 (tanh)",
        "learning_rate 0.01",
        "| sensitive | 50 |",
        "-0.929, -0.9 |",
    ):
        assert text in page
    assert "not measured" in page and "<svg" in (root / "docs/claims/forest.svg").read_text()


def test_a_figure_that_shows_something_else_is_out_of_date(root):
    pages.main([], root)
    write(root, CLAIM._replace(parts=PARTS[:1]), UNFIT, ABSENT)
    stale = {path.name for path, text in pages.written(root).items() if path.read_text() != text}
    assert {"forest.svg", "L1.md"} <= stale and pages.main(["--check"], root) == 1


def test_distances_are_in_half_widths_on_the_claimed_side():
    part = claims.below("a", differences(mean=-1.0, spread=1.0))
    half = part.interval.estimate - part.interval.low
    assert pages.beyond(part) == pytest.approx(1 / half)
    assert pages.beyond(claims.above("a", part.values, 0.5)) == pytest.approx(-1.5 / half)
    assert pages.beyond(claims.equal("a", part.values, 3.0)) == pytest.approx(2 / half)
    assert pages.beyond(claims.above("a", [1.0, 1.0])) == pages.FARTHEST


def test_a_repository_without_results_says_so(root):
    shutil.rmtree(root / "notebooks")
    pages.main([], root)
    assert pages.EMPTY in (root / "README.md").read_text()


@pytest.mark.parametrize("text", ["", "<!-- claims:end --><!-- claims:begin -->"])
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(ValueError, match="claims:begin"):
        pages.updated(text, [])


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', '[{"id": "L1"}]'])
def test_a_damaged_file_of_claims_is_named(root, text):
    path = root / "notebooks" / "results" / "loss_modelling" / "claims.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="loss_modelling/claims.json"):
        pages.main([], root)


def test_the_committed_pages_are_up_to_date():
    assert pages.main(["--check"]) == 0


@pytest.mark.parametrize("name", ["loss_modelling", "mean_replacement", "pruning_mechanism"])
def test_the_committed_claims_are_those_of_the_committed_rows(name, monkeypatch):
    """Of the data only the sizes matter, so blank images stand in for it."""

    def load(name, *, seed, validation, subset=None):
        side, channels = (28, 1) if name == "mnist" else (32, 3)
        sizes = (subset or {"mnist": 60_000}.get(name, 50_000) - validation, validation, 10_000)
        splits = [
            Batch(
                np.broadcast_to(np.float32(0), (size, side, side, channels)),
                np.zeros(size, np.int32),
            )
            for size in sizes
        ]
        return data.Dataset(*splits, 10, name)

    monkeypatch.setattr(data, "load", load)
    run, study = results.read(ROOT / "notebooks" / "results" / name), studies.find(name)
    built = study.build(tupled(run.config))
    found = [claim for workload in built for claim in study.decide(run.results, workload)]
    found = json.loads(json.dumps([claims.to_dict(claim) for claim in found]))
    numbers, words = parted(found)
    committed, expected = parted(run.claims)
    assert words == expected
    # Sums of floats are compensated from Python 3.12 on.
    np.testing.assert_allclose(numbers, committed, rtol=1e-9, atol=1e-9)


def parted(tree):
    """The floats of nested lists and dicts, and the same with 0.0 in their place."""
    if isinstance(tree, float):
        return [tree], 0.0
    if not isinstance(tree, dict | list):
        return [], tree
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    parts = [(key, *parted(value)) for key, value in items]
    return [n for _, numbers, _ in parts for n in numbers], [(key, rest) for key, _, rest in parts]
