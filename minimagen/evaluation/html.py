"""One self-contained page: everything is inside it, and everything from files is escaped."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from minimagen.evaluation.charts import COLORS
from minimagen.storage.files import replacing

LIGHT = (
    "--c0:#3461c9;--c1:#d0662a;--c2:#2c8a61;--c3:#a3439b;"
    "--c4:#8a7412;--c5:#2b8ba3;--c6:#c23a4b;--c7:#6b6f7a"
)
DARK = (
    "--c0:#84a9ff;--c1:#ffa36b;--c2:#6cd1a3;--c3:#e08fd8;"
    "--c4:#d9c25a;--c5:#72cde4;--c6:#ff8d99;--c7:#a9aeba"
)
"""The colors of curves on light and on dark pages, as many as ``charts.COLORS``."""
CHART_STYLE = """
figure svg{width:100%;height:auto;display:block}
figure svg text{fill:var(--soft);font-size:11px}
figure .rule{stroke:var(--line)}figure polyline{fill:none;stroke-width:1.8}
figure .legend{display:flex;flex-wrap:wrap;gap:.25rem 1rem;margin-top:.4rem}
figure .key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.4em}
""" + "".join(
    f"figure polyline.c{i}{{stroke:var(--c{i})}}figure circle.c{i}{{fill:var(--c{i})}}"
    f"figure .key .c{i}{{background:var(--c{i})}}"
    for i in range(COLORS)
)
"""Of what ``charts.chart`` returns; it needs the colors, ``--soft`` and ``--line``."""
STYLE = """
:root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c1d21;--soft:#666b76;--line:#e3e4e8;
--warn:#a3350f;--warnbg:#fdeee7;--good:#1d6b43;--goodbg:#e8f5ee}
@media(prefers-color-scheme:dark){:root{--bg:#131418;--card:#1b1d23;--ink:#e9eaee;--soft:#9aa0ad;
--line:#30333c;--warn:#ffb596;--warnbg:#3b2119;--good:#95dcb6;--goodbg:#17301f}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:1120px;padding:2rem 1.25rem 4rem;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}
h1{font-size:1.7rem;margin:0 0 .25rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.5rem 0 .75rem}h3{font-size:1rem;margin:1.25rem 0 .4rem}
.soft,figcaption,.legend{color:var(--soft);font-size:.9rem}
p{max-width:70ch;overflow-wrap:anywhere}
.wrap{overflow-x:auto;background:var(--card);border:1px solid var(--line);border-radius:8px}
table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.4rem .75rem;border-bottom:1px solid var(--line);vertical-align:top;
overflow-wrap:anywhere}
tr:last-child td{border-bottom:0}th{color:var(--soft);font-weight:600;white-space:nowrap}
td:first-child{overflow-wrap:break-word;min-width:9rem}
td+td{white-space:nowrap}td.long{white-space:normal;min-width:12rem}
tr.group th{color:var(--ink);padding-top:1rem}
.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr))}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:.75rem;min-width:0}
figcaption{margin-bottom:.5rem;overflow-wrap:anywhere}
.sheets{display:grid;gap:1rem}
img{display:block;max-width:100%;height:auto;border-radius:4px;background:#fff}
.note{border-radius:8px;padding:.6rem .9rem;margin:.5rem 0;background:var(--goodbg);
color:var(--good);overflow-wrap:anywhere}
.note.warn{background:var(--warnbg);color:var(--warn)}
details{margin:.5rem 0}summary{cursor:pointer}
@media(max-width:600px){body{padding:1.25rem .9rem 3rem}th,td{padding:.35rem .5rem}}
"""

ROOT_COLORS = f":root{{{LIGHT}}}@media(prefers-color-scheme:dark){{:root{{{DARK}}}}}"


def page(title: str, parts: Iterable[str]) -> str:
    """Return a whole page; ``parts`` are HTML already, the title is not."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{ROOT_COLORS}{CHART_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Return a headed section, nothing where no part has anything."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>" if any(parts) else ""


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of plain text; a row of one cell is a heading inside it."""
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in headings)
    body = "".join(_row(row, len(headings)) for row in rows)
    return f'<div class="wrap"><table><tr>{head}</tr>{body}</table></div>' if body else ""


def _row(row: Sequence[str], columns: int) -> str:
    if len(row) == 1:
        return f'<tr class="group"><th colspan="{columns}">{escape(row[0])}</th></tr>'
    return f"<tr>{''.join(map(_cell, row))}</tr>"


def _cell(text: str) -> str:
    kind = ' class="long"' if len(text) > 24 else ""
    return f"<td{kind}>{escape(text)}</td>"


def note(text: str, warns: bool = False) -> str:
    """Return a finding, set off."""
    kind = "note warn" if warns else "note"
    return f'<div class="{kind}">{escape(text)}</div>'


def image(title: str, path: Path) -> str:
    """Return a PNG file as part of the page; nothing where it cannot be read any more."""
    try:
        content = path.read_bytes()
    except OSError:
        return ""
    if not content.startswith(b"\x89PNG"):
        return ""
    data = base64.b64encode(content).decode("ascii")
    caption = escape(title if len(title) <= 300 else f"{title[:300]} [...]")
    return (
        f"<figure><figcaption>{caption}</figcaption>"
        f'<img alt="{caption}" src="data:image/png;base64,{data}"></figure>'
    )


def write_page(path: Path, text: str) -> Path:
    """Write a page.

    Raises:
        UserError: It cannot be written.
    """
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", errors="replace")
    return path
