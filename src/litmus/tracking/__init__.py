"""Runs that are recorded on this disk first and sent to MLflow from there.

Nothing here imports MLflow, torch or Lightning until it is needed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from litmus.tracking.destination import embedded_uri, resolve
    from litmus.tracking.logger import RunLogger
    from litmus.tracking.masking import mask_secrets
    from litmus.tracking.past import past_code
    from litmus.tracking.record import (
        code_digest,
        cpu_model,
        environment,
        environment_tags,
        git_diff,
        installed_packages,
        usable_cores,
    )
    from litmus.tracking.run import Run, directory_of
    from litmus.tracking.stored import (
        StoredRun,
        find_run,
        follow,
        list_runs,
        local_runs,
        put_right,
        sync,
        unsynced,
        wait_sent,
    )
    from litmus.tracking.system import SystemMetrics
    from litmus.tracking.ui import server_url, ui_command

__all__ = [
    "Run",
    "RunLogger",
    "StoredRun",
    "SystemMetrics",
    "code_digest",
    "cpu_model",
    "directory_of",
    "embedded_uri",
    "environment",
    "environment_tags",
    "find_run",
    "follow",
    "git_diff",
    "installed_packages",
    "list_runs",
    "local_runs",
    "mask_secrets",
    "past_code",
    "put_right",
    "resolve",
    "server_url",
    "sync",
    "ui_command",
    "unsynced",
    "usable_cores",
    "wait_sent",
]

_HOMES = {
    "destination": ("embedded_uri", "resolve"),
    "logger": ("RunLogger",),
    "masking": ("mask_secrets",),
    "past": ("past_code",),
    "record": (
        *("code_digest", "environment", "environment_tags", "git_diff"),
        *("cpu_model", "installed_packages", "usable_cores"),
    ),
    "run": ("Run", "directory_of"),
    "stored": (
        "StoredRun",
        "find_run",
        "follow",
        "list_runs",
        "local_runs",
        "put_right",
        "sync",
        "unsynced",
        "wait_sent",
    ),
    "system": ("SystemMetrics",),
    "ui": ("server_url", "ui_command"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
