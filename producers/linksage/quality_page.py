"""The template (Jinja2) of the quality report of LinkSage."""

from __future__ import annotations

STYLE = """
#same-space td:first-child { white-space: normal; }
.page { border: 1px solid var(--line); border-radius: 12px; margin: 1.25rem 0; overflow: hidden; }
.page > header { display: flex; gap: 1rem; padding: 1rem; background: var(--tint); }
.page > header img { width: 88px; height: 88px; object-fit: cover; border-radius: 8px;
  flex: none; }
.page > header p { font-size: .9rem; overflow-wrap: anywhere; }
.pins { list-style: none; margin: 0; padding: 1rem; display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 150px), 1fr)); }
.pins li { border: 1px solid var(--line); border-radius: 8px; overflow: hidden; font-size: .82rem;
  line-height: 1.35; display: flex; flex-direction: column; min-width: 0; }
.pins li.own { background: var(--own); border-color: var(--green); }
.pins img { width: 100%; aspect-ratio: 4 / 3; object-fit: cover; display: block; }
.pins .words { padding: .5rem .6rem .6rem; overflow-wrap: anywhere; flex: 1; }
.pins b { font-weight: 600; display: -webkit-box; -webkit-line-clamp: 3;
  -webkit-box-orient: vertical; overflow: hidden; }
.pins .rest { color: var(--soft); display: -webkit-box; -webkit-line-clamp: 3;
  -webkit-box-orient: vertical; overflow: hidden; }
.pins .score { display: flex; justify-content: space-between; gap: .5rem; color: var(--soft);
  padding: .35rem .6rem; border-top: 1px solid var(--line); font-variant-numeric: tabular-nums; }
.pins .own .score { color: var(--green); font-weight: 600; border-color: #c3dfc9; }
@media (max-width: 560px) {
  .pins { grid-template-columns: 1fr 1fr; padding: .75rem; gap: .6rem; }
  .page > header { padding: .75rem; }
}
@media print {
  .pins li, .page > header { break-inside: avoid; }
  .page > header { break-after: avoid; }
  .pins { grid-template-columns: repeat(6, 1fr); }
}
"""

BODY = """
{% set full = quality.dims[-1] %}
{% set k = quality.ks[-1] %}
{% set space = quality.same_space %}
<main>
<header>
<h1>{{ title }}</h1>
<dl class="facts">
{% for name, value in about.items() %}
<div><dt>{{ name }}</dt> <dd>{{ value }}</dd></div>
{% endfor %}
</dl>
<p class="soft">{{ quality.pairs|count }} held-out pairs of {{ quality.pages|count }} pages with
their pins, against {{ quality.candidates|count }} pins.</p>
<ul class="tiles">
<li><strong>{{ quality.recall[full][k]|percent }}</strong>
<span>recall@{{ k }} at {{ full }} dims</span></li>
{% if quality.dims|length > 1 %}
{% set short = quality.dims[-3] if quality.dims|length > 2 else quality.dims[0] %}
<li><strong>{{ quality.loss(short, k)|percent }}</strong>
<span>of it lost at {{ short }} dims</span></li>
{% endif %}
<li><strong>{{ quality.negatives_below[full]|percent }}</strong>
<span>of other pins have a cosine below {{ threshold }}</span></li>
<li><strong>{{ quality.kurtosis[full]|number }}</strong>
<span>kurtosis of pages’ cosines (3: normal)</span></li>
<li><strong>{{ space.own|number }}</strong>
<span>mean cosine of a page and its own pin</span></li>
</ul>
</header>

<section id="recall">
<h2>Recall</h2>
<p>How many of the held-out pins are among the first of all {{ quality.candidates|count }} for
their page, by how many of the first dims of the vectors are used.</p>
<div class="charts">
{% call figure("recall") %}{% endcall %}
{% call figure("baselines") %}{% endcall %}
</div>
{{ recall_table(recall, quality.baselines) }}
</section>

<section id="scores">
<h2>Scores of own and of other pins</h2>
<div class="charts">
{% call figure("scores") %} {{ quality.negatives_below[full]|percent }} of the other pins, and
{{ quality.positives.below|percent }} of the own ones, are below {{ threshold }}.{% endcall %}
<div class="wide"><table>
<thead><tr><th>cosine</th><th>own pins</th><th>other pins</th></tr></thead>
<tbody>
<tr><td>mean</td><td>{{ quality.positives.mean|number }}</td>
<td>{{ (quality.negatives.mean if quality.negatives else none)|number }}</td></tr>
{% for share in quantiles %}
<tr><td>{{ share }} are below</td><td>{{ quality.positives.quantiles[loop.index0]|number }}</td>
<td>{{ (quality.negatives.quantiles[loop.index0] if quality.negatives else none)|number }}</td></tr>
{% endfor %}
</tbody></table></div>
</div>
</section>

<section id="spread">
<h2>How pages spread</h2>
<div class="charts">
{% call figure("cosines") %} Kurtosis {{ quality.kurtosis[full]|number }}; a high one means that
many pages are nearly alike and some far apart.{% endcall %}
<div class="wide"><table>
<thead><tr><th>dims</th><th>kurtosis<br>(3: normal)</th><th>excess<br>kurtosis</th>
<th>other pins<br>below {{ threshold }}</th></tr></thead>
<tbody>
{% for dim in quality.dims|reverse %}
{% set peaked = quality.kurtosis[dim] %}
<tr{% if dim == full %} class="full"{% endif %}><td>{{ dim }}</td><td>{{ peaked|number }}</td>
<td>{{ (peaked - 3 if peaked is not none else none)|number }}</td>
<td>{{ quality.negatives_below[dim]|percent }}</td></tr>
{% endfor %}
</tbody></table></div>
</div>
</section>

<section id="same-space">
<h2>Pages in the pins’ space</h2>
<div class="wide"><table>
<tbody>
<tr><td>mean cosine of a page and its own pin, held out</td><td>{{ space.own|number }}</td></tr>
<tr><td>… and its own pin, learned from</td><td>{{ space.known|number }}</td></tr>
<tr><td>… and any other pin</td><td>{{ space.others|number }}</td></tr>
<tr><td>how often the own pin is the nearer of the two</td><td>{{ space.nearer|percent }}</td></tr>
<tr><td>distance of the mean page from the mean pin (0 to 2)</td>
<td>{{ space.gap|number }}</td></tr>
</tbody></table></div>
</section>

{% if pictures %}
<section id="pictures">
<h2>The first pins of {{ pictures|length }} pages</h2>
<p>Pages drawn from those with held-out pins. Held-out pins that were found are green; pins that
were learned from are left out.</p>
{% for one in pictures %}
<article class="page">
<header>
{% if one.page.image %}<img src="{{ one.page.image }}" alt="">{% endif %}
<div><h3>{{ one.page.head or "page " ~ one.page.key }}</h3>
{% if one.page.url %}<p class="soft">{{ one.page.url }}</p>{% endif %}
{% if one.page.rest %}<p>{{ one.page.rest }}</p>{% endif %}
<p class="soft">{{ one.hits }} of {{ one.own|length }} found of what was held out:
{% for card in one.own[:5] %}{{ card.head or "pin " ~ card.key }}{{ "; " if not loop.last }}
{%- endfor %}{{ "; …" if one.own|length > 5 }}</p></div>
</header>
<ol class="pins">
{% for pin in one.found %}
<li{% if pin.own %} class="own"{% endif %}>
{% if pin.image %}<img src="{{ pin.image }}" alt="">{% endif %}
<div class="words"><b>{{ pin.head or "pin " ~ pin.key }}</b>
{% if pin.rest %}<span class="rest">{{ pin.rest }}</span>{% endif %}</div>
<div class="score"><span>{{ loop.index }}{{ " · its own" if pin.own }}</span>
<span>{{ pin.cosine|number }}</span></div>
</li>
{% endfor %}
</ol>
</article>
{% endfor %}
</section>
{% endif %}

<section id="how">
<h2>How it was measured</h2>
<p>Recall@k: each held-out pair asks where its pin is among all pins, ranked exactly by cosine.
Pins that the page is known to go with, and its other held-out pins, are left out. Pins of equal
scores may be in any order; the mean over these orders counts. The loss is relative to
{{ full }} dims.</p>
<p>Other pins: any pin that is not the page’s own, of
{{ (quality.negatives.count if quality.negatives else 0)|count }} drawn pairs. Pages with each
other: {{ (quality.pairwise.count if quality.pairwise else 0)|count }} pairs. Kurtosis is
Pearson’s, the fourth central moment by the square of the variance; the excess is 3 less.</p>
{% if quality.notes %}
<p class="soft">{% for name, value in quality.notes.items() %}{{ name }}: {{ value }}
{{- "; " if not loop.last }}{% endfor %}</p>
{% endif %}
</section>
</main>
"""
