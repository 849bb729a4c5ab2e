"""Data written out in TAU 2020's layout: the official formats, no leak, the same bytes every time, also after a break."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pytest
import soundfile

from search_space.errors import UserError
from trainers import data as data_command
from trainers.datasets import open_dataset
from trainers.export import export, plan
from trainers.recorders import RECORDERS, record
from trainers.tau import UNSEEN

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
LISTS = ("fold1_train", "fold1_test", "fold1_evaluate")
LEARNED = ("b", "c", "s1", "s2", "s3")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def setup(dest: Path, name: str) -> Path:
    return dest / "evaluation_setup" / f"{name}.csv"


def contents(dest: Path) -> dict[str, bytes]:
    return {str(path.relative_to(dest)): path.read_bytes() for path in sorted(dest.rglob("*")) if path.is_file()}


def own_folder(root: Path, rate: int = 8_000, channels: int = 1, seconds: float = 0.3, places: int = 8) -> Path:
    """Own recordings: two classes, a sub-folder a place, two clips each."""
    rng = np.random.default_rng(0)
    for scene in ("busy street", "park-side"):
        for place in range(places):
            (root / scene / f"place {place}").mkdir(parents=True)
            for k in range(2):
                wave_NC = rng.uniform(-0.5, 0.5, (round(rate * seconds), channels))
                soundfile.write(root / scene / f"place {place}" / f"{k}.wav", wave_NC, rate, subtype="PCM_24")
    return root


@pytest.fixture(scope="module")
def exported(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set written out; not to be changed."""
    dest = tmp_path_factory.mktemp("export") / "tiny"
    export(open_dataset(str(tiny_folder)), dest)
    return dest


class TestLists:
    def test_formats_are_the_official_ones(self, exported: Path) -> None:
        headers = {
            exported / "meta.csv": "filename\tscene_label\tidentifier\tsource_label",
            setup(exported, "fold1_train"): "filename\tscene_label",
            setup(exported, "fold1_evaluate"): "filename\tscene_label",
            setup(exported, "fold1_test"): "filename",
        }
        for path, header in headers.items():
            content = path.read_bytes().decode("ascii")
            assert content.startswith(f"{header}\naudio/")
            assert content.endswith("\n")
            assert "\r" not in content
            assert '"' not in content
            assert {line.count("\t") for line in content.splitlines()} == {header.count("\t")}

    @pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not here")
    def test_headers_are_those_of_the_real_lists(self, exported: Path) -> None:
        for name in ("meta.csv", *(f"evaluation_setup/{name}.csv" for name in LISTS)):
            real = SHARED / "tau2020-micro" / name
            with real.open("rb") as one, (exported / name).open("rb") as other:
                assert one.readline() == other.readline()

    def test_every_name_parses_back(self, exported: Path) -> None:
        for row in rows_of(exported / "meta.csv"):
            folder, name = row["filename"].split("/")
            scene, city, location, segment, recorder = name.removesuffix(".wav").split("-")
            assert folder == "audio"
            assert (scene, f"{city}-{location}", recorder) == (
                row["scene_label"],
                row["identifier"],
                row["source_label"],
            )
            assert location.isdecimal()
            assert segment.isdecimal()
            assert city == "esc"

    def test_name_every_file_once(self, exported: Path) -> None:
        meta = [row["filename"] for row in rows_of(exported / "meta.csv")]
        assert sorted(meta) == sorted(f"audio/{path.name}" for path in (exported / "audio").iterdir())
        assert sorted(row["filename"] for row in rows_of(exported / "sources.csv")) == sorted(meta)

    def test_agree_with_one_another(self, exported: Path) -> None:
        meta = {row["filename"]: row["scene_label"] for row in rows_of(exported / "meta.csv")}
        train, test, evaluate = (rows_of(setup(exported, name)) for name in LISTS)
        assert [row["filename"] for row in test] == [row["filename"] for row in evaluate]
        assert all(meta[row["filename"]] == row["scene_label"] for row in train + evaluate)
        assert {row["filename"] for row in train} | {row["filename"] for row in test} == set(meta)

    def test_no_location_and_no_segment_is_in_both_folds(self, exported: Path) -> None:
        places, segments = [], []
        for name in ("fold1_train", "fold1_evaluate"):
            fields = [row["filename"].split("-") for row in rows_of(setup(exported, name))]
            places.append({field[2] for field in fields})
            segments.append({field[3] for field in fields})
        assert places[0].isdisjoint(places[1])
        assert segments[0].isdisjoint(segments[1])

    def test_folds_are_those_of_the_source(self, exported: Path, tiny_folder: Path) -> None:
        source = {clip.filename: clip for clip in open_dataset(str(tiny_folder)).clips}
        made_from = {row["filename"]: source[row["source"]] for row in rows_of(exported / "sources.csv")}
        assert {made_from[row["filename"]].split for row in rows_of(setup(exported, "fold1_train"))} == {"train", "val"}
        assert {made_from[row["filename"]].split for row in rows_of(setup(exported, "fold1_test"))} == {"test"}
        for row in rows_of(exported / "meta.csv"):
            assert made_from[row["filename"]].scene == row["scene_label"]
        groups = defaultdict(set)
        for row in rows_of(exported / "meta.csv"):
            groups[row["identifier"]].add(made_from[row["filename"]].group)
        assert all(len(found) == 1 for found in groups.values())


class TestRecorders:
    def test_counts(self, exported: Path) -> None:
        """12 segments a scene to learn from, 3 to test: a quarter of 12 by every other recorder, all of test by all nine."""
        found = {
            name: Counter((row["scene_label"], row["filename"][:-4].split("-")[4]) for row in rows_of(path))
            for name in ("fold1_train", "fold1_evaluate")
            for path in [setup(exported, name)]
        }
        for scene in ("high", "low", "noise"):
            assert found["fold1_train"][scene, "a"] == 12
            assert all(found["fold1_train"][scene, recorder] == 3 for recorder in LEARNED)
            assert all(found["fold1_evaluate"][scene, recorder] == 3 for recorder in RECORDERS)
        assert found["fold1_train"].total() == 3 * (12 + 5 * 3)
        assert found["fold1_evaluate"].total() == 3 * 3 * 9

    def test_unseen_ones_are_in_test_only(self, exported: Path) -> None:
        train = {row["filename"][:-4].rsplit("-", 1)[1] for row in rows_of(setup(exported, "fold1_train"))}
        assert train == set(RECORDERS) - set(UNSEEN)
        assert UNSEEN == ("s4", "s5", "s6")

    def test_all_recorded_what_a_did(self, exported: Path) -> None:
        names = [row["filename"][:-4].rsplit("-", 1) for row in rows_of(exported / "meta.csv")]
        assert {segment for segment, _ in names} == {segment for segment, recorder in names if recorder == "a"}

    @pytest.mark.parametrize(("share", "n"), [(0, 0), (0.075, 1), (0.5, 6), (1, 12)])
    def test_share(self, tiny_folder: Path, share: float, n: int) -> None:
        takes = plan(open_dataset(str(tiny_folder)), share=share)
        found = Counter((take.scene, take.recorder) for take in takes if not take.is_test)
        assert {found[scene, recorder] for scene in ("high", "low", "noise") for recorder in LEARNED} == {n}

    def test_recorders_learn_from_different_segments(self, tiny_folder: Path) -> None:
        takes = plan(open_dataset(str(tiny_folder)), share=0.5)
        of = {r: {take.segment for take in takes if take.recorder == r and not take.is_test} for r in LEARNED}
        assert len({frozenset(segments) for segments in of.values()}) == len(LEARNED)
        assert plan(open_dataset(str(tiny_folder)), share=0.5) == takes
        assert plan(open_dataset(str(tiny_folder)), share=0.5, seed=1) != takes

    def test_a_is_the_recording_as_it_is(self, exported: Path, tiny_folder: Path) -> None:
        sources = {row["filename"]: row["source"] for row in rows_of(exported / "sources.csv")}
        for filename in [name for name in sources if name.endswith("-a.wav")]:
            written, rate = soundfile.read(exported / filename, dtype="int32")
            recorded, source_rate = soundfile.read(tiny_folder / "audio" / sources[filename], dtype="int32")
            assert rate == source_rate
            np.testing.assert_array_equal(written, recorded)

    def test_the_others_are_simulated_from_it(self, exported: Path) -> None:
        row = next(r for r in rows_of(exported / "meta.csv") if r["source_label"] == "s5")
        segment = int(row["filename"].split("-")[3])
        of_a, rate = soundfile.read(exported / row["filename"].replace("-s5.", "-a."), dtype="float32")
        written, _ = soundfile.read(exported / row["filename"], dtype="float32")
        rng = np.random.default_rng((0, 3, segment, list(RECORDERS).index("s5")))
        np.testing.assert_allclose(written, record(of_a, "s5", rate, 0, rng), atol=2**-22)


class TestAudio:
    def test_is_24_bit_mono_at_the_rate_of_the_source(self, exported: Path) -> None:
        for path in (exported / "audio").iterdir():
            info = soundfile.info(path)
            assert (info.format, info.subtype, info.channels) == ("WAV", "PCM_24", 1)
            assert (info.samplerate, info.frames) == (16_000, 16_000)

    def test_stereo_at_48_khz(self, tmp_path: Path) -> None:
        dataset = open_dataset(str(own_folder(tmp_path / "own", rate=48_000, channels=2)))
        export(dataset, tmp_path / "dest", share=0)
        for path in (tmp_path / "dest" / "audio").iterdir():
            info = soundfile.info(path)
            assert (info.samplerate, info.channels, info.frames) == (44_100, 1, 13_230)

    def test_resampling_keeps_what_is_heard(self, tmp_path: Path) -> None:
        folder = own_folder(tmp_path / "own", rate=48_000)
        for path in folder.rglob("*.wav"):
            soundfile.write(path, 0.5 * np.sin(2 * np.pi * 1000 * np.arange(14_400) / 48_000), 48_000)
        export(open_dataset(str(folder)), tmp_path / "dest", share=0)
        written, rate = soundfile.read(next((tmp_path / "dest" / "audio").glob("*-a.wav")))
        expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(written)) / rate)
        np.testing.assert_allclose(written[500:-500], expected[500:-500], atol=2e-3)

    def test_longer_clips_are_cut_and_shorter_ones_stay(self, tmp_path: Path) -> None:
        folder = own_folder(tmp_path / "own")
        soundfile.write(folder / "busy street" / "place 0" / "0.wav", 0.1 * np.ones(8_000), 8_000)
        soundfile.write(folder / "busy street" / "place 0" / "1.wav", 0.1 * np.ones(1_000), 8_000)
        export(open_dataset(str(folder)), tmp_path / "dest", share=0)
        sources = {row["source"]: row["filename"] for row in rows_of(tmp_path / "dest" / "sources.csv")}
        frames = [soundfile.info(tmp_path / "dest" / sources[f"busy street/place 0/{k}.wav"]).frames for k in range(2)]
        assert frames == [2_400, 1_000]


class TestNames:
    def test_scenes_and_city_of_own_recordings(self, tmp_path: Path) -> None:
        takes = plan(open_dataset(str(own_folder(tmp_path / "my flat 2"))))
        assert {take.scene for take in takes} == {"busy_street", "park_side"}
        assert {take.place.split("-")[0] for take in takes} == {"myflat2"}
        assert len({take.place for take in takes}) == 16
        assert all(take.filename.count("-") == 4 for take in takes)

    def test_scenes_that_would_become_one(self, tmp_path: Path) -> None:
        dataset = open_dataset(str(own_folder(tmp_path / "own")))
        clips = [replace(clip, scene="busy-street") if clip.split == "val" else clip for clip in dataset.clips]
        with pytest.raises(
            UserError, match=r"the scenes \['busy street', 'busy-street'\] would all be written 'busy_street'"
        ):
            plan(replace(dataset, clips=tuple(clips)))

    def test_locations_and_segments_do_not_depend_on_how_many_clips(self, tiny_folder: Path) -> None:
        dataset = open_dataset(str(tiny_folder))
        whole = {(take.filename, take.clip) for take in plan(dataset, share=1)}
        assert {(take.filename, take.clip) for take in plan(dataset, share=1, clips=2)} < whole

    def test_at_most_so_many_clips_a_scene_and_split(self, tiny_folder: Path) -> None:
        takes = plan(open_dataset(str(tiny_folder)), clips=2)
        found = Counter((take.scene, take.clip.split) for take in takes if take.recorder == "a")
        assert set(found.values()) == {2}
        assert len(found) == 9


class TestThinned:
    """At most so many clips a scene and split, spread over recorders and over all there are."""

    def found(self, n: int) -> Counter[tuple[str, str, str]]:
        takes = plan(open_dataset("synthetic"), clips=n)
        assert len({take.filename for take in takes}) == len(takes)
        return Counter((take.clip.split, take.scene, take.recorder) for take in takes)

    @pytest.mark.parametrize("n", [2, 6, 20])
    def test_all_recorders_are_in_test(self, n: int) -> None:
        found = self.found(n)
        test = Counter(dict.fromkeys(RECORDERS, 0))
        for (split, _, recorder), count in found.items():
            test[recorder] += count * (split == "test")
        assert test.total() == 10 * n
        assert max(test.values()) - min(test.values()) <= 1

    @pytest.mark.parametrize("n", [6, 20])
    def test_recorders_have_their_share_of_every_scene(self, n: int) -> None:
        dataset, found = open_dataset("synthetic"), self.found(n)
        sizes = Counter((clip.split, clip.scene) for clip in dataset.clips)
        recorded = Counter((clip.split, clip.scene, clip.recorder) for clip in dataset.clips)
        assert all(abs(found[key] - n * recorded[key] / sizes[key[:2]]) < 1 for key in recorded)
        assert found.total() == n * 3 * 10

    def test_places_are_spread(self) -> None:
        places = defaultdict(set)
        for take in plan(open_dataset("synthetic"), clips=6):
            places[take.clip.split, take.scene].add(take.place)
        assert min(len(found) for found in places.values()) >= 3

    def test_more_than_there_are_is_all(self) -> None:
        assert plan(open_dataset("synthetic"), clips=10_000) == plan(open_dataset("synthetic"))


class TestNamedRecorders:
    def test_synthetic_keeps_its_recorders_places_and_name(self, tmp_path: Path) -> None:
        report = export(open_dataset("synthetic"), tmp_path / "dest", clips=6)
        assert (report["synthetic"], report["simulated_recorders"], report["share"], report["seed"]) == (
            True,
            False,
            None,
            None,
        )
        opened = open_dataset(str(tmp_path / "dest"))
        assert opened.synthetic
        assert opened.name == "synthetic-recorders"
        assert any("synthetic" in notice for notice in opened.notices)
        assert (opened.sample_rate, opened.duration_s) == (44_100, 3.0)
        assert len({clip.city for clip in opened.clips}) == 10
        source = {clip.filename: clip for clip in open_dataset("synthetic").clips}
        for row in rows_of(tmp_path / "dest" / "sources.csv"):
            name, clip = row["filename"][:-4].rsplit("-", 1), source[row["source"]]
            assert (name[1], name[0].split("-")[1]) == (clip.recorder, clip.city)
        clip = opened.clips[0]
        made_from = next(
            row["source"]
            for row in rows_of(tmp_path / "dest" / "sources.csv")
            if row["filename"] == f"audio/{clip.filename}"
        )
        original = open_dataset("synthetic").load(source[made_from])
        np.testing.assert_allclose(opened.load(clip).waveform_N, original.waveform_N, atol=2**-23)

    def test_parallel_recordings_share_a_segment(self) -> None:
        takes = plan(open_dataset("synthetic"))
        assert len(takes) == len(open_dataset("synthetic").clips)
        assert not any(take.simulated for take in takes)
        pairs = {(take.segment, "-".join(take.clip.filename.split("-")[:4])) for take in takes}
        assert len(pairs) == len({segment for segment, _ in pairs}) == len({name for _, name in pairs})

    def test_one_name_in_two_formats_is_two_segments(self) -> None:
        dataset = open_dataset("synthetic")
        clips = [
            replace(clip, filename=clip.filename + suffix)
            for clip in dataset.clips[::50]
            for suffix in (".wav", ".mp3")
        ]
        names = [take.filename for take in plan(replace(dataset, clips=tuple(clips)))]
        assert len(set(names)) == len(clips)

    def test_named_for_some_clips_only(self) -> None:
        dataset = open_dataset("synthetic")
        clips = (replace(dataset.clips[0], recorder=""), *dataset.clips[1:])
        with pytest.raises(UserError, match=r"1 of 5,010 clips name no recorder, and the others do: name all, or none"):
            plan(replace(dataset, clips=clips))

    @pytest.mark.parametrize("values", [{"share": 0.5}, {"seed": 1}])
    def test_there_is_nothing_to_simulate(self, values: dict[str, Any]) -> None:
        with pytest.raises(UserError, match=r"the data names its recorders.* leave --share and --seed out"):
            plan(open_dataset("synthetic"), **values)


class TestOpened:
    def test_by_the_loader(self, exported: Path) -> None:
        dataset = open_dataset(str(exported))
        assert (dataset.name, dataset.synthetic, dataset.classes) == ("esc-recorders", False, ("high", "low", "noise"))
        assert any("esc written out in TAU's layout; its recorders are simulated" in text for text in dataset.notices)
        assert not any("official" in text and "compare" in text for text in dataset.notices)
        for scene in dataset.classes:
            assert {clip.split for clip in dataset.clips if clip.scene == scene} == {"train", "val", "test"}
        assert {clip.recorder for clip in dataset.clips if clip.split != "test"}.isdisjoint(UNSEEN)
        assert len(dataset.splits.test) == 81
        assert dataset.load(dataset.clips[0]).sample_rate == 16_000

    def test_report_and_origin(self, tiny_folder: Path, tmp_path: Path) -> None:
        report = export(open_dataset(str(tiny_folder)), tmp_path / "dest", share=0.5, seed=3, clips=4, command="x y")
        dataset = open_dataset(str(tmp_path / "dest"))
        counts = {split: len(getattr(dataset.splits, split)) for split in ("train", "val", "test")}
        assert report["counts"] == counts
        assert report["files"] == report["written"] == sum(counts.values())
        assert report["bytes"] == sum(path.stat().st_size for path in (tmp_path / "dest" / "audio").iterdir())
        origin = json.loads((tmp_path / "dest" / "dataset.json").read_text())
        assert {key: report[key] for key in origin} == origin
        assert {**origin, "digest": None} == {
            "name": "esc-recorders",
            "title": "esc in TAU 2020's layout, simulated recorders",
            "source": "esc",
            "synthetic": False,
            "simulated_recorders": True,
            "command": "x y",
            "clips": 4,
            "share": 0.5,
            "seed": 3,
            "digest": None,
        }
        text = (tmp_path / "dest" / "README.txt").read_text()
        assert "not a TAU data set" in text
        assert "x y" in text
        assert "0.5 of the segments" in text

    def test_licences_and_attributions_come_along(self, make_folder: Callable[..., Path], tmp_path: Path) -> None:
        folder = make_folder()
        for name in ("LICENSE", "licence.txt", "ATTRIBUTION.csv"):
            (folder / name).write_text(f"content of {name}")
            (folder / name).chmod(0o444)
        (folder / "notes.txt").write_text("private")
        for _ in range(2):  # a second time over what is there
            export(open_dataset(str(folder)), tmp_path / "dest", share=0)
        for name in ("LICENSE", "licence.txt", "ATTRIBUTION.csv"):
            assert (tmp_path / "dest" / name).read_text() == f"content of {name}"
        assert not (tmp_path / "dest" / "notes.txt").exists()

    def test_clips_in_no_split_are_left_out(self, make_folder: Callable[..., Path], tmp_path: Path) -> None:
        folder = make_folder()
        path = folder / "meta" / "esc50.csv"
        lines = path.read_text().splitlines()
        fields = [line.split(",") for line in lines]
        of_fold_1 = next(row for row in fields if row[1] == "1")
        of_fold_1[5] = next(row for row in fields if row[1] == "5")[5]  # one source recording in train and test
        path.write_text("\n".join(",".join(row) for row in fields) + "\n")
        report = export(open_dataset(str(folder)), tmp_path / "dest")
        assert report["left_out"] == 1
        assert of_fold_1[0] not in {row["source"] for row in rows_of(tmp_path / "dest" / "sources.csv")}


class TestAgain:
    def test_gives_the_same_bytes(self, exported: Path, tiny_folder: Path, tmp_path: Path) -> None:
        export(open_dataset(str(tiny_folder)), tmp_path / "dest", workers=1)
        assert contents(tmp_path / "dest") == contents(exported)
        assert not list(exported.rglob(".*"))

    def test_another_seed_gives_others(self, exported: Path, tiny_folder: Path, tmp_path: Path) -> None:
        export(open_dataset(str(tiny_folder)), tmp_path / "dest", seed=1)
        one, other = contents(exported), contents(tmp_path / "dest")
        assert all(one[name] == other[name] for name in one if name.endswith("-a.wav"))
        assert not any(one[name] == other[name] for name in one if name.endswith("-s6.wav"))

    def test_goes_on_after_a_kill(self, exported: Path, tiny_folder: Path, tmp_path: Path) -> None:
        code = (
            "import os, signal, sys; from pathlib import Path; from trainers.datasets import open_dataset; "
            "from trainers.export import export; "
            "export(open_dataset(sys.argv[1]), Path(sys.argv[2]), "
            "progress=lambda done, total: done >= 40 and os.kill(os.getpid(), signal.SIGKILL))"
        )
        dest = tmp_path / "dest"
        killed = subprocess.run([sys.executable, "-c", code, str(tiny_folder), str(dest)], cwd=ROOT, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert not (dest / "meta.csv").exists()
        assert not (dest / "evaluation_setup").exists()
        with pytest.raises(UserError, match="is not a data folder"):
            open_dataset(str(dest))
        there = {path: path.stat().st_ino for path in (dest / "audio").glob("[!.]*.wav")}
        assert 40 <= len(there) < 162
        (dest / "audio" / f".{next(iter(there)).name}.abc").write_bytes(b"half of a file")

        report = export(open_dataset(str(tiny_folder)), dest)
        assert report["written"] == 162 - len(there)
        assert contents(dest) == contents(exported)
        assert {path: path.stat().st_ino for path in there} == there

    def test_a_cut_file_is_written_again(self, exported: Path, tiny_folder: Path, tmp_path: Path) -> None:
        shutil.copytree(exported, tmp_path / "dest")
        some = sorted((tmp_path / "dest" / "audio").iterdir())[:3]
        os.truncate(some[0], 1_000)
        os.truncate(some[1], 0)
        some[2].unlink()
        assert export(open_dataset(str(tiny_folder)), tmp_path / "dest")["written"] == 3
        assert contents(tmp_path / "dest") == contents(exported)

    def test_what_is_made_of_a_changed_file_is_written_again(
        self, make_folder: Callable[..., Path], tmp_path: Path
    ) -> None:
        folder, dest = make_folder(), tmp_path / "dest"
        export(open_dataset(str(folder)), dest)
        before = contents(dest)
        sources = {row["filename"]: row["source"] for row in rows_of(dest / "sources.csv")}
        changed = next(row["source"] for row in rows_of(dest / "sources.csv") if row["filename"].endswith("-s4.wav"))
        wave_N, rate = soundfile.read(folder / "audio" / changed)
        soundfile.write(folder / "audio" / changed, wave_N[::-1], rate, subtype="PCM_24")
        made_of_it = {name for name, source in sources.items() if source == changed}
        report = export(open_dataset(str(folder)), dest)
        assert report["written"] == len(made_of_it) == 9
        after = contents(dest)
        assert {name for name in sources if after[name] != before[name]} == made_of_it
        export(open_dataset(str(folder)), tmp_path / "fresh")
        assert contents(tmp_path / "fresh") == after
        assert export(open_dataset(str(folder)), dest)["written"] == 0

    def test_another_length_of_all_writes_all_again(self, tmp_path: Path) -> None:
        folder, dest = own_folder(tmp_path / "own"), tmp_path / "dest"
        dataset = open_dataset(str(folder))
        n_files = export(dataset, dest, share=0)["files"]
        report = export(replace(dataset, duration_s=0.2), dest, share=0)
        assert report["written"] == report["files"] == n_files
        assert {soundfile.info(path).frames for path in (dest / "audio").iterdir()} == {1_600}

    def test_says_nothing_of_where_the_source_lies(self, exported: Path, tiny_folder: Path) -> None:
        for path in (exported / "dataset.json", exported / "sources.csv"):
            assert str(tiny_folder.parent) not in path.read_text()

    @pytest.mark.parametrize(
        ("values", "message"), [({"seed": 1}, "seed 0, not 1"), ({"share": 0.5}, "share 0.25, not 0.5")]
    )
    def test_with_other_values(self, exported: Path, tiny_folder: Path, values: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=f"holds an export of other values .*{message}.*name a new folder"):
            export(open_dataset(str(tiny_folder)), exported, **values)

    def test_with_other_clips(self, exported: Path, make_folder: Callable[..., Path]) -> None:
        folder = make_folder(clips_per_fold=4)
        with pytest.raises(UserError, match=r"holds an export of other values \(other clips\)"):
            export(open_dataset(str(folder)), exported)


def a_file(dest: Path) -> None:
    dest.write_text("x")


def something_else(dest: Path) -> None:
    (dest / "photos").mkdir(parents=True)


def another_dataset_json(dest: Path) -> None:
    dest.mkdir()
    (dest / "dataset.json").write_text("[1]")


def torn_dataset_json(dest: Path) -> None:
    dest.mkdir()
    (dest / "dataset.json").write_text("{")


class TestBadInput:
    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (a_file, "is a file: name a new or empty folder"),
            (something_else, r"holds something else \(photos\): name a new or empty folder"),
            (another_dataset_json, r"holds something else \(dataset.json\)"),
            (torn_dataset_json, r"holds something else \(dataset.json\)"),
        ],
    )
    def test_dest(self, tiny_folder: Path, tmp_path: Path, spoil: Callable[[Path], None], message: str) -> None:
        spoil(tmp_path / "dest")
        with pytest.raises(UserError, match=message):
            export(open_dataset(str(tiny_folder)), tmp_path / "dest")

    def test_dest_within_the_data(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        with pytest.raises(UserError, match="lies within the data that it would be made of"):
            export(open_dataset(str(folder)), folder / "out")
        assert not (folder / "out").exists()

    def test_two_at_once(self, tiny_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "dest").mkdir()
        with (
            filelock.FileLock(tmp_path / "dest" / ".lock"),
            pytest.raises(UserError, match="is being written by another process"),
        ):
            export(open_dataset(str(tiny_folder)), tmp_path / "dest")

    def test_no_room(self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        # 162 files of 48,044 bytes, in blocks of 4,096.
        with pytest.raises(UserError, match=r"162 files need 8\.0 MB, and 1\.0 MB are free in .*--clips"):
            export(open_dataset(str(tiny_folder)), tmp_path / "a" / "dest")
        assert not (tmp_path / "a").exists()

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"share": 1.5}, "--share is from 0 to 1, not 1.5"),
            ({"share": -0.1}, "--share is from 0 to 1, not -0.1"),
            ({"share": float("nan")}, "--share is from 0 to 1, not nan"),
            ({"seed": -1}, "--seed is from 0 to 2147483647, not -1"),
            ({"clips": 0}, "--clips is 1 or more, not 0"),
            (
                {"clips": 1},
                r"nothing could be trained on what would be written: too few clips[^-]*; write more clips.*\(--clips, --subset\)",
            ),
        ],
    )
    def test_values(self, tiny_folder: Path, tmp_path: Path, values: dict[str, Any], message: str) -> None:
        with pytest.raises(UserError, match=message):
            export(open_dataset(str(tiny_folder)), tmp_path / "dest", **values)
        assert not (tmp_path / "dest").exists()

    def test_files_that_only_decoding_shows_to_be_broken(
        self, make_folder: Callable[..., Path], exported: Path, tmp_path: Path
    ) -> None:
        folder = make_folder()
        names = sorted(path.name for path in (folder / "audio").iterdir())[:2]
        wholes = [(folder / "audio" / name).read_bytes() for name in names]
        for name in names:
            soundfile.write(folder / "audio" / name, np.full(16_000, np.nan), 16_000, subtype="FLOAT")
        with pytest.raises(
            UserError, match=rf"2 of 45 audio files cannot be used: 2 with NaN .*{names[0]}, {names[1]}"
        ):
            export(open_dataset(str(folder)), tmp_path / "dest")
        assert not (tmp_path / "dest" / "evaluation_setup").exists()
        for name, content in zip(names, wholes, strict=True):
            (folder / "audio" / name).write_bytes(content)
        export(open_dataset(str(folder)), tmp_path / "dest")
        found, expected = contents(tmp_path / "dest"), contents(exported)
        assert found.pop("sources.csv") != expected.pop("sources.csv")  # files of another time
        assert found == expected


class TestCommand:
    @pytest.fixture
    def arguments(self, tiny_folder: Path, tmp_path: Path) -> list[str]:
        return ["export", str(tiny_folder), str(tmp_path / "dest"), "--share", "0.5"]

    def test_json(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert data_command.main([*arguments, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert (report["share"], report["written"], report["counts"]["test"]) == (0.5, 36 + 5 * 18 + 81, 81)
        assert report["command"] == " ".join(["python -m trainers.data", *arguments])

    def test_for_people(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        assert data_command.main(arguments) == 0
        shown = capsys.readouterr().out
        assert "esc in TAU 2020's layout, simulated recorders: 207 files" in shown
        assert "--data" in shown


@pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not here")
class TestEsc10:
    def test_counts(self) -> None:
        """398 clips, 80 of them test: 318 + 5 x 80 to learn from, 9 x 80 to test."""
        takes = plan(open_dataset(str(SHARED / "esc10")))
        assert sum(take.is_test for take in takes) == 720
        found = Counter(take.recorder for take in takes if not take.is_test)
        assert found == {"a": 318, **dict.fromkeys(LEARNED, 80)}
        assert max(Counter(take.filename for take in takes).values()) == 1

    @pytest.mark.slow
    def test_written(self, tmp_path: Path) -> None:
        report = export(open_dataset(str(SHARED / "esc10")), tmp_path / "dest")
        assert report["counts"] == {"train": 616, "val": 102, "test": 720}
        name = "ATTRIBUTION.csv"
        assert (tmp_path / "dest" / name).read_bytes() == (SHARED / "esc10" / name).read_bytes()
        opened = open_dataset(str(tmp_path / "dest"))
        assert (len(opened.classes), opened.sample_rate, opened.duration_s) == (10, 44_100, 5.0)
