"""What a study leaves to read: importances, one HTML page with Optuna's interactive figures, CSV, the best config."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import BaseImportanceEvaluator, PedAnovaImportanceEvaluator
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from litmus.config import RunConfig, dump_config, parse_config, to_dict
from litmus.diagnosis.paired import Direction, compare, interval
from litmus.errors import Refused
from litmus.study.figures import WORDS, dotted_values, logical, origin_of, parse_name, worker_name
from litmus.study.verdict import Candidate, Range
from litmus.tracking.masking import mask_secrets

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FEWEST_TRIALS = 10
"""Finished trials from which importances are computed; a sentence takes more, ``verdict.FEWEST_TRIALS``."""
BEST_PART = 0.25
"""What counts as a good trial for PED-ANOVA. Optuna's 0.1 leaves 5 good trials of 50; see ``importances``."""
MOST_CONTOURS = 3
"""Parameters in the page's contour: one panel for each two of them."""
MOST_IN_CONTOUR = 100
"""Trials in it: each panel holds a grid of their number squared (8 MB for 347 trials, 0.7 MB for 100)."""


def importances(study: Study) -> dict[str, float]:
    """Share of each dotted key in what lifts a trial among the best quarter, largest first; empty if it cannot be told.

    PED-ANOVA (Watanabe et al. 2023) in its conditional form (arXiv 2601.20800): a parameter that only some trials have
    counts with the part of trials that have it, and what lies between having and not having it belongs to the parameter
    that decides on it. So the shares of the branches of one key add up, ``optim.lr[optim.name=adam]`` and
    ``optim.lr[optim.name=momentum]``, and so does the switch ``optim.l2_lambda=0``. With two objectives the best are
    those nearest to the Pareto front. Pruned trials have no final value and are left out.

    Differs from Optuna's default in the part that counts as best, 0.25 for 0.1: over four parameters of known weight,
    40 random studies each, the first was named rightly in 0.80 against 0.57 of the studies with 20 trials, 0.95 against
    0.78 with 50 and 1.00 against 0.90 with 100.
    """
    done = [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if _finite(trial)]
    names = {name for trial in done for name, space in trial.distributions.items() if not space.single()}
    if len(done) < FEWEST_TRIALS or not names:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of branches that a single trial took
        found = PedAnovaImportanceEvaluator(target_quantile=BEST_PART).evaluate(study, sorted(names))
    merged: dict[str, float] = {}
    for name, share in found.items():
        dotted = parse_name(name).dotted
        merged[dotted] = merged.get(dotted, 0.0) + float(share)
    total = sum(merged.values())
    if not total > 0:
        return {}
    return {key: share / total for key, share in sorted(merged.items(), key=lambda item: (-item[1], item[0]))}


def ranges(trial: FrozenTrial, allows: Callable[[str, float], bool] = lambda key, value: True) -> list[Range]:
    """The ranges of a trial's numbers, for ``verdict``.

    Args:
        trial: whose parameters they are: of a branch, the one it took.
        allows: whether the config takes this value for this dotted key, see ``allowed_in``; a border that the config
            itself draws is no reason to widen a range.
    """
    found = []
    for name, space in trial.distributions.items():
        key = parse_name(name)
        if key.switch or not isinstance(space, FloatDistribution | IntDistribution):
            continue
        if isinstance(space, IntDistribution):
            below: float = space.low - 1
            above: float = space.high + 1
        elif space.log:
            below, above = space.low / 1.1, space.high * 1.1
        else:
            below, above = (
                end + sign * 0.01 * (space.high - space.low) for end, sign in ((space.low, -1), (space.high, 1))
            )
        down, up = allows(key.dotted, below), allows(key.dotted, above)
        found.append(Range(key.dotted, space.low, space.high, space.log, down, up))
    return found


def allowed_in(config: RunConfig) -> Callable[[str, float], bool]:
    """Whether ``config`` with one dotted key changed would still be taken."""

    def allows(key: str, value: float) -> bool:
        plain = to_dict(config)
        *above, last = key.split(".")
        section = plain
        for name in above:
            section = section.setdefault(name, {})
        section[last] = value
        try:
            parse_config(plain)
        except Refused:
            return False
        return True

    return allows


def best_yaml(config: RunConfig, command: str, lines: Sequence[str] = ()) -> str:
    """A config that runs as it is: a header of comments, then every key. ``load_config`` of it gives an equal one.

    Args:
        config: of the best trial, as it was trained.
        command: that trains it.
        lines: study, trial, value: what a reader wants to know of its origin.
    """
    head = [line for text in (command, *lines) for line in mask_secrets(text).splitlines()]
    return "".join(f"# {_one_line(line)}\n" for line in head) + dump_config(config)


def trials_csv(trials: Sequence[FrozenTrial], objectives: Sequence[str] = ("value",)) -> str:
    """A row per logical trial: its values, what it took, where it comes from, then its parameters by dotted key.

    The value of a pruned trial is its last validation; what a trial did not have is empty.
    """
    rows = logical(trials)
    values = [dotted_values(trial.params) for trial in rows]
    keys = sorted({key for params in values for key in params})
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    beside = ("epochs", "seconds", "origin", "attempt", "run_uid", "worker", "reason")
    table.writerow(["trial", "state", *objectives, *beside, *keys])
    for trial, params in zip(rows, values, strict=True):
        attrs = trial.user_attrs
        table.writerow(
            [
                trial.number,
                WORDS[trial.state],
                *_values(trial, len(objectives)),
                attrs.get("litmus.epochs", ""),
                _seconds(trial),
                origin_of(trial),
                attrs.get("litmus.attempt", 1),
                attrs.get("litmus.run_uid", ""),
                worker_name(attrs.get("litmus.worker", "")),
                _one_line(mask_secrets(str(attrs.get("litmus.fail_reason", "")))),
                *(_param(params, key) for key in keys),
            ]
        )
    return out.getvalue()


def write_page(
    study: Study,
    path: str | Path,
    *,
    title: str,
    head: Sequence[str] = (),
    objectives: Sequence[str] = (),
    candidates: Sequence[Candidate] = (),
    verdict: Sequence[str] = (),
    shares: Mapping[str, float] | None = None,
) -> Path:
    """One HTML file that needs nothing beside it: verdict, candidates, Optuna's figures, a table of trials.

    plotly.js is inside, once, and the page's own policy forbids it every connection: MLflow shows artifacts in a frame,
    where neither another file nor a network may be there. Hence about 5 MB. Written whole or not at all.

    Args:
        study: Optuna's; with no trial yet, the page says so.
        path: of the page.
        title: names the study.
        head: lines beneath the title: command, storage, counts.
        objectives: names of the metrics.
        candidates: as in ``verdict``.
        verdict: its sentences.
        shares: ``importances(study)``, if it is known.
    """
    trials = study.get_trials(deepcopy=False)
    directions: list[Direction] = [
        "maximize" if one == StudyDirection.MAXIMIZE else "minimize" for one in study.directions
    ]
    names = list(objectives) or (["value"] if len(directions) == 1 else [f"value {i}" for i in range(len(directions))])
    shares = importances(study) if shares is None else shares
    parts = [
        f"<h1>{_escaped(title)}</h1>",
        "".join(f"<p class=head>{_escaped(mask_secrets(line))}</p>" for line in head),
        _list("Verdict", verdict),
        _candidates_table(candidates, directions[0], names[0]),
    ]
    figures, font = list(_figures(study, names, shares)), {"family": _FONTS, "color": "#222222"}
    for i, (name, note, figure) in enumerate(figures):
        figure.update_layout(template="plotly_white", title=None, font=font, margin={"t": 30})
        drawn = figure.to_html(
            full_html=False,
            include_plotlyjs=i == 0,
            div_id=name.lower().replace(" ", "-"),
            config=_CONFIG,
        )
        parts.append(f"<h2>{_escaped(name)}</h2><p class=note>{_escaped(note)}</p><div class=across>{drawn}</div>")
    if not figures:
        parts.append("<p>No trial has begun: there is nothing to draw yet.</p>")
    parts.append(_trials_table(trials, directions, names))
    body = "\n".join(part for part in parts if part)
    size = (len(_PAGE) + len(body.encode())) / 1e6
    text = _PAGE.format(
        title=_escaped(title), body=body, size=f"{size:.1f} MB" if size >= 0.1 else f"{1e3 * size:.0f} kB"
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


# Optuna's figures


def _figures(study: Study, names: Sequence[str], shares: Mapping[str, float]) -> Iterator[tuple[str, str, Figure]]:
    """Heading, note and figure of all that can be drawn."""
    from optuna import visualization as draw

    merged = _merged(study, names)
    trials = merged.get_trials(deepcopy=False)
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE and _finite(trial)]
    several = len(names) > 1
    targets: list[tuple[str, dict[str, Any]]] = [
        (
            f" of {name}" if several else "",
            {"target_name": name, **({"target": lambda t, i=i: t.values[i]} if several else {})},
        )
        for i, name in enumerate(names)
    ]
    varied = sorted(
        {name for trial in done for name, space in trial.distributions.items() if not space.single()},
        key=lambda name: (-shares.get(name, 0.0), name),
    )
    searched = [name for name in varied if not parse_name(name).switch]
    if done:
        for which, how in targets:
            yield f"History{which}", f"{len(done)} finished trials.", draw.plot_optimization_history(merged, **how)
    if any(trial.intermediate_values for trial in trials) and not several:
        note = "Every validation of every trial; the curves of pruned ones end early."
        yield "Intermediate values", note, draw.plot_intermediate_values(merged)
    if len(done) > 1 and varied:
        note = "A line a finished trial; None where a trial did not have the parameter."
        how = {} if several else targets[0][1]
        yield "Parallel coordinates", note, draw.plot_parallel_coordinate(merged, params=varied[:12], **how)
    if len(shares) > 1:
        good = "near the Pareto front" if several else "among the best"
        note = f"Share in what brings a trial {good} (PED-ANOVA), over {len(done)} finished trials."
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure = draw.plot_param_importances(
                merged,
                evaluator=_Known(shares),
                target=(lambda t: t.values[0]) if several else None,
                target_name="share",
            )
        yield "Importances", note, figure
    if len(done) > 1 and searched:
        for which, how in targets:
            figure = draw.plot_slice(merged, params=searched[:12], **how)
            if len(searched) <= 5:  # Optuna's width for more is kept: the page scrolls
                figure.update_layout(width=None)
            yield f"Slice{which}", "The value against each parameter; colour: number of the trial.", figure
    pair = _together(searched, done)
    if len(done) > 2 and len(pair) > 1:
        for i, (which, how) in enumerate(targets):
            sign = 1 if merged.directions[i] == StudyDirection.MINIMIZE else -1
            best = sorted(done, key=lambda trial: sign * trial.values[i])[:MOST_IN_CONTOUR]
            few = f"the {len(best)} best of {len(done)} trials" if len(best) < len(done) else f"{len(done)} trials"
            note = f"Interpolated between {few}, over the {len(pair)} most important parameters; far from dots a guess."
            only = merged if len(best) == len(done) else _merged(study, names, {trial.number for trial in best})
            figure = draw.plot_contour(only, params=pair, **how)
            figure.update_layout(height=520 if len(pair) == 2 else 900)
            yield f"Contour{which}", note, figure
    if done:
        for which, how in targets:
            yield f"EDF{which}", "Part of the finished trials that are at most so large.", draw.plot_edf(merged, **how)
    if any(trial.datetime_start for trial in trials):
        note = "All that ran, lost and surplus trials too."
        yield "Timeline", note, draw.plot_timeline(merged)
    if len(names) == 2 and done:
        note = "Trials that no other beats in both."
        yield "Pareto front", note, draw.plot_pareto_front(merged, target_names=list(names))


def _together(names: Sequence[str], trials: Sequence[FrozenTrial]) -> list[str]:
    """The first ``MOST_CONTOURS`` of which each two vary over trials that have both."""
    found: list[str] = []
    for name in names:
        both = [
            [(t.params[name], t.params[one]) for t in trials if name in t.params and one in t.params] for one in found
        ]
        if len(found) < MOST_CONTOURS and all(
            len({repr(value) for value, _ in pairs}) > 1 and len({repr(value) for _, value in pairs}) > 1
            for pairs in both
        ):
            found.append(name)
    return found


class _Known(BaseImportanceEvaluator):
    """Gives Optuna's figure the shares that are known already."""

    def __init__(self, shares: Mapping[str, float]):
        self.shares = dict(shares)

    def evaluate(self, study: Study, params: Any = None, *, target: Any = None) -> dict[str, float]:
        return self.shares


def _merged(study: Study, names: Sequence[str], finished: set[int] | None = None) -> Study:
    """The same trials under the same numbers in memory, the branches of each key merged into one parameter.

    A switch stays, under its name without its branch; the 0 that it sets has no place on a logarithmic range. With
    ``finished`` only these are finished in the copy.
    """
    from optuna.storages import InMemoryStorage

    trials = study.get_trials(deepcopy=False)
    spaces: dict[str, list[BaseDistribution]] = {}
    present: dict[str, list[Any]] = {}
    for trial in trials:
        for name, space in trial.distributions.items():
            shown = _merged_name(name)
            if space not in (known := spaces.setdefault(shown, [])):
                known.append(space)
            present.setdefault(shown, []).append(trial.params[name])
    union = {name: _union(spaces[name], present[name]) for name in spaces}
    storage = InMemoryStorage()
    with _quiet():
        storage.create_new_study(study.directions, study.study_name)
    copy = Study(study.study_name, storage)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        copy.set_metric_names(list(names))
    for trial in trials:
        params = {_merged_name(name): value for name, value in trial.params.items()}
        twin = FrozenTrial(
            number=trial.number,
            state=trial.state if finished is None or trial.number in finished else TrialState.WAITING,
            value=None,
            values=trial.values,
            datetime_start=trial.datetime_start,
            datetime_complete=trial.datetime_complete,
            params=params,
            distributions={name: union[name] for name in params},
            user_attrs={},
            system_attrs={},
            intermediate_values=trial.intermediate_values,
            trial_id=trial.number,
        )
        storage.create_new_trial(copy._study_id, template_trial=twin)
    return copy


def _merged_name(name: str) -> str:
    key = parse_name(name)
    return f"{key.dotted}={key.switch}" if key.switch else key.dotted


def _union(spaces: Sequence[BaseDistribution], present: Sequence[Any]) -> BaseDistribution:
    """One distribution that holds them all, and values outside of them: an enqueued base may have such."""
    if any(isinstance(space, CategoricalDistribution) for space in spaces):
        choices: list[Any] = []
        for choice in [*(one for space in spaces for one in getattr(space, "choices", ())), *present]:
            if all(choice != known or type(choice) is not type(known) for known in choices):
                choices.append(choice)
        return CategoricalDistribution(choices)
    numbers = [space for space in spaces if isinstance(space, FloatDistribution | IntDistribution)]
    low = min([*(space.low for space in numbers), *present])
    high = max([*(space.high for space in numbers), *present])
    log = all(space.log for space in numbers) and low > 0
    if all(isinstance(space, IntDistribution) for space in numbers):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(float(low), float(high), log=log)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna announces every study it makes; this one is nobody's."""
    from optuna import logging

    before = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(before)


# Parts of the page


def _list(heading: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{_escaped(line)}</li>" for line in lines)
    return f"<h2>{heading}</h2><ul>{items}</ul>" if items else ""


def _candidates_table(candidates: Sequence[Candidate], direction: Direction, metric: str) -> str:
    if not any(candidate.scores for candidate in candidates):
        return ""
    base = next((candidate for candidate in candidates if candidate.is_base), None)
    rows = []
    for one in candidates:
        if not one.scores:
            continue
        mean, low, high = interval(one.scores)
        cells = [one.name, _short(one.searched), _short(mean), _between(low, high)]
        if base is not None and one is not base and len(base.scores) == len(one.scores):
            pair = compare(base.scores, one.scores, direction=direction)
            cells += [
                _short(pair.difference),
                _between(pair.low, pair.high),
                f"{pair.better} of {pair.of}",
                f"{pair.p:.3f}",
            ]
        else:
            cells += ["", "", "", ""]
        cells += [", ".join(f"{key} = {_short(value)}" for key, value in one.values.items())]
        cells += [", ".join(_short(score) for score in one.scores)]
        rows.append("".join(f"<td>{_escaped(cell)}</td>" for cell in cells))
    heads = [
        "",
        "in the search",
        f"{metric}, fresh seeds",
        "95% interval",
        "better than base by",
        "95% interval",
        "seeds better",
    ]
    heads += ["sign test p (one-sided)", "differs from the base in", "each seed"]
    top = "".join(f"<th>{_escaped(name)}</th>" for name in heads)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<h2>Candidates on fresh seeds</h2><div class=wide><table><tr>{top}</tr>{body}</table></div>"


def _trials_table(trials: Sequence[FrozenTrial], directions: Sequence[Direction], names: Sequence[str]) -> str:
    rows = logical(trials)
    if not rows:
        return ""
    values = [dotted_values(trial.params) for trial in rows]
    keys = sorted({key for params in values for key in params})
    done = [trial for trial in rows if trial.state == TrialState.COMPLETE and _finite(trial)]
    sign = 1 if directions[0] == "minimize" else -1
    best = min(done, key=lambda trial: sign * trial.values[0]).number if done and len(names) == 1 else None
    beside = ["epochs", "seconds", "attempt"]
    heads = ["trial", "state", *names, *beside, *keys, "worker", "reason"]
    top = "".join(f'<th aria-sort="none"><button type=button>{_escaped(name)}</button></th>' for name in heads)
    lines = []
    for trial, params in zip(rows, values, strict=True):
        attrs = trial.user_attrs
        cells: list[Any] = [trial.number, WORDS[trial.state], *_values(trial, len(names))]
        cells += [attrs.get("litmus.epochs", ""), _seconds(trial), attrs.get("litmus.attempt", 1)]
        cells += [_param(params, key) for key in keys]
        cells += [worker_name(attrs.get("litmus.worker", "")), mask_secrets(str(attrs.get("litmus.fail_reason", "")))]
        tds = "".join(f"<td{_sort_key(cell)}>{_escaped(_short(cell))}</td>" for cell in cells)
        kinds = [
            WORDS[trial.state],
            *(["best"] if trial.number == best else []),
            *(["base"] if trial.number == 0 else []),
        ]
        lines.append(f'<tr class="{" ".join(kinds)}">{tds}</tr>')
    note = "A click on a heading sorts; the value of a pruned trial is its last validation."
    note += " Green: the best; trial 0 is the base." if best is not None else ""
    return (
        f"<h2>Trials</h2><p class=note>{note}</p><div class=wide><table id=trials><thead><tr>{top}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _param(params: Mapping[str, Any], key: str) -> Any:
    """Empty where a trial did not have it; null is a value."""
    value = params.get(key, "")
    return "null" if value is None else value


def _sort_key(value: Any) -> str:
    """Numbers are sorted by their full value, not by what is shown of them."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f' data-v="{float(value)!r}"'
    return ""


def _values(trial: FrozenTrial, count: int) -> list[Any]:
    values = list(trial.values or ())
    return (values + [""] * count)[:count]


def _seconds(trial: FrozenTrial) -> Any:
    if "litmus.seconds" in trial.user_attrs:
        return trial.user_attrs["litmus.seconds"]
    return "" if trial.duration is None else trial.duration.total_seconds()


def _finite(trial: FrozenTrial) -> bool:
    return all(map(math.isfinite, trial.values or [math.nan]))


def _between(low: float, high: float) -> str:
    return "none: one seed" if math.isinf(low) else f"{_short(low)} to {_short(high)}"


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else value if isinstance(value, str) else json.dumps(value, default=str)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _escaped(text: Any) -> str:
    return html.escape(str(text))


_FONTS = "DejaVu Sans, Verdana, sans-serif"
# plotly.js 4 has a button that takes the chart to Plotly's cloud: a study is nobody else's.
_CONFIG = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtonsToRemove": ["sendChartToCloud", "sendDataToCloud", "lasso2d", "select2d"],
}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'unsafe-inline'; \
style-src 'unsafe-inline'; img-src data: blob:; font-src data:; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 14px/1.45 DejaVu Sans, Verdana, sans-serif; color: #222 }}
body {{ margin: 1.5rem auto; max-width: 1200px; padding: 0 1rem }}
h1 {{ font-size: 1.5rem; margin: 0 0 .3rem }}
h2 {{ font-size: 1.1rem; margin: 2rem 0 .3rem; border-top: 1px solid #d9d9d9; padding-top: .8rem }}
.head, .note, footer {{ color: #6b6b6b; margin: .1rem 0 }}
.across {{ overflow-x: auto }}
.wide {{ overflow: auto; max-height: 40rem }}
table {{ border-collapse: collapse; font-size: 12px }}
th, td {{ padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #eee; white-space: nowrap }}
th {{ position: sticky; top: 0; background: #fff }}
td[data-v] {{ text-align: right; font-variant-numeric: tabular-nums }}
th button {{ all: unset; cursor: pointer; font-weight: bold }}
th button:focus-visible {{ outline: 2px solid #0072B2 }}
th[aria-sort=ascending] button::after {{ content: " \\25B2" }}
th[aria-sort=descending] button::after {{ content: " \\25BC" }}
tr.failed td {{ color: #D55E00 }}
tr.pruned td {{ color: #8a6100 }}
tr.best td {{ background: #dff2ea; font-weight: bold }}
footer {{ margin-top: 2rem; font-size: 12px }}
</style>
</head>
<body>
{body}
<footer>This page is {size}, holds everything it shows and asks no network for anything.</footer>
<script>
for (const head of document.querySelectorAll("#trials th")) head.firstChild.onclick = () => {{
  const up = head.getAttribute("aria-sort") !== "ascending", column = head.cellIndex;
  for (const other of head.parentNode.children) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = head.closest("table").tBodies[0];
  const key = row => {{
    const cell = row.cells[column], text = cell.textContent;
    return [text === "", cell.dataset.v === undefined ? text : Number(cell.dataset.v)];
  }};
  const order = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  const rows = [...body.rows].map(row => [key(row), row]);
  rows.sort(([[noA, a]], [[noB, b]]) => noA - noB || (up ? order(a, b) : order(b, a)));
  body.append(...rows.map(([, row]) => row));
}};
</script>
</body>
</html>
"""
