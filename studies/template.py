"""The report's page, a Jinja template; in Python, for Flower packs no other text of an app than code, TOML and Markdown."""
# ruff: noqa: E501, RUF001

TEMPLATE = r"""{# The report's page. Everything that is not markup here is escaped; no scripts, nothing from elsewhere. #}
{% macro interval(low, high, scale=1, digits=1, unit='') %}
{%- if low is not none and high is not none %}{{ (low * scale)|number(digits) }} to {{ (high * scale)|number(digits) }}{{ unit }}{% endif %}
{%- endmacro %}
{% macro under(finding) %}{% if finding.bare %}Without a defense{% else %}Under {{ finding.defense }}{% endif %}{% endmacro %}
{% macro gain(leak, scale, unit) %}
{%- set bounds = '(' ~ interval(leak.gain.low, leak.gain.high, scale) ~ ')' -%}
{%- set size = (leak.gain.mean * scale)|abs|number(1) ~ ' ' ~ unit -%}
{%- if leak.verdict == 'better' -%}
That is {{ size }} more than {{ leak.control }} {{ bounds }}.
{%- elif leak.verdict == 'worse' -%}
<strong class="plain">That is less than {{ leak.control }}</strong>, by {{ size }} {{ bounds }}.
{%- elif leak.verdict == 'no better' -%}
<strong class="plain">That is not better than {{ leak.control }}</strong>: the difference is {{ (leak.gain.mean * scale)|signed(1) }} {{ unit }} {{ bounds }}.
{%- else -%}
The difference from {{ leak.control }} is {{ (leak.gain.mean * scale)|signed(1) }} {{ unit }}; a single update has no interval, and says nothing yet about others.
{%- endif -%}
{%- endmacro %}
{% macro source(leak) %}
<p class="source">{{ leak.attack }}{% if leak.told %} (told the true labels){% endif %}{% if leak.rivals > 1 %}, the best of {{ leak.rivals }} attacks,{% endif %} on {% if leak.value.victims < leak.of %}the {{ leak.value.victims }} of {{ leak.of|plural('update') }} on which it gave a result{% else %}{{ leak.of|plural('update') }}{% endif %}</p>
{%- endmacro %}
{% macro drawn(leak, scale, unit) %}
{% for name, value in leak.beside.items() %}{{ ' and ' if not loop.first }}{{ (value * scale)|number(1) }} {{ unit }} ({{ name }}){% endfor %}
{%- endmacro %}
{% macro strip(leak, top, scale) %}
<div class="strip" aria-hidden="true">
{% if leak.value.low is not none %}
{% set start, end = leak.value.low|along(top), leak.value.high|along(top) %}
<i class="range" style="left:{{ start }}%;width:{{ (end - start)|round(2) }}%"></i>
{% endif %}
{% for name, value in leak.beside.items() %}
{% set place = value|along(top) %}
<i class="control" style="left:{{ place }}%"></i><span class="{{ loop.cycle('above', 'below') }}{{ ' first' if place < 12 }}{{ ' last' if place > 88 }}" style="left:{{ place }}%">{{ name }} {{ (value * scale)|number(1) }}</span>
{% endfor %}
<i class="mark" style="left:{{ leak.value.mean|along(top) }}%"></i>
</div>
{% endmacro %}
{% macro labels_told(finding) %}
{% set leak = finding.labels %}
<div>
{% if leak %}
<p>The labels of <strong>{{ leak.value.mean|percent }} %</strong> of the examples came back{% if leak.value.low is not none %} (95 % interval {{ leak.value.low|percent }} to {{ leak.value.high|percent }}){% endif %}
{%- if leak.control %}. Drawn without looking, {{ drawn(leak, 100, '%') }} are right. {{ gain(leak, 100, 'points') }}{% else %}; no control was run beside it.{% endif %}</p>
{{ strip(leak, 1.0, 100) }}{{ source(leak) }}
{% else %}
<p>{{ 'No attack restored labels.' if finding.tried else 'No attack has a result yet.' }}</p>
{% endif %}
</div>
{% endmacro %}
{% macro pictures_told(finding, point) %}
{% set leak = finding.pictures %}
<div>
{% if leak %}
<p>Pictures came back at <strong>{{ leak.value.mean|number(1) }} dB</strong>{% if leak.value.low is not none %} (95 % interval {{ interval(leak.value.low, leak.value.high) }}){% endif %}
{%- if leak.control %}. Drawn without looking, they score {{ drawn(leak, 1, 'dB') }}. {{ gain(leak, 1, 'dB') }}{% else %}; no control was run beside it.{% endif %}</p>
{{ strip(leak, point.scale, 1) }}{{ source(leak) }}
{% else %}
<p>{{ 'No attack restored pictures.' if finding.tried else 'No attack has a result yet.' }}</p>
{% endif %}
</div>
{% endmacro %}
{% macro verdict(leak) %}
{% if not leak.control %}no control{% elif leak.verdict == 'better' %}more than {{ leak.control }}{% elif leak.verdict == 'worse' %}less than {{ leak.control }}{% elif leak.verdict == 'no better' %}not better than {{ leak.control }}{% else %}one update, open{% endif %}
{% endmacro %}
{% macro cell(line, metric, scale, digits) %}
{% set value = line.row.scores.get(metric) %}
{% if value %}
<td><span class="value">{{ (value.mean * scale)|number(digits) }}</span>
{%- if value.low is not none %} <small class="interval">{{ interval(value.low, value.high, scale, digits) }}</small>{% endif %}
{%- if metric == 'exact' and 'certified' in line.row.scores %} <small class="median">certified {{ line.row.scores['certified'].mean|percent }}, falsely {{ line.row.scores['false_certificates'].mean|percent }}</small>{% endif %}
{%- if metric == 'exact' and line.forecast %} <small class="median">whole batches {{ line.whole|percent }}, forecast {{ line.forecast.probability|percent }}</small>{% endif %}
{%- if metric == 'identified' and line.ceiling is not none %} <small class="median{{ ' warn' if line.above_ceiling }}">at most {{ line.ceiling|percent }}{{ ': <strong>above its ceiling</strong>'|safe if line.above_ceiling }}</small>{% endif %}
{%- if metric == 'psnr' %} <small class="median">median {{ line.row.medians['psnr']|number(digits) }}</small> <small class="median">worst tenth {{ line.row.worst_tenth|number(digits) }}</small>{% endif %}
{%- if metric in line.from_null %} <small class="beside">{{ (line.from_null[metric] * scale)|signed(digits) }} vs null</small>{% endif %}</td>
{% else %}
<td class="dash">–</td>
{% endif %}
{% endmacro %}
{% macro share_of(share) %}
{% if share.exact %}
<td><span class="value">{{ (share.exact.mean * 100)|number(1) }}</span>{% if share.exact.low is not none %} <small class="interval">{{ interval(share.exact.low, share.exact.high, 100) }}</small>{% endif %}{% if share.certified is not none %} <small>certified {{ share.certified|percent }}, falsely {{ share.false|percent }}</small>{% endif %} <small>whole {{ share.whole|percent }}{% if share.forecast is not none %}, forecast {{ share.forecast|percent }}{% endif %}</small></td>
{% else %}
<td class="dash">–{% if share.forecast is not none %} <small>forecast {{ share.forecast|percent }}</small>{% endif %}</td>
{% endif %}
{% endmacro %}
{% macro result(line) %}
<tr{{ ' class="control"'|safe if line.info.control }}><th scope="row">{{ line.info.name }}{% if line.info.control %} <span class="tag">control</span>{% endif %}{% if line.info.told %} <span class="tag">told the labels</span>{% endif %}</th><td><span class="value">{{ line.victims }}</span> <small>{{ line.row.statuses.get('ok', 0) }} ok</small>
{%- for status, word in (('not applicable', 'n. a.'), ('failed', 'failed')) if line.row.statuses.get(status) %} <small>{{ line.row.statuses[status] }} {{ word }}</small>{% endfor %}</td>
{% if line.row.scores %}
{{ cell(line, 'label_accuracy', 100, 1) }}{{ cell(line, 'exact_counts', 100, 1) }}{{ cell(line, 'le_acc', 100, 1) }}{{ cell(line, 'ln_acc', 100, 1) }}{{ cell(line, 'exact', 100, 1) }}{{ cell(line, 'identified', 100, 1) }}{{ cell(line, 'psnr', 1, 2) }}
{{ cell(line, 'ssim', 1, 3) }}{% if perceived %}{{ cell(line, 'lpips', 1, 3) }}{% endif %}
{% else %}
<td colspan="{{ 9 if perceived else 8 }}" class="dash"><span class="sentence">{{ line.reasons[0][1] if line.reasons else '–' }}</span></td>
{% endif %}
<td>{{ line.row.seconds|number(2) }}</td></tr>
{% endmacro %}
{% macro strip_of(pictures) %}
{% for shown in pictures %}
<td><img src="{{ shown.source }}" alt="{{ shown.words }}"{{ ' class="pixels"'|safe if shown.side <= 64 }}>{% if shown.score %} <small>{{ shown.score }}</small>{% endif %}</td>
{% endfor %}
{% endmacro %}
{% macro settings_of(settings) %}
{% if settings %}{% for key, value in settings %}<span class="setting">{{ key }} = {{ value }}</span>{{ ', ' if not loop.last }}{% endfor %}{% else %}–{% endif %}
{% endmacro %}
{% macro accuracy_table() %}
<div class="scroll wide-table" role="region" aria-label="Table of accuracy beside leakage" tabindex="0"><table>
<caption>Accuracy after the last round measured</caption>
<thead><tr>{% if points|length > 1 %}<th scope="col">Setting</th>{% endif %}<th scope="col" class="left">Defense</th><th scope="col">Accuracy, %</th><th scope="col">Labels right, %</th><th scope="col">PSNR, dB</th></tr></thead>
<tbody>
{% for point in points %}{% for finding in point.findings %}
<tr>{% if points|length > 1 %}<td>{{ point.setting or '–' }}</td>{% endif %}<th scope="row" class="left">{{ finding.defense }}</th>
{% for value, scale in ((finding.accuracy, 100), (finding.labels.value if finding.labels else none, 100), (finding.pictures.value if finding.pictures else none, 1)) %}
{% if value %}<td>{{ (value.mean * scale)|number(1) }} <small>{{ interval(value.low, value.high, scale) }}</small></td>{% else %}<td class="dash">–</td>{% endif %}
{% endfor %}</tr>
{% endfor %}{% endfor %}
</tbody></table></div>
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{{ study.name }} · what the updates gave away</title>
<style>
:root {
  --paper: #fcfbf8; --card: #ffffff; --ink: #1d1c1a; --soft: #5c5952; --faint: #8f8b82; --line: #dedad1; --tint: #f3f0e9;
  --accent: #0b5566; --mark: #a63d00; --warn: #8c2f00; --warn-paper: #fbf0e8;
  --series-0: #00609c; --series-1: #a63d00; --series-2: #006b4f; --series-3: #8a3478;
  --series-4: #755600; --series-5: #4a4a4a; --series-6: #00707c; --series-7: #9c1c3b;
  --text: Charter, "Bitstream Charter", "Sitka Text", Cambria, "Noto Serif", "DejaVu Serif", Georgia, serif;
  --plain: system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", Arial, sans-serif;
  --code: ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171a; --card: #1c1f23; --ink: #e9e6df; --soft: #aaa69c; --faint: #7d7a73; --line: #34373c; --tint: #22262b;
    --accent: #84c9da; --mark: #ff9a66; --warn: #ffb48a; --warn-paper: #2d211b;
    --series-0: #6bb8f0; --series-1: #ff9a66; --series-2: #4fd3a4; --series-3: #e6a3d8;
    --series-4: #e3bd5c; --series-5: #c8c8c8; --series-6: #5cd0dc; --series-7: #ff8fa3;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.55 var(--text); overflow-wrap: break-word; }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 3rem; }
p, ul, ol, dl.prose { max-width: 44rem; }
h1, h2, h3, h4 { line-height: 1.2; text-wrap: balance; font-weight: 600; }
h1 { font-size: 2.1rem; margin: .2rem 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.45rem; margin: 3.5rem 0 .8rem; padding-top: .9rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.12rem; margin: 2rem 0 .4rem; }
h4 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
.over { font: 600 .8rem/1.4 var(--plain); color: var(--accent); margin: 0; }
.lead { font-size: 1.15rem; color: var(--soft); margin: 0 0 1rem; }
a { color: var(--accent); }
small, .note, figcaption, caption, table, nav, .strip span, dl.facts, pre, code { font-family: var(--plain); }
.note { font-size: .9rem; line-height: 1.5; color: var(--soft); }
nav { font-size: .9rem; margin: 1.6rem 0 0; }
nav ol { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; max-width: none; }
nav a { display: inline-block; padding: .25rem 0; }
.warn { border-left: 3px solid var(--warn); background: var(--warn-paper); padding: .7rem 1rem; max-width: 46rem; }
section.finding { background: var(--card); border: 1px solid var(--line); border-radius: 4px; padding: 1.2rem 1.5rem 1.4rem; margin: 1.6rem 0 0; }
section.finding h2 { border: 0; padding: 0; margin: 0 0 .3rem; font-size: 1.25rem; }
section.finding h3 { margin: 1.5rem 0 .3rem; padding-top: 1rem; border-top: 1px solid var(--line); }
section.finding h3.setting { color: var(--accent); }
section.finding h4 { font-size: 1.05rem; margin: 1.2rem 0 .2rem; }
section.finding p { margin: .4rem 0 .3rem; } section.finding p.source { font: .8rem/1.4 var(--plain); color: var(--soft); margin: 0; } section.finding p.note { margin-top: 1.4rem; }
.told { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: .6rem 2.5rem; } strong.plain { color: var(--warn); }
.strip { position: relative; height: 3.1rem; max-width: 44rem; margin: .3rem .5rem .2rem; font-size: .75rem; color: var(--soft); }
.strip::before { content: ""; position: absolute; left: 0; right: 0; top: 1.5rem; border-top: 1px solid var(--faint); }
.strip i { position: absolute; top: 1.5rem; }
.strip .range { height: .55rem; margin-top: -.275rem; background: var(--mark); opacity: .35; min-width: 2px; }
.strip .control { height: .9rem; margin-top: -.45rem; border-left: 2px solid var(--ink); margin-left: -1px; }
.strip .mark { width: .8rem; height: .8rem; margin: -.4rem 0 0 -.4rem; border-radius: 50%; background: var(--mark); border: 2px solid var(--card); }
.strip span { position: absolute; white-space: nowrap; padding: 0 .3rem; transform: translateX(-50%); line-height: 1.1; }
.strip .first { transform: none; margin-left: -.4rem; } .strip .last { transform: translateX(-100%); margin-left: .4rem; } .strip .above { top: 0; } .strip .below { top: 2.15rem; }
.scroll { overflow-x: auto; margin: 1.1rem 0 .8rem; -webkit-overflow-scrolling: touch; }
.scroll:focus-visible, a:focus-visible, summary:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; font-size: .86rem; line-height: 1.4; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; font-size: .95rem; padding: 0 0 .4rem; }
caption small { font-weight: 400; color: var(--soft); }
th, td { padding: .45rem .6rem; text-align: right; vertical-align: top; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; } thead th { white-space: normal; color: var(--soft); font-size: .8rem; vertical-align: bottom; border-bottom: 1.5px solid var(--faint); }
th:first-child, td:first-child, .left { text-align: left; }
table.words th, table.words td { text-align: left; white-space: normal; min-width: 7rem; }
table.words thead th { min-width: 0; } table.words td.wide { min-width: 17rem; overflow-wrap: anywhere; } table.words td.number { min-width: 0; white-space: nowrap; }
td small, th small { display: block; font-weight: 400; font-size: .75rem; color: var(--soft); }
.results { font-size: .82rem; } .results th, .results td { padding-left: .34rem; padding-right: .34rem; }
tr.control { background: var(--tint); } tr.control th { font-style: italic; }
.tag { display: inline-block; font: 600 .7rem/1.4 var(--plain); border: 1px solid currentColor; border-radius: 3px; padding: 0 .35em; color: var(--soft); font-style: normal; margin-left: .4em; }
.sentence { display: block; white-space: normal; min-width: 9rem; text-align: left; overflow-wrap: anywhere; } .dash { color: var(--soft); }
ul.reasons { font: .84rem/1.5 var(--plain); color: var(--soft); margin: .3rem 0 1.2rem; padding-left: 1.1rem; max-width: 52rem; }
.galleries { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
figure { margin: 0; min-width: 0; max-width: 100%; }
figcaption { font-size: .85rem; color: var(--soft); margin-bottom: .2rem; }
table.pictures th, table.pictures td { border: 0; padding: .15rem .12rem; text-align: center; vertical-align: middle; }
table.pictures th { text-align: left; white-space: normal; font-weight: 500; max-width: 6.5rem; min-width: 4.5rem; padding-right: .3rem; line-height: 1.25; }
table.pictures tr.truth td, table.pictures tr.truth th { padding-bottom: .5rem; }
table.pictures .tag { display: table; margin: .1rem 0; }
table.pictures img { display: block; width: 3.6rem; height: auto; margin: 0 auto; background: var(--tint); }
table.pictures small { color: var(--ink); font-size: .72rem; line-height: 1.5; } table.pictures th small { color: var(--soft); }
img.pixels { image-rendering: crisp-edges; image-rendering: pixelated; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 1.2rem; align-items: start; } .plots .scroll { margin: 0; }
.plots figure { max-width: 46rem; background: var(--card); border: 1px solid var(--line); border-radius: 4px; padding: .9rem .9rem .5rem; }
.plots figcaption { font-weight: 600; color: var(--ink); }
.plots svg { display: block; width: 100%; height: auto; } svg text { font-family: var(--plain) !important; }
dl.facts { display: grid; grid-template-columns: minmax(7rem, 13rem) 1fr; gap: .35rem 1rem; font-size: .88rem; max-width: 52rem; margin: 1rem 0; }
dl.facts dt { color: var(--soft); } dl.facts dd { margin: 0; overflow-wrap: anywhere; }
pre { font-family: var(--code); font-size: .82rem; line-height: 1.5; background: var(--tint); border: 1px solid var(--line); border-radius: 4px; padding: .8rem 1rem; overflow-x: auto; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
code { font-family: var(--code); font-size: .87em; overflow-wrap: anywhere; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); padding: .25rem 0; font-family: var(--plain); font-size: .95rem; }
footer { margin-top: 4rem; padding-bottom: 3rem; color: var(--soft); font: .85rem/1.5 var(--plain); }
.skip { position: absolute; left: -99rem; } .skip:focus { left: 1rem; top: 1rem; background: var(--card); padding: .5rem; }
@media (max-width: 40rem) {
  header, main, footer { padding-left: .9rem; padding-right: .9rem; }
  header { padding-top: 1.6rem; } h1 { font-size: 1.7rem; } body { font-size: 1rem; }
  section.finding { padding: 1rem; } dl.facts { grid-template-columns: 1fr; gap: 0; } dl.facts dd { margin-bottom: .5rem; }
  .plots figure { padding: .6rem .4rem .3rem; } .plots figcaption { padding-left: .3rem; }
  th, td { padding: .4rem .5rem; } table.pictures th { min-width: 4.6rem; max-width: 6rem; }
  .wide-table th:first-child { position: sticky; left: 0; background: var(--paper); } .wide-table tr.control th:first-child { background: var(--tint); }
}
@media print {
  :root {
    --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --faint: #777; --line: #bbb; --tint: #f2f2f2; --accent: #003a48;
    --mark: #a63d00; --warn: #8c2f00; --warn-paper: #fff; --series-0: #00609c; --series-1: #a63d00; --series-2: #006b4f;
    --series-3: #8a3478; --series-4: #755600; --series-5: #4a4a4a; --series-6: #00707c; --series-7: #9c1c3b;
  }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  details::details-content { content-visibility: visible; }
  body { font-size: 10pt; } nav, .skip { display: none; } .scroll { overflow: visible; } table { font-size: 7.5pt; }
  th, td { padding: .25rem .35rem; } h2, h3, h4, caption, figcaption { break-after: avoid; } figure, tr, .strip { break-inside: avoid; }
  table.pictures .tag { display: table; margin: .1rem 0; }
table.pictures img { width: 13mm; } pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}
</style>
</head>
<body>
<a class="skip" href="#results">To the results</a>
<header>
<p class="over">Curious: what an honest-but-curious server restored</p>
<h1>{{ study.name }}</h1>
{% if study.description %}<p class="lead">{{ study.description }}</p>{% endif %}
<p class="note">Data: {{ threat.data }}. Model: {{ threat.architectures }}. {{ progress['cells']|plural('federation') }} ({{ points|length|plural('setting') }} × {{ study.defenses|length|plural('defense') }} × {{ seeds|length|plural('seed') }}), {{ progress['observations']|plural('recorded update') }}, {{ progress['results']|plural('attack') }} run on them.</p>
{% if not progress['over'] %}
<p class="warn" role="status"><strong>This run is not finished.</strong> {{ progress['rounds'] }} of {{ progress['rounds in all']|plural('round') }} are over, {{ progress['observations'] }} of {{ progress['updates in all']|plural('update') }} recorded, {{ progress['results'] }} of {{ progress['results in all']|plural('attack') }} on those done. What follows is of what is there, and will change.</p>
{% endif %}
<nav aria-label="Contents"><ol>
<li><a href="#finding">Finding</a></li><li><a href="#results">Results</a></li>{% if knowledge %}<li><a href="#knowing">What knowing is worth</a></li>{% endif %}{% if prices %}<li><a href="#prices">What assumptions are worth</a></li>{% endif %}<li><a href="#labels">Labels</a></li>{% if exact %}<li><a href="#exact">Exact pictures</a></li>{% endif %}<li><a href="#pictures">Pictures</a></li><li><a href="#accuracy">Accuracy and leakage</a></li><li><a href="#failures">Failures</a></li><li><a href="#threat">Threat model and limits</a></li><li><a href="#repeat">How to repeat it</a></li>
</ol></nav>
</header>
<main>

<section class="finding" id="finding" aria-labelledby="finding-title">
<h2 id="finding-title">The finding</h2>
{% if not progress['results'] %}
<p>No attack has a result {{ 'yet' if not progress['over'] else 'in this run' }}, so there is nothing to say about leakage.</p>
{% elif sentences %}
{% for point in points %}
{% if point.setting %}<h3 class="setting">{{ point.setting }}</h3>{% endif %}
{% for finding in point.findings %}
{% if point.setting %}<h4>{{ under(finding) }}</h4>{% else %}<h3>{{ under(finding) }}</h3>{% endif %}
<div class="told">{{ labels_told(finding) }}{{ pictures_told(finding, point) }}</div>
{% endfor %}
{% endfor %}
<p class="note">On each line the dot is the best attack with its 95 % interval, the upright strokes are the controls, which never look at an update (“mean”: the mean of public pictures, and labels by their frequency; “null”: noise, and labels at random). Numbers in brackets are 95 % intervals, those of differences from the same updates. Decibels are PSNR, drawn to {{ drawn_to|number(0) }} at most{% if points|length > 1 %}; each setting has its own scale{% endif %}.</p>
{% else %}
<p>Of each setting and defense: what the best attack restored (the one with the highest median), and whether that is more than the better control, which never looks at an update. “More” and “less” mean that the 95 % interval of the difference, update by update, leaves out zero.</p>
<div class="scroll wide-table" role="region" aria-label="The findings" tabindex="0"><table>
<caption>The best attack against the better control</caption>
<thead><tr><th scope="col">Setting</th><th scope="col" class="left">Defense</th><th scope="col">Labels right, %</th><th scope="col" class="left">against the control</th><th scope="col">PSNR, dB</th><th scope="col" class="left">against the control</th></tr></thead>
<tbody>
{% for point in points %}{% for finding in point.findings %}
<tr><th scope="row">{{ point.setting or '–' }}</th><td class="left">{{ finding.defense }}</td>
{% for leak, scale in ((finding.labels, 100), (finding.pictures, 1)) %}
{% if leak %}<td>{{ (leak.value.mean * scale)|number(1) }} <small>{{ interval(leak.value.low, leak.value.high, scale) }}</small></td><td class="left">{{ verdict(leak) }} <small>{{ leak.attack }}{{ ' (told the true labels)' if leak.told }}</small></td>{% else %}<td class="dash">–</td><td class="left dash">–</td>{% endif %}
{% endfor %}</tr>
{% endfor %}{% endfor %}
</tbody></table></div>
{% endif %}
</section>

<section id="results" aria-labelledby="results-title">
<h2 id="results-title">Results</h2>
<p class="note">Means over updates (“victims”), below them 95 % intervals from a two-level bootstrap (seeds are drawn, then victims within them), and “vs null” the mean difference from the control that restores noise and random labels, on the same updates. “n. a.” is not applicable: an assumption of the attack does not hold, as is said below the table. Restored pictures are matched to the true ones by the assignment with the least total squared error. PSNR is in decibels for pixels in [0, 1], the mean over a victim's pictures first; a picture that is exact counts 300 dB, and drawings end at {{ drawn_to|number(0) }}; the median is of all pictures. SSIM is at most 1.{% if perceived %} LPIPS is the distance of two pictures as AlexNet sees them: 0 for the same; pictures under 64 pixels a side are enlarged to 64 first.{% endif %} Exact is the share of the pictures whose pixels are off by at most a thousandth of their range, and beside it the shares that the attack itself certified, and certified falsely (a certificate says what the model was given, which is not the client’s picture where a defense changes that first); the forecast is the probability, from the initial model and public pictures alone, that a whole batch comes back. Identified is the share of the pictures whose restored one resembles its own more, by correlation, than any of a gallery: its own and 99 others of the test set (fewer where the set is small), so that chance is 1 % for a single picture; of a batch the restored pictures are first matched to the true ones, by which chance is up to 1 % for each of them, as the controls show; “at most” is the ceiling that the defense’s noise sets to any attack, where there is one. The worst tenth is the mean of the tenth of the pictures that came back best. LeAcc and LnAcc are the shares of all classes whose presence, and whose number, is right: <strong>absent classes count as successes</strong>, so that guessing does well. Seconds are the median of one attack. All numbers: <code>results.csv</code>.{% if folded %} Each table unfolds from its name.{% endif %}</p>
{% for point in points %}
{% if point.setting %}<h3>{{ point.setting }}</h3>{% endif %}
{% set first_point = loop.first %}
{% for defense, lines in point.tables %}
{% if lines %}
{% if folded %}<details{{ ' open' if first_point and loop.first }}><summary>{{ 'Defense: ' ~ defense }}{{ at(point.setting) }}</summary>{% endif %}
<div class="scroll wide-table" role="region" aria-label="Results {{ 'under ' ~ defense }}{{ ' at ' ~ point.setting if point.setting }}" tabindex="0"><table class="results">
<caption>Defense: {{ defense }}{% if point.setting %} <small>at {{ point.setting }}</small>{% endif %}</caption>
<thead><tr><th scope="col">Attack</th><th scope="col">Victims</th><th scope="col">Labels right, %</th><th scope="col">All counts right, %</th><th scope="col">LeAcc, %</th><th scope="col">LnAcc, %</th><th scope="col">Exact, %</th><th scope="col">Identified, %</th><th scope="col">PSNR, dB</th><th scope="col">SSIM</th>{% if perceived %}<th scope="col">LPIPS</th>{% endif %}<th scope="col">Seconds</th></tr></thead>
<tbody>
{% for line in lines|rejectattr('info.control') %}{{ result(line) }}{% endfor %}
{% for line in lines|selectattr('info.control') %}{{ result(line) }}{% endfor %}
</tbody></table></div>
{% set told = lines|selectattr('reasons')|list %}
{% if told %}
<ul class="reasons">
{% for line in told %}{% for status, reason, count in line.reasons %}
<li>{{ line.info.name }}: {{ status if status != 'ok' else 'its own verdict' }} on {{ count }} of {{ line.victims }}: {{ reason or 'no reason given' }}</li>
{% endfor %}{% endfor %}
</ul>
{% endif %}
{% if folded %}</details>{% endif %}

{% else %}
<p class="note">Defense {{ defense }}{{ ' at ' ~ point.setting if point.setting }}: no attack has a result yet.</p>
{% endif %}
{% endfor %}
{% endfor %}
</section>

{% if knowledge %}
<section id="knowing" aria-labelledby="knowing-title">
<h2 id="knowing-title">What knowing the defense is worth</h2>
<p class="note">The same attack on the same updates, told which defense the clients use and how strong it is (not what it drew), and not told. Of each score: the mean of the attack that is not told, that of the one that is, and the difference, update by update, with its 95 % interval; ▲ where the interval is above zero.</p>
<div class="scroll wide-table" role="region" aria-label="Table of what knowing the defense is worth" tabindex="0"><table class="results">
<caption>Not told, told, and the difference</caption>
{% set several = knowledge|map(attribute='setting')|select|list %}
<thead><tr>{% if several %}<th scope="col">Setting</th>{% endif %}<th scope="col" class="left">Defense</th><th scope="col" class="left">Attack</th><th scope="col">PSNR, dB</th><th scope="col">Identified, %</th><th scope="col">Labels right, %</th></tr></thead>
<tbody>
{% for pair in knowledge %}
<tr>{% if several %}<td class="left">{{ pair.setting }}</td>{% endif %}<th scope="row">{{ pair.defense }}</th><td class="left">{{ pair.knowing }}</td>
{% for metric in gained %}
{% set scale = 1 if metric == 'psnr' else 100 %}
{% if metric in pair.worth %}{% set before, after, gain = pair.worth[metric] %}<td><span class="value">{{ (before * scale)|number(1) }} → {{ (after * scale)|number(1) }}</span> <small>{{ (gain.mean * scale)|signed(1) }}{{ ' ▲' if pair.better(metric) }}</small>{% if gain.low is not none %} <small class="interval">{{ interval(gain.low, gain.high, scale) }}</small>{% endif %}</td>{% else %}<td class="dash">–</td>{% endif %}
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
</section>

{% endif %}
{% if prices %}
<section id="prices" aria-labelledby="prices-title">
<h2 id="prices-title">What assumptions are worth</h2>
<p class="note">Every attack at every setting, undefended, against the attack “{{ study.reference }}” at the first setting. Below each mean is the difference from there with its 95 % interval, of the same client’s batch in both (of another of its batches where the settings record other rounds). Below the setting stands the round of the attacked updates, and the accuracy of the model as it was sent in it.</p>
<div class="scroll wide-table" role="region" aria-label="Table of what assumptions are worth" tabindex="0"><table class="results">
<caption>Prices of assumptions</caption>
<thead><tr><th scope="col">Setting</th><th scope="col" class="left">Attack</th><th scope="col">PSNR, dB</th><th scope="col">Identified, %</th><th scope="col">Exact, %</th><th scope="col">Labels right, %</th></tr></thead>
<tbody>
{% for price in prices %}
<tr><th scope="row">{{ price.setting or '–' }}{% if price.state %} <small>{{ price.state }}</small>{% endif %}</th><td class="left">{{ price.attack }}{% if price.reference %} <span class="tag">reference</span>{% endif %}</td>
{% for metric in priced %}
{% set scale = 1 if metric == 'psnr' else 100 %}
{% if metric in price.worth %}{% set value, difference = price.worth[metric] %}<td><span class="value">{{ (value.mean * scale)|number(1) }}</span>{% if difference %} <small>{{ (difference.mean * scale)|signed(1) }}</small> <small class="interval">{{ interval(difference.low, difference.high, scale) }}</small>{% endif %}</td>{% else %}<td class="dash">–</td>{% endif %}
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
</section>

{% endif %}
<section id="labels" aria-labelledby="labels-title">
<h2 id="labels-title">Labels by method and state</h2>
{% if restorations %}
<p class="note">Right labels of every restoration that is not told them, in per cent of the examples, by the round in which the updates were made; the accuracy is that of the model as it was sent. Below each figure are its 95 % interval, the share of updates with all counts right, and, where the method gives an interval for every count, the share of counts that lie in it (it is meant to be 95 % or more; counts are whole numbers). Where a method gives no result, or has a verdict of its own, its sentence stands in the cell. The controls are what is right by drawing without looking.</p>
{% if restoration_plots %}
<div class="plots">
{% for plot in restoration_plots %}<figure><figcaption>{{ plot.title }}</figcaption>{{ plot.drawing }}</figure>{% endfor %}
</div>
{% endif %}
{% set methods = restorations|map(attribute='methods')|map('list')|sum(start=[])|unique|list %}
{% set controls = restorations|map(attribute='drawn')|map('list')|sum(start=[])|unique|list %}
<div class="scroll wide-table" role="region" aria-label="Table of labels by method and state" tabindex="0"><table class="results">
<caption>Labels right, %</caption>
<thead><tr><th scope="col">State</th>{% for name in methods %}<th scope="col">{{ name }}</th>{% endfor %}{% for name in controls %}<th scope="col">{{ name }} <span class="tag">control</span></th>{% endfor %}</tr></thead>
<tbody>
{% for line in restorations %}
<tr><th scope="row">{{ line.state }} <small>{{ line.setting ~ ', ' if line.setting }}defense: {{ line.defense }}</small></th>
{% for name in methods %}
{% set found = line.methods.get(name) %}
{% if found and found.right %}
<td><span class="value">{{ (found.right.mean * 100)|number(1) }}</span> <small class="interval">{{ interval(found.right.low, found.right.high, 100) }}</small> <small>all right {{ found.exact|percent(0) }} %</small>{% if found.covered is not none %} <small>covered {{ found.covered|percent }} %</small>{% endif %}{% for sentence in found.sentences[:1] %} <small class="sentence">{{ sentence }}</small>{% endfor %}</td>
{% elif found %}
<td class="dash">n. a.{% for sentence in found.sentences[:1] %} <small class="sentence">{{ sentence }}</small>{% endfor %}</td>
{% else %}
<td class="dash">–</td>
{% endif %}
{% endfor %}
{% for name in controls %}<td>{% if name in line.drawn %}{{ (line.drawn[name] * 100)|number(1) }}{% else %}–{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% else %}
<p>No attack that only restores labels has a result.</p>
{% endif %}
</section>

{% if exact %}
<section id="exact" aria-labelledby="exact-title">
<h2 id="exact-title">Exact pictures by setting and state</h2>
<p class="note">Pictures that came back exactly, in per cent of those attacked, by the setting, the round in which the updates were made (with the accuracy of the {{ 'undefended ' if study.defenses|rejectattr('chain')|list }}model as it was sent) and the defense. Below each figure are its 95 % interval, the shares that the attack certified as what the model was given, and certified falsely, and the share of updates of which every picture came back; beside that, in the first round, the forecast of it, which knows the initial model and public pictures alone. A dash: the attack does not apply there, or gave no picture.</p>
{% for attack, lines in exact.items() %}
<div class="scroll wide-table" role="region" aria-label="Exact pictures of {{ attack }}" tabindex="0"><table class="results">
<caption>{{ attack }}: exact pictures, %</caption>
{% if lines[0].shares|length > lines|length %}
<thead><tr><th scope="col">Defense</th>{% for line in lines %}<th scope="col">{{ line.state }}{% if line.setting %} <small>{{ line.setting }}</small>{% endif %}</th>{% endfor %}</tr></thead>
<tbody>
{% for name in lines[0].shares %}
<tr><th scope="row">{{ name }}</th>
{% for line in lines %}{{ share_of(line.shares[name]) }}{% endfor %}</tr>
{% endfor %}
{% else %}
<thead><tr><th scope="col">State</th>{% for name in lines[0].shares %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for line in lines %}
<tr><th scope="row">{{ line.state }}{% if line.setting %} <small>{{ line.setting }}</small>{% endif %}</th>
{% for share in line.shares.values() %}{{ share_of(share) }}{% endfor %}</tr>
{% endfor %}
{% endif %}
</tbody></table></div>
{% endfor %}
</section>

{% endif %}
<section id="pictures" aria-labelledby="pictures-title">
<h2 id="pictures-title">Pictures</h2>
{% if galleries %}
<p class="note">True pictures above, restored ones below, under every defense. Updates are ranked by the mean PSNR of their batch under one defense, named with each attack; the best, the median and the worst of them are shown, and the same ones under the other defenses. Below each picture is its PSNR in dB, beside each row the batch's mean. Mid-grey stands where nothing was restored; “mean” is the control. Small pictures are enlarged without smoothing, those of more than 96 pixels a side are scaled down.</p>
{% endif %}
{% for gallery in galleries %}
<h3>{{ gallery.attack }}{% if gallery.setting %} <span class="tag">{{ gallery.setting }}</span>{% endif %}</h3>
<p class="note">Chosen from {{ gallery.victims|plural('update') }} by the scores under the defense {{ gallery.chosen_by }}.</p>
<div class="galleries">
{% for sheet in gallery.sheets %}
<figure>
<figcaption><strong>{{ sheet.title }}</strong>: {{ sheet.note }}</figcaption>
<div class="scroll" role="region" aria-label="{{ gallery.attack }}{{ ' at ' ~ gallery.setting if gallery.setting }}: {{ sheet.title }}, {{ sheet.note }}" tabindex="0"><table class="pictures">
<tbody>
<tr class="truth"><th scope="row">true</th>{{ strip_of(sheet.truth) }}</tr>
{% for heading, score, is_control, pictures in sheet.lines %}
<tr><th scope="row">{{ heading }}{% if is_control %} <span class="tag">control</span>{% endif %} <small>{{ score }}</small></th>{% if pictures %}{{ strip_of(pictures) }}{% else %}<td colspan="{{ sheet.truth|length }}" class="dash">–</td>{% endif %}</tr>
{% endfor %}
</tbody></table></div>
</figure>
{% endfor %}
</div>
{% else %}
<p>{{ 'No attack but the controls has restored pictures.' if not galleries_left_out else 'There are no pictures to show.' }}</p>
{% endfor %}
{% for sentence in galleries_left_out %}<p class="note">{{ sentence }}</p>{% endfor %}
</section>

<section id="accuracy" aria-labelledby="accuracy-title">
<h2 id="accuracy-title">Accuracy beside leakage</h2>
<p class="note">What a defense costs and what it hides: the global model's accuracy on test examples against the score of the best attack, one point a defense. Bars are 95 % intervals (of accuracy over seeds, where there are several; of leakage over updates), dashed lines are the controls; in the plot by round the line is the mean of the seeds and the band goes from the least to the greatest.{% if study.defenses|length > named_alone %} Strengths of one technique have one colour and one sign, and are joined in the study’s order; the technique’s name stands at the last of them, in the plot by round at the one that costs most. A single strength has its own name.{% endif %}</p>
{% for point in points %}
{% if plots[point.setting] is defined and plots[point.setting] %}
{% if point.setting %}<h3>{{ point.setting }}</h3>{% endif %}
<div class="plots">
{% for plot in plots[point.setting] %}<figure><figcaption>{{ plot.title }}</figcaption>{{ plot.drawing }}</figure>{% endfor %}
{% if points|length == 1 %}{{ accuracy_table() }}{% endif %}
</div>
{% endif %}
{% endfor %}
{% if points|length > shown %}<p class="note">Plots are shown for the first {{ shown }} settings of {{ points|length }}; the table has all of them.</p>{% endif %}
{% if not (points|length == 1 and plots[points[0].setting]) %}{{ accuracy_table() }}{% endif %}
{% if tradeoffs %}
<p class="note">Strengths of one technique taken together. A defense’s leak is the share of the pictures that the attack which identifies most identifies. The hypervolume is the area of accuracy times share hidden that the strengths and the undefended federation dominate: 100 % is a defense that costs nothing and hides all. The other columns name the strength that leaks least among those that cost at most so many points of accuracy (◆: on the Pareto front of all defenses), and the share it leaks, with its 95 % interval.</p>
{% for setting, kinds in tradeoffs.items() %}
<div class="scroll wide-table" role="region" aria-label="Leak at matched loss of accuracy{{ ' at ' ~ setting if setting }}" tabindex="0"><table>
<caption>Leak at matched loss of accuracy{% if setting %} <small>at {{ setting }}</small>{% endif %}</caption>
<thead><tr><th scope="col">Kind of defense</th><th scope="col">Strengths</th><th scope="col">Hypervolume, %</th>{% for loss in losses %}<th scope="col">Identified at most {{ (loss * 100)|number(0) }} points down, %</th>{% endfor %}</tr></thead>
<tbody>
{% for kind in kinds %}
<tr><th scope="row">{{ kind.kind }}</th><td>{{ kind.strengths|length }}</td><td>{{ (kind.hypervolume * 100)|number(1) }}</td>
{% for strength in kind.least %}
{% if strength %}<td><span class="value">{{ (strength.leak.mean * 100)|number(1) }}</span> <small class="interval">{{ interval(strength.leak.low, strength.leak.high, 100) }}</small> <small>{{ strength.defense }}{{ ' ◆' if strength.front }}</small> <small>{{ strength.attack }}</small></td>{% else %}<td class="dash">all cost more</td>{% endif %}
{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% endfor %}
{% endif %}
</section>

<section id="failures" aria-labelledby="failures-title">
<h2 id="failures-title">Failures</h2>
{% if failures.clients %}
<div class="scroll" role="region" aria-label="Clients that failed" tabindex="0"><table class="words">
<caption>Clients that failed: {{ failures['clients in all'] }}{% if failures['clients in all'] > failures.clients|length %} <small>(the first {{ failures.clients|length }})</small>{% endif %}</caption>
<thead><tr><th scope="col">Defense</th><th scope="col">Seed</th><th scope="col">Round</th><th scope="col">Client</th><th scope="col">Reason</th></tr></thead>
<tbody>
{% for setting, defense, seed, round, client, reason in failures.clients %}<tr><th scope="row">{{ defense }}{% if setting %} <small>{{ setting }}</small>{% endif %}</th><td class="number">{{ seed }}</td><td class="number">{{ round }}</td><td class="number">{{ client }}</td><td class="wide">{{ reason or 'no reason given' }}</td></tr>
{% endfor %}
</tbody></table></div>
{% else %}
<p>No client failed.</p>
{% endif %}
{% if failures.attacks %}
<div class="scroll" role="region" aria-label="Attacks that failed" tabindex="0"><table class="words">
<caption>Attacks that failed: {{ failures['attacks in all'] }}{% if failures['kinds in all'] > failures.attacks|length %} <small>(the first {{ failures.attacks|length }} of {{ failures['kinds in all'] }} reasons)</small>{% endif %}</caption>
<thead><tr><th scope="col">Attack</th><th scope="col">Times</th><th scope="col">Reason</th><th scope="col">First</th></tr></thead>
<tbody>
{% for attack, reason, count, where in failures.attacks %}<tr><th scope="row">{{ attack }}</th><td class="number">{{ count }}</td><td class="wide">{{ reason or 'no reason given' }}</td><td class="wide">{{ where }}</td></tr>
{% endfor %}
</tbody></table></div>
{% else %}
<p>No attack failed.</p>
{% endif %}
</section>

<section id="threat" aria-labelledby="threat-title">
<h2 id="threat-title">Threat model and limits</h2>
<h3>What the server knows by the protocol</h3>
<p>The server is honest but curious: it chooses clients, sends the model and aggregates ({{ threat.strategy }}) as it should, and also attacks every update it keeps. Of each it knows the model as it sent it, the picture's shape and the classes; <strong>{% if threat.secure == [true] %}the mean of a round's updates and no single one: aggregation is secure, and an attack gets the sum of the clients{% elif threat.secure == [false] %}this client's own update, on its own: there is no secure aggregation{% else %}this client's own update, or only the mean of a round's where aggregation is secure, as the setting says{% endif %}</strong>; the number of examples that the client reports; and the work it ordered itself: {% if 'gradient' in threat.shared %}one gradient of a batch{{ ', or ' if threat.shared|length > 1 }}{% endif %}{% if 'delta' in threat.shared %}{{ threat.work }} of SGD at learning rate {{ threat.rates }}, momentum {{ threat.momentums }}{% endif %}, batch size {{ threat.batch_sizes }}. It never sees a client's pictures or labels; these are drawn again only to keep score.</p>
<h3>What a client shares</h3>
<p>{% if 'gradient' in threat.shared %}The gradient of the batch's mean cross-entropy with respect to every parameter, in units of loss per weight. {% endif %}{% if 'delta' in threat.shared %}A weight delta: the weights after the local steps minus the weights as sent, in units of weights. {% endif %}A defense changes this before it leaves the client.
{% if threat.has_norm %}BatchNorm {% if threat.norm == ['train'] %}normalises by the client's own batch (train mode){% elif threat.norm == ['eval'] %}uses the running statistics as sent (eval mode){% else %}runs in train or eval mode, as the setting says{% endif %}; {% if threat.buffers == ['kept'] %}the client keeps its running statistics{% elif threat.buffers == ['sent'] %}the client sends its running statistics with the update{% else %}running statistics are sent or kept, as the setting says{% endif %}.
{%- elif threat.norm_known %}The model has no BatchNorm, and so shares no statistics of the batch.{% endif %}</p>
<h3>What the study grants beyond that</h3>
{% if threat.grants %}
<p>Beyond the protocol, attacks may use: {{ threat.grants|join('; or ') }}. Granted labels are sorted, so that their order says nothing; public pictures are drawn from the test set and belong to no client. The table says it of each attack. An attack whose labels are granted restores none, and does not count in the findings on labels.</p>
{% else %}
<p>Nothing.</p>
{% endif %}
<dl class="facts">
<dt>Federation</dt><dd>{{ threat.clients }} clients, {{ threat.per_round }} a round, {{ threat.rounds }} rounds, aggregated by {{ threat.strategy }}</dd>
<dt>Model at the start</dt><dd>{{ threat.starts|join('; or ') }}{% if threat.models %} ({% for name, _, size in threat.models %}{{ name }}, {{ '{:,}'.format(size) }} parameters{{ '; ' if not loop.last }}{% endfor %}){% endif %}. Later rounds attack the model as it is by then.</dd>
<dt>Batch size</dt><dd>{{ threat.batch_sizes }}</dd>
</dl>
{% if attacks %}
<div class="scroll" role="region" aria-label="Attacks and their settings" tabindex="0"><table class="words">
<caption>Attacks, their grants and settings</caption>
<thead><tr><th scope="col">Attack</th><th scope="col">Granted</th><th scope="col">Settings</th><th scope="col">What it is</th></tr></thead>
<tbody>
{% for attack in attacks %}<tr{{ ' class="control"'|safe if attack.control }}><th scope="row">{{ attack.name }}{% if attack.control %} <span class="tag">control</span>{% endif %}{% if attack.told %} <span class="tag">told the labels</span>{% endif %}{% if attack.name != attack.kind %} <small>{{ attack.kind }}</small>{% endif %}</th><td>{{ attack.granted }}</td><td class="wide">{{ settings_of(attack.settings) }}</td><td class="wide">{{ attack.about|code }}</td></tr>
{% endfor %}
</tbody></table></div>
{% else %}
<p>The study names no attack.</p>
{% endif %}
<p class="note">All settings are given, those left at their defaults too; defaults are those of the version that wrote this page.</p>
<div class="scroll" role="region" aria-label="Defenses, model, data and partition" tabindex="0"><table class="words">
<caption>Defenses, model, data and partition</caption>
<thead><tr><th scope="col">Role</th><th scope="col">Name</th><th scope="col">Settings</th><th scope="col">What it is</th></tr></thead>
<tbody>
{% for part in parts %}<tr><th scope="row">{{ part.role }}</th><td>{{ part.name }}</td><td class="wide">{{ settings_of(part.settings) }}</td><td class="wide">{{ part.about|code }}</td></tr>
{% endfor %}
</tbody></table></div>
<h3>Limits</h3>
<ul>
<li>The federation is simulated: data, clients and server are on one machine or one cluster, and the pictures are of a public set.</li>
<li>What an attack restores is a lower bound on what an update gives away. An attack that is not better than a control shows that this attack, with these settings, found nothing, and not that there is nothing to find. {{ threat.knowing }} No (epsilon, delta) guarantee is claimed here.</li>
<li>The best attack is chosen after its scores are known, which favours the attacker a little; intervals are not corrected for the number of comparisons.</li>
<li>Intervals cover other updates{% if seeds|length > 1 %} and other seeds, of which there are {{ seeds|length }}{% if seeds|length < 5 %}: with so few the interval says little about how much seeds differ, and is likely to be too narrow{% endif %}{% else %} of this one seed, and say nothing about other seeds{% endif %}. They do not cover other data, models, batch sizes or settings of the attacks. Where all updates scored the same the interval has no width, which is not certainty.</li>
<li>PSNR and SSIM compare pixels. A picture can be recognised at a low score and useless at a higher one: look at the pictures. Of all pictures drawn without looking the mean has the least expected squared error: it is the line to pass.</li>
</ul>
</section>

<section id="repeat" aria-labelledby="repeat-title">
<h2 id="repeat-title">How to repeat it</h2>
<p>From the folder above the run's, which holds the study as <code>study.toml</code>:</p>
<pre class="wrap">{{ repeat.command }}</pre>
{% if repeat.overridden %}<p class="note">The run was started with other values than the file has; the <code>--set</code>s above are these.</p>{% endif %}
{% if repeat.later %}
<p>Attacks added to the recorded run afterwards, each with <code>curious attack RUN_FOLDER attacks.toml</code>, which was:</p>
{% for text in repeat.later %}<pre class="wrap">{{ text }}</pre>{% endfor %}
{% endif %}
<p class="note">On the same machine with the same versions the ledger's digest, which leaves out durations and the machine, comes out the same.</p>
<dl class="facts">
<dt>Ledger's digest (SHA-256)</dt><dd><code>{{ repeat.digest }}</code></dd>
<dt>Seeds</dt><dd>{{ seeds|join(', ') }}</dd>
{% for key, value in repeat.environment %}<dt>{{ key }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
<details><summary>The study as it was written (TOML)</summary><pre>{{ repeat.toml }}</pre></details>
</section>
</main>
<footer>Written by Curious from the run's ledger. The pictures above are the clients' own or restorations of them: treat this page as you treat the data.</footer>
</body>
</html>
"""
