"""The user's own recordings: a folder per class, or a csv; groups in one split, and every mistake named with its fix."""

from __future__ import annotations

import random
import shutil
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from search_space.errors import UserError
from trainers import data, own
from trainers.clips import DEFAULT_FOLD, Clip, Listing
from trainers.datasets import open_dataset, read_listing
from trainers.runs import is_study_name

CLASSES = ("bus", "park", "tram")


def touch(folder: Path, names: Iterable[str]) -> Path:
    """Empty files: lists and folders are read without looking into recordings."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


def class_folders(folder: Path, n: int = 10) -> Path:
    return touch(folder, [f"{scene}/{k}.wav" for scene in CLASSES for k in range(n)])


def place_folders(folder: Path, places: int = 5, clips: int = 4) -> Path:
    return touch(
        folder, [f"{scene}/place{p}/{k}.wav" for scene in CLASSES for p in range(places) for k in range(clips)]
    )


def rows_of(groups: int = 6, clips: int = 3) -> list[dict[str, str]]:
    """Rows of a csv: as many groups a class, of as many clips, on two recorders in turn."""
    return [
        {
            "filename": f"{scene}-{g}-{k}.wav",
            "label": scene,
            "group": f"{scene} {g}",
            "recorder": ("phone", "zoom")[k % 2],
        }
        for scene in CLASSES
        for g in range(groups)
        for k in range(clips)
    ]


def write_csv(path: Path, rows: list[dict[str, str]], separator: str = ",", end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [separator.join(rows[0]), *(separator.join(row.values()) for row in rows)]
    path.write_text(end.join(lines) + end, newline="", encoding="utf-8")
    return path


def without(rows: list[dict[str, str]], *columns: str) -> list[dict[str, str]]:
    return [{key: value for key, value in row.items() if key not in columns} for row in rows]


def with_splits(rows: list[dict[str, str]], words: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows with a column `split`: group g of every class gets word g, the last word goes on."""
    return [row | {"split": words[min(int(row["group"].split()[1]), len(words) - 1)]} for row in rows]


def read(path: Path, subset: str | None = None, fold: int = DEFAULT_FOLD) -> Listing:
    return own.read(path, subset, fold)


def splits_of_groups(clips: Iterable[Clip]) -> dict[str, set[str]]:
    homes = defaultdict(set)
    for clip in clips:
        homes[clip.group].add(clip.split)
    return homes


def counts(listing: Listing) -> dict[str, int]:
    return dict(Counter(clip.split for clip in listing.clips))


def said(listing: Listing) -> str:
    return "\n".join(listing.notices)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "my sounds"


class TestFolderPerClass:
    def test_opens_as_a_dataset(self, folder: Path) -> None:
        for number, scene in enumerate(CLASSES):
            (folder / scene).mkdir(parents=True)
            for k in range(5):
                wave_N = 0.1 * np.sin(np.arange(4000) * (0.1 + 0.2 * number))
                soundfile.write(folder / scene / f"{k}.flac", wave_N, 8_000)
        dataset = open_dataset(str(folder))
        assert dataset.classes == CLASSES
        assert (dataset.name, dataset.sample_rate, dataset.duration_s) == ("my-sounds", 8_000, 0.5)
        assert [len(rows) for rows in (dataset.splits.train, dataset.splits.val, dataset.splits.test)] == [9, 3, 3]
        assert not dataset.synthetic
        assert dataset.load(dataset.clips[0]).sample_rate == 8_000
        again = open_dataset(dataset.spec.source, subset=dataset.spec.subset, fold=dataset.spec.fold)
        assert again == dataset

    def test_clips_are_named_below_the_folder(self, folder: Path) -> None:
        listing = read_listing(class_folders(folder))
        assert listing.classes == CLASSES
        assert listing.audio == listing.source == folder
        assert [clip.filename for clip in listing.clips] == sorted(f"{c}/{k}.wav" for c in CLASSES for k in range(10))
        assert all(clip.recorder == clip.city == clip.location == "" for clip in listing.clips)

    def test_audio_of_every_kind_and_depth(self, folder: Path) -> None:
        class_folders(folder)
        touch(folder, ["bus/B.WAV", "bus/c.Flac", "bus/deep/er/d.ogg", "bus/e.mp3", "bus/f.aiff"])
        names = {clip.filename for clip in read(folder).clips if clip.scene == "bus"}
        assert names >= {"bus/B.WAV", "bus/c.Flac", "bus/deep/er/d.ogg", "bus/e.mp3", "bus/f.aiff"}

    def test_hidden_files_and_folders_are_skipped(self, folder: Path) -> None:
        plain = read(class_folders(folder))
        touch(folder, [".cache/x.wav", "bus/.x.wav", "bus/._0.wav", "bus/.trash/y.wav", "__MACOSX/bus/0.wav"])
        assert read(folder) == plain

    def test_other_files_are_counted(self, folder: Path) -> None:
        touch(class_folders(folder), ["bus/notes.txt", "park/a.m4a", "park/b.m4a", "tram/README"])
        assert "files of other kinds are left out (2 .m4a, 1 .txt, 1 no suffix)" in said(read(folder))

    def test_loose_recordings_are_named(self, folder: Path) -> None:
        touch(class_folders(folder), ["x.wav", "y.mp3", "readme.md", ".z.wav"])
        listing = read(folder)
        assert "2 recordings lie in no class's folder and are left out: x.wav, y.mp3" in said(listing)
        assert len(listing.clips) == 30

    def test_folders_without_a_recording_are_named(self, folder: Path) -> None:
        touch(class_folders(folder), ["airport/a.m4a"])
        listing = read(folder)
        assert "1 folders without a recording are left out: airport" in said(listing)
        assert listing.classes == CLASSES

    def test_linked_folders_are_followed_once(self, folder: Path, tmp_path: Path) -> None:
        place_folders(folder)
        shutil.move(folder / "bus", tmp_path / "elsewhere")
        (folder / "bus").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "elsewhere" / "loop").symlink_to(tmp_path / "elsewhere")
        assert Counter(clip.scene for clip in read(folder).clips) == dict.fromkeys(CLASSES, 20)

    def test_recognised(self, folder: Path) -> None:
        assert own.recognises(class_folders(folder))

    @pytest.mark.parametrize(
        "names",
        [
            [],
            ["x.wav"],
            ["audio/x.wav", "audio/y.wav"],
            ["bus/notes.txt"],
            ["ESC-50-master/meta/esc50.csv", "ESC-50-master/audio/x.wav"],
            ["tau/evaluation_setup/fold1_train.csv", "tau/audio/x.wav", "esc/audio/y.wav"],
        ],
    )
    def test_not_recognised(self, folder: Path, names: list[str]) -> None:
        folder.mkdir()
        assert not own.recognises(touch(folder, names))

    def test_a_folder_of_data_sets_is_no_class(self, folder: Path) -> None:
        touch(folder, ["ESC-50-master/meta/esc50.csv", "ESC-50-master/audio/x.wav", "other/x.wav"])
        with pytest.raises(UserError, match=r"did you mean '.*ESC-50-master'"):
            read_listing(folder)


class TestGroups:
    def test_without_groups_every_file_is_one_and_a_warning_says_so(self, folder: Path) -> None:
        listing = read(class_folders(folder))
        assert len({clip.group for clip in listing.clips}) == 30
        warning = listing.notices[0]
        assert warning.startswith("no groups are named")
        assert "every accuracy here looks better than it is" in warning
        assert "<class>/<place>/" in warning
        assert "filename,label,group" in warning

    def test_sub_folders_are_groups(self, folder: Path) -> None:
        listing = read(place_folders(folder))
        assert {clip.group for clip in listing.clips} == {f"{c}/place{p}" for c in CLASSES for p in range(5)}
        assert all(len(splits) == 1 for splits in splits_of_groups(listing.clips).values())
        assert "15 sub-folders <class>/<place>/ are groups: none is in two splits" in said(listing)
        assert "no groups" not in said(listing)

    def test_everything_below_a_sub_folder_is_one_group(self, folder: Path) -> None:
        touch(place_folders(folder), ["bus/place0/monday/x.wav", "bus/place0/tuesday/x.wav"])
        groups = {clip.group for clip in read(folder).clips if clip.filename.endswith("x.wav")}
        assert groups == {"bus/place0"}

    def test_files_beside_sub_folders_are_groups_of_their_own(self, folder: Path) -> None:
        listing = read(touch(place_folders(folder), ["bus/x.wav", "bus/y.wav"]))
        assert "2 clips in none are a group each" in said(listing)
        assert len({clip.group for clip in listing.clips}) == 17

    def test_sub_folders_of_one_file_say_nothing(self, folder: Path) -> None:
        listing = read(place_folders(folder, places=8, clips=1))
        assert listing.notices[0].startswith("no groups are named")

    def test_one_recording_in_two_formats_is_one_group(self, folder: Path) -> None:
        touch(class_folders(folder), [f"bus/{k}.mp3" for k in range(10)])
        homes = splits_of_groups(read(folder).clips)
        assert len(homes) == 30
        assert all(len(splits) == 1 for splits in homes.values())

    def test_of_a_csv(self, folder: Path) -> None:
        listing = read(write_csv(folder / "list.csv", rows_of()))
        assert {clip.group for clip in listing.clips} == {f"{c} {g}" for c in CLASSES for g in range(6)}
        assert all(len(splits) == 1 for splits in splits_of_groups(listing.clips).values())
        assert "18 groups in column 'group': none is in two splits" in said(listing)

    def test_a_group_may_hold_several_classes(self, folder: Path) -> None:
        rows = [row | {"group": row["group"].split()[1]} for row in rows_of(groups=10)]
        listing = read(write_csv(folder / "list.csv", rows))
        assert len({clip.group for clip in listing.clips}) == 10
        assert all(len(splits) == 1 for splits in splits_of_groups(listing.clips).values())

    def test_numbers_that_only_a_blank_keeps_apart(self, folder: Path) -> None:
        rows = [row | {"group": f"{row['group']}_1_12"} for row in rows_of()]
        rows += [row | {"filename": f"x{row['filename']}", "group": f"{row['group'][:-5]}_11_2"} for row in rows]
        assert len({clip.group for clip in read(write_csv(folder / "list.csv", rows)).clips}) == 36

    def test_empty_cells_of_a_csv(self, folder: Path) -> None:
        rows = rows_of()
        rows[0]["group"], rows[1]["group"] = "", " "
        listing = read(write_csv(folder / "list.csv", rows))
        assert "2 clips in none are a group each" in said(listing)
        assert len({clip.group for clip in listing.clips}) == 20

    def test_without_the_column_a_csv_warns(self, folder: Path) -> None:
        listing = read(write_csv(folder / "list.csv", without(rows_of(), "group")))
        assert listing.notices[0].startswith("no groups are named")


class TestNamesOfTau:
    """TAU's recordings sorted into class folders: what the names say of places and recorders is believed."""

    def sorted_names(self, part: str = "") -> list[str]:
        return [
            f"{scene}/{scene}-{('lyon', 'paris')[place % 2]}-{10 * number + place}-{100 * number + 9 * place + k}{part}-{recorder}.wav"
            for number, scene in enumerate(CLASSES)
            for place in range(6)
            for k in range(2)
            for recorder in ("a", "s1")
        ]

    @pytest.mark.parametrize("part", ["", "-3"])
    def test_say_the_place_and_the_recorder(self, folder: Path, part: str) -> None:
        listing = read(touch(folder, self.sorted_names(part)))
        for clip in listing.clips:
            fields = clip.filename.removesuffix(".wav").split("-")
            assert (clip.group, clip.recorder) == (f"{fields[1]}-{fields[2]}", fields[-1])
        assert all(len(splits) == 1 for splits in splits_of_groups(listing.clips).values())
        assert (
            "18 places <city>-<location> in the file names, all of them TAU's, are groups: none is in two splits"
            in said(listing)
        )
        assert "what stands last in the file names is the recorder: a, s1" in said(listing)

    def test_go_before_sub_folders(self, folder: Path) -> None:
        names = [
            f"{name.split('/')[0]}/{name[:-4].split('-')[-1]}/{name.split('/')[1]}" for name in self.sorted_names()
        ]
        assert len({clip.group for clip in read(touch(folder, names)).clips}) == 18

    def test_in_a_csv_without_groups(self, folder: Path) -> None:
        rows = [{"filename": name, "label": name.split("/")[0], "recorder": ""} for name in self.sorted_names()]
        rows[0]["recorder"] = "mine"
        clips = read(write_csv(folder / "list.csv", rows)).clips
        assert len({clip.group for clip in clips}) == 18
        assert Counter(clip.recorder for clip in clips) == {"a": 35, "s1": 36, "mine": 1}

    @pytest.mark.parametrize("other", ["bus/x.wav", "bus/bus-lyon-1-2-3-4-a.wav", "bus/bus-lyon-x-2-a.wav"])
    def test_one_other_name_and_they_say_nothing(self, folder: Path, other: str) -> None:
        listing = read(touch(folder, [*self.sorted_names(), other]))
        assert listing.notices[0].startswith("no groups are named")
        assert {clip.recorder for clip in listing.clips} == {""}


class TestFolds:
    @pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
    def test_rotate(self, folder: Path, fold: int) -> None:
        listing = read(place_folders(folder, places=10), fold=fold)
        assert {clip.fold for clip in listing.clips if clip.split == "test"} == {fold}
        assert {clip.fold for clip in listing.clips if clip.split == "val"} == {fold - 1 or 5}
        assert {clip.fold for clip in listing.clips} == {1, 2, 3, 4, 5}
        assert all(len(splits) == 1 for splits in splits_of_groups(listing.clips).values())
        assert f"24 val (fold {fold - 1 or 5}), 24 test (fold {fold}) clips" in said(listing)

    def test_a_clip_keeps_its_fold_in_every_rotation(self, folder: Path) -> None:
        place_folders(folder)
        folds = [{clip.filename: clip.fold for clip in read(folder, fold=k).clips} for k in range(1, 6)]
        assert all(found == folds[0] for found in folds)

    def test_classes_and_recorders_are_spread_alike(self, folder: Path) -> None:
        rows = [row | {"recorder": ("phone", "zoom")[int(row["group"].split()[1]) % 2]} for row in rows_of(groups=20)]
        listing = read(write_csv(folder / "list.csv", rows))
        found = Counter((clip.fold, clip.scene, clip.recorder) for clip in listing.clips)
        assert set(found.values()) == {6}
        assert len(found) == 5 * len(CLASSES) * 2
        assert "alike in classes and recorders" in said(listing)

    def test_do_not_depend_on_the_order_or_the_place_of_a_csv(self, tmp_path: Path) -> None:
        rows = rows_of()
        one = read(write_csv(tmp_path / "one" / "list.csv", rows))
        random.Random(0).shuffle(rows)
        other = read(write_csv(tmp_path / "two" / "list.csv", rows))
        assert one.clips == other.clips

    def test_do_not_depend_on_the_form_of_umlauts(self, tmp_path: Path) -> None:
        listings = []
        for form in ("NFC", "NFD"):
            rows = [row | {"label": unicodedata.normalize(form, row["label"] + "ü")} for row in rows_of()]
            listings.append(read(write_csv(tmp_path / form / "list.csv", rows)))
        assert listings[0].clips == listings[1].clips

    def test_unknown_fold(self, folder: Path) -> None:
        with pytest.raises(UserError, match=r"fold 6 is not in the data; known: \[1, 2, 3, 4, 5\]"):
            read(class_folders(folder), fold=6)

    def test_too_few_groups_of_a_class(self, folder: Path) -> None:
        place_folders(folder)
        for number in (1, 2, 3, 4):
            shutil.rmtree(folder / "bus" / f"place{number}")
        with pytest.raises(
            UserError, match=r"no clip of 1 of the 3 classes \(bus: 1 groups\).*every class needs 5"
        ) as e:
            open_dataset(str(folder))
        assert "record at more places" in str(e.value)
        assert "column 'split'" in str(e.value)
        assert "--fold" not in str(e.value)

    def test_a_fold_that_works_is_named(self, folder: Path) -> None:
        place_folders(folder)
        for number in (2, 3):
            shutil.rmtree(folder / "bus" / f"place{number}")
        reasons = {fold: read(folder, fold=fold).unsplit for fold in range(1, 6)}
        works = [fold for fold, reason in reasons.items() if not reason]
        assert works
        assert all(not reason or f"or choose --fold {works[0]}" in reason for reason in reasons.values())

    def test_too_few_groups_of_all(self, folder: Path) -> None:
        with pytest.raises(UserError, match=r"3 groups of recordings only: five folds need five of every class; name"):
            open_dataset(str(place_folders(folder, places=1)))

    @pytest.mark.parametrize(
        ("places", "reason"), [(1, "3 groups of recordings only"), (4, "in five folds every class needs 5 groups")]
    )
    def test_check_reports_on_too_few_groups(self, folder: Path, places: int, reason: str) -> None:
        report = data.check(place_folders(folder, places=places))
        assert reason in report["unsplit"]
        assert not report["usable"]
        assert report["clips"] == report["counts"]["all"]["clips"] == 3 * places * 4
        assert report["counts"]["all"]["groups"] == 3 * places


class TestCsv:
    def test_in_the_folder(self, folder: Path) -> None:
        rows = rows_of()
        write_csv(folder / "anything.csv", rows)
        touch(folder, [row["filename"] for row in rows])
        listing = read_listing(folder)
        assert (listing.source, listing.audio) == (folder, folder)
        assert len(listing.clips) == len(rows)
        assert {clip.recorder for clip in listing.clips} == {"phone", "zoom"}

    def test_as_a_file(self, folder: Path) -> None:
        path = write_csv(folder / "list.csv", rows_of())
        listing = read_listing(path)
        assert listing.source == path
        assert read_listing(listing.source) == listing

    def test_goes_before_folders_of_classes(self, folder: Path) -> None:
        class_folders(folder)
        write_csv(folder / "list.csv", [{"filename": f"{c}/{k}.wav", "label": c} for c in CLASSES for k in range(5)])
        assert len(read(folder).clips) == 15

    def test_recordings_in_audio(self, folder: Path) -> None:
        rows = rows_of()
        touch(folder / "audio", [row["filename"] for row in rows])
        assert read(write_csv(folder / "list.csv", rows)).audio == folder / "audio"

    def test_recordings_beside_the_csv_though_there_is_audio(self, folder: Path) -> None:
        rows = [row | {"filename": f"audio/{row['filename']}"} for row in rows_of()]
        touch(folder, [row["filename"] for row in rows])
        listing = read(write_csv(folder / "list.csv", rows))
        assert listing.audio == folder
        assert listing.clips[0].filename.startswith("audio/")

    def test_a_linked_csv_is_read_where_the_link_lies(self, folder: Path, tmp_path: Path) -> None:
        rows = rows_of()
        touch(folder, [row["filename"] for row in rows])
        (folder / "list.csv").symlink_to(write_csv(tmp_path / "lists" / "x.csv", rows))
        assert read(folder / "list.csv").audio == folder

    @pytest.mark.parametrize(("separator", "end"), [(",", "\n"), ("\t", "\n"), (",", "\r\n"), ("\t", "\r\n")])
    def test_separators_and_line_ends(self, folder: Path, separator: str, end: str) -> None:
        plain = read(write_csv(folder / "plain" / "list.csv", rows_of()))
        path = write_csv(folder / "list.tsv", rows_of(), separator, end)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().rstrip(b"\r\n"))
        assert read(path).clips == plain.clips

    def test_blanks_other_columns_and_backslashes(self, folder: Path) -> None:
        plain = read(write_csv(folder / "plain.csv", [r | {"filename": f"a/{r['filename']}"} for r in rows_of()]))
        rows = [
            {"note": "x", **{key: f" {value} " for key, value in row.items()}, "filename": f".\\a\\{row['filename']}"}
            for row in rows_of()
        ]
        assert read(write_csv(folder / "list.csv", rows)).clips == plain.clips

    def test_other_lists_in_the_folder_do_not_count(self, folder: Path) -> None:
        write_csv(folder / "list.csv", rows_of())
        write_csv(folder / "ATTRIBUTION.csv", [{"filename": "x.wav", "author": "somebody"}])
        (folder / "table.csv").write_bytes(b"\xff\xfe\x00")
        (folder / ".list.csv").write_text("filename,label\nx.wav,bus\n")
        assert len(read_listing(folder).clips) == len(rows_of())

    def test_several_are_named(self, folder: Path) -> None:
        write_csv(folder / "one.csv", rows_of())
        write_csv(folder / "two.tsv", rows_of(), "\t")
        with pytest.raises(
            UserError, match=r"2 lists of recordings \(one\.csv, two\.tsv\): name one, --data .*one\.csv"
        ):
            read_listing(folder)
        assert len(read_listing(folder / "two.tsv").clips) == len(rows_of())

    @pytest.mark.parametrize("inside", ["", "audio"])
    def test_names_on_disk_may_be_in_another_unicode_form(self, folder: Path, inside: str) -> None:
        """As macOS's archives unpack: 'u' and two dots in the file names, 'ü' in the list."""
        rows = [row | {"filename": f"Züge/{row['filename'].replace('bus', 'Grün')}"} for row in rows_of()]
        on_disk = [unicodedata.normalize("NFD", row["filename"]) for row in rows]
        touch(folder / inside, on_disk)
        listing = read(write_csv(folder / "list.csv", rows))
        assert listing.audio == folder / inside
        assert {clip.filename for clip in listing.clips} == set(on_disk)

    def test_groups_and_folds_do_not_hang_on_the_form_on_disk(self, tmp_path: Path) -> None:
        found = []
        for form in ("NFC", "NFD"):
            names = [unicodedata.normalize(form, f"{scene}/ü{k}.wav") for scene in CLASSES for k in range(10)]
            clips = read(touch(tmp_path / form, names)).clips
            found.append({(unicodedata.normalize("NFC", clip.filename), clip.group, clip.fold) for clip in clips})
        assert found[0] == found[1]

    def test_one_file_named_in_two_forms(self, folder: Path) -> None:
        rows = rows_of()
        names = [unicodedata.normalize(form, "ü.wav") for form in ("NFC", "NFD")]
        rows += [rows[0] | {"filename": name} for name in names]
        touch(folder, [names[1]])
        with pytest.raises(UserError, match="names 1 files more than once"):
            read(write_csv(folder / "list.csv", rows))

    def test_missing_files_are_named_with_a_cause(self, folder: Path) -> None:
        write_csv(folder / "list.csv", rows_of())
        with pytest.raises(UserError, match=r"54 of 54 audio files cannot be used: 54 missing: bus-0-0\.wav"):
            open_dataset(str(folder))


class TestGivenSplits:
    def test_are_kept(self, folder: Path) -> None:
        rows = with_splits(rows_of(), ("train", "val", "test", "train"))
        listing = read(write_csv(folder / "list.csv", rows))
        assert {clip.filename: clip.split for clip in listing.clips} == {row["filename"]: row["split"] for row in rows}
        assert all(clip.fold is None for clip in listing.clips)
        assert "splits of column 'split': 36 train, 9 val, 9 test clips" in said(listing)

    @pytest.mark.parametrize(
        "words",
        [
            ("training", "validation", "testing"),
            ("Train", "VALID", "Test"),
            ("train", "dev", "evaluate"),
            ("train", "val ", "evaluation"),
        ],
    )
    def test_in_other_words(self, folder: Path, words: tuple[str, ...]) -> None:
        listing = read(write_csv(folder / "list.csv", with_splits(rows_of(groups=3), words)))
        assert counts(listing) == {"train": 9, "val": 9, "test": 9}

    @pytest.mark.parametrize("word", ["holdout", "", "1"])
    def test_unknown_word(self, folder: Path, word: str) -> None:
        rows = with_splits(rows_of(), ("train", "test"))
        rows[4]["split"] = word
        with pytest.raises(UserError, match=rf"row 6: unknown split '{word}'; known: \['train', 'training', 'val'"):
            read(write_csv(folder / "list.csv", rows))

    def test_without_val_a_seventh_of_train_is_carved_out(self, folder: Path) -> None:
        rows = with_splits(rows_of(groups=15), ("test", "train"))
        listing = read(write_csv(folder / "list.csv", rows))
        assert counts(listing) == {"train": 108, "val": 18, "test": 9}
        assert all(len(splits) == 1 for splits in splits_of_groups(listing.clips).values())
        assert Counter(clip.scene for clip in listing.clips if clip.split == "val") == dict.fromkeys(CLASSES, 6)
        assert "18 of the 126 train clips (6 of 42 groups) are carved out of train" in said(listing)

    @pytest.mark.parametrize("n", [2, 3, 4])
    def test_val_has_every_class_though_groups_are_few(self, folder: Path, n: int) -> None:
        rows = with_splits(rows_of(groups=n + 1), ("test", "train"))
        assert counts(read(write_csv(folder / "list.csv", rows)))["val"] == 9

    def test_a_group_in_two_splits(self, folder: Path) -> None:
        rows = with_splits(rows_of(), ("train", "val", "test"))
        rows[0]["split"] = "test"
        with pytest.raises(UserError, match=r"1 groups stand in two splits \(bus 0\).*one word in column 'split'"):
            read(write_csv(folder / "list.csv", rows))

    @pytest.mark.parametrize(("words", "missing"), [(("train", "val"), "test"), (("val", "test"), "train")])
    def test_no_test_or_no_train(self, folder: Path, words: tuple[str, ...], missing: str) -> None:
        with pytest.raises(UserError, match=rf"column 'split' names no {missing} clip.*or leave the column out"):
            read(write_csv(folder / "list.csv", with_splits(rows_of(), words)))

    def test_a_class_without_test_clips(self, folder: Path) -> None:
        rows = with_splits(rows_of(), ("train", "val", "test"))
        rows = [row for row in rows if (row["label"], row["split"]) != ("tram", "test")]
        with pytest.raises(UserError, match=r"test has no clip of 1 of the 3 classes \(tram: 2 groups\): mark a group"):
            open_dataset(str(write_csv(folder / "list.csv", rows)))

    def test_have_no_folds(self, folder: Path) -> None:
        path = write_csv(folder / "list.csv", with_splits(rows_of(), ("train", "val", "test")))
        with pytest.raises(UserError, match="fold 2: the column 'split' decides what is test; leave --fold out"):
            read(path, fold=2)

    def test_without_groups_warn(self, folder: Path) -> None:
        rows = without(with_splits(rows_of(), ("train", "val", "test")), "group")
        assert read(write_csv(folder / "list.csv", rows)).notices[0].startswith("no groups are named")


class TestSubset:
    def test_keeps_clips_in_the_splits_of_the_whole(self, folder: Path, tmp_path: Path) -> None:
        place_folders(folder)
        whole = {clip.filename: clip for clip in read(folder).clips}
        names = [name for name in whole if not name.endswith("/3.wav")]
        path = write_csv(tmp_path / "part.csv", [{"filename": name} for name in names])
        listing = read(folder, subset=str(path))
        assert list(listing.clips) == [whole[name] for name in names]
        assert (listing.name, listing.subset) == ("my-sounds-part", str(path))
        assert read(folder, subset=listing.subset) == listing

    def test_leaves_a_class_out(self, folder: Path, tmp_path: Path) -> None:
        names = [clip.filename for clip in read(class_folders(folder)).clips if clip.scene != "bus"]
        path = write_csv(tmp_path / "part.csv", [{"filename": f"./{name}"} for name in names])
        assert read(folder, subset=str(path)).classes == ("park", "tram")

    def test_in_another_unicode_form(self, folder: Path, tmp_path: Path) -> None:
        names = [f"{scene}/ü{k}.wav" for scene in CLASSES for k in range(5)]
        on_disk = [unicodedata.normalize("NFD", name) for name in names]
        touch(class_folders(folder), on_disk)
        path = write_csv(tmp_path / "part.csv", [{"filename": name} for name in names])
        assert {clip.filename for clip in read(folder, subset=str(path)).clips} == set(on_disk)

    def test_with_strangers(self, folder: Path, tmp_path: Path) -> None:
        path = write_csv(tmp_path / "part.csv", [{"filename": "bus/nobody.wav"}])
        with pytest.raises(UserError, match=r"names 1 clips that the data does not: bus/nobody\.wav"):
            read(class_folders(folder), subset=str(path))

    def test_unknown(self, folder: Path) -> None:
        with pytest.raises(UserError, match="unknown subset 'esc10'; known for own recordings: the path of a csv"):
            read(class_folders(folder), subset="esc10")


class TestNames:
    @pytest.mark.parametrize(
        ("folder_name", "name"),
        [
            ("kitchen", "kitchen"),
            ("My Sounds (2024)", "My-Sounds-2024"),
            ("Zürich", "Zurich"),
            (".hidden", "hidden"),
            ("声音", "data"),
            ("x" * 90, "x" * 64),
            ("tau2020", "own-tau2020"),
            ("ESC50", "own-ESC50"),
            ("synthetic", "own-synthetic"),
        ],
    )
    def test_of_a_folder(self, tmp_path: Path, folder_name: str, name: str) -> None:
        listing = read(class_folders(tmp_path / folder_name, n=5))
        assert listing.name == name
        assert is_study_name(listing.name)
        assert listing.title == f"own recordings in {folder_name}"

    def test_of_a_csv(self, tmp_path: Path) -> None:
        path = write_csv(tmp_path / "my list.csv", rows_of())
        assert (read(path).name, read(path).title) == ("my-list", "own recordings in my list")
        assert read(tmp_path).name == tmp_path.name


def classes_by_case(folder: Path) -> None:
    touch(class_folders(folder), [f"Bus/{k}.wav" for k in range(5)])


def classes_by_blanks(folder: Path) -> None:
    touch(class_folders(folder), ["metro station/1.wav", "Metro_Station/1.wav"])


def labels_by_case(folder: Path) -> None:
    rows = rows_of()
    rows[3]["label"] = "BUS"
    write_csv(folder / "list.csv", rows)


def groups_by_case(folder: Path) -> None:
    rows = rows_of()
    rows[3]["group"] = "BUS_1"
    write_csv(folder / "list.csv", rows)


def places_by_case(folder: Path) -> None:
    touch(place_folders(folder), ["bus/Place0/x.wav"])


def spoilt(column: str, value: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        rows = rows_of()
        rows[2][column] = value
        write_csv(folder / "list.csv", rows)

    return spoil


def twice(folder: Path) -> None:
    rows = rows_of()
    write_csv(folder / "list.csv", [*rows, rows[0] | {"filename": f"./{rows[0]['filename']}"}])


def semicolons(folder: Path) -> None:
    write_csv(folder / "list.csv", rows_of(), ";")


def not_text(folder: Path) -> None:
    folder.mkdir()
    (folder / "list.csv").write_bytes(b"filename,label\n\xff.wav,bus\n")


def header_only(folder: Path) -> None:
    folder.mkdir()
    (folder / "list.csv").write_text("filename,label\n")


def folders_of_splits(folder: Path) -> None:
    touch(folder, [f"{split}/{scene}/{k}.wav" for split in ("train", "test") for scene in CLASSES for k in range(3)])


def one_level_too_high(folder: Path) -> None:
    class_folders(folder / "recordings")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (classes_by_case, r"the classes \['Bus', 'bus'\] differ by case, blanks or '_' alone: give one class one name"),
        (classes_by_blanks, r"the classes \['Metro_Station', 'metro station'\] differ by"),
        (labels_by_case, r"the classes \['BUS', 'bus'\] differ by"),
        (
            groups_by_case,
            r"the groups \['BUS_1', 'bus 1'\] differ by case, blanks or '_' alone: give one group one name",
        ),
        (places_by_case, r"the groups \['bus/Place0', 'bus/place0'\] differ by"),
        (spoilt("label", ""), r"row 4: no 'label'; every row needs one"),
        (spoilt("label", "  "), r"row 4: 'filename' or 'label' is blank"),
        (spoilt("filename", " "), r"row 4: 'filename' or 'label' is blank"),
        (spoilt("filename", "../x.wav"), r"row 4: '\.\./x\.wav' leaves the folder of the list; name files relative"),
        (spoilt("filename", "a/../../x.wav"), r"row 4: .* leaves the folder of the list"),
        (spoilt("filename", "..\\x.wav"), r"row 4: .* leaves the folder of the list"),
        (spoilt("filename", "/data/x.wav"), r"row 4: '/data/x\.wav' leaves the folder of the list"),
        (spoilt("filename", "C:\\x.wav"), r"row 4: .* leaves the folder of the list"),
        (twice, r"names 1 files more than once: bus-0-0\.wav; keep one row each"),
        (semicolons, r"lacks the columns \['filename', 'label'\].*separate columns by commas or tabs"),
        (not_text, r"is not UTF-8 text"),
        (header_only, r"has a header and no rows"),
        (folders_of_splits, r"holds folders of splits \(test, train\), not of classes: name the recordings in a csv"),
        (
            one_level_too_high,
            r"one class only, 'recordings', with the folders bus, park, tram; if these are the classes",
        ),
    ],
)
def test_bad_input(folder: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(folder)
    with pytest.raises(UserError, match=message):
        read_listing(folder)


def test_one_class_only(folder: Path) -> None:
    touch(folder, [f"bus/{k}.wav" for k in range(9)])
    with pytest.raises(UserError, match=r"one class only \('bus'\)"):
        open_dataset(str(folder))
