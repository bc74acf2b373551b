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

    def run(script, *arguments, **more):
        done = subprocess.run(
            ["bash", str(script), *arguments],
            cwd=tmp_path, env=env | more, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
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


LITMUS = """#!/bin/bash
# litmus ...: notes what it is asked, and where its storage is
echo "$* at ${LITMUS_STORAGE:-home}" >> told
exit $((SLURM_PROCID == 1 ? 143 : 0))
"""


def test_a_study_is_the_same_command_on_every_machine(job, tmp_path):
    (tmp_path / "litmus").write_text(LITMUS)
    server = {"LITMUS_STORAGE": "postgresql://ann@host/studies"}
    code, output = job(SCRIPTS / "tune.sbatch", "study.yaml", "n_trials=60", SLURM_NNODES="2", **server)
    told = (tmp_path / "told").read_text().splitlines()
    assert told == ["tune study.yaml n_trials=60 at postgresql://ann@host/studies"] * 2
    assert code == 143, output  # one machine was stopped: its part goes on in another attempt
    assert (tmp_path / "asked").read_text().startswith("requeue ")


@pytest.mark.parametrize("several", [{"SLURM_NNODES": "2"}, {"SLURM_ARRAY_TASK_COUNT": "8"}])
def test_several_machines_without_a_database_are_refused(job, tmp_path, several):
    (tmp_path / "litmus").write_text(LITMUS)
    code, output = job(SCRIPTS / "tune.sbatch", "study.yaml", LITMUS_STORAGE="", **several)
    assert code == 2
    assert "export LITMUS_STORAGE=postgresql://user@host/database" in output
    assert not (tmp_path / "told").exists()
    job(SCRIPTS / "tune.sbatch", "study.yaml", "--storage=postgresql://ann@host/x", LITMUS_STORAGE="", **several)
    assert (tmp_path / "told").exists()
