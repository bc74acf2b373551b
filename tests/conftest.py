"""What every test shares: a quiet, single-threaded torch and a folder of its own to run in."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two workers on two cores: threads of torch would fight
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("LITMUS_DATA", None)
os.environ.setdefault("MPLBACKEND", "agg")
