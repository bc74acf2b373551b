"""The sources of a commit and its diff, beside those that run, and gone afterwards."""

import shutil
import subprocess
from pathlib import Path

import pytest

from litmus.errors import Refused
from litmus.tracking import past, past_code
from litmus.tracking.past import _digest_of

SOURCE = Path(__file__).resolve().parents[2] / "src"


def git(repository, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
    done = subprocess.run(["git", "-C", repository, *identity, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of the package, one commit, which the code thinks it stands in."""
    repository = tmp_path / "repository"
    shutil.copytree(SOURCE, repository / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    git(tmp_path, "init", "-q", repository)
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "then")
    monkeypatch.setattr(past, "_repository", lambda: repository)
    return repository


def edit(repository, text):
    with open(repository / "src/litmus/paths.py", "a") as file:
        file.write(text)


def test_the_sources_of_a_commit_are_there_for_a_while_and_the_work_tree_is_not_touched(repository):
    commit, digest = git(repository, "rev-parse", "HEAD"), _digest_of(repository / "src")
    edit(repository, "# later\n")
    with past_code(commit, None, digest=digest) as source:
        assert "# later" not in (source / "litmus/paths.py").read_text()
        assert _digest_of(source) == digest
    assert not source.exists()
    assert "# later" in (repository / "src/litmus/paths.py").read_text()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_diff_is_applied_and_other_sources_than_the_digests_are_refused(repository, tmp_path):
    commit = git(repository, "rev-parse", "HEAD")
    edit(repository, "# then, not committed\n")
    digest = _digest_of(repository / "src")
    diff = tmp_path / "code.diff"
    diff.write_text(git(repository, "diff", "HEAD") + "\n# new file, not text: picture.png\n")
    with past_code(commit, diff, digest=digest) as source:
        assert "# then, not committed" in (source / "litmus/paths.py").read_text()
    with (
        pytest.raises(Refused, match=f"digest [0-9a-f]{{32}}, recorded {digest}"),
        past_code(commit, None, digest=digest),
    ):
        pass
    diff.write_text(diff.read_text().replace(" here = ", " there = "))
    with pytest.raises(Refused, match="does not apply"), past_code(commit, diff, digest=digest):
        pass
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_commit_that_is_not_there_is_refused_by_git_itself(repository):
    with pytest.raises(Refused, match="git cannot give this commit"), past_code("0" * 40, None, digest="0" * 32):
        pass


def test_without_a_repository_there_is_no_way_back(monkeypatch):
    monkeypatch.setattr(past, "_repository", lambda: None)
    with pytest.raises(Refused, match="not in a git repository"), past_code("0" * 40, None, digest=""):
        pass
