"""What other processes do in the tests of storage. Imported once by the server that they are forked from."""

import os
import time

import optuna

from litmus.study import storage

optuna.logging.set_verbosity(optuna.logging.ERROR)


def at_once(context, job, count, *args):
    gate, answers = context.Barrier(count), context.Queue()
    processes = [context.Process(target=_one, args=(gate, answers, job, args)) for _ in range(count)]
    try:
        for process in processes:
            process.start()
        return [answers.get(timeout=60) for _ in processes]
    finally:
        for process in processes:
            process.join(5)
            process.kill()
            process.join(5)


def _one(gate, answers, job, args):
    gate.wait(30)
    try:
        answers.put(job(*args))
    except BaseException as error:
        answers.put(f"{type(error).__name__}: {error}"[:300])


def open_it(place):
    storage.open_storage(place, heartbeat_sec=5, grace_sec=20)
    return "opened"


def open_without_lock(place):
    storage.Storage(place, heartbeat_sec=5, grace_sec=20)
    return "opened"


def overlap(place, path):
    """The file counts who is inside; returns how many were there while we were."""
    with storage.exclusive(place):
        inside = int(path.read_text())
        path.write_text(str(inside + 1))
        time.sleep(0.01)
        path.write_text(str(inside))
    return inside


def hold_exclusive(place, ready):
    with storage.exclusive(place):
        ready.set()
        time.sleep(60)


def hold_role(place, ready):
    held = storage.try_hold(place, "parent of a")
    ready.set()
    time.sleep(60)
    assert held


def take_waiting(place, name):
    """Numbers of the trials that this worker got, each enqueued once."""
    study = optuna.load_study(study_name=name, storage=storage.open_storage(place, heartbeat_sec=5, grace_sec=20))
    numbers = []
    while study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,)):
        numbers.append(storage.ask(study).number)
    return numbers


def work(place, name, count, patience_sec):
    """A worker that only waits for its database: trials asked, beaten for and told, each once."""
    patient = {"patience_sec": patience_sec}
    own = storage.patiently(lambda: storage.open_storage(place, heartbeat_sec=5, grace_sec=20), **patient)
    study = storage.patiently(lambda: optuna.load_study(study_name=name, storage=own), **patient)
    for _ in range(count):
        trial = storage.patiently(lambda: storage.ask(study), **patient)
        trial_id = trial._trial_id
        storage.patiently(lambda id=trial_id: own.record_heartbeat(id), **patient)
        storage.patiently(lambda one=trial: one.set_user_attr("litmus.worker", os.getpid()), **patient)
        storage.patiently(
            lambda number=trial.number: study.tell(number, float(number), skip_if_finished=True), **patient
        )
        time.sleep(0.02)
    return "done"
