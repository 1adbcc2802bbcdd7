"""The table of accuracies beside the published ones, from rows whose means are known."""

import numpy as np
import pytest
from pruning_mechanism_rows import DENSE, RESNET8, VALIDATION, run, workload

from pruning_jax.studies.pruning_mechanism import tables
from pruning_jax.studies.pruning_mechanism.claims import PUBLISHED, REGIMES

WORKLOADS = {"small_conv": {"arms": {}}, "resnet8": RESNET8}
LINES = 1 + sum(len(arm["regimes"]) for arm in RESNET8["arms"].values())


@pytest.fixture(scope="module")
def rows():
    return run(workload())


def cells(text):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()[2:]]


def of(arm, regime, table):
    """The one line of an arm and regime."""
    values = RESNET8["arms"][arm]
    pruned = f"{values['prunes']}, {100 * values['share']:g} % in each of {values['compared']}"
    (line,) = [line for line in table if line[1].startswith(pruned) and line[2] == REGIMES[regime]]
    return line


def test_ours_stand_beside_the_papers(rows):
    table = cells(tables.beside_published(rows, WORKLOADS))
    assert len(table) == LINES and all(len(line) == len(tables.HEADER) for line in table)
    assert {line[0] for line in table} == {"D: ResNet-8"} and {line[8] for line in table} == {"8"}
    assert table[0][1:4] == ["nothing", "", "100"] and table[0][5:8] == ["", "", ""]
    assert float(table[0][4].split(" ± ")[0]) == pytest.approx(100 * DENSE, abs=0.5)
    for arm, published in PUBLISHED.items():
        for regime, figure in published.items():
            line = of(arm, regime, table)
            assert line[6] == f"{figure:.3f}"
            if regime != "learning_rate_rewinding":
                mean = float(line[4].split(" ± ")[0])
                assert mean == pytest.approx(100 * VALIDATION[arm][regime], abs=0.5)


def test_means_spreads_and_shares_are_those_of_the_cycle_compared(rows):
    asked = {"phase": "network", "arm": "weight", "regime": "fine_tuning", "cycle": 5}
    own = [row for row in rows if asked.items() <= row.items()]
    accuracies = 100 * np.array([row["validation_accuracy"] for row in own])
    line = of("weight", "fine_tuning", cells(tables.beside_published(rows, WORKLOADS)))
    assert line[4] == f"{accuracies.mean():.2f} ± {accuracies.std(ddof=1):.2f}"
    assert line[3] == f"{100 * (1 - own[0]['removed'] / own[0]['prunable']):.3g}" == "16.8"


def test_places_follow_the_means(rows):
    table = cells(tables.beside_published(rows, WORKLOADS))
    regimes = ("learning_rate_rewinding", "fine_tuning", "small")
    weight = [of("weight", regime, table) for regime in regimes]
    assert [line[5] for line in weight] == [line[7] for line in weight] == ["1", "2", "3"]
    channel = [of("channel", regime, table) for regime in regimes]
    assert [line[5] for line in channel] == [line[7] for line in channel] == ["2", "3", "1"]
    harsh = [of("harsh_channel", regime, table) for regime in regimes[:2]]
    assert [line[5:8] for line in harsh] == [["1", "", ""], ["2", "", ""]]


def test_the_papers_arms_come_first_however_a_config_lists_them(rows):
    arms = {name: RESNET8["arms"][name] for name in sorted(RESNET8["arms"])}
    shuffled = tables.beside_published(rows, {"resnet8": {"arms": arms}})
    assert [*arms] != [*RESNET8["arms"]]
    assert shuffled == tables.beside_published(rows, WORKLOADS)


def test_equal_means_share_a_place():
    own = run(workload(), accuracy=lambda unit: 0.5, noise=0.0)
    table = cells(tables.beside_published(own, WORKLOADS))
    assert {line[5] for line in table[1:]} == {"1"}


def test_seeds_that_differ_have_no_places(rows):
    missing = {"regime": "small", "arm": "weight", "seed": 3}
    fewer = [row for row in rows if not missing.items() <= row.items()]
    table = cells(tables.beside_published(fewer, WORKLOADS))
    assert of("weight", "small", table)[8] == "7"
    assert {of("weight", regime, table)[5] for regime in REGIMES} == {""}
    assert {of("channel", regime, table)[5] for regime in REGIMES} == {"1", "2", "3"}


def test_the_table_of_part_of_a_run_has_blanks(rows):
    for count in range(0, len(rows), 97):
        table = cells(tables.beside_published(rows[:count], WORKLOADS))
        assert len(table) == LINES
    first = cells(tables.beside_published(rows[:1], WORKLOADS))
    assert "±" not in first[0][4] and first[0][8] == "1"
    assert {tuple(line[3:6]) for line in first[1:]} == {("", "", "")}
    assert {line[8] for line in first[1:]} == {"0"}
    assert of("channel", "fine_tuning", first)[6] == "43.375"


def test_a_workload_without_arms_has_no_lines(rows):
    head = tables.beside_published(rows, {"small_conv": {}})
    assert cells(head) == [] and head.count("\n") == 1


def test_what_has_no_name_is_shown_as_it_is_called(rows):
    values = {"arms": {"mine": RESNET8["arms"]["weight"] | {"regimes": ("weight_rewinding",)}}}
    table = cells(tables.beside_published(rows, {"other": values}))
    assert [line[0] for line in table] == ["other", "other"]
    assert table[1][2] == "weight rewinding" and table[1][6:8] == ["", ""]
