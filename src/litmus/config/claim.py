"""What a claim is: a sentence of the course, what is run to test it, and when it holds, written down before the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, ValidationError

from litmus.config.explain import Root, explain
from litmus.config.load import describe, load_config, merge
from litmus.config.schema import RunConfig, Section, as_tuple
from litmus.errors import Problem, Refused, nearest, refuse

FOLDER = Path("configs/claims")

Texts = Annotated[
    tuple[str, ...], BeforeValidator(lambda value: (value,) if isinstance(value, str) else as_tuple(value))
]


S = TypeVar("S", bound=Section)

Several = Annotated[tuple[S, ...], BeforeValidator(as_tuple), Field(min_length=1)]
"""One section or more, in their order: ``arms: Several[ArmConfig]``."""


class ArmConfig(Section):
    """One of the things that a claim compares."""

    name: str = Field(min_length=1)
    """Shown, so written for people; no two arms share it."""
    set: Texts = ()
    """Overrides of the base."""


class FullConfig(Section):
    """The form of a claim for a GPU and the papers' own data."""

    base: Texts = ()
    """Overrides after the claim's own."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """In place of the claim's own, key by key."""
    seeds: int | None = Field(None, ge=2)
    hours: float = Field(gt=0)
    """About how long it takes on one GPU; an estimate unless the header says that it was measured."""


class ClaimConfig(Section):
    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$")
    says: str = Field(min_length=1)
    """The sentence that is tested."""
    condition: str = Field(min_length=1)
    """When it is *supported*; fixed before the run. *Contradicted* is the same the other way round, the rest is
    *inconclusive*."""
    note: str = ""
    """What the sentence leaves out, or what was found of it here before."""
    papers: Texts = ()
    published: dict[str, float] = Field(default_factory=dict)
    """What a paper found, in the units of the figure: what it is -> value."""
    base: Texts
    """Config files, then overrides: what all of its runs have in common."""
    seeds: int = Field(5, ge=2)
    """Five paired seeds are the least for an ordering: an exact sign test then needs five of five."""
    settings: dict[str, Any] = Field(default_factory=dict)
    """The claim's own: its arms, sizes and thresholds."""
    full: FullConfig | None = None


def load_claim(name: str | Path, overrides: Sequence[str] = (), *, full: bool = False) -> ClaimConfig:
    """A claim by its name or its file, with ``seeds=3`` or ``settings.x=...`` over it; ``full``: in its long form.

    Raises:
        Refused: no such claim, with the nearest name, or everything that is wrong with its file and the overrides.
    """
    path = Path(name)
    if path.suffix != ".yaml":
        path = FOLDER / f"{name}.yaml"
        if not path.is_file():
            known = names()
            says = nearest(str(name), known) if known else f"there is no {FOLDER} here: run it in Litmus's folder"
            raise refuse("claim", f"there is no such claim; {says}", str(name))
    plain = merge([path], overrides)
    try:
        claim = ClaimConfig.model_validate(plain)
    except ValidationError as error:
        root = Root(ClaimConfig, {})
        raise Refused(
            [explain(one, plain, root) for one in error.errors(include_url=False)], source=str(path)
        ) from None
    if not full:
        return claim
    if claim.full is None:
        raise refuse("--full", f"{claim.name} has no long form: its short one is exact", source=str(path))
    return claim.model_copy(
        update={
            "base": (*claim.base, *claim.full.base),
            "settings": {**claim.settings, **claim.full.settings},
            "seeds": claim.full.seeds or claim.seeds,
        }
    )


def claim_base(claim: ClaimConfig, *, source: str = "claim") -> RunConfig:
    """What the runs of a claim have in common. Raises ``Refused``."""
    files = [part for part in claim.base if "=" not in part or Path(part).exists()]
    try:
        return load_config(files, [part for part in claim.base if part not in files])
    except Refused as refused:
        raise Refused(refused.problems, source=f"{source}: base") from None


def settings_of(claim: ClaimConfig, section: type[S]) -> S:
    """A claim's own settings, checked against the section that its class wants. Raises ``Refused``."""
    try:
        return section.model_validate(claim.settings)
    except ValidationError as error:
        found = [explain(one, claim.settings, Root(section, {})) for one in error.errors(include_url=False)]
        problems = [Problem(f"settings.{one.where}", one.says, one.value) for one in found]
        raise Refused(problems, source=f"claim {claim.name}") from None


def claim_schema() -> dict[str, Any]:
    """JSON schema of ``ClaimConfig`` for editors; the docstrings under the fields are its descriptions."""
    import sys

    describe(sys.modules[__name__], ClaimConfig)
    schema = ClaimConfig.model_json_schema()
    for properties in (schema["properties"], schema["$defs"]["FullConfig"]["properties"]):
        for key in ("papers", "base"):
            if key in properties:  # one may stand for a list of one
                many = properties[key]
                about = {word: many.pop(word) for word in ("title", "description") if word in many}
                properties[key] = {**about, "anyOf": [many["items"], many]}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def names() -> list[str]:
    """Claims of this folder, in the order of their files."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))
