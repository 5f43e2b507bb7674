"""A folder of a study enters; `study.html`, `figures/` and `manifest.json` leave.

The story of `resnets study report`: read the tables, draw what they hold, judge the claims, write.
"""

from __future__ import annotations

from pathlib import Path

from resnets.errors import UserError
from resnets.study.claims import STORED, read_claims
from resnets.study.report.atlas import init_figures
from resnets.study.report.degradation import training_figures
from resnets.study.report.exhibit import Exhibit
from resnets.study.report.inside import inside_figures
from resnets.study.report.manifest import Manifest, manifest_of, write_manifest
from resnets.study.report.page import study_page
from resnets.study.tables import Tables
from resnets.study.verdicts import judge_all

Sections = list[tuple[str, str, list[Exhibit]]]


def write_study_report(folder: Path) -> Path:
    """Write the page of a study; its path is returned.

    Raises UserError for a folder that holds no tables, and for one that cannot be written.
    """
    if not folder.is_dir():
        raise UserError(f"--out {folder}: there is no such folder; give that of a study")
    evidence = Tables.read(folder)
    sections = _sections(evidence)
    figures = folder / "figures"
    figures.mkdir(exist_ok=True)
    exhibits = [exhibit for _, _, found in sections for exhibit in found]
    for exhibit in exhibits:
        exhibit.save(figures)
    manifest = manifest_of(evidence, commands=_commands(exhibits, folder))
    write_manifest(folder / "manifest.json", manifest)
    judged = judge_all(read_claims(STORED), evidence)
    page = study_page(facts=_facts(manifest), judged=judged, sections=sections)
    path = folder / "study.html"
    path.write_bytes(page.encode())
    return path


def _sections(evidence: Tables) -> Sections:
    return [
        (
            "In training",
            "Plain and residual twins differ in nothing but the shortcut. If depth itself were "
            "harmless, a deeper network could do at least as well on its training images.",
            training_figures(evidence),
        ),
        (
            "At initialisation",
            "Before any training, random weights already decide what reaches the far end. Here "
            "theory has closed forms, and measurements are laid over them.",
            init_figures(evidence),
        ),
        (
            "Inside trained networks",
            "A trained network is taken apart unit by unit: which paths carry its gradient, what "
            "it can do without, what each unit adds.",
            inside_figures(evidence),
        ),
    ]


def _commands(exhibits: list[Exhibit], folder: Path) -> list[str]:
    """Each once, in the order of the page."""
    made = [*(exhibit.command for exhibit in exhibits), f"resnets study report --out {folder}"]
    return list(dict.fromkeys(made))


def _facts(manifest: Manifest) -> list[tuple[str, str]]:
    plan = manifest["plan"]
    facts = [("commands", "; ".join(manifest["commands"]))]
    if plan:
        recipe = plan["setup"]["recipe"]
        facts += [
            ("plan", f"{plan['name']}: {recipe['steps']} steps of {recipe['batch_size']} images"),
            ("images", f"{plan['setup']['data']}, {plan['setup']['side']} pixels a side"),
            ("seeds", ", ".join(map(str, manifest["seeds"]))),
            ("learning rates tried", ", ".join(f"{rate:g}" for rate in plan["rates"])),
        ]
    machine = manifest["machine"]
    facts.append(("machine", f"{machine['processor']}, {machine['cores']} cores, one thread a run"))
    facts.append(("versions", ", ".join(f"{k} {v}" for k, v in manifest["versions"].items())))
    return facts
