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


def one_round(words: list[str], over: list[str]) -> tuple[float, int, int]:
    with tempfile.TemporaryDirectory() as home:
        local = [f"tracking.home={home}", "tracking.offline=true", "train.accelerator=cpu"]
        began = time.perf_counter()
        found = compare_gradients([], [*words, *local], over=over, say=lambda line: None)
        return time.perf_counter() - began, len(found), found[0].flow.num_images if found[0].flow else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    one_round(["model.name=mlp", "model.depth=2"], [])  # imports, fonts, the first look at git
    print("| networks | configs | images | seconds | each |")
    print("|---|---|---|---|---|")
    for name, (words, over) in FAMILIES.items():
        taken = [one_round(words, over) for _ in range(rounds)]
        seconds, (_, configs, images) = statistics.median(one[0] for one in taken), taken[0]
        print(f"| {name} | {configs} | {images:,} | {seconds:.1f} | {seconds / configs:.2f} |", flush=True)


if __name__ == "__main__":
    main()
