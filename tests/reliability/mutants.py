"""Guards, each with the edit that takes it out and the test that must then fail."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutant:
    """``old`` stands exactly once in ``file`` (below ``src/litmus``); with ``new`` in its place ``test`` fails."""

    name: str
    file: str
    old: str
    new: str
    test: str


MUTANTS: list[Mutant] = [
    Mutant(
        "rename-before-sync",
        "checkpoints.py",
        "            os.fsync(file.fileno())\n",
        "            pass\n",
        "tests/test_checkpoint_files.py::test_the_file_is_on_the_disk_before_its_name_is",
    ),
    Mutant(
        "folder-not-synced",
        "checkpoints.py",
        "        sync_folder(path.parent)\n",
        "        pass\n",
        "tests/test_checkpoint_files.py::test_the_file_is_on_the_disk_before_its_name_is",
    ),
    Mutant(
        "written-in-place",
        "checkpoints.py",
        "    part = path.with_name(f\".{path.name.replace('{digest}', str(os.getpid()))}{_PART}\")\n",
        "    part = path.with_name(f\"{path.name.replace('{digest}', '0' * 32)}\")\n",
        "tests/test_checkpoint_files.py::test_a_file_has_its_name_only_when_it_is_whole",
    ),
    Mutant(
        "no-digest-check",
        "checkpoints.py",
        'return "" if found.hexdigest() == one.digest else',
        'return "" if one.digest else',
        "tests/test_checkpoint_files.py::test_a_damaged_file_is_named_and_the_one_before_is_taken",
    ),
    Mutant(
        "read-unchecked",
        "checkpoints.py",
        "    if reason := damage(path):\n        raise Damaged",
        "    if reason := '':\n        raise Damaged",
        "tests/test_checkpoint_files.py::test_a_damaged_file_is_not_read_either",
    ),
    Mutant(
        "code-in-checkpoints",
        "checkpoints.py",
        "weights_only=True)\n    except FileNotFoundError",
        "weights_only=False)\n    except FileNotFoundError",
        "tests/test_checkpoint_files.py::test_a_file_that_holds_code_is_not_run",
    ),
    Mutant(
        "anything-is-written",
        "checkpoints.py",
        "    check_plain(state)\n    path.parent",
        "    path.parent",
        "tests/test_checkpoint_files.py::test_only_tensors_and_plain_values_are_written",
    ),
    Mutant(
        "newest-by-name",
        "checkpoints.py",
        "key=lambda one: (one.step, one.kind, one.digest), reverse=True",
        "key=lambda one: one.path.stat().st_mtime, reverse=True",
        "tests/test_checkpoint_files.py::test_the_newest_is_that_of_the_highest_step_whatever_the_files_times",
    ),
    Mutant(
        "one-last-kept",
        "checkpoints.py",
        "_KEPT = 2\n",
        "_KEPT = 1\n",
        "tests/test_checkpoint_files.py::test_pruning_keeps_two",
    ),
    Mutant(
        "best-forgotten",
        "checkpoints.py",
        "    for last in lasts[:_KEPT]:\n",
        "    for last in lasts[:0]:\n",
        "tests/test_checkpoint_files.py::test_the_best_that_a_kept_last_knows_of_is_kept",
    ),
    Mutant(
        "random-state-lost",
        "callbacks/exact.py",
        '            set_random_state(mine["random"], trainer.strategy.root_device)\n',
        "",
        "tests/reliability/test_exact_resume.py::test_a_training_cut_in_any_batch_ends_as_the_whole_one[everything]",
    ),
    Mutant(
        "sums-lost",
        "callbacks/exact.py",
        '            set_sums_state(pl_module, [mine["sums"]])\n',
        "",
        "tests/reliability/test_exact_resume.py::test_a_training_cut_in_any_batch_ends_as_the_whole_one[everything]",
    ),
    Mutant(
        "counters-half-way",
        "callbacks/exact.py",
        '        between_steps(checkpoint["loops"]["fit_loop"])\n',
        "",
        "tests/reliability/test_exact_resume.py::test_a_training_cut_in_any_batch_ends_as_the_whole_one[in steps]",
    ),
    Mutant(
        "position-lost",
        "data/datamodule.py",
        'self._position = (state_dict["epoch"], state_dict["batches"])',
        'self._position = (state_dict["epoch"], 0)',
        "tests/reliability/test_exact_resume.py::test_a_training_cut_in_any_batch_ends_as_the_whole_one[everything]",
    ),
    Mutant(
        "epoch-of-workers",
        "data/datamodule.py",
        "                sampler.set_epoch(self._position[0])\n",
        "",
        "tests/reliability/test_exact_resume.py::test_workers_that_fetch_ahead_change_nothing[1]",
    ),
    Mutant(
        "history-lost",
        "callbacks/exact.py",
        '            pl_module.history = [dict(row) for row in held["history"]]\n',
        "            pass\n",
        "tests/reliability/test_exact_resume.py::test_a_training_cut_in_any_batch_ends_as_the_whole_one[everything]",
    ),
    Mutant(
        "saved-among-batches",
        "callbacks/checkpoint.py",
        "        if batch_idx % trainer.accumulate_grad_batches:\n            return\n",
        "",
        "tests/reliability/test_exact_resume.py::test_a_training_cut_in_any_batch_ends_as_the_whole_one[everything]",
    ),
    Mutant(
        "features-in-other-batches",
        "callbacks/features.py",
        "            self._recompute(trainer, pl_module, since)\n",
        "",
        "tests/reliability/test_exact_resume.py::test_features_are_computed_again_in_the_batches_of_the_first_time",
    ),
    Mutant(
        "guard-away",
        "callbacks/finite_guard.py",
        "        raise self._non_finite(trainer, pl_module, optimizer, losses, idx)\n",
        "        return\n",
        "tests/reliability/test_finite_guard.py::test_what_is_not_finite_stops_before_anything_moves",
    ),
    Mutant(
        "guard-sees-no-loss",
        "callbacks/finite_guard.py",
        "        self._losses.append(loss.detach())\n",
        "        pass\n",
        "tests/reliability/test_finite_guard.py::test_what_is_not_finite_stops_before_anything_moves",
    ),
    Mutant(
        "guard-sees-no-gradient",
        "callbacks/finite_guard.py",
        "        if gradients and not scaled:\n",
        "        if False:\n",
        "tests/reliability/test_finite_guard.py::test_what_is_not_finite_stops_before_anything_moves",
    ),
    Mutant(
        "overflow-stops",
        "callbacks/finite_guard.py",
        " or self._only_overflows(losses, [] if scaled else gradients)",
        "",
        "tests/reliability/test_finite_guard.py::test_large_gradients_whose_norm_overflows_go_on",
    ),
    Mutant(
        "lightnings-sigterm",
        "experiment.py",
        "    trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]\n",
        "",
        "tests/reliability/test_signals.py::test_a_signal_ends_the_run_with_its_code_and_nothing_lost[step-15-5]",
    ),
    Mutant(
        "signals-not-deferred",
        "callbacks/checkpoint.py",
        "            self.signals.deferred = True\n",
        "            pass\n",
        "tests/reliability/test_signals.py::test_a_signal_ends_the_run_with_its_code_and_nothing_lost[step-15-5]",
    ),
    Mutant(
        "nothing-saved-on-a-signal",
        "callbacks/checkpoint.py",
        "        if (signum or due) and",
        "        if due and",
        "tests/reliability/test_signals.py::test_a_signal_ends_the_run_with_its_code_and_nothing_lost[step-15-5]",
    ),
    Mutant(
        "second-ctrl-c",
        "stopping.py",
        "                os._exit(128 + signum)\n",
        "                pass\n",
        "tests/reliability/test_signals.py::test_a_second_ctrl_c_leaves_at_once",
    ),
    Mutant(
        "disk-trouble-is-any-error",
        "checkpoints.py",
        "        if isinstance(cause, OSError) and cause.errno in _DISK:\n",
        "        if False:\n",
        "tests/test_checkpoint_files.py::test_an_error_of_the_disk_leaves_what_was_there",
    ),
    Mutant(
        "other-config",
        "resume.py",
        '    problems = [Problem(key, f"was {then!r} in run {run.id8}", now) for key, then, now in changes]\n',
        "    problems = []\n",
        "tests/test_resume.py::test_other_values_are_refused_key_by_key_and_nothing_is_touched",
    ),
    Mutant(
        "old-rate-kept",
        "experiment.py",
        "    classifier.take_new_options = changed\n",
        "",
        "tests/test_resume.py::test_a_changed_rate_is_taken_when_allowed",
    ),
    Mutant(
        "other-data",
        "experiment.py",
        "            resume.check_data(data.info)\n",
        "            pass\n",
        "tests/test_resume.py::test_other_data_are_refused",
    ),
    Mutant(
        "other-network",
        "resume.py",
        "        if problems := unfit(state, header, found.path.name):\n            raise",
        "        if problems := []:\n            raise",
        "tests/test_resume.py::test_weights_and_moments_of_another_kind_are_refused_even_so",
    ),
    Mutant(
        "signals-kill-workers",
        "data/datamodule.py",
        "        signal.signal(signum, signal.SIG_IGN)\n",
        "        pass\n",
        "tests/reliability/test_signals.py::test_workers_leave_signals_to_the_run",
    ),
    Mutant(
        "points-lost",
        "callbacks/checkpoint.py",
        "            logger.save()  # a resumed training does not log again what lies before the checkpoint\n",
        "            pass\n",
        "tests/reliability/test_exact_resume.py::test_points_are_on_the_disk_before_the_checkpoint_is",
    ),
]
