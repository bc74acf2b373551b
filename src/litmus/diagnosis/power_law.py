"""The law by which error falls with the number of training images, how far it can be trusted, and what it foretells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from litmus.diagnosis.gaps import Interval

MOST_AHEAD = 4.0
"""No prediction further than this factor from the sizes that were measured."""
DRAWS = 1000
FEWEST_SIZES = 3

_LOWEST_B = 0.01
_PRIOR_SEEDS = 4.0


@dataclass(frozen=True)
class NoFit:
    """Why there is no law."""

    reason: str


@dataclass(frozen=True)
class Needed:
    """Training images for a target error. None stands for more than ``limit``; the smallest size, for that or fewer."""

    err: float
    images: int | None
    low: int | None
    high: int | None
    limit: int
    """The largest size of which anything is said."""
    level: float = 0.95

    @property
    def sentence(self) -> str:
        """``err 0.08 needs about 17,000 images (95% 14,100 to more than 32,000)``."""
        shown = [f"more than {self.limit:,}" if n is None else f"{n:,}" for n in (self.images, self.low, self.high)]
        about = "" if self.images is None else "about "
        ends = f" ({100 * self.level:g}% {shown[1]} to {shown[2]})" if self.low != self.high else ""
        return f"err {self.err:.3g} needs {about}{shown[0]} images{ends}"


@dataclass(frozen=True)
class PowerLaw:
    """err(n) = a * n**-b + c, fitted by ``fit_power_law``."""

    a: float
    """>= 0; 0 when the error does not fall with n."""
    b: float
    """In (0, 1]; 0 together with ``a``."""
    c: float
    """>= 0: the error that no number of images undercuts."""
    b_interval: Interval
    c_interval: Interval
    sizes: tuple[int, ...]
    level: float
    misfit: float | None
    """Variance of the points about the law, over what the seeds let expect; None for three sizes, which leave none."""
    notes: tuple[str, ...]
    """What limits the law, a sentence each."""
    draws: NDArray[np.float64] = field(repr=False, compare=False)
    """(D, 3): a, b, c of the bootstrap's laws."""
    same_images_draws: NDArray[np.float64] = field(repr=False, compare=False)
    """(D, 3): the same without what other validation images would change."""

    @property
    def limit(self) -> int:
        """The largest size of which anything is said."""
        return int(MOST_AHEAD * self.sizes[-1])

    def predict(self, n: float) -> float:
        """Error expected with ``n`` training images, a rate in [0, 1].

        Raises:
            ValueError: for n beyond 4 times the largest size, or below a quarter of the smallest.
        """
        self._check(n)
        return min(float(_law(n, np.array([self.a, self.b, self.c]))), 1.0)

    def predict_interval(self, n: float, *, same_images: bool = False) -> Interval:
        """Interval of the error that trainings with ``n`` images have on average.

        Args:
            n: training images.
            same_images: on the validation images at hand, to be compared with what was measured on them. Default: on
                all images that they stand for, which is wider.

        Raises:
            ValueError: as ``predict``.
        """
        self._check(n)
        return self._between(np.minimum(_law(n, self.same_images_draws if same_images else self.draws), 1.0))

    def gain(self, factor: float = 2.0) -> tuple[float, Interval]:
        """By how much the error falls from the largest size to ``factor`` times it; >= 0."""
        now, then = self.sizes[-1], factor * self.sizes[-1]
        self._check(then)
        whole = np.vstack([[self.a, self.b, self.c], self.draws])
        falls = np.maximum(_law(now, whole) - _law(then, whole), 0.0)
        return float(falls[0]), self._between(falls[1:])

    def needed(self, err: float) -> Needed:
        """Fewest training images for an error of at most ``err``.

        Raises:
            ValueError: if ``err`` is not a rate in [0, 1].
        """
        if not 0 <= err <= 1:
            raise ValueError(f"err must be a rate in [0, 1], is {err}")
        whole = np.vstack([[self.a, self.b, self.c], self.draws])
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            above, b = np.maximum(err - whole[:, 2], 0.0), np.maximum(whole[:, 1], _LOWEST_B)
            images = np.where(whole[:, 0] > 0, (whole[:, 0] / above) ** (1 / b), np.inf)
        images[(whole[:, 0] == 0) & (whole[:, 2] <= err)] = self.sizes[0]
        images = np.maximum(images, self.sizes[0])
        low, high = np.quantile(images[1:], self._tails, method="nearest")  # of infinite ones there is no mean
        found = [None if n > self.limit else math.ceil(n * (1 - 1e-9)) for n in (float(images[0]), low, high)]
        return Needed(err, found[0], found[1], found[2], self.limit, self.level)

    @property
    def _tails(self) -> tuple[float, float]:
        return (1 - self.level) / 2, (1 + self.level) / 2

    def _between(self, values: NDArray[np.float64]) -> Interval:
        return Interval(*(float(end) for end in np.quantile(values, self._tails)))

    def _check(self, n: float) -> None:
        low, high = self.sizes[0] / MOST_AHEAD, self.limit
        if not low <= n <= high:  # also refuses NaN
            raise ValueError(
                f"n = {n:g}: sizes {self.sizes[0]:,} to {self.sizes[-1]:,} were measured, and the law is not trusted "
                f"further than a factor of {MOST_AHEAD:g} from them: n must lie in [{low:g}, {high:g}]"
            )


@dataclass(frozen=True)
class HeldOut:
    """The largest size, foretold from the smaller ones."""

    size: int
    err: float
    """Measured there, mean over the seeds."""
    predicted: float
    interval: Interval
    """Of what as many seeds measure on the same validation images."""
    stay: float
    """Measured at the largest size of the fit: the forecast that nothing changes."""
    per_seed: tuple[bool, ...]
    """For each seed, whether its own error at ``size`` passes against its own last one."""
    level: float = 0.95

    @property
    def inside(self) -> bool:
        return self.interval.low <= self.err <= self.interval.high

    @property
    def nearer(self) -> bool:
        """Whether the law's forecast is nearer to what was measured than ``stay``."""
        return abs(self.err - self.predicted) < abs(self.err - self.stay)

    @property
    def passed(self) -> bool:
        return self.inside and self.nearer

    @property
    def sentence(self) -> str:
        low, high = self.interval
        where = "inside" if self.inside else "outside"
        return (
            f"fitted without {self.size:,} images the law foretells {self.predicted:.3f} ({100 * self.level:g}% "
            f"{low:.3f} to {high:.3f}); measured {self.err:.3f}, {where}, and {'' if self.nearer else 'not '}nearer "
            f"than the last value {self.stay:.3f}"
        )


def fit_power_law(
    sizes: Sequence[int],
    errs: ArrayLike,
    num_images: int,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> PowerLaw | NoFit:
    """Fit err(n) = a * n**-b + c with b in (0, 1] and a, c >= 0 (Hestness et al. 2017; Rosenfeld et al. 2020).

    Least squares of the means over seeds. Given b the law is linear in a and c, so the best a, c >= 0 are known in
    closed form and only b is searched, over all its range: no start value, no local minimum, and a thousand bootstrap
    fits at once. A general solver would crawl along the valley in which a, b and c make up for one another.

    A point's weight is one over its variance: that of its mean over seeds plus ``err * (1 - err) / num_images``.
    The variance over a few seeds is a poor guess (3 seeds: off by more than a factor of 3 one time in three), so each
    is shrunk towards their common ratio to ``err * (1 - err)``, as if that had been seen on 5 more seeds (Smyth 2004).
    Error-free and equal seeds keep a finite weight: two errors more among the images, rates in steps of one image.

    The bootstrap is parametric, about the fitted law, with what can go wrong apart:

    - what a seed shifts at all sizes together, scaled to Student's t of the seeds - 1 degrees of freedom it has;
    - what it shifts at each size alone, pooled over the sizes, likewise;
    - what other validation images would shift: one draw for all sizes, since all were measured on the same images;
    - what the points lie off the law beyond this, as far as the sizes tell: its form, and a draw of training images
      that the seeds share.

    Resampling the seeds as they are would be too narrow: three seeds resampled have two thirds of their variance, and
    a normal's tails instead of Student's. Seeds that share their training images cannot show what another draw of
    images would change; that part is told from the points' distance to the law alone. Let seeds draw their own.

    Args:
        sizes: (S,) numbers of training images, rising.
        errs: (S, R) error rates, a column for each seed; a seed is one column at all sizes.
        num_images: validation images behind each rate, the same ones throughout.
        level: coverage of the intervals, in (0, 1).
        draws: bootstrap fits.
        seed: of the bootstrap's own generator.

    Returns:
        ``NoFit`` with fewer than three sizes, which do not determine three numbers.

    Raises:
        ValueError: sizes that do not rise or are below 1, rates outside [0, 1] or NaN, shapes that do not fit, no
            image.
    """
    ns, rates = _checked(sizes, errs, num_images, level)
    return _fit(ns, rates, num_images, level, draws, np.random.default_rng(seed))


def check_held_out(
    sizes: Sequence[int],
    errs: ArrayLike,
    num_images: int,
    *,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> HeldOut | NoFit:
    """Fit without the largest size and hold the forecast against it.

    The interval is that of a measurement: the law's, and the seeds' own noise at the largest size. Validation images
    are the same at all sizes, so their draw does not widen it. For each seed alone the noise is that of one training.

    Arguments and errors as in ``fit_power_law``.

    Returns:
        ``NoFit`` with fewer than four sizes, or a largest size beyond 4 times the one before.
    """
    ns, rates = _checked(sizes, errs, num_images, level)
    generator = np.random.default_rng(seed)
    law = _fit(ns[:-1], rates[:-1], num_images, level, draws, generator)
    if isinstance(law, NoFit):
        return NoFit(f"without the largest of {len(ns)} sizes {law.reason.replace('got', 'there are')}")
    if ns[-1] > law.limit:
        return NoFit(f"{ns[-1]:,} images are more than {MOST_AHEAD:g} times {ns[-2]:,}: too far ahead to foretell")
    noise = _Noise.of(rates[:-1], num_images)
    predicted = law.predict(ns[-1])
    spread = math.sqrt(noise.ratio * _binomial(np.array([predicted]), num_images)[0])
    spread *= math.sqrt(max(law.misfit or 1.0, 1.0))
    drawn = _law(ns[-1], law.same_images_draws)
    error = spread * _student(generator, noise.dof, (draws,))
    num_seeds = rates.shape[1]
    mean = law._between(np.clip(drawn + error / math.sqrt(num_seeds), 0, 1))
    alone = law._between(np.clip(drawn + error, 0, 1))
    passes = (alone.low <= rates[-1]) & (rates[-1] <= alone.high)
    passes &= np.abs(rates[-1] - predicted) < np.abs(rates[-1] - rates[-2])
    return HeldOut(
        size=int(ns[-1]),
        err=float(rates[-1].mean()),
        predicted=predicted,
        interval=mean,
        stay=float(rates[-2].mean()),
        per_seed=tuple(bool(one) for one in passes),
        level=level,
    )


def _checked(
    sizes: Sequence[int], errs: ArrayLike, num_images: int, level: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    if num_images < 1:
        raise ValueError(f"an error rate needs at least 1 image, got num_images = {num_images}")
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), is {level}")
    return checked_curve(sizes, errs)


def checked_curve(sizes: Sequence[int], errs: ArrayLike, name: str = "errs") -> tuple[NDArray[np.int64], NDArray]:
    """Sizes (S,) and rates (S, R), or a ``ValueError`` that says what is wrong with them."""
    ns, rates = np.asarray(sizes), np.asarray(errs, dtype=np.float64)
    if ns.ndim != 1 or not len(ns) or not np.issubdtype(ns.dtype, np.integer):
        raise ValueError(f"sizes are whole numbers of training images, at least one of them, got {sizes!r}")
    if not (ns[0] >= 1 and (np.diff(ns) > 0).all()):
        raise ValueError(f"sizes must be at least 1 and rise, got {ns.tolist()}")
    if rates.ndim != 2 or len(rates) != len(ns) or not rates.shape[1]:
        raise ValueError(f"{name} are ({len(ns)}, R): a row for each size, a column for each seed; got {rates.shape}")
    wrong = ~((rates >= 0) & (rates <= 1))  # NaN too
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise ValueError(
            f"{name} must be rates in [0, 1], got {rates[row, column]:g} at {ns[row]:,} images, seed {column} (from 0)"
        )
    return ns.astype(np.int64), rates


@dataclass(frozen=True)
class _Noise:
    """What the seeds say of a point's scatter."""

    ratio: float
    """Variance of one training over ``err * (1 - err) / num_images``."""
    variance: NDArray[np.float64]
    """(S,) of the mean over seeds on the same validation images."""
    together: float
    """Part of it that a seed has in common at all sizes, in [0, 1]."""
    dof: int | None
    """Of the pooled variance; None with one seed, whose scatter is taken to be that of its images."""
    num_seeds: int

    @classmethod
    def of(cls, rates: NDArray[np.float64], num_images: int) -> _Noise:
        num_sizes, num_seeds = rates.shape
        unit = _binomial(rates.mean(axis=1), num_images)
        if num_seeds == 1:
            return cls(1.0, unit, 0.0, None, 1)
        own = rates.var(axis=1, ddof=1)
        ratio = float((own / unit).mean())
        shrunk = (_PRIOR_SEEDS * ratio * unit + (num_seeds - 1) * own) / (_PRIOR_SEEDS + num_seeds - 1)
        shrunk = shrunk + 1 / (12 * num_images**2)  # a rate is a whole number of errors: never sharper than that

        # Two-way analysis of variance: sizes in units of their scatter, the seeds as the second factor.
        scaled = (rates - rates.mean(axis=1, keepdims=True)) / np.sqrt(shrunk)[:, None]
        of_seed = scaled.mean(axis=0)
        dof = (num_seeds - 1) * (num_sizes - 1)
        rest = float(np.square(scaled - of_seed).sum()) / max(dof, 1)
        between = num_sizes * float(np.square(of_seed).sum()) / (num_seeds - 1)
        common = max(0.0, (between - rest) / num_sizes)
        together = common / (common + rest) if common + rest > 0 else 0.0
        return cls(ratio, shrunk / num_seeds, together, dof, num_seeds)

    def draw(self, generator: np.random.Generator, draws: int) -> NDArray[np.float64]:
        """(draws, S) deviations of the means."""
        alone = _student(generator, self.dof, (draws, len(self.variance)))
        if self.num_seeds == 1:
            return alone * np.sqrt(self.variance)
        shared = _student(generator, self.num_seeds - 1, (draws, 1))
        return (math.sqrt(self.together) * shared + math.sqrt(1 - self.together) * alone) * np.sqrt(self.variance)


def _fit(
    ns: NDArray[np.int64],
    rates: NDArray[np.float64],
    num_images: int,
    level: float,
    draws: int,
    generator: np.random.Generator,
) -> PowerLaw | NoFit:
    num_sizes, num_seeds = rates.shape
    if num_sizes < FEWEST_SIZES:
        return NoFit(f"a law of three numbers needs at least {FEWEST_SIZES} sizes, got {num_sizes}")
    means, noise = rates.mean(axis=1), _Noise.of(rates, num_images)
    images = _binomial(means, num_images)
    weights = 1 / (noise.variance + images)
    best = _least_squares(ns, means[None], weights)[0]
    fitted = _law(ns, best)

    spare = num_sizes - FEWEST_SIZES
    misfit = float((np.square(means - fitted) / noise.variance).sum()) / spare if spare else None
    shifts = noise.draw(generator, draws)
    if misfit is not None and misfit > 1:
        shifts = shifts + _student(generator, spare, (draws, num_sizes)) * np.sqrt((misfit - 1) * noise.variance)
    other_images = generator.standard_normal((draws, 1)) * np.sqrt(images)
    both = fitted + np.concatenate([shifts + other_images, shifts])
    drawn, same_images_draws = np.split(_least_squares(ns, np.minimum(both, 1), weights), 2)

    tails = (1 - level) / 2, (1 + level) / 2
    level_draws = drawn[:, 0] == 0  # such a draw fits with any exponent
    b_ends = (np.where(level_draws, end, drawn[:, 1]) for end in (0.0, 1.0))
    b_interval = Interval(*(float(np.quantile(ends, tail)) for ends, tail in zip(b_ends, tails, strict=True)))
    c_interval = Interval(*(float(np.quantile(drawn[:, 2], tail)) for tail in tails))
    return PowerLaw(
        a=float(best[0]),
        b=float(best[1]),
        c=float(best[2]),
        b_interval=b_interval,
        c_interval=c_interval,
        sizes=tuple(int(n) for n in ns),
        level=level,
        misfit=misfit,
        notes=tuple(_notes(ns, best, b_interval, c_interval, float(fitted[-1]), level, misfit, num_seeds)),
        draws=drawn,
        same_images_draws=same_images_draws,
    )


def _notes(
    ns: NDArray[np.int64],
    best: NDArray[np.float64],
    b_interval: Interval,
    c_interval: Interval,
    last: float,
    level: float,
    misfit: float | None,
    num_seeds: int,
) -> list[str]:
    a, b, _ = best
    notes = []
    if a == 0:
        notes.append(f"the error does not fall from {ns[0]:,} to {ns[-1]:,} images: the law is level")
    elif b == 1 and b_interval.low > 0.5:
        notes.append("the exponent is at its bound of 1: the error falls as fast as the law can")
    if a > 0 and c_interval.low < last / 4 and c_interval.high - c_interval.low > last / 2:
        notes.append(
            f"the floor c cannot be told from these sizes: {100 * level:g}% {c_interval.low:.3f} to "
            f"{c_interval.high:.3f}, of an error of {last:.3f} at {ns[-1]:,} images"
        )
    if misfit is None:
        notes.append("three sizes are fitted whatever they are: a fourth would show whether the law holds")
    elif misfit > 4:
        notes.append("the points lie more than twice as far off the law as their seeds let expect: the band allows it")
    if num_seeds == 1:
        notes.append("one seed: how far trainings differ is not known, the band rests on images and on the fit alone")
    return notes


def _least_squares(
    ns: NDArray[np.int64], errs: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(D, 3) a, b, c of the best law for each row of (D, S) errors."""
    logs = np.log(ns / ns[0])
    weights = weights / weights.sum()
    step = (1 - _LOWEST_B) / 99
    best = _best_of(logs, errs, weights, np.linspace(_LOWEST_B, 1, 100))
    for _ in range(3):
        around = best[:, 1:2] + np.linspace(-step, step, 21)
        best = _best_of(logs, errs, weights, np.clip(around, _LOWEST_B, 1))
        step /= 10
    best[:, 0] *= float(ns[0]) ** best[:, 1]
    return best


def _best_of(
    logs: NDArray[np.float64], errs: NDArray[np.float64], weights: NDArray[np.float64], exponents: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(D, 3): the best of the exponents, ``(G,)`` or ``(D, G)``, with its a >= 0 and c >= 0."""
    x = np.exp(-exponents[..., None] * logs)  # (G, S) or (D, G, S)
    x_mean, y_mean = x @ weights, (errs @ weights)[:, None]
    x_off, y_off = x - x_mean[..., None], errs - y_mean
    along = "ds,gs->dg" if x.ndim == 2 else "ds,dgs->dg"
    xx, yy = np.square(x_off) @ weights, (np.square(y_off) @ weights)[:, None]
    xy = np.einsum(along, y_off * weights, x_off)

    a = xy / xx
    c = y_mean - a * x_mean
    loss = yy - a * xy
    # Two numbers that must not be negative: if the free optimum is, the best lies on one of the two edges.
    at_zero_a = np.broadcast_to(np.maximum(y_mean, 0), a.shape)
    loss_a = yy + np.square(y_mean - at_zero_a)
    square = xx + np.square(x_mean)
    at_zero_c = np.maximum((xy + x_mean * y_mean) / square, 0)
    loss_c = yy + np.square(y_mean) - at_zero_c * (2 * (xy + x_mean * y_mean) - at_zero_c * square)
    free, edge_c = (a > 0) & (c >= 0), loss_c < loss_a
    a, c = np.where(free, a, np.where(edge_c, at_zero_c, 0)), np.where(free, c, np.where(edge_c, 0, at_zero_a))
    loss = np.where(free, loss, np.where(edge_c, loss_c, loss_a))

    rows, chosen = np.arange(len(errs)), loss.argmin(axis=1)
    a, c = a[rows, chosen], c[rows, chosen]
    b = exponents[chosen] if exponents.ndim == 1 else exponents[rows, chosen]
    level = a * (1 - np.exp(-b * logs[-1])) <= 1e-9 * (a + c)  # a fall by rounding alone
    c = np.where(level, y_mean[:, 0], c).clip(0, 1)
    c[c < 1e-12] = 0
    return np.stack([np.where(level, 0, a), np.where(level, 0, b), c], axis=1)


def _law(n: float | NDArray, law: NDArray[np.float64]) -> NDArray[np.float64]:
    """``law`` is (3,) with n a number or an array, or (D, 3) with n a number."""
    a, b, c = law[..., 0], law[..., 1], law[..., 2]
    return a * np.asarray(n, dtype=np.float64) ** -b + c


def _binomial(rates: NDArray[np.float64], num_images: int) -> NDArray[np.float64]:
    """Sampling variance of each rate, with two errors and two successes more (Agresti & Coull 1998): never 0."""
    smooth = (num_images * rates + 2) / (num_images + 4)
    return smooth * (1 - smooth) / num_images


def _student(generator: np.random.Generator, dof: int | None, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Normal deviates whose rows share a variance as uncertain as ``dof`` leave it; None: a known one."""
    normal = generator.standard_normal(shape)
    if dof is None:
        return normal
    return normal * np.sqrt(dof / generator.chisquare(dof, (shape[0],) + (1,) * (len(shape) - 1)))
