"""What ``litmus diagnose`` does: a run's verdict and next moves again, and on request a closer look at its answers."""

from __future__ import annotations

import filecmp
import json
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from litmus.errors import refuse
from litmus.paths import shown
from litmus.tracking import Run, StoredRun, find_run, sync

RESULT, WEIGHTS = "result.json", "weights.safetensors"


def diagnose_run(
    reference: str, *, insight: bool, home: str, uri: str | None, say: Callable[[str], None] = print
) -> None:
    """Say what a finished run came to; with ``insight`` evaluate its weights again, draw, and add that to its record.

    Raises:
        Refused: no such run, or one that has no result or no weights.
    """
    stored = find_run(reference, home=home, uri=uri)
    kept = stored.artifacts()
    wanted = [name for name in (RESULT, *([WEIGHTS] if insight else [])) if name not in kept]
    if wanted:
        says = (
            f"has no {' and no '.join(wanted)}: it is {stored.status}, of kind {stored.kind or 'unknown'}; "
            "only a training that came to its end can be diagnosed"
        )
        raise refuse("run", says, reference)
    reported = json.loads(stored.artifact(RESULT).read_text())
    if insight:
        _look_closer(stored, reported, home=home, uri=uri, say=say)
        say(f"next     litmus ui    or    litmus test {stored.id8}")
        return
    for line in report(stored, reported):
        say(line)
    say("")
    for picture in pictures_of(stored):
        say(f"picture  {picture}")
    looked = "insight.json" in kept
    say(f"next     litmus {f'test {stored.id8}' if looked else f'diagnose {stored.id8} --insight'}    or    litmus ui")


def report(stored: StoredRun, result: Mapping[str, Any]) -> Iterator[str]:
    """Errors with their intervals, the verdict, and what to change next, from a run's ``Result.table``."""
    from litmus.diagnosis import wilson

    which = result["evaluated"]
    yield f"run {stored.id or stored.uid}  {stored.name}, {which['weights']} weights, epoch {which['epoch']}"
    yield ""
    yield f"{'split':<12}{'err':<8}{'95% of the error':<20}{'wrong':<18}loss"
    for split in ("train_eval", "val", "test"):
        if split not in result:  # a study's trial leaves the test set alone
            continue
        seen = result[split]
        wrong, n = seen["num_errors"], seen["num_images"]
        population = result.get("num_train") if split == "train_eval" else None
        low, high = wilson(wrong, n, population=population)
        interval = "exact" if low == high else f"{low:.4f} to {high:.4f}"
        yield f"{split:<12}{seen['err']:<8.4f}{interval:<20}{f'{wrong:,} of {n:,}':<18}{seen['loss']:.4f}"
    yield ""
    moves = result.get("moves", [])
    sentence = result["verdict"].removesuffix(f"; next: {', '.join(moves)}")
    yield from textwrap.wrap(sentence, 116, subsequent_indent="  ")
    for note in result.get("notes", []):
        yield f"  note: {note}"
    for i, move in enumerate(moves, start=1):
        yield f"  {'next moves' if i == 1 else '':<12}{i}. {move}"


def pictures_of(stored: StoredRun) -> list[Path]:
    """Where the run's pictures lie, as a person reads it; none if this machine does not hold the run."""
    if stored.dir is None:
        return []
    names = [name for name in stored.artifacts() if name.startswith("pictures/") and name.endswith(".png")]
    return [shown(stored.artifact(name)) for name in names]


def _look_closer(
    stored: StoredRun, reported: dict[str, Any], *, home: str, uri: str | None, say: Callable[[str], None]
) -> None:
    from litmus.experiment import quiet_libraries

    if stored.dir is None:
        folder = Path(home) / "insight" / stored.id8
        with quiet_libraries():
            found, offline = _evaluate_and_draw(stored, reported, folder, say)
        say(f"  {home} does not hold the run itself: pictures and tables lie here, and are not in its record")
    else:
        # Opened first: a run that is in use is refused before anything is computed.
        with Run.reopen(stored.dir) as record, quiet_libraries():
            folder = stored.dir
            found, offline = _evaluate_and_draw(stored, reported, folder, say)
            _add(stored, record, found, reported["evaluated"]["step"])
    for picture in found.pictures:
        say(f"picture  {shown(picture)}")
    for table in found.tables:
        say(f"table    {shown(table)}")
    if stored.dir is not None:
        sent = None if offline else sync(stored.dir, uri=uri)
        if sent is None or not sent.complete:
            why = "tracking.offline is set" if sent is None else sent.error
            say(f"  in the run's record, not in MLflow yet ({why}): litmus sync {stored.id8}")


def _evaluate_and_draw(
    stored: StoredRun, reported: dict[str, Any], folder: Path, say: Callable[[str], None]
) -> tuple[Any, bool]:
    """The insight, and whether the run's config keeps it off the network."""
    from litmus.data.datamodule import SPLITS
    from litmus.devices import best_device
    from litmus.evaluation import evaluate
    from litmus.experiment import diagnose, eval_batches, make_data, result_table
    from litmus.insight import make_insight, steps
    from litmus.networks import Network
    from litmus.trained import load_trained

    trained = load_trained(stored)
    config, device = trained.config, best_device(trained.config.train.accelerator)
    network, bf16 = cast(Network, trained.network.to(device)), config.train.precision == "bf16-mixed"
    data = make_data(config)
    data.prepare()
    limit = config.train.limit_batches
    evaluations = {}
    with steps(sum(len(data.loader(split)) for split in SPLITS[1:]), "evaluating") as step:

        def counted(split: str) -> Iterator[Any]:
            for batch in eval_batches(data, split, device, limit):
                step(split)
                yield batch

        for split in SPLITS[1:]:
            evaluations[split] = evaluate(network, counted(split), device=device, bf16=bf16)
    again = diagnose(config, data.info, evaluations, stopped=reported["stopped"] is not None)
    for line in report(stored, {**reported, **result_table(evaluations, again, data.info)}):
        say(line)
    if "test" in reported and evaluations["test"].num_errors != reported["test"]["num_errors"]:
        say(f"  note: the run reported test/err {reported['test']['err']:.4f}: the data or the code are not the same")
    say("")
    found = make_insight(network, data, evaluations["test"], folder, device=device, bf16=bf16)
    for line in found.lines:
        say(line)
    say("")
    return found, config.tracking.offline


def _add(stored: StoredRun, record: Run, found: Any, step: int) -> None:
    """Put into the record what it does not hold yet, so that a second time adds nothing."""
    known = set(stored.artifacts())
    for folder, paths in (("pictures", found.pictures), ("", found.tables)):
        for path in paths:
            name = f"{folder}/{path.name}".lstrip("/")
            if name not in known or not filecmp.cmp(path, stored.artifact(name), shallow=False):
                record.log_artifact(path, folder)
    fresh = {
        key: value
        for key, value in found.metrics.items()
        # Another device rounds otherwise, and that is no second point of the curve.
        if not (key in stored.metrics and math.isclose(stored.metrics[key], value, rel_tol=1e-4))
    }
    record.log_metrics(fresh, step=step)
