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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

MASK = "[masked]"

_SECRET_WORDS = {
    "password", "passwords", "passwd", "pgpassword", "pwd", "passphrase", "passcode", "secret", "secrets", "token",
    "apikey", "credential", "credentials", "authorization", "bearer", "cookie", "dsn", "authtoken", "accesstoken",
    "secretkey", "privatekey", "accesskey", "sas", "pat", "webhook",
}  # fmt: skip
_KEY_OWNERS = {
    "api", "access", "private", "secret", "signing", "encryption", "auth", "account", "license", "ssh", "master",
    "shared", "service", "storage", "client", "subscription",
}  # fmt: skip
_PASS_OWNERS = {"db", "database", "smtp", "mail", "email", "user", "ftp", "mysql", "postgres", "redis", "root", "admin"}
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
            r"-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----|\Z)",
            r"(?<=\bPrivate-Lines: )\d+\s[\s\S]*?(?=Private-MAC|\Z)",
            r"\bAGE-SECRET-KEY-1[A-Z0-9]{50,}",
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
            r"\bglc_[A-Za-z0-9+/=_-]{30,}",
            r"\bhv[sbr]\.[A-Za-z0-9_-]{20,}",
            r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
            r"\beyJ[A-Za-z0-9+/_-]{40,}",  # JSON in base64: Neptune's tokens, and others'
            r"\bsntry[su]_[A-Za-z0-9+/=_-]{20,}",
            r"\bdckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}",
            r"\bATATT3[A-Za-z0-9_=-]{30,}",
            r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b",
            r"\blin_api_[A-Za-z0-9]{30,}",
            r"\bntn_[A-Za-z0-9]{30,}",
            r"\br8_[A-Za-z0-9]{30,}",
            r"\bgsk_[A-Za-z0-9]{40,}",
            r"\bpplx-[A-Za-z0-9]{30,}",
            r"\bxai-[A-Za-z0-9]{60,}",
            r"\bPMAK-[0-9a-f]{24}-[0-9a-f]{34}\b",
            r"\bfigd_[A-Za-z0-9_-]{30,}",
            r"\bsbp_[0-9a-f]{40}\b",
            r"\bNRAK-[A-Z0-9]{27}\b",
            r"\bpul-[0-9a-f]{40}\b",
            r"\bsq0(?:atp|csp)-[A-Za-z0-9_-]{22,}",
            r"\bSK[0-9a-f]{32}\b",
            r"\bkey-[0-9a-f]{32}\b",
            r"\b[0-9]{8,10}:AA[A-Za-z0-9_-]{33}",
            r"\b[MNO][A-Za-z0-9_-]{23,27}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}",
            r"\b[A-Za-z0-9]{14}\.atlasv1\.[A-Za-z0-9_-]{60,}",
            r"\b1//0[A-Za-z0-9_-]{30,}",
            r"https://hooks\.slack\.com/services/[A-Za-z0-9/]+",
            r"https://discord(?:app)?\.com/api/webhooks/[0-9]+/[A-Za-z0-9_-]+",
        ]
    )
)
_URL_PASSWORD = re.compile(
    r"(?P<before>(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}://[^\s/:@'\"]*:)[^\s/'\"<>]+(?=@)"
)
_URL_TOKEN = re.compile(r"(?P<before>\bhttps?://)[A-Za-z0-9_-]{20,}(?=@)")
_SIGNED_URL = re.compile(
    r"(?P<before>[?&;](?:X-Amz-Signature|X-Amz-Security-Token|X-Amz-Credential|X-Goog-Signature|X-Goog-Credential"
    r"|Signature|sig|access_token|api_key|apikey|token|key|password)=)[^&\s'\"]+",
    re.IGNORECASE,
)
_AUTH_HEADER = re.compile(
    r"(?P<before>\b(?:Bearer|Basic|Authorization[\"']?\s*[:=]\s*[\"']?(?:Token|ApiKey|Digest))\s+)"
    r"[A-Za-z0-9._~+/=-]{8,}",
    re.IGNORECASE,
)
_NETRC = re.compile(r"(?P<before>\blogin\s+\S+\s+password\s+)\S+")
_KAGGLE = re.compile(r"(?P<before>\"username\"\s*:\s*\"[^\"]{1,80}\"\s*,\s*\"key\"\s*:\s*\")[0-9a-f]{32}")
_CURL_USER = re.compile(r"(?P<before>\bcurl\b[^\n]{0,200}?\s(?:-u|--user)[ =]?[\"']?[^\s:\"']{1,80}:)[^\s\"']+")
_ACCOUNT_KEY = re.compile(r"(?P<before>\b(?:AccountKey|SharedAccessKey|Password|Pwd)=)[^;\s'\"]{6,}", re.IGNORECASE)
_PATTERNS = (
    _URL_PASSWORD, _URL_TOKEN, _SIGNED_URL, _AUTH_HEADER, _ACCOUNT_KEY, _NETRC, _KAGGLE, _CURL_USER,
)  # fmt: skip

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
# A text without any of these (in lower case) holds nothing that a pattern below would mask: looking for them is ten
# times as fast as trying the patterns.
_SIGNS = (
    "passw", "pgpass", "passphrase", "passcode", "pwd", "secret", "token", "key", "credential", "authorization",
    "bearer", "basic ", "cookie", "dsn", "webhook", "://", "begin ", "private-lines", "akia", "asia", "agpa", "aida",
    "aroa", "abia", "acca", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_", "glpat", "gldt", "glrt", "glptt",
    "gloas", "glcbt", "hf_", "sk-", "rk-", "pk-", "sk_", "rk_", "xox", "xapp", "aiza", "ya29", "gocspx", "dapi",
    "doo_", "dop_", "dor_", "npm_", "pypi-", "sg.", "wandb_", "glsa_", "glc_", "hvs.", "hvb.", "hvr.", "eyj", "sntry",
    "dckr_", "atatt3", "shp", "lin_api", "ntn_", "r8_", "gsk_", "pplx-", "xai-", "pmak-", "figd_", "sbp_", "nrak-",
    "pul-", "sq0", "atlasv1", "1//0", ":aa", "login", "curl", "sig=", "signature=",
)  # fmt: skip
_SIGN = re.compile(
    r"(?<![a-z])(?:pat|sas|pass)(?![a-z])|\bsk[0-9a-f]{32}\b|\b[mno][a-z0-9_-]{23,27}\.[a-z0-9_-]{6}\.[a-z0-9_-]{27}"
)
_PIECE_CHARS = 1_000_000


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
        if (word == "key" and before in _KEY_OWNERS) or (word == "pass" and before in _PASS_OWNERS):
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


def mask_lines(lines: Iterable[str], *, name: str = "") -> Iterator[str]:
    """A long text's lines masked in pieces of a million characters, so that its length costs no memory."""
    piece: list[str] = []
    chars, in_key = 0, False
    for line in lines:
        piece.append(line)
        chars += len(line)
        if "-----" in line:  # a private key is masked whole
            in_key = "-----BEGIN" in line
        if chars >= _PIECE_CHARS and not (in_key and chars < 2 * _PIECE_CHARS):
            yield str(mask_secrets("".join(piece), name=name))
            piece, chars, in_key = [], 0, False
    yield str(mask_secrets("".join(piece), name=name))


def _mask_text(text: str, name: str = "", own: Iterable[str] | None = None) -> str:
    for secret in own_secrets() if own is None else own:
        text = text.replace(secret, MASK)
    small = text.lower()
    if not any(sign in small for sign in _SIGNS) and not _SIGN.search(small):
        return text
    text = _SHAPES.sub(MASK, text)
    for pattern in _PATTERNS:
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
