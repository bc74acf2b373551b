"""Single runs compared by their answers: both networks on the same images again. The one part that computes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from litmus.compare.arms import Arms
from litmus.compare.contrast import Shared
from litmus.compare.select import Training
from litmus.errors import Problem, Refused


def single_pairs(arms: Arms, reference: int) -> list[int]:
    """Arms that, like the reference, have one run: those that images can tell apart."""
    if len(arms.arms[reference].runs) > 1:
        return []
    return [i for i, arm in enumerate(arms.arms) if i != reference and len(arm.runs) == 1]


def shared_answers(arms: Arms, reference: int, *, say: Callable[[str], None] = print) -> dict[str, dict[int, Shared]]:
    """Split -> arm -> how its network and the reference's answered. ``test`` only of runs that were tested.

    Raises:
        Refused: the runs do not have the same images, before anything is evaluated; or weights that cannot be read.
    """
    import torch

    from litmus.devices import best_device
    from litmus.evaluation import evaluate
    from litmus.experiment import eval_batches, make_data, quiet_libraries
    from litmus.insight import steps
    from litmus.trained import load_trained

    chosen = [reference, *single_pairs(arms, reference)]
    singles = {i: arms.arms[i].trainings[0] for i in chosen}
    base = singles[reference]
    found: dict[str, dict[int, Shared]] = {}
    with quiet_libraries():
        sets: dict[str, Any] = {}
        for one in singles.values():
            if (key := _data_key(one)) not in sets:
                sets[key] = make_data(one.config)
                sets[key].prepare()
        problems = []
        for i in chosen[1:]:
            one, split = singles[i], "val"
            ours, theirs = (sets[_data_key(each)] for each in (one, base))
            labels = [data.images(split).labels[data.indices(split)] for data in (ours, theirs)]
            if not (torch.equal(ours.indices(split), theirs.indices(split)) and torch.equal(*labels)):
                says = f"was not validated on the images of run {base.run.id8}: their answers cannot be compared"
                problems.append(Problem("--images", says, one.run.id8))
        if problems:
            raise Refused(problems, source="run")

        wrong: dict[tuple[int, str], torch.Tensor] = {}
        splits = {i: [split for split in ("val", "test") if split in one.result] for i, one in singles.items()}
        total = sum(len(sets[_data_key(one)].loader(split)) for i, one in singles.items() for split in splits[i])
        with steps(total, "evaluating") as step:
            for i, one in singles.items():
                data, device = sets[_data_key(one)], best_device(one.config.train.accelerator)
                network = load_trained(one.run).network.to(device)
                for split in splits[i]:
                    batches = eval_batches(data, split, device, one.config.train.limit_batches)
                    bf16 = one.config.train.precision == "bf16-mixed"
                    seen = evaluate(
                        network, _counted(batches, step, f"{one.run.id8} {split}"), device=device, bf16=bf16
                    )
                    wrong[i, split] = seen.predicted != seen.labels
                    if seen.num_errors != (recorded := one.result[split]["num_errors"]):
                        say(
                            f"note     run {one.run.id8} now errs on {seen.num_errors} {split} images, its record says "
                            f"{recorded}: data, code or device are not the same"
                        )
    for i in chosen[1:]:
        for split in splits[i]:
            pair = wrong[i, split], wrong.get((reference, split))
            if pair[1] is None or len(pair[0]) != len(pair[1]):
                continue
            both, only = int((pair[0] & pair[1]).sum()), int((pair[0] & ~pair[1]).sum())
            found.setdefault(split, {})[i] = Shared(both, only, int((~pair[0] & pair[1]).sum()), len(pair[0]))
    return found


def _counted(batches: Iterable[Any], step: Callable[[str], None], doing: str) -> Iterator[Any]:
    for batch in batches:
        step(doing)
        yield batch


def _data_key(one: Training) -> str:
    keys = {key: value for key, value in one.values.items() if key.startswith("data.")}
    data = one.config.data
    return json.dumps([keys, *(getattr(data, key, None) for key in ("root", "path", "val_path", "test_path"))])
