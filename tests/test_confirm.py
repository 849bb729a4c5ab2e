"""Confirming a front: who is trained again, with which seeds, what the table says of them, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from search_space.errors import UserError
from studies import confirm, fidelity, proxies, replication
from studies.analysis import front, shortfall
from studies.records import open_study
from studies.replication import other_seeds
from studies.statistics import means, non_dominated_probability
from trainers.config import short
from trainers.datasets import open_dataset
from trainers.features import prepare
from trainers.inputs import load_inputs
from trainers.loop import predictions
from trainers.recorded import load_model
from trainers.runs import Run
from trainers.scoring import score_test
from trainers.teaching import with_options

SET_TRIAL_STATE = 6  # Optuna's journal


def trials_of(rows: list[tuple[float, int, int]]) -> pd.DataFrame:
    """Complete trials of these (val_accuracy, params, macs)."""
    frame = pd.DataFrame(rows, columns=["val_accuracy", "params", "macs"])
    return frame.assign(trial=range(len(rows)), state="complete", architecture="x", preset=None)


def arguments(runs: Path, *more: str) -> list[str]:
    return ["--study", "tiny", "--runs", str(runs), "--seeds", "2", "--budget", "32", "--workers", "1", *more]


def forget_results(runs: Path) -> None:
    """Take every result out of the tiny study's journal."""
    journal = runs / "tiny" / "journal.log"
    kept = [line for line in journal.read_text().splitlines() if json.loads(line)["op_code"] != SET_TRIAL_STATE]
    journal.write_text("".join(line + "\n" for line in kept))


class TestChoice:
    def test_near_misses_lack_at_most_one_standard_error(self) -> None:
        """p = 0.5 on 200 clips: sqrt(2 / 4 / 200) = 5 points. Trial 1 lacks 4.9 of them to the cheaper trial 0, trial 2
        lacks 5.1."""
        rows = confirm.chosen(trials_of([(0.55, 10, 10), (0.501, 20, 20), (0.499, 20, 20)]), n_val=200)
        assert rows["trial"].tolist() == [0, 1]
        assert rows["role"].tolist() == ["front", "near miss"]
        assert rows["misses_by"].tolist() == pytest.approx([0, 0.049])

    def test_the_front_comes_first_then_the_nearest_and_no_more_than_it_has_members(self) -> None:
        trials = trials_of(
            [(0.5, 10, 10), (0.6, 20, 20), (0.58, 30, 30), (0.59, 30, 30), (0.49, 10, 11), (0.57, 40, 40)]
        )
        assert confirm.chosen(trials, n_val=50)["trial"].tolist() == [1, 0, 3, 4]
        assert confirm.chosen(trials, n_val=50, top=3)["trial"].tolist() == [1, 0, 3]
        assert confirm.chosen(trials, n_val=50, top=1)["role"].tolist() == ["front"]

    def test_a_shortfall_is_to_the_best_that_costs_no_more(self) -> None:
        trials = trials_of([(0.9, 30, 10), (0.8, 10, 30), (0.5, 20, 20), (0.7, 30, 30), (0.9, 30, 11), (0.9, 30, 10)])
        assert shortfall(trials).tolist() == pytest.approx([0, 0, 0, 0.2, 0, 0])
        unfinished = trials.assign(state=["running", *["complete"] * 5])
        assert np.isnan(shortfall(unfinished)[0])

    def test_a_shortfall_is_the_least_that_brings_a_trial_to_the_front(self) -> None:
        rng = np.random.default_rng(0)
        trials = trials_of([(a / 10, int(p), int(m)) for a, p, m in rng.integers(1, 9, (40, 3))])
        lacks = shortfall(trials)
        assert (lacks[trials["trial"].isin(front(trials)["trial"])] == 0).all()
        for trial in trials["trial"]:
            raised = trials.copy()
            raised.loc[trial, "val_accuracy"] += lacks[trial] + 1e-6
            assert trial in front(raised)["trial"].tolist()
            if lacks[trial] > 0:
                raised.loc[trial, "val_accuracy"] -= 2e-6
                assert trial not in front(raised)["trial"].tolist()

    @pytest.mark.parametrize(("taken", "seeds"), [(0, (1, 2, 3)), (2, (0, 1, 3)), (9, (0, 1, 2))])
    def test_seeds_are_new_and_more_of_them_hold_the_fewer(self, taken: int, seeds: tuple[int, ...]) -> None:
        assert other_seeds(3, taken) == seeds
        assert other_seeds(5, taken)[:3] == seeds


@pytest.fixture(scope="module")
def confirmed(tiny_study: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A runs folder with the tiny study and its confirmation with two seeds; not to be changed."""
    runs, name = tiny_study
    place = tmp_path_factory.mktemp("confirmed") / "runs"
    shutil.copytree(runs / name, place / name)
    assert confirm.main(arguments(place)) == 0
    return place


@pytest.fixture
def own(confirmed: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    shutil.copytree(confirmed, tmp_path / "runs")
    return tmp_path / "runs"


def read(runs: Path) -> dict[str, Any]:
    return json.loads((runs / "tiny/confirm/short-32/confirm.json").read_text())


class TestCommand:
    def test_every_network_is_trained_with_every_new_seed(self, confirmed: Path) -> None:
        study, folder = open_study("tiny", confirmed), confirmed / "tiny/confirm/short-32"
        report = read(confirmed)
        rows = confirm.chosen(study.trials().query("state == 'complete'"), study.info["data"]["counts"]["val"])
        assert sorted(network["trial"] for network in report["networks"]) == sorted(rows["trial"])
        assert report["seeds"] == [1, 2]
        assert {path.name for path in folder.iterdir() if path.is_dir()} == {
            f"{trial:05d}-s{seed}" for trial in rows["trial"] for seed in (1, 2)
        }
        for network in report["networks"]:
            run = Run(folder / f"{network['trial']:05d}-s2")
            trial = study.run(network["trial"]).config
            assert run.config["clips"] == run.metrics()[-1]["clips_seen"] == 32
            for key in ("architecture", "preset", "params", "macs", "data", "input", "train_input"):
                assert run.config[key] == trial[key]
            assert (run.config["seed"], trial["seed"]) == (2, 0)
            assert run.predictions("test") is None

    def test_the_report_is_made_of_the_runs(self, confirmed: Path) -> None:
        report, study = read(confirmed), open_study("tiny", confirmed).trials().set_index("trial")
        folder = confirmed / "tiny/confirm/short-32"
        networks = report["networks"]
        val = np.array(
            [
                [Run(folder / f"{of['trial']:05d}-s{seed}").metrics()[-1]["val_accuracy"] for seed in (1, 2)]
                for of in networks
            ]
        )
        found = means(val)
        probability = non_dominated_probability(val, [[of["params"], of["macs"]] for of in networks])
        for i, of in enumerate(networks):
            assert of["val"] == val[i].tolist()
            assert of["study_val"] == study.loc[of["trial"], "val_accuracy"]
            assert (of["val_mean"], of["val_std"]) == pytest.approx((found.mean[i], found.std[i]))
            assert (of["val_low"], of["val_high"]) == pytest.approx((found.low[i], found.high[i]))
            assert of["curse"] == pytest.approx(of["study_val"] - found.mean[i])
            assert of["non_dominated"] == pytest.approx(probability[i])
            assert of["rank"] == 1 + (found.mean > found.mean[i]).sum()
            assert of["study_rank"] == 1 + sum(other["study_val"] > of["study_val"] for other in networks)
            assert of["rank_change"] == of["study_rank"] - of["rank"]
            assert of["test"] is None
        on_front = [of["curse"] for of in networks if of["role"] == "front"]
        assert report["curse"]["front"]["mean"] == pytest.approx(np.mean(on_front))
        assert (report["study_budget"], report["study_seed"]) == (96, 0)

    def test_more_seeds_train_only_what_is_missing(self, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = own / "tiny/confirm/short-32"
        kept = {path: path.stat().st_mtime_ns for path in folder.glob("*/weights.safetensors")}
        lost = sorted(kept)[0]
        before = lost.read_bytes()
        (lost.parent / "status.json").unlink()  # as after a kill before the end
        assert confirm.main([*arguments(own, "--json"), "--seeds", "3"]) == 0
        said = capsys.readouterr()
        report = json.loads(said.out)
        assert report["seeds"] == [1, 2, 3]
        assert all(len(of["val"]) == 3 for of in report["networks"])
        assert f"{len(report['networks']) + 1} runs to train with 1 worker: " in said.err
        assert {path: path.stat().st_mtime_ns for path in kept if path != lost} == {
            path: time for path, time in kept.items() if path != lost
        }
        assert lost.read_bytes() == before

    def test_test_is_scored_once_and_orders_nothing(self, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder, before = own / "tiny/confirm/short-32", read(own)
        assert confirm.main(arguments(own, "--test", "--json")) == 0
        report = json.loads(capsys.readouterr().out)
        assert [of["trial"] for of in report["networks"]] == [of["trial"] for of in before["networks"]]
        for old, of in zip(before["networks"], report["networks"], strict=True):
            scores = [Run(folder / f"{of['trial']:05d}-s{seed}").scores for seed in (1, 2)]
            assert of["test"] == [(score or {})["accuracy"] for score in scores]
            assert of["test_mean"] == pytest.approx(np.mean(of["test"]))
            assert {key: of[key] for key in old if not key.startswith("test")} == {
                key: old[key] for key in old if not key.startswith("test")
            }
        times = {path: path.stat().st_mtime_ns for path in folder.glob("*/scores.json")}
        assert len(times) == 2 * len(report["networks"])
        assert confirm.main(arguments(own, "--test")) == 0
        assert {path: path.stat().st_mtime_ns for path in times} == times
        assert "test" in capsys.readouterr().out.split("network", 1)[1]

    def test_test_is_normalised_as_in_training(self, own: Path, tiny_folder: Path) -> None:
        run = Run(next((own / "tiny/confirm/short-32").glob("*-s1")))
        dataset = open_dataset(str(tiny_folder))
        features = prepare(dataset)
        score_test([run], dataset, features, (16, 16), torch.device("cpu"))
        inputs = load_inputs(dataset, features, size=(16, 16), splits=("test",), train_clips=32)
        expected = predictions(load_model(run)[1], inputs, "test", torch.device("cpu"))
        said = run.predictions("test")
        assert said is not None
        assert said.filenames == expected.filenames
        np.testing.assert_allclose(said.probabilities_NK, expected.probabilities_NK, atol=1e-6)

    def test_people_read_the_curse_and_what_lowers_it(self, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert confirm.main(arguments(own)) == 0
        said = " ".join(capsys.readouterr().out.split())
        front_curse = read(own)["curse"]["front"]["mean"]
        assert f"less the mean of the new seeds, front: {100 * front_curse:+.1f} points" in said
        assert "these runs saw 32 clips with recipe short, the study's 96" in said
        assert "winner's curse, the" not in said  # what another budget changes is none
        assert "no measure of the winner's curse" in said
        assert "dssdn-small" in said

    def test_records_read_the_last_confirmation(self, own: Path, tiny_study: tuple[Path, str]) -> None:
        study, report = open_study("tiny", own), read(own)
        frame = study.confirmed()
        assert frame["trial"].tolist() == [of["trial"] for of in report["networks"]]
        assert frame["val_mean"].tolist() == [of["val_mean"] for of in report["networks"]]
        assert set(frame["budget"]) == {32}
        later = own / "tiny/confirm/short-64/confirm.json"
        later.parent.mkdir()
        later.write_text(json.dumps({**report, "budget": 64, "written": "2999-01-01T00:00:00+00:00"}))
        assert set(study.confirmed()["budget"]) == {64}
        table = pd.read_csv(own / "tiny/confirm/short-32/confirm.csv")
        assert table["val_mean"].tolist() == pytest.approx(frame["val_mean"].tolist())
        assert open_study("tiny", tiny_study[0]).confirmed().empty

    def test_looking_changes_nothing_of_the_study(self, confirmed: Path, tiny_study: tuple[Path, str]) -> None:
        source = tiny_study[0] / "tiny"
        files = [path.relative_to(source) for path in sorted(source.rglob("*")) if path.is_file()]
        assert files
        for path in files:
            assert (confirmed / "tiny" / path).read_bytes() == (source / path).read_bytes()


class TestBadInput:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--top", "0"), "--top is at least 1, not 0"),
            (("--seeds", "1"), "--seeds is at least 2, not 1: one alone has no interval"),
            (("--budget", "8"), "--budget is at least one batch of 32 clips, not 8"),
            (("--recipe", "slow"), r"unknown recipe 'slow'; known: \["),
            (("--workers", "99"), "--workers is 1 to"),
            (("--study", "other"), r"no study 'other' in .*; known: \['tiny'\]"),
        ],
    )
    def test_is_named_before_training(self, own_study: Path, options: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError, match=message):
            confirm.main([*arguments(own_study), *options])
        assert not (own_study / "tiny" / "confirm").exists()

    def test_a_study_without_a_complete_trial_has_no_front(self, own_study: Path) -> None:
        forget_results(own_study)
        with pytest.raises(
            UserError, match="study 'tiny' has no front: none of its 4 trials is complete; go on with `python"
        ):
            confirm.main(arguments(own_study))

    @pytest.mark.parametrize("command", [confirm, fidelity, proxies])
    def test_other_data_than_the_studys_is_refused(self, own_study: Path, command: ModuleType) -> None:
        journal = own_study / "tiny" / "journal.log"
        digest = open_study("tiny", own_study).info["data"]["digest"]
        journal.write_text(journal.read_text().replace(digest, "0" * len(digest)))
        with pytest.raises(UserError, match=r"the data in .* is not what the study was made on \(digest .*, then 0000"):
            command.main(["--study", "tiny", "--runs", str(own_study)])
        assert not list((own_study / "tiny").glob("*/*/*-s1"))

    def test_runs_made_with_something_else_are_refused(self, own: Path) -> None:
        path = next((own / "tiny/confirm/short-32").glob("*-s1/run.json"))
        path.write_text(json.dumps({**json.loads(path.read_text()), "train_input": [8, 8]}))
        with pytest.raises(
            UserError, match=r"was trained with another train_input \(\[8, 8\], now \[16, 16\]\); move it"
        ):
            confirm.main(arguments(own))


class TestTaught:
    """The networks of a study that had a teacher are trained again with it."""

    def test_the_study_s_teacher_teaches_again_unless_it_has_changed(self, tmp_path: Path) -> None:
        path = tmp_path / "logits.csv"
        path.write_text("filename")
        then = with_options(short(), teacher=[str(path)], temperature=4.0)
        records: Any = SimpleNamespace(name="s", info={"recipe": json.loads(json.dumps(then.record()))})
        recipe = replication._taught_like(records, short())
        assert recipe == then
        path.write_text("filename,bus")
        with pytest.raises(UserError, match="taught by what has changed"):
            replication._taught_like(records, short())
        plain: Any = SimpleNamespace(name="s", info={"recipe": short().record()})
        assert replication._taught_like(plain, short()) == short()
