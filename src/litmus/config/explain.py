"""From pydantic's errors to ours: dotted key, value, what is allowed, the nearest right key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from litmus.config.schema import CHOICES, RunConfig, Section, names_of
from litmus.errors import Problem, nearest


@dataclass(frozen=True)
class Root:
    """What a file is checked against: its outermost section, and which keys are one of several sections."""

    section: type[Section]
    choices: Mapping[str, tuple[list[type[Section]], str]]

    @property
    def tags(self) -> set[str]:
        return {member.__name__ for members, _ in self.choices.values() for member in members}


RUN = Root(RunConfig, CHOICES)


def explain(error: Any, data: Any, root: Root = RUN) -> Problem:
    """One pydantic error in our words: dotted key without union tags, what is allowed, the nearest key."""
    keys: list[Any] = []
    here, tags = data, root.tags
    for part in error["loc"]:
        if isinstance(here, dict) and part not in here and (part in tags or error["type"] not in _ABSENT):
            continue  # a union's tag, not a key
        if isinstance(part, int) and not isinstance(here, list | tuple | dict):
            continue  # one value where a list may stand
        keys.append(part)
        here = here.get(part) if isinstance(here, dict) else (here[part] if _indexes(here, part) else None)
    where = ".".join(map(str, keys))
    kind, context = error["type"], error.get("ctx", {})
    if kind == "extra_forbidden":
        return Problem(where, f"is not a key; {_nearest_key(keys, data, root)}", error["input"])
    if kind == "missing":
        return Problem(where, "is needed")
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        members, default = root.choices[where]
        if not isinstance(error["input"], dict):
            return Problem(where, f"wants a section such as {where}: {{name: {default}}}", error["input"])
        known = [name for member in members for name in names_of(member)]
        name = error["input"].get("name", default)
        return Problem(f"{where}.name", f"is not known; {nearest(str(name), known)}", name)
    if kind == "literal_error":
        allowed = _literals(keys, data, root)
        text = nearest(str(error["input"]), map(str, allowed)) if isinstance(error["input"], str) else ""
        return Problem(
            where,
            f"must be one of {', '.join(map(str, allowed))}{'; ' + text if 'mean' in text else ''}",
            error["input"],
        )
    if kind in _BOUNDS:
        bound = _BOUNDS[kind]
        return Problem(
            where, f"must be {_bounds(keys, data, root) or f'{_SIGNS[bound]} {context[bound]:g}'}", error["input"]
        )
    says = _WORDS.get(kind, "{msg}").format(
        msg=error["msg"].removeprefix("Value error, "), found=_kind(error["input"]), **context
    )
    return Problem(where, says, error["input"])


def _indexes(value: Any, part: Any) -> bool:
    return isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)


def _kind(value: Any) -> str:
    words = {
        bool: "true/false",
        int: "a whole number",
        float: "a number",
        str: "text",
        list: "a list",
        dict: "a section",
    }
    return "nothing" if value is None else words.get(type(value), type(value).__name__)


_ABSENT = {"missing"}
_BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
_SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_WORDS = {
    "multiple_of": "must be a multiple of {multiple_of:g}",
    "int_type": "wants a whole number, found {found}",
    "int_from_float": "wants a whole number, found {found}",
    "float_type": "wants a number, found {found}",
    "bool_type": "wants true or false, found {found}",
    "string_type": "wants text, found {found}",
    "tuple_type": "wants a list, found {found}",
    "dict_type": "wants a section, found {found}",
    "model_type": "wants a section, found {found}",
    "model_attributes_type": "wants a section, found {found}",
    "finite_number": "must be a finite number",
    "string_too_short": "needs at least {min_length} character(s)",
    "string_too_long": "takes at most {max_length} characters",
    "too_short": "needs at least {min_length} value(s), found {actual_length}",
    "too_long": "takes at most {max_length} value(s), found {actual_length}",
    "string_pattern_mismatch": "may hold letters, digits, '.', '_' and '-', and starts with a letter or digit",
}


def _section_at(keys: Sequence[Any], data: Any, root: Root) -> type[Section] | None:
    """The section class that dotted ``keys`` lead to, where ``data`` says which member of a union is meant."""
    section: type[Section] | None = root.section
    path, names_follow = "", False  # in a mapping of sections the next key is a name
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else data[key] if _indexes(data, key) else None
        if names_follow or isinstance(key, int):
            names_follow = False
            continue
        path = f"{path}.{key}" if path else str(key)
        if path in root.choices:
            members, default = root.choices[path]
            name = data.get("name", default) if isinstance(data, dict) else default
            section = next((member for member in members if name in names_of(member)), None)
            continue
        field = section.model_fields.get(str(key)) if section else None
        section, names_follow = _section_in(field.annotation if field else None)
    return section


def _section_in(annotation: Any) -> tuple[type[Section] | None, bool]:
    """The section that a field holds, and whether it holds them by name."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    for part in get_args(annotation):  # a section that may be left out is one of two
        section, _ = _section_in(part)
        if section is not None:
            return section, get_origin(annotation) is dict
    return None, False


def _nearest_key(keys: Sequence[Any], data: Any, root: Root) -> str:
    """Where a mistyped or misplaced key most likely belongs."""
    *parents, last = keys
    section = _section_at(parents, data, root)
    own = [field.alias or name for name, field in section.model_fields.items()] if section else []
    prefix = "".join(f"{part}." for part in parents)
    hint = nearest(str(last), own)
    if hint.startswith("did you mean"):
        return f"did you mean {prefix}{hint.split(chr(39))[1]}?"
    for head in root.section.model_fields:  # the right name in the wrong section
        other = _section_at([head], data, root)
        if other and last in other.model_fields and [head] != list(parents):
            return f"did you mean {head}.{last}?"
    if parents and parents[0] in root.choices:
        members, default = root.choices[parents[0]]
        chosen = (data.get(parents[0]) or {}).get("name", default)
        owners = [names_of(member)[0] for member in members if last in member.model_fields]
        if owners:
            return f"{parents[0]} {chosen!r} has none ({', '.join(owners)} do)"
    return f"keys here: {', '.join(own)}"


def _field_at(keys: Sequence[Any], data: Any, root: Root) -> Any:
    section, key = _section_at(keys[:-1], data, root), str(keys[-1])
    return next((f for name, f in section.model_fields.items() if (f.alias or name) == key), None) if section else None


def _bounds(keys: Sequence[Any], data: Any, root: Root) -> str:
    """``> 0 and <= 1``: the whole range of a field, not only the end that was passed."""
    field = _field_at(keys, data, root)
    metadata = list(field.metadata) if field else []
    for part in get_args(field.annotation) if field else ():  # Annotated members of an optional
        metadata += getattr(part, "__metadata__", ())
    ends: dict[str, str] = {}
    for item in metadata:
        for inner in (item, *getattr(item, "metadata", ())):
            for name, sign in _SIGNS.items():
                if getattr(inner, name, None) is not None:
                    ends[name] = f"{sign} {getattr(inner, name):.10g}"
    return " and ".join(ends[name] for name in _SIGNS if name in ends)


def _literals(keys: Sequence[Any], data: Any, root: Root) -> tuple[Any, ...]:
    """The values a ``Literal`` field allows."""
    field = _field_at(keys, data, root)
    return _literal_values(field.annotation) if field else ()


def _literal_values(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for part in get_args(annotation) for value in _literal_values(part))
