"""Two traces of one run, row by row, to the first difference. Equal means equal bits; near is not a word here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from litmus.errors import nearest

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Difference:
    """The first thing that two runs do not share.

    Args:
        what: ``order``, ``batch``, ``loss``, ``gradient``, ``weights``, ``evaluated``, a metric's name, ``rows``.
        where: in words, ``step 3, batch 2``.
        then, now: digests, or numbers as ``float.hex`` or text.
    """

    what: str
    where: str
    then: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.what} of {self.where}"

    @property
    def size(self) -> float | None:
        """How far apart two numbers are; None for digests."""
        then, now = number(self.then), number(self.now)
        return None if then is None or now is None else abs(now - then)


class Different(Exception):
    """Ends a reproduction at its first difference."""

    def __init__(self, difference: Difference):
        super().__init__(str(difference))
        self.difference = difference


class Enough(Exception):
    """Ends a reproduction of which everything wanted was compared."""


class Comparison:
    """Takes the rows of a run as they are made and raises ``Different`` at the first that is not the recorded one.

    Args:
        trace: the recorded table: ``start``, ``steps``, ``epochs``.
        whole: whether the recorded run came to its end; the rows of one that did not are followed as far as they go,
            then ``Enough`` is raised.
    """

    def __init__(self, trace: Mapping[str, Any], *, whole: bool):
        self.whole = whole
        self._then: dict[tuple[str, int], Row] = {("start", 0): {"step": 0, "weights": trace["start"]}}
        self._then |= {("step", row["step"]): row for row in trace["steps"]}
        self._then |= {("epoch", row["step"]): row for row in trace["epochs"]}
        self.steps = self.epochs = 0
        """How many of each were found equal."""
        self._compared = 0

    @property
    def num_epochs(self) -> int:
        return sum(kind == "epoch" for kind, _ in self._then)

    @property
    def num_steps(self) -> int:
        return sum(kind == "step" for kind, _ in self._then)

    def __call__(self, kind: str, now: Row) -> None:
        then = self._then.get((kind, now["step"]))
        if then is None:
            raise Different(Difference("rows", f"{kind} at step {now['step']}", "not recorded", "made"))
        found = next(differences(kind, then, now), None)
        if found is not None:
            raise Different(found)
        self._compared += 1
        self.steps += kind == "step"
        self.epochs += kind == "epoch"
        if not self.whole and self._compared == len(self._then):
            raise Enough

    def finish(self) -> None:
        """Raise ``Different`` if the record has rows that were never made."""
        if self._compared < len(self._then):
            says = (f"{self.num_steps} steps, {self.num_epochs} epochs", f"{self.steps} steps, {self.epochs} epochs")
            raise Different(Difference("rows", "the whole run", *says))


def rows_in_order(trace: Mapping[str, Any]) -> list[tuple[str, Row]]:
    """(kind, row) of a whole trace, as its run made them: the start, then steps and the epochs that they end."""
    rows = [("step", row) for row in trace.get("steps", ())] + [("epoch", row) for row in trace.get("epochs", ())]
    start = [("start", {"step": 0, "weights": trace["start"]})] if "start" in trace else []
    return start + sorted(rows, key=lambda row: (row[1]["step"], row[0] == "epoch"))


def differences(kind: str, then: Row, now: Row) -> Iterator[Difference]:
    """In the order of cause: of each batch order, batch and loss, then gradient and weights; of an epoch its weights,
    those that were evaluated, its metrics."""
    step = now["step"]
    if kind == "step":
        yield from _batches(then, now, step)
        yield from _fields(("gradient", "weights"), then, now, f"step {step}")
    elif kind == "epoch":
        where = f"epoch {now['epoch']}, step {step}"
        yield from _fields(("weights", "evaluated"), then, now, where)
        yield from _fields([*then["metrics"], *now["metrics"]], then["metrics"], now["metrics"], where)
    else:
        yield from _fields(("weights",), then, now, "the start, before step 1")


def _batches(then: Row, now: Row, step: int) -> Iterator[Difference]:
    count, several = len(now["order"]), len(now["order"]) > 1
    if len(then["order"]) != count:
        yield Difference("order", f"step {step}", f"{len(then['order'])} batches", f"{count} batches")
        return
    for k in range(count):
        where = f"step {step}, batch {k + 1}" if several else f"step {step}"
        for what in ("order", "batch", "loss"):
            if then[what][k] != now[what][k]:
                yield Difference(what, where, then[what][k], now[what][k])


def _fields(names: Any, then: Row, now: Row, where: str) -> Iterator[Difference]:
    for name in names:
        if then.get(name) != now.get(name):
            yield Difference(name, where, then.get(name), now.get(name))


def compare_results(then: Mapping[str, Any], now: Mapping[str, Any]) -> Difference | None:
    """The first difference of two ``result.json``, the time they took left out."""
    for name in {**then, **now}:
        if name != "trained_sec" and then.get(name) != now.get(name):
            one, other = then.get(name), now.get(name)
            if isinstance(one, Mapping) and isinstance(other, Mapping):
                key = next(key for key in {**one, **other} if one.get(key) != other.get(key))
                return Difference(f"{name}/{key}", "result.json", one.get(key), other.get(key))
            return Difference(name, "result.json", one, other)
    return None


METRICS = tuple(f"{split}/{name}" for split in ("val", "test") for name in ("loss", "err"))


def metric_distances(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[float, float, float]]:
    """Metric -> (then, now, distance), for what ``--tolerance`` compares."""
    found = {}
    for metric in METRICS:
        split, name = metric.split("/")
        if split not in then and split == "test":  # a study's trial
            continue
        if split not in then or name not in then[split]:
            raise KeyError(f"result.json has no {metric}; {nearest(metric, then)}")
        one, other = float(then[split][name]), float(now[split][name])
        found[metric] = (one, other, abs(other - one))
    return found


def outside(distances: Mapping[str, tuple[float, float, float]], tolerance: float) -> list[str]:
    """Metrics further apart than ``tolerance``; what is not a number is within nothing."""
    return [metric for metric, (_, _, distance) in distances.items() if not distance <= tolerance]


def number(value: Any) -> float | None:
    """A number or a ``float.hex``; None for what is neither, a digest above all."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value.lstrip("-").startswith("0x"):
        return float.fromhex(value)
    return None
