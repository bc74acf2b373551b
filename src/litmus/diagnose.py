"""What ``litmus diagnose`` does: a run's verdict and next moves again, and on request a closer look at its answers."""

from __future__ import annotations

import filecmp
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from litmus.advice import CURVES, SPLITS, Facts, assess, assess_seeds, command, rows_of, told
from litmus.config import RunConfig, deciding, load_recorded
from litmus.errors import Refused, refuse
from litmus.paths import shown
from litmus.tracking import Run, StoredRun, find_run, local_runs, sync

RESULT, WEIGHTS, DIAGNOSIS = "result.json", "weights.safetensors", "diagnosis.json"


def diagnose_run(
    reference: str,
    *,
    insight: bool,
    home: str,
    uri: str | None,
    seeds: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Say what a finished run came to; with ``insight`` evaluate its weights again, draw, and add that to its record;
    with ``seeds`` say it of all finished runs in this home that differ in their seed alone.

    Raises:
        Refused: no such run, or one that has no result or no weights; no second seed.
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
    if seeds:
        for line in report_seeds(stored, home=home):
            say(line)
        return
    if insight:
        _look_closer(stored, reported, home=home, uri=uri, say=say)
        say(f"next     litmus ui    or    litmus test {stored.id8}")
        return
    table = diagnosis_of(stored, reported)
    for line in report(stored, reported, table):
        say(line)
    say("")
    for picture in pictures_of(stored):
        say(f"picture  {picture}")
    if line := command(stored.artifact("config.yaml"), table):
        say(f"try      {line}")
    looked = "insight.json" in kept
    say(f"next     litmus {f'test {stored.id8}' if looked else f'diagnose {stored.id8} --insight'}    or    litmus ui")


def diagnosis_of(stored: StoredRun, result: Mapping[str, Any]) -> dict[str, Any]:
    """The run's ``Assessment.table``, as it recorded it; for a run of before there was one, from its errors and curves.

    Units and labels take the weights, and are read by ``--insight`` alone.
    """
    if DIAGNOSIS in stored.artifacts():
        return dict(json.loads(stored.artifact(DIAGNOSIS).read_text()))
    config = load_recorded(stored.artifact("config.yaml"))
    classes = result.get("num_classes") or _num_classes(stored)
    facts = Facts(
        num_train=result["num_train"],
        num_classes=classes,
        num_available=result.get("num_available", 0),
        elsewhere=not result.get("val_is_cut", True),
        stopped=result["stopped"],
    )
    return assess(config, result, facts, curves_of(stored, config)).table()


def curves_of(stored: StoredRun, config: RunConfig) -> list[dict[str, float]]:
    """The validations of a run, from its record."""
    return rows_of({name: stored.history(name) for name in CURVES}, config)


def _num_classes(stored: StoredRun) -> int | None:
    """From the head of the file of weights, which says what they read; None where this machine lacks it."""
    if stored.dir is None or WEIGHTS not in stored.artifacts():
        return None
    try:
        with stored.artifact(WEIGHTS).open("rb") as file:
            head = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return len(json.loads(head["__metadata__"]["litmus.preprocessing"])["class_names"])
    except (Refused, ValueError, KeyError, TypeError):
        return None


def report(stored: StoredRun, result: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[str]:
    """Errors with their intervals, the verdict, and what to change next.

    Args:
        result: a run's ``Result.table``.
        table: its ``Assessment.table``.
    """
    from litmus.diagnosis import wilson

    which = result["evaluated"]
    yield f"run {stored.id or stored.uid}  {stored.name}, {which['weights']} weights, epoch {which['epoch']}"
    yield ""
    yield f"{'split':<12}{'err':<8}{'95% of the error':<20}{'wrong':<18}loss"
    for split in SPLITS:
        if split not in result:  # a study's trial leaves the test set alone
            continue
        seen = result[split]
        wrong, n = seen["num_errors"], seen["num_images"]
        population = result.get("num_train") if split == "train_eval" else None
        low, high = wilson(wrong, n, population=population)
        interval = "exact" if low == high else f"{low:.4f} to {high:.4f}"
        yield f"{split:<12}{seen['err']:<8.4f}{interval:<20}{f'{wrong:,} of {n:,}':<18}{seen['loss']:.4f}"
    yield ""
    yield from _gap_rows(table)
    yield from told(table)


def _gap_rows(table: Mapping[str, Any]) -> Iterator[str]:
    from litmus.diagnosis.gaps import GAPS

    tolerance = f"tolerance {table['tolerance']:g}"
    yield f"{'gap':<18}{'value':<10}{'95% of the gap':<22}{tolerance}"
    for name, gap in table["gaps"].items():
        low, high = gap["interval"]
        interval = "exact" if low == high else f"{low:.4f} to {high:.4f}"
        largest = "dominant" if name == table["dominant_gap"] else ""
        yield f"{GAPS[name]:<18}{gap['value']:<10.4f}{interval:<22}{gap['status']:<18}{largest}".rstrip()
    yield ""


def report_seeds(stored: StoredRun, *, home: str) -> Iterator[str]:
    """The verdict over this run and its siblings: finished, of the same kind, config and images, of another seed.

    Raises:
        Refused: there is no sibling in this home.
    """
    config = load_recorded(stored.artifact("config.yaml"))
    runs = [(stored, config.seed), *siblings(stored, config, home=home)]
    if len(runs) < 2:
        says = (
            f"no other finished run in {home} differs from it in the seed alone: litmus fit {_file_of(stored)} seed=1"
        )
        raise refuse("--seeds", says, stored.id8)
    results = [json.loads(run.artifact(RESULT).read_text()) for run, _ in runs]
    found = assess_seeds(config, results)
    yield f"{'run':<10}{'seed':<12}{'train_eval/err':<16}{'val/err':<10}gap"
    for (run, seed), result in sorted(zip(runs, results, strict=True), key=lambda one: one[0][1]):
        train, val = result["train_eval"]["err"], result["val"]["err"]
        yield f"{run.id8:<10}{seed:<12}{train:<16.4f}{val:<10.4f}{val - train:+.4f}"
    yield ""
    from litmus.advice import Assessment

    table = Assessment(found).table()
    yield from _gap_rows(table)
    yield from told(table)
    if line := command(stored.artifact("config.yaml"), table):
        yield ""
        yield f"try      {line}"


def siblings(stored: StoredRun, config: RunConfig, *, home: str) -> Iterator[tuple[StoredRun, int]]:
    """Other runs of this config and these images, the newest of each other seed, with the seed."""
    ours, known = _but_seed(config), {config.seed}
    images = ("litmus.data_digest", "litmus.split_digest")
    for run in local_runs(home):
        if run.uid == stored.uid or run.status != "FINISHED" or run.kind != stored.kind:
            continue
        if any(run.tags.get(key) != stored.tags.get(key) for key in images) or RESULT not in run.artifacts():
            continue
        try:
            theirs = load_recorded(run.artifact("config.yaml"))
        except Refused:  # of a version whose keys are no longer known
            continue
        if theirs.seed not in known and _but_seed(theirs) == ours:
            known.add(theirs.seed)
            yield run, theirs.seed


def _but_seed(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value in deciding(config).items() if key != "seed"}


def _file_of(stored: StoredRun) -> Path:
    return shown(stored.artifact("config.yaml"))


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
            found, again, offline = _evaluate_and_draw(stored, reported, folder, say)
        say(f"  {home} does not hold the run itself: pictures and tables lie here, and are not in its record")
    else:
        # Opened first: a run that is in use is refused before anything is computed.
        with Run.reopen(stored.dir) as record, quiet_libraries():
            folder = stored.dir
            found, again, offline = _evaluate_and_draw(stored, reported, folder, say)
            _add(stored, record, found, reported["evaluated"]["step"])
            _add_diagnosis(stored, record, again, reported["evaluated"]["step"])
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
) -> tuple[Any, Any, bool]:
    """The insight, the assessment, and whether the run's config keeps it off the network."""
    from litmus.data.datamodule import SPLITS, TRAIN_DEV
    from litmus.devices import best_device
    from litmus.diagnosis import plots
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
    splits = [*SPLITS[1:], *([TRAIN_DEV] if data.info.num_train_dev else [])]
    with steps(sum(len(data.loader(split)) for split in splits), "evaluating") as step:

        def counted(split: str) -> Iterator[Any]:
            for batch in eval_batches(data, split, device, limit):
                step(split)
                yield batch

        for split in splits:
            evaluations[split] = evaluate(network, counted(split), device=device, bf16=bf16)
    rows, stopped = curves_of(stored, config), reported["stopped"]
    again = diagnose(config, data, evaluations, network, rows, device=device, stopped=stopped)
    table = again.table()
    for line in report(stored, {**reported, **result_table(evaluations, again.diagnosis, data.info)}, table):
        say(line)
    if "test" in reported and evaluations["test"].num_errors != reported["test"]["num_errors"]:
        say(f"  note: the run reported test/err {reported['test']['err']:.4f}: the data or the code are not the same")
    say("")
    test = evaluations["test"]
    ladder = plots.diagnosis(
        again.diagnosis, folder / "pictures" / "diagnosis.png", test=(test.num_errors, test.num_images)
    )
    found = make_insight(network, data, test, folder, device=device, bf16=bf16, trained_on=evaluations["train_eval"])
    if stored.dir is None or DIAGNOSIS not in stored.artifacts():
        found.pictures.insert(0, ladder)
    for line in found.lines:
        say(line)
    say("")
    return found, again, config.tracking.offline


def _add_diagnosis(stored: StoredRun, record: Run, again: Any, step: int) -> None:
    """What a run of an earlier version does not say of itself."""
    if DIAGNOSIS in stored.artifacts():
        return
    record.log_text(json.dumps(again.table(), indent=1), DIAGNOSIS)
    record.set_tags({key: value for key, value in again.tags.items() if key not in stored.tags})
    record.log_metrics({key: value for key, value in again.metrics.items() if key not in stored.metrics}, step=step)


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
