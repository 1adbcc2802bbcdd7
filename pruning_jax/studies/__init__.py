"""The studies, a module each, over the networks they share: dense, pruned, trained again."""

from types import ModuleType

from pruning_jax import choices
from pruning_jax.studies import comparison, loss_modelling, mean_replacement, pruning_mechanism

STUDIES: dict[str, ModuleType] = {
    "comparison": comparison,
    "loss_modelling": loss_modelling,
    "mean_replacement": mean_replacement,
    "pruning_mechanism": pruning_mechanism,
}
"""A study is a module with ``build(config) -> plan``, which checks and computes nothing;
``run(plan, lab)``, which measures what has no row yet; and ``conclude(plan, lab)``, which
writes claims and figures from the rows there are, few or all, and from several runs as from one."""


def find(name: str) -> ModuleType:
    """The study of a name; raises `ValueError` for an unknown one."""
    choices.check("study", name, STUDIES)
    return STUDIES[name]
