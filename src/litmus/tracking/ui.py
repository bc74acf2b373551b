"""MLflow's own UI on the store that runs are sent to."""

from __future__ import annotations

import os
import sys

from litmus.errors import refuse
from litmus.tracking.destination import DEFAULT_HOME, resolve


def server_url(*, home: str | os.PathLike[str] = DEFAULT_HOME, uri: str | None = None) -> str | None:
    """The address to open in a browser when runs go to a server; None for a sqlite store: see ``ui_command``."""
    destination = resolve(uri, home)
    return destination.label if destination.database is None else None


def ui_command(
    home: str | os.PathLike[str] = DEFAULT_HOME, uri: str | None = None, host: str = "127.0.0.1", port: int = 5000
) -> tuple[list[str], dict[str, str]]:
    """Arguments and environment of a process that serves the store's UI at ``http://host:port`` until it is stopped.

    MLflow's server starts ten processes and takes 2.4 GB for jobs that only its
    language-model features use: they are off, and one worker serves one user.
    It listens on this machine alone unless ``host`` says otherwise.

    Raises:
        Refused: ``uri`` is a server, which has its UI already; a port outside 1..65535.
    """
    destination = resolve(uri, home)
    if destination.database is None or destination.artifacts is None:
        raise refuse("tracking.uri", "is a server; open it in a browser", destination.label)
    if not 1 <= port <= 65535:
        raise refuse("port", "is a number from 1 to 65535", port)
    argv = [
        *(sys.executable, "-P", "-m", "mlflow", "server"),
        *("--backend-store-uri", destination.uri),
        *("--default-artifact-root", destination.artifacts.as_uri()),
        *("--host", host, "--port", str(port), "--workers", "1"),
    ]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return argv, {**os.environ, **quiet}
