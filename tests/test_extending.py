"""What the README says of adding a network, a data set and an optimizer is done here, on a copy of the package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCHEMA = "src/litmus/config/schema.py"
PLACE = "# Sections of your own stand above this line"
CONTRACT = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/networks/test_network_contract.py")


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("litmus")
    shutil.copytree("src/litmus", folder / "src/litmus", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree("tests/networks", folder / "tests/networks", ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in re.findall(r"```py\n# (\S+)\n(.*?)```", Path("README.md").read_text(), flags=re.DOTALL):
        path = folder / name
        if name == SCHEMA:
            assert code.count("\n") == 1, "the README promises one line"
            path.write_text(path.read_text().replace(PLACE, f"{code}{PLACE}"))
        else:
            path.write_text((path.read_text() + "\n\n" if path.exists() else "") + code)
    return folder


def litmus(folder, *argv):
    env = {**os.environ, "PYTHONPATH": str(folder / "src")}
    done = subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, check=False, cwd=folder, env=env, timeout=200
    )
    return done.returncode, done.stdout + done.stderr


def test_the_readme_adds_a_network_a_data_set_and_an_optimizer(extended):
    code, said = litmus(
        extended,
        *("-m", "litmus.cli", "fit", "data.name=stripes", "model.name=lenet", "model.width=3", "optim.name=tenth_sgd"),
        *("optim.lr=1.0", "train.epochs=10", "data.batch_size=16", "tracking.offline=true", "train.accelerator=cpu"),
    )
    assert code == 0, said
    assert float(re.search(r"test/err (\S+)", said)[1]) < 0.1  # chance is 0.5


def test_what_was_added_is_refused_like_everything_else(extended):
    code, said = litmus(extended, "-m", "litmus.cli", "fit", "model.name=lenet", "model.width=0", "data.name=stripe")
    assert code == 2
    assert "model.width = 0: must be >= 1" in said
    assert "did you mean 'stripes'?" in said


def test_the_contract_test_covers_the_new_network(extended):
    code, said = litmus(
        extended,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/networks/test_network_contract.py",
        "-k",
        "lenet",
    )
    assert code == 0, said
    assert int(re.search(r"(\d+) passed", said)[1]) >= 5
