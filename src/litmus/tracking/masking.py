"""Keep passwords, keys and tokens out of everything that is written or sent.

Three nets, each of which catches what the others miss: the name beside the
value (``password=...``), the shape of the value (``ghp_...``, a private key),
and the values of this process's own secret environment variables, wherever
they turn up. Digests and git commits are not secrets: hexadecimal alone is
never masked by shape.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

MASK = "[masked]"

_SECRET_WORDS = {
    "password", "passwords", "passwd", "pwd", "passphrase", "passcode", "secret", "secrets", "token", "apikey",
    "credential", "credentials", "authorization", "bearer", "cookie", "dsn", "authtoken", "accesstoken",
    "secretkey", "privatekey", "accesskey", "sas", "pat", "webhook",
}  # fmt: skip
_KEY_OWNERS = {
    "api", "access", "private", "secret", "signing", "encryption", "auth", "account", "license", "ssh", "master",
    "shared", "service", "storage", "client", "subscription",
}  # fmt: skip
# A vision transformer has tokens too: `class_token`, `num_tokens`, `token_dim`.
_NET_WORDS_BEFORE = {
    "class", "cls", "dist", "mask", "pad", "num", "reg", "register", "max", "min", "per", "patch", "bos", "eos",
    "sep", "unk", "start", "end", "special", "image", "query",
}  # fmt: skip
_NET_WORDS_AFTER = {
    "dim", "dims", "drop", "dropout", "pool", "mlp", "len", "length", "type", "mixer", "count", "label",
}  # fmt: skip

_SHAPES = re.compile(
    "|".join(
        [
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)",
            r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ABIA|ACCA)[A-Z0-9]{16}\b",
            r"\bgh[pousr]_[A-Za-z0-9]{30,}",
            r"\bgithub_pat_[A-Za-z0-9_]{22,}",
            r"\bgl(?:pat|dt|rt|ptt|oas|cbt)-[A-Za-z0-9_-]{18,}",
            r"\bhf_[A-Za-z0-9]{20,}",
            r"\b(?:sk|rk|pk)-[A-Za-z0-9_-]{20,}",
            r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}",
            r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
            r"\bxapp-[A-Za-z0-9-]{10,}",
            r"\bAIza[A-Za-z0-9_-]{35}",
            r"\bya29\.[A-Za-z0-9_-]{20,}",
            r"\bGOCSPX-[A-Za-z0-9_-]{20,}",
            r"\bdapi[0-9a-f]{32}\b",
            r"\bdo[opr]_v1_[0-9a-f]{64}\b",
            r"\bnpm_[A-Za-z0-9]{36}\b",
            r"\bpypi-[A-Za-z0-9_-]{50,}",
            r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
            r"\bwandb_v1_[A-Za-z0-9_]{20,}",
            r"\bglsa_[A-Za-z0-9_]{30,}",
            r"\bhvs\.[A-Za-z0-9_-]{20,}",
            r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
            r"https://hooks\.slack\.com/services/[A-Za-z0-9/]+",
        ]
    )
)
_URL_PASSWORD = re.compile(
    r"(?P<before>(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/:@'\"]*:)[^\s/@'\"]+(?=@)"
)
_URL_TOKEN = re.compile(r"(?P<before>\bhttps?://)[A-Za-z0-9_-]{20,}(?=@)")
_SIGNED_URL = re.compile(
    r"(?P<before>[?&;](?:X-Amz-Signature|X-Amz-Security-Token|X-Amz-Credential|X-Goog-Signature|X-Goog-Credential"
    r"|Signature|sig|access_token|api_key|apikey|token|key|password)=)[^&\s'\"]+",
    re.IGNORECASE,
)
_AUTH_HEADER = re.compile(r"(?P<before>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
_ACCOUNT_KEY = re.compile(r"(?P<before>\b(?:AccountKey|SharedAccessKey|Password|Pwd)=)[^;\s'\"]{6,}", re.IGNORECASE)

_WORD = r"[A-Za-z_][\w.-]{0,120}"
_NAME = rf"(?<![\w.])(?<![\w.]-){_WORD}"  # from its first letter: trying each letter of a long word is quadratic
# name = "value", name: 'value', "name": "value"
_QUOTED = re.compile(
    rf"(?P<name>{_NAME})(?P<sep>[\"']?[ \t]*[:=][ \t]*[bruf]?)"
    r"(?P<quote>[\"'])(?P<value>(?:\\.|(?!(?P=quote)).)+)(?P=quote)"
)
# name=value, name: value
_BARE = re.compile(rf"(?P<name>{_NAME})(?P<sep>[\"']?[ \t]*[:=][ \t]*)(?P<value>[^\s\"',;{{}}\[\]&|]+)")
_FLAG = re.compile(r"(?P<name>(?<![\w-])--?[A-Za-z][\w.-]*)(?P<sep>[ \t]+)(?P<value>(?!-)[^\s\"']+)")
# A whole line of YAML, an .ini or an .env; in a diff it begins with + or -.
_LINE = re.compile(
    rf"(?P<head>[+ -]? *(?:- +)?(?:export +)?[\"']?(?P<name>{_WORD})[\"']?[ \t]*[:=][ \t]*)"
    r"(?P<value>.*?)(?P<tail>(?:\s+#.*)?\s*)"
)

_LINES = {".yaml", ".yml", ".toml", ".cfg", ".ini", ".env"}
_CODE = {".py", ".pyi", ".ipynb", ".c", ".cc", ".cpp", ".h", ".cu", ".js", ".ts", ".go", ".rs", ".java", ".lock"}
TEXT_SUFFIXES = {".yaml", ".yml", ".json", ".jsonl", ".toml", ".txt", ".log", ".md", ".diff", ".patch", ".cfg", ".ini",
                 ".env", ".sh", ".csv", ".py"}  # fmt: skip


def mask_secrets(value: Any, *, key: str = "", name: str = "") -> Any:
    """The same text, list or mapping with every secret replaced by ``[masked]``.

    Args:
        value: text (masked inside), a mapping or sequence (masked through), or anything else (kept).
        key: the name the value goes by, dotted; a secret name masks the value whole.
        name: a file name; its suffix decides whether bare words after a secret name
            are values (YAML, shell) or code (``token = read()`` in Python, kept).

    >>> mask_secrets({"optim.lr": 0.1, "hub.token": "abc"})
    {'optim.lr': 0.1, 'hub.token': '[masked]'}
    """
    if key and is_secret_name(key):
        return _mask_leaves(value)
    if isinstance(value, Mapping):
        return {inner: mask_secrets(item, key=str(inner), name=name) for inner, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return type(value)(mask_secrets(item, name=name) for item in value)
    if isinstance(value, str):
        return _mask_diff(value) if PurePath(name).suffix in (".diff", ".patch") else _mask_text(value, name)
    return value


def mask_command(argv: Iterable[str]) -> list[str]:
    """A command line with the values of secret options and overrides masked, spaces in them or not."""
    masked: list[str] = []
    secret_next = False
    for word in argv:
        name, equals, value = word.partition("=")
        if secret_next and not word.startswith("-"):
            masked.append(MASK)
        elif equals and value and is_secret_name(name):
            masked.append(f"{name}={MASK}")
        else:
            masked.append(_mask_text(word, ".py"))
        secret_next = word.startswith("-") and not equals and is_secret_name(word)
    return masked


def _mask_leaves(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _mask_leaves(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mask_leaves(item) for item in value]
    return value if value is None or value == "" or isinstance(value, bool) else MASK


def is_secret_name(name: str) -> bool:
    """Whether a value of this name is a secret: by the words of the last dotted part.

    >>> [is_secret_name(n) for n in ("api_key", "AWS_SECRET_ACCESS_KEY", "model.class_token", "monitor.key")]
    [True, True, False, False]
    """
    words = _words(name.lstrip("-").rsplit(".", 1)[-1])
    for before, word, after in zip(["", *words], words, [*words[1:], ""], strict=False):
        if word == "key" and before in _KEY_OWNERS:
            return True
        if word in ("pat", "sas") and len(words) > 1 and after not in ("", "token"):
            continue
        if word == "token" and (before in _NET_WORDS_BEFORE or after in _NET_WORDS_AFTER):
            continue
        if word in _SECRET_WORDS:
            return True
    return False


def _words(name: str) -> list[str]:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [word.lower() for word in re.split(r"[^A-Za-z0-9]+", spaced) if word]


def own_secrets(environ: Mapping[str, str] | None = None) -> list[str]:
    """Values of secret-named environment variables, longest first; short ones would mask ordinary words."""
    environ = os.environ if environ is None else environ
    values = {value.strip() for name, value in environ.items() if is_secret_name(name)}

    def telling(value: str) -> bool:  # a plain word would take ordinary text with it; a path is needed to read a log
        return len(value) >= (20 if value.isalpha() else 8) and not value.startswith(("/", "./", "~"))

    return sorted(filter(telling, values), key=len, reverse=True)


def _mask_text(text: str, name: str = "", own: Iterable[str] | None = None) -> str:
    for secret in own_secrets() if own is None else own:
        text = text.replace(secret, MASK)
    text = _SHAPES.sub(MASK, text)
    for pattern in (_URL_PASSWORD, _URL_TOKEN, _SIGNED_URL, _AUTH_HEADER, _ACCOUNT_KEY):
        text = pattern.sub(rf"\g<before>{MASK}", text)
    suffix = PurePath(name).suffix or PurePath(name).name  # `.env` is all name
    if suffix in _LINES:
        text = _mask_lines(text)
    text = _QUOTED.sub(_mask_assignment, text)
    if suffix not in _CODE:
        text = _BARE.sub(_mask_assignment, text)
        text = _FLAG.sub(_mask_assignment, text)
    return text


def _mask_assignment(match: re.Match[str]) -> str:
    name, value = match["name"], match["value"]
    if not is_secret_name(name) or MASK.startswith(value[:7]) or value.lower() in _NOT_SECRET:
        return match[0]
    quote = match.groupdict().get("quote") or ""
    return f"{name}{match['sep']}{quote}{MASK}{quote}"


def _mask_lines(text: str) -> str:
    """Everything after a secret name, to the end of the line, and the deeper lines when the value is there."""
    masked, inside = [], None
    for line in text.splitlines(keepends=True):
        body = line[1:] if line[:1] in "+-" and line[1:2] != " " else line
        depth = len(body) - len(body.lstrip(" "))
        found = _LINE.fullmatch(line)
        if inside is not None and body.strip() and (depth > inside or body.lstrip().startswith("- ")):
            head = found["head"] if found else line[: len(line) - len(line.lstrip(" +-"))]
            empty = found is not None and not found["value"]
            masked.append(line if empty else f"{head}{MASK}{_line_end(line)}")
            continue
        if body.strip():
            inside = None
        told = found is None or found["value"].lower() in ("null", "true", "false")
        if found is None or told or found["value"].strip("'\"") == MASK or not is_secret_name(found["name"]):
            masked.append(line)
        elif found["value"] in ("", "|", ">", "|-", ">-", "|+", ">+"):
            inside = depth
            masked.append(line)
        else:
            masked.append(f"{found['head']}{MASK}{found['tail']}")
    return "".join(masked)


def _line_end(line: str) -> str:
    return line[len(line.rstrip("\r\n")) :]


_NOT_SECRET = {"null", "none", "~", "true", "false", "str", "int", "bool", "float", "|", ">", "|-", ">-"}


def _mask_diff(diff: str) -> str:
    """A diff file by file, as what each file is: a type annotation in Python stays, a bare word in YAML goes."""
    own, masked, name, block = own_secrets(), [], "", []  # type: ignore[var-annotated]
    for line in diff.splitlines(keepends=True):
        if line.startswith("diff --git "):
            masked.append(_mask_text("".join(block), name, own))
            name, block = line.split()[-1], []
        block.append(line)
    masked.append(_mask_text("".join(block), name, own))
    return "".join(masked)
