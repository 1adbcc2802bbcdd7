"""The figure of a comparison of criteria."""

from collections.abc import Iterable

from matplotlib.figure import Figure

from pruning_jax.figures import plots
from pruning_jax.measurements import Row, values, where

PHASES = {"pruned": "right after pruning", "retrained": "after retraining"}


def accuracy_by_sparsity(rows: Iterable[Row]) -> Figure:
    """Test accuracy against sparsity, a line a criterion, right after pruning and retrained.

    Args:
      rows: of a comparison.
    """
    rows = list(rows)
    shown = [row for row in rows if row["phase"] in PHASES]
    places = {(row["phase"], row["sparsity"]) for row in shown}
    for dense in where(rows, phase="pretrained"):
        at = [{"phase": phase, "sparsity": sparsity} for phase, sparsity in sorted(places)]
        shown += [dense | place | {"criterion": "dense"} for place in at]
    sweep = plots.Sweep(
        "sparsity", "accuracy", "criterion", panel="phase", panels=PHASES, within=(0, 100),
        ticks={sparsity: f"{100 * sparsity:.4g}" for sparsity in values(shown, "sparsity")},
        x_label="sparsity (% of prunable weights)", y_label="test accuracy (%)",
    )  # fmt: skip
    drawn = [row | {"accuracy": 100 * row["test_accuracy"]} for row in shown]
    return plots.curves(plots.table(drawn), sweep)
