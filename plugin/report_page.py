"""The frame of a report as one HTML page: no script, and nothing from outside itself.

A report brings a template (Jinja2) of its body, which has the macros `figure` and `recall_table`
and the filters `percent`, `number` and `count`, and styles of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from provender.plugin.files import write_whole
from provender.plugin.report_charts import Chart

_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #5b6670; --line: #e1e5ea; --blue: #2563a8;
  --tint: #f5f7fa; --own: #e8f3ea; --green: #2f7d43; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.75rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .4rem 0; max-width: 70ch; }
.soft, figcaption, .facts { color: var(--soft); font-size: .9rem; }
.facts { display: flex; flex-wrap: wrap; gap: .1rem 1.4rem; margin: 0; }
.facts div { overflow-wrap: anywhere; }
.facts dt, .facts dd { display: inline; margin: 0; }
.facts dd { color: var(--ink); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(155px, 1fr)); gap: .75rem;
  margin: 1.5rem 0 0; padding: 0; list-style: none; }
.tiles li { background: var(--tint); border-radius: 10px; padding: .8rem 1rem; }
.tiles strong { display: block; font-size: 1.6rem; line-height: 1.2; color: var(--blue);
  font-variant-numeric: tabular-nums; }
.tiles span { color: var(--soft); font-size: .85rem; display: block; line-height: 1.35; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 400px), 1fr));
  gap: 1.25rem; margin: 1rem 0; align-items: start; }
figure { margin: 0; min-width: 0; }
figure svg { display: block; width: 100%; height: auto; max-width: 540px; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .35rem .9rem .35rem 0; text-align: right; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; }
tr.full td { font-weight: 600; }
@media (max-width: 560px) {
  main { padding: 1.25rem 1rem 3rem; }
  .tiles { grid-template-columns: 1fr 1fr; }
  .tiles strong { font-size: 1.35rem; }
  .tiles li:last-child:nth-child(odd) { grid-column: 1 / -1; }
  table { font-size: .86rem; }
  th, td { padding-right: .7rem; }
}
@media print {
  main { max-width: none; padding: 0; }
  body { font-size: 10.5pt; }
  figure, .tiles li, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .tiles { grid-template-columns: repeat(5, 1fr); }
  .charts { grid-template-columns: 1fr 1fr; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

_MACROS = """
{% macro figure(name) %}
<figure id="figure-{{ name }}">{{ charts[name] }}<figcaption>{{ titles[name] }}.{{ caller() }}
</figcaption></figure>
{% endmacro %}

{% macro recall_table(recall, others) %}
{% set full = recall.values()|list|last %}
<div class="wide"><table>
<thead><tr><th></th>{% for k in full %}<th>recall<br>@{{ k }}</th>{% endfor %}
{% for k in full %}<th>loss<br>@{{ k }}</th>{% endfor %}</tr></thead>
<tbody>
{% for dim, by_k in recall.items()|reverse %}
<tr{% if loop.first %} class="full"{% endif %}><td>{{ dim }} dims</td>
{% for k in full %}<td>{{ by_k[k]|percent }}</td>{% endfor %}
{% for k in full %}<td>{{ (1 - by_k[k] / full[k] if full[k] else none)|percent }}</td>{% endfor %}
</tr>
{% endfor %}
{% for name, by_k in others.items() %}
<tr><td>{{ name }}</td>{% for k in full %}<td>{{ by_k[k]|percent }}</td>{% endfor %}
{% for k in full %}<td></td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endmacro %}
"""

#: The browser is told to ask for nothing, whatever a text from a table contains.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>%s</style>
</head>
<body>%s</body>
</html>
"""


def page(body: str, style: str, title: str, charts: Mapping[str, Chart], **values: Any) -> str:
    """The whole page.

    Args:
        body: template of what is in its `<body>`; `charts`, `titles` and `values` fill it.
        style: CSS beside what all reports share.
        title: the page's, such as the view's name.
        charts: by name.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters |= {"percent": _percent, "number": _number, "count": _count}
    template = environment.from_string(_PAGE % (_STYLE + style, _MACROS + body))
    return template.render(
        title=title,
        charts={name: Markup(one.svg) for name, one in charts.items()},
        titles={name: one.title for name, one in charts.items()},
        **values,
    )


def write_page(
    folder: Path, html: str, charts: Mapping[str, Chart], told: Mapping[str, Any]
) -> Path:
    """Write the charts as PNGs, `quality.html`, and last `quality.json`; return the page's path.

    Files of these names are replaced, each whole.
    """
    for name, one in charts.items():
        write_whole(folder / f"{name}.png", one.png)
    place = folder / "quality.html"
    write_whole(place, html.encode())
    write_whole(folder / "quality.json", json.dumps(told, indent=1, allow_nan=False).encode())
    return place


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def _number(value: float | None, digits: int = 3) -> str:
    # Adding 0 makes a rounded -0.0 one without a sign.
    return "–" if value is None else f"{round(value, digits) + 0:.{digits}f}".replace("-", "−")


def _count(value: int) -> str:
    return f"{value:,}"
