"""Each arm held against the reference: by shared seeds, by other seeds, or by the images of single runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any, Literal

from litmus.compare.arms import ABSENT, Arm, Arms, short_key
from litmus.diagnosis.gaps import Interval, newcombe
from litmus.diagnosis.paired import (
    FEWEST_SEEDS,
    compare,
    holm,
    mcnemar,
    newcombe_paired,
    sign_test,
    spearman,
    welch,
)

LEVEL = 0.05
MOST_SENTENCES = 6
How = Literal["paired", "unpaired", "images", "same images", "nothing"]
Verdict = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Shared:
    """How two networks answered the same images: how many each alone, both and any had to answer and got wrong."""

    both: int
    only_arm: int
    only_reference: int
    num_images: int


@dataclass(frozen=True)
class Contrast:
    """Validation error of an arm minus that of the reference: below 0 the arm is better."""

    difference: float
    low: float
    """Of the 95% interval, of this pair alone; without bound where nothing could be compared."""
    high: float
    p: float
    """Two-sided, of this pair alone."""
    how: How
    lower: int = 0
    """Seeds on which the arm's error was lower; ``of`` were shared."""
    of: int = 0
    sign_p: float | None = None
    """Exact sign test, one-sided, for whichever side was ahead; of paired seeds only."""
    shared: Shared | None = None
    p_holm: float = 1.0
    """p, adjusted for as many comparisons as there are arms against the reference (Holm 1979)."""
    verdict: Verdict = "undecided"

    @property
    def basis(self) -> str:
        """What was compared, in a few words."""
        if self.shared is not None:
            a, b = self.shared.only_arm, self.shared.only_reference
            return f"the same {self.shared.num_images:,} images, only one wrong: {a} and {b} (McNemar)"
        return {
            "paired": f"{self.of} shared seeds",
            "unpaired": f"{self.of} unshared seeds (Welch)",
            "images": f"{self.of:,} images, unpaired (Newcombe)",
        }.get(self.how, "one run on a side: nothing to judge by")


def contrasts(arms: Arms, reference: int, shared: Mapping[int, Shared] | None = None) -> list[Contrast | None]:
    """Every arm against the reference, whose own place holds None.

    An arm is *better* or *worse* when its p, adjusted by Holm over all arms, is at most 0.05 and, where seeds are
    compared, at least 5 of each side were: with fewer an exact sign test could not order them. Runs are paired over the
    seeds that both arms have, if these are 5 or all of the smaller arm.

    Args:
        shared: by arm, how its single run and the reference's answered the same images.
    """
    base = arms.arms[reference]
    found = [None if i == reference else _contrast(arm, base, (shared or {}).get(i)) for i, arm in enumerate(arms.arms)]
    adjusted = iter(holm([one.p for one in found if one is not None]))
    return [None if one is None else _judged(one, next(adjusted)) for one in found]


def sentences(arms: Arms, reference: int, found: Sequence[Contrast | None]) -> list[str]:
    """What was found, a sentence each, the best arm first; then what it rests on."""
    best = lowest(arms, reference)
    base, several = arms.arms[reference], len(arms.arms) > 2
    says = []
    against = found[best]
    name = arms.arms[best].label
    if against is None:
        better = sum(one is not None and one.verdict == "worse" for one in found)
        says.append(
            f"{base.label}, the reference, {_has_the_lowest(arms, reference)}, {base.mean:.4f}; "
            f"{better} of {len(found) - 1} "
            f"{'arms are' if len(found) > 2 else 'arm is'} worse beyond chance"
        )
    else:
        ahead = f"{name} has the lowest val/err, {arms.arms[best].mean:.4f}: {_distance(against)} {base.label}"
        beyond = "beyond chance" if against.verdict == "better" else "which is not shown to be beyond chance"
        says.append(f"{ahead}, {beyond} ({_evidence(against, several)})")
    others = [
        f"{arm.label} is {one.verdict} than {base.label}: {_distance(one)} it ({_evidence(one, several)})"
        for i, (arm, one) in enumerate(zip(arms.arms, found, strict=True))
        if one is not None and i != best and one.verdict != "undecided"
    ]
    says += others[:MOST_SENTENCES]
    if len(others) > MOST_SENTENCES:
        says.append(f"{len(others) - MOST_SENTENCES} more arms are better or worse than {base.label}: see the table")
    if several and best != reference:
        says.append(f"the lowest of {len(arms.arms)} arms is the lowest by luck too: its own mean is a little too good")
    says += _few_seeds(found)
    if any(one is not None and one.how in ("images", "same images") for one in found):
        says.append(
            "arms with one run each are compared as networks, on the images alone: another seed of the same config may "
            f"come out otherwise; {FEWEST_SEEDS} shared seeds speak of the configs"
        )
    if any(one is not None and one.how == "images" for one in found):
        says.append(
            "their interval takes the images for independent samples, which is conservative: --images compares the "
            "answers image by image"
        )
    return says + _trend(arms)


def lowest(arms: Arms, reference: int) -> int:
    """Place of the arm with the lowest mean validation error; of equal ones the reference, then the first."""
    means = [arm.mean for arm in arms.arms]
    level = [i for i, mean in enumerate(means) if math.isclose(mean, min(means), abs_tol=1e-12)]
    return reference if reference in level else level[0]


def _has_the_lowest(arms: Arms, reference: int) -> str:
    base = arms.arms[reference]
    level = sum(math.isclose(arm.mean, base.mean, abs_tol=1e-12) for arm in arms.arms) - 1
    with_others = f", level with {level} other{'s' * (level > 1)}" if level else ""
    return f"has the lowest val/err{with_others}"


def headline(arms: Arms, reference: int, found: Sequence[Contrast | None]) -> str:
    """The best arm against the reference, short enough for a picture's title."""
    best = lowest(arms, reference)
    name, base, against = arms.arms[best].label, arms.arms[reference].label, found[best]
    if against is None:
        worse = sum(one is not None and one.verdict == "worse" for one in found)
        return f"{base} {_has_the_lowest(arms, reference)}; {worse} of {len(found) - 1} others are worse beyond chance"
    if against.verdict == "better":
        return f"{name} is better than {base} by {100 * -against.difference:.2f} points"
    return f"{name} is not shown to be better than {base}"


def _contrast(arm: Arm, base: Arm, shared: Shared | None) -> Contrast:
    ours, theirs = arm.val_errs, base.val_errs
    if len(ours) == len(theirs) == 1:
        return _by_images(arm, base, shared)
    blocks = [block for block in base.runs if block in arm.runs]
    fewest = min(len(ours), len(theirs))
    if len(blocks) > 1 and (len(blocks) >= FEWEST_SEEDS or len(blocks) == fewest):
        pair = compare(
            [base.runs[block].val_err for block in blocks],
            [arm.runs[block].val_err for block in blocks],
            direction="minimize",
        )
        higher = sum(arm.runs[block].val_err > base.runs[block].val_err for block in blocks)
        sign_p = sign_test(max(pair.better, higher), pair.better + higher)
        around = (max(-pair.high, -1.0), min(-pair.low, 1.0))  # two rates differ by no more
        return Contrast(-pair.difference, *around, pair.p_mean, "paired", pair.better, pair.of, sign_p)
    apart = welch(ours, theirs)
    if fewest == 1:
        return Contrast(*apart, "nothing", of=1)
    return Contrast(apart.difference, max(apart.low, -1.0), min(apart.high, 1.0), apart.p, "unpaired", of=fewest)


def _by_images(arm: Arm, base: Arm, shared: Shared | None) -> Contrast:
    if shared is not None:
        counts = (shared.both, shared.only_arm, shared.only_reference, shared.num_images)
        p = mcnemar(shared.only_arm, shared.only_reference)
        difference = (shared.only_arm - shared.only_reference) / shared.num_images
        return Contrast(difference, *newcombe_paired(*counts), p, "same images", of=shared.num_images, shared=shared)
    (one,), (two,) = arm.trainings, base.trainings
    a, n, b, m = (one.result["val"][key] for one in (one, two) for key in ("num_errors", "num_images"))
    difference = a / n - b / m
    p = _inverted(lambda level: newcombe(a, n, b, m, level), difference)
    return Contrast(difference, *newcombe(a, n, b, m), p, "images", of=min(n, m))


def _inverted(interval_at: Callable[[float], Interval], difference: float) -> float:
    """The p whose interval, at the level 1 - p, just reaches 0."""
    if difference == 0:
        return 1.0
    near, far = 0.0, 8.0  # standard deviations: p between 1 and 1e-15
    for _ in range(50):
        z = (near + far) / 2
        low, high = interval_at(2 * NormalDist().cdf(z) - 1)
        near, far = (near, z) if low <= 0 <= high else (z, far)
    return 2 * NormalDist().cdf(-far)


def _judged(one: Contrast, p: float) -> Contrast:
    enough = one.how in ("images", "same images") or (one.how != "nothing" and one.of >= FEWEST_SEEDS)
    decided = enough and p <= LEVEL
    verdict: Verdict = ("better" if one.difference < 0 else "worse") if decided else "undecided"
    return replace(one, p_holm=p, verdict=verdict)


def _distance(one: Contrast) -> str:
    points = 100 * abs(one.difference)
    return f"{points:.2f} points {'below' if one.difference < 0 else 'above'}" if points else "level with"


def _evidence(one: Contrast, several: bool) -> str:
    parts = [one.basis]
    if math.isfinite(one.low):
        parts.append(f"95% {100 * one.low:+.2f} to {100 * one.high:+.2f}")
        parts.append(f"p {p_text(one.p_holm)}{' by Holm' if several else ''}")
    if one.sign_p is not None:
        parts.append(f"lower on {one.lower} of {one.of} seeds, one-sided sign test p = {one.sign_p:.2g}")
    return "; ".join(parts)


def p_text(p: float) -> str:
    """``= 0.031``, ``< 0.0001``."""
    return f"= {p:.2g}" if p >= 1e-4 else "< 0.0001"


def _few_seeds(found: Sequence[Contrast | None]) -> list[str]:
    counts = [one.of for one in found if one is not None and one.how in ("paired", "unpaired", "nothing")]
    few = [count for count in counts if count < FEWEST_SEEDS]
    if not few:
        return []
    least = min(few)
    how = f"{least} of {least} has p = {sign_test(least, least):.3g} at best" if least > 1 else "one is no evidence"
    return [
        f"{least} seed{'s' * (least != 1)}: too few to order arms, however clear the means (sign test: {how}; "
        f"{FEWEST_SEEDS} of {FEWEST_SEEDS} has {sign_test(FEWEST_SEEDS, FEWEST_SEEDS):.3g})"
    ]


def _trend(arms: Arms) -> list[str]:
    """Whether the error goes one way with the one number that differs; from 5 arms on, for 4 cannot reach 0.05."""
    if len(arms.factors) != 1 or len(arms.arms) < 5:
        return []
    (key,) = arms.factors
    texts = [arm.values[key] for arm in arms.arms]
    try:
        numbers = [float(text) for text in texts if text != ABSENT]
    except ValueError:
        return []
    if len(numbers) < len(texts):
        return []
    found = spearman(numbers, [arm.mean for arm in arms.arms])
    if math.isnan(found.rho):
        return []
    way = "falls" if found.rho < 0 else "rises"
    shown = f"Spearman's rho {found.rho:+.2f} over {len(texts)} arms, p = {found.p:.2g}"
    if found.p > LEVEL:
        return [f"val/err goes neither way with {short_key(key)} beyond chance ({shown})"]
    return [f"val/err {way} as {short_key(key)} rises ({shown})"]


def as_numbers(one: Contrast | None) -> dict[str, Any] | None:
    """For a JSON file, which has no infinity."""
    if one is None:
        return None
    numbers = {
        "difference": one.difference,
        "interval_95": [one.low, one.high] if math.isfinite(one.low) else None,
        "p": one.p,
        "p_holm": one.p_holm,
        "compared_by": one.how,
        "basis": one.basis,
        "verdict": one.verdict,
    }
    if one.sign_p is not None:
        numbers |= {"seeds_lower": one.lower, "seeds": one.of, "sign_test_p": one.sign_p}
    return numbers
