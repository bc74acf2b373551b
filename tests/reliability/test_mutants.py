"""Each guard taken out of a copy of the sources in turn: the test that stands for it must fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.reliability.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]


def run_on(source, test):
    """pytest's exit code for one test on the sources in ``source``."""
    env = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [sys.executable, "-m", "pytest", test, "-q", "-x", "-n", "0", "-p", "no:cacheprovider"]
    return subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_guard_stands_where_the_mutant_takes_it_out(mutant):
    assert (ROOT / "src/litmus" / mutant.file).read_text().count(mutant.old) == 1


@pytest.mark.proof
@pytest.mark.timeout(3600)
def test_every_mutant_is_caught(figure, tmp_path):
    survived = []
    for mutant in MUTANTS:
        source = tmp_path / mutant.name
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        path = source / "litmus" / mutant.file
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        done = run_on(source, mutant.test)
        if done.returncode != 1:  # 1: a test failed; anything else is no verdict
            survived.append(f"{mutant.name} ({done.returncode}: {done.stdout[-300:]})")
        shutil.rmtree(source)
    caught = len(MUTANTS) - len(survived)
    figure("mutants", f"{caught} of {len(MUTANTS)}", holds=not survived, note="; ".join(survived))
