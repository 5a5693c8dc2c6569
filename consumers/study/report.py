"""A study as one HTML page that needs nothing else, with PNGs, Markdown and JSON beside it."""

from __future__ import annotations

from pathlib import Path

from provender.consumers.study.charts import charts
from provender.consumers.study.figures import ALL, Study
from provender.consumers.study.tables import difference, markdown
from provender.consumers.study.variants import Question
from provender.plugin.files import write_whole
from provender.plugin.report_page import page

_STYLE = """
.charts { grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); }
figure svg { max-width: 640px; }
td:first-child, th:first-child { white-space: normal; min-width: 9rem; position: sticky; left: 0;
  background: #fff; }
#answers td { white-space: nowrap; }
"""

_BODY = """
<main>
<header>
<h1>{{ title }}</h1>
<p class="soft">The same ranker learned the same {{ study.training_rows|count }} impressions, each
time with more of what embeddings offer; figures are of later days alone, from
{{ study.window[1] }} to {{ study.window[2] }}, and means of {{ study.seeds|length }} seeds with
95 % intervals.</p>
<ul class="tiles">{% for value, words in tiles %}
<li><strong>{{ value }}</strong><span>{{ words }}</span></li>{% endfor %}</ul>
</header>
<section id="rankers"><h2>Rankers</h2>
<div class="wide"><table><thead><tr><th></th>
{% for task in study.tasks %}<th>{{ task }}<br>AUC</th><th>{{ task }}<br>log loss</th>
<th>{{ task }}<br>expected over observed</th>{% endfor %}<th>passes</th></tr></thead><tbody>
{% for name, parts in study.means.items() %}<tr><td>{{ name }}</td>
{% for task in study.tasks %}{% set one = parts[all][task] %}
<td>{{ (one.auc.mean if one.auc else none)|number(4) }}</td>
<td>{{ (one.log_loss.mean if one.log_loss else none)|number(4) }}</td>
<td>{{ (one.calibration.mean if one.calibration else none)|number(2) }}</td>{% endfor %}
<td>{{ study.epochs[name]|number(1) }}</td></tr>{% endfor %}
</tbody></table></div>
<div class="charts">{% for task in study.tasks %}{% for kind in ("auc_", "calibration_") %}
{% if kind + task in charts %}{% call figure(kind + task) %}{% endcall %}{% endif %}
{% endfor %}{% endfor %}</div></section>
<section id="answers"><h2>What each step brings</h2>
<p>Differences in AUC, paired by seed. An interval that includes zero says that the seeds do not
tell.</p>
<div class="wide"><table><thead><tr><th>better</th><th>than</th>
{% for task in study.tasks %}<th>{{ task }}</th>{% endfor %}</tr></thead><tbody>
{% for question, cells in answers %}<tr><td>{{ question.better }}</td><td>{{ question.than }}</td>
{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</tbody></table></div>
<div class="charts">{% for task in study.tasks %}{% if "lift_" + task in charts %}
{% call figure("lift_" + task) %}{% endcall %}{% endif %}{% endfor %}</div></section>
<section id="segments"><h2>Cold and warm</h2>
<p>By how often the user or the pin stood among the training rows. Segments with few clicks are left
out.</p>
<div class="charts">{% for name in charts if name.startswith("segment_") %}
{% call figure(name) %}{% endcall %}{% endfor %}</div></section>
</main>
"""


def write_report(folder: Path, study: Study, asked: list[Question]) -> Path:
    """Write charts, `study.md`, `study.html` and last `study.json`; return the page's path.

    Files of these names are replaced, each whole.
    """
    drawn = charts(study, asked)
    for name, one in drawn.items():
        write_whole(folder / f"{name}.png", one.png)
    html = page(
        _BODY,
        _STYLE,
        f"What embeddings are worth: {study.world}",
        drawn,
        study=study,
        all=ALL,
        tiles=_tiles(study, asked),
        answers=[(one, _cells(study, one)) for one in asked],
    )
    write_whole(folder / "study.md", markdown(study, asked).encode())
    place = folder / "study.html"
    write_whole(place, html.encode())
    write_whole(folder / "study.json", study.model_dump_json(indent=1).encode())
    return place


def _tiles(study: Study, asked: list[Question]) -> list[tuple[str, str]]:
    """The first answers, in percent of the other's click AUC."""
    found = []
    for question in asked[:4]:
        answer = study.answer(question, "click", "auc")
        if answer is not None and answer.relative is not None:
            words = f"click AUC of {question.better} over {question.than}"
            found.append((f"{answer.relative:+.1%}", words))
    return found


def _cells(study: Study, question: Question) -> list[str]:
    found = [study.answer(question, task, "auc") for task in study.tasks]
    return ["–" if one is None else difference(one.difference) for one in found]
