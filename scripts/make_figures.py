"""The README's picture: what one run leaves, from its own files.

python scripts/make_figures.py RUN [--home mlruns] [--out docs/run.png]
"""

import argparse
import json
import textwrap

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread

from litmus.tracking import find_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("--home", default="mlruns")
    parser.add_argument("--out", default="docs/run.png")
    args = parser.parse_args()
    run = find_run(args.run, home=args.home)
    result = json.loads(run.artifact("result.json").read_text())
    curves, confusion = (imread(run.artifact(f"pictures/{name}.png")) for name in ("learning_curves", "confusion"))

    test, (low, high) = result["test"], result["test_err_95"]
    command = run.tags["env.command"].split("/")[-1]
    lines = [
        f"$ litmus fit configs/{command}",
        f"test/err {test['err']:.4f} (95% {low:.4f} to {high:.4f})",
        *textwrap.wrap(result["verdict"], 104, subsequent_indent="  "),
    ]
    height = curves.shape[0] * 10 / curves.shape[1]
    side = confusion.shape[1] * height / confusion.shape[0]
    head = 0.3 + 0.2 * len(lines)
    figure = Figure(figsize=(10 + side, height + head), dpi=130, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(
        0.25 / (10 + side), 1 - 0.22 / (height + head), "\n".join(lines), va="top", family="monospace", size=9.5
    )
    for picture, left, width in ((curves, 0, 10), (confusion, 10, side)):
        axes = figure.add_axes((left / (10 + side), 0, width / (10 + side), height / (height + head)))
        axes.imshow(picture, aspect="auto")
        axes.set_axis_off()
    figure.savefig(args.out)
    print(args.out)


if __name__ == "__main__":
    main()
