"""An explanation as pictures and one page: what each facet and past action added to a score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from provender.consumers.explanation import Explanation
from provender.plugin.report_charts import BLUE, DARK, GREY, ORANGE, Chart, chart, without_side
from provender.plugin.report_page import page

_BODY = """
<main>
<h1>pin {{ pin }} for user {{ user }}</h1>
<p class="soft">{{ ranker }}, as of {{ at }}</p>
<ul class="tiles">
<li><strong>{{ told.score|percent }}</strong><span>p(click)</span></li>
<li><strong>{{ told.logit|number }}</strong><span>logit before calibration</span></li>
<li><strong>{{ told.actions|length }}</strong><span>past actions seen</span></li>
</ul>
<h2>Facets</h2>
<p>A contribution is the logit less the logit with that facet hidden: above 0 it raised the score.
Facets share what they say, so contributions need not add up. Attention is how far the head looked
at a facet, the mean of its heads; it says where, not how much.</p>
<div class="charts">{% call figure("facets") %}{% endcall %}
{% if "actions" in charts %}{% call figure("actions") %}{% endcall %}{% endif %}</div>
<div class="wide"><table><thead><tr><th>facet</th><th>kind</th><th>contribution</th>
<th>p(click) without</th><th>attention</th></tr></thead><tbody>
{% for part in told.facets %}
<tr><td>{{ part.name }}</td><td>{{ part.kind if part.present else "missing" }}</td>
<td>{{ part.contribution|number }}</td><td>{{ part.score_without|percent }}</td>
<td>{{ part.looked|percent }}</td></tr>
{% endfor %}</tbody></table></div>
{% if told.actions %}
<h2>Past actions</h2>
<div class="wide"><table><thead><tr><th>pin</th><th>action</th><th>age</th><th>contribution</th>
<th>attention</th></tr></thead><tbody>
{% for action in told.actions %}
<tr><td>{{ action.pin }}</td><td>{{ action.kind }}</td><td>{{ ages[loop.index0] }}</td>
<td>{{ action.contribution|number }}</td><td>{{ action.looked|percent }}</td></tr>
{% endfor %}</tbody></table></div>
{% endif %}
</main>
"""


class _Bar(NamedTuple):
    name: str
    contribution: float
    looked: float | None


def charts_of(told: Explanation) -> dict[str, Chart]:
    """Draw the facets' and, where there are any, the actions' contributions."""
    facets = [_Bar(one.name, one.contribution, one.looked) for one in told.facets if one.present]
    drawn = {
        "facets": chart(
            "facets",
            "What each facet added to the logit",
            _bars,
            facets,
            size=(4.8, 1.2 + 0.32 * len(facets)),
            told=_words(facets),
        )
    }
    actions = [
        _Bar(f"{one.pin}, {one.kind}, {age_of(one.age_seconds)}", one.contribution, one.looked)
        for one in told.actions
    ]
    if actions:
        drawn["actions"] = chart(
            "actions",
            "What each past action added to the logit",
            _bars,
            actions,
            size=(4.8, 1.2 + 0.32 * len(actions)),
            told=_words(actions),
        )
    return drawn


def explanation_page(
    told: Explanation, drawn: dict[str, Chart], user: object, pin: object, at: str, ranker: str
) -> str:
    """The page: nothing in it comes from outside itself."""
    ages = [age_of(one.age_seconds) for one in told.actions]
    title = f"why pin {pin} for user {user}"
    return page(
        _BODY, "", title, drawn, told=told, user=user, pin=pin, at=at, ranker=ranker, ages=ages
    )


def age_of(seconds: float) -> str:
    """An age as people say it: 40 s, 3 min, 5 h, 12 d."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _bars(axes: Axes, parts: Sequence[_Bar]) -> None:
    """Bars to both sides of nothing, the first at the top; attention stands behind the name."""
    names = [
        one.name if one.looked is None else f"{one.name} ({one.looked:.0%} looked at)"
        for one in parts
    ]
    values = [one.contribution for one in parts]
    colours = [BLUE if value >= 0 else ORANGE for value in values]
    places = range(len(parts))
    bars = axes.barh(places, values, color=colours, height=0.65)
    axes.bar_label(bars, [f"{value:+.2f}" for value in values], padding=3, fontsize=8)
    axes.set_yticks(places, names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color=GREY, linewidth=1)
    axes.margins(x=0.2)
    axes.set_xlabel("logit of a click", color=DARK)
    without_side(axes)


def _words(parts: Sequence[_Bar]) -> str:
    return ", ".join(f"{one.name} {one.contribution:+.2f}" for one in parts)
