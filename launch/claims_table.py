"""Writes the claims that the committed results decide into the README.

``python -m launch.claims_table`` writes the table; with ``--check`` it only says whether the table
is up to date, and exits with 1 where it is not.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from pruning_jax.analysis import claims
from pruning_jax.analysis.claims import Claim

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- claims:begin -->"
END = "<!-- claims:end -->"
EMPTY = "No study's results have been committed yet."
COLUMNS = ("id", "claim", "paper", "published", "ours [95 % CI]", "n", "workload", "verdict")


def read_claims(results: Path) -> list[Claim]:
    """Every claim in ``results/*/claims.json``, by study and in the study's own order.

    Raises:
      ValueError: a file that is no list of claims, naming the file.
    """
    found = []
    for path in sorted(results.glob("*/claims.json")):
        try:
            found += [claims.from_dict(fields) for fields in json.loads(path.read_text("utf-8"))]
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} holds no list of claims: {error}") from error
    return found


def _ours(claim: Claim) -> str:
    if claim.estimate is None:
        return "-"
    interval = "" if claim.ci is None else " [{:.3g}, {:.3g}]".format(*claim.ci)
    p_value = "" if claim.p_value is None else f", p = {claim.p_value:.2g}"
    return f"{claim.estimate:.3g}{interval}{p_value}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def table(rows: Sequence[Claim]) -> str:
    """The claims as a Markdown table with their notes below, or a sentence where there is none."""
    if not rows:
        return EMPTY
    lines = [_row(COLUMNS), "|---" * len(COLUMNS) + "|"]
    for claim in rows:
        cells = (claim.id, claim.statement, claim.source, claim.published or "-", _ours(claim))
        lines.append(_row((*cells, str(claim.n), claim.workload, f"**{claim.verdict}**")))
    notes = [
        f"- {claim.id}, {claim.workload}: {' '.join(claim.note.split())}"
        for claim in rows
        if claim.note
    ]
    return "\n".join([*lines, "", *notes] if notes else lines)


def updated(readme: str, rows: Sequence[Claim]) -> str:
    """`readme` with the table of `rows` between its two markers.

    Raises:
      ValueError: a README in which the two markers do not stand once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ValueError(f"README.md needs one line {BEGIN} and after it one line {END}")
    return f"{before}{BEGIN}\n{table(rows)}\n{END}{after}"


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Writes or checks the table in ``root/README.md``; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m launch.claims_table", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    check = parser.parse_args(arguments).check
    readme = root / "README.md"
    old = readme.read_text("utf-8")
    new = updated(old, read_claims(root / "notebooks" / "results"))
    if old == new:
        print("The claims table in README.md is up to date.")
        return 0
    if check:
        print("The claims table in README.md is out of date: run python -m launch.claims_table")
        return 1
    readme.write_text(new, "utf-8")
    print("The claims table in README.md has been written.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
