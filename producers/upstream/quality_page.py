"""The template (Jinja2) of the report of upstream towers."""

from __future__ import annotations

STYLE = """
thead th { white-space: normal; min-width: 5rem; }
td:first-child, th:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 9rem;
  position: sticky; left: 0; background: #fff; }
td small { color: var(--soft); }
.panels { display: grid; gap: 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 210px), 1fr)); }
.panels figcaption { overflow-wrap: anywhere; }
#notes td { text-align: left; white-space: normal; overflow-wrap: anywhere; vertical-align: top; }
@media (max-width: 560px) {
  .panels { grid-template-columns: 1fr 1fr; gap: .6rem; }
}
@media print {
  .wide { overflow: visible; }
  .panels { grid-template-columns: repeat(4, 1fr); }
  thead th { min-width: 0; }
}
"""

BODY = """
{% macro chart(name) %}
{% if name in charts %}{% call figure(name) %}{% endcall %}{% endif %}
{% endmacro %}
<main>
<header>
<h1>{{ title }}</h1>
<p class="soft">What upstream towers predict of rows later than those that they learned from:
{{ quality.tasks|length }} {{ "task" if quality.tasks|length == 1 else "tasks" }}.</p>
<ul class="tiles">
{% for value, words in tiles %}
<li><strong>{{ value }}</strong><span>{{ words }}</span></li>
{% endfor %}
</ul>
</header>

<section id="ranking">
<h2>Who ranks better</h2>
<p>AUC: how often a positive is ranked above a row that is none. 0.5 is chance.</p>
<div class="wide"><table>
<thead><tr><th>task</th><th>rows</th><th>positives</th>
{% for who in rankers %}<th>{{ who }}</th>{% endfor %}
<th>lift that vectors keep</th></tr></thead>
<tbody>
{% for task, by in quality.tasks.items() %}
{% set first = firsts[task] %}
<tr><td>{{ task }}</td><td>{{ first.rows|count }}</td><td>{{ first.positives|count }}</td>
{% for who in rankers %}
{% set one = by.get(who) %}
<td>{{ (one.auc if one else none)|number(4) }}
{%- if one and one.rows != first.rows %}<br><small>of {{ one.rows|count }}</small>{% endif %}</td>
{% endfor %}
<td>{{ quality.lift_kept.get(task)|percent }}</td></tr>
{% endfor %}
</tbody></table></div>
<div class="charts">{{ chart("auc") }}{{ chart("kept") }}</div>
</section>

<section id="probabilities">
<h2>Probabilities</h2>
{% if probable %}
<p>Log loss in nats a row; less is better. Calibration is how many positives were expected over how
many there were; 1 is right.</p>
<div class="wide"><table>
<thead><tr><th>task</th>{% for who in probable %}
<th>{{ who }}:<br>log loss</th><th>{{ who }}:<br>calibration</th>{% endfor %}</tr></thead>
<tbody>
{% for task, by in quality.tasks.items() %}
<tr><td>{{ task }}</td>
{% for who in probable %}
{% set one = by.get(who) %}
<td>{{ (one.log_loss if one else none)|number(4) }}</td>
<td>{{ (one.calibration if one else none)|number }}</td>
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
<div class="charts">{{ chart("log_loss") }}{{ chart("calibration") }}</div>
<h3>Predicted against observed</h3>
<p class="soft">Each point is a tenth of the rows, by their prediction; on the dashed line they are
right.</p>
<div class="panels">
{% for name in charts if name.startswith("deciles_") %}{{ chart(name) }}{% endfor %}
</div>
{% else %}
<p>There are none.</p>
{% endif %}
</section>

<section id="recall">
<h2>Recall of the vectors</h2>
{% if dims %}
<p>{{ quality.pairs|count }} pairs of users and pins that came later: how many of the pins are among
the first of all {{ quality.candidates|count }} for their user, by how many of the first dims of the
vectors are used. The loss is relative to all dims.</p>
<div class="charts">{{ chart("recall") }}{{ chart("baselines") }}</div>
{{ recall_table(dims, others) }}
{% else %}
<p>There were no pairs to find.</p>
{% endif %}
</section>

{% if "loss" in charts %}
<section id="training">
<h2>Training</h2>
<div class="charts">{{ chart("loss") }}</div>
</section>
{% endif %}

<section id="notes">
<h2>How it was measured</h2>
<div class="wide"><table>
<tbody>
{% for name, meaning in meanings.items() %}
<tr><td>{{ name }}</td><td>{{ meaning }}</td></tr>
{% endfor %}
<tr><td>lift that vectors keep</td><td>how far the AUC of vectors alone is above that of popularity,
as a share of how far that of all three towers is</td></tr>
{% for name, value in notes.items() %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}
</tbody></table></div>
</section>
</main>
"""
