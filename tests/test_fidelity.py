"""Short budgets against long ones: which networks are trained longer, what is compared, how it is read."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from search_space.errors import UserError
from studies import fidelity
from studies.records import open_study
from trainers.runs import Run

SET_TRIAL_STATE, SET_TRIAL_USER_ATTR = 6, 8  # Optuna's journal


def arguments(runs: Path, *more: str) -> list[str]:
    options = ["--study", "tiny", "--runs", str(runs), "--networks", "4", "--factor", "0.5", "--workers", "1"]
    return [*options, *more]


def add_rungs(runs: Path, rungs: dict[int, dict[str, float]]) -> None:
    """Give the tiny study's trials scores at rungs, as a study that looks on the way records them before it ends a
    trial."""
    journal = runs / "tiny" / "journal.log"
    lines = []
    for line in journal.read_text().splitlines():
        said = json.loads(line)
        if said["op_code"] == SET_TRIAL_STATE and said.get("values"):
            scores = {"rungs": rungs[said["trial_id"]]}
            attribute = {"op_code": SET_TRIAL_USER_ATTR, "worker_id": said["worker_id"], "trial_id": said["trial_id"]}
            lines.append(json.dumps({**attribute, "user_attr": scores}))
        lines.append(line)
    journal.write_text("".join(line + "\n" for line in lines))


class TestSample:
    @pytest.mark.parametrize(("rows", "number"), [(200, 16), (37, 16), (50, 7), (16, 16), (5, 4)])
    def test_is_of_different_rows_with_an_equal_share_of_every_stratum(self, rows: int, number: int) -> None:
        scores, costs = np.random.default_rng(rows).random((2, rows))
        chosen = fidelity.stratified(scores, costs, number)
        assert len(set(chosen)) == number
        upper = (scores[chosen] > np.median(scores)).sum()
        assert abs(upper - number / 2) <= 2

    def test_has_one_of_every_cell(self) -> None:
        """64 rows, 16 cells of four: a quarter of the scores, then a quarter of the costs in it."""
        scores = np.repeat([4, 3, 2, 1], 16) + np.tile(np.linspace(0, 0.9, 16), 4)
        costs = np.random.default_rng(0).permutation(64)
        chosen = fidelity.stratified(scores, costs, 16)
        for start in range(0, 64, 16):
            ranks = np.argsort(np.argsort(costs[start : start + 16]))
            mine = [ranks[row - start] // 4 for row in chosen if start <= row < start + 16]
            assert sorted(mine) == [0, 1, 2, 3]

    def test_spreads_as_all_rows_do(self) -> None:
        scores, costs = np.random.default_rng(0).normal(size=(2, 200))
        spreads = [scores[fidelity.stratified(scores, costs, 16, seed)].std() for seed in range(300)]
        assert np.mean(spreads) == pytest.approx(scores.std(), rel=0.05)

    def test_is_always_the_same_and_of_few_rows_all(self) -> None:
        scores, costs = np.random.default_rng(0).random((2, 50))
        assert fidelity.stratified(scores, costs, 9).tolist() == fidelity.stratified(scores, costs, 9).tolist()
        assert sorted(fidelity.stratified(scores[:5], costs[:5], 16)) == [0, 1, 2, 3, 4]


class TestReading:
    @pytest.mark.parametrize(
        ("found", "plain", "words"),
        [
            ((0.3, -0.1, 0.6), 0.5, "cannot be told: the interval, -0.10 to +0.60, includes 0"),
            ((0.6, 0.2, 0.8), 0.5, "4,800 clips rank these networks: they get about 80% of all pairs right"),
            (
                (0.6, 0.2, 0.8),
                0.7,
                "about 80% of all pairs right; but so does the number of MACs alone, with a tau of 0.70",
            ),
            ((-0.6, -0.8, -0.2), 0.5, "4,800 clips rank these networks the wrong way round"),
            ((None, None, None), None, "all scores are the same: 4,800 clips say nothing"),
        ],
    )
    def test_says_it_plainly(self, found: tuple[float | None, ...], plain: float | None, words: str) -> None:
        short = {"clips": 4800, **dict(zip(("tau", "low", "high"), found, strict=True))}
        said = fidelity.reading(short, {"params": None, "macs": plain})
        assert words in said
        assert ("but so does" in said) == ("but so does" in words)


class TestCommand:
    def test_trains_compares_and_goes_on(self, own_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert fidelity.main(arguments(own_study, "--json")) == 0
        said = capsys.readouterr()
        report = json.loads(said.out)
        assert "4 runs of 48 clips at 16x16 with recipe short; 0 have finished already" in said.err
        folder = own_study / "tiny/fidelity/short-48"
        study = open_study("tiny", own_study).trials().set_index("trial")
        assert [of["trial"] for of in report["networks"]] == list(
            study.sort_values("val_accuracy", ascending=False, kind="stable").index
        )
        for of in report["networks"]:
            run = Run(folder / f"{of['trial']:05d}-s1")
            assert run.config["architecture"] == study.loc[of["trial"], "architecture"]
            assert run.metrics()[-1]["clips_seen"] == 48
            assert of["val"] == [run.metrics()[-1]["val_accuracy"]]
            assert run.predictions("test") is None
            assert of["study_val"] == study.loc[of["trial"], "val_accuracy"]
        long = [of["val_mean"] for of in report["networks"]]
        ranked = {of["predictor"]: of for of in report["correlations"]}
        assert list(ranked) == ["study", "params", "macs"]
        for name, key in (("study", "study_val"), ("params", "params"), ("macs", "macs")):
            expected = stats.kendalltau([of[key] for of in report["networks"]], long).statistic
            assert (ranked[name]["tau"] is None) == np.isnan(expected)
            if not np.isnan(expected):
                assert ranked[name]["tau"] == pytest.approx(expected)
        assert json.loads((folder / "fidelity.json").read_text()) == report

        kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/weights.safetensors")}
        assert fidelity.main(arguments(own_study)) == 0
        said = capsys.readouterr()
        assert {path: path.stat().st_mtime_ns for path in kept} == kept
        assert "4 have finished already" in said.out
        assert " ".join(report["reading"].split()) in " ".join(said.out.split())

        on_the_way = {0: {"16": 0.1, "32": 0.4}, 1: {"16": 0.2, "32": 0.3}, 2: {"16": 0.3}, 3: {"16": 0.4, "32": 0.1}}
        add_rungs(own_study, on_the_way)
        assert fidelity.main(arguments(own_study, "--json")) == 0
        later = json.loads(capsys.readouterr().out)
        assert [of for of in later["correlations"] if of["predictor"] != "rung"] == report["correlations"]
        (rung,) = [
            of for of in later["correlations"] if of["predictor"] == "rung"
        ]  # three networks have no order at 32 clips
        assert (rung["clips"], rung["networks"]) == (16, 4)
        first = [on_the_way[of["trial"]]["16"] for of in report["networks"]]
        expected = stats.kendalltau(first, long).statistic
        assert (rung["tau"] or 0.0) == pytest.approx(np.nan_to_num(expected))
        frame = open_study("tiny", own_study).rungs()
        assert frame.columns.tolist() == [16, 32]
        assert frame.loc[1].tolist() == [0.2, 0.3]
        assert np.isnan(frame.loc[2, 32])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--networks", "3"), "--networks is at least 4, not 3"),
            (("--factor", "0"), "--factor is above 0, not 0.0"),
            (("--factor", "nan"), "--factor is above 0, not nan"),
            (("--factor", "0.1"), "--budget is at least one batch of 32 clips, not 10"),
            (("--seeds", "0"), "--seeds is at least 1, not 0"),
            (("--study", "other"), r"no study 'other' in .*; known: \['tiny'\]"),
        ],
    )
    def test_bad_input_is_named_before_training(self, own_study: Path, options: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError, match=message):
            fidelity.main([*arguments(own_study), *options])
        assert not (own_study / "tiny" / "fidelity").exists()
