"""scripts/slurm with a srun that starts two processes here, and a scontrol that notes what it is asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from litmus.tracking import find_run

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts/slurm"

SRUN = """#!/bin/bash
# srun OPTIONS litmus ...: two tasks, with what SLURM tells them
while [[ $1 == --* ]]; do shift; done
code=0
for task in 1 0; do
    SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 SLURM_STEP_NUM_NODES=1 SLURM_STEP_NODELIST=localhost \\
    SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NODEID=0 "$@" &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; ended=$?; ((ended > code)) && code=$ended; done
exit $code
"""
JOB = {
    "SLURM_NNODES": "1",
    "SLURM_NTASKS": "2",
    "SLURM_NTASKS_PER_NODE": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def job(tmp_path):
    """Runs a script as SLURM would: ``code, output = job(path, *arguments)``."""
    programs = {
        "srun": SRUN,
        "scontrol": f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n',
        "litmus": f'#!/bin/bash\nexec {sys.executable} -m litmus.cli "$@"\n',
    }
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    env = {**os.environ, **JOB, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_SUBMIT_DIR": str(ROOT)}
    env["SLURM_JOB_ID"] = str(os.getpid())  # decides the port

    def run(script, *arguments):
        argv = ["bash", str(script), *arguments]
        done = subprocess.run(argv, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=200, check=False)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("script", sorted(SCRIPTS.iterdir()), ids=lambda path: path.name)
def test_the_scripts_are_bash_and_speak_of_no_site(script):
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert not {"--partition=", "--account=", "--qos=", "module load"} & set(script.read_text().split())


@pytest.mark.parametrize("code", [0, 2, 65, 74, 143])
def test_only_a_run_that_was_stopped_goes_back_into_the_queue(job, tmp_path, code):
    assert job(SCRIPTS / "requeue", str(code))[0] == code
    assert (tmp_path / "asked").exists() == (code == 143)


def test_a_job_of_two_tasks_is_one_run(job, tmp_path):
    code, output = job(
        SCRIPTS / "fit.sbatch", str(ROOT / "configs/digits_mlp.yaml"), "train.epochs=2", "train.accelerator=cpu",
        "tracking.offline=true", "tracking.system_metrics=false",
    )  # fmt: skip
    assert code == 0, output
    (folder,) = (tmp_path / "mlruns/runs").iterdir()
    run = find_run(str(folder), home=tmp_path / "mlruns")
    assert (run.status, run.params["train.devices"]) == ("FINISHED", "2")
    assert output.count("test/err") == 1
