"""From ``--resume RUN`` to the run, its config and the newest checkpoint that is whole; or why not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from litmus.config import RunConfig, deciding, load_recorded
from litmus.errors import Problem, Refused, refuse
from litmus.tracking import code_digest, find_run, local_runs

if TYPE_CHECKING:
    from litmus.checkpoints import Saved
    from litmus.data.batch import DataInfo
    from litmus.tracking import StoredRun

FOLDER = "checkpoints"
"""Of a run directory."""


@dataclass(frozen=True)
class Resume:
    """A run that is gone on with.

    Args:
        uid: of the run.
        dir: its directory.
        says: what the user asked for, for messages.
        tags: as the run recorded them.
        changed: keys in which the config differs from the recorded one, when that was allowed.
    """

    uid: str
    dir: Path
    says: str
    tags: Mapping[str, str] = field(default_factory=dict)
    allow_changed: bool = False
    changed: tuple[str, ...] = ()

    @property
    def checkpoints(self) -> Path:
        return self.dir / FOLDER

    def check_data(self, info: DataInfo) -> None:
        """Raises ``Refused`` if the data are no longer those that the run was trained on."""
        digests = {"litmus.data_digest": info.digest, "litmus.split_digest": info.split_digest}
        problems = [
            Problem(f"--resume {self.says}", f"{key.removeprefix('litmus.')} was {self.tags[key]}: other data", now)
            for key, now in digests.items()
            if key in self.tags and self.tags[key] != now
        ]
        _unless_allowed(problems, self.allow_changed)

    def find(self, header: Mapping[str, Any], say: Callable[[str], None] = print) -> Saved | None:
        """The newest whole checkpoint, None if the run had not saved one. Changes nothing.

        Raises:
            Refused: there are checkpoints and none is whole, or it is of another network, or holds weights alone.
        """
        from litmus.checkpoints import Damaged, newest_whole, read, saved

        found = newest_whole(self.checkpoints, say=say)
        if found is None:
            if damaged := saved(self.checkpoints, "last"):
                says = f"none of its {len(damaged)} checkpoints is whole: begin anew, without --resume"
                raise refuse(f"--resume {self.says}", says, str(self.checkpoints))
            return None
        try:
            state = read(found.path)
        except Damaged as damage:
            raise refuse(f"--resume {self.says}", str(damage)) from None
        if problems := unfit(state, header, found.path.name):
            raise Refused(problems, source=f"--resume {self.says}")
        return found


def unfit(state: Mapping[str, Any], header: Mapping[str, Any], name: str) -> list[Problem]:
    """Why a training with this ``header`` cannot go on from a checkpoint's ``state``."""
    held = state.get("litmus")
    if not isinstance(held, Mapping) or "optimizer_states" not in state or "loops" not in state:
        return [Problem(name, "holds weights, not the state of a training: model.weights=PATH begins with them")]
    return [
        Problem(name, f"{key} is {held.get(key)!r} there", value)
        for key, value in header.items()
        if held.get(key) != value
    ]


def choose(
    reference: str, config: RunConfig | None, *, home: str | None = None, allow_changed: bool = False
) -> tuple[RunConfig, Resume | None, str]:
    """What ``fit --resume REFERENCE`` does: the config, the run to go on with, and why there is nothing to do, if so.

    ``auto`` is for job scripts: the newest run of this very config goes on; without one a new run begins.

    Raises:
        Refused: as ``find_resumable``; ``auto`` without a config.
    """
    if config is not None and config.model.weights is not None:
        from litmus.weights import follow_weights

        config = follow_weights(config)  # as the run recorded it: with what the weights read
    tracking = config.tracking if config else None
    home = home or (tracking.home if tracking else "mlruns")
    uri = tracking.uri if tracking else None
    if reference != "auto":
        config, found = find_resumable(reference, config, home=home, uri=uri, allow_changed=allow_changed)
        return config, found, ""
    if config is None:
        raise refuse("--resume auto", "needs the config of the run: litmus fit CONFIG --resume auto")
    run = newest_of(config, home=home)
    if run is None:
        return config, None, ""
    if run.status == "FINISHED":
        return config, None, f"run {run.id8} of this config is finished: litmus test {run.id8}"
    config, found = find_resumable(str(run.dir), config, home=home, uri=uri, allow_changed=allow_changed)
    return config, found, ""


def find_resumable(
    reference: str,
    config: RunConfig | None,
    *,
    home: str = "mlruns",
    uri: str | None = None,
    allow_changed: bool = False,
) -> tuple[RunConfig, Resume]:
    """The run that ``reference`` names, and the config to go on with: its own, or ``config`` if that means the same.

    Raises:
        Refused: no such run, one that this machine holds no directory of, one that is finished, or one with another
            config or code, field by field.
    """
    run = find_run(reference, home=home, uri=uri)
    where = f"--resume {reference}"
    if run.dir is None:
        raise refuse(where, f"run {run.id8} has no directory on this machine, and the directory holds its checkpoints")
    if run.kind != "train":
        raise refuse(where, f"run {run.id8} is of kind {run.kind!r}: only trainings go on")
    recorded = load_recorded(run.artifact("config.yaml"))
    config = config or recorded
    changes = differences(recorded, config)
    problems = [Problem(key, f"was {then!r} in run {run.id8}", now) for key, then, now in changes]
    if (code := run.tags.get("env.code")) and code != code_digest():
        commit = run.tags.get("mlflow.source.git.commit", "")
        problems.append(
            Problem(
                "code",
                f"was {code[:12]}{f', commit {commit[:8]},' if commit else ''} in run {run.id8}",
                code_digest()[:12],
            )
        )
    if run.status == "FINISHED" and not (allow_changed and changes):
        raise refuse(where, f"run {run.id8} is finished: litmus test {run.id8}, or leave out --resume for a new run")
    _unless_allowed(problems, allow_changed)
    changed = tuple(key for key, _, _ in changes)
    # Where it was found, not where it was begun: directories are moved and copied.
    there = home if run.dir.parent.parent == Path(home).expanduser().absolute() else str(run.dir.parent.parent)
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"home": there})})
    return config, Resume(run.uid, run.dir, reference, run.tags, allow_changed, changed)


def newest_of(config: RunConfig, *, home: str) -> StoredRun | None:
    """The newest training of this very config, finished or not; None if there is none."""
    for run in local_runs(home):
        if run.kind != "train":
            continue
        try:
            recorded = load_recorded(run.artifact("config.yaml"))
        except Refused:  # of another version, or killed before it was written
            continue
        if not differences(recorded, config) and recorded.run_name == config.run_name:
            return run
    return None


def differences(then: RunConfig, now: RunConfig) -> list[tuple[str, Any, Any]]:
    """(key, then, now) of every key that decides a number of the training and differs; also the accelerator."""
    old, new = (deciding(config) | {"train.accelerator": config.train.accelerator} for config in (then, now))
    return [(key, old.get(key), new.get(key)) for key in dict.fromkeys([*new, *old]) if old.get(key) != new.get(key)]


def _unless_allowed(problems: list[Problem], allow_changed: bool) -> None:
    if problems and not allow_changed:
        problems.append(Problem("--allow-changed", "goes on all the same, with what is given now"))
        raise Refused(problems, source="--resume")
