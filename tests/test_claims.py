"""Verdicts from differences whose answer is known, and the table that shows them."""

import json

import numpy as np
import pytest

from launch import claims_table
from pruning_jax.analysis import claims

CLAIM = claims.Claim(
    id="L1",
    statement="QM loses less than MP",
    source="paper, table 1",
    workload="A",
    published="1.05 / 2.02",
    n=8,
    estimate=-0.97,
    ci=(-1.1, -0.84),
    p_value=1 / 256,
    verdict="holds",
)


def differences(n=8, mean=-1.0, spread=0.1):
    return mean + spread * np.linspace(-1, 1, n)


@pytest.mark.parametrize("alternative, sign", [("less", 1), ("greater", -1)])
def test_order_holds_where_every_pair_agrees_on_every_seed(alternative, sign):
    pairs = {"a < b": sign * differences(), "b < c": sign * differences(mean=-2.0)}
    order = claims.paired_order(pairs, alternative=alternative)
    assert order.verdict == "holds" and order.n == 8
    assert [test.p_value for test in order.tests] == [2 / 256, 2 / 256]
    assert order.tests[1].interval.estimate == pytest.approx(sign * -2.0)


def test_order_fails_where_one_pair_is_shown_to_be_the_other_way():
    pairs = {"a < b": differences(), "b < c": differences(mean=1.0)}
    order = claims.paired_order(pairs)
    assert order.verdict == "fails"
    assert order.deciding.label == "b < c" and order.deciding.p_opposite == 2 / 256


def test_order_is_inconclusive_where_a_pair_shows_neither():
    pairs = {"a < b": differences(), "b < c": differences(mean=0.1, spread=1.0)}
    order = claims.paired_order(pairs)
    assert order.verdict == "inconclusive" and order.deciding.label == "b < c"


@pytest.mark.parametrize("n, verdict", [(5, "inconclusive"), (6, "holds")])
def test_two_pairs_need_six_seeds(n, verdict):
    pairs = {"a < b": differences(n), "b < c": differences(n)}
    assert claims.paired_order(pairs).verdict == verdict


def test_one_pair_of_five_seeds_is_enough_when_all_agree():
    assert claims.paired_order({"a < b": differences(5)}).verdict == "holds"


def test_no_difference_is_inconclusive():
    assert claims.paired_order({"a < b": np.zeros(8)}).verdict == "inconclusive"


def test_order_refuses_pairs_it_cannot_compare():
    with pytest.raises(ValueError, match="at least one pair"):
        claims.paired_order({})
    with pytest.raises(ValueError, match="'b < c': 5"):
        claims.paired_order({"a < b": differences(8), "b < c": differences(5)})


def test_claim_survives_json():
    assert claims.from_dict(json.loads(json.dumps(claims.to_dict(CLAIM)))) == CLAIM
    untested = CLAIM._replace(n=0, estimate=None, ci=None, p_value=None, verdict="not tested")
    assert claims.from_dict(json.loads(json.dumps(claims.to_dict(untested)))) == untested


@pytest.mark.parametrize(
    "change, message",
    [
        ({"verdict": "PASS"}, "choose from holds, fails, inconclusive, not tested"),
        ({"id": ""}, "id is empty"),
        ({"n": -1}, "n is -1"),
        ({"estimate": float("nan")}, "not finite"),
        ({"ci": (1.0, 0.0)}, "low must not exceed high"),
        ({"ci": (1.0,)}, r"must be \(low, high\)"),
        ({"p_value": 1.5}, "p_value is 1.5"),
        ({"n": 1}, "at least 2 seeds"),
        ({"estimate": None}, "needs an estimate"),
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


def repository(tmp_path, rows=()):
    (tmp_path / "README.md").write_text("# A\n<!-- claims:begin -->\nold\n<!-- claims:end -->\nb\n")
    for i, row in enumerate(rows):
        study = tmp_path / "notebooks" / "results" / f"study_{i}"
        study.mkdir(parents=True)
        (study / "claims.json").write_text(json.dumps([claims.to_dict(row)]))
    return tmp_path


def test_table_shows_published_beside_ours(tmp_path):
    root = repository(tmp_path, [CLAIM, CLAIM._replace(id="L2", note="a | b\nc", ci=None)])
    assert claims_table.main([], root) == 0
    lines = (root / "README.md").read_text().splitlines()
    assert lines[0] == "# A" and lines[-1] == "b"
    assert lines[4] == (
        "| L1 | QM loses less than MP | paper, table 1 | 1.05 / 2.02 "
        "| -0.97 [-1.1, -0.84], p = 0.0039 | 8 | A | **holds** |"
    )
    assert lines[7] == "- L2, A: a | b c"
    assert {line.count("|") for line in lines[2:6]} == {len(claims_table.COLUMNS) + 1}


def test_check_writes_nothing_and_tells_when_out_of_date(tmp_path, capsys):
    root = repository(tmp_path, [CLAIM])
    before = (root / "README.md").read_text()
    assert claims_table.main(["--check"], root) == 1
    assert (root / "README.md").read_text() == before
    assert "run python -m launch.claims_table" in capsys.readouterr().out
    claims_table.main([], root)
    assert claims_table.main(["--check"], root) == 0


def test_a_repository_without_results_says_so(tmp_path):
    root = repository(tmp_path)
    claims_table.main([], root)
    assert claims_table.EMPTY in (root / "README.md").read_text()


@pytest.mark.parametrize("text", ["", "<!-- claims:end --><!-- claims:begin -->"])
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(ValueError, match="claims:begin"):
        claims_table.updated(text, [])


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": 1}', '[{"id": "L1"}]'])
def test_a_damaged_file_of_claims_is_named(tmp_path, text):
    root = repository(tmp_path, [CLAIM])
    path = root / "notebooks" / "results" / "study_0" / "claims.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="study_0/claims.json"):
        claims_table.main([], root)


def test_the_committed_table_is_up_to_date():
    assert claims_table.main(["--check"]) == 0
