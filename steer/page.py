"""Parts of an HTML page that stands alone: no scripts, nothing fetched, pictures inside."""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Iterable, Sequence
from html import escape
from typing import SupportsFloat

STYLE = """
:root { color-scheme: light; --ink: #222; --faded: #666; --line: #d5d5d5; --blue: #2166ac; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; color: var(--ink);
  background: #fff; font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.3rem; margin: 2.8rem 0 .6rem; padding-top: .6rem;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
a { color: var(--blue); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0; }
dt { color: var(--faded); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
pre { background: #f5f5f5; padding: .7rem .9rem; border-radius: .3rem; white-space: pre-wrap;
  font-size: .88rem; }
code span { display: inline-block; max-width: 100%; overflow-wrap: anywhere; }
figure { margin: 1rem 0; min-width: 0; }
figcaption, caption { color: var(--faded); font-size: .88rem; text-align: left; }
caption { padding: 0 0 .4rem; caption-side: top; }
img { display: block; max-width: 100%; height: auto; }
.figures { display: grid; gap: 0 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.scroll { overflow-x: auto; margin: 1rem 0; }
.scroll img { max-width: none; width: max(100%, 40rem); }
.scroll img.walk { width: auto; max-width: max(100%, 30rem); }
table { border-spacing: 0; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; position: sticky; left: 0;
  background: #fff; }
td small { display: block; color: var(--faded); }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin: 0 0 .4rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  figure, tr { break-inside: avoid; } h2 { break-after: avoid; }
  .scroll { overflow: visible; } .scroll img, .scroll img.walk { width: auto; max-width: 100%; }
  table { font-size: 7pt; } th, td { padding: .15rem .3rem; } }
"""
#: Nothing is fetched, whatever a page says.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, parts: Iterable[str]) -> str:
    """A page of parts that are HTML already; empty ones are left out.

    >>> document("a < b", ["<p>text</p>"]).count("a &lt; b")
    2
    """
    body = "\n".join([f"<h1>{escape(title)}</h1>", *filter(None, parts)])
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def number(value: SupportsFloat | None) -> str:
    """Three digits, with a true minus sign; a dash for what is not known.

    >>> number(-0.12345), number(1e-17), number(None)
    ('−0.123', '0', '–')
    """
    if value is None or math.isnan(float(value)):
        return "–"
    return f"{round(float(value), 9) + 0.0:.3g}".replace("-", "−")


def percent(share: SupportsFloat | None) -> str:
    """A share in percent.

    >>> percent(0.98765), percent(1.0)
    ('98.8%', '100%')
    """
    return "–" if share is None else f"{100 * float(share):.3g}%"


def table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table under its caption; all texts are HTML already."""
    head = "".join(f'<th scope="col">{each}</th>' for each in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<p>{caption}</p><div class="scroll" role="region" aria-label="Table" tabindex="0"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def picture(data: bytes, alt: str, caption: str, wide: bool = False, kind: str = "") -> str:
    """A figure with a PNG inside it; one that is `wide` scrolls on a narrow screen."""
    width, height = struct.unpack(">II", data[16:24])
    image = (
        f'<img class="{kind}" width="{width}" height="{height}" alt="{escape(alt)}"'
        f' src="data:image/png;base64,{base64.b64encode(data).decode()}">'
    )
    if wide:
        image = f'<div class="scroll" role="region" aria-label="Figure" tabindex="0">{image}</div>'
    return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
