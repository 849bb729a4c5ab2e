"""The paper's tables beside ours: every cell, and the accuracies that are recorded, shown and never mixed up."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from search_space import tables
from search_space.comparators import COMPARATORS, PRINTED, TAU_2020, TAU_2022
from search_space.complexity import count
from search_space.errors import UserError
from search_space.presets import DESCRIBED, NETWORKS
from search_space.systems import NOT_BUILT, build_systems
from search_space.tables import Result, build_rows, choose_setting, main, read_results, record_result

RESULT = Result(
    network="dssdn-large",
    dataset="ESC-50",
    data_digest="0123abcd",
    fold=5,
    sample_rate=44_100,
    recipe="short",
    input="72x64",
    seeds=(0, 1, 2),
    accuracy_mean=41.5,
    accuracy_std=1.2,
    params=106_825,
    macs=26_000_000,
    command="python -m trainers.retrain",
    date="2025-01-31T12:00:00+00:00",
)


def entry(**changes):
    return json.loads(json.dumps({**asdict(RESULT), **changes}))


@pytest.fixture(scope="module")
def rows():
    return build_rows()


class TestRows:
    def test_every_row_of_the_paper_and_the_others(self, rows):
        assert [(row["table"], row["network"]) for row in rows] == [
            ("Table 1", "dssdn-large"),
            ("Table 1", "dssdn-middle"),
            ("Table 1", "dssdn-small"),
            ("Table 1", "resnet34"),
            ("Table 1", "mobilenet-v1"),
            ("Table 1", "mobilenet-v2"),
            ("Table 1", "mobilenet-v3"),
            ("Table 1", "inception-v1"),
            ("Table 2", "dssdn-large"),
            ("Table 2", "dl-o"),
            ("Table 2", "dl-b"),
            ("Table 2", "dl-b-pooled"),
            ("Others", "sp4asc"),
            *(("Others", f"dsmn-{number}") for number in ("1", "2", "3", "4", "4-64")),
        ]
        assert {row["network"] for row in rows} == {*NETWORKS, *COMPARATORS}

    def test_the_printed_figures(self, rows):
        printed = {row["network"]: tuple(row["published"].values()) for row in rows}
        assert list(rows[0]["published"]) == ["params", "macs", "accuracy"]
        assert printed["dssdn-large"] == (110_000, 660_000_000, 66.20)
        assert printed["dssdn-middle"] == (110_000, 610_000_000, 65.63)
        assert printed["dssdn-small"] == (80_000, 560_000_000, 65.26)
        assert printed["resnet34"] == (21_300_000, 7_990_000_000, 60.30)
        assert printed["mobilenet-v1"] == (3_250_000, 1_290_000_000, 55.76)
        assert printed["mobilenet-v2"] == (2_270_000, 710_000_000, 57.48)
        assert printed["mobilenet-v3"] == (1_700_000, 140_000_000, 55.83)
        assert printed["inception-v1"] == (14_520_000, 3_300_000_000, 48.89)
        assert printed["dl-o"] == (380_000, 2_450_000_000, 55.63)
        assert printed["dl-b"] == (150_000, 14_120_000_000, 40.90)
        assert printed["dl-b-pooled"] == (None, None, None)
        assert printed["sp4asc"] == (62_474, 454_000_000, 66.7)
        assert printed["dsmn-2"] == (56_100, 16_740_000, 59.2)

    def test_our_counts(self, rows):
        ours = {row["network"]: (row["ours"]["params"], row["ours"]["macs"]) for row in rows}
        for name, architecture in NETWORKS.items():
            cost = count(architecture, (431, 256), 10)
            assert ours[name] == (cost.params, cost.macs)
        assert ours["resnet34"] == (21_283_530, 7_953_126_400)
        assert ours["mobilenet-v1"] == (3_216_650, 1_241_724_928)
        assert ours["mobilenet-v2"] == (2_236_106, 650_629_632)
        assert ours["mobilenet-v3"] == (1_689_096, 121_680_288)
        assert ours["inception-v1"] == (14_522_062, 3_302_742_016)
        assert ours["sp4asc"] == (62_922, 442_574_080)
        assert ours["dsmn-1"] == (45_164, 8_645_641)

    def test_the_ten_cells_of_dssdn_are_within_six_per_cent(self, rows):
        cells = [row["deviation"] for row in rows if row["network"] in NETWORKS and row["network"] != "dl-b-pooled"]
        assert all(abs(deviation) < 0.06 for cell in cells for deviation in cell.values())
        assert len({row["network"] for row in rows if row["network"] in NETWORKS}) == 6

    def test_deviations_are_fractions_of_the_printed(self, rows):
        (row,) = (row for row in rows if row["network"] == "dl-o")
        assert row["deviation"]["params"] == pytest.approx(row["ours"]["params"] / 380_000 - 1)
        (row,) = (row for row in rows if row["network"] == "dl-b-pooled")
        assert row["deviation"] == {"params": None, "macs": None}

    def test_each_row_says_what_was_counted_on_what(self, rows):
        for row in rows:
            dsmn = row["network"].startswith("dsmn")
            assert row["convention"] == ("dcase" if dsmn else "conv+linear")
            assert row["input"] == ([44, 256] if dsmn else [431, 256])
            measured_on = TAU_2022 if dsmn else TAU_2020
            assert row["published_dataset"] == (measured_on if row["published"]["accuracy"] else None)

    def test_more_than_three_per_cent_has_a_note(self, rows):
        for row in rows:
            far = [value for value in row["deviation"].values() if value and abs(value) > 0.03]
            assert not far or row["note"], row["network"]


class TestResults:
    def test_the_repository_holds_valid_results(self):
        assert isinstance(json.loads(tables.RESULTS.read_text("utf-8")), list)
        for result in read_results():
            assert result.network in {*NETWORKS, *COMPARATORS}
            assert (result.dataset, result.fold, result.sample_rate) == ("esc50", 5, 16_000)

    def test_what_is_recorded_is_read(self, tmp_path):
        path = tmp_path / "new" / "results.json"
        assert read_results(path) == []
        record_result(path, entry())
        record_result(path, entry(network="sp4asc", seeds=[3], accuracy_std=None))
        assert read_results(path) == [RESULT, replace(RESULT, network="sp4asc", seeds=(3,), accuracy_std=None)]
        assert [file.name for file in path.parent.iterdir()] == ["results.json"]

    def test_the_same_place_is_replaced_and_others_are_kept(self, tmp_path):
        path = tmp_path / "results.json"
        others = (
            {"input": "216x256"},
            {"recipe": "paper"},
            {"dataset": "ESC-10"},
            {"data_digest": "4567cdef"},
            {"fold": 4},
            {"sample_rate": 16_000},
        )
        for change in ({}, *others, {"accuracy_mean": 44.0}):
            record_result(path, entry(**change))
        results = read_results(path)
        assert [result.accuracy_mean for result in results] == [44.0, *[41.5] * len(others)]

    def test_a_part_recorded_anew_of_other_data_takes_nothing_from_the_table(self, tmp_path):
        path, other = tmp_path / "results.json", {"data_digest": "4567cdef", "fold": 4, "date": "2025-03-01"}
        for network in ("dssdn-large", "dssdn-small", "sp4asc"):
            record_result(path, entry(network=network))
        record_result(path, entry(network="sp4asc", **other))
        results = read_results(path)
        shown = build_rows(results, choose_setting(results))
        networks = {row["network"] for row in shown if row["ours"]["accuracy"] is not None}
        assert networks == {"dssdn-large", "dssdn-small", "sp4asc"}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"network": ""}, r"network is a text that is not empty; got ''"),
            ({"input": "256"}, r"an input is frames x mels.*got '256'"),
            ({"input": [72, 64]}, r"input is frames x mels such as 431x256; got \[72, 64\]"),
            ({"seeds": []}, r"seeds is a list of different whole numbers, at least one; got \(\)"),
            ({"seeds": [1, 1]}, r"seeds is a list of different whole numbers"),
            ({"accuracy_mean": 0.415}, r"accuracy_mean is per cent.*multiplied by 100.*got 0.415"),
            ({"accuracy_mean": 101}, r"accuracy_mean is per cent"),
            ({"accuracy_mean": float("nan")}, r"accuracy_mean is per cent"),
            ({"accuracy_std": None}, r"accuracy_std is per cent.*null for one seed and only then; got None"),
            ({"seeds": [1]}, r"accuracy_std is per cent.*null for one seed and only then; got 1.2"),
            ({"params": 1.5}, r"params is a whole number above 0; got 1.5"),
            ({"macs": 0}, r"macs is a whole number above 0; got 0"),
            ({"fold": 0}, r"fold is a whole number above 0; got 0"),
            ({"fold": None}, r"fold is a whole number above 0; got None"),
            ({"sample_rate": 44.1}, r"sample_rate is a whole number above 0; got 44.1"),
            ({"date": "yesterday"}, r"date is a date in ISO 8601.*got 'yesterday'"),
            ({"note": "x"}, r"unknown: \['note'\]; leave them out"),
        ],
    )
    def test_what_cannot_be_is_refused_and_the_file_left_alone(self, tmp_path, change, message):
        path = tmp_path / "results.json"
        record_result(path, entry())
        before = path.read_bytes()
        with pytest.raises(UserError, match=message):
            record_result(path, entry(**change))
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[{", r"results\.json is a JSON list of results; it is not JSON"),
            ("{}", r"results\.json is a JSON list of results; got dict"),
            ("[3]", r"results\.json, result 1: a result is an object with .*; got 3"),
            ('[{"network": "x"}]', r"results\.json, result 1: .*missing: \['dataset'"),
            (json.dumps([entry(), entry(accuracy_mean=50)]), r"one result of a network in a setting; two of .*ESC-50"),
        ],
    )
    def test_a_broken_file_is_explained(self, tmp_path, text, message):
        path = tmp_path / "results.json"
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read_results(path)


class TestAccuracies:
    RESULTS = (
        RESULT,
        replace(RESULT, network="sp4asc", accuracy_mean=39.0),
        replace(RESULT, network="sp4asc", dataset="synthetic", accuracy_mean=70.0, date="2025-02-01"),
        replace(RESULT, network="dl-o", recipe="paper", accuracy_mean=60.0, date="2025-03-01"),
    )

    def test_a_table_shows_one_setting_alone(self):
        setting = choose_setting(self.RESULTS)
        assert setting == RESULT.setting
        shown = {
            row["network"]: (row["ours"]["accuracy"], row["ours"]["dataset"])
            for row in build_rows(self.RESULTS, setting)
            if row["ours"]["accuracy"] is not None
        }
        assert shown == {"dssdn-large": (41.5, "ESC-50"), "sp4asc": (39.0, "ESC-50")}

    def test_among_equals_the_latest(self):
        assert choose_setting(self.RESULTS[2:]).recipe == "paper"

    def test_a_data_set_can_be_asked_for(self):
        assert choose_setting(self.RESULTS, "synthetic").dataset == "synthetic"
        with pytest.raises(UserError, match=r"unknown data set 'TAU'; known: \['ESC-50', 'synthetic'\]"):
            choose_setting(self.RESULTS, "TAU")

    def test_nothing_recorded_is_no_setting(self):
        assert choose_setting([]) is None


class TestCommand:
    def test_json_is_one_document(self, tmp_path, capsys):
        path = tmp_path / "results.json"
        record_result(path, entry())
        assert main(["--json", "--results", str(path)]) == 0
        document = json.loads(capsys.readouterr().out)
        assert list(document) == ["rows"]
        for row in document["rows"]:
            assert list(row)[:5] == ["table", "network", "published", "ours", "deviation"]
            assert list(row["published"]) == ["params", "macs", "accuracy"]
            assert list(row["ours"]) == ["params", "macs", "accuracy", "dataset"]
            assert list(row["deviation"]) == ["params", "macs"]
            assert all(isinstance(row["ours"][key], int) for key in ("params", "macs"))
            assert all(isinstance(row["published"][key], int | None) for key in ("params", "macs"))
        assert document["rows"][0]["ours"]["accuracy"] == 41.5
        assert document["rows"][0]["result"] == entry()

    def test_for_people_it_fits_120_columns_and_says_which_data(self, tmp_path, capsys):
        path = tmp_path / "results.json"
        record_result(path, entry())
        record_result(path, entry(dataset="synthetic", network="sp4asc", date="2024-12-24"))
        main(["--results", str(path)])
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 120
        assert "…" not in text
        for part in (
            "21.30 M",
            "7.99 G",
            "21.284 M",
            "-13.1 %",
            "66.20",
            "41.5 ± 1.2",
            "ESC-50, fold 5, 44,100 Hz, recipe short, input 72x64",
        ):
            assert part in text
        assert "Also recorded, not shown: synthetic, fold 5, short" in text

    def test_without_results_it_says_so(self, tmp_path, capsys):
        path = tmp_path / "empty.json"
        path.write_text("[]")
        main(["--results", str(path)])
        assert "Our accuracies: none recorded yet." in capsys.readouterr().out

    @pytest.mark.parametrize(("name", "what"), [("typo.json", "does not exist"), (".", "is a folder")])
    def test_a_file_that_is_not_there_is_explained(self, tmp_path, name, what):
        for more in ([], ["--json"]):
            with pytest.raises(
                UserError, match=rf"--results is a JSON file of recorded accuracies; .* {what}; leave it"
            ):
                main(["--results", str(tmp_path / name), *more])

    def test_a_broken_file_is_one_plain_line(self, tmp_path):
        path = tmp_path / "results.json"
        path.write_text("[3]")
        command = [sys.executable, "-m", "search_space.tables", "--json", "--results", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert done.stderr.startswith("error: results.json, result 1: a result is an object with")


class TestSystems:
    def test_every_named_network_has_a_row(self):
        rows = build_systems()
        assert {row["network"] for row in rows if row["built"]} == {*DESCRIBED, *COMPARATORS}
        assert {row["network"] for row in rows if not row["built"]} == set(NOT_BUILT)
        assert len(rows) == len({row["network"] for row in rows})

    def test_what_was_printed_is_met_or_explained(self):
        for row in build_systems():
            for key in ("params", "macs"):
                deviation = row["deviation"][key]
                assert (deviation is None) == (row["ours"] is None or row["published"][key] is None)
                if row["network"] in PRINTED and deviation is not None:
                    assert abs(deviation) < 5e-4, (row["network"], key)
                elif deviation is not None and abs(deviation) > 0.03:
                    assert row["note"], (row["network"], key)

    def test_what_nobody_printed_is_null(self, capsys):
        assert main(["--systems", "--json"]) == 0
        rows = {row["network"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
        assert rows["passt"]["ours"] is None
        assert rows["passt"]["published"] == {"params": None, "macs": None, "accuracy": None, "dataset": None}
        assert rows["rep-mobile-dcase2024"]["published"]["params"] is None
        assert rows["bc-resnet-80"]["published"]["macs"] is None
        ours = rows["cp-mobile-s1"]["ours"]
        assert (ours["params"], ours["macs"], ours["macs_by"]["dcase"]) == (5_722, 1_582_336, 1_582_336)
        assert rows["cp-mobile-s1"]["input"] == [64, 256]
        assert rows["rep-mobile"]["form"] == "merged"

    def test_people_read_unknown(self, capsys):
        main(["--systems"])
        out = capsys.readouterr().out
        assert "unknown" in out
        assert "17,050,260" not in out
        assert "17.050 M" in out

    def test_accuracies_are_another_table(self):
        with pytest.raises(UserError, match="leave --dataset and --results out"):
            main(["--systems", "--dataset", "esc10"])


def test_columns_of_accuracies_name_their_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert tables.main([]) == 0
    said = capsys.readouterr().out
    assert said.count("acc. printed         ours") == 3
    assert said.count("TAU 2020        esc50") == 2
    assert "…" not in said
