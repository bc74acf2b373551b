"""``litmus tune STUDY``: the process that is typed. It checks, starts the workers, shows, and has the last word.

Nothing that matters is known to it alone: it can be killed at any time, on any machine, and the same command goes on.
"""

from __future__ import annotations

import json
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
from optuna.distributions import IntDistribution
from optuna.trial import TrialState

from litmus.config import RunConfig, deciding
from litmus.config.study import StudyConfig, base_config, load_study
from litmus.errors import Problem, Refused, nearest, refuse
from litmus.paths import shown
from litmus.study.board import Board, best_of, counts
from litmus.study.keeper import BEST_CONFIG, PAGE, Keeper, epochs_of
from litmus.study.ledger import FINGERPRINT, STUDY_UID, Ledger, Lineage, failures_in_a_row, is_gone, uid_of
from litmus.study.pool import Pool, make_posts
from litmus.study.space import check_study
from litmus.study.stage import CANDIDATE, SEED, VALUES, Confirmation, Stage, config_sha, fresh_seeds
from litmus.study.storage import Place, Storage, exclusive, is_away, open_storage, patiently, place_of
from litmus.study.verdict import Candidate, OnTest, choose, verdict
from litmus.study.worker import CONTEXT, Post

PREPARED, DATA = "litmus.prepared", "litmus.data_digest"
WARM_START = 5
"""How many of the old study's best are tried first."""

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
        cores=_cores(),
        gpus=_num_gpus(),
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
    found = _existing(config.name, opened)
    if found is None:
        raise refuse("name", f"there is no such study at {place.label}", config.name)
    ended: list[str] = []
    for stage in _stages(config, base, place, found):
        study = _existing(stage.study_name, opened)
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
        fresh = _existing(self.config.name, self.storage) is None
        if not fresh:
            self._check_same(_existing(self.config.name, self.storage))
        digest = self._check_data()
        study = self._prepare(digest)
        stage = Stage(self.config, self.base, self.place, str(study.user_attrs[STUDY_UID]), len(self.posts))
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

    # --- before the first trial

    def _check_same(self, study: Any) -> None:
        """Refuse to go on with a study under another question."""
        stage = Stage(self.config, self.base, self.place, "", len(self.posts))
        now, then = fingerprint_of(stage), study.user_attrs.get(FINGERPRINT)
        if then is None:
            if study.get_trials(deepcopy=False):
                says = (
                    f"there is a study of this name at {self.place.label} that Litmus did not make; choose another name"
                )
                raise refuse("name", says, self.config.name)
            return
        problems = [
            Problem(key, f"was {then.get(key)!r} when study {self.config.name} began", now.get(key))
            for key in dict.fromkeys([*now, *then])
            if now.get(key) != then.get(key)
        ]
        if problems:
            says = (
                "its trials would not compare with those before: give the study a new name "
                f"(--warm-start {self.config.name} begins it with the best of the old one)"
            )
            problems.append(Problem("name", says, self.config.name))
            raise Refused(problems, source=self.typed[0])

    def _check_data(self) -> str:
        """What needs the data and the networks, in a process apart: this one imports neither. The data's digest."""
        hear, tell = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=check_base, args=(self.config, tell), name="litmus-check")
        process.start()
        tell.close()
        try:
            problems, facts = hear.recv()
        except EOFError:
            process.join()
            raise RuntimeError(f"the check of the base config ended with exit code {process.exitcode}") from None
        finally:
            hear.close()
        process.join()
        if problems:
            raise Refused(problems, source=self.typed[0])
        return str(facts["digest"])

    def _prepare(self, digest: str) -> optuna.Study:
        """The study in the storage, made whole by whoever comes first, or comes after one that was killed in it."""
        stage = Stage(self.config, self.base, self.place, "", len(self.posts))
        with exclusive(self.place):
            study = _existing(self.config.name, self.storage)
            if study is None:
                study = optuna.create_study(
                    study_name=self.config.name, storage=self.storage, directions=stage.directions
                )
            attrs = study.user_attrs
            if STUDY_UID not in attrs:
                study.set_user_attr(STUDY_UID, os.urandom(16).hex())
            if FINGERPRINT not in attrs:
                study.set_user_attr(FINGERPRINT, fingerprint_of(stage))
            if attrs.get(DATA, digest) != digest:
                says = f"was {attrs[DATA]} when study {self.config.name} began: other images; give the study a new name"
                raise refuse("data", says, digest, source=self.typed[0])
            study.set_user_attr(DATA, digest)
            if PREPARED not in attrs:
                for params in [*stage.queue(), *self._warm(stage)]:
                    study.enqueue_trial(params, skip_if_exists=True)
                study.set_user_attr(PREPARED, True)
        return optuna.load_study(study_name=self.config.name, storage=self.storage, pruner=stage.pruner())

    def _warm(self, stage: Stage) -> list[dict[str, Any]]:
        """Parameters of the best trials of an older study, as far as they lie in this one's space."""
        if self.options.warm_start is None:
            return []
        old = _existing(self.options.warm_start, self.storage)
        if old is None:
            names = optuna.get_all_study_names(self.storage)
            raise refuse("--warm-start", f"there is no such study; {nearest(self.options.warm_start, names)}",
                         self.options.warm_start)  # fmt: skip
        complete = [trial for trial in old.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
        sign = 1 if old.directions[0].name == "MINIMIZE" else -1
        complete.sort(key=lambda trial: (sign * trial.values[0], trial.number))
        known: dict[str, Any] = {parameter.name: parameter.distribution for parameter in stage.space.parameters}
        return [
            {
                name: value
                for name, value in trial.params.items()
                if name in known and known[name]._contains(known[name].to_internal_repr(value))
            }
            for trial in complete[:WARM_START]
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
        return counts(known)["finished"] >= stage.n_trials

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
        else:
            code, says = 0, f"time_limit_sec = {self.config.time_limit_sec:g} has passed"
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
        complete = [one for one in known.values() if one.state == "finished" and one.last.state == TrialState.COMPLETE]
        candidates: list[Candidate] = []
        confirmation = None
        if self.config.confirm.top and complete:
            chosen = self._candidates(stage, known)
            seeds = fresh_seeds(self.config, self.base)
            confirmation = Confirmation(
                **{key: getattr(stage, key) for key in ("config", "base", "place", "uid", "workers")},
                total=len(chosen) * len(seeds),
            )
            apart = self._queue_confirmation(confirmation, stage, chosen, seeds)
            self.say("")
            who = ", ".join("the base" if one.origin == 0 else f"trial {one.origin}" for one in chosen)
            self.say(f"confirm  {who}: each on {len(seeds)} fresh seeds, the test set untouched")
            confirming = confirmation.ledger(apart, self.storage)
            self._tidy(confirming)
            if not self._work(confirmation, confirming, "trainings"):
                return self._leave(confirmation, confirming)
            candidates = self._scores(stage, confirming, chosen, seeds)
        best = best_of(known, stage.directions[0])
        winner = choose(candidates, stage.directions[0]) if candidates else None
        tested: list[OnTest] = []
        if best is not None:
            self._name_best(stage, confirmation, winner, best)
            tested = self._test(stage, confirmation, winner, best)
        weights = report.importances(study)
        told = verdict(
            self.config.objective[0],
            stage.directions[0],
            candidates,
            importances=weights,
            finished=len(complete),
            ranges=report.ranges(best.last, report.allowed_in(self.base)) if best else (),
            searched=stage.space.values_of(best.last.params) if best else None,
            tested=tested,
        )
        self.keeper.draw(wait=True, verdict=told, candidates=candidates)
        if self.keeper.run is not None:
            self.keeper.run.log_text("\n".join(told) + "\n", "verdict.txt")
            self.keeper.run.set_tags({"litmus.verdict": told[0] if told else ""})
        page, best_yaml = self._page(), self._artifact(BEST_CONFIG)
        self.keeper.finish("FINISHED")
        self._wait_sent()
        self.say("\n".join(self._last_lines(stage, known, best, winner, candidates, told, page, best_yaml)))
        return 0

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
            lines.append(f"best     trial {best.origin}: {name} {best.last.values[0]:.4f}  {values}")
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

    # --- confirmation

    def _candidates(self, stage: Stage, known: Mapping[int, Lineage]) -> list[Lineage]:
        """The base, then the best ``top`` trials, no config twice; of two objectives, from along the front."""
        complete = [one for one in known.values() if one.state == "finished" and one.last.state == TrialState.COMPLETE]
        sign = 1 if stage.directions[0] == "minimize" else -1
        complete.sort(key=lambda one: (sign * one.last.values[0], one.origin))
        if len(self.config.objective) > 1:
            other = 1 if stage.directions[1] == "minimize" else -1
            front: list[Lineage] = []
            for one in complete:  # by the first objective; on the front is who is better in the second than all before
                if not front or other * one.last.values[1] < other * front[-1].last.values[1]:
                    front.append(one)
            complete = front
        seen, best = set(), []
        for one in complete:
            sha = config_sha(_config_of(stage, one))
            if sha not in seen and one.origin != 0:
                best.append(one)
            seen.add(sha)
        top = best[: self.config.confirm.top]
        if len(self.config.objective) > 1 and len(best) > len(top) > 1:
            top = [best[round(k * (len(best) - 1) / (len(top) - 1))] for k in range(len(top))]
        base = [known[0]] if 0 in known else []
        return [*base, *top]

    def _queue_confirmation(
        self, confirmation: Confirmation, stage: Stage, chosen: Sequence[Lineage], seeds: Sequence[int]
    ) -> optuna.Study:
        with exclusive(self.place):
            study = _existing(confirmation.study_name, self.storage)
            if study is None:
                study = optuna.create_study(
                    study_name=confirmation.study_name, storage=self.storage, directions=confirmation.directions
                )
            if STUDY_UID not in study.user_attrs:
                study.set_user_attr(STUDY_UID, stage.uid)
            number = IntDistribution(0, 2**32 - 1)
            there = {(trial.params[CANDIDATE], trial.params[SEED]) for trial in study.get_trials(deepcopy=False)}
            for seed in seeds:  # a seed at a time: what ends first compares
                for one in chosen:
                    if (one.origin, seed) not in there:
                        study.add_trial(
                            optuna.create_trial(
                                state=TrialState.WAITING,
                                params={CANDIDATE: one.origin, SEED: seed},
                                distributions={CANDIDATE: number, SEED: number},
                                user_attrs={VALUES: json.dumps(stage.space.values_of(one.last.params))},
                            )
                        )
        return study

    def _scores(
        self, stage: Stage, confirming: Ledger, chosen: Sequence[Lineage], seeds: Sequence[int]
    ) -> list[Candidate]:
        found = {
            (one.last.params[CANDIDATE], one.last.params[SEED]): float(one.last.values[0])
            for one in confirming.lineages().values()
            if one.state == "finished"
        }
        base = stage.space.values_of(chosen[0].last.params) if chosen and chosen[0].origin == 0 else {}
        return [
            Candidate(
                name="base" if one.origin == 0 else f"trial {one.origin}",
                number=one.origin,
                values={
                    key: value
                    for key, value in stage.space.values_of(one.last.params).items()
                    if one.origin == 0 or base.get(key, ...) != value
                },
                searched=float(one.last.values[0]) if one.last.values else None,
                scores=tuple(found[one.origin, seed] for seed in seeds if (one.origin, seed) in found),
            )
            for one in chosen
        ]

    def _runs_of(self, stage: Stage, confirmation: Confirmation | None, origin: int) -> list[str]:
        """uids of a candidate's runs: of its confirmation, the first fresh seed first, else of its trial."""
        if confirmation is None:
            return [uid_of(stage.uid, stage.study_name, origin)]
        study = _existing(confirmation.study_name, self.storage)
        assert study is not None
        lineages = confirmation.ledger(study, self.storage).lineages().values()
        mine = [one for one in lineages if one.last.params.get(CANDIDATE) == origin and one.state == "finished"]
        mine.sort(key=lambda one: one.last.params[SEED])
        return [uid_of(stage.uid, confirmation.study_name, one.origin) for one in mine]

    def _name_best(
        self, stage: Stage, confirmation: Confirmation | None, winner: Candidate | None, best: Lineage
    ) -> None:
        origin = winner.number if winner is not None and winner.number is not None else best.origin
        runs = self._runs_of(stage, confirmation, origin)
        if runs and self.keeper is not None:
            self.keeper.name_best(runs[0], origin)

    def _test(
        self, stage: Stage, confirmation: Confirmation | None, winner: Candidate | None, best: Lineage
    ) -> list[OnTest]:
        """The test set, once: the winner's networks, and the base's to stand beside them."""
        origin = winner.number if winner is not None and winner.number is not None else best.origin
        wanted = {f"trial {origin}" if origin else "base": self._runs_of(stage, confirmation, origin)}
        if origin:
            wanted["base"] = self._runs_of(stage, confirmation, 0)
        hear, tell = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(target=test_runs, args=(stage.home, wanted, stage.folder, tell), name="litmus-test")
        process.start()
        tell.close()
        try:
            counted = hear.recv()
        except EOFError:
            self.say(f"note     the test set was not evaluated: see {shown((stage.folder / 'logs').absolute())}")
            counted = []
        finally:
            hear.close()
        process.join()
        for directory in {Path(path) for _, _, _, paths in counted for path in paths}:
            self._follow(directory)
        return [OnTest(name, tuple(errors), num) for name, errors, num, _ in counted if errors]

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

    def _wait_sent(self, patience_sec: float = 30.0) -> None:
        """Until MLflow has the trials, or is known not to take them now."""
        from litmus.tracking import resolve
        from litmus.tracking.spool import Spool

        label = resolve(self.base.tracking.uri, self.base.tracking.home).label
        left = set(self.directories)
        until = time.monotonic() + patience_sec
        for link in self.directories.values():
            link.wake()
        while left and time.monotonic() < until and self.signum is None:
            for directory in list(left):
                with suppress(OSError, ValueError), Spool(directory) as spool:
                    if spool.is_sent(label):
                        left.discard(directory)
                    elif spool.destination(label).error:
                        until = min(until, time.monotonic() + 3.0)
            time.sleep(0.05)
        if left:
            self.say(f"note     {len(left)} runs are not in MLflow yet; they are safe here: litmus sync --all")


# --- in processes of their own ----------------------------------------------------------------------------------------


def check_base(config: StudyConfig, tell: Any) -> None:
    """What is wrong with the base config and the corners of the space once the data are known; in a fork."""
    os.setsid()
    problems: list[Problem] = []
    facts: dict[str, Any] = {}
    try:
        from litmus.config.study import trial_config
        from litmus.experiment import check, checked_data, quiet_libraries
        from litmus.study.space import corners
        from litmus.weights import follow_weights

        with quiet_libraries():
            base = follow_weights(base_config(config))
            data = checked_data(base)
            facts["digest"] = data.info.digest
            seen = {json.dumps(_shape(base), sort_keys=True, default=str)}
            for values in corners(config):
                corner = trial_config(config, values)
                shape = json.dumps(_shape(corner), sort_keys=True, default=str)
                if shape in seen or len(seen) > 64:
                    continue  # the data and the network see the same
                seen.add(shape)
                words = ", ".join(f"{key}={value}" for key, value in values.items())
                problems += [
                    Problem(f"space: {one.where}", f"{one.says} (at {words})", one.value)
                    for one in check(corner, data.info)
                ]
    except Refused as refused:
        problems += refused.problems
    tell.send((problems, facts))


def _shape(config: RunConfig) -> dict[str, Any]:
    """What ``check`` looks at, apart from rates and strengths that no network or image can contradict."""
    idle = ("optim.", "schedule.", "seed", "diagnosis.", "early_stopping")
    return {
        key: value for key, value in deciding(config).items() if not key.startswith(idle) and "keep_prob" not in key
    }


def test_runs(home: str, wanted: Mapping[str, Sequence[str]], folder: Path, tell: Any) -> None:
    """Evaluate runs on their test set, add that to their records, and count the errors; in a fork."""
    import sys

    os.setsid()
    log = (folder / "logs" / "test.log").absolute()
    with log.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        os.dup2(file.fileno(), sys.stderr.fileno())
    from litmus.devices import best_device
    from litmus.diagnosis import wilson
    from litmus.evaluation import evaluate
    from litmus.experiment import RESULT, eval_batches, make_data, quiet_libraries
    from litmus.tracking import Run, directory_of, find_run
    from litmus.trained import load_trained

    counted = []
    with quiet_libraries():
        for name, uids in wanted.items():
            errors, num, paths = [], 0, []
            for uid in uids:
                directory = directory_of(uid, home)
                if directory is None:
                    continue  # trained on another machine, which holds it
                stored = find_run(str(directory), home=home)
                result = json.loads(Path(stored.artifact(RESULT)).read_text())
                if "test" not in result:
                    trained = load_trained(stored)
                    device = best_device(trained.config.train.accelerator)
                    data = make_data(trained.config)
                    data.prepare()
                    bf16 = trained.config.train.precision == "bf16-mixed"
                    batches = eval_batches(data, "test", device, trained.config.train.limit_batches)
                    seen = evaluate(trained.network.to(device), batches, device=device, bf16=bf16)
                    low, high = wilson(seen.num_errors, seen.num_images)
                    result["test"] = {"loss": seen.loss, "err": seen.err}
                    result["test"] |= {"num_errors": seen.num_errors, "num_images": seen.num_images}
                    result["test_err_95"] = [low, high]
                    metrics = {"test/err": seen.err, "test/loss": seen.loss}
                    metrics |= {"test/err_low": low, "test/err_high": high}
                    with Run.reopen(directory) as record:
                        record.log_metrics(metrics, step=result["evaluated"]["step"])
                        record.log_text(json.dumps(result, indent=1), RESULT)
                errors.append(int(result["test"]["num_errors"]))
                num = int(result["test"]["num_images"])
                paths.append(str(directory))
            counted.append((name, errors, num, paths))
    tell.send(counted)


# --- small rules ------------------------------------------------------------------------------------------------------


def fingerprint_of(stage: Stage) -> dict[str, Any]:
    """What must not change while a study goes on, in plain values: the question, not how or how long it is searched."""
    config = stage.config
    space = {
        f"space.{key}": [entry.model_dump(mode="json", exclude_unset=True, exclude={"role"}) for entry in entries]
        for key, entries in config.space.items()
    }
    searched = set(config.space)
    base = {f"base: {key}": value for key, value in deciding(stage.base).items() if key not in searched}
    plain = {"objective": list(config.objective), "seeds": config.seeds, **space, **base}
    return dict(json.loads(json.dumps(plain, default=str)))


def _existing(name: str, storage: Storage) -> optuna.Study | None:
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return None


def _stages(config: StudyConfig, base: RunConfig, place: Place, study: optuna.Study) -> list[Stage]:
    uid = str(study.user_attrs.get(STUDY_UID, ""))
    return [Stage(config, base, place, uid), Confirmation(config, base, place, uid, total=10**6)]


def _config_of(stage: Stage, lineage: Lineage) -> RunConfig:
    from litmus.config.study import trial_config

    return trial_config(stage.config, stage.space.values_of(lineage.last.params))


def _confirmed_values(trial: Any) -> dict[str, Any]:
    origin = trial.params.get(CANDIDATE)
    return {"of": "the base" if origin == 0 else f"trial {origin}", "seed": trial.params.get(SEED)}


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cores() -> int:
    from litmus.tracking import usable_cores

    return usable_cores()


def _num_gpus() -> int:
    """GPUs that this process may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() and name.strip() != "-1"])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*"))) if Path("/proc/driver/nvidia/gpus").is_dir() else 0


__all__ = ["Options", "is_gone", "reap", "tune"]
