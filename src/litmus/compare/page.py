"""The comparison as one HTML file: tables and pictures inside, no script, nothing asked of a network."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path

from litmus.tracking import mask_secrets

Table = tuple[str, Sequence[Sequence[str]]]
"""A heading, and rows of which the first holds the columns' names."""

_WIDTH = 16  # of the lines that a picture's text is cut into
_STYLE = """
body { font: 14px/1.45 DejaVu Sans, Verdana, sans-serif; color: #222; max-width: 1200px; margin: 1.5rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem; margin: 0 0 .3rem }
h2 { font-size: 1.1rem; margin: 2rem 0 .4rem; border-top: 1px solid #d9d9d9; padding-top: .8rem }
.head, footer { color: #6b6b6b; margin: .1rem 0 }
.wide { overflow: auto; max-height: 40rem }
table { border-collapse: collapse; font-size: 12px }
th, td { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #eee; white-space: nowrap;
  font-variant-numeric: tabular-nums }
th { position: sticky; top: 0; background: #fff }
img { max-width: 100%; height: auto }
.warn li { color: #a33c00 }
footer { margin-top: 2rem; font-size: 12px }
"""


def write_page(
    path: Path,
    *,
    title: str,
    head: Sequence[str],
    found: Sequence[str],
    warnings: Sequence[str],
    tables: Sequence[Table],
    pictures: Sequence[tuple[str, Path]],
) -> Path:
    """Write the page, whole or not at all. Every text is escaped, and secrets in it are masked.

    Args:
        head: lines beneath the title.
        found: sentences.
        warnings: what makes the comparison unfair; the heading is left out where there is nothing.
        pictures: heading and PNG of each.
    """
    parts = [
        f"<h1>{_escaped(title)}</h1>",
        *(f"<p class=head>{_escaped(line)}</p>" for line in head),
        _list("Found", found),
        _list("Not alike", warnings, "warn"),
        *(_table(heading, rows) for heading, rows in tables if len(rows) > 1),
        *(_picture(heading, picture) for heading, picture in pictures),
    ]
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    text = "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width">',
            f"<title>{_escaped(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>",
            *filter(None, parts),
            "<footer>This page holds everything it shows and asks no network for anything.</footer>",
            "</body>\n</html>\n",
        ]
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
    return path


def _list(heading: str, lines: Sequence[str], kind: str = "") -> str:
    items = "".join(f"<li>{_escaped(line)}</li>" for line in lines)
    return f'<h2>{heading}</h2><ul class="{kind}">{items}</ul>' if items else ""


def _table(heading: str, rows: Sequence[Sequence[str]]) -> str:
    def row(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{_escaped(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(row(cells, "td") for cells in rows[1:])
    return f"<h2>{_escaped(heading)}</h2><div class=wide><table>{row(rows[0], 'th')}{body}</table></div>"


def _picture(heading: str, path: Path) -> str:
    """In short lines: a long run of letters could be taken for a secret, and be masked, when the page is recorded."""
    text = base64.b64encode(path.read_bytes()).decode()
    lines = "\n".join(text[at : at + _WIDTH] for at in range(0, len(text), _WIDTH))
    return f'<h2>{_escaped(heading)}</h2><img alt="{_escaped(heading)}" src="data:image/png;base64,\n{lines}">'


def _escaped(text: str) -> str:
    return html.escape(str(mask_secrets(text)))
