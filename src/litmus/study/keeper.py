"""The study's own run in MLflow, the parent of its trials: kept by one process at a time, of however many there are."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from litmus.config import dump_config
from litmus.config.study import study_to_dict
from litmus.jobs.forks import forked
from litmus.study.board import best_of, counts
from litmus.study.ledger import EPOCHS, Lineage
from litmus.study.stage import Stage
from litmus.study.storage import Held, is_away, try_hold

_TRY_EVERY_SEC = 10.0
_DRAW_AFTER_SEC = 30.0
_DRAW_SHARE = 20
"""Pictures are drawn again after so many times what drawing them took: a twentieth of one core at most."""

BEST_CONFIG, PAGE, TABLE = "best.yaml", "report.html", "trials.csv"


class Keeper:
    """Takes the role of the one who keeps the parent run as soon as it is free, and writes what is known of the study.

    Pictures are drawn by a process apart, nicely: the trials come first.
    """

    def __init__(self, stage: Stage, head: Sequence[str] = ()) -> None:
        self.stage, self.head = stage, list(head)
        self.run: Any = None
        self._held: Held | None = None
        self._tried_at = -_TRY_EVERY_SEC
        self._logged: dict[str, Any] = {}
        self._drawing: Any = None
        self._drawn_at = time.monotonic()
        self._drawn_state: Any = None
        self._drawing_took = 0.0

    def tick(self, known: Mapping[int, Lineage]) -> None:
        """Take the role if it is free; log what has changed; now and then have the pictures drawn anew."""
        self._hold()
        if self.run is None:
            return
        self._log(known)
        self._collect()
        finished = counts(known)["finished"]
        due = time.monotonic() - self._drawn_at > max(_DRAW_AFTER_SEC, _DRAW_SHARE * self._drawing_took)
        if due and self._drawing is None and finished and finished != self._drawn_state:
            self._drawn_state = finished
            self.draw(wait=False)

    def _hold(self) -> None:
        if self.run is not None and self._held is not None and self._held.lost:
            self.run.hand_over()
            self.run = None
        if self.run is not None or time.monotonic() - self._tried_at < _TRY_EVERY_SEC:
            return
        self._tried_at = time.monotonic()
        try:
            self._held = try_hold(self.stage.place, f"the parent run of {self.stage.config.name}")
        except Exception as error:
            if not is_away(error):
                raise
            return
        if self._held is not None:
            self.run = self._start()

    def _start(self) -> Any:
        from litmus.tracking import Run, environment, environment_tags

        config, base = self.stage.config, self.stage.base
        plain = study_to_dict(config)
        params: dict[str, Any] = {
            key: plain[key] for key in ("objective", "sampler", "pruner", "seed", "seeds") if key in plain
        }
        params["pruner"] = config.chosen_pruner.name
        params |= {f"space.{key}": json.dumps(value) for key, value in plain["space"].items()}
        run = Run.start(
            home=self.stage.home,
            uri=base.tracking.uri,
            experiment=base.tracking.experiment or f"litmus/{base.data.name}",
            name=config.name,
            kind="study",
            uid=self.stage.uid,
            params=params,
            tags={
                **base.tracking.tags,
                **environment_tags(environment()),
                "litmus.study": config.name,
                "litmus.storage": self.stage.place.label,
                "litmus.space_sha": self.stage.space.sha,
                "litmus.n_trials": self.stage.n_trials,
                "litmus.fail_reason": "",
            },
            send="off" if base.tracking.offline else "process",
        )
        run.log_text(dump_config(plain), "study.yaml")
        run.log_text(dump_config(base), "base.yaml")
        return run

    def _log(self, known: Mapping[int, Lineage]) -> None:
        now = counts(known)
        if now["finished"] == self._logged.get("finished") and now["failed"] == self._logged.get("failed"):
            return
        self._logged = now
        metrics = {f"study/{key}": float(now[key]) for key in ("finished", "pruned", "failed")}
        metrics["study/epochs"] = sum(epochs_of(lineage) for lineage in known.values())
        best = best_of(known, self.stage.directions[0])
        if best is not None:
            metrics["study/best"] = float(best.last.values[0])
        self.run.log_metrics(metrics, step=now["finished"])
        if best is not None:
            from litmus.jobs.job import uid_of

            self.name_best(uid_of(self.stage.uid, self.stage.study_name, best.trained_as), best.origin)

    def name_best(self, uid: str, origin: int) -> None:
        """What ``best:STUDY`` means from now on."""
        from litmus.tracking.stored import BEST_TAG

        if self.run is not None and self._logged.get(BEST_TAG) != uid:
            self._logged[BEST_TAG] = uid
            self.run.set_tags({BEST_TAG: uid, "litmus.best_trial": origin})

    # --- pictures

    def draw(
        self, *, wait: bool, verdict: Sequence[str] = (), candidates: Sequence[Any] = (), winner: int | None = None
    ) -> list[Path]:
        """Have pictures, page, table and the best config made from the storage; with ``wait``, their paths.

        Args:
            winner: the trial that was confirmed; else the best so far.
        """
        if self.run is None:
            return []
        if self._drawing is not None:
            self._drawing.join()
            self._collect()
        self._drawn_at = time.monotonic()
        folder = Path(self.run.dir) / "study"
        args = (self.stage, folder, list(self.head), list(verdict), list(candidates), winner)
        self._drawing = forked(draw_study, args, "litmus-pictures")
        if not wait:
            return []
        self._drawing.join()
        return self._collect()

    def _collect(self) -> list[Path]:
        if self._drawing is None or self._drawing.is_alive():
            return []
        self._drawing_took = time.monotonic() - self._drawn_at
        failed = self._drawing.exitcode != 0
        self._drawing = None
        if failed or self.run is None:
            return []
        folder = Path(self.run.dir) / "study"
        kept = []
        for path in sorted(folder.rglob("*")):
            if path.is_file() and not path.name.startswith("."):
                inner = path.relative_to(folder).parent.as_posix()
                kept.append(self.run.log_artifact(path, "" if inner == "." else inner))
        return kept

    def finish(self, status: str, reason: str = "") -> None:
        if self._drawing is not None:
            self._drawing.join(30.0)
            if self._drawing.is_alive():
                self._drawing.kill()
            self._collect()
        if self.run is not None:
            if reason:
                self.run.set_tags({"litmus.fail_reason": reason})
            self.run.finish(status)
            self.run = None
        if self._held is not None:
            self._held.release()
            self._held = None


def epochs_of(lineage: Lineage) -> float:
    return sum(float(trial.user_attrs.get(EPOCHS, 0.0)) for trial in lineage.attempts)


def draw_study(
    stage: Stage,
    folder: Path,
    head: Sequence[str],
    verdict: Sequence[str],
    candidates: Sequence[Any],
    winner: int | None,
) -> None:
    """In a process of its own: everything that can be looked at of a study, into ``folder``."""
    import warnings

    import optuna

    from litmus.config.study import trial_config
    from litmus.jobs.job import stand_apart
    from litmus.study import figures, report
    from litmus.study.storage import open_storage

    stand_apart((stage.folder / "logs" / "pictures.log").absolute())
    with contextlib.suppress(OSError):
        os.nice(10)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    config = stage.config
    storage = open_storage(stage.place, heartbeat_sec=config.heartbeat_sec, grace_sec=config.grace_sec)
    study = optuna.load_study(study_name=stage.study_name, storage=storage)
    trials = study.get_trials(deepcopy=False)
    weights = report.importances(study)
    roles = {branch.key: branch.role for branch in stage.space.branches}
    train = stage.base.train
    view = figures.StudyView(
        name=config.name,
        trials=trials,
        directions=stage.directions,
        objectives=config.objective,
        importances=weights,
        roles=roles,
        num_epochs=train.length if train.unit == "epochs" else 0,
    )
    figures.draw(view, folder / "pictures")
    report.write_page(
        study,
        folder / PAGE,
        title=f"study {config.name}",
        head=head,
        objectives=config.objective,
        candidates=candidates,
        verdict=verdict,
        shares=weights,
    )
    (folder / TABLE).write_text(report.trials_csv(trials, config.objective))
    known = stage.ledger(study, storage).lineages()
    best = best_of(known, stage.directions[0]) if winner is None else known[winner]
    if best is not None:
        config_of = trial_config(config, stage.space.values_of(best.last.params))
        who = "the base config" if best.origin == 0 else f"trial {best.origin}"
        how = "so far" if not verdict else "confirmed on fresh seeds" if candidates else "in the search"
        lines = [
            f"The best of study {config.name}, {how}: {who}, {config.objective[0]} {best.last.values[0]:.4f} there"
        ]
        (folder / BEST_CONFIG).write_text(report.best_yaml(config_of, f"litmus fit {BEST_CONFIG}", lines))
