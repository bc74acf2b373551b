"""What every test shares: a quiet, single-threaded torch and a folder of its own to run in."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores: threads of torch would fight
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("LITMUS_DATA", None)
os.environ.setdefault("MPLBACKEND", "agg")


@pytest.fixture
def litmus(capsys):
    """Calls the command line: ``code, out, err = litmus("fit", ...)``."""
    from litmus.cli import main

    def call(*argv):
        with pytest.raises(SystemExit) as stopped:
            main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return call


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to stand in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
