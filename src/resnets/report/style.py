"""The page's fixed parts: its look, the script that starts the charts, and what it may load."""

from __future__ import annotations

from resnets.report.charts import FONT, INK

# no request to anywhere; Vega builds its expressions as functions, hence 'unsafe-eval'
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data:"
)

SCRIPT = """
for (const node of document.querySelectorAll(".chart")) {
  const spec = JSON.parse(document.getElementById(node.id + "-chart").textContent);
  vegaEmbed(node, spec, {actions: false}).catch((error) => { node.textContent = error; });
}
"""

STYLE = (
    f"""
:root {{ color-scheme: light; }}
* {{ box-sizing: border-box; }}
body {{ margin: 0; background: #f6f7f9; color: {INK}; font: 15px/1.55 {FONT};
  -webkit-text-size-adjust: 100%; }}
main {{ max-width: 1120px; margin: 0 auto; padding: 40px 28px 56px; }}
h1 {{ font-size: 27px; line-height: 1.25; margin: 0 0 22px; overflow-wrap: anywhere; }}
h2 {{ font-size: 19px; margin: 40px 0 14px; }}
h3 {{ font-size: 15px; line-height: 1.4; margin: 0 0 12px; overflow-wrap: anywhere; }}
"""
    + """
article, .facts, .notices, .headline div { background: white; border: 1px solid #e4e7ec;
  border-radius: 8px; }
article { padding: 18px 20px 14px; margin: 0 0 18px; min-width: 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 18px; margin-bottom: 18px; }
.columns article { margin: 0; }
.columns article:last-child:nth-child(odd) { grid-column: 1 / -1; }
@media (min-width: 980px) { .columns.lead { grid-template-columns: 3fr 2fr; } }
.chart { display: block !important; width: 100%; }
.chart.square { aspect-ratio: 1; }
.columns .chart.square { max-width: 640px; }
.note { color: #667085; font-size: 13px; margin: 8px 0 0; }
.headline { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin: 0; }
.headline div { padding: 12px 16px; }
.headline dt { color: #667085; font-size: 13px; }
.headline dd { margin: 0; }
.headline b { display: block; font-size: 23px; line-height: 1.35; font-weight: 600; }
.headline span { color: #667085; font-size: 12px; line-height: 1.35; display: block; }
.notices { margin: 16px 0 0; padding: 12px 18px 12px 34px; border-left: 4px solid #d9a404; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.facts { width: 100%; border-collapse: separate; border-spacing: 0; }
th, td { text-align: left; padding: 7px 16px; vertical-align: top; overflow-wrap: anywhere; }
tr + tr th, tr + tr td, .pairs tbody td { border-top: 1px solid #eef0f3; }
th { font-weight: normal; color: #667085; }
.facts th { width: 30%; min-width: 110px; overflow-wrap: break-word; }
.pairs { width: 100%; font-size: 14px; }
.pairs th, .pairs td { padding: 5px 12px 5px 0; }
.pairs :is(th, td):nth-child(n + 3) { text-align: right; white-space: nowrap; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(132px, 1fr));
  gap: 14px; }
figure { margin: 0; min-width: 0; }
.frame { aspect-ratio: 1; background: white; border: 1px solid #e4e7ec; border-radius: 6px;
  display: flex; align-items: center; justify-content: center; overflow: hidden; }
.frame img { width: 100%; height: 100%; object-fit: contain; display: block; }
.pixels { image-rendering: pixelated; }
figcaption { font-size: 13px; line-height: 1.4; margin-top: 5px; overflow-wrap: anywhere; }
figcaption code { color: #667085; font-size: 11px; }
.note + .pictures { margin-top: 14px; }
footer { color: #667085; font-size: 13px; margin-top: 44px; }
@media (max-width: 560px) {
  main { padding: 22px 12px 36px; }
  article { padding: 14px 12px 10px; }
  .headline { grid-template-columns: 1fr 1fr; }
  .pictures { grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 10px; }
}
"""
)
