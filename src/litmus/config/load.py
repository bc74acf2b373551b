"""From YAML files and ``a.b=c`` overrides to one checked ``RunConfig``, and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from litmus.config import schema
from litmus.config.explain import explain
from litmus.config.schema import CHOICES, RunConfig, Section, names_of
from litmus.errors import Problem, Refused, nearest, refuse

MAX_BYTES = 1_000_000
MAX_NODES = 100_000


def load_config(sources: Sequence[str | Path] = (), overrides: Sequence[str] = ()) -> RunConfig:
    """Merge YAML files left to right, then ``a.b=c`` overrides, and check the whole.

    Raises:
        Refused: with every problem of every file, override and key.
    """
    return parse_config(merge(sources, overrides), source=", ".join(map(str, sources)) or "config")


def load_recorded(path: str | Path) -> RunConfig:
    """The config that a run recorded, by an earlier version too: keys that have moved since are read where they stood.

    Raises:
        Refused: as ``load_config``.
    """
    return parse_config(merge([path], recorded=True), source=str(path))


MOVED = {"diagnosis.target_err": "data.target_err"}
"""Key as it was once called -> its name now. Only a run's record may hold the old one; typed, it is refused."""


def is_record(path: Path) -> bool:
    """Whether this file is the ``config.yaml`` of a run directory."""
    return path.name == "config.yaml" and (path.absolute().parent.parent / "spool.sqlite").is_file()


def _as_named_now(part: Any) -> Any:
    from omegaconf import OmegaConf

    for then, now in MOVED.items():
        section, _, key = then.partition(".")
        if section in part and hasattr(part[section], "keys") and key in part[section]:
            if OmegaConf.select(part, now) is None:
                OmegaConf.update(part, now, part[section][key])
            del part[section][key]
    return part


def merge(sources: Sequence[str | Path], overrides: Sequence[str] = (), *, recorded: bool = False) -> dict[str, Any]:
    """The plain nested dictionary that files and overrides make together, interpolations resolved.

    ``recorded``: the files are records of runs, see ``load_recorded``.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    problems: list[Problem] = []
    parts, typed = [], []
    for source in sources:
        try:
            part = read_yaml(Path(source))
            parts.append(_as_named_now(part) if recorded or is_record(Path(source)) else part)
        except Refused as refused:
            problems += refused.problems
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not all(key.strip().split(".")):
            problems.append(Problem(override, "is neither a file nor an override; overrides read a.b=c"))
            continue
        try:
            typed.append(OmegaConf.from_dotlist([override]))
        except Exception as error:  # the YAML scanner and OmegaConf's grammar each raise their own
            problems.append(Problem(key, f"cannot be read: {str(error).splitlines()[0]}", value))
    if problems:
        raise Refused(problems, source="config")
    try:
        whole: Any = OmegaConf.create({})
        for part in (*parts, OmegaConf.merge(*typed) if typed else {}):
            leave_old_members(whole, part)
            whole = OmegaConf.merge(whole, part)
        refuse_growth(OmegaConf.to_container(whole, resolve=False))
        merged = OmegaConf.to_container(whole, resolve=True)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        raise refuse(
            getattr(error, "full_key", None) or "config", str(error).splitlines()[0], source="config"
        ) from error
    return dict(merged)  # type: ignore[arg-type]  # each part was a mapping


def merge_overrides(plain: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """``a.b=c`` overrides over a nested dictionary, as over a file that holds it."""
    from omegaconf import OmegaConf

    whole, typed = OmegaConf.create(dict(plain)), OmegaConf.from_dotlist(list(overrides))
    leave_old_members(whole, typed)
    return dict(OmegaConf.to_container(OmegaConf.merge(whole, typed), resolve=True))  # type: ignore[arg-type]


def refuse_growth(plain: Any) -> None:
    """``${a}${a}``, thirty lines deep, is a text of gigabytes: what references would grow to is counted, not made."""
    texts = {key: str(value) for key, value in _leaves(plain)}
    sizes: dict[str, int] = {}

    def size(key: str, above: frozenset[str]) -> int:
        if key in above:  # a circle, which OmegaConf refuses
            return 0
        if key not in sizes:
            here = above | {key}
            if key in texts:
                named = [_absolute(name, key) for name in re.findall(r"\$\{([^${}]+)\}", texts[key])]
                sizes[key] = len(texts[key]) + sum(size(name, here) for name in named)
            else:  # a section, or nothing
                sizes[key] = sum(size(inner, here) for inner in texts if inner.startswith(f"{key}."))
        return sizes[key]

    for key in texts:
        if size(key, frozenset()) > MAX_BYTES:
            raise refuse(key, f"grows to {sizes[key]:,} characters by its references; at most {MAX_BYTES:,}")


def _absolute(name: str, key: str) -> str:
    """The dotted key that a reference in the value of ``key`` means; each leading dot is one section up."""
    name = name.strip().replace("[", ".").replace("]", "")
    up = len(name) - len(name.lstrip("."))
    return ".".join([*key.split(".")[:-up], name[up:]]) if up else name


def _leaves(value: Any, key: str = "") -> Iterable[tuple[str, Any]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inner is None:
        yield key, value
    else:
        for name, part in inner:
            yield from _leaves(part, f"{key}.{name}" if key else str(name))


def leave_old_members(whole: Any, part: Any) -> None:
    """Where ``part`` gives a section another ``name``, drop from ``whole`` what the new member does not have.

    So ``optim.name=adam`` is one word over a config with ``momentum: 0.9``; what stands beside the new name in the
    same file or command is still checked.
    """
    for head, (members, default) in CHOICES.items():
        before, now = whole.get(head), part.get(head)
        if not (hasattr(before, "keys") and hasattr(now, "keys") and "name" in now):
            continue
        new = next((member for member in members if now["name"] in names_of(member)), None)
        if new is not None and before.get("name", default) not in names_of(new):
            for key in [key for key in before if key not in new.model_fields]:
                del before[key]


def parse_config(data: dict[str, Any], *, source: str = "config") -> RunConfig:
    """Check a nested dictionary. Raises ``Refused`` with every problem at once."""
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise Refused([explain(item, data) for item in error.errors(include_url=False)], source=source) from None
    except Refused as refused:
        raise Refused(refused.problems, source=source) from None


def read_yaml(path: Path, shelf: str = "configs") -> Any:
    """One YAML file as an OmegaConf node. Raises ``Refused`` naming the path and the reason."""
    import yaml
    from omegaconf import OmegaConf

    name = str(path)
    if path.is_dir():
        raise refuse(name, "is a folder, not a config file")
    if path.exists() and not path.is_file():  # opening a pipe would wait for somebody to write, a device never ends
        raise refuse(name, "is a pipe or a device, not a config file")
    if not path.exists():
        folder = path.parent if path.parent.is_dir() else Path(shelf)
        known = {str(near) for near in folder.glob("**/*.yaml")} if folder.is_dir() else set()
        says = "does not exist (an override reads a.b=c)"
        raise refuse(name, f"{says}; {nearest(name, known)}" if known else says)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise refuse(name, f"is {size / 1e6:.0f} MB; a config has at most {MAX_BYTES / 1e6:.0f} MB")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise refuse(name, "is not text (UTF-8)") from None
    except OSError as error:
        raise refuse(name, f"cannot be read: {error.strerror}") from None
    try:
        tree: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        if tree is None:
            raise refuse(name, "is empty")
        if not isinstance(tree, yaml.MappingNode):
            raise refuse(name, f"must be a mapping of sections, found a {tree.id}")
        if (nodes := _num_nodes(tree, {})) > MAX_NODES:
            says = f"has aliases (*name) that would unfold to more than {MAX_NODES:,} values"
            raise refuse(name, says if nodes < 10**9 else f"{says}: a bomb")
        doubles = list(_doubled_keys(tree))
        if doubles:
            raise Refused([Problem(f"{name}: {key}", f"stands twice, on lines {a} and {b}") for key, a, b in doubles])
        return OmegaConf.create(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise refuse(name, f"is not YAML: {getattr(error, 'problem', None) or error}{where}") from None
    except RecursionError:
        raise refuse(name, "is nested too deeply") from None


def _num_nodes(node: Any, known: dict[int, int]) -> int:
    """Nodes of a YAML tree with every alias written out; an anchor that contains itself counts without end."""
    if id(node) not in known:
        known[id(node)] = 10**9  # while we are inside
        inner = node.value if isinstance(node.value, list) else []
        pairs = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_num_nodes(part, known) for part in pairs)
    return known[id(node)]


def _doubled_keys(node: Any, prefix: str = "", above: tuple[int, ...] = ()) -> Iterable[tuple[str, int, int]]:
    """(dotted key, first line, second line) of every key that stands twice in one mapping of a YAML tree."""
    if id(node) in above:
        return  # an anchor that contains itself
    if node.id == "sequence":
        for item in node.value:
            yield from _doubled_keys(item, prefix, (*above, id(node)))
    if node.id != "mapping":
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        dotted = f"{prefix}{key.value}"
        line = key.start_mark.line + 1
        if dotted in lines:
            yield dotted, lines[dotted], line
        lines.setdefault(dotted, line)
        yield from _doubled_keys(value, f"{dotted}.", (*above, id(node)))


def dump_config(config: RunConfig | Mapping[str, Any]) -> str:
    """The whole resolved config, or what ``to_dict`` made of it, as YAML; ``load_config`` of it gives an equal one."""
    import yaml

    plain = to_dict(config) if isinstance(config, RunConfig) else dict(config)
    return yaml.safe_dump(plain, sort_keys=False, width=120)


def to_dict(config: BaseModel) -> dict[str, Any]:
    """Plain nested JSON values, None and empty included; each section starts with its ``name``."""

    def name_first(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ordered = {"name": value["name"], **value} if "name" in value else value
        return {key: name_first(inner) for key, inner in ordered.items()}

    return name_first(config.model_dump(mode="json"))


def flatten(config: BaseModel) -> dict[str, Any]:
    """Dotted name -> plain value; what a run logs as its parameters. Sections that are None stay as one None."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", to_dict(config))
    return flat


_BESIDE_THE_NUMBERS = (
    "name",
    *("tracking", "insight", "diagnosis", "watch"),
    *("data.root", "data.path", "data.val_path", "data.test_path", "data.download"),
    *("data.workers", "data.stream_above_gb", "data.target_err"),
    *("train.accelerator", "train.log_every", "train.profiler", "train.trace_steps"),
    *("checkpoint.every_steps", "checkpoint.every_sec"),
)


def deciding(config: BaseModel) -> dict[str, Any]:
    """Dotted name -> plain value of what decides the numbers that a run comes to.

    Left out is what only names, finds, shows or keeps: two configs that are equal in the rest train bit for bit alike
    on the same images, which the data's digest tells, on the same kind of device, which is told by itself.
    """
    beside = tuple(f"{name}." for name in _BESIDE_THE_NUMBERS)
    return {name: value for name, value in flatten(config).items() if not f"{name}.".startswith(beside)}


def options(section: BaseModel | None, *leave_out: str) -> dict[str, Any]:
    """A section as keyword arguments for what it configures: every field but ``name`` and ``leave_out``."""
    return section.model_dump(exclude={"name", *leave_out}) if section is not None else {}


def json_schema() -> dict[str, Any]:
    """JSON schema of ``RunConfig`` for editors; the docstrings under the fields are its descriptions."""
    describe(schema, RunConfig)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **RunConfig.model_json_schema()}


def describe(module: Any, whole: type[Section]) -> None:
    """Copy each field's docstring into its description, for the sections of one module and the one that holds them.

    Done for the schema alone: reading sources costs start-up.
    """
    import ast

    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    for node in tree.body:
        section = getattr(module, node.name, None) if isinstance(node, ast.ClassDef) else None
        if not isinstance(node, ast.ClassDef) or not (isinstance(section, type) and issubclass(section, Section)):
            continue
        for field, text in zip(node.body, node.body[1:], strict=False):
            if not (isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)):
                continue
            if (
                isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            ):
                for heir in [section, *_heirs(section)]:
                    heir.model_fields[field.target.id].description = " ".join(text.value.value.split())
    for section in [*_heirs(Section)]:
        section.model_rebuild(force=True)
    whole.model_rebuild(force=True)


def _heirs(section: type[Section]) -> list[type[Section]]:
    return [heir for child in section.__subclasses__() for heir in (child, *_heirs(child))]
