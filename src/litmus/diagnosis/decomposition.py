"""Bias and variance of a way of training, from many models, each trained on a training set of its own.

Unlike a generalisation gap (``litmus.diagnosis.gaps``), which is of one model, these are expectations over training
sets: R times the data are split anew (a *reshuffle*) into M training sets that share no image, and each trains a model.
All M x R answer the same N images. Training sets that do share images (bootstraps, overlapping subsamples) make models
alike and the variance too small.

Every interval is about other training sets and seeds, for these N images and labels as they are. How many images there
are does not narrow it, since one training set moves the answers to all of them together. It is a jackknife over models
and over reshuffles (Efron & Stein 1981): leaving out each model in turn gives V, the variance of one reshuffle's
estimate, and the R estimates differ among themselves with variance B. Reshuffles of the same data are alike, so that B
alone says too little. By the law of total variance their mean has variance V - (1 - 1/R) B, which is V / R when they
are independent and nearly V when they all say the same; it is never taken below B / R. Student's t has M - 1 degrees of
freedom. With one reshuffle this is the jackknife over its models; with fewer than three models there is no interval.
Simulated, 95% intervals from 6 models x 5 reshuffles of the same data hold the truth in 0.96 to 1.00 of the cases, and
a jackknife over the reshuffles alone does in 0.31 to 0.97.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from litmus.diagnosis.gaps import Interval
from litmus.diagnosis.style import number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A number and how well the models that it rests on determine it."""

    value: float
    std_error: float | None
    """None, like the interval, when there are too few models to tell."""
    interval: Interval | None
    points: tuple[float, ...] = ()
    """The estimate of each reshuffle; their mean is ``value``."""

    def table(self) -> dict[str, Any]:
        low, high = self.interval or (None, None)
        return {
            "value": self.value,
            "std_error": self.std_error,
            "low": low,
            "high": high,
            "points": list(self.points),
        }

    def __str__(self) -> str:
        shown = number(self.value)
        return f"{shown} ({number(self.interval.low)} to {number(self.interval.high)})" if self.interval else shown


@dataclass(frozen=True, kw_only=True)
class Decomposition(ABC):
    """What all decompositions share: ``parts`` add up to ``total``, the mean loss of the models."""

    num_reshuffles: int
    num_models: int
    """In each reshuffle."""
    num_images: int
    level: float
    """Coverage of the intervals."""
    total: Estimate
    images: Mapping[str, Floats] = field(default_factory=dict, compare=False, repr=False)
    """Per image, ``(N,)``, mean over reshuffles: each of ``parts``, and ``total``. Estimates without bias may be
    negative for an image."""

    loss: ClassVar[str]
    """``squared``, ``zero_one``, ``cross_entropy`` or ``regression``."""
    called: ClassVar[str]
    """The loss in words."""

    @property
    @abstractmethod
    def parts(self) -> dict[str, Estimate]:
        """What adds up to the total, by name: the bias (with the noise, unless that stands apart) first."""

    @property
    def variance_part(self) -> Estimate:
        """The one of ``parts`` that is a variance."""
        return self.parts["net_variance" if "net_variance" in self.parts else "variance"]

    @property
    def sentence(self) -> str:
        """The sum, with intervals, and what it rests on."""
        terms = " + ".join(f"{WORDS[name]} {part}" for name, part in self.parts.items())
        return f"{self.called} {self.total} = {terms}; {self._basis}"

    @property
    def basis(self) -> str:
        """What the numbers rest on."""
        times = f" in each of {self.num_reshuffles} reshuffles" if self.num_reshuffles > 1 else ""
        return f"{self.num_models} models{times}, {self.num_images:,} images"

    @property
    def _basis(self) -> str:
        return self.basis + (f", {percent(self.level)} intervals" if self.total.interval else "")

    def table(self) -> dict[str, Any]:
        """Plain numbers, for JSON; None where there is none."""
        return {
            "loss": self.loss,
            "num_reshuffles": self.num_reshuffles,
            "num_models": self.num_models,
            "num_images": self.num_images,
            "level": self.level,
            **{name: part.table() for name, part in self.parts.items()},
            "total": self.total.table(),
            **self._more(),
        }

    def _more(self) -> dict[str, Any]:
        return {}


WORDS = {
    "bias": "bias",
    "bias2": "bias²",
    "bias_and_noise": "bias + noise",
    "bias2_and_noise": "bias² + noise",
    "variance": "variance",
    "net_variance": "net variance",
    "noise": "noise",
}
"""Names of parts as they are written."""


@dataclass(frozen=True, kw_only=True)
class SquaredError(Decomposition):
    """Squared error of class probabilities, summed over classes, in [0, 2]."""

    bias2_and_noise: Estimate
    variance: Estimate
    bias2: Estimate | None = None
    """None unless the noise is known."""
    noise: Estimate | None = None
    """Of the labels: what is left when every prediction is the true class probabilities."""

    loss = "squared"
    called = "squared error"

    @property
    def parts(self) -> dict[str, Estimate]:
        if self.bias2 is None or self.noise is None:
            return {"bias2_and_noise": self.bias2_and_noise, "variance": self.variance}
        return {"bias2": self.bias2, "variance": self.variance, "noise": self.noise}


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Decomposition):
    """Cross-entropy, in nats."""

    bias_and_noise: Estimate
    variance: Estimate
    bias: Estimate | None = None
    """None unless the noise is known."""
    noise: Estimate | None = None
    """Entropy of the true class probabilities."""
    at_half: Mapping[str, float] | None = None
    """``bias_and_noise`` and ``variance`` from half as many models: how far they move by doubling M. None below 4
    models."""

    loss = "cross_entropy"
    called = "cross-entropy"

    @property
    def parts(self) -> dict[str, Estimate]:
        if self.bias is None or self.noise is None:
            return {"bias_and_noise": self.bias_and_noise, "variance": self.variance}
        return {"bias": self.bias, "variance": self.variance, "noise": self.noise}

    @property
    def sentence(self) -> str:
        return super().sentence + _said_of_half(self.num_models, self.at_half, "variance")

    def _more(self) -> dict[str, Any]:
        return {"at_half": dict(self.at_half) if self.at_half else None}


@dataclass(frozen=True, kw_only=True)
class ZeroOne(Decomposition):
    """Error rate: ``total = bias + variance_unbiased - variance_biased``."""

    bias: Estimate
    """Part of the images whose main prediction is wrong; label noise included."""
    net_variance: Estimate
    """``variance_unbiased - variance_biased``: what variance adds to the error. May be negative."""
    variance: Estimate
    """How often a model differs from the main prediction, on all images. ``bias + variance`` is not the error."""
    variance_unbiased: Estimate
    """The same where the main prediction is right: such a difference is an error."""
    variance_biased: Estimate
    """How often a model is right where the main prediction is wrong."""
    tied: float
    """Part of the images on which the first place is shared, so that the tie rule named their main prediction."""
    at_half: Mapping[str, float] | None = None
    """``bias``, ``net_variance`` and ``variance`` from half as many models. None below 4 models."""

    loss = "zero_one"
    called = "error"

    @property
    def parts(self) -> dict[str, Estimate]:
        return {"bias": self.bias, "net_variance": self.net_variance}

    @property
    def sentence(self) -> str:
        up, down = self.variance_unbiased, self.variance_biased
        return (
            f"{self.called} {self.total} = bias {self.bias} + variance {up} on images that the vote gets right - "
            f"{down} on those it gets wrong; {self._basis}{_said_of_half(self.num_models, self.at_half, 'bias')}"
        )

    def _more(self) -> dict[str, Any]:
        return {
            "variance": self.variance.table(),
            "variance_unbiased": self.variance_unbiased.table(),
            "variance_biased": self.variance_biased.table(),
            "tied": self.tied,
            "at_half": dict(self.at_half) if self.at_half else None,
        }


@dataclass(frozen=True)
class Decompositions:
    """The three of the same models on the same images."""

    squared: SquaredError
    zero_one: ZeroOne
    cross_entropy: CrossEntropy

    def table(self) -> dict[str, Any]:
        return {one.loss: one.table() for one in (self.squared, self.zero_one, self.cross_entropy)}

    @property
    def sentence(self) -> str:
        """That of the squared error: exact for few models, and bounded where cross-entropy explodes."""
        return self.squared.sentence


def decompose(
    logits: ArrayLike, labels: ArrayLike, *, class_probabilities: ArrayLike | None = None, level: float = 0.95
) -> Decompositions:
    """Squared error, 0-1 loss and cross-entropy of the same models, taken apart.

    Args:
        logits: ``(R, M, N, K)``, or ``(M, N, K)`` for one reshuffle; log-probabilities are logits too.
        labels: ``(N,)`` true classes.
        class_probabilities: ``(N, K)``, where they are known: the squared error and the cross-entropy are then those
            expected of labels drawn from them, with the noise apart; the error stays that on ``labels``.
        level: coverage of the intervals.

    Raises:
        ValueError: as the three do.
    """
    logs = _log_softmax(_models("logits", logits, 4))
    known = {"labels": labels} if class_probabilities is None else {"class_probabilities": class_probabilities}
    return Decompositions(
        decompose_squared(np.exp(logs), **known, level=level),
        decompose_zero_one(logs.argmax(axis=-1), labels, num_classes=logs.shape[-1], level=level),
        decompose_cross_entropy(logs, **known, level=level),
    )


def decompose_squared(
    probabilities: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    class_probabilities: ArrayLike | None = None,
    level: float = 0.95,
) -> SquaredError:
    """Squared error, the mean over images of ``sum over classes of (probability - truth)^2`` (Yang et al. 2020).

    Variance is ``1/(M-1) sum_i ||f_i - mean||^2`` and bias^2 ``||mean - y||^2 - variance / M``: neither is biased, for
    as few as two models, and nothing is clipped. They add up exactly.

    Args:
        probabilities: ``(R, M, N, K)``, or ``(M, N, K)`` for one reshuffle, rows summing to 1.
        labels: ``(N,)`` true classes, which leave the noise inside ``bias2_and_noise``; or ``(N, L)``, L labels drawn
            independently for each image, from whose disagreement the noise is estimated without bias.
        class_probabilities: ``(N, K)`` instead of labels, where they are known. The total is then the expected one.
        level: coverage of the intervals.

    Raises:
        ValueError: fewer than two models, other shapes, rows that are not probabilities, labels outside [0, K), or not
            exactly one of ``labels`` and ``class_probabilities``.
    """
    chances = _models("probabilities", probabilities, 4)
    _check_chances("probabilities", chances)
    _check_level(level)
    num_reshuffles, num_models, num_images, num_classes = chances.shape
    truth, repeats = _truth(labels, class_probabilities, num_images, num_classes)
    disagreement = 1 - np.square(truth).sum(axis=1)  # of the labels with their own mean
    noise = disagreement if repeats == math.inf else disagreement * repeats / max(repeats - 1, 1)  # 0 for one label

    variance = chances.var(axis=1, ddof=1).sum(axis=-1)  # (R, N)
    bias2 = np.square(chances.mean(axis=1) - truth).sum(axis=-1) - variance / num_models - noise / repeats
    total = np.square(chances - truth).sum(axis=-1).mean(axis=1) + disagreement
    left_out = {name: np.empty((num_reshuffles, num_models)) for name in ("bias2", "variance", "total")}
    for r, models in enumerate(chances):
        flat = (models - truth).reshape(num_models, -1)
        products = flat @ flat.T / num_images
        own, pairs = products.diagonal(), products.sum() - products.trace()
        m = num_models
        left_out["total"][r] = (own.sum() - own) / (m - 1)
        without = pairs - 2 * (products.sum(axis=1) - own)
        left_out["bias2"][r] = without / ((m - 1) * (m - 2)) if m > 2 else np.nan
        left_out["variance"][r] = left_out["total"][r] - left_out["bias2"][r]

    def estimate(name: str, images: Floats, left_out_as: str) -> Estimate:
        per_image[name] = images.mean(axis=0)
        return _estimate(images.mean(axis=1), left_out[left_out_as], level)

    per_image: dict[str, Floats] = {}
    found: dict[str, Any] = {"bias2_and_noise": estimate("bias2_and_noise", bias2 + noise, "bias2")}
    if repeats > 1:
        found |= {"bias2": estimate("bias2", bias2, "bias2"), "noise": _exact(noise.mean())}
        per_image["noise"] = noise
    return SquaredError(
        num_reshuffles=num_reshuffles,
        num_models=num_models,
        num_images=num_images,
        level=level,
        variance=estimate("variance", variance, "variance"),
        total=estimate("total", total, "total"),
        images=per_image,
        **found,
    )


def decompose_cross_entropy(
    logits: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    class_probabilities: ArrayLike | None = None,
    level: float = 0.95,
) -> CrossEntropy:
    """Cross-entropy around the normalised geometric mean of the models (Heskes 1998; Yang et al. 2020).

    With ``mean_c`` the mean over models of ``log f_ic``: variance is the mean of ``KL(geometric mean || f_i)``, which
    is ``-logsumexp_c(mean_c)``, and bias + noise is the geometric mean's own cross-entropy. They add up exactly, but
    for few models the variance is too low and the bias too high by as much, in proportion to 1/M: ``at_half`` shows by
    how much. It is the mean over the M runs of ``M // 2`` models that follow each other in the order given, from the
    last on to the first, so that every model counts as often. The intervals are around what M models give on average.

    One confident wrong answer can outweigh all others: compare networks by squared error.

    Args:
        logits: ``(R, M, N, K)``, or ``(M, N, K)`` for one reshuffle; log-probabilities are logits too.
        labels: ``(N,)`` true classes; or ``(N, L)``, L labels of each image, whose mean loss is meant.
        class_probabilities: ``(N, K)`` instead of labels, where they are known: the noise, their entropy, stands apart.
        level: coverage of the intervals.

    Raises:
        ValueError: as for ``decompose_squared``; and for logits that are not finite, or that are probabilities.
    """
    raw = _models("logits", logits, 4)
    if (raw >= 0).all() and np.allclose(raw.sum(axis=-1), 1, atol=1e-6):
        raise ValueError("logits are all at least 0 with rows that sum to 1: these are probabilities, give their logs")
    _check_level(level)
    logs = _log_softmax(raw)
    num_reshuffles, num_models, num_images, num_classes = logs.shape
    truth, repeats = _truth(labels, class_probabilities, num_images, num_classes)

    def apart(mean_log: Floats) -> tuple[Floats, Floats]:
        """Bias + noise and variance of each image, ``(N,)``."""
        scale = _logsumexp(mean_log)[:, 0]
        return scale - (truth * mean_log).sum(axis=-1), -scale

    both = np.array([apart(models.mean(axis=0)) for models in logs])  # (R, 2, N)
    total = -(truth * logs.mean(axis=1)).sum(axis=-1)
    left_out, half = np.full((num_reshuffles, num_models, 2), np.nan), []
    for r, models in enumerate(logs):
        left_out[r] = [[part.mean() for part in apart(mean)] for mean in _without_each(models)]
        half += [[part.mean() for part in apart(mean)] for mean in _halves(models)]
    bias, variance = (_estimate(both[:, i].mean(axis=1), left_out[..., i], level) for i in range(2))
    images = {"bias_and_noise": both[:, 0].mean(axis=0), "variance": both[:, 1].mean(axis=0)}
    found: dict[str, Any] = {"bias_and_noise": bias, "variance": variance}
    if repeats == math.inf:
        noise = -(truth * np.log(truth, out=np.zeros_like(truth), where=truth > 0)).sum(axis=1)
        images |= {"noise": noise, "bias": images["bias_and_noise"] - noise}
        found |= {"noise": _exact(noise.mean()), "bias": _shifted(bias, -float(noise.mean()))}
    return CrossEntropy(
        num_reshuffles=num_reshuffles,
        num_models=num_models,
        num_images=num_images,
        level=level,
        total=_estimate(total.mean(axis=1), left_out.sum(axis=-1), level),
        at_half=dict(zip(("bias_and_noise", "variance"), _means(half), strict=True)) if half else None,
        images={**images, "total": total.mean(axis=0)},
        **found,
    )


def decompose_zero_one(
    predictions: ArrayLike, labels: ArrayLike, *, num_classes: int | None = None, level: float = 0.95
) -> ZeroOne:
    """Error rate, around the class that most models predict (Domingos 2000).

    An image's main prediction is the class with the most votes, the lowest such class number when several have as many.
    Its bias is 1 where that is wrong. A model that differs from it adds to the error where the main prediction is
    right, and takes from it where the model is right and the main prediction is not, so that exactly
    ``error = bias + variance_unbiased - variance_biased``. For more than two classes the last counts only models that
    are right, not all that differ.

    The vote of few models is not the one of endlessly many: bias and variance are what M models give, and ``at_half``
    shows what half as many do, as in ``decompose_cross_entropy``. A vote can turn on one model, so that the jackknife
    of the bias is rough: from one reshuffle, its 95% intervals held it in 0.82 to 0.97 of simulated cases.

    Args:
        predictions: ``(R, M, N)`` predicted classes, or ``(M, N)`` for one reshuffle.
        labels: ``(N,)`` true classes.
        num_classes: K, where more classes exist than are named.
        level: coverage of the intervals.

    Raises:
        ValueError: fewer than two models, other shapes, or classes that are not integers in [0, K).
    """
    said = _models("predictions", predictions, 3)
    true = _classes("labels", labels, num_classes)
    _check_level(level)
    num_reshuffles, num_models, num_images = said.shape
    if true.shape != (num_images,):
        raise ValueError(f"labels are (N,) with N = {num_images}, the images predicted, got {true.shape}")
    said = _classes("predictions", said, num_classes)
    named = np.arange(num_classes or 1 + max(said.max(), true.max()))
    rows = np.arange(num_images)

    def apart(share: Floats) -> tuple[Floats, ...]:
        """From each class's share of the votes, ``(N, K)``: a row ``(N,)`` for each of ``names``."""
        main, right = share.argmax(axis=1), share[rows, true]
        biased, differ = main != true, 1 - share[rows, main]
        up, down = np.where(biased, 0, differ), np.where(biased, right, 0)
        return biased.astype(np.float64), up - down, differ, up, down, 1 - right

    names = ("bias", "net_variance", "variance", "variance_unbiased", "variance_biased", "total")
    parts, tied = np.empty((num_reshuffles, len(names), num_images)), np.empty((num_reshuffles, num_images))
    left_out, half = np.full((num_reshuffles, num_models, len(names)), np.nan), []
    for r, models in enumerate(said):
        votes = (models[..., None] == named).astype(np.float64)  # (M, N, K)
        counts = votes.sum(axis=0)
        parts[r] = apart(counts / num_models)
        tied[r] = (counts == counts.max(axis=1, keepdims=True)).sum(axis=1) > 1
        left_out[r] = [[part.mean() for part in apart(share)] for share in _without_each(votes)]
        half += [[part.mean() for part in apart(share)] for share in _halves(votes)]
    found = {name: _estimate(parts[:, i].mean(axis=1), left_out[..., i], level) for i, name in enumerate(names)}
    return ZeroOne(
        num_reshuffles=num_reshuffles,
        num_models=num_models,
        num_images=num_images,
        level=level,
        tied=float(tied.mean()),
        at_half=dict(zip(names[:3], _means(half), strict=False)) if half else None,
        images=dict(zip(names, parts.mean(axis=0), strict=True)),
        **found,
    )


def percent(level: float) -> str:
    return f"{100 * level:.4g}%"


# Where variance comes from


@dataclass(frozen=True)
class VarianceSources:
    """Total variance, split by what makes models differ: ``sampling + initialisation = total``, exactly."""

    num_subsets: int
    num_seeds: int
    """On each subset."""
    num_images: int
    level: float
    sampling: Estimate
    """Of the mean over seeds, from one training set to another. May be negative by chance."""
    initialisation: Estimate
    """From seed to seed (start, order, dropout, augmentation) on the same training set."""
    total: Estimate

    def table(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        counts = {name: getattr(self, name) for name in ("num_subsets", "num_seeds", "num_images", "level")}
        parts = ("sampling", "initialisation", "total")
        return counts | {name: getattr(self, name).table() for name in parts}

    @property
    def sentence(self) -> str:
        """The sum, with intervals, and what it rests on."""
        intervals = f", {percent(self.level)} intervals" if self.total.interval else ""
        return (
            f"variance {self.total} = sampling {self.sampling} + initialisation {self.initialisation}; "
            f"{self.num_subsets} training sets x {self.num_seeds} seeds, {self.num_images:,} images{intervals}"
        )


def variance_sources(predictions: ArrayLike, *, level: float = 0.95) -> VarianceSources:
    """Variance of sampling against that of initialisation, by a nested analysis of variance (Neal et al. 2018).

    With ``within`` the variance over seeds (R - 1 in its denominator) and ``between`` that of the S means over seeds:
    initialisation is ``within``, sampling ``between - within / R``. Neither is biased or clipped. The intervals are a
    jackknife over training sets, Student's t with S - 1 degrees of freedom; there are none below three.

    Args:
        predictions: ``(S, R, N, K)`` probabilities of S >= 2 training sets that share no image x R >= 2 seeds, no seed
            used for two training sets, or their starts would be alike and the total too small; or ``(S, R, N)``, a
            number an image.
        level: coverage of the intervals.

    Raises:
        ValueError: fewer training sets or seeds, another shape, or values that are not finite.
    """
    values = np.asarray(predictions, dtype=np.float64)
    _check_level(level)
    if values.ndim not in (3, 4) or min(values.shape[:2], default=0) < 2 or 0 in values.shape:
        raise ValueError(f"predictions are (S, R, N, K) or (S, R, N) with S >= 2 and R >= 2, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("predictions hold values that are not finite")
    num_subsets, num_seeds, num_images = values.shape[:3]
    flat = values.reshape(num_subsets, num_seeds, -1)
    flat = flat - flat.mean(axis=(0, 1))  # the same variances, from smaller numbers
    within = flat.var(axis=1, ddof=1).sum(axis=-1) / num_images  # (S,)
    means = flat.mean(axis=1)
    products = means @ means.T / num_images
    own = products.diagonal()

    def sampling(kept: NDArray[np.bool_]) -> float:
        count, chosen = int(kept.sum()), products[np.ix_(kept, kept)]
        between = (own[kept].sum() - chosen.sum() / count) / (count - 1)
        return float(between - within[kept].mean() / num_seeds)

    everyone = np.ones(num_subsets, dtype=bool)
    left_out = np.full((2, num_subsets), np.nan)
    if num_subsets > 2:
        for s in range(num_subsets):
            others = np.arange(num_subsets) != s
            left_out[:, s] = sampling(others), within[others].mean()
    both = np.array([sampling(everyone), within.mean()])

    def estimate(value: float, without: Floats) -> Estimate:
        return _estimate(np.array([value]), without[None], level)

    return VarianceSources(
        num_subsets=num_subsets,
        num_seeds=num_seeds,
        num_images=num_images,
        level=level,
        sampling=estimate(both[0], left_out[0]),
        initialisation=estimate(both[1], left_out[1]),
        total=estimate(both.sum(), left_out.sum(axis=0)),
    )


# Regression, where all three can be seen


@dataclass(frozen=True, kw_only=True)
class Regression(Decomposition):
    """Squared error of a number: bias^2 against a known function, variance and noise, beside the error measured.

    ``num_images`` counts the places x. ``total`` is measured on its own, so that ``difference`` tests the sum.
    """

    bias2: Estimate
    variance: Estimate
    noise: Estimate
    difference: Estimate
    """``total`` less the sum of the three: 0 but for the chance in the targets' noise, which its error counts."""

    loss = "regression"
    called = "mean squared error"

    @property
    def parts(self) -> dict[str, Estimate]:
        return {"bias2": self.bias2, "variance": self.variance, "noise": self.noise}

    @property
    def adds_up(self) -> bool:
        """Whether ``difference`` is within three standard errors of 0."""
        return abs(self.difference.value) <= 3 * (self.difference.std_error or 0) + 1e-12

    @property
    def basis(self) -> str:
        return f"{self.num_models} models at {self.num_images:,} places"

    def _more(self) -> dict[str, Any]:
        return {"difference": self.difference.table(), "adds_up": self.adds_up}


def decompose_regression(
    predictions: ArrayLike,
    function: ArrayLike,
    targets: ArrayLike,
    *,
    noise_variance: float | None = None,
    level: float = 0.95,
) -> Regression:
    """Bias^2, variance and noise of a regression whose true function is known, and whether they add up.

    Bias^2 and variance are estimated without bias, as in ``decompose_squared``, with a jackknife over models. The mean
    squared error is that of every model on every target. The targets' noise is taken to be independent, symmetric and
    of one variance at all places; the error of ``difference`` counts it alone, since the models cancel out.

    Args:
        predictions: ``(M, X)``: M >= 3 models, each trained on a set of its own, at the same X >= 2 places.
        function: ``(X,)`` true values there.
        targets: ``(L, X)``, L noisy measurements at each place, or ``(X,)``, none of which any model was trained on.
        noise_variance: sigma^2 where it is known; estimated from the repeats otherwise, which takes L >= 2.
        level: coverage of the intervals.

    Raises:
        ValueError: other shapes, values that are not finite, or one target a place without ``noise_variance``.
    """
    models, true = np.asarray(predictions, dtype=np.float64), np.asarray(function, dtype=np.float64)
    measured = np.asarray(targets, dtype=np.float64)
    measured = measured[None] if measured.ndim == 1 else measured
    _check_level(level)
    if models.ndim != 2 or len(models) < 3 or models.shape[1] < 2:
        raise ValueError(f"predictions are (M, X) with M >= 3 and X >= 2, got {models.shape}")
    num_models, num_places = models.shape
    if true.shape != (num_places,) or measured.ndim != 2 or measured.shape[1] != num_places or not len(measured):
        raise ValueError(f"with {num_places} places function is (X,) and targets (L, X) or (X,), "
                         f"got {true.shape} and {np.shape(targets)}")  # fmt: skip
    if not all(np.isfinite(values).all() for values in (models, true, measured)):
        raise ValueError("predictions, function and targets must be finite")
    if noise_variance is None and len(measured) < 2:
        raise ValueError("one target a place tells no noise: give noise_variance, or repeated targets (L, X)")
    if noise_variance is not None and not 0 <= noise_variance < math.inf:
        raise ValueError(f"noise_variance must be at least 0 and finite, is {noise_variance}")

    def apart(kept: Floats) -> tuple[Floats, Floats]:
        variance = kept.var(axis=0, ddof=1)
        return np.square(kept.mean(axis=0) - true) - variance / len(kept), variance

    bias2, variance = apart(models)
    without = np.array([[part.mean() for part in apart(np.delete(models, i, axis=0))] for i in range(num_models)])
    if noise_variance is None:
        noise_of_place = measured.var(axis=0, ddof=1)
        error = float(noise_of_place.std(ddof=1)) / math.sqrt(num_places)
        noise = _around(float(noise_of_place.mean()), error, num_places - 1, level)
    else:
        noise_of_place, noise = np.full(num_places, float(noise_variance)), _exact(noise_variance)
    # Every model on every target at each place: mean over i and l of (f_i - y_l)^2.
    to_mean = models - measured.mean(axis=0)
    total = np.square(to_mean).mean(axis=0) + measured.var(axis=0)
    difference = total - bias2 - variance - noise_of_place
    # In the difference stands -2 (mean model - f) (mean target - f), whose variance is known from sigma^2, and a part
    # that has the same distribution at all places, whose variance they show.
    off, miss = models.mean(axis=0) - true, measured.mean(axis=0) - true
    crossed = 4 * float(np.square(off).sum()) * noise.value / len(measured)
    rest = difference + 2 * off * miss

    def error_with(rest: Floats) -> float:
        return math.sqrt(crossed + float(np.square(rest).sum())) / num_places

    of_models = _estimate(np.array([total.mean()]), without.sum(axis=1)[None], level).std_error or 0.0
    error_of_total = math.hypot(of_models, error_with(rest + noise_of_place - noise.value))
    return Regression(
        num_reshuffles=1,
        num_models=num_models,
        num_images=num_places,
        level=level,
        bias2=_estimate(np.array([bias2.mean()]), without[None, :, 0], level),
        variance=_estimate(np.array([variance.mean()]), without[None, :, 1], level),
        noise=noise,
        total=_around(float(total.mean()), error_of_total, min(num_models, num_places) - 1, level),
        difference=_around(float(difference.mean()), error_with(rest), num_places - 1, level),
        images={"bias2": bias2, "variance": variance, "noise": noise_of_place, "total": total},
    )


# Over a sweep


@dataclass(frozen=True)
class Peak:
    """Where a sweep is highest."""

    position: int
    interior: bool
    """Whether it lies between the first and the last value of the sweep."""
    above_ends: float | None
    """By how many standard errors it lies above the first and the last value, the smaller of the two numbers; None at
    an end of the sweep, or when there are no standard errors."""

    @property
    def decided(self) -> bool:
        """Whether the sweep rises and then falls: by more than two standard errors on both sides."""
        return self.above_ends is not None and self.above_ends > 2


def peak(sweep: Sequence[Estimate]) -> Peak:
    """The highest of a sweep, held against both of its ends.

    The error of a difference is taken as if the models of different settings were independent: on the same training
    sets they rise and fall together, and the peak is surer than it says. That the highest of many is too high by chance
    is not counted.

    Raises:
        ValueError: an empty sweep.
    """
    if not sweep:
        raise ValueError("an empty sweep has no peak")
    top = max(range(len(sweep)), key=lambda i: sweep[i].value)
    if top in (0, len(sweep) - 1):
        return Peak(top, interior=False, above_ends=None)
    distances = [standard_errors_between(sweep[top], end) for end in (sweep[0], sweep[-1])]
    known = [distance for distance in distances if distance is not None]
    return Peak(top, interior=True, above_ends=min(known) if len(known) == 2 else None)


def variance_peak(sweep: Sequence[Decomposition]) -> Peak:
    """``peak`` of the variance (of the net variance for 0-1 loss)."""
    return peak([one.variance_part for one in sweep])


def standard_errors_between(a: Estimate, b: Estimate) -> float | None:
    """``a - b`` in standard errors of the difference of independent estimates; None without these."""
    if a.std_error is None or b.std_error is None:
        return None
    error, difference = math.hypot(a.std_error, b.std_error), a.value - b.value
    return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0


# Intervals


def _estimate(points: Floats, left_out: Floats, level: float) -> Estimate:
    """Mean over reshuffles, with the interval that the module describes.

    Args:
        points: ``(R,)`` estimates of the reshuffles.
        left_out: ``(R, M)`` the same estimates without each of the models; not looked at below three models.
        level: coverage.
    """
    num_reshuffles, num_models = left_out.shape
    value, shown = float(points.mean()), tuple(float(point) for point in points)
    if num_models < 3:
        return Estimate(value, None, None, shown)
    between = float(points.var(ddof=1)) if num_reshuffles > 1 else 0.0
    of_one = (num_models - 1) * float(left_out.var(axis=1).mean())
    variance = max(of_one - (1 - 1 / num_reshuffles) * between, between / num_reshuffles)
    return _around(value, math.sqrt(variance), num_models - 1, level, shown)


def _around(value: float, error: float, freedom: int, level: float, points: tuple[float, ...] = ()) -> Estimate:
    from scipy.special import stdtrit

    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    return Estimate(value, error, Interval(value - half, value + half), points)


def _exact(value: float) -> Estimate:
    return Estimate(float(value), 0.0, Interval(float(value), float(value)))


def _shifted(found: Estimate, by: float) -> Estimate:
    interval = Interval(found.interval.low + by, found.interval.high + by) if found.interval else None
    return Estimate(found.value + by, found.std_error, interval, tuple(point + by for point in found.points))


def _without_each(models: Floats) -> Iterator[Floats]:
    """Means over all models but one, ``(M, N, K)`` to M times ``(N, K)``."""
    total = models.sum(axis=0)
    for one in models:
        yield (total - one) / (len(models) - 1)


def _halves(models: Floats) -> Iterator[Floats]:
    """Means over ``M // 2`` models that follow each other, from each model on; none below 4 models."""
    half = len(models) // 2
    if half < 2:
        return
    total = models[:half].sum(axis=0)
    for first, one in enumerate(models):
        yield total / half
        total = total - one + models[(first + half) % len(models)]


def _means(rows: list[list[float]]) -> list[float]:
    return [float(value) for value in np.mean(rows, axis=0)]


def _said_of_half(num_models: int, at_half: Mapping[str, float] | None, name: str) -> str:
    return f"; with {num_models // 2} models {name} {number(at_half[name])}" if at_half else ""


def _logsumexp(values: Floats) -> Floats:
    """Over the last axis, which is kept with length 1."""
    top = values.max(axis=-1, keepdims=True)
    return top + np.log(np.exp(values - top).sum(axis=-1, keepdims=True))


def _log_softmax(logits: Floats) -> Floats:
    return logits - _logsumexp(logits)


# Checks


def _models(name: str, values: ArrayLike, axes: int) -> NDArray[Any]:
    """``(R, M, N[, K])``, float64 where there are K classes; a single reshuffle gets its axis."""
    array = np.asarray(values)
    array = array[None] if array.ndim == axes - 1 else array
    if array.ndim != axes or array.shape[1] < 2 or 0 in array.shape:
        wanted = "(R, M, N, K) or (M, N, K)" if axes == 4 else "(R, M, N) or (M, N)"
        raise ValueError(f"{name} are {wanted} of at least 2 models, got {np.shape(values)}")
    if axes == 3:
        return array
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} hold values that are not finite")
    return array


def _truth(
    labels: ArrayLike | None, class_probabilities: ArrayLike | None, num_images: int, num_classes: int
) -> tuple[Floats, float]:
    """Each class's part of an image's labels, ``(N, K)``, and how many labels that is: 1, L, or infinity if known."""
    if (labels is None) == (class_probabilities is None):
        raise ValueError("give labels or class_probabilities, and only one of them")
    if class_probabilities is not None:
        known = np.asarray(class_probabilities, dtype=np.float64)
        if known.shape != (num_images, num_classes):
            raise ValueError(f"class_probabilities are {(num_images, num_classes)} here, got {known.shape}")
        _check_chances("class_probabilities", known)
        return known, math.inf
    true = _classes("labels", labels, num_classes)
    true = true[:, None] if true.ndim == 1 else true
    if true.ndim != 2 or len(true) != num_images or not true.shape[1]:
        raise ValueError(f"labels are (N,) or (N, L) with N = {num_images}, got {true.shape}")
    if true.shape[1] == num_classes and num_images > 1 and (np.sort(true, axis=1) == np.eye(num_classes)[-1]).all():
        raise ValueError("labels are one-hot, wanted class numbers: give labels.argmax(1)")
    return (true[..., None] == np.arange(num_classes)).mean(axis=1), float(true.shape[1])


def _classes(name: str, values: ArrayLike | None, num_classes: int | None) -> NDArray[np.int64]:
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{name} must be integers, are {array.dtype}")
    if array.size and not (array.min() >= 0 and (num_classes is None or array.max() < num_classes)):
        raise ValueError(f"{name} must lie in [0, {num_classes or 'K'}), found {array.min()}..{array.max()}")
    return array.astype(np.int64)


def _check_chances(name: str, chances: Floats) -> None:
    if not ((chances >= 0).all() and np.allclose(chances.sum(axis=-1), 1, atol=1e-4)):  # also refuses NaN
        raise ValueError(f"{name} are at least 0 and sum to 1 over the classes")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), is {level}")
