"""Imports point one way: cli -> experiment -> classifier, callbacks, data, networks, ... -> config -> errors."""

import ast
from pathlib import Path

import pytest

SOURCE = Path("src/litmus")
MODULES = sorted(SOURCE.rglob("*.py"))

ALLOWED = {  # part -> parts it may import; every part may import errors
    "errors": set(),
    "stopping": set(),
    "paths": set(),
    "comparison": set(),
    "devices": set(),
    "ranks": {"data"},
    "supervisor": set(),
    "channel": set(),
    "strategy": {"config", "ranks"},
    "config": set(),
    "networks": set(),
    "optim": {"networks"},
    "data": set(),
    "diagnosis": set(),
    "criteria": set(),
    "advice": {"config", "criteria", "diagnosis", "paths"},
    "tracking": set(),
    "checkpoints": set(),
    "callbacks": {"checkpoints", "criteria", "diagnosis", "networks", "optim", "stopping"},
    "resume": {"checkpoints", "config", "data", "tracking", "weights"},
    "classifier": {"callbacks", "networks", "optim", "ranks"},
    "evaluation": {"classifier"},
    "insight": {"data", "diagnosis", "evaluation", "networks"},
    "weights": {"config", "data", "networks", "tracking"},
    "transfer": {"config", "networks"},
    "fingerprint": {"config", "data", "devices", "tracking"},
    "experiment": {
        *("advice", "config", "networks", "optim", "data", "diagnosis", "tracking"),
        *("callbacks", "checkpoints", "classifier", "evaluation", "fingerprint", "insight", "paths"),
        *("ranks", "resume", "stopping", "strategy", "transfer", "weights"),
    },
    "launch": {
        *("callbacks", "channel", "checkpoints", "config", "experiment", "paths", "ranks"),
        *("resume", "stopping", "strategy", "supervisor", "tracking"),
    },
    "rank": {"cli", "supervisor"},
    "trained": {"config", "data", "experiment", "tracking", "weights"},
    "commands": {
        *("config", "networks", "optim", "data", "diagnosis", "tracking"),
        *("classifier", "devices", "evaluation", "experiment", "paths", "trained", "transfer", "weights"),
    },
    "gradients": {
        *("config", "data", "devices", "diagnosis", "experiment", "networks", "paths", "stopping", "tracking"),
        *("transfer", "weights"),
    },
    "predict": {
        *("config", "networks", "data", "diagnosis", "tracking"),
        *("classifier", "devices", "experiment", "paths", "trained", "weights"),
    },
    "diagnose": {
        "advice",
        "config",
        "data",
        "devices",
        "diagnosis",
        "evaluation",
        "experiment",
        "insight",
        "networks",
        "paths",
        "tracking",
        "trained",
    },
    "compare": {
        *("config", "devices", "diagnosis", "evaluation", "experiment", "insight", "paths", "tracking", "trained"),
    },
    "export": {"config", "data", "experiment", "paths", "tracking", "trained", "weights"},
    "reproduce": {
        *("callbacks", "comparison", "config", "data", "experiment", "fingerprint", "launch", "paths"),
        *("resume", "stopping", "tracking", "weights"),
    },
    "jobs": {
        *("channel", "config", "data", "experiment", "launch", "ranks", "resume", "stopping", "tracking"),
    },
    "study": {
        *("channel", "config", "data", "devices", "diagnosis", "evaluation", "experiment", "jobs", "launch"),
        *("paths", "ranks", "resume", "stopping", "tracking", "trained", "weights"),
    },
    "sweep": {
        *("channel", "config", "data", "devices", "evaluation", "experiment", "jobs", "paths"),
        *("ranks", "stopping", "tracking", "trained", "weights"),
    },
    "curve": {"config", "diagnosis", "paths", "sweep"},
    "decompose": {"config", "diagnosis", "paths", "sweep"},
    "claims": {
        *("config", "data", "devices", "diagnosis", "evaluation", "experiment", "networks", "optim", "paths"),
        *("sweep", "tracking", "trained", "transfer", "weights", "callbacks", "stopping", "checkpoints", "predict"),
        "criteria",
        *("curve", "decompose"),
    },
    "cli": {
        *("claims", "commands", "compare", "config", "curve", "decompose", "diagnose", "export", "gradients"),
        *("launch", "predict", "sweep", "tracking"),
        *("ranks", "reproduce", "resume", "stopping", "study"),
    },
    "__init__": {"classifier", "data", "networks"},
    "__main__": {"cli"},
}
DOORS = {  # library -> the one part that may import it
    "mlflow": {"tracking"},
    "pydantic": {"config"},
    "omegaconf": {"config"},
    "typer": {"cli"},
    "optuna": {"study"},
    "sqlalchemy": {"study", "tracking"},
    "psycopg": {"study"},
    "plotly": {"study"},
}
NO_LIGHTNING = {"networks", "optim", "diagnosis", "config", "errors"}


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_imports_only_what_lies_below_it(path):
    part = part_of(path)
    inner = {name.split(".")[1] for name in imports(path) if name.startswith("litmus.")}
    known = {part_of(module) for module in MODULES}
    assert (inner & known) - ALLOWED[part] - {part, "errors"} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_each_library_has_one_door(path):
    part, outer = part_of(path), {name.split(".")[0] for name in imports(path)}
    assert {library for library, doors in DOORS.items() if library in outer and part not in doors} == set()
    assert not (part in NO_LIGHTNING and "lightning" in outer)
