"""The ablation's command: paired runs trained once, told from noise, written in every form, gone on with after anything."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest

from search_space.complexity import count_network
from search_space.errors import UserError
from studies import ablate
from studies.code import code_digest
from studies.differences import holm, paired
from studies.storage import open_storage
from trainers.runs import Run

BASE = "dssdn_c4-6_r0.5_sc_h8"
FACTORS = "distillation,roll,mels=128"


def arguments(folder: Path, runs: Path, *more: str, factors: str | None = FACTORS, seeds: int = 2) -> list[str]:
    options = ["--base", BASE, "--data", str(folder), "--runs", str(runs), "--name", "tiny", "--seeds", str(seeds)]
    options += ["--workers", "1", "--budget", "32", "--train-input", "16x16"]
    return [*options, *(["--factors", factors] if factors else []), *more]


def asked(capsys: pytest.CaptureFixture[str], *arguments_: str) -> dict[str, Any]:
    """The command's JSON document, which is all of its stdout."""
    capsys.readouterr()
    assert ablate.main([*arguments_, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.fixture(scope="module")
def trained(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with a finished ablation of three factors, two seeds; not to be changed."""
    place = tmp_path_factory.mktemp("ablate") / "runs"
    assert ablate.main(arguments(tiny_folder, place, "--test")) == 0
    return place


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may write into."""
    shutil.copytree(trained, tmp_path / "runs")
    return tmp_path / "runs"


def written(difference: dict[str, Any]) -> list[float]:
    """A difference in the report, with NaN where it says nothing."""
    keys = ("n", "mean", "std", "low", "high", "p")
    return [np.nan if difference[key] is None else difference[key] for key in keys]


def weights(runs: Path) -> dict[str, int]:
    """When each run's weights were written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in (runs / "tiny").glob("*/weights.safetensors")}


class TestRuns:
    def test_each_variant_records_what_it_is_and_begins_like_the_base(self, trained: Path) -> None:
        found = [Run(path) for path in (trained / "tiny").glob("dssdn_*")]
        assert len(found) == 8
        assert all(run.status["state"] == "finished" for run in found)
        configs = [run.config for run in found]
        assert {config["code"] for config in configs} == {code_digest()}
        by_change = {
            (c["architecture"], c["recipe"]["roll"], c["data"]["front_end"]["n_mels"]): (c["like"], c["train_input"])
            for c in configs
        }
        assert by_change == {
            (BASE, True, 256): (None, [16, 16]),
            (f"{BASE}_chain", True, 256): (BASE, [16, 16]),
            (BASE, False, 256): (None, [16, 16]),
            (BASE, True, 128): (None, [16, 8]),  # the same share of the full log-mel
        }
        assert sorted(config["seed"] for config in configs) == [0] * 4 + [1] * 4
        assert all(run.scores is not None and run.scores["n_clips"] == 9 for run in found)

    def test_a_variant_that_fails_is_left_out_and_said_to_be(
        self, runs: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The others are trained and compared; it is tried again only when asked, and a base that fails leaves nothing to say."""
        given = arguments(tiny_folder, runs)
        path = next((runs / "tiny").glob(f"{BASE}_chain-*-s1"))
        kept = path.rename(runs / "kept")
        (path / "provenance.json").mkdir(parents=True)  # no file can be written there
        report = asked(capsys, *given)
        assert [row["variant"] for row in report["rows"][1:]] == ["roll=off", "mels=128"]
        assert list(report["failed"]) == ["distillation=off with seed 1"]
        assert report["failed"]["distillation=off with seed 1"].startswith("IsADirectoryError: ")
        assert "distillation=off with seed 1: IsADirectoryError" in "\n".join(report["notes"])

        shutil.rmtree(path)
        kept.rename(path)
        run = Run(path)
        run.write_json("status.json", {"state": "failed", "error": "Diverged: not finite"})
        before = weights(runs)
        assert asked(capsys, *given)["failed"] == {"distillation=off with seed 1": "Diverged: not finite"}
        assert weights(runs) == before
        again = asked(capsys, *given, "--retry-failed")
        assert len(again["rows"]) == 4
        assert again["failed"] == {}
        assert weights(runs)[path.name] > before[path.name]

    def test_without_the_base_nothing_is_compared(self, runs: Path, tiny_folder: Path) -> None:
        for path in (runs / "tiny").glob(f"{BASE}-*-s0"):
            Run(path).write_json("status.json", {"state": "failed", "error": "Diverged: not finite"})
        with pytest.raises(
            UserError, match=r"the base could not be trained, so nothing can be compared:\n.*Diverged: not finite"
        ):
            ablate.main(arguments(tiny_folder, runs))

    def test_nothing_is_trained_twice(self, runs: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Not without the reports, not by another ablation, which may want a part of it on another fold as well; the seeds go on."""
        before = weights(runs)
        shutil.rmtree(runs / "tiny" / "reports")
        report = asked(capsys, *arguments(tiny_folder, runs))
        assert weights(runs) == before
        assert all(Path(path).exists() for path in report["files"].values())

        report = asked(capsys, *arguments(tiny_folder, runs, "--folds", "5,1", factors="distillation", seeds=1))
        after = weights(runs)
        assert len(after) == len(before) + 2
        assert all(after[name] == written for name, written in before.items())
        assert report["folds"] == [5, 1]
        val, train = report["data"]["counts"]["val"], report["data"]["counts"]["train"]
        assert report["overlap"] == pytest.approx(val / train)
        base, variant = report["rows"]
        expected = paired(100 * (np.array(variant["val"]) - np.array(base["val"])), report["overlap"])
        assert written(variant["difference_points"]) == pytest.approx(list(expected), nan_ok=True)
        assert any("corrected after Nadeau and Bengio" in note for note in report["notes"])

    def test_what_was_cut_off_is_trained_again_and_is_the_same(
        self, runs: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = asked(capsys, *arguments(tiny_folder, runs))
        lost = Run(runs / "tiny" / before["rows"][1]["runs"][1])
        written = weights(runs)
        lost.write_status("running", epoch=0, epochs=1)
        after = asked(capsys, *arguments(tiny_folder, runs))
        assert after["rows"] == before["rows"]
        changed = {name for name, moment in weights(runs).items() if moment != written[name]}
        assert changed == {lost.path.name}

    def test_runs_of_other_code_are_refused_unless_accepted(
        self, runs: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run = Run(next((runs / "tiny").glob("*_chain-*-s1")))
        run.write_json("run.json", {**run.config, "code": "0" * 64})
        with pytest.raises(
            UserError, match=r"1 of the finished runs .* digest 000000000000.*another --name.*--accept-code"
        ):
            ablate.main(arguments(tiny_folder, runs))
        report = asked(capsys, *arguments(tiny_folder, runs, "--accept-code"))
        assert report["runs_of_other_code"] == 1
        assert any("1 of the runs were made by other code" in note for note in report["notes"])


class TestReport:
    def test_a_row_is_the_paired_difference_of_the_runs(
        self, trained: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        report = asked(capsys, *arguments(tiny_folder, trained, "--test"))
        base, *rows = report["rows"]
        assert [row["variant"] for row in rows] == ["distillation=off", "roll=off", "mels=128"]
        assert (base["variant"], base["difference_points"], base["changes"]) == (BASE, None, [])
        runs = {row["variant"]: [Run(trained / "tiny" / name) for name in row["runs"]] for row in report["rows"]}
        for row in report["rows"]:
            assert row["val"] == [run.metrics()[-1]["val_accuracy"] for run in runs[row["variant"]]]
            assert row["test"] == [(run.scores or {})["accuracy"] for run in runs[row["variant"]]]
            assert row["val_mean"] == pytest.approx(np.mean(row["val"]))
            assert row["val_std"] == pytest.approx(np.std(row["val"], ddof=1))
            assert [run.config["seed"] for run in runs[row["variant"]]] == [0, 1]
        found = [paired(100 * (np.array(row["val"]) - np.array(base["val"]))) for row in rows]
        adjusted = iter(holm([of.p for of in found if not np.isnan(of.p)]))
        for row, expected in zip(rows, found, strict=True):
            assert written(row["difference_points"]) == pytest.approx(list(expected), nan_ok=True)
            p_holm = None if np.isnan(expected.p) else next(adjusted)
            assert row["difference_points"]["p_holm"] == pytest.approx(p_holm)
            assert row["relative"] == pytest.approx((row["val_mean"] - base["val_mean"]) / base["val_mean"])
            told = "no noise measured" if p_holm is None else "inside the noise"
            assert row["verdict"] == told or (p_holm is not None and p_holm < 0.05)
        costs = [count_network(network, (44, 256), 3) for network in (BASE, f"{BASE}_chain")]
        assert rows[0]["params_difference"] == costs[1].params - costs[0].params < 0
        assert rows[0]["macs_difference"] == costs[1].macs - costs[0].macs < 0
        assert (rows[1]["params_difference"], rows[1]["macs_difference"]) == (0, 0)
        assert rows[2]["params_difference"] == 0 > rows[2]["macs_difference"]  # half of the mels
        assert (rows[2]["input"], rows[2]["train_input"]) == ([44, 128], [16, 8])

    def test_it_lies_in_every_form_in_its_folder_and_where_it_is_wanted(
        self, runs: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wanted = tmp_path / "paper" / "table.tex"
        report = asked(capsys, *arguments(tiny_folder, runs, "--latex", str(wanted)))
        files = {kind: Path(path).read_text("utf-8") for kind, path in report["files"].items()}
        assert wanted.read_text("utf-8") == files["latex"]
        assert r"\toprule" in files["latex"]
        assert "| distillation: on -> off |" in files["markdown"]
        rows = list(csv.DictReader(files["csv"].splitlines()))
        assert [row["variant"] for row in rows] == [row["variant"] for row in report["rows"]]
        assert float(rows[1]["points_mean"]) == report["rows"][1]["difference_points"]["mean"]
        assert {row["synthetic_data"] for row in rows} == {"False"}
        assert "plotly" in files["html"]
        assert json.loads(files["json"])["rows"] == report["rows"]

    def test_it_is_printed_for_people(self, runs: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        capsys.readouterr()
        assert (
            ablate.main(
                arguments(
                    tiny_folder, runs, "--factors", "operator=osc,osc_mid,distillation", "--seeds", "1", factors=None
                )
            )
            == 0
        )
        said = " ".join(capsys.readouterr().out.split())
        assert "osc_mid is inactive: the base's operator is sc, not osc" in said
        assert "operator: sc -> osc" in said
        assert "No noise was measured" in said
        assert "one run" in said
        assert "1 seed, test fold 5 (9 val clips), 32 clips at 16x16" in said

    def test_a_factorial_has_main_effects_and_interactions(
        self, runs: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = weights(runs)
        report = asked(capsys, *arguments(tiny_folder, runs, "--grid", factors="distillation,roll"))
        assert len(weights(runs)) == len(before) + 2  # the one combination that was not there
        val = {row["variant"]: 100 * np.array(row["val"]) for row in report["rows"]}
        both, chain, still = (val[name] for name in ("distillation=off, roll=off", "distillation=off", "roll=off"))
        effects = {row["effect"]: row["difference_points"]["mean"] for row in report["effects"]}
        assert effects == {
            "distillation=off": pytest.approx(((chain - val[BASE]) + (both - still)).mean() / 2),
            "roll=off": pytest.approx(((still - val[BASE]) + (both - chain)).mean() / 2),
            "distillation=off x roll=off": pytest.approx((both - chain - still + val[BASE]).mean()),
        }


def test_the_factors_are_listed_without_training(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--list", "--data", str(tiny_folder), "--base", "dssdn-small", "--runs", str(tmp_path / "runs")]
    report = asked(capsys, *options)
    factors = {row["factor"]: row for row in report["factors"]}
    assert factors["osc_mid"]["options"] == ["4", "8", "12", "16"]
    assert factors["partial_ratio"]["inactive"] == "the base's operator is osc, not spc"
    assert factors["mels"]["level"] == "256"
    assert ablate.main(options) == 0
    assert "inactive: the base's operator is osc, not spc" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "runs").exists()


def test_a_trial_of_a_study_is_a_base_on_its_data(own_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of the data, the budget and the input that the study had."""
    options = ["--study", "tiny", "--trial", "1", "--runs", str(own_study), "--workers", "1", "--seeds", "1"]
    report = asked(capsys, *options, "--factors", "attention")
    assert report["base"] == "dssdn-middle"
    assert (report["budget"], report["train_input"]) == (96, [16, 16])
    assert report["ablation"] == f"ablate-{report['data']['name']}"
    assert report["folds"] == [5]

    study = optuna.load_study(study_name="tiny", storage=open_storage(own_study / "tiny"))
    study.set_user_attr("data", {**study.user_attrs["data"], "fold": 2})
    assert asked(capsys, *options, "--factors", "attention")["folds"] == [2]
    with pytest.raises(UserError, match="--subset is a part of --data; the base's study has its own data"):
        ablate.main([*options, "--subset", "part.csv"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--base", "dssdn-huge"), "unknown network 'dssdn-huge'"),
        (("--study", "s"), "--study and --trial go together"),
        (("--study", "s", "--trial", "1"), "the base is --base, or a trial of --study"),
        (("--preset", "table2"), "--preset table2 has its own rows"),
        (("--seeds", "0"), "--seeds is at least 1, not 0"),
        (("--effect", "0"), "--effect is more than 0 points, not 0"),
        (("--storage", "postgresql://me@h/d"), "--storage says where a --study lies"),
        (("--grid", "--seeds", "1"), "--grid takes at least 2 seeds"),
        (("--folds", "one"), "--folds is 'all' or test folds such as 5 or 1,2, not 'one'"),
        (("--folds", "5,9"), r"fold 9 is not in the data; known: \[1, 2, 3, 4, 5\]"),
        (("--factors", "wings"), "unknown factor 'wings'"),
        (("--factors", "prune=one-step"), "it can not lose 50%; choose at most --prune 0.12"),
        (
            ("--base", "cpm_c4-8-16_b1_x8", "--factors", "family", "--prune", "0.5"),
            "can not be pruned: its first stage",
        ),
        (
            ("--base", "tf-sepnet-64", "--factors", "width", "--prune", "0.5"),
            "can not be pruned: nothing says which of its",
        ),
        (("--factors", "n_fft=65536"), "n_fft=65536: clips of 1 s have no more samples than half a window"),
        (("--factors", "hop=5000"), "hop=5000: a hop of 5000 leaves sound out"),
        (("--budget", "8"), "--budget is at least one batch of 32 clips, not 8"),
        (("--train-input", "999x16"), "--train-input is at most the full input"),
        (("--workers", "99"), "--workers is 1 to"),
        (("--recipe", "slow"), r"unknown recipe 'slow'"),
    ],
)
def test_bad_input_ends_before_training(
    tiny_folder: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        ablate.main([*arguments(tiny_folder, tmp_path / "runs"), *options])
    assert not list(tmp_path.glob("runs/*/*-s0"))


@pytest.mark.slow
def test_what_shrinks_and_what_is_quantised_costs_what_it_has_become(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One schedule and one precision, and the accuracy of the int8 network."""
    base, factors = "dssdn_c12-16_r0.5_sc_h8", "prune=one-step|progressive,precision=int8-ptq"
    given = ["--base", base, "--data", str(tiny_folder), "--runs", str(tmp_path), "--name", "smaller", "--seeds", "1"]
    report = asked(capsys, *given, "--workers", "1", "--budget", "128", "--train-input", "16x16", "--factors", factors)
    whole, one, many, int8 = report["rows"]
    assert report["failed"] == {}
    for row in (one, many):
        cost = count_network(row["finals"][0], tuple(report["input"]), 3)
        assert (row["params"], row["macs"]) == (cost.params, cost.macs)
        assert row["params"] == pytest.approx(whole["params"] / 2, rel=0.07)
        assert row["macs"] < whole["macs"]
    assert (int8["params"], int8["macs"]) == (whole["params"], whole["macs"])
    assert int8["param_bytes"] < whole["param_bytes"] == 4 * whole["params"]
    run = Run(tmp_path / "smaller" / int8["runs"][0])
    assert int8["val"] == [run.metrics()[-1]["val_accuracy"]]
    said = run.predictions("val")
    assert said is not None
    assert said.accuracy == int8["val"][0]
