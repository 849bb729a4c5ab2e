"""A study: its total, its presets, duplicates and caps, what a kill leaves behind, what continuing refuses."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import optuna
import psutil
import pytest
from optuna.trial import TrialState

from search_space.architecture import Architecture
from search_space.complexity import count
from search_space.errors import UserError
from search_space.limits import LIMITS
from search_space.presets import PRESETS
from search_space.space import Space, get_space
from studies import list_studies, open_study
from studies.candidates import SAMPLERS, Candidates, Caps, make_sampler
from studies.plans import SearchOptions
from studies.records import encode
from studies.search import Search, Told
from studies.storage import open_storage
from trainers.datasets import open_dataset
from trainers.features import prepare

SMALL = SearchOptions(trials=4, study="tiny", workers=1, budget=96, train_input=(16, 16), device="cpu")


def _search(folder: Path, runs: Path, **changes: Any) -> Search:
    dataset = open_dataset(str(folder))
    return Search(dataclasses.replace(SMALL, runs=runs, **changes), dataset, prepare(dataset))


def _go(search: Search) -> list[Told]:
    told: list[Told] = []
    with search.opened():
        search.run(lambda seconds, remaining: None, told.append)
    return told


def test_the_presets_come_first_and_the_total_is_exact(tiny_study: tuple[Path, str]) -> None:
    runs, name = tiny_study
    study = open_study(name, runs)
    trials = study.trials()
    assert trials["preset"].tolist()[:3] == list(PRESETS)
    assert trials["architecture"].tolist()[:3] == [str(network) for network in PRESETS.values()]
    assert (trials["state"] == "complete").sum() == 4
    assert trials["architecture"].is_unique
    assert list_studies(runs) == ["tiny"]


def test_every_trial_leaves_a_whole_run(tiny_study: tuple[Path, str]) -> None:
    runs, name = tiny_study
    study = open_study(name, runs)
    for row in study.trials().itertuples():
        run = study.run(int(row.trial))
        said = run.predictions("val")
        assert said is not None
        assert said.accuracy == pytest.approx(row.val_accuracy)
        assert run.metrics()[-1]["val_accuracy"] == pytest.approx(row.val_accuracy)
        assert run.metrics()[-1]["clips_seen"] == 96
        assert (run.status["state"], run.scores) == ("finished", None)  # test is not looked at
        assert run.weights_path.exists()
        assert run.config["architecture"] == row.architecture
        assert run.config["data"]["digest"] == study.info["data"]["digest"]
        assert {"command", "packages", "git"} <= set(run.provenance)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_study(tiny_study: tuple[Path, str], tiny_folder: Path, tmp_path: Path) -> None:
    runs, name = tiny_study
    _go(_search(tiny_folder, tmp_path))
    columns = ["architecture", "val_accuracy", "params", "macs"]
    assert open_study("tiny", tmp_path).trials()[columns].equals(open_study(name, runs).trials()[columns])


def test_continuing_goes_to_the_total_and_trains_no_network_twice(own_study: Path, tiny_folder: Path) -> None:
    storage = open_storage(own_study / "tiny")
    study = optuna.load_study(study_name="tiny", storage=storage)
    study.enqueue_trial(study.trials[0].params)  # dssdn-large again
    assert len(_go(_search(tiny_folder, own_study, trials=6))) == 2
    trials = open_study("tiny", own_study).trials()
    assert (trials["state"] == "complete").sum() == 6
    again = trials[trials["state"] == "duplicate"].iloc[0]
    assert (again["architecture"], again["same_as"]) == (str(PRESETS["dssdn-large"]), 0)
    assert not (own_study / "tiny" / "trials" / f"{again['trial']:05d}").exists()
    assert _go(_search(tiny_folder, own_study, trials=6)) == []


def test_networks_over_a_cap_are_recorded_and_not_trained(tiny_folder: Path, tmp_path: Path) -> None:
    _go(_search(tiny_folder, tmp_path, trials=2, max_params=20_000, max_macs=30_000_000))
    study = open_study("tiny", tmp_path)
    trials = study.trials()
    complete, over = trials[trials["state"] == "complete"], trials[trials["state"] == "over_cap"]
    assert len(complete) == 2
    assert complete["params"].max() <= 20_000
    assert complete["macs"].max() <= 30_000_000
    assert set(PRESETS) <= set(over["preset"])
    assert sorted(path.name for path in (tmp_path / "tiny" / "trials").iterdir()) == [
        f"{n:05d}" for n in complete["trial"]
    ]
    preset = study._study.trials[0]
    assert preset.state == TrialState.PRUNED
    assert preset.constraints["params"] == pytest.approx(preset.user_attrs["params"] / 20_000 - 1)


def test_caps_that_nothing_meets_are_refused_with_the_smallest(tiny_folder: Path, tmp_path: Path) -> None:
    words = (
        r"no network of space 'dssdn' is within the caps at 44x256 \(--max-params 100: the least is 1,691\); raise them"
    )
    with pytest.raises(UserError, match=words):
        _search(tiny_folder, tmp_path, max_params=100)
    assert list(tmp_path.iterdir()) == []


class TestLimits:
    """On clips of two seconds, so that what counts at one second is told from what counts at the study's input."""

    def _asked(self, search: Search) -> tuple[Architecture, dict[str, Any]]:
        """The first network to be trained, and the study's first trial, dssdn-large."""
        with search.opened():
            asked = search._candidates.next()
            assert asked is not None
            first = search._study.get_trials()[0]
            assert first.user_attrs["preset"] == "dssdn-large"
            return asked[1], {"state": first.state, "constraints": first.constraints}

    def test_networks_over_them_are_recorded_and_not_trained(
        self, make_folder: Callable[..., Path], tmp_path: Path
    ) -> None:
        search = _search(make_folder(seconds=2.0), tmp_path, limits="dcase2024")
        assert search.input[0] > 80
        network, large = self._asked(search)
        at_one_second = count(network, (44, 256), 3)
        assert at_one_second.param_bytes("float16") <= 128_000
        assert at_one_second.macs_by["dcase"] <= 30_000_000
        cost = count(PRESETS["dssdn-large"], (44, 256), 3)
        assert large["state"] == TrialState.PRUNED
        assert large["constraints"] == {
            "limits_param_bytes": pytest.approx(2 * cost.params / 128_000 - 1),
            "limits_macs": pytest.approx(cost.macs_by["dcase"] / 30_000_000 - 1),
        }
        trials = open_study("tiny", tmp_path).trials().set_index("preset")
        assert set(trials.loc[list(PRESETS), "state"]) == {"over_cap"}
        assert trials.loc["dssdn-large", "macs"] == count(PRESETS["dssdn-large"], search.input, 3).macs  # ours, as ever
        assert open_study("tiny", tmp_path).info["limits"] == LIMITS["dcase2024"]._asdict()

    def test_a_precision_asked_for_is_the_one_that_counts(self, tiny_folder: Path, tmp_path: Path) -> None:
        _, large = self._asked(_search(tiny_folder, tmp_path, limits="dcase2024", precision="int8"))
        params = count(PRESETS["dssdn-large"], (44, 256), 3).params
        assert large["constraints"]["limits_param_bytes"] == pytest.approx(params / 128_000 - 1)
        assert large["constraints"]["limits_macs"] > 0  # what it computes does not change
        assert open_study("tiny", tmp_path).info["limits"]["dtype"] == "int8"
        with (
            pytest.raises(UserError, match=r"limits: dtype 'int8', now 'float16'"),
            _search(tiny_folder, tmp_path, limits="dcase2024").opened(),
        ):
            pass

    def test_they_join_the_caps_of_the_study(self, tiny_folder: Path, tmp_path: Path) -> None:
        search = _search(tiny_folder, tmp_path, limits="dcase2024", max_params=20_000)
        network, large = self._asked(search)
        assert count(network, search.input, 3).params <= 20_000
        assert set(large["constraints"]) == {"params", "limits_param_bytes", "limits_macs"}
        with pytest.raises(
            UserError,
            match=r"--max-params 100: the least is 1,691; 128,000 bytes of float16 params: the least is 3,382; "
            r"30,000,000 MACs for 1 s \(dcase counting\): the least is 2,828,915\)",
        ):
            _search(tiny_folder, tmp_path, limits="dcase2024", max_params=100)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": 128}, "budget: 96, now 128"),
        ({"space": "dssdn-blocks"}, "space: name 'dssdn', now 'dssdn-blocks'"),
        ({"seed": 3}, "seed: 0, now 3"),
        ({"max_params": 50_000}, "max_params: None, now 50000"),
        ({"limits": "dcase2024"}, "limits: None, now {'param_bytes': 128000, "),
    ],
)
def test_continuing_with_something_else_spells_the_difference_out(
    own_study: Path, tiny_folder: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words), _search(tiny_folder, own_study, **changes).opened():
        pass


def test_continuing_on_other_data_is_refused(own_study: Path, make_folder: Any) -> None:
    other = make_folder(clips_per_fold=4)
    with (
        pytest.raises(UserError, match=r"data: esc .*27/9/9 clips.*, now esc .*36/12/12 clips"),
        _search(other, own_study).opened(),
    ):
        pass


def test_a_cap_that_few_networks_meet_finds_every_one_of_them() -> None:
    space, caps = Space("two blocks", per_block=False, depths=(2,)), Caps((44, 256), 3, params=2_200)
    few = {str(network) for network in space if count(network, (44, 256), 3).params <= 2_200}
    assert 3 < len(few) < 60
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"], sampler=make_sampler("random", 0, 1))
    candidates = Candidates(study, space, (44, 256), 3, caps, random.Random(0))
    found = set()
    while (asked := candidates.next()) is not None:
        found.add(str(asked[1]))
        study.tell(asked[0], [0.5, asked[0].user_attrs["params"], asked[0].user_attrs["macs"]])
    assert found == few


def test_a_kill_while_a_duplicate_is_recorded_trains_nothing_twice(own_study: Path, tiny_folder: Path) -> None:
    study = optuna.load_study(study_name="tiny", storage=open_storage(own_study / "tiny"))
    study.enqueue_trial(study.trials[0].params)
    trial = study.ask()
    get_space("dssdn").sample(lambda name, options: _asked(trial, name, options))
    trial.set_user_attr("architecture", str(PRESETS["dssdn-large"]))
    search = _search(tiny_folder, own_study)
    with search.opened():
        assert search._candidates.seen[str(PRESETS["dssdn-large"])] == 0
    assert "queued" not in set(open_study("tiny", own_study).trials()["state"])


def _asked(trial: optuna.Trial, name: str, options: tuple[Any, ...]) -> Any:
    if name == "operator":
        return trial.suggest_categorical(name, options)
    return options[trial.suggest_int(name, 0, len(options) - 1)]


def test_a_torn_last_line_of_the_journal_is_cut_off(own_study: Path, tiny_folder: Path) -> None:
    journal = own_study / "tiny" / "journal.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "wor')
    with _search(tiny_folder, own_study).opened() as records:
        records._study.enqueue_trial(records._study.trials[0].params)
    assert journal.read_bytes().startswith(whole)
    assert (open_study("tiny", own_study).trials()["state"] == "complete").sum() == 4


def test_a_broken_journal_is_named(own_study: Path) -> None:
    journal = own_study / "tiny" / "journal.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:3], b"not json\n", *lines[3:]]))
    with pytest.raises(UserError, match=r"journal\.log is torn or no journal"):
        open_study("tiny", own_study)


def test_trials_of_a_lost_journal_are_not_written_over(own_study: Path, tiny_folder: Path) -> None:
    (own_study / "tiny" / "journal.log").unlink()
    with pytest.raises(UserError, match="holds trials of another study"), _search(tiny_folder, own_study).opened():
        pass


def test_a_study_that_runs_elsewhere_is_left_alone(own_study: Path, tiny_folder: Path) -> None:
    with (
        filelock.FileLock(own_study / "tiny" / "lock"),
        pytest.raises(UserError, match="is being run by another process"),
        _search(tiny_folder, own_study).opened(),
    ):
        pass


def test_what_a_dead_process_left_running_is_queued_again(own_study: Path, tiny_folder: Path) -> None:
    study = optuna.load_study(study_name="tiny", storage=open_storage(own_study / "tiny"))
    space = get_space("dssdn")
    lost = space.encode(space.neighbours(PRESETS["dssdn-small"])[0])
    study.enqueue_trial(
        {name: encode(space.choices[name], option) for name, option in lost.items()}, {"preset": "mine"}
    )
    candidates = Candidates(study, space, (44, 256), 3, Caps((44, 256), 3), random.Random(0))
    asked = candidates.next()
    assert asked is not None
    asked[0].set_user_attr("owner", {"host": os.uname().nodename, "pid": 2**22 + 1, "started": 1.0})
    _go(_search(tiny_folder, own_study, trials=5))
    trials = open_study("tiny", own_study).trials().set_index("trial")
    assert trials.loc[4, "state"] == "interrupted"
    assert (trials.loc[5, "state"], trials.loc[5, "preset"]) == ("complete", "mine")
    assert trials.loc[5, "architecture"] == trials.loc[4, "architecture"]


def test_a_killed_worker_loses_nothing(own_study: Path, tiny_folder: Path) -> None:
    killed: list[int] = []

    def kill_once(told: Told) -> None:
        children = [
            child for child in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(child.cmdline())
        ]
        if not killed and children:
            killed.append(children[0].pid)
            children[0].send_signal(signal.SIGKILL)

    search = _search(tiny_folder, own_study, trials=6)
    with search.opened():
        search.run(lambda seconds, remaining: None, kill_once)
    assert killed
    trials = open_study("tiny", own_study).trials()
    assert (trials["state"] == "complete").sum() == 6
    assert (trials["state"] == "running").sum() == 0


def test_ctrl_c_keeps_what_is_finished_and_the_same_command_goes_on(tiny_folder: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "studies.run",
        "--data",
        str(tiny_folder),
        "--runs",
        str(tmp_path),
        "--study",
        "tiny",
    ]
    command += ["--workers", "1", "--budget", "20000", "--train-input", "16x16", "--trials", "3", "--no-halving"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while (
        not list(tmp_path.glob("tiny/trials/00000/metrics.jsonl"))
        and time.monotonic() < deadline
        and process.poll() is None
    ):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the workers get it too
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "the same command goes on" in printed
    assert "Traceback" not in printed
    trials = open_study("tiny", tmp_path).trials()
    assert set(trials["state"]) == {"interrupted", "queued"}
    assert trials.loc[trials["state"] == "queued", "preset"].tolist().count("dssdn-large") == 1


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("space", ["dssdn", "dssdn-blocks"])
def test_every_sampler_asks_for_new_networks_of_the_space(
    sampler: str, space: str, tiny_folder: Path, tmp_path: Path
) -> None:
    search = _search(tiny_folder, tmp_path, sampler=sampler, space=space)
    with search.opened():
        networks = []
        for number in range(14):
            asked = search._candidates.next()
            assert asked is not None
            trial, network = asked
            get_space(space).encode(network)
            networks.append(str(network))
            search._study.tell(trial, [number / 20, trial.user_attrs["params"], trial.user_attrs["macs"]])
        assert len(set(networks)) == 14
        ordered_parameters = search._study.trials[0].distributions
        assert type(ordered_parameters["depth"]).__name__ == "IntDistribution"
        states = {trial.state for trial in search._study.trials}
        assert states <= {TrialState.COMPLETE, TrialState.FAIL, TrialState.WAITING}


def test_options_outside_their_range_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    for changes, words in (
        ({"trials": 0}, "--trials is at least 1, not 0"),
        ({"workers": 4096}, "--workers is 1 to"),
        ({"budget": 5}, "--budget is at least one batch"),
        ({"workers": 0}, "--workers is 1 to"),
        ({"seed": -1}, "--seed is from 0"),
        ({"train_input": (500, 16)}, "--train-input is at most the full input, 44x256"),
        ({"sampler": "grid"}, "unknown sampler 'grid'; known"),
        ({"space": "resnet"}, "unknown space 'resnet'; .*known"),
        ({"study": "../outside"}, "a study's name"),
        ({"limits": "dcase1999"}, r"unknown limits 'dcase1999'; .*known: \['dcase2024'\]"),
        (
            {"precision": "int8"},
            r"--precision is one of \['float16', 'float32', 'int8'\], with --limits or --max-bytes; got 'int8'",
        ),
        ({"limits": "dcase2024", "precision": "int4"}, "--precision is one of .*got 'int4'"),
    ):
        with pytest.raises(UserError, match=words):
            _search(tiny_folder, tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []
