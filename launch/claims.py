"""Writes what the committed results say on the papers' claims: the README's figure and table, and a
page a claim.

``python -m launch.claims`` writes README.md, docs/claims/forest.svg and docs/claims/ID.md; with
``--check`` it only says whether they are up to date, and exits with 1 where they are not.
"""

import argparse
import hashlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pruning_jax import figures, studies
from pruning_jax.analysis import claims
from pruning_jax.analysis.claims import Claim, Part
from pruning_jax.lab import results
from pruning_jax.studies.questions import Question, text

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "<!-- claims:begin -->"
END = "<!-- claims:end -->"
FOLDER = "docs/claims"
FOREST = f"{FOLDER}/forest.svg"
EMPTY = "No study's results have been committed yet."
COLUMNS = ("claim", "paper", "here", "how near", "verdict")
STANDINGS = ("agrees", "contradicts", "undecided", "unfit", "absent")
FARTHEST = 30.0
"""Half-widths from its bound at which a part is drawn that lies further."""


class Study(NamedTuple):
    """A study's committed claims, and what they came from.

    Attributes:
      name: of the study.
      config: of the run.
      claims: in the study's order.
    """

    name: str
    config: Mapping[str, Any]
    claims: list[Claim]


def read(folder: Path) -> list[Study]:
    """The studies in ``folder/*/claims.json``.

    Raises:
      ValueError: a file that is no list of claims, naming the file.
    """
    found = []
    for path in sorted(folder.glob("*/claims.json")):
        try:
            decided = [claims.from_dict(of) for of in json.loads(path.read_text("utf-8"))]
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{path} holds no list of claims: {error}") from error
        found.append(Study(path.parent.name, results.read(path.parent).config, decided))
    return found


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def near(claim: Claim) -> str:
    """How near the deciding part is to what is claimed, or what stands in the way."""
    unmet = [f"{gate.name} {gate.value:.3g}" for gate in claim.gates if gate.met is False]
    if unmet:
        return f"gates not met: {', '.join(unmet)}"
    part = claim.deciding
    if part is None:
        return claim.note.split(";")[0]
    return f"{part.label}: {text(part.interval)}, p = {part.p_value:.2g}"


def table(decided: Sequence[Claim]) -> str:
    """The counts, the figure and the claims as a Markdown table, or a sentence where none is."""
    if not decided:
        return EMPTY
    counts = Counter(claim.standing for claim in decided)
    told = ", ".join(f"{counts[standing]} {standing}" for standing in STANDINGS)
    lines = [
        f"Of {len(decided)} claims on their workloads: {told}.",
        "",
        f"![Every part of every claim, by how far it lies from its bound]({FOREST})",
        "",
        _row(COLUMNS),
        "|---" * len(COLUMNS) + "|",
    ]
    for claim in decided:
        place, *arm = (of.strip() for of in claim.workload.split(";"))
        short = ", ".join([place.split(":")[0], *(of for of in arm if "cycle" in of)])
        named = f"[{claim.id}]({FOLDER}/{claim.id}.md) {claim.statement} ({short})"
        verdict = f"**{claim.standing}**, {claim.fidelity}, n = {claim.n}"
        if claim.standing in claims.FIDELITIES or not claim.n:
            verdict = f"**{claim.standing}**"
        lines.append(_row((named, claim.published, claim.here, near(claim), verdict)))
    return "\n".join(lines)


def updated(readme: str, decided: Sequence[Claim]) -> str:
    """`readme` with the table between its two markers.

    Raises:
      ValueError: a README in which the two markers do not stand once each and in order.
    """
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise ValueError(f"README.md needs one line {BEGIN} and after it one line {END}")
    return f"{before}{BEGIN}\n{table(decided)}\n{END}{after}"


def beyond(part: Part) -> float:
    """How far the mean lies on the claimed side of its bound, in half-widths of its interval."""
    mean, low, _ = part.interval
    distance = part.bound - abs(mean) if part.sign == 0 else part.sign * (mean - part.bound)
    half = mean - low
    if not half:
        return FARTHEST if distance >= 0 else -FARTHEST
    return max(-FARTHEST, min(FARTHEST, distance / half))


def forest(decided: Iterable[Claim]) -> list[figures.Effect]:
    """A row of the figure for every part of the claims."""
    return [
        figures.Effect(
            f"{claim.id} {claim.workload.split(':')[0]}  {part.label}",
            beyond(part),
            claim.standing,
            claim.fidelity == "proxy",
        )
        for claim in decided
        for part in claim.parts
    ]


def drawing(decided: Sequence[Claim]) -> str:
    """The figure as SVG, with a digest of what it shows."""
    rows, buffer = forest(decided), io.BytesIO()
    note = {"Date": None, "Description": _digest(rows)}
    figures.forest(rows).savefig(buffer, format="svg", metadata=note)
    return buffer.getvalue().decode()


def _digest(rows: list[figures.Effect]) -> str:
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def page(id: str, question: Question, paper: Mapping[str, str], found: list[tuple]) -> str:
    """What is known of a claim: its formula, settings, every part and seed, gates, what is next.

    Args:
      id: the claim's code.
      question: as it is put.
      paper: what the paper ran, in words.
      found: the claim and the config's workload, for every workload.
    """
    lines = [
        f"# {id}: {question.statement}",
        "",
        f"{question.source}. Published: {found[0][0].published}.",
        "",
        f"**What is computed.** {question.formula}. Unit: {question.unit}.",
        "",
        f"**What would change the verdict, and what it costs.** {question.changes}.",
        *(["", f"**Before.** {question.history}"] if question.history else []),
    ]
    for claim, workload in found:
        lines += ["", f"## {claim.workload}: {claim.standing}", "", f"Here: {claim.here}."]
        lines += ["", f"{claim.note}."] if claim.note else []
        lines += ["", *_settings(paper, workload)]
        if claim.gates:
            lines += ["", _row(("gate", "value", "must be", "met")), "|---|---|---|---|"]
        for gate in claim.gates:
            value = "not measured" if gate.value is None else f"{gate.value:.3g}"
            met = {True: "yes", False: "**no**", None: "-"}[gate.met]
            lines.append(_row((gate.name, value, gate.rule, met)))
        if claim.parts:
            header = ("statement", "mean [95 %]", "p", "p of the opposite", "every seed")
            lines += ["", _row(header), "|---" * len(header) + "|"]
        for part in claim.parts:
            seeds = ", ".join(f"{value:.3g}" for value in part.values)
            p_values = f"{part.p_value:.2g}", f"{part.p_opposite:.2g}"
            lines.append(_row((part.label, text(part.interval), *p_values, seeds)))
    return "\n".join(lines) + "\n"


def _settings(paper: Mapping[str, str], workload: Mapping[str, Any]) -> list[str]:
    """What the paper and the run had, side by side."""
    model, recipe = dict(workload["model"]), workload["training"]
    subset = f", {workload['subset']:,} training images" if workload["subset"] else ""
    here = {
        "network": " ".join([model.pop("name"), *(f"{k}={v}" for k, v in model.items())]),
        "data": f"{workload['dataset']}{subset}, {workload['validation']:,} held out",
        "training": ", ".join(f"{name} {value}" for name, value in recipe.items()),
        "seeds": ", ".join(map(str, workload["seeds"])),
    }
    rows = [_row((name, paper.get(name, "-"), value)) for name, value in here.items()]
    return [_row(("", "paper", "here")), "|---|---|---|", *rows]


def written(root: Path) -> dict[Path, str]:
    """Every file that this command writes, and its content."""
    found = read(root / "notebooks" / "results")
    decided = [claim for study in found for claim in study.claims]
    files = {root / "README.md": updated((root / "README.md").read_text("utf-8"), decided)}
    if decided:
        files[root / FOREST] = drawing(decided)
    for study in found:
        module = studies.find(study.name)
        for id, group in itertools.groupby(sorted(study.claims), lambda claim: claim.id):
            several = [(claim, _workload(study, claim)) for claim in group]
            content = page(id, module.QUESTIONS[id], module.PAPER, several)
            files[root / FOLDER / f"{id}.md"] = content
    return files


def _workload(study: Study, claim: Claim) -> Mapping[str, Any]:
    """The config's workload that a claim is of: the one whose label it carries."""
    module, workloads = studies.find(study.name), study.config["workloads"]
    for name, values in workloads.items():
        if len(workloads) == 1 or claim.workload.startswith(module.LABELS.get(name, name)):
            return values
    raise ValueError(f"claim {claim.id} is of {claim.workload!r}, which the config does not name")


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Writes or checks the files of `written`; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m launch.claims", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    check = parser.parse_args(arguments).check
    files = written(root)
    stale = [path for path, content in files.items() if not _is_current(path, content)]
    names = ", ".join(str(path.relative_to(root)) for path in stale)
    if not stale:
        print("README.md and docs/claims are up to date.")
        return 0
    if check:
        print(f"Out of date: {names}; run python -m launch.claims")
        return 1
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], "utf-8")
    print(f"Written: {names}")
    return 0


def _is_current(path: Path, content: str) -> bool:
    """Whether a file says what it should; a figure is compared by what it shows."""
    if not path.exists():
        return False
    there = path.read_text("utf-8")
    if path.suffix != ".svg":
        return there == content
    start = content.index("<dc:description>")
    return content[start : content.index("</dc:description>")] in there


if __name__ == "__main__":
    raise SystemExit(main())
