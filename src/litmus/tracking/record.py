"""What a run must remember of the world it ran in: code, packages, hardware, command line."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache, wraps
from pathlib import Path
from typing import Any, TypeVar

from litmus.tracking.masking import mask_command, mask_secrets

T = TypeVar("T")

MAIN_PACKAGES = (
    "litmus",
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "mlflow",
    "optuna",
    "numpy",
    "scikit-learn",
    "pydantic",
)
LOCK_FILE = "requirements.lock"
_GIT_TIMEOUT_SEC = 20
_MAX_DIFF_CHARS = 5_000_000
_MAX_NEW_FILE_BYTES = 200_000


_fixed: dict[str, Any] | None = None


def fix_surroundings() -> None:
    """Look at the code, at git and at the installed packages, and from now on tell what was seen: for a process that is
    forked for each of many runs. Nothing here may ask for GPUs: CUDA does not survive a fork."""
    global _fixed
    if _fixed is None:
        _fixed = {}
        for look in (code_digest, installed_packages, lock_report, _git_facts, git_diff):
            look()


def _once_if_fixed(look: Callable[..., T]) -> Callable[..., T]:
    @wraps(look)
    def answer(*args: Any) -> T:
        if _fixed is None:
            return look(*args)
        if look.__name__ not in _fixed:
            _fixed[look.__name__] = look(*args)
        return _fixed[look.__name__]

    return answer


def environment() -> dict[str, str]:
    """Facts about this process and its machine, each short enough for a tag.

    ``python``, ``platform``, ``host``, ``cpu``, ``threads``, ``gpu`` (also ``cuda``), a version per main package,
    ``git.commit``, ``git.branch``, ``git.dirty`` (empty outside a repository), ``code`` (a digest of the package's
    sources), ``command`` (masked), and ``lock``: whether the installed packages are those of ``requirements.lock``.
    GPU and thread figures are torch's if it is imported; this function imports nothing heavy.
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cpu": _cpu(),
        **_torch_facts(),
        **{name: version for name in MAIN_PACKAGES if (version := _version(name))},
        **_git_facts(),
        "code": code_digest(),
        "command": command_line(),
        "lock": lock_report(),
    }


def environment_tags(facts: dict[str, str]) -> dict[str, str]:
    """``environment()`` as tags: ``env.<name>``, and the commit and branch where MLflow's UI looks for them."""
    tags = {f"env.{name}": value for name, value in facts.items() if value}
    for name, mlflow_name in (("git.commit", "mlflow.source.git.commit"), ("git.branch", "mlflow.source.git.branch")):
        if facts.get(name):
            tags[mlflow_name] = facts[name]
    return tags


def command_line() -> str:
    """What was typed, secrets masked."""
    words = [Path(sys.argv[0]).name or "python", *sys.argv[1:]]
    return shlex.join(mask_command(words))


def installed_packages() -> str:
    """Every installed package as ``name==version`` lines, for an artifact."""
    return "".join(f"{name}=={version}\n" for name, version in sorted(_installed().items()))


@lru_cache(maxsize=1)
def code_digest() -> str:
    """32 hexadecimal digits over the source files of the package that runs, inside a repository or not."""
    root = Path(__file__).resolve().parents[1]
    summary = hashlib.blake2b(digest_size=16)
    for path in sorted(root.rglob("*.py")):
        summary.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return summary.hexdigest()


@_once_if_fixed
def git_diff() -> str:
    """The work tree against the commit, new files included, masked; empty when clean or outside a repository.

    ``git apply`` takes it, unless a secret was masked in a changed line. New files over 200 kB and binary
    ones are named, not included; all of it is cut at 5 million characters.
    """
    repository = _repository()
    if repository is None:
        return ""
    diff = _git(repository, "diff", "HEAD", "--no-color", "--no-ext-diff") or ""
    listed = _git(repository, "ls-files", "--others", "--exclude-standard", "-z") or ""
    diff += "".join(_as_new_file(repository, name) for name in listed.split("\0") if name)
    masked = str(mask_secrets(diff, name="git.diff"))
    if len(masked) > _MAX_DIFF_CHARS:
        masked = masked[:_MAX_DIFF_CHARS] + f"\n# cut: {len(masked):,} characters\n"
    return masked


@_once_if_fixed
def lock_report(lock: Path | None = None) -> str:
    """``matches requirements.lock (n packages)``, what differs, or that there is no lock."""
    lock = lock or _lock_file()
    if lock is None or not lock.is_file():
        return f"no {LOCK_FILE}"
    installed = _installed()
    wanted = list(_pins(lock.read_text(encoding="utf-8")))
    differing = [
        f"{name} {installed.get(name, 'is missing')} (lock {version})"
        for name, version in wanted
        if installed.get(name) != version
    ]
    if not differing:
        return f"matches {lock.name} ({len(wanted)} packages)"
    more = f" and {len(differing) - 12} more" if len(differing) > 12 else ""
    return f"differs from {lock.name}: {', '.join(differing[:12])}{more}"


def _pins(text: str) -> Iterator[tuple[str, str]]:
    """(normalised name, version) of the pins that hold on this machine."""
    from packaging.markers import InvalidMarker, Marker

    for line in text.splitlines():
        found = re.match(r"([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?==([^\s;\\]+)\s*(?:;\s*([^\\]+))?", line)
        if not found:
            continue
        name, version, marker = found.groups()
        if marker:
            try:
                if not Marker(marker.strip()).evaluate():
                    continue
            except InvalidMarker:
                continue
        yield _normal(name), version


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=1)
def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        if name := distribution.metadata["Name"]:
            found.setdefault(_normal(name), distribution.version)  # the first on the path is the one imported
    return found


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _lock_file() -> Path | None:
    package = Path(__file__).resolve()
    for folder in (*package.parents[2:5], Path.cwd()):
        if (folder / LOCK_FILE).is_file():
            return folder / LOCK_FILE
    return None


def _cpu() -> str:
    return f"{cpu_model()}, {usable_cores()} of {os.cpu_count()} cores"


def cpu_model() -> str:
    """``Intel(R) Xeon(R) Processor``, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _torch_facts() -> dict[str, str]:
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "cuda"):
        return {"threads": os.environ.get("OMP_NUM_THREADS", ""), "gpu": ""}
    facts = {"threads": str(torch.get_num_threads()), "gpu": ""}
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        facts["gpu"] = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        facts["cuda"] = f"{torch.version.cuda}, cudnn {torch.backends.cudnn.version()}"
    return facts


def _repository() -> Path | None:
    """The repository of the code that runs, if it is under git, else the one we stand in."""
    for folder in (Path(__file__).resolve().parent, Path.cwd()):
        if "site-packages" in folder.parts:
            continue
        if top := _git(folder, "rev-parse", "--show-toplevel"):
            return Path(top.strip())
    return None


@_once_if_fixed
def _git_facts() -> dict[str, str]:
    repository = _repository()
    if repository is None:
        return {"git.commit": "", "git.branch": "", "git.dirty": ""}
    status = _git(repository, "status", "--porcelain")
    return {
        "git.commit": (_git(repository, "rev-parse", "HEAD") or "").strip(),
        "git.branch": (_git(repository, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "git.dirty": "" if status is None else str(bool(status)).lower(),
    }


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints; None without git, outside a repository, or when it refuses."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *arguments],
            capture_output=True,
            timeout=_GIT_TIMEOUT_SEC,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None


def _as_new_file(repository: Path, name: str) -> str:
    try:
        if (repository / name).stat().st_size > _MAX_NEW_FILE_BYTES:
            return f"# new file, too large to include: {name}\n"
        text = (repository / name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return f"# new file, not text: {name}\n"
    lines = text.splitlines(keepends=True)
    body = "".join(f"+{line}" for line in lines)
    if lines and not lines[-1].endswith("\n"):
        body += "\n\\ No newline at end of file\n"
    header = f"diff --git a/{name} b/{name}\nnew file mode 100644\n"
    return header + (f"--- /dev/null\n+++ b/{name}\n@@ -0,0 +1,{len(lines)} @@\n{body}" if lines else "")
