"""Run a run again from its record: IDENTICAL, the first difference, or REFUSED with the fields that differ."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from safetensors.torch import load_file

from litmus.callbacks.trace import digest_tensors
from litmus.comparison import (
    Comparison,
    Difference,
    Different,
    Enough,
    compare_results,
    metric_distances,
    outside,
    rows_in_order,
)
from litmus.config import RunConfig, load_recorded, parse_config, to_dict
from litmus.data.datamodule import SPLITS
from litmus.errors import NonFinite, Problem, Refused, refuse
from litmus.experiment import TRACE, Scope, check, make_data, quiet_libraries, start_tracking, train
from litmus.fingerprint import ABSENT, FILE, PACKAGES, Field, Fingerprint, compare, take_fingerprint
from litmus.launch import supervise
from litmus.paths import shown
from litmus.resume import FOLDER as CHECKPOINTS
from litmus.stopping import Signals
from litmus.tracking import Run, StoredRun, code_digest, find_run, past_code, usable_cores
from litmus.tracking.spool import ARTIFACTS
from litmus.weights import FILE as WEIGHTS
from litmus.weights import digest_of_file, find_weights, follow_weights

REFUSED = 3
"""Exit code where the answer is REFUSED."""

TRAINED = ("train", "trial", "confirm", "arm")
"""Kinds of runs that are a training from a config, and nothing else."""

FOLLOW_CODE = {"code", "config", "data", "splits", "weights"}
"""Fields that another version of the code may read otherwise; going back to the run's own decides."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Record:
    """What a run left of what a reproduction needs; ``lacks`` names the artifacts that are not there."""

    run: StoredRun
    fingerprint: Fingerprint
    trace: Mapping[str, Any] | None
    result: Mapping[str, Any] | None
    lacks: tuple[str, ...]

    @property
    def whole(self) -> bool:
        return self.run.status == "FINISHED"


@dataclass(frozen=True)
class World:
    """Here and now, beside a record. ``config`` is None where this code cannot read the record's."""

    fields: list[Field]
    config: RunConfig | None
    data: Any
    why: Mapping[str, str]
    """Field -> why there is nothing of it here."""

    @property
    def differing(self) -> list[Field]:
        return [field for field in self.fields if field.differs]


def reproduce_run(
    reference: str,
    *,
    steps: int | None = None,
    tolerance: float | None = None,
    checkout: bool = False,
    home: str = "mlruns",
    uri: str | None = None,
    signals: Signals | None = None,
    say: Say = print,
) -> int:
    """Print the comparison of fingerprints, run, print the answer. Returns the exit code: 0, 1 or 3.

    Args:
        steps: compare the first so many optimizer steps only.
        tolerance: run in spite of differing fields and compare the metrics, which is no reproduction and never
            called one.
        signals: entered already, by who wants them taken; else they are as they were.
        checkout: where the code differs, go back to the run's in a work tree of its own.

    Raises:
        Refused: no such run, one that is no training or still runs, or options that contradict each other.
    """
    if tolerance is not None and (steps is not None or checkout):
        option = "--steps" if steps is not None else "--checkout"
        raise refuse("--tolerance", f"compares the metrics of a whole run by this code; leave {option} out", tolerance)
    stored = find_run(reference, home=home, uri=uri)
    _check_kind(stored)
    record = read_record(stored)
    say(f"run    {stored.id8}  {stored.name}, {_status(stored)}")
    ends = {"result.json", WEIGHTS} if stored.status == "FINISHED" else set()
    needed = {"config.yaml", "result.json"} if tolerance is not None else {"config.yaml", FILE, TRACE, *ends}
    if lacking := [name for name in record.lacks if name in needed]:
        return _refused_for_lack(record, lacking, say)
    if tolerance is None and record.trace is not None and not (record.trace["steps"] or record.trace["epochs"]):
        say(f"REFUSED: {TRACE} holds no step and no epoch; the run was {stored.status} before there was one to compare")
        return REFUSED
    if tolerance is None and (changed := stored.tags.get("litmus.changed_world")):
        say(f"REFUSED: the run was resumed where other things held ({changed}); no one place can repeat it")
        return REFUSED
    signals = signals or Signals()
    with quiet_libraries(), threads_of(record.fingerprint) as note:
        world = look_around(record, home=home, uri=uri, anywhere=tolerance is not None)
        say("\n".join(table(world.fields, {"threads": note} if note else {})))
        names = {field.name for field in world.differing}
        if tolerance is None and names:
            if checkout and "code" in names and names <= FOLLOW_CODE:
                return _in_past_code(record, steps=steps, home=home, uri=uri, say=say)
            say("\n".join(refusal(record, world, steps=steps)))
            return REFUSED
        if world.config is None or world.data is None:
            raise Refused([Problem(name, says) for name, says in world.why.items()], source=f"run {stored.id8}")
        problems = check(world.config, world.data.info)
        apart = world.config.train.world_size > 1
        if apart and (steps is not None or tolerance is not None):
            option = "--steps" if steps is not None else "--tolerance"
            says = f"is for one process; this run had {world.config.train.world_size}, and is run again as a whole"
            problems.append(Problem(option, says))
        if world.config.train.nodes > 1:
            says = "machines: run it again as it was, and compare the two trace.json"
            problems.append(Problem("train.nodes", says, world.config.train.nodes))
        if problems:
            raise Refused(problems, source="config")
        if apart:
            return _retrace_apart(record, world, say)
        if tolerance is not None:
            return _within(tolerance, record, world, signals, say)
        return _retrace(record, world, steps, signals, say)


def read_record(stored: StoredRun) -> Record:
    """What there is of a run's fingerprint, trace and result."""
    lacks = []

    def find(name: str) -> Path | None:
        try:
            return stored.artifact(name)
        except Refused:
            if stored.dir and (stored.dir / ARTIFACTS / name).is_file():
                raise  # it is there, and not what was recorded
            if stored.dir and name == TRACE and (stored.dir / CHECKPOINTS / name).is_file():
                return stored.dir / CHECKPOINTS / name  # left by a process that was killed before it could hand it in
            lacks.append(name)
            return None

    def read(name: str) -> str | None:
        path = find(name)
        return path.read_text(encoding="utf-8") if path else None

    find("config.yaml")
    find(WEIGHTS)
    fingerprint, trace, result = read(FILE), read(TRACE), read("result.json")
    try:
        return Record(
            run=stored,
            fingerprint=Fingerprint.from_json(fingerprint) if fingerprint else Fingerprint({}),
            trace=json.loads(trace) if trace else None,
            result=json.loads(result) if result else None,
            lacks=tuple(lacks),
        )
    except ValueError as error:
        raise refuse("run", f"its record is damaged: {error}", stored.id8) from None


def look_around(record: Record, *, home: str, uri: str | None, anywhere: bool = False) -> World:
    """The record's fields beside those of this machine, this code and these data.

    Args:
        anywhere: take whatever device there is.
    """
    then, why = record.fingerprint, {}
    try:
        config = _config_here(record.run, home=home, uri=uri, anywhere=anywhere)
    except Refused as refused:
        says = f"this code cannot read it: {'; '.join(map(str, refused.problems))}"
        fields = [
            Field("config", then.decides.get("config", ABSENT), ABSENT, True),
            Field("code", then.decides.get("code", ABSENT), code_digest(), True),
        ]
        return World(fields, None, None, {"config": says})
    weights = ""
    data: Any = make_data(config)
    try:
        origin = find_weights(config)
        weights = digest_of_file(origin.file) if origin else ""
        config = follow_weights(config)
    except Refused as refused:
        why["weights"] = "; ".join(map(str, refused.problems))
    try:
        data = make_data(config)
        info = data.prepare()
    except Refused as refused:
        why["data"] = "; ".join(map(str, refused.problems))
        data = info = None
    now = take_fingerprint(config, info, weights=weights, processes=config.train.world_size)
    return World(compare(then, now), None if "weights" in why else config, data, why)


def _config_here(stored: StoredRun, *, home: str, uri: str | None, anywhere: bool) -> RunConfig:
    """The record's config, its run kept in this home and as lean as it can be."""
    plain = to_dict(load_recorded(stored.artifact("config.yaml")))
    plain["tracking"] |= {"home": home, "uri": uri, "experiment": stored.experiment, "system_metrics": False}
    plain |= {"insight": False}
    plain["train"]["profiler"] = None
    if anywhere:
        plain["train"]["accelerator"] = "auto"
    return parse_config(plain)


@contextmanager
def threads_of(then: Fingerprint) -> Iterator[str]:
    """Torch on as many threads as the record says, if this process may have so many; else as it is.

    Gives a note for the comparison, empty where nothing was changed.
    """
    before = torch.get_num_threads()
    wanted = then.decides.get("threads", "")
    can = wanted.isdigit() and 0 < int(wanted) <= usable_cores() and int(wanted) != before
    if can:
        torch.set_num_threads(int(wanted))
    try:
        yield f"set for this; it was {before}" if can else ""
    finally:
        if can:
            torch.set_num_threads(before)


# --- running ----------------------------------------------------------------------------------------------------------


class _StopAfter(L.Callback):
    """Ends a fit by ``Enough`` after so many optimizer steps, before the validation that may follow."""

    def __init__(self, steps: int):
        self.steps = steps

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if trainer.global_step >= self.steps:
            raise Enough


def _track(record: Record, world: World, send: Literal["process", "off"] = "process") -> Run:
    tags, name = {"litmus.reproduces": record.run.uid}, f"reproduce-{record.run.id8}"
    config: Any = world.config
    return start_tracking(config, world.data.info, kind="reproduce", name=name, tags=tags, send=send)


def _retrace(record: Record, world: World, steps: int | None, signals: Signals, say: Say) -> int:
    """Run beside the recorded trace, to its end or to the first difference."""
    config: Any = world.config
    seen = Comparison(record.trace or {}, whole=record.whole)
    stops = [_StopAfter(steps)] if steps is not None else []
    weights: Path | None = None
    with _track(record, world) as tracked:
        found: Difference | None = None
        try:
            scope = _scope(record)
            result = train(config, world.data, tracked, signals, watch=seen, stops=stops, scope=scope, say=say)
            seen.finish()
            weights = tracked.dir / WEIGHTS
            found = compare_ends(record, weights, json.loads(json.dumps(result.table())))
        except Different as different:
            found = different.difference
        except NonFinite as error:
            found = Difference("numbers", "the training", "finite", str(error))
        except Enough:
            pass
        answer = f"DIFFERENT: {found}" if found else f"IDENTICAL: {_compared(seen, weights)}"
        tracked.set_tags({"litmus.reproduction": answer})
    say("")
    if found is not None:
        say("\n".join(_different(found, seen)))
        say(f"run    {tracked.uid}  (what it computed: {shown(tracked.dir / CHECKPOINTS / TRACE)})")
        return 1
    say("\n".join(_identical(record, seen, weights, steps)))
    say(f"run    {tracked.uid}")
    return 0


def _scope(record: Record) -> Scope:
    """What was evaluated then. A trial of a study leaves the test set alone, and with it the pictures of it."""
    splits = evaluated(record)
    return Scope(splits, pictures="test" in splits)


def _retrace_apart(record: Record, world: World, say: Say) -> int:
    """Train again in as many processes, which nobody watches, then lay the new trace beside the recorded one."""
    config: Any = world.config
    with _track(record, world, send="off") as tracked:  # rank 0 will send
        tracked.hand_over()
    same = _scope(record)
    scope = {"splits": same.splits, "pictures": same.pictures}
    code = supervise(tracked.dir, config, {"resumed": False, "begin_at": None, "changed": False, "scope": scope})
    if code:
        say(f"the second training ended with code {code}: nothing was compared")
        return 1
    again = read_record(find_run(str(tracked.dir)))
    seen = Comparison(record.trace or {}, whole=record.whole)
    weights: Path | None = None
    found: Difference | None = None
    try:
        for kind, row in rows_in_order(again.trace or {}):
            seen(kind, row)
        seen.finish()
        weights = again.run.artifact(WEIGHTS)
        found = compare_ends(record, weights, again.result or {})
    except Different as different:
        found = different.difference
    except Enough:
        pass
    answer = f"DIFFERENT: {found}" if found else f"IDENTICAL: {_compared(seen, weights)}"
    with Run.reopen(tracked.dir) as reopened:
        reopened.set_tags({"litmus.reproduction": answer})
    say("")
    say("\n".join(_different(found, seen) if found else _identical(record, seen, weights, None)))
    say(f"run    {tracked.uid}")
    return 1 if found else 0


def evaluated(record: Record) -> tuple[str, ...]:
    """The splits that the run's weights were evaluated on: a study's trial leaves the test set alone."""
    known = record.result or {}
    return tuple(split for split in SPLITS[1:] if split in known) or SPLITS[1:]


def compare_ends(record: Record, weights: Path, result: Mapping[str, Any]) -> Difference | None:
    """The weights that both runs ended with, then every number of their results."""
    then, now = (_digest_of_file(path) for path in (record.run.artifact(WEIGHTS), weights))
    if then != now:
        return Difference("weights", f"the end ({result['evaluated']['weights']})", then, now)
    return compare_results(record.result or {}, result)


def _digest_of_file(path: Path) -> str:
    return digest_tensors(sorted(load_file(path).items()))


def _within(tolerance: float, record: Record, world: World, signals: Signals, say: Say) -> int:
    """The metrics of two runs whose worlds may differ."""
    config: Any = world.config
    with _track(record, world) as tracked:
        result = train(config, world.data, tracked, signals, scope=_scope(record), say=say)
        distances = metric_distances(record.result or {}, json.loads(json.dumps(result.table())))
        far = outside(distances, tolerance)
        answer = f"OUTSIDE {tolerance:g}: {', '.join(far)}" if far else f"WITHIN TOLERANCE {tolerance:g}"
        tracked.set_tags({"litmus.reproduction": answer})
    say("")
    say(answer)
    for name, (then, now, distance) in distances.items():
        say(f"  {name:9}  then {then:.6g}, now {now:.6g}, {distance:.2g} apart")
    changed = ", ".join(field.name for field in world.differing)
    say(f"metrics were compared, and nothing else{f'; these fields differ: {changed}' if changed else ''}")
    say(f"run    {tracked.uid}")
    return 1 if far else 0


def _in_past_code(record: Record, *, steps: int | None, home: str, uri: str | None, say: Say) -> int:
    """The same command in a work tree of the run's own code."""
    stored, then = record.run, record.fingerprint
    commit = stored.tags.get("env.git.commit") or then.tells.get("git.commit", "")
    if not commit:
        say("REFUSED: code, and the record names no commit to go back to (it was not made in a git repository)")
        return REFUSED
    diff = stored.artifact("code.diff") if "code.diff" in stored.artifacts() else None
    argv = [sys.executable, "-m", "litmus.cli", "reproduce", str(stored.dir or stored.uid), "--home", home]
    argv += ["--steps", str(steps)] if steps is not None else []
    argv += ["--uri", uri] if uri is not None else []
    try:
        with past_code(commit, diff, digest=then.decides["code"]) as source:
            say(f"code   {commit[:12]}{' and the recorded diff' if diff else ''}, in {source}")
            sys.stdout.flush()
            path = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH", "")]))
            env = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
            return subprocess.run(argv, env=env, check=False).returncode
    except Refused as refused:
        say("REFUSED: code")
        for problem in refused.problems:
            say(f"  {problem}")
        return REFUSED


# --- words ------------------------------------------------------------------------------------------------------------


def table(fields: Sequence[Field], notes: Mapping[str, str] | None = None) -> list[str]:
    """``field | then | now | same``, long values cut in the middle."""
    notes = notes or {}
    rows = [("field", "then", "now", "same")]
    for field in fields:
        same = "yes" if field.same else "NO" if field.decides else "no, decides nothing"
        note = f" ({notes[field.name]})" if field.name in notes else ""
        rows.append((field.name, _cut(field.then), _cut(field.now), same + note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def refusal(record: Record, world: World, *, steps: int | None = None) -> list[str]:
    """Why nothing was run: each differing field in full, and the way back to it."""
    lines = [f"REFUSED: {', '.join(field.name for field in world.differing)}"]
    for field in world.differing:
        lines.append(f"  {field.name}: then {field.then}, now {field.now}")
        lines += [f"    {text}" for text in (world.why.get(field.name), hint(field, record.run)) if text]
    again = shlex.join(["litmus", "reproduce", record.run.id8])
    names = {field.name for field in world.differing}
    lines.append("nothing was run")
    if "code" in names and names <= FOLLOW_CODE:
        some = f" --steps {steps}" if steps is not None else ""
        lines.append(f"next   {again}{some} --checkout    or, to compare metrics only: {again} --tolerance 0.01")
    else:
        lines.append(f"next   what is said above, or, to compare metrics only: {again} --tolerance 0.01")
    return lines


def hint(field: Field, stored: StoredRun) -> str:
    """How to get a field back to what it was."""
    name, then = field.name, field.then
    commit = stored.tags.get("env.git.commit", "")
    if then == ABSENT and not name.startswith("env."):
        return "the record does not tell: it was made by another version"
    if name == "code":
        if not commit:
            return "the record names no commit"
        diff = " and git apply its artifact code.diff" if stored.dir and "code.diff" in stored.artifacts() else ""
        return f"git checkout {commit[:12]}{diff}, or --checkout"
    if name in PACKAGES or name.startswith(("nvidia-", "triton")):
        return f"uv pip sync requirements.lock of that commit, or: uv pip install {name}=={then.split(' ')[0]}"
    if name == "threads":
        return f"more than the {usable_cores()} cores of this process: OMP_NUM_THREADS={then} takes them all the same"
    if name.startswith("env."):
        word = name.removeprefix("env.")
        return f"unset {word}" if then == ABSENT else f"export {word}={shlex.quote(then)}"
    return {
        "config": "the record's config.yaml was changed, or a value of it was masked as a secret",
        "python": f"uv venv --python {then}",
        "data": "other images or labels than then; data.root, data.path and LITMUS_DATA say where they are looked for",
        "splits": "the same images, divided otherwise",
        "weights": "the file that model.weights names is another one now",
        "device": "needs the same kind of device; train.accelerator chose it",
        "processor": "needs the same processor: libraries choose their kernels by its model",
        "instructions": "ATEN_CPU_CAPABILITY may lower what this processor uses, not raise it",
        "blas": "another build of torch",
        "matmul precision": f"torch.set_float32_matmul_precision({then!r}), where something set it",
    }.get(name, "")


def _check_kind(stored: StoredRun) -> None:
    if stored.kind == "reproduce":
        original = stored.tags.get("litmus.reproduces", "")[:8]
        raise refuse("run", f"is itself a reproduction; name the run it reproduced, {original}", stored.id8)
    if stored.kind not in TRAINED:
        says = f"is of kind {stored.kind or 'unknown'!r}, not a training from a config"
        raise refuse("run", says, stored.id8)
    if stored.status == "RUNNING":
        raise refuse("run", "is still running; there is nothing to compare with before it ends", stored.id8)


def _refused_for_lack(record: Record, lacking: Sequence[str], say: Say) -> int:
    say(f"REFUSED: the record lacks {', '.join(lacking)}")
    say("  it was made by a version that did not write them, or the run died before they were written")
    if record.result is not None and "config.yaml" not in lacking:
        say(f"next   to compare metrics only: litmus reproduce {record.run.id8} --tolerance 0.01")
    return REFUSED


def _status(stored: StoredRun) -> str:
    attempts = int(stored.tags.get("litmus.attempt", "1"))
    return stored.status + (f", in {attempts} attempts" if attempts > 1 else "")


def _compared(seen: Comparison, weights: Path | None) -> str:
    parts = [f"{seen.steps} steps", f"{seen.epochs} epochs", "end" if weights is not None else ""]
    return ", ".join(part for part in parts if part and not part.startswith("0 "))


def _identical(record: Record, seen: Comparison, weights: Path | None, steps: int | None) -> list[str]:
    what = []
    if seen.steps:
        what.append(f"{_count(seen.steps, 'step')}: order, batches, losses, gradients, weights")
    if seen.epochs:
        what.append(f"{_count(seen.epochs, 'epoch')}: weights and metrics")
    again = f"litmus reproduce {record.run.id8}"
    if weights is not None:
        splits = [
            name for name, value in (record.result or {}).items() if isinstance(value, Mapping) and "err" in value
        ]
        what.append(f"the weights it ended with, {_digest_of_file(weights)}")
        what.append(f"every number of result.json ({', '.join(splits)})")
        return ["IDENTICAL", *(f"  {line}" for line in what)]
    if steps is None:
        says = f"IDENTICAL as far as the run got; it is {record.run.status}"
        return [says, *(f"  {line}" for line in what)]
    first = f"the first {_count(steps, 'step')}"
    if seen.steps < steps and not seen.epochs:
        first = f"the {_count(seen.steps, 'step')} of these {steps} that were traced" if seen.steps else first
    lines = [f"{first} are IDENTICAL; the whole run: {again}", *(f"  {line}" for line in what)]
    if seen.steps < steps:
        lines.append(f"  steps after {seen.steps} were recorded at the ends of epochs only (train.trace_steps)")
    return lines


def _different(found: Difference, seen: Comparison) -> list[str]:
    then, now = (
        f"{value} = {float.fromhex(value):.9g}" if _is_hex(value) else value for value in (found.then, found.now)
    )
    size = "" if found.size is None else f", {found.size:.3g} apart"
    lines = [f"DIFFERENT: the first difference is the {found}", f"  then  {then}", f"  now   {now}{size}"]
    equal = [_count(seen.steps, "step") if seen.steps else "", _count(seen.epochs, "epoch") if seen.epochs else ""]
    lines.append(f"  equal before it: {', '.join(filter(None, equal)) or 'no whole step'}")
    return lines


def _is_hex(value: Any) -> bool:
    return isinstance(value, str) and value.lstrip("-").startswith("0x")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _cut(text: str, width: int = 34) -> str:
    return text if len(text) <= width else f"{text[: width // 2 - 1]}...{text[-(width // 2 - 2) :]}"
