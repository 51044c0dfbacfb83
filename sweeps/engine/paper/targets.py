"""A table, a figure or the claims of the paper, again: the sweeps that it needs, and ours beside the published.

Each target names question files of this project. Their trials are planned like any sweep's, so what any of them has
finished is reused, by this command or by the sweep itself. K = 1 (which is prompt tuning) and the routing controls
stand wherever a table asks what selection brings.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeps.engine.analysis.cells import CellSummary
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.paper import claim_measures, claims, figures
from sweeps.engine.paper import published as paper
from sweeps.engine.paper.beside import PaperComparison, beside, group_of, model_of, tables_of
from sweeps.engine.paper.claims import SweepsFound
from sweeps.engine.paper.published import Published, has_levels
from sweeps.engine.report import examples
from sweeps.engine.report.further_tables import measured_tables
from sweeps.engine.report.latex import latex
from sweeps.engine.report.table import Table, escape, markdown

QUESTIONS = ("table1", "loss_ablation", "k_sweep", "baselines", "longer_prompts")
"""The question files that the targets are answered from."""


@dataclass(frozen=True)
class Target:
    """Something of the paper to reproduce.

    Attributes:
        about: one line for `--help`.
        questions: the sweeps that it needs.
    """

    about: str
    questions: tuple[str, ...]


TARGETS: Mapping[str, Target] = {
    "table1": Target("SPT against prompt tuning", ("table1",)),
    "table2": Target("losses left out, beside K = 1", ("loss_ablation", "table1")),
    "table3": Target("the number of prompts", ("k_sweep",)),
    "table4": Target("longer prompts, LoRA, in context", ("baselines", "longer_prompts")),
    "table5": Target("overlap with the persona", ("table1",)),
    "table7": Target("human evaluation: what to export, and the published scores", ("table1",)),
    "table8": Target("table4 in all metrics", ("baselines", "longer_prompts")),
    "figure2": Target("prompts by stage of the dialogue", ("table1",)),
    "figure3": Target("emoji by prompt and stage", ("table1",)),
    "figure4": Target("replies of SPT beside prompt tuning", ("table1",)),
    "claims": Target("the eleven claims, each tested", QUESTIONS),
}
ALL = "all"
"""Every target."""


@dataclass(frozen=True)
class TargetAnswer:
    """What a target came to.

    Attributes:
        name: of the target.
        tables: by heading.
        notes: what a reader should know, in sentences.
        document: for programs; None writes none.
    """

    name: str
    tables: Mapping[str, Table]
    notes: tuple[str, ...] = ()
    document: Any = field(default=None)

    def markdown(self) -> str:
        """All of it in GitHub's Markdown."""
        blocks = [f"# {self.name}"]
        blocks += [f"## {escape(heading)}\n\n{markdown(table)}" for heading, table in self.tables.items()]
        return "\n\n".join([*blocks, *map(escape, self.notes)]) + "\n"

    def write(self, folder: Path) -> Path:
        """`NAME.md`, `NAME.tex`, and `NAME.json` where there is a document; the path of the first."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = [latex(of, caption=heading, label=f"tab:{self.name}") for heading, of in self.tables.items()]
        (folder / f"{self.name}.tex").write_text("\n".join(parts), encoding="utf-8")
        if self.document is not None:
            (folder / f"{self.name}.json").write_text(json.dumps(self.document, indent=1, allow_nan=False))
        path = folder / f"{self.name}.md"
        path.write_text(self.markdown(), encoding="utf-8")
        return path


def targets(name: str) -> list[str]:
    """The targets that a name stands for.

    Raises:
        ValueError: it is none; says which there are.
    """
    if name == ALL:
        return list(TARGETS)
    if name not in TARGETS:
        raise ValueError(f"reproduce {name}: it should be one of {', '.join([*TARGETS, ALL])}")
    return [name]


def questions(names: Sequence[str]) -> dict[str, tuple[Sweep, str]]:
    """The sweeps that some targets need, each once, by the name of its file, with its question.

    Args:
        names: of targets.
    """
    found = {}
    for name in dict.fromkeys(question for target in names for question in TARGETS[target].questions):
        module = importlib.import_module(f"sweeps.{name}")
        found[name] = module.SWEEP, (module.__doc__ or "").strip()
    return found


def answer(name: str, found: SweepsFound) -> TargetAnswer:
    """A target from the sweeps that it needs.

    Args:
        name: of the target.
        found: each of its sweeps with its cells.
    """
    needed = {question: found[question] for question in TARGETS[name].questions}
    if name == "claims":
        findings = claims.judge(needed)
        return TargetAnswer(name, {"Claims": claims.ledger_table(findings)}, _KEY, claims.document(findings))
    if name in {"figure2", "figure3", "figure4"}:
        return _figure(name, needed)
    published = _published(name, needed)
    further = _further(name, needed)
    compared = beside(published, needed.values(), further)
    shown = {published.caption: compared.values()}
    if name == "table7":
        shown = {published.caption: compared.values(), **_overlap(needed)}
    else:
        shown["Effects, in percent of the reference row"] = compared.effects()
    spt = [one for one in (*compared.ours.values(), *further.values()) if one.trials[0].config.method == "spt"]
    if name in _ASK_OF_SELECTION:
        shown |= {heading: of for heading, of in measured_tables(spt).items() if heading.startswith("Does sel")}
    return TargetAnswer(name, shown, (*_conditions(compared), *published.notes, *_rating(name, needed)))


_ASK_OF_SELECTION = {"table1", "table2", "table3", "table4", "table8"}
_KEY = (
    "Supported: every part holds at the 5% level by an exact sign-flip test over seeds. Contradicted: some part holds "
    "the other way, or is shown to make no difference. Undecided: all else. Of the model, scale and data that ran.",
)


def _published(name: str, needed: SweepsFound) -> Published:
    first = next(iter(needed.values()))[0].trials[0].config
    group = group_of(plan for plan, _ in needed.values())
    make = {
        "table1": lambda: paper.table_1(model_of(first)),
        "table2": lambda: paper.TABLE_2,
        "table3": lambda: paper.TABLE_3,
        "table4": lambda: paper.table_4(**group),
        "table5": lambda: paper.TABLE_5,
        "table7": lambda: paper.TABLE_7,
        "table8": lambda: paper.table_8(**group),
    }
    return make[name]()


def _further(name: str, needed: SweepsFound) -> dict[str, CellSummary]:
    """K = 1 beside a table that has no such row of its own: the cell of one prompt, the shortest of several."""
    of = {"table2": "table1", "table4": "baselines", "table8": "baselines"}.get(name)
    if of is None:
        return {}
    one_prompt = [one for one in needed[of][1] if has_levels(one.trials[0].config, _ONE_PROMPT)]
    shortest = min(one_prompt, key=lambda one: one.trials[0].config.prompts.prompt_length)
    return {"K = 1 (prompt tuning)": shortest}


_ONE_PROMPT = {"method": "spt", "prompts.num_prompts": 1}


def _pt_and_spt(needed: SweepsFound) -> Mapping[str, CellSummary]:
    plan, summaries = needed["table1"]
    return beside(tables_of(plan)[0], [(plan, summaries)]).ours


def _conditions(compared: PaperComparison) -> list[str]:
    if not any(cell.is_whole for cell in compared.ours.values()):
        return ["No cell finished on all seeds."]
    if not compared.conditions:
        return ["The conditions are the paper's: differences in value are shown."]
    return [
        f"Not the paper's conditions ({', '.join(compared.conditions)}): values do not compare, so no difference is "
        "shown; effects may."
    ]


def _figure(name: str, needed: SweepsFound) -> TargetAnswer:
    cells = needed["table1"][1]
    spt = _pt_and_spt(needed)["SPT"]
    if name == "figure2":
        association = claim_measures.excess_association(spt)
        said = ", ".join(f"{value:+.3f}" for value in association) or "not measured"
        note = f"Association of prompt and stage (Cramer's V) over chance, by seed: {said}; 0 is none."
        return TargetAnswer(name, {"Figure 2: share of each prompt, in percent": figures.usage_table(spt)}, (note,))
    if name == "figure3":
        note = "Emoji are counted in the replies before the cut. The paper shows examples and no numbers."
        return TargetAnswer(name, {"Figure 3: emoji by prompt": figures.emoji_table(spt)}, (note,))
    return TargetAnswer(name, {"Figure 4: SPT beside prompt tuning": examples.side_by_side(cells)})


def _overlap(needed: SweepsFound) -> dict[str, Table]:
    found = measured_tables(list(needed["table1"][1]))
    return {heading: of for heading, of in found.items() if heading == "Overlap with the persona"}


def _rating(name: str, needed: SweepsFound) -> list[str]:
    if name != "table7":
        return []
    keys = {row: one.finished[0][0].key for row, one in _pt_and_spt(needed).items() if one.finished}
    if len(keys) < 2:
        return ["Both cells have to finish before people can rate them."]
    export = f"spt human-eval export {keys['SPT']} {keys['PT']}"
    return [f"Only people can fill this table: {export}, then spt human-eval import."]
