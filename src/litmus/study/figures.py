"""The pictures of a study, from its trials: one message each, a PNG in the look of a run's pictures.

Parameters are drawn under their dotted keys: ``optim.lr[optim.name=adam]`` is the rate of one branch of ``optim.lr``,
``optim.l2_lambda=0`` the switch that sets a logarithmic range to the 0 it cannot reach.
"""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from litmus.diagnosis import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

COLORS = {
    TrialState.COMPLETE: style.BLUE,
    TrialState.PRUNED: style.ORANGE,
    TrialState.FAIL: style.RED,
    TrialState.RUNNING: style.SKY,
    TrialState.WAITING: style.FAINT,
}
WORDS = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
BRANCHES = (style.BLUE, style.RED, style.GREEN, style.ORANGE, style.SKY, style.INK)
MOST_AXES = 12
"""Parameters in one picture; more would not be read."""


class NothingToDraw(ValueError):
    """Says why a picture cannot be drawn yet, or never for this study."""


class Key(NamedTuple):
    """An Optuna parameter's name, taken apart."""

    dotted: str
    branch: str = ""
    """``optim.name=adam``: the condition under which it exists."""
    switch: str = ""
    """``0``: what a true switch sets ``dotted`` to."""


@dataclass(frozen=True)
class StudyView:
    """What is known of a study when it is drawn.

    Args:
        name: of the study.
        trials: all of Optuna's, in the order of their numbers; the base config is trial 0.
        directions: ``minimize`` or ``maximize`` for each objective.
        objectives: names of the metrics, ``val/err``.
        importances: dotted key -> share, from ``litmus.study.report.importances``.
        roles: dotted key -> ``scientific``, ``nuisance``, ``fixed``.
        num_epochs: a whole trial's length; 0 when it is counted otherwise.
    """

    name: str
    trials: Sequence[FrozenTrial]
    directions: Sequence[Literal["minimize", "maximize"]]
    objectives: Sequence[str]
    importances: Mapping[str, float] = field(default_factory=dict)
    roles: Mapping[str, str] = field(default_factory=dict)
    num_epochs: int = 0


class Drawn(NamedTuple):
    """What ``draw`` made."""

    paths: list[Path]
    left_out: dict[str, str]
    """Name of a picture -> why there is none."""


# What is drawn of the trials


def parse_name(name: str) -> Key:
    """``optim.lr[optim.name=adam]``, ``optim.l2_lambda=0`` and ``optim.l2_lambda[optim.name=adam]=0``, taken apart."""
    found = re.fullmatch(r"([^\[=]+)(?:\[(.*?)\])?(?:=(.+))?", name)
    return Key(found[1], found[2] or "", found[3] or "") if found else Key(name)


def dotted_values(params: Mapping[str, Any]) -> dict[str, Any]:
    """A trial's parameters under their dotted keys, branches merged and switches carried out."""
    values: dict[str, Any] = {}
    for name, value in params.items():
        key = parse_name(name)
        if not key.switch:
            values.setdefault(key.dotted, value)
        elif value:
            values[key.dotted] = _value_of(key.switch)
    return values


def logical(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Trials that stand for themselves: no surplus, no duplicate, no lost one that a later trial continues."""
    latest = {origin_of(trial): trial.number for trial in trials}  # in the order of numbers: the last one stays
    return [
        trial
        for trial in trials
        if trial.state != TrialState.FAIL
        or not (
            latest[origin_of(trial)] != trial.number
            or str(trial.user_attrs.get("litmus.fail_reason", "")).startswith(("surplus", "duplicate"))
        )
    ]


def worker_name(worker: str) -> str:
    """``host/2`` of what ``litmus.worker`` holds: the rest tells processes apart, not people."""
    return worker.partition("|")[0]


def origin_of(trial: FrozenTrial) -> int:
    """Number of the first trial of its lineage."""
    return int(trial.user_attrs.get("litmus.origin", trial.number))


def draw(view: StudyView, folder: str | Path) -> Drawn:
    """Every picture that this study has, in ``folder``, and why the others are left out."""
    folder, paths, left_out = Path(folder), [], {}
    several = len(view.objectives) > 1
    for name, function in PER_OBJECTIVE.items():
        for objective, metric in enumerate(view.objectives):
            full = f"{name}_{re.sub(r'[^A-Za-z0-9]+', '_', metric).strip('_')}" if several else name
            try:
                paths.append(function(view, folder / f"{full}.png", objective=objective))
            except NothingToDraw as why:
                left_out[full] = str(why)
    for name, function in PER_STUDY.items():
        try:
            paths.append(function(view, folder / f"{name}.png"))
        except NothingToDraw as why:
            left_out[name] = str(why)
    return Drawn(paths, left_out)


# The pictures


def history(view: StudyView, path: str | Path, *, objective: int = 0) -> Path:
    """The value of each trial in the order of numbers, the best so far, the base as a line."""
    metric, better = view.objectives[objective], _sign(view, objective)
    trials = logical(view.trials)
    done = _finished(view, objective)
    pruned = [
        (t.number, value) for t in trials if t.state == TrialState.PRUNED and math.isfinite(value := _last_value(t))
    ]
    others = [t for t in trials if t.state in (TrialState.FAIL, TrialState.RUNNING)]
    if not trials:
        raise NothingToDraw("no trial has begun")

    figure = style.new_figure(8.2, 4.5)
    axes = style.add_axes(figure, 0.85, 1.15, 6.0, 2.75)
    values = [value for _, value in done] + [value for _, value in pruned]
    label = _scale(axes, "y", values, metric)
    style.name_axes(axes, "trial", label)
    _grid(axes)
    last = max(trial.number for trial in trials)
    axes.set_xlim(-0.02 * last - 0.7, 1.02 * last + 0.7)
    _whole(axes)
    labels: list[tuple[float, str, str]] = []
    if pruned:
        how = {"color": COLORS[TrialState.PRUNED], "s": 16, "marker": "v", "linewidths": 0, "zorder": 2}
        _scatter(axes, *zip(*pruned, strict=True), alpha=0.65, label="pruned", **how)
    if done:
        _scatter(axes, *zip(*done, strict=True), color=style.SKY, s=20, linewidths=0, zorder=3, label="complete")
        best = better * np.minimum.accumulate([better * value for _, value in done])
        numbers = [number for number, _ in done] + [last]
        steps = [*best, best[-1]]
        axes.plot(
            numbers, steps, color=style.BLUE, linewidth=1.8, drawstyle="steps-post", zorder=4, label="best so far"
        )
        labels.append((float(best[-1]), f"best {_number(best[-1])}", style.BLUE))
        base = dict(done).get(0)
        if base is not None:
            axes.axhline(base, color=style.GREEN, linewidth=1.2, linestyle=(0, (5, 3)), zorder=1, label="base")
            labels.append((base, f"base {_number(base)}", style.GREEN))
    for state, marker in ((TrialState.FAIL, "x"), (TrialState.RUNNING, ">")):
        at = [trial.number for trial in others if trial.state == state]
        if at:
            axes.plot(
                at, [1.0] * len(at), marker, color=COLORS[state], markersize=5, clip_on=False, zorder=5,
                transform=axes.get_xaxis_transform(), label=WORDS[state],
            )  # fmt: skip
    style.label_ends(axes, labels)
    _legend(axes, "above")
    counts = _counts(trials)
    if done:
        first = next(number for number, value in done if value == best[-1])
        title = f"{_words_of(metric)} {_number(best[-1])} is the best of {_many(len(done), 'finished trial')}"
        beneath = f"trial {first}" + (_against_base(base, best[-1], metric, better) if base is not None else "")
        style.write_title(figure, title, f"{beneath}\n{counts}")
    else:
        if not pruned:
            axes.set_yticks([])
        style.write_title(figure, "No trial has finished yet", counts)
    return style.save(figure, path)


def intermediate(view: StudyView, path: str | Path, *, objective: int = 0) -> Path:
    """The validations of every trial: the best one bold, pruned ones pale."""
    from matplotlib.collections import LineCollection

    if len(view.objectives) > 1:
        raise NothingToDraw("trials with two objectives report nothing before their end")
    curves = [(trial, curve) for trial in logical(view.trials) if len(curve := _curve(trial))]
    if not curves:
        raise NothingToDraw("no trial has reported a validation")
    metric, better = view.objectives[objective], _sign(view, objective)
    values = np.concatenate([curve[:, 1] for _, curve in curves])
    ends = float(np.median([curve[-1, 1] for _, curve in curves]))
    figure = style.new_figure(8.2, 4.5)
    axes = style.add_axes(figure, 0.85, 1.15, 6.0, 2.75)
    style.name_axes(axes, "validation", _scale(axes, "y", values, metric, typical=ends))
    _grid(axes)
    last = max(curve[-1, 0] for _, curve in curves)
    first = min(curve[0, 0] for _, curve in curves)
    axes.set_xlim(first - 0.02 * (last - first) - 0.1, last + 0.02 * (last - first) + 0.1)
    _whole(axes)
    done = dict(_finished(view, objective))
    best = min(done, key=lambda number: better * done[number]) if done else None
    for state, alpha, width in (
        (TrialState.FAIL, 0.5, 0.7),
        (TrialState.PRUNED, 0.5, 0.7),
        (TrialState.COMPLETE, 0.5, 0.8),
        (TrialState.RUNNING, 0.9, 1.2),
    ):
        mine = [curve for t, curve in curves if t.state == state and t.number not in (best, 0)]
        if mine:
            color = style.SKY if state == TrialState.COMPLETE else COLORS[state]
            color = style.GREEN if state == TrialState.RUNNING else color
            lines = LineCollection(mine, colors=color, linewidths=width, alpha=alpha, label=WORDS[state], zorder=2)
            axes.add_collection(lines, autolim=False)
            tips = np.array([curve[-1] for curve in mine if state != TrialState.COMPLETE or len(curve) == 1])
            if len(tips):
                _scatter(axes, tips[:, 0], tips[:, 1], color=color, s=9, linewidths=0, alpha=alpha, zorder=2)
    labels = []
    for number, color, word in ((0, style.INK, "base"), (best, style.BLUE, "best")):
        found = [curve for trial, curve in curves if trial.number == number]
        curve = found[0] if found else np.empty((0, 2))
        if len(curve) and (number != best or word == "best"):
            axes.plot(curve[:, 0], curve[:, 1], color=color, linewidth=2, zorder=4, label=f"{word} (trial {number})")
            if len(curve) == 1:
                axes.plot(*curve[0], "o", color=color, markersize=5, zorder=4)
            labels.append((float(curve[-1, 1]), f"{word} {_number(curve[-1, 1])}", color))
    style.label_ends(axes, labels)
    _legend(axes, "above")
    style.write_title(figure, *_pruning_message(view, curves))
    return style.save(figure, path)


def _pruning_message(view: StudyView, curves: Sequence[tuple[FrozenTrial, NDArray]]) -> tuple[str, str]:
    pruned = [curve for trial, curve in curves if trial.state == TrialState.PRUNED]
    ended = [t for t in logical(view.trials) if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    title = f"{len(pruned)} of {len(ended)} trials were pruned" if pruned else "No trial was pruned"
    beneath = []
    if pruned:
        after = float(np.median([len(curve) for curve in pruned]))
        beneath.append(f"half of the pruned ones by validation {after:g} of {max(len(curve) for _, curve in curves)}")
    epochs = [t.user_attrs["litmus.epochs"] for t in ended if "litmus.epochs" in t.user_attrs]
    if epochs and view.num_epochs:
        share = sum(epochs) / (view.num_epochs * len(epochs))
        beneath.append(f"{sum(epochs):,g} epochs trained, {share:.2f} of those without pruning")
    return title, "; ".join(beneath)


def importances(view: StudyView, path: str | Path) -> Path:
    """Share of each parameter, with its role and the part of trials that had it."""
    if len(view.importances) < 2:
        few = "one parameter alone has nothing to be compared with" if view.importances else _too_few(view)
        raise NothingToDraw(few)
    ranked = sorted(view.importances.items(), key=lambda item: -item[1])[: 2 * MOST_AXES]
    done = [dotted_values(t.params) for t in logical(view.trials) if t.state == TrialState.COMPLETE]
    names = [style.fitted(style.legible(key), 2.6, 9) for key, _ in ranked]
    left = 0.35 + max(style.width_of(name, 9) for name in names)
    height = 0.3 * len(ranked)
    figure = style.new_figure(left + 5.4, 0.95 + height + 0.55)
    axes = style.add_axes(figure, left, 0.9, 3.3, height)
    axes.set_ylim(len(ranked) - 0.4, -0.6)
    top = max(share for _, share in ranked) or 1.0
    axes.set_xlim(0, top)
    axes.set_yticks([])
    style.name_axes(axes, "share of the explained variance")
    roles = [view.roles.get(key, "") for key, _ in ranked]
    colors = [style.SOFT if role == "nuisance" else style.BLUE for role in roles]
    axes.barh(range(len(ranked)), [share for _, share in ranked], height=0.62, color=colors)
    for row, ((key, share), name) in enumerate(zip(ranked, names, strict=True)):
        style.write(axes, -0.08 / 3.3, row, name, ha="right", va="center", transform=axes.get_yaxis_transform())
        coverage = sum(key in values for values in done) / max(len(done), 1)
        notes = [roles[row], "" if coverage == 1 else f"in {100 * coverage:.0f}% of trials"]
        shown = f"{share:.2f}" if share >= 0.005 else "<0.01"
        text = style.write(axes, share + 0.02 * top, row, shown, size=8.5, weight="bold", va="center")
        _write_after(text, "  " + ", ".join(filter(None, notes)), size=8, color=style.SOFT)
    rough = f"{len(done)} finished trials" + (": rough below about 50" if len(done) < 50 else "")
    few = f"; the first {len(ranked)} of {len(view.importances)}" if len(view.importances) > len(ranked) else ""
    what = (
        "what lifts a trial among the best" if len(view.objectives) == 1 else "what brings a trial to the Pareto front"
    )
    style.write_title(figure, f"{style.legible(ranked[0][0])} matters most", f"{what} (PED-ANOVA), {rough}{few}")
    return style.save(figure, path)


def parallel(view: StudyView, path: str | Path, *, objective: int = 0) -> Path:
    """A line per finished trial over its parameters, by colour of its value; the best ones on top."""
    from matplotlib.collections import LineCollection

    rows = _rows(view, objective)
    scales = _scales(view, rows)
    if not scales:
        raise NothingToDraw(_too_few(view) if not rows else "nothing was searched")
    metric, better = view.objectives[objective], _sign(view, objective)
    keys = list(scales)
    spacing = 1.25
    width = max(spacing * len(keys), 2.5)
    figure = style.new_figure(width + 2.0, 4.7)
    axes = style.add_axes(figure, 0.75, 1.15, width, 2.7)
    axes.set(xlim=(0, len(keys)), ylim=(-0.14, 1.04), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    values = np.array([value for _, _, value in rows])
    value_scale = _value_scale(values, metric)
    heights = np.array(
        [
            [*(scales[key].place(params.get(key, _NONE)) for key in keys), value_scale.place(value)]
            for _, params, value in rows
        ]
    )
    order = np.argsort(-better * values, kind="stable")  # the best are drawn last
    norm, cmap = _colors(values, better)
    best = min(10, math.ceil(len(rows) / 10))
    absent = bool((heights[:, :-1] < 0).any())
    for chosen, alpha, line_width in ((order[:-best], 0.45, 0.8), (order[-best:], 0.95, 1.7)):
        if not len(chosen):
            continue
        points = [np.column_stack([np.arange(len(keys) + 1), heights[i]]) for i in chosen]
        lines = LineCollection(points, colors=cmap(norm(values[chosen])), linewidths=line_width, alpha=alpha, zorder=2)
        axes.add_collection(lines, autolim=False)
    base = next((i for i, (number, _, _) in enumerate(rows) if number == 0), None)
    if base is not None:
        axes.plot(range(len(keys) + 1), heights[base], color=style.INK, linewidth=1.3, linestyle=(0, (4, 2)), zorder=4)
    for column, scale in enumerate([*scales.values(), value_scale]):
        axes.plot([column, column], [0, 1], color=style.SOFT, linewidth=0.9, zorder=3)
        room = spacing * width / (spacing * len(keys)) - 0.1
        name = metric if column == len(keys) else keys[column]
        for line, part in enumerate(reversed(_two_lines(name, room, 8))):
            up = {"weight": "bold"} if column == len(keys) else {}
            style.write(axes, column, 1.09 + 0.062 * line, part, size=8, ha="center", va="bottom", **up)
        ends = ((0.0, _number(value_scale.low)), (1.0, _number(value_scale.high)))
        for place, text in ends if column == len(keys) else scale.ticks():
            style.write(
                axes, column + 0.05 / spacing, place, style.shortened(text, 14), size=7, color=style.INK, va="center",
                zorder=6, bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.6},
            )  # fmt: skip
    if absent:
        style.write(axes, -0.06, _ABSENT, "not used", size=7, color=style.SOFT, ha="right", va="center")
        axes.axhline(_ABSENT, color=style.FAINT, linewidth=0.8, zorder=1)
    legend = f"bold: the best {best}" + ("; dashed: the base" if base is not None else "")
    left_out = _left_out(view, scales)
    style.write_title(
        figure,
        f"{_many(len(rows), 'finished trial')} over {_many(len(keys), 'parameter')}",
        f"dark: better {metric}; {legend}" + (f"; most important first, {left_out} left out" if left_out else ""),
    )
    _colorbar(figure, 0.75, 4.2, 2.4, norm, cmap, _words_of(metric))
    return style.save(figure, path)


def slices(view: StudyView, path: str | Path, *, objective: int = 0) -> Path:
    """The value against each parameter, most important first; logarithmic where the range was."""
    rows = _rows(view, objective)
    scales = _scales(view, rows)
    if not scales:
        raise NothingToDraw(_too_few(view) if not rows else "nothing was searched")
    metric, better = view.objectives[objective], _sign(view, objective)
    lines = -(-len(scales) // 4)
    columns = -(-len(scales) // lines)
    across, down = 2.35, 2.5
    figure = style.new_figure(max(0.95 + columns * across + 0.1, 5.0), 0.95 + lines * down + 0.1)
    values = np.array([value for _, _, value in rows])
    numbers = np.array([number for number, _, _ in rows])
    best = int((better * values).argmin())
    random = np.random.default_rng(0)
    branches = _branches(view)
    for i, (key, scale) in enumerate(scales.items()):
        left, top = 0.8 + (i % columns) * across, 1.0 + (i // columns) * down
        axes = style.add_axes(figure, left, top, across - 0.35, down - 0.85)
        label = _scale(axes, "y", values, metric)
        style.name_axes(axes, "", label if i % columns == 0 else "")
        _grid(axes)
        if i % columns:
            axes.tick_params(labelleft=False)
        places = np.array([scale.place(params.get(key, _NONE)) for _, params, _ in rows])
        shifted = places + (random.uniform(-0.16, 0.16, len(places)) * scale.step if scale.step else 0)
        axes.set_xlim(
            -0.06 if not scale.step else -scale.step / 2 - 0.02, 1.06 if not scale.step else 1.02 + scale.step / 2
        )
        ticks = scale.ticks(5 if scale.step else 3)
        room = (across - 0.35) / max(len(ticks), 1)
        axes.set_xticks([place for place, _ in ticks], [style.fitted(text, room, 8) for _, text in ticks])
        used = places >= 0
        colors = [branches.get(key, {}).get(_branch(t, key), style.BLUE) for t in numbers_to_trials(view, numbers)]
        tone = np.array([style.rgb(color) for color in colors])
        _scatter(axes, shifted[used], values[used], color=tone[used], s=15, alpha=0.6, linewidths=0, zorder=3)
        if used[best]:
            axes.plot(shifted[best], values[best], "o", markersize=7, mfc="none", mec=style.INK, mew=1.4, zorder=5)
        base = np.flatnonzero(numbers == 0)
        if len(base) and used[base[0]]:
            axes.plot(
                shifted[base[0]], values[base[0]], "D", markersize=5, mfc="none", mec=style.GREEN, mew=1.4, zorder=4
            )
        name = style.fitted(style.legible(key) + (", log" if scale.log else ""), across - 0.3, 8.5)
        style.write(axes, 0.5, -0.32 / (down - 0.85), name, size=8.5, ha="center", va="top", transform=axes.transAxes)
        _name_branches(axes, branches.get(key, {}), across - 0.35)
    left_out = _left_out(view, scales)
    style.write_title(
        figure,
        f"{_words_of(metric)} against each parameter",
        f"a dot a finished trial ({len(rows)}); ring: best, diamond: base"
        + ("; most important first" if view.importances else "")
        + (f", {left_out} left out" if left_out else ""),
    )
    return style.save(figure, path)


def contour(view: StudyView, path: str | Path, *, objective: int = 0) -> Path:
    """The value over the two most important parameters: trials as dots, between them a weighted mean of those near.

    Where no trial is near, nothing is painted.
    """
    rows = _rows(view, objective)
    scales = _scales(view, rows)
    if len(scales) < 2:
        raise NothingToDraw("it takes two parameters" if rows else _too_few(view))
    pair = _pair(scales, rows)
    if pair is None:
        raise NothingToDraw("no two parameters were in 5 finished trials together")
    x, y = pair
    metric, better = view.objectives[objective], _sign(view, objective)
    mine = [(params[x], params[y], value) for _, params, value in rows if x in params and y in params]
    px = np.array([scales[x].place(one) for one, _, _ in mine])
    py = np.array([scales[y].place(two) for _, two, _ in mine])
    values = np.array([value for _, _, value in mine])
    xticks, yticks = scales[x].ticks(5), scales[y].ticks(5)
    beside = [style.fitted(text, 0.9, 8) for _, text in yticks]
    left = 0.6 + max(style.width_of(text, 8) for text in beside)
    figure = style.new_figure(left + 6.05, 5.3)
    axes = style.add_axes(figure, left, 0.95, 4.6, 3.6)
    norm, cmap = _colors(values, better)
    painted, thin = _near(px, py, np.asarray(norm(values)), scales[x], scales[y])
    extent = (*_ends(scales[x]), *_ends(scales[y]))
    picture = cmap(painted)
    picture[..., 3] = np.where(thin, 0.0, 0.75)
    axes.imshow(picture, origin="lower", extent=extent, aspect="auto", interpolation="nearest", zorder=1)
    random = np.random.default_rng(0)
    jx, jy = (random.uniform(-0.2, 0.2, len(mine)) * scales[key].step for key in (x, y))
    _scatter(
        axes, px + jx, py + jy, color=cmap(norm(values)), s=24, edgecolors="white", linewidths=0.7, zorder=3
    )  # fmt: skip
    best = int((better * values).argmin())
    axes.plot((px + jx)[best], (py + jy)[best], "o", markersize=9, mfc="none", mec=style.INK, mew=1.6, zorder=4)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set_xticks([place for place, _ in xticks], [style.fitted(text, 4.4 / len(xticks), 8) for _, text in xticks])
    axes.set_yticks([place for place, _ in yticks], beside)
    names = [style.fitted(style.legible(key) + (", log" if scales[key].log else ""), 4.4, 9) for key in (x, y)]
    style.name_axes(axes, names[0])
    width, height = figure.get_size_inches()
    style.write(figure, 0.22 / width, 1 - 2.75 / height, style.fitted(names[1], 3.5, 9), rotation=90, va="center")
    _colorbar(figure, left + 4.85, 0.95, 3.6, norm, cmap, _words_of(metric), upright=True)
    where = ", ".join(
        f"{style.fitted(style.legible(key), 2.0, 12, bold=True)} = {scales[key].text(value)}"
        for key, value in zip((x, y), mine[best], strict=False)
    )
    style.write_title(
        figure,
        f"Best at {where}",
        f"{len(mine)} finished trials; colour: mean of the trials near, white: none is near ({np.mean(thin):.0%})",
    )
    return style.save(figure, path)


def edf(view: StudyView, path: str | Path, *, objective: int = 0) -> Path:
    """Part of the finished trials that reached a value or a better one."""
    done = _finished(view, objective)
    if len(done) < 2:
        raise NothingToDraw(_too_few(view))
    metric, better = view.objectives[objective], _sign(view, objective)
    values = better * np.sort([better * value for _, value in done])
    figure = style.new_figure(6.4, 4.1)
    axes = style.add_axes(figure, 0.85, 0.9, 5.2, 2.6)
    style.name_axes(axes, _scale(axes, "x", values, metric), "part of trials as good")
    _grid(axes)
    part = np.arange(1, len(values) + 1) / len(values)
    axes.plot(values, part, color=style.BLUE, linewidth=1.8, drawstyle="steps-post" if better > 0 else "steps-pre")
    axes.set_ylim(0, 1.04)
    base = dict(done).get(0)
    title = f"Half of the trials reach {_number(float(np.median(values)))}, the best {_number(values[0])}"
    beneath = f"{len(done)} finished trials"
    if base is not None:
        axes.axvline(base, color=style.GREEN, linewidth=1.2, linestyle=(0, (5, 3)))
        style.write(
            axes, base, 1.02, f"base {_number(base)}", size=8, color=style.GREEN, ha="center",
            transform=axes.get_xaxis_transform(),
        )  # fmt: skip
        ahead = sum(better * value < better * base for value in values)
        beneath += f"; {ahead} of them better than the base"
    style.write_title(figure, title, beneath)
    return style.save(figure, path)


def timeline(view: StudyView, path: str | Path, *, now: datetime.datetime | None = None) -> Path:
    """When each trial ran, on which worker, and how it ended. All that ran are here, surplus and lost ones too."""
    from matplotlib.collections import PolyCollection

    ran = [trial for trial in view.trials if trial.datetime_start is not None]
    if not ran:
        raise NothingToDraw("no trial has begun")
    start = min(trial.datetime_start for trial in ran if trial.datetime_start)
    ends = [trial.datetime_complete for trial in ran if trial.datetime_complete]
    running = any(trial.datetime_complete is None for trial in ran)
    end = max([*ends, *([now or datetime.datetime.now()] if running else [])])
    seconds = max((end - start).total_seconds(), 1e-3)
    unit, per = next((one for one in _UNITS if seconds / one[1] >= 3), _UNITS[-1])
    rows = _lanes(ran, end)
    names = list(rows)
    shown = [style.fitted(style.legible(name), 1.6, 8.5) for name in names]
    left = 0.4 + max(style.width_of(name, 8.5) for name in shown)
    lanes = sum(len(lane) for lane in rows.values())
    tall = float(np.clip(6.0 / lanes, 0.1, 0.34))
    figure = style.new_figure(left + 7.2, 0.95 + tall * lanes + 0.9)
    axes = style.add_axes(figure, left, 0.9, 6.8, tall * lanes)
    axes.set(xlim=(0, seconds / per), ylim=(lanes - 0.45, -0.55), yticks=[])
    style.name_axes(axes, f"time since the first trial began ({unit})")
    boxes: dict[TrialState, list[Any]] = {}
    busy, row = 0.0, 0
    for name, text in zip(names, shown, strict=True):
        middle = row + (len(rows[name]) - 1) / 2
        if tall * len(rows[name]) >= 0.13:
            style.write(
                axes, -0.08 / 6.8, middle, text, size=8.5, ha="right", va="center", transform=axes.get_yaxis_transform()
            )
        for lane in rows[name]:
            for trial in lane:
                begins = (trial.datetime_start - start).total_seconds() / per  # type: ignore[operator]
                stops = ((trial.datetime_complete or end) - start).total_seconds() / per
                busy += stops - begins
                stops = max(stops, begins + 0.0015 * seconds / per)  # a trial that ended at once is seen still
                box = [(begins, row - 0.38), (stops, row - 0.38), (stops, row + 0.38), (begins, row + 0.38)]
                boxes.setdefault(trial.state, []).append(box)
            row += 1
    for state, corners in boxes.items():
        bars = PolyCollection(corners, facecolors=COLORS[state], edgecolors="white", linewidths=0.4, label=WORDS[state])
        axes.add_collection(bars, autolim=False)
    _legend(axes, "below")
    used = busy / (len(names) * seconds / per)
    style.write_title(
        figure,
        f"{_many(len(ran), 'trial')} on {_many(len(names), 'worker')} in {_duration(seconds)}",
        f"{_counts(ran)}; workers were busy {min(used, 1):.0%} of the time",
    )
    return style.save(figure, path)


def pareto(view: StudyView, path: str | Path) -> Path:
    """Trials of two objectives, and those that no other beats in both."""
    if len(view.objectives) != 2:
        raise NothingToDraw("a Pareto front has two objectives")
    done = [
        (t.number, *t.values)
        for t in logical(view.trials)
        if t.state == TrialState.COMPLETE and len(t.values) == 2 and all(map(math.isfinite, t.values))
    ]
    if not done:
        raise NothingToDraw("no trial has finished")
    points = np.array([one[1:] for one in done], dtype=float)
    signs = np.array([_sign(view, 0), _sign(view, 1)])
    on_front = front(points * signs)
    figure = style.new_figure(8.0, 4.9)
    axes = style.add_axes(figure, 0.85, 0.9, 5.6, 3.3)
    x, y = (_scale(axes, axis, points[:, i], view.objectives[i]) for i, axis in enumerate(("x", "y")))
    style.name_axes(axes, x, y)
    _grid(axes)
    rest = ~on_front
    how = {"linewidths": 0, "zorder": 2}
    _scatter(axes, points[rest, 0], points[rest, 1], color=style.SKY, s=18, alpha=0.6, label="complete", **how)
    ends = points[on_front][np.argsort(points[on_front, 0], kind="stable")]
    corners = "steps-post" if signs[0] > 0 else "steps-pre"
    axes.plot(ends[:, 0], ends[:, 1], color=style.RED, linewidth=1, drawstyle=corners, zorder=3)
    _scatter(axes, ends[:, 0], ends[:, 1], color=style.RED, s=26, label="Pareto front", linewidths=0, zorder=4)
    base = next((point for (number, *_), point in zip(done, points, strict=True) if number == 0), None)
    if base is not None:
        axes.plot(*base, "D", markersize=7, mfc="none", mec=style.GREEN, mew=1.6, zorder=5, label="base", linestyle="")
    figure.canvas.draw()
    taken: list[tuple[float, float]] = []
    for (number, *_), point, is_front in zip(done, points, on_front, strict=True):
        at = axes.transData.transform(point) / style.DPI
        if is_front and all(abs(at[0] - u) > 0.3 or abs(at[1] - v) > 0.16 for u, v in taken):
            taken.append((at[0], at[1]))
            note = axes.annotate(str(number), (point[0], point[1]), (4, 4), textcoords="offset points", zorder=6)
            note.set(fontsize=7.5, color=style.INK, family=style.FONT)
    _legend(axes, "beside")
    style.write_title(
        figure,
        f"{int(on_front.sum())} of {_many(len(done), 'finished trial')} on the Pareto front",
        f"no other trial has a better {view.objectives[0]} at an equal or better {view.objectives[1]}; numbers: trials",
    )
    return style.save(figure, path)


def front(points_ND: NDArray) -> NDArray[np.bool_]:
    """Which of N points no other dominates, all D being minimised; equal points are all kept."""
    no_worse = (points_ND[:, None] <= points_ND[None]).all(axis=2)
    better = (points_ND[:, None] < points_ND[None]).any(axis=2)
    dominated = (no_worse & better).any(axis=0)
    return np.asarray(~dominated)


PER_OBJECTIVE: dict[str, Callable[..., Path]] = {
    "history": history,
    "intermediate": intermediate,
    "parallel_coordinates": parallel,
    "slice": slices,
    "contour": contour,
    "edf": edf,
}
PER_STUDY: dict[str, Callable[..., Path]] = {"importances": importances, "timeline": timeline, "pareto_front": pareto}


# Scales of parameters

_ABSENT = -0.1  # where a parameter that a trial did not have is drawn
_NONE: Any = object()  # the value of a parameter that a trial did not have: null is one that it may have


@dataclass(frozen=True)
class ParameterScale:
    """Places a parameter's values on 0..1."""

    kind: Literal["number", "category"]
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Any, ...] = ()
    beside: Any = _NONE
    """What the range cannot hold, the 0 beside a logarithmic one or null: at place 0, the range begins at 0.12."""

    @property
    def step(self) -> float:
        """Room of one category; 0 for numbers."""
        return 1 / max(len(self.choices) - 1, 1) if self.kind == "category" else 0.0

    def place(self, value: Any) -> float:
        if value is _NONE:
            return _ABSENT
        if self.kind == "category":
            where = next((i for i, one in enumerate(self.choices) if one == value and type(one) is type(value)), None)
            return _ABSENT if where is None else 0.5 if len(self.choices) == 1 else where * self.step
        if not self.holds(value):
            return 0.0 if self.beside is not _NONE else _ABSENT
        begin = 0.12 if self.beside is not _NONE else 0.0
        if self.high <= self.low:
            return (1 + begin) / 2
        scale = math.log if self.log else float
        return begin + (1 - begin) * (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def holds(self, value: Any) -> bool:
        """Whether a range of this kind can have this value."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and math.isfinite(value) and (value > 0 or not self.log)

    def ticks(self, most: int = 4) -> list[tuple[float, str]]:
        if self.kind == "category":
            every = -(-len(self.choices) // max(most, 8))
            return [(self.place(one), _text(one)) for one in self.choices[::every]]
        beside = [(0.0, _text(self.beside))] if self.beside is not _NONE else []
        return beside + [(self.place(at), _short_number(at)) for at in _nice(self.low, self.high, self.log, most)]

    def text(self, value: Any) -> str:
        return _text(value) if self.kind == "category" or not self.holds(value) else _short_number(float(value))


def _scales(view: StudyView, rows: Sequence[tuple[int, Mapping[str, Any], float]]) -> dict[str, ParameterScale]:
    """Of the parameters that finished trials had, most important first, ``MOST_AXES`` at most."""
    finished = {number for number, _, _ in rows}
    kinds: dict[str, list[Any]] = {}
    for trial in view.trials:
        if trial.number in finished:
            for name, distribution in trial.distributions.items():
                key = parse_name(name)
                if not key.switch and distribution not in kinds.setdefault(key.dotted, []):
                    kinds[key.dotted].append(distribution)
    scales = {}
    for dotted in sorted(kinds, key=lambda one: (-view.importances.get(one, 0.0), one)):
        present = [params[dotted] for _, params, _ in rows if dotted in params]
        scale = _scale_of(kinds[dotted], present)
        if scale.high > scale.low or len(scale.choices) > 1:
            scales[dotted] = scale
    return dict(list(scales.items())[:MOST_AXES])


def _scale_of(distributions: Sequence[Any], present: Sequence[Any]) -> ParameterScale:
    if any(isinstance(one, CategoricalDistribution) for one in distributions):
        choices: list[Any] = []
        for one in distributions:
            for choice in getattr(one, "choices", ()):
                if all(choice != known or type(choice) is not type(known) for known in choices):
                    choices.append(choice)
        if all(isinstance(one, int | float) and not isinstance(one, bool) for one in choices):
            choices.sort()
        return ParameterScale("category", choices=tuple(choices), high=0.0)
    log = all(one.log for one in distributions)
    low, high = min(one.low for one in distributions), max(one.high for one in distributions)
    plain = ParameterScale("number", log=log)
    held = [value for value in present if plain.holds(value)]  # an enqueued base may lie outside
    beside = next((value for value in present if not plain.holds(value)), _NONE)
    return ParameterScale("number", float(min([low, *held])), float(max([high, *held])), log, beside=beside)


def _nice(low: float, high: float, log: bool, most: int) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    if not log or high / low < 5:
        return [float(at) for at in MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= at <= high]
    powers = list(range(math.ceil(math.log10(low) - 1e-9), math.floor(math.log10(high) + 1e-9) + 1))
    if len(powers) < 2:
        return [low, math.sqrt(low * high), high][:: 1 if most > 3 else 2]
    every = -(-len(powers) // most)
    return [10.0**power for power in powers[::every]]


def _short_number(value: float) -> str:
    if value == 0 or 0.001 <= abs(value) < 10_000:
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return re.sub(r"e([+-])0*", lambda found: "e-" if found[1] == "-" else "e", f"{value:.2g}")


def _text(value: Any) -> str:
    if value is None or isinstance(value, bool | list):
        return style.legible(json.dumps(value))
    return style.legible(_short_number(value) if isinstance(value, float) else str(value))


def _value_of(text: str) -> Any:
    """A switch's value from its name, where it stands as YAML writes it."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _name_branches(axes: Axes, branches: Mapping[str, str], inches: float) -> None:
    """Beside each other above the axes, each in its colour, as many as fit."""
    x = 0.0
    for branch, color in branches.items():
        text = style.legible(branch.rpartition("=")[2])
        wide = style.width_of(text, 7.5)
        if x + wide > inches:
            style.write(axes, x / inches, 1.03, "…", size=7.5, color=style.SOFT, transform=axes.transAxes)
            return
        style.write(axes, x / inches, 1.03, text, size=7.5, color=color, weight="bold", transform=axes.transAxes)
        x += 1.12 * wide + 0.1


def _branches(view: StudyView) -> dict[str, dict[str, str]]:
    """Key -> branch -> colour, for keys searched under several conditions."""
    found: dict[str, dict[str, str]] = {}
    for trial in logical(view.trials):
        for name in trial.params:
            key = parse_name(name)
            if key.branch and not key.switch:
                mine = found.setdefault(key.dotted, {})
                mine.setdefault(key.branch, BRANCHES[len(mine) % len(BRANCHES)])
    return {key: branches for key, branches in found.items() if len(branches) > 1}


def _branch(trial: FrozenTrial, dotted: str) -> str:
    keys = map(parse_name, trial.params)
    return next((key.branch for key in keys if key.dotted == dotted and not key.switch), "")


def numbers_to_trials(view: StudyView, numbers: Sequence[int] | NDArray) -> list[FrozenTrial]:
    known = {trial.number: trial for trial in view.trials}
    return [known[int(number)] for number in numbers]


def _left_out(view: StudyView, scales: Mapping[str, Any]) -> str:
    keys = {parse_name(name).dotted for trial in logical(view.trials) for name in trial.params}
    missing = len(keys) - len(scales)
    return f"{missing} others" if missing > 0 and len(scales) == MOST_AXES else ""


# The plane of two parameters


def _pair(
    scales: Mapping[str, ParameterScale], rows: Sequence[tuple[int, Mapping[str, Any], float]]
) -> tuple[str, str] | None:
    """The two most important that at least 5 trials have together."""
    keys = list(scales)
    for j in range(1, len(keys)):
        for i in range(j):
            if sum(keys[i] in params and keys[j] in params for _, params, _ in rows) >= 5:
                return keys[i], keys[j]
    return None


def _ends(scale: ParameterScale) -> tuple[float, float]:
    pad = scale.step / 2 if scale.kind == "category" else 0.03
    return -pad, 1 + pad


def _near(
    x: NDArray, y: NDArray, values: NDArray, along: ParameterScale, up: ParameterScale, cells: int = 96
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """``(cells, cells)`` means of values, weighted by a Gaussian of the distance, and where no trial is near.

    The width shrinks with the number of trials, n^(-1/6) as of a density in two dimensions. Categories share nothing.
    """
    width = 0.22 * len(values) ** (-1 / 6)

    def distances(at: NDArray, scale: ParameterScale) -> NDArray:
        low, high = _ends(scale)
        centres = low + (high - low) * (np.arange(cells) + 0.5) / cells
        if scale.kind == "category":
            nearest = np.round(centres / scale.step) * scale.step
            return np.where(np.abs(nearest[:, None] - at[None]) < 0.5 * scale.step, 0.0, 99.0)
        return centres[:, None] - at[None]

    squared_x, squared_y = distances(x, along) ** 2, distances(y, up) ** 2
    weights_x, weights_y = np.exp(-squared_x / (2 * width**2)), np.exp(-squared_y / (2 * width**2))
    total = weights_y @ weights_x.T
    mean = (weights_y * values) @ weights_x.T / np.maximum(total, 1e-300)
    nearest = np.sqrt((squared_y[:, None] + squared_x[None]).min(axis=2))
    return np.clip(mean, 0, 1), nearest > 1.5 * width


# Values


def _sign(view: StudyView, objective: int) -> int:
    return 1 if view.directions[objective] == "minimize" else -1


def _finished(view: StudyView, objective: int) -> list[tuple[int, float]]:
    """Number and value of finished trials."""
    return [
        (trial.number, float(trial.values[objective]))
        for trial in logical(view.trials)
        if trial.state == TrialState.COMPLETE and math.isfinite(trial.values[objective])
    ]


def _rows(view: StudyView, objective: int) -> list[tuple[int, dict[str, Any], float]]:
    values = dict(_finished(view, objective))
    return [(t.number, dotted_values(t.params), values[t.number]) for t in view.trials if t.number in values]


def _curve(trial: FrozenTrial) -> NDArray[np.float64]:
    """``(S, 2)`` step and finite value."""
    points = np.array(sorted(trial.intermediate_values.items()), dtype=float).reshape(-1, 2)
    return points[np.isfinite(points[:, 1])]


def _last_value(trial: FrozenTrial) -> float:
    curve = _curve(trial)
    return float(curve[-1, 1]) if len(curve) else math.nan


def _number(value: float) -> str:
    return f"{value:.4g}" if 10 <= abs(value) < 10_000 else style.number(value)


def _words_of(metric: str) -> str:
    """``val/err`` -> ``Validation error``."""
    split, _, name = metric.rpartition("/")
    splits = {"val": "validation", "train": "training", "train_eval": "training", "test": "test"}
    names = {"err": "error", "loss": "loss"}
    if split in splits and name in names:
        return f"{splits[split]} {names[name]}".capitalize()
    return style.legible(metric)


def _unit(metric: str) -> str:
    name = metric.rpartition("/")[2]
    if name == "err":
        return f"{metric} (rate)"
    if name == "loss":
        return f"{metric} (nats)"
    if name.endswith(("sec", "seconds")):
        return f"{metric} (s)"
    return style.legible(metric)


def _scale(
    axes: Axes, axis: str, values: Sequence[float] | NDArray, metric: str, *, typical: float | None = None
) -> str:
    """Choose the scale of the objective's axis and return its label.

    Over more than a factor of 30 positive values are drawn on logarithms, values of both signs on logarithms away from
    0; errors, which reach 0, on the square root where most would be pressed flat.
    """
    array = np.asarray(values, dtype=float)
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 1.0)
    set_scale, set_limits = getattr(axes, f"set_{axis}scale"), getattr(axes, f"set_{axis}lim")
    ruler = getattr(axes, f"{axis}axis")
    label = _unit(metric)
    label = style.fitted(label, 2.4, 9)
    middle = typical if typical is not None else float(np.median(array)) if array.size else 0.0
    if metric.endswith("err") and low >= 0 and high <= 2 and array.size and middle < high / 6:
        set_scale("function", functions=(lambda v: np.sqrt(np.maximum(v, 0)), np.square))
        kept = [0.0]
        for tick in (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0):
            if math.sqrt(tick / high) - math.sqrt(kept[-1] / high) > 0.11 and tick <= 1.06 * high:
                kept.append(tick)
        ruler.set_ticks(kept, [f"{tick:g}" for tick in kept])
        set_limits(0, 1.06 * high)
        return f"{label}, square-root scale"
    if low > 0 and high / low > 30:
        set_scale("log")
        room = (high / low) ** 0.05
        set_limits(low / room, high * room)
        _log_ticks(ruler, low / room, high * room)
        return f"{label}, log scale"
    near = float(np.quantile(np.abs(array), 0.25)) if array.size else 0.0
    if array.size and low < 0 < high - low and near > 0 and max(abs(low), abs(high)) / near > 1000:
        set_scale("symlog", linthresh=near)
        set_limits(low - 0.3 * abs(low), high + 0.3 * abs(high))
        reach = math.ceil(math.log10(near)), math.floor(math.log10(max(abs(low), high)))
        powers = [10.0**power for power in range(reach[0] + 1, reach[1] + 1, max(1, (reach[1] - reach[0]) // 3))]
        ticks = [at for at in (*(-power for power in powers[::-1]), 0, *powers) if low <= at <= high]
        ruler.set_ticks(ticks, [_short_number(tick) for tick in ticks])
        return f"{label}, log scale"
    pad = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    set_limits(0 if 0 <= low <= 0.25 * high else low - pad, high + pad)
    from matplotlib.ticker import MaxNLocator

    ruler.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    ruler.set_major_formatter(lambda value, _: _short_number(float(f"{value:.10g}")))
    return label


def _log_ticks(ruler: Any, low: float, high: float) -> None:
    from matplotlib.ticker import NullLocator

    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = len(powers) <= 4
    ticks = [m * 10.0**power for power in powers for m in ((1, 2, 5) if few else (1,))]
    ticks = [tick for tick in ticks if low <= tick <= high]
    ticks = ticks[:: max(1, -(-len(ticks) // 8))]
    ruler.set_ticks(ticks, [_short_number(tick) for tick in ticks])
    ruler.set_minor_locator(NullLocator())


def _value_scale(values: NDArray, metric: str) -> ParameterScale:
    low, high = float(values.min()), float(values.max())
    return ParameterScale("number", low, high, log=low > 0 and high / low > 30)


def _colors(values: NDArray, better: int) -> tuple[Normalize, Colormap]:
    """Dark is better. Ranks would hide how little values may differ; the worst quarter shares the palest tone."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm, Normalize

    # One hue from pale to dark: told apart by lightness alone.
    tones = ["#d3e3ee", "#8fbcd9", "#3f8fc0", "#0b5f97", "#06304d"]
    cmap = LinearSegmentedColormap.from_list("litmus", tones[::-1] if better > 0 else tones)
    low, high = float(values.min()), float(values.max())
    worst = float(np.quantile(values, 0.75 if better > 0 else 0.25))
    low, high = (low, max(worst, low)) if better > 0 else (min(worst, high), high)
    if high <= low:
        high = low + (abs(low) or 1.0) * 1e-6
    kind = LogNorm if low > 0 and high / low > 30 else Normalize
    return kind(low, high, clip=True), cmap


# Small parts of a picture

_UNITS = (("h", 3600.0), ("min", 60.0), ("s", 1.0))


def _lanes(ran: Sequence[FrozenTrial], end: datetime.datetime) -> dict[str, list[list[FrozenTrial]]]:
    """Worker -> lanes of trials that do not overlap; a worker has one, unless clocks or a lost lease say otherwise."""
    workers: dict[str, list[FrozenTrial]] = {}
    for trial in sorted(ran, key=lambda t: (t.datetime_start, t.number)):
        name = trial.user_attrs.get("litmus.worker")
        workers.setdefault("unnamed worker" if name is None else worker_name(str(name)), []).append(trial)
    found = {}
    for name in sorted(workers, key=_natural):
        lanes: list[list[FrozenTrial]] = []
        for trial in workers[name]:
            free = (lane for lane in lanes if (lane[-1].datetime_complete or end) <= trial.datetime_start)  # type: ignore[operator]
            lane = next(free, None)
            if lane is None:
                lanes.append([trial])
            else:
                lane.append(trial)
        found[name] = lanes
    return found


def _natural(name: str) -> list[Any]:
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", name)]


def _many(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _counts(trials: Sequence[FrozenTrial]) -> str:
    found = [(sum(trial.state == state for trial in trials), word) for state, word in WORDS.items()]
    return ", ".join(f"{count} {word}" for count, word in found if count)


def _against_base(base: float, best: float, metric: str, better: int) -> str:
    ahead = better * (base - best)
    if ahead <= 0:
        return "; the base was not beaten in the search"
    by = f"{100 * ahead:.2g} points" if metric.endswith("err") else _number(ahead)
    return f", {by} better than the base in the search: the best of many is too good"


def _too_few(view: StudyView) -> str:
    done = sum(trial.state == TrialState.COMPLETE for trial in logical(view.trials))
    if done < 2:
        return "one finished trial is too few" if done else "no trial has finished"
    return f"{done} finished trials are too few"


def _scatter(axes: Axes, x: Any, y: Any, **how: Any) -> None:
    axes.scatter(x, y, **how)


def _grid(axes: Axes) -> None:
    axes.grid(axis="y", color=style.FAINT, linewidth=0.6)
    axes.set_axisbelow(True)


def _whole(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


def _legend(axes: Axes, where: Literal["above", "below", "beside"]) -> None:
    handles, _ = axes.get_legend_handles_labels()
    if not handles:
        return
    height = axes.get_position().height * axes.figure.get_size_inches()[1]  # type: ignore[union-attr]
    places: dict[str, dict[str, Any]] = {
        "above": {"loc": "lower left", "bbox_to_anchor": (0.0, 1 + 0.1 / height), "ncols": 6, "columnspacing": 1.2},
        "below": {"loc": "upper left", "bbox_to_anchor": (0.0, -0.5 / height), "ncols": 6, "columnspacing": 1.2},
        "beside": {"loc": "upper left", "bbox_to_anchor": (1.02, 1.0)},
    }
    how = places[where]
    axes.legend(
        frameon=False,
        prop={"family": style.FONT, "size": 8},
        labelcolor=style.SOFT,
        handlelength=1.3,
        borderaxespad=0.1,
        **how,
    )


def _write_after(text: Any, more: str, *, size: float, color: str) -> None:
    """Text that goes on where another ends."""
    if more.strip():
        text.axes.annotate(
            more, (1, 0.5), xycoords=text, fontsize=size, color=color, family=style.FONT, va="center", parse_math=False
        )


def _two_lines(name: str, inches: float, size: float) -> list[str]:
    """A dotted name over two lines at most, broken at a dot."""
    name = style.legible(name)
    if style.width_of(name, size) <= inches:
        return [name]
    dots = [i + 1 for i, letter in enumerate(name) if letter in "./"]
    if dots:
        cut = min(dots, key=lambda i: abs(len(name) - 2 * i))
        return [style.fitted(name[:cut], inches, size), style.fitted(name[cut:], inches, size)]
    return [style.fitted(name, inches, size)]


def _colorbar(
    figure: Figure,
    left: float,
    top: float,
    long: float,
    norm: Normalize,
    cmap: Colormap,
    name: str,
    *,
    upright: bool = False,
) -> None:
    axes = style.add_axes(figure, left, top, *((0.14, long) if upright else (long, 0.12)))
    ramp = np.linspace(0, 1, 256)
    axes.imshow(
        cmap(ramp)[:, None] if upright else cmap(ramp)[None],
        aspect="auto", origin="lower", extent=(0, 1, 0, 1), interpolation="nearest",
    )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    low, high = float(norm.vmin or 0), float(norm.vmax or 0)
    ends = [_number(low), _number(high)]
    better_low = cmap(0.0)[2] < cmap(1.0)[2]  # the dark end
    ends = [ends[0], f"≥ {ends[1]}"] if better_low else [f"≤ {ends[0]}", ends[1]]
    if upright:
        for y, text in zip((0, 1), ends, strict=True):
            style.write(axes, 1.4, y, text, size=7.5, color=style.SOFT, va="center", transform=axes.transAxes)
        style.write(axes, 2.2, 0.5, name, size=8, rotation=90, va="center", transform=axes.transAxes)
    else:
        for x, text, side in ((-0.02, ends[0], "right"), (1.02, ends[1], "left")):
            style.write(axes, x, 0.5, text, size=7.5, color=style.SOFT, ha=side, va="center", transform=axes.transAxes)
        style.write(axes, 0.5, -0.5, name, size=8, ha="center", va="top", transform=axes.transAxes)
