"""How long `litmus gradients` takes at initialisation, start-up aside: eight configs of depth 32 on digits.

    python scripts/bench/gradients.py [--rounds 3]

Everything is counted that the command does once its modules are imported: checking and building the networks, loading
the data, a thousand images forward and back for each, the run's record, pictures and tables.
"""

import argparse
import statistics
import tempfile
import time

from litmus.gradients import compare_gradients

FAMILIES = {
    "mlp, width 128": (
        ["model.name=mlp", "model.depth=32", "model.width=128"],
        ["model.norm=none,batch", "model.activation=tanh,relu", "model.init=xavier_normal,he_normal"],
    ),
    "plain and residual, width 16": (
        ["model.depth=32"],
        ["model.name=plain,residual", "model.norm=none,batch", "model.init=xavier_normal,he_normal"],
    ),
}


def one_round(words: list[str], over: list[str]) -> tuple[float, float, int, int]:
    with tempfile.TemporaryDirectory() as home:
        local = [f"tracking.home={home}", "tracking.offline=true", "train.accelerator=cpu"]
        began, computed = time.perf_counter(), time.process_time()
        found = compare_gradients([], [*words, *local], over=over, say=lambda line: None)
        times = time.perf_counter() - began, time.process_time() - computed
        return *times, len(found), found[0].flow.num_images if found[0].flow else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    one_round(["model.name=mlp", "model.depth=2"], [])  # imports, fonts, the first look at git
    print("| networks | configs | images | seconds | of a processor |")
    print("|---|---|---|---|---|")
    for name, (words, over) in FAMILIES.items():
        taken = [one_round(words, over) for _ in range(rounds)]
        seconds, busy = (statistics.median(one[which] for one in taken) for which in (0, 1))
        print(f"| {name} | {taken[0][2]} | {taken[0][3]:,} | {seconds:.1f} | {busy:.1f} |", flush=True)


if __name__ == "__main__":
    main()
