"""What is left of predictions: CSV, JSON and a contact sheet in a folder, and lines on the screen."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from litmus import __version__
from litmus.diagnosis import wilson
from litmus.errors import Problem
from litmus.paths import shown
from litmus.predict.paths import counted, one_line, readable
from litmus.predict.predictor import SHORTLIST, Prediction, Predictions

CSV, JSON, SHEET, SKIPPED = "predictions.csv", "predictions.json", "contact_sheet.png", "skipped.csv"
FILES = (CSV, JSON, SHEET, SKIPPED)


def folder_problems(folder: Path, *, overwrite: bool) -> list[Problem]:
    """What keeps the files from being written into ``folder``, which is made when it is not there."""
    existing = folder
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        return [Problem("--out", f"{one_line(existing)} is not a folder", one_line(folder))]
    if not os.access(existing, os.W_OK | os.X_OK):
        return [Problem("--out", f"{one_line(existing)} may not be written to", one_line(folder))]
    ours = [name for name in FILES if os.path.lexists(folder / name)]
    if ours and not overwrite:
        return [Problem("--out", f"holds {', '.join(ours)} already: name another folder or --overwrite", str(folder))]
    return []


def new_folder(home: Path, name: str, id8: str) -> Path:
    """``home/predictions/<name>-<id8>-<n>``, made now, so that it is this process's alone."""
    stem = re.sub(r"[^\w.-]+", "-", f"{name}-{id8}", flags=re.ASCII)
    above = home / "predictions"
    above.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        try:
            (folder := above / f"{stem}-{number}").mkdir()
            return folder
        except FileExistsError:
            number += 1


def write(found: Predictions, folder: Path) -> list[Path]:
    """CSV, JSON, contact sheet, and ``skipped.csv`` if something was; each is whole or not there. Their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    with _whole(folder / CSV) as part, open(part, "w", encoding="utf-8", newline="") as file:
        write_csv(found, file)
    with _whole(folder / JSON) as part, open(part, "w", encoding="utf-8") as file:
        write_json(found, file)
    with _whole(folder / SHEET) as part:
        draw_sheet(found, part)
    written = [folder / CSV, folder / JSON, folder / SHEET]
    if found.skipped:
        with _whole(folder / SKIPPED) as part, open(part, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(("path", "reason"))
            rows.writerows((readable(path), readable(reason)) for path, reason in found.skipped)
        written.append(folder / SKIPPED)
    else:
        (folder / SKIPPED).unlink(missing_ok=True)  # of predictions that these overwrite
    return written


def write_csv(found: Predictions, file: TextIO) -> None:
    """A row an image, probabilities to 8 digits; columns that nothing was measured for are left out."""
    extra = _columns(found)
    labelled = found.labelled[1] > 0
    ranked = [f"{what}_{place}" for place in range(1, found.settings.top_k + 1) for what in ("class", "prob")]
    rows = csv.writer(file, lineterminator="\n")
    rows.writerow(["path", "predicted", "probability", *ranked, "entropy", *extra, *(["folder"] if labelled else [])])
    for one in found.predictions:
        top = [cell for name, chance in one.top for cell in (name, f"{chance:.8g}")]
        numbers = [f"{getattr(one, name):.8g}" for name in ("entropy", *extra)]
        label = [one.label or ""] if labelled else []
        rows.writerow([readable(one.path), one.predicted, f"{one.probability:.8g}", *top, *numbers, *label])


def write_json(found: Predictions, file: TextIO) -> None:
    """What was predicted and all that it rests on; a line for each image, so that 100,000 of them cost no memory."""
    settings = found.settings
    head = {
        "litmus": __version__,
        "run": {"id": found.run.id, "uid": found.run.uid, "name": found.run.name},
        "weights": {"path": readable(found.weights), "sha256": found.weights_sha256},
        "settings": {**asdict(settings), "views": [str(view) for view in settings.views]},
        "preprocessing": asdict(found.preprocessing),
        "counts": {"predicted": len(found.predictions), "skipped": len(found.skipped), "classes": dict(found.counts)},
        "passed_over": dict(found.passed_over),
    }
    file.write(json.dumps(head, indent=1)[:-2])
    extra = _columns(found)
    for key, rows in (
        ("predictions", (_plain(one, extra) for one in found.predictions)),
        ("skipped", ({"path": readable(path), "reason": readable(reason)} for path, reason in found.skipped)),
    ):
        file.write(f',\n "{key}": [')
        for number, row in enumerate(rows):
            file.write(f"{',' * (number > 0)}\n  {json.dumps(row)}")
        file.write("\n ]")
    file.write("\n}\n")


def draw_sheet(found: Predictions, path: Path) -> Path:
    """At most 48 of the images, the least certain among them."""
    from litmus.diagnosis import plots

    total, least, drawn = len(found.predictions), found.least_certain, found.drawn
    chosen = {position: found.predictions[position] for position in (*least, *drawn)}
    labelled = found.labelled[1] > 0
    if total <= 2 * SHORTLIST:
        sections = {"": [*least, *drawn]}
        title = f"{'All ' if total > 1 else ''}{total:,} image{'s, the least certain first' if total > 1 else ''}"
    else:
        sections = {"least certain": least, "others, drawn at random": drawn}
        title = f"The {len(least)} least certain of {total:,} images, and {len(drawn)} others at random"
    lines = ["beside each name: its probability; beneath: the file"]
    if found.settings.mc:
        lines[0] += f" and the spread over {found.settings.mc} dropout passes"
    if labelled:
        lines[0] += "; framed: not the class its folder is named after"
    lines.append(f"run {found.run.name} {found.run.id8}")
    return plots.contact_sheet(
        sections,
        found.pixels,
        {position: (one.predicted_idx, one.probability) for position, one in chosen.items()},
        {position: (_file(one, labelled), _spread(one)) for position, one in chosen.items()},
        found.preprocessing.class_names,
        path,
        title=title,
        subtitle="\n".join(lines),
        wrong={position for position, one in chosen.items() if one.label not in (None, one.predicted)},
    )


def tell(
    found: Predictions,
    written: Sequence[Path],
    named: Sequence[str],
    where: str,
    say: Callable[[str], None],
    *,
    first: int = 8,
) -> None:
    """The first predictions, how many of each class, what was skipped, where the rest is, and what to do next.

    ``named`` and ``where``: the paths and further options of the command, to repeat it.
    """
    settings = found.settings
    say(f"run {found.run.id or found.run.uid}  {found.run.name}")
    for line in _table(found, first):
        say(line)
    if (more := len(found.predictions) - first) > 0:
        say(f"... and {more:,} more")
    say("")
    counts = found.counts.most_common()
    listed = ", ".join(f"{name}: {count:,}" for name, count in counts[:10])
    say(f"{_images(len(found.predictions))}: {listed}{f', ... ({len(counts)} classes)' if len(counts) > 10 else ''}")
    if len(settings.views) > 1:
        say(f"averaged over {len(settings.views)} views: {', '.join(map(str, settings.views))}")
        split = sum(bool(one.view_disagreement) for one in found.predictions)
        say(f"  the views do not all agree on {_images(split)}")
    if settings.mc:
        split = sum(bool(one.variation_ratio) for one in found.predictions)
        say(f"averaged over {settings.mc} dropout passes; they do not all agree on {_images(split)}")
    wrong, known = found.labelled
    if known:
        low, high = wilson(wrong, known)
        which = "these folders are" if known == len(found.predictions) else f"folders of {_images(known)} are"
        says = f"err {wrong / known:.4f} (95% {low:.4f} to {high:.4f}; {wrong:,} of {known:,} images)"
        say(f"{which} named like the classes: {says}")
    if found.passed_over:
        say(f"passed over: {counted(found.passed_over)}")
    if found.skipped:
        say(f"skipped: {len(found.skipped):,} that could not be read")
        for path, reason in found.skipped[:10]:
            say(f"  {one_line(path)}: {one_line(reason)}")
        if (more := len(found.skipped) - 10) > 0:
            say(f"  ... and {more:,} more")
    say("")
    for path in written:
        kind = {CSV: "table", JSON: "json", SHEET: "picture", SKIPPED: "skipped"}[path.name]
        say(f"{kind:<8} {one_line(shown(path))}")
    again = f"litmus predict {found.run.id8} {shlex.join(map(one_line, named[:3]))}{' ...' if len(named) > 3 else ''}"
    doubt = f"    or, for how unsure it is, {again}{where} --mc 30" if found.has_dropout and not settings.mc else ""
    say(f"next     litmus test {found.run.id8}{where}{doubt}")


def _table(found: Predictions, first: int) -> Iterator[str]:
    rows = [["file", "class", "probability"]]
    if found.settings.mc:
        rows[0][2] += " +- std"
    if found.settings.top_k > 1:
        rows[0].append("then")
    for one in found.predictions[:first]:
        spread = "" if one.std is None else f" +- {one.std:.4f}"
        others = ", ".join(f"{name} {chance:.4f}" for name, chance in one.top[1:])
        path = one_line(one.path)
        rows.append([path if len(path) <= 48 else f"...{path[-45:]}", one.predicted, f"{one.probability:.4f}{spread}"])
        if found.settings.top_k > 1:
            rows[-1].append(others)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _columns(found: Predictions) -> list[str]:
    """Fields of ``Prediction`` that these settings measure beside probability and entropy."""
    over_passes = ["std", "mutual_information", "variation_ratio"] if found.settings.mc else []
    over_views = ["view_std", "view_disagreement"] if len(found.settings.views) > 1 else []
    return over_passes + over_views


def _plain(one: Prediction, extra: Sequence[str]) -> dict[str, Any]:
    label = {} if one.label is None else {"folder": one.label}
    return {
        "path": readable(one.path),
        "predicted": one.predicted,
        "predicted_idx": one.predicted_idx,
        "probability": one.probability,
        "top": [{"class": name, "probability": chance} for name, chance in one.top],
        "entropy": one.entropy,
        **{name: getattr(one, name) for name in extra},
        **label,
    }


def _file(one: Prediction, labelled: bool) -> str:
    name = one_line(one.path.name)
    return f"{one.label}/{name}" if labelled and one.label is not None else name


def _spread(one: Prediction) -> str:
    return "" if one.std is None else f"±{one.std:.2f}"


def _images(count: int) -> str:
    return f"{count:,} image{'s' * (count != 1)}"


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to write to, which takes its name at the end and is removed if that is not reached."""
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
