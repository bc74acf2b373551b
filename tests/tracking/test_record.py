"""What a run remembers of its world."""

import platform
import subprocess
import sys

import pytest

from litmus.tracking import record
from litmus.tracking.masking import MASK


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with one commit, and its ``git`` command."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.setattr(record, "_repository", lambda: folder)

    def git(*arguments, **options):
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, check=True, **options)
        return done.stdout.decode()

    git("init", "-q", "-b", "trunk")
    (folder / "train.py").write_text("lr = 0.1\n")
    git("add", ".")
    git("commit", "-q", "-m", "first")
    return folder, git


def test_facts_are_short_texts_and_say_where_we_are():
    facts = record.environment()
    assert facts["python"] == platform.python_version()
    assert facts["litmus"]
    assert "cores" in facts["cpu"]
    assert {"git.commit", "git.branch", "git.dirty", "threads", "gpu", "command", "lock"} <= facts.keys()
    assert all(isinstance(value, str) and len(value) < 8000 for value in facts.values())


def test_tags_put_the_commit_where_mlflow_looks_for_it():
    assert record.environment_tags({"python": "3.11", "git.commit": "abc", "git.branch": "", "gpu": ""}) == {
        "env.python": "3.11",
        "env.git.commit": "abc",
        "mlflow.source.git.commit": "abc",
    }


def test_a_clean_work_tree_has_a_commit_and_no_diff(repository):
    _, git = repository
    facts = record.environment()
    assert facts["git.commit"] == git("rev-parse", "HEAD").strip()
    assert (facts["git.branch"], facts["git.dirty"]) == ("trunk", "false")
    assert record.git_diff() == ""


def test_the_diff_rebuilds_the_work_tree_with_its_new_files(repository):
    folder, git = repository
    (folder / "train.py").write_text("lr = 0.2\n")
    (folder / "new").mkdir()
    (folder / "new/net.py").write_text("depth = 20\nno newline")
    (folder / "new/empty.py").write_text("")
    (folder / "weights.bin").write_bytes(b"\xff\x00\xfe")
    assert record.environment()["git.dirty"] == "true"
    diff = record.git_diff()
    assert "# new file, not text: weights.bin" in diff
    git("stash", "-q", "--include-untracked")
    git("apply", "-", input=diff.encode())
    assert (folder / "train.py").read_text() == "lr = 0.2\n"
    assert (folder / "new/net.py").read_text() == "depth = 20\nno newline"
    assert (folder / "new/empty.py").read_text() == ""


def test_a_secret_in_the_work_tree_stays_there(repository):
    folder, _ = repository
    (folder / "secrets.yaml").write_text("hub:\n  token: one two three\n")
    (folder / "train.py").write_text('password = "hunter2"\n')
    diff = record.git_diff()
    assert "one two" not in diff
    assert "hunter2" not in diff
    assert diff.count(MASK) == 2


def test_without_git_there_is_nothing_to_say(monkeypatch):
    monkeypatch.setattr(record, "_repository", lambda: None)
    assert record.environment()["git.commit"] == ""
    assert record.git_diff() == ""


def test_the_command_line_is_kept_without_its_secrets(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/litmus", "fit", "a b.yaml", "hub.token=x", "--password", "y"])
    assert record.command_line() == f"litmus fit 'a b.yaml' 'hub.token={MASK}' --password '{MASK}'"


def test_the_lock_is_compared_with_what_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "_installed", lambda: {"torch": "2.9", "scikit-learn": "1.5", "extra": "1"})
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "torch==2.9 \\\n    --hash=sha256:aa\nScikit_Learn==1.5\n"
        "colorama==0.4 ; sys_platform == 'win32' \\\n    --hash=sha256:bb\n"
    )
    assert record.lock_report(lock) == "matches requirements.lock (2 packages)"
    lock.write_text("torch==2.8\nscikit-learn==1.5\nnumpy==2.0\n")
    assert record.lock_report(lock) == (
        "differs from requirements.lock: torch 2.9 (lock 2.8), numpy is missing (lock 2.0)"
    )
    assert record.lock_report(tmp_path / "none.lock") == "no requirements.lock"


def test_installed_packages_are_listed_as_a_lock_would_have_them():
    names = [line.partition("==")[0] for line in record.installed_packages().splitlines()]
    assert names == sorted(names)
    assert {"pytest", "scikit-learn"} <= set(names)
