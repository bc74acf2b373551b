"""What ``litmus compare`` does: choose, group, judge, draw, record, say."""

from __future__ import annotations

import json
import math
import re
import shlex
import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from litmus.compare.arms import ABSENT, SEVERAL, Arm, Arms, by_problems, fairness, group
from litmus.compare.contrast import Contrast, Shared, as_numbers, contrasts, headline, p_text, sentences
from litmus.compare.images import shared_answers, single_pairs
from litmus.compare.page import write_page
from litmus.compare.select import (
    CURVES,
    Training,
    chosen_runs,
    data_problems,
    named_runs,
    parse_conditions,
    read_trainings,
    value_of,
)
from litmus.diagnosis.gaps import wilson
from litmus.diagnosis.paired import FEWEST_SEEDS, interval, mcnemar
from litmus.errors import Problem, Refused, nearest
from litmus.paths import shown
from litmus.tracking import Run, StoredRun, environment, environment_tags, find_run, mask_secrets

FOLDER, PAGE, NUMBERS = "compare", "compare.html", "comparison.json"
MOST_PRINTED, MOST_WARNINGS = 30, 8
_PICTURES = ("curves", "errors", "parallel")

Rows = list[list[str]]


@dataclass(frozen=True)
class Comparison:
    """All that is known before anything is drawn."""

    name: str
    arms: Arms
    reference: int
    found: list[Contrast | None]
    says: list[str]
    warnings: list[str]
    on_test: dict[int, Shared]

    @property
    def trainings(self) -> list[Training]:
        return [one for arm in self.arms.arms for one in arm.trainings]

    @property
    def best(self) -> Arm:
        return min(self.arms.arms, key=lambda arm: arm.mean)


def compare_runs(
    references: Sequence[str] = (),
    *,
    where: Sequence[str] = (),
    study: str | None = None,
    by: str | None = None,
    reference: str | None = None,
    images: bool = False,
    allow_different: bool = False,
    name: str | None = None,
    home: str = "mlruns",
    uri: str | None = None,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Compare finished trainings by their validation error; write pictures and a page, and record both as a run.

    Args:
        references: two runs or more, each as for ``find_run``.
        where: conditions instead, see ``parse_conditions``.
        study: or the trials of this study, narrowed by ``where``.
        by: the factor, see ``group``.
        reference: the arm, or a run in it, that the others are held against; default: the first.
        images: evaluate arms of a single run again and compare them image by image.
        allow_different: go on though the runs have different data sets or classes.
        name: of the folder below ``home/compare`` and of the run; default: made of factors and runs.

    Raises:
        Refused: before anything is computed or written, with everything that is wrong.
    """
    trainings, notes = _choose(references, where, study, name, by, home=home, uri=uri)
    problems = [] if allow_different else data_problems(trainings)
    arms, wrong = group(trainings, by)
    problems += wrong
    at = 0
    if not wrong:
        at, wrong = _reference(arms, reference, home=home, uri=uri)
        problems += wrong
        if images and not wrong and not single_pairs(arms, at):
            says = "compares arms of one run with each other; the reference, or every other arm, has several seeds"
            problems.append(Problem("--images", says))
    if problems:
        raise Refused(problems, source="comparison")
    answers = shared_answers(arms, at, say=say) if images else {}
    found = contrasts(arms, at, answers.get("val"))
    warnings = fairness(arms, at, by)
    left = len(warnings) - MOST_WARNINGS
    comparison = Comparison(
        name or _name_of(arms, by, reference, images),
        arms,
        at,
        found,
        sentences(arms, at, found),
        warnings[:MOST_WARNINGS] + ([f"{left} more fields of their records differ"] if left > 0 else []),
        answers.get("test", {}),
    )
    for line in report(comparison, [*notes, *arms.notes]):
        say(line)
    offline = all(one.config.tracking.offline for one in trainings)
    folder, tracked = _keep(comparison, Path(home) / FOLDER / comparison.name, home=home, uri=uri, offline=offline)
    say("")
    for picture in sorted(folder.glob("*.png")):
        say(f"picture  {shown(picture)}")
    say(f"numbers  {shown(folder / NUMBERS)}")
    say(f"page     {shown(folder / PAGE)}")
    say(f"run      {tracked.id or tracked.uid}" + ("" if tracked.id else "  (not sent yet: litmus sync)"))
    say(f"next     {_next(comparison, home)}")
    return comparison


def report(comparison: Comparison, notes: Sequence[str] = ()) -> list[str]:
    """What a person reads: arms, differences from the reference, what was found, and what makes it unfair."""
    arms, at = comparison.arms.arms, comparison.reference
    kept = _most_telling(comparison)
    lines = [f"{len(comparison.trainings)} runs in {len(arms)} arms; the reference is {arms[at].label}", ""]
    lines += _columns(arms_table(comparison, kept))
    lines += ["", *_columns(contrast_table(comparison, kept)), ""]
    if len(kept) < len(arms):
        lines += [f"the best {len(kept)} of {len(arms)} arms; the page has all", ""]
    lines += [*_columns(difference_table(comparison.arms, kept, most=8)), ""]
    for kind, texts in (("note", notes), ("unfair", comparison.warnings), ("found", comparison.says)):
        lines += [line for text in texts for line in _wrapped(kind, text)]
    lines += [line for text in test_sentences(comparison) for line in _wrapped("test", text)]
    return lines


def arms_table(comparison: Comparison, rows: Sequence[int]) -> Rows:
    """Errors of each arm, validation first, and its verdict of bias and variance."""
    table = [["arm", "seeds", "val/err (95%)", "test/err (95%)", "bias or variance"]]
    for i in rows:
        arm = comparison.arms.arms[i]
        table.append([arm.label, str(len(arm.runs)), _rate(arm, "val"), _rate(arm, "test"), _diagnosis(arm)])
    return table


def contrast_table(comparison: Comparison, rows: Sequence[int]) -> Rows:
    """Each arm's validation error minus the reference's."""
    several = len(comparison.arms.arms) > 2
    p = "p (Holm)" if several else "p"
    table = [["against the reference", "val/err, points (95%)", "lower on", "sign test", p, "verdict", "compared by"]]
    for i in rows:
        one = comparison.found[i]
        if one is None:
            continue
        finite = math.isfinite(one.low)
        around = f" ({_points(one.low)} to {_points(one.high)})" if finite else ""
        lower = f"{one.lower} of {one.of}" if one.sign_p is not None else "-"
        sign = f"{one.sign_p:.3f}" if one.sign_p is not None else "-"
        cells = [f"{_points(one.difference)}{around}", lower, sign]
        cells.append(p_text(one.p_holm).removeprefix("= ") if finite else "-")
        table.append([comparison.arms.arms[i].label, *cells, one.verdict, one.basis])
    return table


def difference_table(arms: Arms, rows: Sequence[int], *, most: int | None = None) -> Rows:
    """Every key in which runs differ, and each arm's value: keys down where there are few arms, across else."""
    keys = [*arms.factors, *arms.beside]
    shown_keys = keys[:most]
    more = [[f"({len(keys) - len(shown_keys)} more keys)"]] if len(shown_keys) < len(keys) else []
    if len(rows) <= 4:
        heads = [["differs", *(arms.arms[i].label for i in rows)]]
        return [*heads, *([key, *(arms.arms[i].values[key] for i in rows)] for key in shown_keys), *more]
    return [
        ["differs", *shown_keys],
        *([arms.arms[i].label, *(arms.arms[i].values[key] for key in shown_keys)] for i in rows),
        *more,
    ]


def runs_table(comparison: Comparison) -> Rows:
    """Every run with its own numbers."""
    table = [["run", "name", "arm", "seed", "val/err", "test/err", "bias or variance"]]
    for arm in comparison.arms.arms:
        for one in arm.trainings:
            test = "-" if one.test_err is None else f"{one.test_err:.4f}"
            verdict = one.run.tags.get("litmus.verdict", "-")
            table.append([one.run.id8, one.run.name, arm.label, str(one.seed), f"{one.val_err:.4f}", test, verdict])
    return table


def test_sentences(comparison: Comparison) -> list[str]:
    """What may be said of the test set: that it chose nothing."""
    arms, at = comparison.arms.arms, comparison.reference
    if not any(arm.test_errs for arm in arms):
        return ["none of these runs was tested: a search leaves the test set alone"]
    says = ["test errors are reported; what is chosen is chosen by validation, or the test set is used up"]
    for i, one in comparison.on_test.items():
        says.append(
            f"{arms[i].label} and {arms[at].label} on the same {one.num_images:,} test images: only one wrong "
            f"{one.only_arm} and {one.only_reference}, McNemar p {p_text(mcnemar(one.only_arm, one.only_reference))}"
        )
    return says


def _choose(
    references: Sequence[str],
    where: Sequence[str],
    study: str | None,
    name: str | None,
    by: str | None,
    *,
    home: str,
    uri: str | None,
) -> tuple[list[Training], list[str]]:
    problems: list[Problem] = []
    notes: list[str] = []
    runs: list[StoredRun] = []
    if name is not None and not re.fullmatch(r"\w[\w.-]{0,79}", name):
        problems.append(Problem("--name", "is a name, not a path: letters, digits, '_', '-' and '.', at most 80", name))
    if references and (where or study is not None):
        problems.append(Problem("run", "name runs, or choose them by --where and --study, not both", list(references)))
    conditions = []
    try:
        conditions = parse_conditions(where)
    except Refused as refused:
        problems += refused.problems
    if references or not (where or study is not None):
        runs, wrong = named_runs(references, home=home, uri=uri)
        problems += wrong
    elif not problems:
        runs, wrong, notes = chosen_runs(conditions, study, home=home, uri=uri)
        problems += wrong
    trainings, wrong = read_trainings(runs)
    problems += wrong
    if problems:
        if by is not None and trainings:
            problems += by_problems(trainings, by)
        raise Refused(problems, source="comparison")
    return trainings, notes


def _reference(arms: Arms, wanted: str | None, *, home: str, uri: str | None) -> tuple[int, list[Problem]]:
    """By label, by the value of the one factor, or by a run in it."""
    if wanted is None:
        return 0, []
    for i, arm in enumerate(arms.arms):
        if wanted == arm.label or [wanted] == [arm.values[key] for key in arms.factors]:
            return i, []
    try:
        uid = find_run(wanted, home=home, uri=uri).uid
    except Refused:
        uid = None
    for i, arm in enumerate(arms.arms):
        if any(one.run.uid == uid for one in arm.trainings):
            return i, []
    says = "is neither an arm nor a compared run" if uid is None else "is a run, but in none of the arms"
    return 0, [Problem("--reference", f"{says}; {nearest(wanted, [arm.label for arm in arms.arms])}", wanted)]


def _name_of(arms: Arms, by: str | None, reference: str | None, images: bool) -> str:
    """The same for the same question, so that asking again replaces its files."""
    uids = sorted(one.run.uid or one.run.id or "" for arm in arms.arms for one in arm.trainings)
    digest = blake2b(json.dumps([uids, by, reference, images]).encode(), digest_size=4).hexdigest()
    words = "-".join(key.replace(".", "-") for key in arms.factors[:2])
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', words)[:60].strip('-') or 'arms'}-{digest}"


# The record


def _keep(comparison: Comparison, folder: Path, *, home: str, uri: str | None, offline: bool) -> tuple[Path, Run]:
    """Pictures, numbers and page in ``folder``, and all of it as a run of kind ``compare``."""
    arms, at = comparison.arms, comparison.reference
    for stale in [*(f"{name}.{kind}" for name in _PICTURES for kind in ("png", "svg")), PAGE, NUMBERS]:
        (folder / stale).unlink(missing_ok=True)
    pictures = draw(comparison, folder)
    (folder / NUMBERS).write_text(json.dumps(mask_secrets(numbers(comparison)), indent=1) + "\n")
    every = range(len(arms.arms))
    write_page(
        folder / PAGE,
        title=f"{comparison.name}: {len(arms.arms)} arms",
        head=[
            f"{len(comparison.trainings)} runs; the reference is {arms.arms[at].label}",
            "val/err is that of the weights each run ended with; differences are points of val/err, 0.01 being one",
        ],
        found=[*comparison.says, *test_sentences(comparison)],
        warnings=comparison.warnings,
        tables=[
            ("Arms", arms_table(comparison, every)),
            ("Against the reference", contrast_table(comparison, every)),
            ("What differs", difference_table(arms, every)),
            ("Runs", runs_table(comparison)),
        ],
        pictures=pictures,
    )
    base = arms.arms[at].trainings[0]
    tags = {
        **environment_tags(environment()),
        "litmus.compared": " ".join(one.run.id8 for one in comparison.trainings),
        "litmus.best_arm": comparison.best.label,
        "litmus.reference_arm": arms.arms[at].label,
    }
    with Run.start(
        home=home,
        uri=uri,
        experiment=base.run.experiment or f"litmus/{base.config.data.name}",
        name=comparison.name,
        kind="compare",
        params={"factors": ", ".join(arms.factors), "arms": len(arms.arms), "runs": len(comparison.trainings)},
        tags=tags,
        send="off" if offline else "process",
    ) as tracked:
        for i, arm in enumerate(arms.arms):
            one = comparison.found[i]
            metrics = {"compare/val_err": arm.mean}
            if one is not None:
                metrics["compare/difference"] = one.difference
            tracked.log_metrics(metrics, step=i)
        for name in _PICTURES:
            for path in (folder / f"{name}.png", folder / f"{name}.svg"):
                if path.exists():
                    tracked.log_artifact(path, "pictures")
        tracked.log_artifact(folder / NUMBERS)
        tracked.log_artifact(folder / PAGE)
    return folder, tracked


def draw(comparison: Comparison, folder: Path) -> list[tuple[str, Path]]:
    """Heading and PNG of each picture; an SVG lies beside it. The best arms and the reference have the colours."""
    from litmus.diagnosis import compare_plots as plots

    arms, at = comparison.arms.arms, comparison.reference
    order = sorted(range(len(arms)), key=lambda i: (i != at, arms[i].mean))
    unit: Any = "epochs" if all(one.unit == "epochs" for one in comparison.trainings) else "steps"
    histories = {arms[i].label: [_history(one, unit) for one in arms[i].trainings] for i in order}
    made = []
    title = headline(comparison.arms, at, comparison.found)
    if any(points for runs in histories.values() for run in runs for points in run.values()):
        path = plots.curves(histories, folder / "curves.png", title=title, unit=unit, svg=True)
        made.append(("Curves", path))
    rows = [
        plots.ArmErrors(
            arm.label,
            arm.val_errs,
            arm.test_errs,
            _around(arm, "val"),
            _around(arm, "test"),
            "reference" if one is None else one.verdict,
        )
        for arm, one in zip(arms, comparison.found, strict=True)
    ]
    path = plots.errors(rows, folder / "errors.png", title=title, reference=arms[at].label, svg=True)
    made.append(("Final errors", path))
    if len(arms) > 2:
        keys = [key for key in comparison.arms.factors if len({arm.values[key] for arm in arms}) > 1]
        columns = [{key: value_of(arm.values[key]) for key in keys if _has(arm, key)} for arm in arms]
        path = plots.parallel(columns, [arm.mean for arm in arms], folder / "parallel.png", metric="val/err", svg=True)
        made.append(("Parallel coordinates", path))
    return made


def numbers(comparison: Comparison) -> dict[str, Any]:
    """What ``comparison.json`` holds."""
    return {
        "reference": comparison.arms.arms[comparison.reference].label,
        "factors": comparison.arms.factors,
        "paired_over": ["seed", *comparison.arms.beside],
        "arms": [
            {
                "arm": arm.label,
                "values": arm.values,
                "val_err": arm.mean,
                "runs": [
                    {"run": one.run.id8, "seed": one.seed, "val_err": one.val_err, "test_err": one.test_err}
                    for one in arm.trainings
                ],
                "against_reference": as_numbers(found),
            }
            for arm, found in zip(comparison.arms.arms, comparison.found, strict=True)
        ],
        "found": comparison.says,
        "not_alike": comparison.warnings,
    }


# Words


def _has(arm: Arm, key: str) -> bool:
    return arm.values[key] not in (ABSENT, SEVERAL)


def _history(one: Training, unit: str) -> dict[str, list[tuple[float, float]]]:
    """By epochs trained, or by optimizer steps where runs were not counted in epochs."""
    epochs = float(one.result.get("epochs") or 0)
    factor = epochs / one.steps if unit == "epochs" and epochs and one.steps else 1.0
    return {
        metric: [(round(step * factor, 6), value) for step, value in one.curves.get(metric, [])] for metric in CURVES
    }


def _around(arm: Arm, split: str) -> tuple[float, float] | None:
    """95%: Student's of the mean over seeds, Wilson's over the images of a single run; rates stay in [0, 1]."""
    values = arm.val_errs if split == "val" else arm.test_errs
    if not values:
        return None
    if len(values) == 1:
        (one,) = [one for one in arm.trainings if split in one.result]
        low, high = wilson(one.result[split]["num_errors"], one.result[split]["num_images"])
    else:
        _, low, high = interval(values)
    return max(low, 0.0), min(high, 1.0)


def _rate(arm: Arm, split: str) -> str:
    values, around = (arm.val_errs if split == "val" else arm.test_errs), _around(arm, split)
    if around is None:
        return "-"
    few = f", {len(values)} of {len(arm.runs)} tested" if len(values) < len(arm.runs) else ""
    return f"{sum(values) / len(values):.4f} ({around[0]:.4f} to {around[1]:.4f}{few})"


def _diagnosis(arm: Arm) -> str:
    counts = Counter(one.run.tags.get("litmus.verdict", "-") for one in arm.trainings)
    if len(counts) == 1:
        return next(iter(counts))
    return "; ".join(f"{verdict} {count}" for verdict, count in counts.most_common())


def _most_telling(comparison: Comparison) -> list[int]:
    """Arms that are printed, in their order: the best, and the reference."""
    arms, at = comparison.arms.arms, comparison.reference
    best = sorted(range(len(arms)), key=lambda i: (i != at, arms[i].mean))[:MOST_PRINTED]
    return sorted(best)


def _columns(rows: Rows) -> list[str]:
    width = max(map(len, rows))
    filled = [[_cut(cell) for cell in [*row, *[""] * (width - len(row))]] for row in rows]
    most = [max(len(row[at]) for row in filled) for at in range(width)]
    return ["  ".join(cell.ljust(wide) for cell, wide in zip(row, most, strict=True)).rstrip() for row in filled]


def _cut(text: str, longest: int = 64) -> str:
    text = str(mask_secrets(text))
    return text if len(text) <= longest else f"{text[: longest - 15]}...{text[-12:]}"


def _wrapped(kind: str, text: str) -> list[str]:
    return textwrap.wrap(
        str(mask_secrets(text)), 118, initial_indent=f"{kind:<8} ", subsequent_indent=9 * " ", break_on_hyphens=False
    )


def _next(comparison: Comparison, home: str) -> str:
    arms = comparison.arms.arms
    at_home = "" if home == "mlruns" else f" --home {shlex.quote(home)}"
    best = min(comparison.best.trainings, key=lambda one: one.val_err)
    arm = min(comparison.best, arms[comparison.reference], key=lambda arm: len(arm.runs))
    undecided = any(one is not None and one.verdict == "undecided" for one in comparison.found)
    first = arm.trainings[0]
    if undecided and len(arm.runs) < FEWEST_SEEDS and first.run.dir is not None:
        have = {one.seed for one in arm.trainings}
        others = [one.seed for one in comparison.trainings if one.seed not in have]
        lacks = list(dict.fromkeys([*sorted(others), *(seed for seed in range(2**10) if seed not in have)]))
        lacks = lacks[: FEWEST_SEEDS - len(arm.runs)]
        config = shlex.quote(str(shown(first.run.artifact("config.yaml"))))
        return f"{len(lacks)} more seed{'s' * (len(lacks) != 1)} for {arm.label}: litmus fit {config} seed={lacks[0]}"
    return f"litmus diagnose {best.run.id8}{at_home}    or    litmus ui{at_home}"


def _points(rate: float) -> str:
    """Percentage points with their sign; what rounds to nothing has none of its own."""
    return f"{round(100 * rate, 2) + 0.0:+.2f}"
