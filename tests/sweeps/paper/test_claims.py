"""The claims ledger: what decides a claim, what does not, and that it says no more than its data."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from spt_core.config import TrialConfig
from spt_core.metrics import persona_overlap
from sweeps import loss_ablation, table1
from sweeps.engine.analysis.cells import CellSummary, summarise
from sweeps.engine.design.sweep import Sweep
from sweeps.engine.paper import beside, claim_measures, claims
from sweeps.engine.paper import published as paper
from sweeps.engine.paper.claims import Part, decide
from sweeps.engine.plan.plan import Plan
from sweeps.engine.plan.trial import Trial
from sweeps.engine.report.latex import latex
from sweeps.engine.store.trial_folder import PREDICTIONS, TrialResult

SIX = (0.5, 0.6, 0.4, 0.5, 0.7, 0.5)


def part(*differences: float, margin: float = 0.1) -> Part:
    return Part("F1, SPT over PT", differences, margin)


class TestDecide:
    def test_every_part_at_the_level_supports(self) -> None:
        state, why = decide([part(*SIX), part(*SIX[::-1])])
        assert state == "supported"
        assert "p = 0.031" in why  # of six seeds: 2 / 64

    def test_five_seeds_cannot_support_whatever_they_show(self) -> None:
        state, why = decide([part(*SIX[:5])])
        assert state == "undecided"
        assert "5 seeds cannot give a p below 0.062" in why

    def test_one_part_the_other_way_contradicts_after_holm(self) -> None:
        seven = (*SIX, 0.6)  # p = 1 / 64, of two parts 1 / 32
        state, why = decide([part(*seven), part(*(-d for d in seven))])
        assert state == "contradicted"
        assert "the other way round" in why
        assert decide([part(*SIX), part(*(-d for d in SIX))])[0] == "undecided"  # of six seeds 2 / 32

    def test_all_parts_the_other_way_contradict_at_six_seeds(self) -> None:
        state, why = decide([part(*(-d for d in SIX))] * 5)
        assert state == "contradicted"
        assert "all 5 parts" in why

    def test_no_difference_that_matters_contradicts(self) -> None:
        state, why = decide([part(0.001, -0.001, 0.0, 0.001)])
        assert state == "contradicted"
        assert "no difference that matters" in why

    @pytest.mark.parametrize("num_seeds", [1, 2])
    def test_too_few_seeds_show_no_equality(self, num_seeds: int) -> None:
        assert decide([part(*[0.0] * num_seeds)])[0] == "undecided"

    def test_what_was_not_measured_supports_nothing(self) -> None:
        state, why = decide([part(*SIX), Part("BERT F1, SPT over PT", (), 1.0)])
        assert (state, why) == ("undecided", "not measured: BERT F1, SPT over PT")

    def test_false_support_is_no_more_frequent_than_the_level(self) -> None:
        generator = np.random.default_rng(0)
        states = [decide([part(*generator.normal(0, 1, 6), margin=1e-9)])[0] for _ in range(2_000)]
        low, high = scipy_stats.binom.interval(0.999, 2_000, 1 / 64)  # all six signs the right way
        assert low <= states.count("supported") <= high
        assert low <= states.count("contradicted") <= high


def run(
    folder: Path, sweep: Sweep, values: dict[str, dict[str, Sequence[float]]], *, data: str = "hf://someone/dialogues"
) -> tuple[Plan, list[CellSummary]]:
    """A sweep's cells with made-up metrics, by label of the cell and metric a value a seed."""
    cells = sweep.design.cells()
    num_seeds = len(next(iter(next(iter(values.values())).values())))
    trials, results = [], {}
    for cell in cells:
        for seed in range(num_seeds):
            config = TrialConfig().override({"data.train": data, "data.test": data}).override({**cell, "seed": seed})
            name = cell.name  # type: ignore[attr-defined]
            trial = Trial(f"{name} {seed}", cell, config, {"data": {"test": "other"}})
            trials.append(trial)
            metrics = {metric: of[seed] for metric, of in values[name].items()}
            results[trial.key] = TrialResult(trial.key, "finished", metrics, folder / trial.key)
    plan = Plan(sweep, "full", tuple(cells), tuple(range(num_seeds)), tuple(trials))
    return plan, summarise(plan, results)


def five(shift: float, **more: Sequence[float]) -> dict[str, Sequence[float]]:
    spread = np.array([0.01, -0.02, 0.03, 0.0, 0.02, -0.01])
    found = {metric: (10 + shift + spread).tolist() for metric in paper.FIVE}
    return {**found, "test/num_responses": [64.0] * 6, **{k.replace("__", "/"): v for k, v in more.items()}}


def ablation(folder: Path, *, data: str = "hf://someone/dialogues") -> tuple[Plan, list[CellSummary]]:
    """Contrastive matters in every metric, fusion as the paper says, selection most for DIST and it collapses."""
    without_fusion = {**five(-1.0), paper.DIST_AVG: [11.0 + 0.01 * i for i in range(6)]}
    without_selection = {
        **five(-0.5),
        paper.DIST_AVG: [7.0 + 0.01 * i for i in range(6)],
        "test/usage/prompt_0": [100.0] * 6,
        "test/usage/prompt_1": [0.0] * 6,
    }
    values = {
        "all": five(0.0),
        "without contrastive": five(-1.0),
        "without fusion": without_fusion,
        "without selection": without_selection,
    }
    return run(folder, loss_ablation.SWEEP, values, data=data)


class TestLedger:
    def test_results_as_the_paper_has_them_support_its_claims(self, tmp_path: Path) -> None:
        found = claims.judge({"loss_ablation": ablation(tmp_path)})
        states = {one.claim.number: one.state for one in found}
        assert [states[number] for number in (2, 3, 4)] == ["supported"] * 3
        assert {one.why for one in found if one.claim.number in {1, 8, 9, 10, 11}} == {"table1 did not run"}
        assert len(found) == 11

    def test_results_against_the_paper_contradict_them(self, tmp_path: Path) -> None:
        plan, summaries = ablation(tmp_path)
        swapped = {"all": "without contrastive", "without contrastive": "all"}
        by_label = {one.label: one for one in summaries}
        turned = [replace(one, results=by_label[swapped.get(one.label, one.label)].results) for one in summaries]
        for one, source in zip(turned, summaries, strict=True):
            keyed = tuple(replace(r, key=t.key) for r, t in zip(one.results, source.trials, strict=True) if r)
            object.__setattr__(one, "results", keyed)
        state = next(one for one in claims.judge({"loss_ablation": (plan, turned)}) if one.claim.number == 2)
        assert state.state == "contradicted"

    def test_the_sample_set_is_no_evidence(self, tmp_path: Path) -> None:
        found = claims.judge({"loss_ablation": ablation(tmp_path, data="sample:train")})
        assert {one.state for one in found} == {"undecided"}
        assert found[1].why == "the bundled sample set is no evidence about the paper"
        assert found[1].scale == "full, smollm2_135m, sample set"

    def test_the_document_holds_every_difference(self, tmp_path: Path) -> None:
        document = claims.document(claims.judge({"loss_ablation": ablation(tmp_path)}))
        second = document[1]
        assert second["verdict"] == "supported"
        (first, *_) = second["parts"]  # type: ignore[misc]
        assert first["differences"] == pytest.approx([1.0] * 6)
        assert first["p"] == 2 / 64

    def test_selection_is_judged_against_every_control(self, tmp_path: Path) -> None:
        """A retriever that always chooses prompt 2 is no better than prompt 2: the gain is not selection's."""
        spread = np.array([0.01, -0.02, 0.03, 0.0, 0.02, -0.01])
        own = (3.4 + spread).tolist()
        spt = {
            "test/nll": own,
            "routing/random/nll": (3.6 + spread).tolist(),
            "routing/shuffled/nll": own,
            "routing/turn/nll": own,
            **{f"routing/fixed_{k}/nll": (own if k == 1 else (3.6 + spread).tolist()) for k in range(4)},
        }
        found = run(tmp_path, table1.SWEEP, {"PT": {"test/nll": (3.7 - spread).tolist()}, "SPT": spt})
        (last,) = [one for one in claims.judge({"table1": found}) if one.claim.number == 11]
        assert last.state == "contradicted"
        assert "shuffled contexts" in last.why
        parts = {one.label: one for one in last.parts}
        assert parts["test NLL, SPT under PT"].delta.mean == pytest.approx(0.3 - 2 * spread.mean())
        assert parts["test NLL under the best fixed prompt"].differences == (0.0,) * 6


class TestUsage:
    def test_a_prompt_for_each_stage_is_an_association_and_chance_is_none(self) -> None:
        generator = np.random.default_rng(0)
        stages = np.tile(np.arange(3), 40)
        dialogues = np.repeat(np.arange(40), 3)
        own = claim_measures._excess(stages, stages.copy(), dialogues, generator)
        assert own > 0.8
        by_chance = [
            claim_measures._excess(stages, generator.integers(3, size=120), dialogues, generator) for _ in range(20)
        ]
        assert abs(np.mean(by_chance)) < 0.05

    def test_v_is_scipys(self) -> None:
        from scipy.stats.contingency import association

        generator = np.random.default_rng(1)
        first, second = generator.integers(3, size=90), generator.integers(4, size=90)
        counts = pd.crosstab(first, second).to_numpy()
        assert claim_measures.cramers_v(first, second) == pytest.approx(association(counts, method="cramer"))

    def test_what_a_dialogue_prefers_is_not_a_stage(self) -> None:
        dialogues = np.repeat(np.arange(30), 3)
        excess = claim_measures._excess(np.tile(np.arange(3), 30), dialogues % 4, dialogues, np.random.default_rng(0))
        assert excess == pytest.approx(0.0, abs=1e-12)


def test_overlap_at_equal_length_cuts_the_longer_reply(tmp_path: Path) -> None:
    from sweeps.engine.paper.claim_measures import equal_length_persona_bleu

    plan, cells = run(tmp_path, table1.SWEEP, {"PT": {"test/nll": [3.0]}, "SPT": {"test/nll": [3.0]}})
    persona = "i have two dogs and i like tea with my friends every day"
    said = {"PT": "i have two dogs and i like tea", "SPT": "i have two dogs so"}
    for cell in cells:
        for trial, result in cell.finished:
            result.folder.mkdir(parents=True)
            rows = [
                {"dialogue": f"d{i}", "turn": 0, "persona": persona, "prediction": said[cell.label]} for i in range(3)
            ]
            pd.DataFrame(rows).to_parquet(result.folder / PREDICTIONS)
            assert trial.seed == 0
    by_label = {one.label: one for one in cells}
    ((spt, pt),) = equal_length_persona_bleu(by_label["SPT"], by_label["PT"])
    assert spt == persona_overlap([said["SPT"]] * 3, [persona] * 3)["persona_bleu"]
    assert pt == persona_overlap(["i have two dogs and"] * 3, [persona] * 3)["persona_bleu"]
    assert len(plan.trials) == 2


class TestBesideThePaper:
    def test_effects_are_relative_to_the_reference_and_values_do_not_compare(self, tmp_path: Path) -> None:
        compared = beside.beside(paper.TABLE_2, [ablation(tmp_path)])
        assert compared.conditions == [
            "model smollm2-135m".replace("smollm2", "bundled:smollm2"),
            "test split",
            "64 replies",
        ]
        values = compared.values()
        assert [row.label for row in values.rows] == list(paper.TABLE_2.rows)
        assert values.rows[0].entries[0].detail == "paper 17.49"
        effects = {row.label: row.entries[0] for row in compared.effects().rows}
        assert effects["w/o contrastive"].text == "-10.0%"
        assert effects["w/o contrastive"].detail.endswith("; paper -8.8%")

    def test_the_papers_own_conditions_give_differences(self, tmp_path: Path) -> None:
        plan, summaries = ablation(tmp_path)
        for summary in summaries:
            trials = tuple(
                replace(
                    trial,
                    config=trial.config.override({"backbone.name": "meta-llama/Llama-2-7b-hf"}),
                    identity={"data": {"test": paper.TEST_FINGERPRINT}},
                )
                for trial in summary.trials
            )
            object.__setattr__(summary, "trials", trials)
            for result in summary.results:
                assert result is not None
                assert isinstance(result.metrics, dict)
                result.metrics["test/num_responses"] = float(paper.NUM_RESPONSES)
        compared = beside.beside(paper.TABLE_2, [(plan, summaries)])
        assert compared.conditions == []
        entry = compared.values().rows[0].entries
        assert entry[0].detail == f"paper 17.49, {10 + 0.03 / 6 - 17.49:+.2f}"
        assert entry[3].detail == "paper 54.66"  # BERTScore by another encoder


def test_latex_says_what_it_is_given_and_needs_booktabs(tmp_path: Path) -> None:
    text = latex(beside.beside(paper.TABLE_2, [ablation(tmp_path)]).values(), caption="50% of a_b & c", label="tab:x")
    assert text.count("{") == text.count("}")
    assert r"\toprule" in text
    assert r"50\% of a\_b \& c" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(rows) == 1 + len(paper.TABLE_2.rows)
    assert {line.replace(r"\&", "").count("&") for line in rows} == {len(paper.FIVE)}
