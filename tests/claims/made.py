"""What a claim reads of a training, made by hand."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from litmus.claims.base import cell_name
from litmus.claims.registry import make_claim
from litmus.config.claim import load_claim

SEEDS = range(5)


def made_claim(name: str, *overrides: str, full: bool = False) -> Any:
    return make_claim(load_claim(name, overrides, full=full))


class Finished:
    """A training that came to an answer, or that diverged."""

    def __init__(
        self,
        result: Mapping[str, Any] | None = None,
        measured: Mapping[str, Any] | None = None,
        history: Mapping[str, Any] | None = None,
    ):
        self._result, self._measured, self._history = result, measured or {}, history or {}
        self.diverged = result is None

    def result(self) -> Mapping[str, Any]:
        assert self._result is not None
        return self._result

    def measured(self, measure: Any) -> Mapping[str, Any]:
        return self._measured[measure.function.partition(":")[2]]

    def history(self, metric: str) -> Any:
        return self._history[metric]


def losses(train: float, val: float, err: float = 0.2) -> dict[str, dict[str, float]]:
    return {"train_eval": {"loss": train, "err": 0.0}, "val": {"loss": val, "err": err}}


def around(means: Sequence[float], step: float = 0.001) -> list[list[float]]:
    """(arms, seeds): each mean, with the same small differences between seeds."""
    return [[mean + step * (seed - 2) for seed in SEEDS] for mean in means]


def outcomes(evidence: Sequence[Any]) -> list[str]:
    """Of the conditions, in their order."""
    return [one.outcome for one in evidence if one.outcome is not None]


def is_drawn(claim: Any, table: Mapping[str, Any], folder: Any) -> bool:
    path = claim.draw(table, folder / f"{claim.spec.name}.png")
    return path.stat().st_size > 10_000 and path.with_suffix(".svg").is_file()


def name(label: str, seed: int) -> str:
    return cell_name(label, seed)


NAN = math.nan
