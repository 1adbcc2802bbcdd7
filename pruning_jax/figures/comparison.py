"""The figure of a comparison of criteria."""

from collections.abc import Iterable

import numpy as np
from matplotlib.figure import Figure

from pruning_jax.figures import drawing
from pruning_jax.measurements import Row, values, where


def accuracy_by_sparsity(rows: Iterable[Row]) -> Figure:
    """Test accuracy against sparsity, a line a criterion, right after pruning and retrained.

    Args:
      rows: of a comparison; a point is the mean over seeds, its bar their standard deviation.
    """
    rows = list(rows)
    sparsities = values((row for row in rows if "sparsity" in row), "sparsity")
    dense = [100 * row["test_accuracy"] for row in where(rows, phase="pretrained")]
    figure, axes = drawing.panels(2)
    panels = ("pruned", "right after pruning"), ("retrained", "after retraining")
    for ax, (phase, title) in zip(axes, panels, strict=True):
        found = where(rows, phase=phase)
        for criterion in drawing.criteria(found):
            drawn = where(found, criterion=criterion)
            points = {
                sparsity: [100 * row["test_accuracy"] for row in where(drawn, sparsity=sparsity)]
                for sparsity in values(drawn, "sparsity")
            }
            drawing.line(ax, sparsities, points, **drawing.look(criterion))
        if dense:
            ax.axhline(np.mean(dense), color="black", linestyle="--", linewidth=1, label="dense")
        drawing.categories(ax, [f"{100 * sparsity:g}" for sparsity in sparsities])
        ax.set(title=title, xlabel="sparsity (% of prunable weights)")
    return drawing.finish(figure, axes, "test accuracy (%)")
