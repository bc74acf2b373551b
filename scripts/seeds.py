"""Run a config over several seeds, which share their images, and print what its header reports.

python scripts/seeds.py configs/digits_mlp.yaml --seeds 5 [a.b=c ...]
"""

import argparse
import io
import statistics
from contextlib import redirect_stdout

from litmus.config import load_config
from litmus.experiment import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    errors, seconds = [], []
    for seed in range(args.seeds):
        with redirect_stdout(io.StringIO()):
            result = run(load_config([args.config], [*args.overrides, f"seed={seed}"]))
        errors.append(result.evaluations["test"].err)
        seconds.append(result.trained_sec)
        splits = ", ".join(f"{split}/err {seen.err:.4f}" for split, seen in result.evaluations.items())
        print(f"seed {seed}: {splits}, {result.trained_sec:.0f} s, run {result.run.uid[:8]}", flush=True)
    spread = f" +- {statistics.stdev(errors):.4f} (std) over {len(errors)} seeds" if len(errors) > 1 else ""
    print(f"test/err {statistics.mean(errors):.4f}{spread}, trained in {statistics.median(seconds):.0f} s (median)")


if __name__ == "__main__":
    main()
