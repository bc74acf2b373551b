"""When to stop, as numbers alone: the criteria of Prechelt 1998 ("Early stopping - but when?") and plain patience."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any, Literal

from litmus.errors import nearest


class Criterion(ABC):
    """Numbers in, a reason to stop out. All that changes is in ``state``: plain JSON values."""

    def __init__(self, **state: Any):
        self.state = {"count": 0, **state}

    def update(self, train_loss: float | None, val_loss: float) -> str | None:
        """Take note of one validation.

        Args:
            train_loss: running training loss since the last validation; of augmented images where there are such.
            val_loss: the monitored value, ``val/loss`` for Prechelt's criteria.

        Returns:
            a sentence with the figures when it is time to stop. A value that is not finite is always time to stop.
        """
        self.state["count"] += 1
        if not math.isfinite(val_loss):
            return f"the monitored value is {val_loss}"
        return self._judge(train_loss, val_loss)

    @abstractmethod
    def _judge(self, train_loss: float | None, val_loss: float) -> str | None:
        """``update`` of a finite value."""

    def state_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = copy.deepcopy(state)


class GL(Criterion):
    """Stop when GL(t) = 100 (E_va(t) / E_opt(t) - 1) > alpha, E_opt the lowest validation loss so far.

    Args:
        alpha: percent, >= 0; Prechelt tries 1, 2, 3, 5. On cross-entropy these are hasty.
    """

    def __init__(self, alpha: float = 10.0):
        super().__init__(best=None, best_at=0)
        _at_least("alpha", alpha, 0)
        self.alpha = alpha

    def _judge(self, train_loss: float | None, val_loss: float) -> str | None:
        loss = generalisation_loss(val_loss, self._lowest(val_loss))
        if loss <= self.alpha:
            return None
        return f"GL = {loss:.1f}% > {self.alpha:g}%: {self._against_lowest(val_loss)}"

    def _lowest(self, val_loss: float) -> float:
        if val_loss < 0:
            raise ValueError(f"validation loss {val_loss}: Prechelt's criteria are ratios of losses, which are > 0")
        if self.state["best"] is None or val_loss < self.state["best"]:
            self.state.update(best=val_loss, best_at=self.state["count"])
        return self.state["best"]

    def _against_lowest(self, val_loss: float) -> str:
        best, best_at, count = (self.state[key] for key in ("best", "best_at", "count"))
        return f"validation loss {val_loss:.4g} at validation {count}, {best:.4g} at validation {best_at}"


class PQ(GL):
    """Stop when GL(t) / P_k(t) > alpha, looked at once a strip of k validations.

    P_k = 1000 (mean of the strip's training losses / their minimum - 1): while training still progresses fast, a higher
    validation loss may yet come down.

    Args:
        alpha: > 0; Prechelt tries 0.5, 0.75, 1, 2, 3.
        strip: k, >= 2: in a strip of one nothing progresses.
    """

    def __init__(self, alpha: float = 2.0, strip: int = 5):
        super().__init__(alpha)
        _at_least("strip", strip, 2)
        self.strip = strip
        self.state["train_losses"] = []

    def _judge(self, train_loss: float | None, val_loss: float) -> str | None:
        if train_loss is None:
            raise ValueError("PQ needs the training loss: log train/loss by the end of each validation")
        loss = generalisation_loss(val_loss, self._lowest(val_loss))
        losses = [*self.state["train_losses"], train_loss]
        self.state["train_losses"] = losses if len(losses) < self.strip else []
        if len(losses) < self.strip:
            return None
        progress = training_progress(losses)
        if loss <= self.alpha * progress:  # the quotient, for a progress of zero too
            return None
        return (
            f"PQ = {loss:.1f}% / {progress:.1f} per mille of progress in {self.strip} validations > {self.alpha:g}: "
            f"{self._against_lowest(val_loss)}"
        )


class UP(Criterion):
    """Stop after s successive strips of k validations whose last validation loss is above the one of the strip before.

    Prechelt's recurrence, UP_s at t iff UP_(s-1) at t - k and E_va(t) > E_va(t - k), unrolled into a count.

    Args:
        s: >= 1; Prechelt tries 2, 3, 4, 6, 8.
        strip: k, >= 1.
    """

    def __init__(self, s: int = 3, strip: int = 5):
        super().__init__(strip_ends=[], ups=0)
        _at_least("s", s, 1)
        _at_least("strip", strip, 1)
        self.s, self.strip = s, strip

    def _judge(self, train_loss: float | None, val_loss: float) -> str | None:
        if self.state["count"] % self.strip:
            return None
        ends = self.state["strip_ends"] = [*self.state["strip_ends"], val_loss][-self.s - 1 :]
        self.state["ups"] = self.state["ups"] + 1 if len(ends) > 1 and ends[-1] > ends[-2] else 0
        if self.state["ups"] < self.s:
            return None
        rise = " < ".join(f"{end:.4g}" for end in ends)
        return f"UP: validation loss rose over {self.s} successive strips of {self.strip} validations, {rise}"


class Patience(Criterion):
    """Stop after ``patience`` validations in a row without a value better than the best by more than ``min_delta``.

    Args:
        patience: >= 1.
        min_delta: >= 0, in the unit of the value.
        mode: which way is better, ``min`` or ``max``.
    """

    def __init__(self, patience: int = 10, min_delta: float = 0.0, mode: Literal["min", "max"] = "min"):
        super().__init__(best=None, best_at=0)
        _at_least("patience", patience, 1)
        _at_least("min_delta", min_delta, 0)
        if mode not in ("min", "max"):
            raise ValueError(f"mode = {mode!r}: 'min' or 'max'")
        self.patience, self.min_delta, self.mode = patience, min_delta, mode

    def _judge(self, train_loss: float | None, val_loss: float) -> str | None:
        best, count = self.state["best"], self.state["count"]
        gain = 0.0 if best is None else (best - val_loss if self.mode == "min" else val_loss - best)
        if best is None or gain > self.min_delta:
            self.state.update(best=val_loss, best_at=count)
        if count - self.state["best_at"] < self.patience:
            return None
        by = f" by more than {self.min_delta:g}" if self.min_delta else ""
        return (
            f"no value better than {self.state['best']:.4g}{by} in {self.patience} validations since validation "
            f"{self.state['best_at']}: the last is {val_loss:.4g}"
        )


CRITERIA: dict[str, type[Criterion]] = {"gl": GL, "pq": PQ, "up": UP, "patience": Patience}


def build_criterion(name: str, **options: Any) -> Criterion:
    if name not in CRITERIA:
        raise ValueError(f"early stopping criterion {name!r} is unknown; {nearest(name, CRITERIA)}")
    return CRITERIA[name](**options)


def generalisation_loss(val_loss: float, lowest: float) -> float:
    """Percent of ``val_loss`` above ``lowest``; infinite above a lowest loss of zero."""
    if lowest == 0:
        return 0.0 if val_loss == 0 else math.inf
    return 100 * (val_loss / lowest - 1)


def training_progress(train_losses: list[float]) -> float:
    """How far the mean of a strip's training losses is above their minimum, per mille."""
    lowest, mean = min(train_losses), sum(train_losses) / len(train_losses)
    if lowest == 0:
        return 0.0 if mean == 0 else math.inf
    return 1000 * (mean / lowest - 1)


def stops_at(criterion: Criterion, losses: Iterable[tuple[float | None, float]]) -> int | None:
    """Which validation, counted from 0, a criterion would have ended a training at; None if it would not have.

    Args:
        criterion: a fresh one.
        losses: ``(train_loss, val_loss)`` of each validation, as ``update`` takes them.
    """
    for k, (train_loss, val_loss) in enumerate(losses):
        if criterion.update(train_loss, val_loss) is not None:
            return k
    return None


def _at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{name} = {value}: must be >= {least}")
