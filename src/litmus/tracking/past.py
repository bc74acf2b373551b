"""The code that a run was made with, beside the code that runs now."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from litmus.errors import refuse
from litmus.tracking.record import _repository

_TIMEOUT_SEC = 120


@contextlib.contextmanager
def past_code(commit: str, diff: Path | None, *, digest: str) -> Iterator[Path]:
    """The folder to put on ``PYTHONPATH`` for the sources of ``commit`` with ``diff`` applied: a work tree of its own,
    gone afterwards.

    Args:
        diff: as ``git_diff`` made it; None for a clean commit.
        digest: what ``code_digest`` must say of them, asked of the sources themselves.

    Raises:
        Refused: no repository, no such commit in it, a diff that does not apply, or other sources than the digest's.
    """
    repository = _repository()
    if repository is None:
        raise refuse("--checkout", "the code that runs is not in a git repository, so there is no commit to go back to")
    with tempfile.TemporaryDirectory(prefix="litmus-code-", ignore_cleanup_errors=True) as folder:
        tree = Path(folder) / "tree"
        # Hooks are a person's own and could do anything to a work tree that is not theirs.
        quiet = ("-c", "core.hooksPath=/dev/null")
        added = _git(repository, *quiet, "worktree", "add", "--detach", "--force", str(tree), commit)
        try:
            if added.returncode:
                raise refuse("--checkout", f"git cannot give this commit: {_last_line(added.stderr)}", commit)
            if diff is not None and "diff --git " in diff.read_text(encoding="utf-8"):
                applied = _git(tree, "apply", "--whitespace=nowarn", str(diff.resolve()))
                if applied.returncode:
                    says = f"the recorded diff does not apply: {_last_line(applied.stderr)}"
                    raise refuse("--checkout", says, str(diff))
            path = tree / _place_in(repository)
            found = _digest_of(path)
            if found != digest:
                says = (
                    "with the recorded diff is not the code of the run (files too large for the diff, or masked ones)"
                )
                raise refuse("--checkout", f"commit {commit[:12]} {says}: digest {found}, recorded {digest}")
            yield path
        finally:
            _git(repository, "worktree", "remove", "--force", str(tree))


def _place_in(repository: Path) -> Path:
    """Where the package's parent folder lies in its repository."""
    source = Path(__file__).resolve().parents[2]
    return source.relative_to(repository.resolve()) if source.is_relative_to(repository.resolve()) else Path("src")


def _digest_of(path: Path) -> str:
    """What those sources say of themselves, by their own rule."""
    asked = "from litmus.tracking.record import code_digest; print(code_digest())"
    env = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", asked], env=env, capture_output=True, text=True, timeout=_TIMEOUT_SEC, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else f"none ({_last_line(done.stderr)})"


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    argv = ["git", "-C", str(folder), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=_TIMEOUT_SEC, env=env, check=False)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no reason given"
