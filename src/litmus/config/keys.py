"""Where a dotted key lives in the schema of a run: who has it, what it takes, and whether a study may search it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args, get_origin

from litmus.config.schema import CHOICES, RunConfig, Section, names_of
from litmus.config.study import ABSENT, StudyConfig, among, lookup

NOT_SEARCHED = {
    "seed": "is the study's: seeds > 1 averages over it, and a searched seed is luck that is kept",
    "name": "is given to each trial by the study",
    "tracking": "decides where a run is kept, not what it comes to",
    "insight": "decides what a run shows, not what it comes to",
    "diagnosis": "decides how gaps are judged, not what a run comes to",
    "checkpoint": "decides which weights are measured: trials are compared by one rule",
    "data.name": "makes trials that saw different images: their errors cannot be compared",
    "data.classes": "makes trials of different tasks: their errors cannot be compared",
    **dict.fromkeys(
        ("data.split_seed", "data.val_fraction", "data.test_fraction", "data.num_images", "data.num_classes"),
        "decides which images validate: their errors could not be compared",
    ),
    **dict.fromkeys(
        ("data.root", "data.path", "data.val_path", "data.test_path", "data.download"),
        "decides where the images are found, not what a run comes to",
    ),
    **dict.fromkeys(("data.workers", "data.stream_above_gb", "data.eval_batch_size"), "changes the speed alone"),
    "data.target_err": "decides how gaps are judged, not what a run comes to",
    "data.train_dev_fraction": "decides which images train: their errors could not be compared",
    "data.train_eval_size": "decides which images are measured: trials are compared on the same",
    **dict.fromkeys(
        ("train.accelerator", "train.devices", "train.nodes", "train.strategy", "train.timeout_sec"),
        "is the machine's, not the experiment's: trials are compared on one kind of device",
    ),
    "train.val_every": "decides how often a best value may be found: more validations look better",
    "train.limit_batches": "is for debugging: it cuts the validation short",
    "train.deterministic": "is what makes a trial reproducible",
    **dict.fromkeys(("train.log_every", "train.profiler", "train.trace_steps"), "decides what a run shows"),
}
"""Keys that decide nothing, or whose values make trials that cannot be compared, each with the reason."""


def owners(key: str) -> set[str] | None:
    """Names of the section that have this key; empty where the section has no names; None where no one has it."""
    head, dot, last = key.partition(".")
    if head in CHOICES and dot:
        return {n for member in CHOICES[head][0] if last in member.model_fields for n in names_of(member)} or None
    field = RunConfig.model_fields.get(head)
    if field is None:
        return None
    section = section_of(head)
    return set() if not dot or (section is not None and last in section.model_fields) else None


def section_of(head: str) -> type[Section] | None:
    if head in CHOICES:
        return CHOICES[head][0][0]
    field = RunConfig.model_fields.get(head)
    kinds = (field.annotation, *get_args(field.annotation)) if field else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def names_while(study: StudyConfig, base: RunConfig, head: str, when: Mapping[str, tuple[Any, ...]]) -> set[str]:
    """The names that a section can have while the conditions hold."""
    key = f"{head}.name"
    own = lookup(base, key)
    entries = study.space.get(key, ())
    names = {value for entry in entries for value in ([entry.fixed] if entry.kind == "fixed" else entry.choices or ())}
    if not entries or any(entry.when for entry in entries):
        names.add(CHOICES[head][1] if own is ABSENT else own)
    return {name for name in names if isinstance(name, str) and (key not in when or among(name, when[key]))}


def known_keys(study: StudyConfig, base: RunConfig) -> list[str]:
    found = []
    for head in RunConfig.model_fields:
        if head in CHOICES:
            names = names_while(study, base, head, {})
            members = [member for member in CHOICES[head][0] if names & set(names_of(member))]
            found += [f"{head}.{key}" for member in members for key in member.model_fields]
        elif section := section_of(head):
            found += [f"{head}.{key}" for key in section.model_fields]
    return list(dict.fromkeys(found))


def takes_only_whole(key: str) -> bool:
    """Whether the config's key takes whole numbers and no others."""
    head, dot, last = key.partition(".")
    sections = CHOICES[head][0] if head in CHOICES else [section_of(head)] if dot else [RunConfig]
    fields = [
        section.model_fields[last or head] for section in sections if section and (last or head) in section.model_fields
    ]
    kinds = {kind for field in fields for kind in _kinds(field.annotation)}
    return int in kinds and float not in kinds


def _kinds(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (tuple, list, dict):  # numbers inside a list are not the key's own
        return set()
    inner = get_args(annotation)
    return {kind for part in inner for kind in _kinds(part)} if inner else {annotation}
