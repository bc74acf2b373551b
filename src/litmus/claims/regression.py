"""Where bias, variance and noise can all be seen: a regression whose function is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from litmus.claims.base import Claim, Table
from litmus.claims.evidence import Evidence, in_seeds, mean_of, reported
from litmus.claims.figures import Panel, draw
from litmus.config import Field, Section, WholeNumbers
from litmus.sweep.engine import Done

Floats = NDArray[np.float64]

LIMIT = 3.0
"""Standard errors within which two numbers agree."""


def places_of(num: int) -> Floats:
    """(X,) the fixed design: evenly spaced in [0, 1]."""
    return np.linspace(0, 1, num)


def function(x: Floats) -> Floats:
    return np.sin(2 * np.pi * x)


def hat_matrix(x: Floats, degree: int) -> Floats:
    """(X, X): what least squares by a polynomial of ``degree`` makes of the targets at ``x``.

    Raises:
        ValueError: for fewer places than coefficients.
    """
    if degree >= len(x):
        raise ValueError(f"a polynomial of degree {degree} has more coefficients than there are places, {len(x)}")
    basis, _ = np.linalg.qr(np.polynomial.legendre.legvander(2 * x - 1, degree))
    return basis @ basis.T


def exact_parts(x: Floats, degree: int, sigma: float) -> tuple[float, float]:
    """bias^2 and variance of that fit, means over the places: ``||Hf - f||^2 / X`` and ``sigma^2 (degree + 1) / X``."""
    f = function(x)
    return float(np.square(hat_matrix(x, degree) @ f - f).mean()), sigma**2 * (degree + 1) / len(x)


def experiment(
    degrees: tuple[int, ...], *, places: int, sigma: float, sets: int, repeats: int, seed: int
) -> list[dict[str, float]]:
    """For each degree, ``sets`` fits to noisy values at the same places, held against ``repeats`` fresh values there.

    All degrees see the same noise.

    Returns:
        For each degree ``bias2``, ``variance``, ``total`` (measured on its own), ``off``: how far it is from bias^2 +
        variance + sigma^2, in standard errors; and ``noise``, ``noise_off``: sigma^2 estimated from the repeats, and
        how far that is from the true one.
    """
    from litmus.diagnosis.decomposition import decompose_regression

    generator = np.random.default_rng([seed, 0x51])
    x = places_of(places)
    f = function(x)
    trained = f + sigma * generator.standard_normal((sets, places))
    fresh = f + sigma * generator.standard_normal((repeats, places))
    unknown = decompose_regression(trained[:3], f, fresh).noise  # of the targets alone: any models will do
    found = []
    for degree in degrees:
        predictions = trained @ hat_matrix(x, degree)
        known = decompose_regression(predictions, f, fresh, noise_variance=sigma**2)
        found.append(
            {
                "bias2": known.bias2.value,
                "bias2_error": known.bias2.std_error or 0.0,
                "variance": known.variance.value,
                "variance_error": known.variance.std_error or 0.0,
                "total": known.total.value,
                "off": in_errors(known.difference.value, known.difference.std_error),
                "noise": unknown.value,
                "noise_off": in_errors(unknown.value - sigma**2, unknown.std_error),
            }
        )
    return found


def in_errors(difference: float, error: float | None) -> float:
    """A difference in its standard errors; 0 where both are 0, infinite where only the error is."""
    if not error:
        return 0.0 if abs(difference) < 1e-12 else math.copysign(math.inf, difference)
    return difference / error


class DecompositionRegression(Claim):
    """Polynomials of rising degree on sin(2 pi x) with noise."""

    class Settings(Section):
        degrees: WholeNumbers
        places: int = Field(20, ge=3, le=10_000)
        sigma: float = Field(0.4, gt=0, le=10)
        """Standard deviation of the noise."""
        sets: int = Field(200, ge=3, le=100_000)
        """Training sets."""
        repeats: int = Field(200, ge=2, le=100_000)
        """Fresh values at each place."""

    def __init__(self, spec: Any):
        super().__init__(spec)
        degrees = self.settings.degrees
        if list(degrees) != sorted(set(degrees)) or len(degrees) < 2 or degrees[0] < 0:
            raise self.refuse("degrees", "must be >= 0 and rise, at least two of them", list(degrees))
        if degrees[-1] >= self.settings.places:
            says = f"must stay below settings.places = {self.settings.places}"
            raise self.refuse("degrees", says, degrees[-1])

    def read(self, done: Mapping[str, Done]) -> Table:
        how = self.settings
        runs = [
            experiment(how.degrees, places=how.places, sigma=how.sigma, sets=how.sets, repeats=how.repeats, seed=seed)
            for seed in self.seeds
        ]
        x = places_of(how.places)
        exact = [exact_parts(x, degree, how.sigma) for degree in how.degrees]
        table: Table = {
            "degrees": list(how.degrees),
            "sigma2": how.sigma**2,
            "exact": {"bias2": [b for b, _ in exact], "variance": [v for _, v in exact]},
            **{name: [[one[name] for one in run] for run in runs] for name in runs[0][0]},
        }
        table["rows"] = [
            {"degree": degree, "seed": seed, **runs[seed][at]}
            for at, degree in enumerate(how.degrees)
            for seed in self.seeds
        ]
        return table

    def judge(self, table: Table) -> list[Evidence]:
        off, noise_off = (np.asarray(table[name], dtype=float) for name in ("off", "noise_off"))
        sums = in_seeds(
            f"bias² + variance + sigma² is the error measured, within {LIMIT:g} standard errors at every degree",
            list((np.abs(off) <= LIMIT).all(axis=1)),
        )
        noise = in_seeds(
            f"sigma² = {table['sigma2']:.4g} is recovered from repeated values, within {LIMIT:g} standard errors",
            list((np.abs(noise_off) <= LIMIT).all(axis=1)),
        )
        distances = [
            (np.asarray(table[part]) - np.asarray(table["exact"][part])) / np.asarray(table[f"{part}_error"])
            for part in ("bias2", "variance")
        ]
        at = lowest(table)
        return [
            sums,
            noise,
            reported("furthest", f"{np.abs(off).max():.2f} standard errors of {off.size}"),
            reported("sigma² found", mean_of([row[0] for row in table["noise"]])),
            reported(
                "held against the exact bias² and variance",
                " and ".join(f"{np.square(one).mean() ** 0.5:.2f}" for one in distances) + " standard errors off, rms",
            ),
            reported(
                "error lowest",
                f"at degree {table['degrees'][at]}: bias² {mean_of([row[at] for row in table['bias2']])}, variance "
                f"{mean_of([row[at] for row in table['variance']])}",
            ),
        ]

    def draw(self, table: Table, path: Path) -> Path:
        off, degrees = np.asarray(table["off"], dtype=float), table["degrees"]
        within = int((np.abs(off) <= LIMIT).sum())
        return draw(
            [
                Panel(
                    {
                        "measured error": table["total"], "bias²": table["bias2"], "variance": table["variance"],
                        "noise": [table["sigma2"]] * len(degrees),
                    },
                    "squared error", "degree of the polynomial", degrees,
                ),
                Panel(
                    {"difference": off.tolist()}, "error less the sum, in standard errors", "degree of the polynomial",
                    degrees, lines={f"{LIMIT:g}": LIMIT, f"-{LIMIT:g}": -LIMIT},
                ),
            ],
            path,
            title=f"Error is lowest at degree {degrees[lowest(table)]}; bias² + variance + noise add up to it "
            f"in {within} of {off.size} cases",
            subtitle=f"sin(2 pi x) at {self.settings.places} fixed places; {self.settings.sets} training sets, "
            f"{len(off)} times; dots: the {len(off)} repetitions, bands: 95% intervals",
            width=3.6,
        )  # fmt: skip


def lowest(table: Table) -> int:
    """Place of the degree with the lowest measured error."""
    return int(np.asarray(table["total"], dtype=float).mean(axis=0).argmin())
