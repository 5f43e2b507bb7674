"""Exhibits, judged claims and facts enter; one HTML page leaves that needs nothing but itself.

The order is that of an argument: what was claimed and how it came out, the evidence from training,
at initialisation and inside networks, and what all of it does not show.
"""

from __future__ import annotations

from collections.abc import Sequence

from resnets.report.frame import document, drawing, section, table_of_facts, text
from resnets.study.report.exhibit import Exhibit
from resnets.study.verdicts import ClaimResult, effect_text

TITLE = "Why depth works"
STYLE = """
main { max-width: 1080px; }
.lead { font-size: 17px; max-width: 46em; margin: 0 0 10px; }
article.exhibit { padding: 22px 24px 16px; }
article.exhibit > h3 { font-size: 17px; font-weight: 600; line-height: 1.45; max-width: 50em; }
.panels { display: grid; gap: 14px 20px; grid-template-columns: minmax(0, 1fr); }
.panel { min-width: 0; }
.panel h4 { font-size: 13px; font-weight: 600; margin: 6px 0 4px; color: #344054; }
.many { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
@media (min-width: 760px) {
  .two { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .three { grid-template-columns: repeat(3, minmax(0, 1fr)); }
  .many { grid-template-columns: repeat(4, minmax(0, 1fr)); }
}
.note { max-width: 62em; }
.source { color: #667085; font-size: 12px; margin: 10px 0 0; overflow-wrap: anywhere; }
.source code { background: #f2f4f7; padding: 1px 5px; border-radius: 4px; }
.source a { color: #0059a3; margin-right: 10px; white-space: nowrap; }
.vega-bindings { font-size: 12px; color: #475467; margin-top: 2px; }
.vega-bindings .vega-bind-name { margin-right: 6px; }
.vega-bindings label { margin-right: 10px; }
.claims { padding: 6px 18px; }
.claims table { width: 100%; font-size: 14px; }
.claims th { font-size: 12px; }
.claims td, .claims th { padding: 9px 14px 9px 0; overflow-wrap: normal; }
.claims td:first-child { width: 30%; }
.claims small { display: block; color: #667085; font-size: 12px; line-height: 1.4; }
.claims .number { white-space: nowrap; }
.claims .number small { white-space: normal; }
.verdict { font-weight: 600; white-space: nowrap; }
.verdict::before { display: inline-block; width: 1.3em; }
.supported::before { content: "✓"; color: #0072B2; }
.contradicted::before { content: "✗"; color: #D55E00; }
.inconclusive::before { content: "?"; color: #667085; }
.not-shown { border-left: 4px solid #E69F00; }
.not-shown li { margin: 0 0 8px; max-width: 60em; }
@media (max-width: 760px) {
  .claims thead { display: none; }
  .claims tr { display: block; padding: 10px 0; border-top: 1px solid #eef0f3; }
  .claims td, .claims td:first-child { display: block; width: auto; border: 0; padding: 2px 0; }
  .claims td:nth-child(n + 4)::before { content: attr(data-name) ": "; color: #667085; }
}
@media print { .source a, .vega-bindings { display: none; } article { break-inside: avoid; } }
"""
SCRIPT = """
const quote = (value) => value === null || value === undefined ? "" :
  /[",\\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : String(value);
for (const link of document.querySelectorAll("a.drawn")) {
  link.hidden = false;
  link.addEventListener("click", () => {
    const rows = [];
    for (const name of link.dataset.charts.split(" ")) {
      const spec = JSON.parse(document.getElementById(name + "-chart").textContent);
      for (const [part, found] of Object.entries(spec.datasets)) {
        rows.push(...found.map((row) => ({panel: name, part, ...row})));
      }
    }
    const columns = [...new Set(rows.flatMap(Object.keys))];
    const lines = [columns, ...rows.map((row) => columns.map((column) => row[column]))];
    const csv = lines.map((line) => line.map(quote).join(",")).join("\\n") + "\\n";
    link.href = URL.createObjectURL(new Blob([csv], {type: "text/csv"}));
  });
}
"""
NOT_SHOWN = (
    "That shortcuts are necessary. Plain tanh networks of 10,000 layers train from a "
    "delta-orthogonal beginning (Xiao 2018, arxiv.org/abs/1806.05393).",
    "That only shortcuts help. With rescaled activations plain networks match residual ones of "
    "their depth and do not get worse with it (DKS, arxiv.org/abs/2110.01765; TAT, "
    "arxiv.org/abs/2203.08120), and plain networks that begin near the identity reach the "
    "accuracy of far deeper residual ones (DiracNets, arxiv.org/abs/1706.00388). Shortcuts are a "
    "sufficient and robust way to keep a unit near the identity, not the only one.",
    "That residuals cure vanishing gradients. Plain networks with batch norm explode backwards at "
    "initialisation, and what one step of training changes is not in the figures of "
    "initialisation.",
    "Anything about ImageNet, other architectures, or longer training: networks and images here "
    "are small and steps are few. With one recipe for all, a better recipe for plain networks is "
    "not ruled out; a cell has at most a learning rate of its own, and nothing else.",
    "Causes. Explosion, collapse and shattering stand beside the degradation in the same depths; "
    "none was switched on or off alone. Probes look at one network of each kind, and intervals "
    "over its units are not intervals over seeds.",
)


def study_page(
    *,
    facts: Sequence[tuple[str, str]],
    judged: Sequence[ClaimResult],
    sections: Sequence[tuple[str, str, Sequence[Exhibit]]],
) -> str:
    """The whole page; sections are a title, a sentence of introduction and exhibits."""
    body = [
        f"<h1>{text(TITLE)}</h1>",
        f'<p class="lead">{text(_lead(judged))}</p>',
        *(
            section(title, f'<p class="lead">{text(words)}</p>\n' + "\n".join(map(_exhibit, found)))
            for title, words, found in sections
            if found
        ),
        section("Claims, and what the data say", _claims(judged)),
        section("What this does not show", _not_shown()),
        section("How this was made", table_of_facts(facts)),
        "<footer>Figures as SVG and PNG lie in <code>figures</code> beside this page, tables in "
        "<code>data</code>, versions and digests in <code>manifest.json</code>.</footer>",
    ]
    return document(body, title=f"{TITLE}: a study", style=STYLE, script=SCRIPT)


def _lead(judged: Sequence[ClaimResult]) -> str:
    counts = {
        verdict: sum(found.verdict == verdict for found in judged)
        for verdict in ("supported", "contradicted", "inconclusive")
    }
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    return (
        "Residual connections enable deeper networks: is that so, and why? Each figure says in one "
        f"sentence what its numbers say. Of the claims below that were measured here: {told}."
    )


def _exhibit(exhibit: Exhibit) -> str:
    style = {1: "", 2: "two", 3: "three"}.get(exhibit.columns, "many")
    panels = "\n".join(
        f'<div class="panel">{f"<h4>{text(panel.title)}</h4>" if panel.title else ""}\n'
        f"{drawing(panel)}</div>"
        for panel in exhibit.panels
    )
    charts = " ".join(panel.name for panel in exhibit.panels)
    tables = " ".join(
        f'<a href="data/{text(table)}.csv" download>{text(table)}.csv</a>'
        for table in exhibit.tables
    )
    pictures = " ".join(
        f'<a href="figures/{exhibit.name}.{kind}" download>{kind.upper()}</a>'
        for kind in ("svg", "png")
    )
    return (
        f'<article class="exhibit" id="figure-{exhibit.name}">\n<h3>{text(exhibit.sentence)}</h3>\n'
        f'<div class="panels {style}">\n{panels}\n</div>\n'
        f'<noscript><p class="note">The charts need JavaScript; the same picture is '
        f'<a href="figures/{exhibit.name}.svg">figures/{exhibit.name}.svg</a>.</p></noscript>\n'
        f'<p class="note">{text(exhibit.note)}</p>\n'
        f'<p class="source"><a class="drawn" data-charts="{charts}" href="#figure-{exhibit.name}" '
        f'download="{exhibit.name}.csv" hidden>data of this figure</a>{pictures} {tables} made by '
        f"<code>{text(exhibit.command)}</code></p>\n</article>"
    )


def _claims(judged: Sequence[ClaimResult]) -> str:
    heads = ("claim and test", "effect [95 % interval]", "verdict", "in print", "same scale?")
    head = "".join(f"<th>{name}</th>" for name in heads)
    rows = "\n".join(
        f"<tr><td>{text(found.claim.sentence)}<small>{text(found.claim.test)}</small></td>"
        f'<td class="number">{_effect_cell(found)}</td>'
        f'<td class="verdict {found.verdict}">{found.verdict}</td>'
        f'<td data-name="in print">{text(found.claim.published)}</td>'
        f'<td data-name="same scale?">{text(found.claim.comparable)}</td></tr>'
        for found in judged
        if found.verdict != "not measured"
    )
    if not rows:
        return ""
    note = (
        "The claims and their tests are fixed in the package (claims.toml), the same for every "
        "study. Supported or contradicted takes a whole interval, and over seeds p ≤ 0.05 in its "
        "direction by the exact sign-flip test as well, since a bootstrap of few covers less than "
        "its name: about 87 % with six seeds, 75 % with three. All else is inconclusive. A run "
        "that diverged is in no mean; in the test it is worse than every other."
    )
    return (
        f'<article class="claims">\n<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n'
        f'</tbody>\n</table>\n<p class="note">{note}</p>\n</article>'
    )


def _effect_cell(found: ClaimResult) -> str:
    """The numbers in a line, what else there is to know below them."""
    size, *notes = effect_text(found).split("; ")
    return text(size) + "".join(f"<small>{text(note)}</small>" for note in notes)


def _not_shown() -> str:
    items = "\n".join(f"<li>{text(item)}</li>" for item in NOT_SHOWN)
    return f'<article class="not-shown">\n<ul>\n{items}\n</ul>\n</article>'
