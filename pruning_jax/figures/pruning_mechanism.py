"""The figures of the study of the pruning mechanism, numbered as the paper's.

Of the paper's figures only what its text says of them is known here, so these show the same
quantities and do not copy a layout.
"""

from collections.abc import Iterable

from matplotlib.figure import Figure

from pruning_jax.figures.basins import Published, basins
from pruning_jax.figures.utility import utility
from pruning_jax.measurements import Row, values, where


def pruning_mechanism(
    rows: Iterable[Row], *, published: Published | None = None
) -> dict[str, Figure]:
    """The figures 1 to 6 of S0 and its table for each workload, where their rows are there.

    Args:
      rows: of ``results.jsonl``.
      published: arm -> regime -> the paper's validation accuracy in per cent.

    Returns:
      For a workload W, ``figure_1_W`` to ``figure_5_W``; the planes, with re-estimated batch-norm
      statistics ``figure_6_W``, with those of the pretrained network ``figure_6_kept_W``, of a
      further seed S ``figure_6_seed_S_W``; the profiles ``figure_6_barriers_W``; the table's
      ``accuracies_W``.
    """
    figures, rows = {}, list(rows)
    for workload in values(rows, "workload"):
        own = where(rows, workload=workload)
        for number, figure in utility(own):
            figures[f"figure_{number}_{workload}"] = figure
        for name, figure in basins(own, published or {}):
            figures[f"{name}_{workload}"] = figure
    return figures
