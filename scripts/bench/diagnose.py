"""What the diagnosis costs beside the run it reads.

    python scripts/bench/diagnose.py [--rounds 3] [CONFIG ...]

For each config one `litmus fit` here, then what the end of that fit spends on the diagnosis (units on probe images,
suspect labels, curves and moves; and its picture), and `litmus diagnose RUN` on its record, start-up aside. In CPU
seconds, medians of rounds, as parts of the whole run's: checks, training, evaluation, pictures and record.
"""

import argparse
import io
import statistics
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from litmus import experiment
from litmus.config import load_config
from litmus.diagnose import diagnose_run
from litmus.diagnosis import plots

CONFIGS = ["configs/digits_mlp.yaml", "configs/digits_resnet8.yaml"]


def timed(rounds: int, work) -> float:
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return statistics.median(seconds)


def one_config(path: str, rounds: int, home: str) -> tuple[float, float, float, float]:
    """CPU seconds of the run, of the reading and of the picture at its end, and of ``litmus diagnose``."""
    kept = {}
    make = experiment.diagnose

    def keep(*args, **options):
        kept["args"], kept["options"] = args, options
        kept["found"] = make(*args, **options)
        return kept["found"]

    experiment.diagnose = keep
    local = [f"tracking.home={home}", "tracking.offline=true", "tracking.system_metrics=false", "train.accelerator=cpu"]
    try:
        started = time.process_time()
        with redirect_stdout(io.StringIO()):
            result = experiment.run(load_config([path], local))
    finally:
        experiment.diagnose = make
    whole = time.process_time() - started
    test = result.evaluations["test"]

    def picture() -> None:
        plots.diagnosis(kept["found"].diagnosis, Path(home) / "bench.png", test=(test.num_errors, test.num_images))

    def command() -> None:
        diagnose_run(result.run.uid, insight=False, home=home, uri=None, say=lambda line: None)

    reading = timed(rounds, lambda: make(*kept["args"], **kept["options"]))
    return whole, reading, timed(rounds, picture), timed(rounds, command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=CONFIGS)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    print("| run | whole run | read at its end | its picture | of the run | `litmus diagnose` | of the run |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as home:
        for path in args.configs:
            whole, reading, picture, command = one_config(path, args.rounds, home)
            print(
                f"| `{Path(path).stem}` | {whole:.2f} s | {reading * 1e3:.0f} ms | {picture * 1e3:.0f} ms "
                f"| {(reading + picture) / whole:.1%} | {command * 1e3:.0f} ms | {command / whole:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
