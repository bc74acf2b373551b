"""``litmus tune STUDY``: the process that is typed. It checks, starts the workers, shows, and has the last word.

Nothing that matters is known to it alone: it can be killed at any time, on any machine, and the same command goes on.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.trial import TrialState

from litmus.config import RunConfig
from litmus.config.study import StudyConfig, base_config, load_study
from litmus.errors import Refused, refuse
from litmus.jobs.forks import CONTEXT
from litmus.jobs.posts import Post, here, make_posts
from litmus.paths import shown
from litmus.study import confirm
from litmus.study.begin import check_data, check_old, check_same, existing, prepare
from litmus.study.board import Board, best_of, counts
from litmus.study.keeper import BEST_CONFIG, PAGE, Keeper, epochs_of
from litmus.study.ledger import STUDY_UID, WORKER, Ledger, Lineage, failures_in_a_row, is_here
from litmus.study.pool import Pool
from litmus.study.space import check_study
from litmus.study.stage import CANDIDATE, SEED, Confirmation, Stage
from litmus.study.storage import Place, Storage, is_away, open_storage, patiently, place_of
from litmus.study.verdict import Candidate, OnTest, Range, choose, front_sentence, verdict
from litmus.study.worker import record_failure

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What was typed beside the study."""

    workers: int | None = None
    devices: tuple[str, ...] = ()
    share: bool = False
    storage: str | None = None
    warm_start: str | None = None


def tune(path: str | Path, overrides: Sequence[str] = (), options: Options | None = None, *, say: Say = print) -> int:
    """Search, confirm, conclude; or go on with it. The exit code: 0, 1 (gave up), 130 or 143.

    Raises:
        Refused: before the first trial, with everything that is wrong.
    """
    options = options or Options()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = load_study(path, overrides)
    if problems := check_study(config):
        raise Refused(problems, source=str(path))
    base = base_config(config)
    posts = make_posts(
        workers=options.workers,
        devices=options.devices,
        share=options.share,
        per_trial=base.train.devices,
        accelerator=base.train.accelerator,
        **here(),
        source="litmus tune",
    )
    if config.time_limit_sec is not None:
        posts = [replace(post, until=time.time() + config.time_limit_sec) for post in posts]
    place = place_of(options.storage, base.tracking.home)
    with Conductor(config, base, place, posts, [str(path), *overrides], options, say) as conductor:
        return conductor.run()


def reap(path: str | Path, overrides: Sequence[str] = (), *, storage: str | None = None, say: Say = print) -> int:
    """Put right what a machine that is gone left RUNNING: in the study, in MLflow; trains nothing."""
    from litmus.tracking import put_right, sync, unsynced

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = load_study(path, overrides)
    base = base_config(config)
    place = place_of(storage, base.tracking.home)
    opened = open_storage(place, heartbeat_sec=config.heartbeat_sec, grace_sec=config.grace_sec)
    found = existing(config.name, opened)
    if found is None:
        raise refuse("name", f"there is no such study at {place.label}", config.name)
    ended: list[str] = []
    for stage in _stages(config, base, place, found):
        study = existing(stage.study_name, opened)
        if study is None:
            continue
        ledger = stage.ledger(study, opened)
        for origin in ledger.reclaim():
            say(f"{stage.name_of(origin)}: its worker is gone; queued again")
        wanted = {ledger.uid_of(one.last): _status(one) for one in ledger.lineages().values() if _status(one)}
        ended += [] if base.tracking.offline else put_right(wanted, home=stage.home, uri=base.tracking.uri)
    for directory in unsynced(stage.home):
        sent = sync(directory, uri=base.tracking.uri)
        say(f"{directory.name}: {'sent' if sent.complete else f'not sent: {sent.error}'}")
    for name in ended:
        say(f"{name}: was RUNNING in MLflow, and is ended")
    say(f"next     litmus tune {shlex.join([str(path), *overrides])}")
    return 0


def _status(lineage: Lineage) -> str:
    """What MLflow should say of a trial that has ended."""
    if lineage.state == "finished":
        return "FINISHED" if lineage.last.state == TrialState.COMPLETE else "KILLED"
    return "FAILED" if lineage.state == "failed" else ""


class Conductor:
    """One ``litmus tune``, from its first look at the storage to its last line."""

    def __init__(
        self,
        config: StudyConfig,
        base: RunConfig,
        place: Place,
        posts: list[Post],
        typed: list[str],
        options: Options,
        say: Say,
    ) -> None:
        self.config, self.base, self.place, self.posts = config, base, place, posts
        self.typed, self.options, self.say = typed, options, say
        self.storage: Storage = open_storage(place, heartbeat_sec=config.heartbeat_sec, grace_sec=config.grace_sec)
        self.signum: int | None = None
        self.pool: Pool | None = None
        self.keeper: Keeper | None = None
        self.directories: dict[Path, Any] = {}
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Conductor:
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._before[signum] = signal.signal(signum, self._take)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self.pool is not None:
            self.pool.kill()
        if self.keeper is not None:
            self.keeper.finish("FAILED" if error is not None else "KILLED", f"{type(error).__name__}" if error else "")
        for signum, handler in self._before.items():
            signal.signal(signum, handler)
        self.storage.close()

    def _take(self, signum: int, frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            if self.pool is not None:
                self.pool.kill()
            os._exit(128 + signum)
        self.signum = signum

    # --- the whole

    def run(self) -> int:
        CONTEXT.set_forkserver_preload(["litmus.study.warm"])
        source, stage = self.typed[0], Stage(self.config, self.base, self.place, "", len(self.posts))
        begun = existing(self.config.name, self.storage)
        if begun is not None:
            check_same(stage, begun, source=source)
        check_old(self.storage, self.options.warm_start, begun=begun is not None)
        digest = check_data(self.config, source=source)
        study = prepare(stage, self.storage, digest, warm_start=self.options.warm_start, source=source)
        stage = replace(stage, uid=str(study.user_attrs[STUDY_UID]))
        ledger = stage.ledger(study, self.storage)
        known = ledger.lineages()
        finished = counts(known)["finished"]
        if finished > stage.n_trials:
            says = f"is less than the {finished} trials that are finished; give that many or more"
            raise refuse("n_trials", says, stage.n_trials, source=self.typed[0])
        head = self.head(stage, finished)
        self.say("\n".join(head))
        self.keeper = Keeper(stage, head)
        self._tidy(ledger)
        whole = self._work(stage, ledger, "trials")
        if not whole:
            return self._leave(stage, ledger)
        return self._conclude(stage, ledger)

    def head(self, stage: Stage, finished: int) -> list[str]:
        config, base = self.config, self.base
        done = f", {finished} of them finished before" if finished else ""
        way = " and ".join(
            f"{direction} {name}" for direction, name in zip(config.directions, config.objective, strict=True)
        )
        sampler, pruner = config.sampler.name, config.chosen_pruner.name
        devices = {",".join(post.devices) for post in self.posts if post.devices}
        on = f"on GPUs {' '.join(sorted(devices))}" if devices else f"{self.posts[0].threads} threads each"
        return [
            f"study    {config.name}: {stage.n_trials} trials of {base.run_name}{done}; {way}",
            f"search   {sampler}, {'no pruning' if pruner == 'none' else f'{pruner} pruning'}, seed {config.seed}"
            + (f", {config.seeds} seeds a trial" if config.seeds > 1 else ""),
            *(f"{'space' if k == 0 else '':<9}{line}" for k, line in enumerate(stage.space.describe())),
            f"storage  {self.place.label}",
            f"workers  {len(self.posts)}, {on}; logs in {shown((stage.folder / 'logs').absolute())}",
        ]

    def _tidy(self, ledger: Ledger) -> None:
        """What earlier processes left behind: trials of dead workers, runs that were not sent."""
        if queued := ledger.reclaim():
            self.say(f"note     trials {', '.join(map(str, queued))} had lost their worker; they go on first")
        self._follow_left(ledger)

    def _follow_left(self, ledger: Ledger) -> None:
        from litmus.tracking import unsynced

        if self.base.tracking.offline:
            return
        with suppress(Refused, OSError):
            for directory in unsynced(self.base.tracking.home):
                if directory.name.startswith(f"{self.config.name}-"):
                    self._follow(directory)

    # --- while the workers work

    def _work(self, stage: Stage, ledger: Ledger, what: Any) -> bool:
        """Have a stage's trials done; whether all are."""
        known = ledger.lineages()
        values_of = None if what == "trials" else _confirmed_values
        board = Board(
            total=stage.n_trials,
            objectives=self.config.objective,
            direction=stage.directions[0],
            space=stage.space,
            what=what,
            values_of=values_of,
        )
        assert self.keeper is not None
        keeper = self.keeper
        self.pool = Pool(stage, self.posts, on_death=lambda: self._unless_away(ledger.reclaim))
        looked_at = 0.0
        with board:
            board.begin(known)
            for heard in self.pool.run():
                for word, number, facts in heard:
                    self._hear(board, word, number, facts)
                if self.signum is not None:
                    self.pool.leave()
                if heard or time.monotonic() - looked_at > 1.0:
                    looked_at = time.monotonic()
                    known = self._unless_away(ledger.lineages) or known
                    board.update(known)
                    if stage.kind == "trial":
                        self._unless_away(partial(keeper.tick, known))
            known = patiently(ledger.lineages, patience_sec=600, say=board.say)
            board.update(known)
            if stage.kind == "trial":
                self._unless_away(partial(keeper.tick, known))
        self._record_failures(stage, ledger, known)
        return stage.is_over(known)

    def _record_failures(self, stage: Stage, ledger: Ledger, known: Mapping[int, Lineage]) -> None:
        """What a worker was killed before it could write down of a trial that failed."""
        for lineage in known.values():
            if lineage.state == "failed" and is_here(lineage.last.user_attrs.get(WORKER, "")):
                directory = record_failure(stage, ledger, lineage.last)
                if directory is not None and directory not in self.directories:
                    self._follow(directory)

    def _hear(self, board: Board, word: str, number: int, facts: Mapping[str, Any]) -> None:
        if word == "opened":
            self._follow(Path(facts["directory"]))
        elif word == "queued":
            board.say(f"{number:>5}  lost its worker; it is queued again, and goes on from its last checkpoint")
        elif word == "superseded":
            late = f" with {facts['values']}" if facts.get("values") else ""
            board.say(f"{number:>5}  ended late{late}: it had been given to another worker, whose word counts")
        elif word == "note":
            board.say(f"       {facts['says']}")
        elif word == "ended" and facts["state"] == "STOPPED":
            board.say(f"{number:>5}  stopped, its state is saved")

    def _follow(self, directory: Path) -> None:
        if self.base.tracking.offline:
            return
        from litmus.tracking import follow

        self.directories[directory] = follow(directory, home=self.base.tracking.home, uri=self.base.tracking.uri)

    def _unless_away(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except Exception as error:
            if not is_away(error):
                raise
            return None

    # --- the end

    def _leave(self, stage: Stage, ledger: Ledger) -> int:
        """Not all is done: why, and how to go on."""
        assert self.keeper is not None
        assert self.pool is not None
        known = ledger.lineages()
        now, again = counts(known), shlex.join(["litmus", "tune", *self.typed, *self._flags()])
        row = failures_in_a_row(known)
        if self.signum is not None:
            code, says = 128 + self.signum, f"stopped by {signal.Signals(self.signum).name}"
        elif self.pool.problem:
            code, says = 1, self.pool.problem
        elif len(row) >= self.config.max_failures:
            code, says = 1, f"{len(row)} trials in a row failed (max_failures), the last: {row[-1].reason}"
        elif self.config.time_limit_sec is not None:
            code, says = 0, f"time_limit_sec = {self.config.time_limit_sec:g} has passed"
        else:
            code, says = 1, f"the workers ended too early: see {shown((stage.folder / 'logs').absolute())}"
        self.keeper.draw(wait=True)
        page = self._page()
        self.keeper.finish("FINISHED" if code == 0 else "KILLED" if code > 128 else "FAILED", says)
        self._wait_sent()
        lines = ["", f"{says}; {now['finished']} of {stage.n_trials} trials are finished, {now['failed']} failed"]
        if row and code == 1:
            lines.append(f"log      {shown((stage.folder / 'logs').absolute())}")
        if best := best_of(known, stage.directions[0]):
            lines.append(f"best     trial {best.origin}: {self.config.objective[0]} {best.last.values[0]:.4f}")
        if page:
            lines.append(f"page     {shown(page)}")
        self.say("\n".join([*lines, f"next     {again}"]))
        return code

    def _conclude(self, stage: Stage, ledger: Ledger) -> int:
        """Train the best again on fresh seeds, name one, test it once, say what was found."""
        from litmus.study import report

        assert self.keeper is not None
        study = ledger.study
        known = ledger.lineages()
        complete = confirm.complete_of(known)
        candidates: list[Candidate] = []
        confirmation = None
        if self.config.confirm.top and complete:
            chosen = confirm.candidates(stage, known)
            confirmation = confirm.confirmation_of(stage, chosen)
            confirming = confirmation.ledger(confirm.queue(confirmation, self.storage, chosen), self.storage)
            who = ", ".join(confirm.name_of(one.origin) for one in chosen)
            self.say(f"\nconfirm  {who}: each on {self.config.confirm.seeds} fresh seeds, the test set untouched")
            self._tidy(confirming)
            if not self._work(confirmation, confirming, "trainings"):
                return self._leave(confirmation, confirming)
            candidates = confirm.scores(confirmation, confirming, chosen)
        best = best_of(known, stage.directions[0])
        scored = [one for one in candidates if one.scores]
        winner = choose(scored, stage.directions[0]) if scored else None
        tested: list[OnTest] = []
        if best is not None:
            origin = winner.number if winner is not None and winner.number is not None else best.origin
            beside = [one for one in complete if one.origin in (origin, 0)]  # a base that failed has nothing to test
            runs = {confirm.name_of(k.origin): confirm.runs_of(stage, self.storage, confirmation, k) for k in beside}
            self.keeper.name_best(runs[confirm.name_of(origin)][0], origin)
            tested, directories = confirm.test(stage, runs)
            for directory in directories:
                self._follow(directory)
        winning = known[origin] if best is not None else None
        weights = report.importances(study)
        told = verdict(
            self.config.objective[0],
            stage.directions[0],
            candidates,
            importances=weights,
            finished=len(complete),
            ranges=self._ranges(stage, winning) if winning else (),
            searched=stage.space.values_of(best.last.params) if best else None,
            tested=tested,
        )
        if len(self.config.objective) > 1:
            front = [(confirm.name_of(one.origin), one.last.values) for one in confirm.pareto(stage, known)]
            told.insert(0, front_sentence(self.config.objective, front, len(complete)))
        self.keeper.draw(wait=True, verdict=told, candidates=candidates, winner=winning.origin if winning else None)
        if self.keeper.run is not None:
            self.keeper.run.log_text("\n".join(told) + "\n", "verdict.txt")
            about = winner.name if winner is not None else "nothing"
            self.keeper.run.set_tags({"litmus.verdict": next((one for one in told if one.startswith(about)), "")})
        page, best_yaml = self._page(), self._artifact(BEST_CONFIG)
        self.keeper.finish("FINISHED")
        self._wait_sent()
        self.say("\n".join(self._last_lines(stage, known, best, winner, candidates, told, page, best_yaml)))
        return 0

    def _ranges(self, stage: Stage, winning: Lineage) -> list[Range]:
        from litmus.config.study import trial_config
        from litmus.study import report

        config = trial_config(self.config, stage.space.values_of(winning.last.params))
        return report.ranges(winning.last, report.allowed_in(config))

    def _last_lines(
        self,
        stage: Stage,
        known: Mapping[int, Lineage],
        best: Lineage | None,
        winner: Candidate | None,
        candidates: Sequence[Candidate],
        told: Sequence[str],
        page: Path | None,
        best_yaml: Path | None,
    ) -> list[str]:
        now, name = counts(known), self.config.objective[0]
        epochs = sum(epochs_of(lineage) for lineage in known.values())
        lines = [
            "",
            f"done     {now['finished']} trials, {now['pruned']} pruned, {now['failed']} failed, {epochs:g} epochs",
        ]
        if best is not None:
            values = "  ".join(
                f"{key}={_short(value)}" for key, value in stage.space.values_of(best.last.params).items()
            )
            lines.append(f"best     trial {best.origin}: {name} {best.last.values[0]:.4f} in the search  {values}")
        for one in candidates:
            scores = " ".join(f"{score:.4f}" for score in one.scores)
            mark = "  <- the winner" if winner is not None and one.name == winner.name else ""
            lines.append(f"         {one.name:<10} {name} {one.mean:.4f} over {len(one.scores)} seeds ({scores}){mark}")
        lines += [f"{'verdict' if k == 0 else '':<9}{line}" for k, line in enumerate(told)]
        lines += [f"page     {shown(page)}"] if page else []
        lines += [f"config   {shown(best_yaml)}"] if best_yaml else []
        reference = f"best:{self.config.name}"
        lines.append(
            f"next     litmus diagnose {reference}    or    litmus predict {reference} IMAGES    or    litmus ui"
        )
        return lines

    # --- odds and ends

    def _flags(self) -> list[str]:
        given = self.options
        words = ["--workers", str(given.workers)] if given.workers is not None else []
        words += ["--devices", ",".join(given.devices)] if given.devices else []
        words += ["--share"] if given.share else []
        if given.storage is not None:
            words += ["--storage", given.storage if self.place.label == given.storage else "URL"]
        return words

    def _page(self) -> Path | None:
        return self._artifact(PAGE)

    def _artifact(self, name: str) -> Path | None:
        if self.keeper is None or self.keeper.run is None:
            return None
        path = Path(self.keeper.run.dir) / "artifacts" / name
        return path if path.exists() else None

    def _wait_sent(self) -> None:
        from litmus.tracking import wait_sent

        tracking, stopped = self.base.tracking, lambda: self.signum is not None
        if left := wait_sent(self.directories, home=tracking.home, uri=tracking.uri, stopped=stopped):
            self.say(f"note     {left} runs are not in MLflow yet; they are safe here: litmus sync --all")


# --- small rules ------------------------------------------------------------------------------------------------------


def _stages(config: StudyConfig, base: RunConfig, place: Place, study: optuna.Study) -> list[Stage]:
    uid = str(study.user_attrs.get(STUDY_UID, ""))
    return [Stage(config, base, place, uid), Confirmation(config, base, place, uid, total=10**6)]


def _confirmed_values(trial: Any) -> dict[str, Any]:
    origin = trial.params.get(CANDIDATE)
    return {"of": "the base" if origin == 0 else f"trial {origin}", "seed": trial.params.get(SEED)}


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
