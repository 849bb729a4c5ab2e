"""TAU's lists, exactly: the official metadata's counts, splits that leak nothing, and every way in which copies are wrong."""

from __future__ import annotations

import gzip
import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from search_space.errors import UserError
from trainers import tau
from trainers.clips import Clip, Listing
from trainers.datasets import open_dataset, read_listing

SHARED = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not here")
MICRO, CSV_2022 = SHARED / "tau2020-micro", SHARED / "tau2022-csv"


def of(listing: Listing, split: str) -> list[Clip]:
    return [clip for clip in listing.clips if clip.split == split]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def rewrite(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("\n".join(change(lines(path))) + "\n")


@pytest.fixture(scope="module")
def listing_2020() -> Listing:
    return tau.read(MICRO, None, 5)


@pytest.fixture(scope="module")
def listing_2022() -> Listing:
    return tau.read(CSV_2022, None, 5)


@real
class TestOfficialMetadata2020:
    def test_counts(self, listing_2020: Listing) -> None:
        counts = Counter(clip.split for clip in listing_2020.clips)
        assert len(listing_2020.clips) == 23_035
        assert counts["train"] + counts["val"] == 13_962
        assert (counts["train"], counts["val"], counts["test"], counts["unused"]) == (11_993, 1_969, 2_968, 6_105)
        assert listing_2020.name == "tau2020"
        assert len(listing_2020.classes) == 10

    def test_counts_by_recorder(self, listing_2020: Listing) -> None:
        learning = Counter(clip.recorder for split in ("train", "val") for clip in of(listing_2020, split))
        assert learning == {"a": 10_215, "b": 749, "c": 748, "s1": 750, "s2": 750, "s3": 750}
        assert Counter(clip.recorder for clip in of(listing_2020, "test")) == {
            **dict.fromkeys(("a", "s1", "s2", "s3", "s4", "s5", "s6"), 330),
            **{"b": 329, "c": 329},
        }

    def test_no_location_is_in_two_splits(self, listing_2020: Listing) -> None:
        places = {split: {clip.group for clip in of(listing_2020, split)} for split in ("train", "val", "test")}
        assert len(places["train"] | places["val"]) == 365
        assert (len(places["val"]), len(places["test"])) == (51, 146)
        assert not places["train"] & places["val"]
        assert not (places["train"] | places["val"]) & places["test"]

    def test_the_leak_trap(self, listing_2020: Listing) -> None:
        """meta minus test would learn from 3,790 clips at places of the test fold and 2,250 of unseen recorders."""
        places = {clip.group for clip in of(listing_2020, "test")}
        unused = of(listing_2020, "unused")
        at_test_places = [clip for clip in unused if clip.recorder == "a" and clip.group in places]
        unseen = [clip for clip in unused if clip.recorder in ("s4", "s5", "s6")]
        assert (len(at_test_places), len(unseen)) == (3_790, 2_250)
        learning = of(listing_2020, "train") + of(listing_2020, "val")
        assert not {clip.recorder for clip in learning} & {"s4", "s5", "s6"}
        assert not any(clip.group in places for clip in learning)

    def test_val_is_stratified(self, listing_2020: Listing) -> None:
        """Every scene with every recorder within a third of its seventh, every city between a tenth and a fifth."""
        val, learning = of(listing_2020, "val"), of(listing_2020, "train") + of(listing_2020, "val")
        for key, low, high in (
            (lambda clip: (clip.scene, clip.recorder), 2 / 21, 4 / 21),
            (lambda clip: clip.city, 0.1, 0.2),
        ):
            total = Counter(map(key, learning))
            shares = [Counter(map(key, val))[stratum] / total[stratum] for stratum in total]
            assert low <= min(shares)
            assert max(shares) <= high

    def test_cities_and_locations(self, listing_2020: Listing) -> None:
        assert len({clip.city for clip in listing_2020.clips}) == 10
        assert len({clip.location for clip in listing_2020.clips}) == 514
        assert listing_2020.clips[0].group == "lisbon-1000"


@real
class TestOfficialMetadata2022:
    def test_counts(self, listing_2022: Listing) -> None:
        counts = Counter(clip.split for clip in listing_2022.clips)
        assert len(listing_2022.clips) == 230_350
        assert (counts["train"] + counts["val"], counts["test"]) == (139_620, 29_680)
        assert listing_2022.name == "tau2022"
        recorders = Counter(clip.recorder for split in ("train", "val") for clip in of(listing_2022, split))
        assert recorders == {"a": 102_150, "b": 7_490, "c": 7_480, "s1": 7_500, "s2": 7_500, "s3": 7_500}

    def test_same_locations_as_2020(self, listing_2020: Listing, listing_2022: Listing) -> None:
        """The ten seconds of a segment are never shared out, and results of both sets are on the same places."""
        for split in ("train", "val", "test"):
            assert {clip.group for clip in of(listing_2022, split)} == {clip.group for clip in of(listing_2020, split)}
        split_of: dict[tuple[str, ...], set[str]] = {}
        for clip in listing_2022.clips:
            *segment, _, recorder = clip.filename.split("-")
            split_of.setdefault((*segment, recorder), set()).add(clip.split)
        assert all(len(splits) == 1 for splits in split_of.values())


class TestTinyFolder:
    def test_opens(self, make_tau: Callable[..., Path]) -> None:
        dataset = open_dataset(str(make_tau()))
        assert dataset.name == "tau"  # the folder's name: this is not the official set
        assert dataset.classes == ("airport", "bus", "park")
        assert len(dataset.splits.train) + len(dataset.splits.val) == 3 * 8 * 2 * 3
        assert len(dataset.splits.test) == 3 * 3 * 2 * 4
        assert any("stratified by scene, recorder and city" in notice for notice in dataset.notices)
        assert dataset.load(dataset.clips[0]).waveform_N.shape == (16_000,)

    def test_not_the_official_counts_is_said(self, make_tau: Callable[..., Path]) -> None:
        notices = tau.read(make_tau(audio=False), None, 5).notices
        assert any("144 training and 72 test clips: no official set (9,185 and 4,185 (tau2019)" in n for n in notices)

    def test_unused_rows_need_no_file(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau()
        for clip in of(tau.read(folder, None, 5), "unused"):
            (folder / "audio" / clip.filename).unlink()
        assert len(open_dataset(str(folder)).splits.test) == 72

    def test_six_name_fields(self, make_tau: Callable[..., Path]) -> None:
        listing = tau.read(make_tau(audio=False, parts=True), None, 5)
        assert {clip.recorder for clip in listing.clips} == {"a", "b", "s1", "s4"}
        assert listing.clips[0].group == "lyon-0"

    def test_counts_of_2019_name_it(self, make_tau: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
        folder = make_tau(audio=False)
        for path in folder.rglob("*.csv"):
            rewrite(path, lambda rows: [rows[0], *(row for row in rows[1:] if "-a.wav" in row)])
        listing = tau.read(folder, None, 5)
        n_train, n_test = len(of(listing, "train")) + len(of(listing, "val")), len(of(listing, "test"))
        small = tau.Edition("TAU 2019, made small", len(listing.clips), n_train, n_test)
        monkeypatch.setitem(tau.EDITIONS, "tau2019", small)
        assert (tau.read(folder, None, 5).name, tau.read(folder, None, 5).title) == ("tau2019", small.title)

    def test_gzipped_and_flat(self, make_tau: Callable[..., Path], tmp_path: Path) -> None:
        folder = make_tau(audio=False)
        (tmp_path / "flat").mkdir()
        for path in folder.rglob("*.csv"):
            (tmp_path / "flat" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        assert tau.read(tmp_path / "flat", None, 5).clips == tau.read(folder, None, 5).clips

    def test_fold(self, make_tau: Callable[..., Path]) -> None:
        with pytest.raises(UserError, match="TAU has one official fold; leave --fold out"):
            read_listing(make_tau(audio=False), fold=1)

    def test_order_of_rows_does_not_matter(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        before = {clip.filename: clip.split for clip in tau.read(folder, None, 5).clips}
        for path in folder.rglob("*.csv"):
            rewrite(path, lambda rows: [rows[0], *reversed(rows[1:])])
        assert {clip.filename: clip.split for clip in tau.read(folder, None, 5).clips} == before

    def test_location_in_both_folds_leaves_train(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        meta = lines(folder / "meta.csv")
        leak = next(row for row in meta if row.startswith("audio/airport-lyon-8-") and row.endswith("\ta"))
        test_names = set(lines(folder / "evaluation_setup" / "fold1_evaluate.csv"))
        row = next(row for row in meta if "\tlyon-8\ta" in row and "\t".join(row.split("\t")[:2]) not in test_names)
        rewrite(folder / "evaluation_setup" / "fold1_train.csv", lambda rows: [*rows, "\t".join(row.split("\t")[:2])])
        listing = tau.read(folder, None, 5)
        assert leak
        assert any(
            "1 clips left out of train: their 1 locations (lyon-8) are also in test" in n for n in listing.notices
        )
        assert len(of(listing, "train")) + len(of(listing, "val")) == 144


class TestLeaks:
    """Lists that leak, as they circulate: nothing of them reaches train or val."""

    def meta_minus_test(self, folder: Path) -> Listing:
        """The training list that people make of meta.csv minus the test fold."""
        setup = folder / "evaluation_setup"
        test = {row.split("\t")[0] for row in lines(setup / "fold1_evaluate.csv")}
        rows = [row.split("\t")[:2] for row in lines(folder / "meta.csv") if row.split("\t")[0] not in test]
        (setup / "fold1_train.csv").write_text(
            "filename\tscene_label\n" + "".join("\t".join(row) + "\n" for row in rows)
        )
        return tau.read(folder, None, 5)

    def check(self, listing: Listing) -> None:
        places = {split: {clip.group for clip in of(listing, split)} for split in ("train", "val", "test")}
        assert not places["train"] & places["val"]
        assert not (places["train"] | places["val"]) & places["test"]
        learning = of(listing, "train") + of(listing, "val")
        assert not {clip.recorder for clip in learning} & {"s4", "s5", "s6"}

    def test_meta_minus_test(self, make_tau: Callable[..., Path]) -> None:
        listing = self.meta_minus_test(make_tau(audio=False))
        self.check(listing)
        assert len(of(listing, "train")) + len(of(listing, "val")) == 144
        assert any("9 clips left out of train: their 9 locations" in notice for notice in listing.notices)
        assert any("48 clips of s4 left out of train" in notice for notice in listing.notices)

    @real
    def test_meta_minus_test_of_the_official_lists(self, tmp_path: Path) -> None:
        listing = self.meta_minus_test(Path(shutil.copytree(MICRO, tmp_path / "tau")))
        self.check(listing)
        assert any("3,790 clips left out of train" in notice for notice in listing.notices)
        assert any("2,250 clips of s4, s5, s6 left out of train" in notice for notice in listing.notices)
        assert len(of(listing, "train")) + len(of(listing, "val")) == 23_035 - 2_968 - 3_790 - 2_250

    @pytest.mark.parametrize(("column", "value"), [(2, "lyon-0-0"), (3, "b")])
    def test_meta_that_contradicts_file_names(self, make_tau: Callable[..., Path], column: int, value: str) -> None:
        """A location per segment, as a fall-back parser of others makes it, would put one place into two splits."""
        folder = make_tau(audio=False)

        def spoil(rows: list[str]) -> list[str]:
            cells = rows[1].split("\t")
            cells[column] = value
            return [rows[0], "\t".join(cells), *rows[2:]]

        rewrite(folder / "meta.csv", spoil)
        with pytest.raises(UserError, match=r"1 rows contradict their file names, the first: airport-lyon-0-0-a\.wav"):
            tau.read(folder, None, 5)

    def test_names_that_lead_out_of_the_folder(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        for path in folder.rglob("*.csv"):
            path.write_text(
                path.read_text().replace("audio/airport-lyon-0-0-a.wav", "audio/../../airport-lyon-0-0-a.wav")
            )
        with pytest.raises(UserError, match=r"names 1 files outside of audio/"):
            tau.read(folder, None, 5)


class TestOlderRelease:
    @real
    @pytest.mark.parametrize("with_meta", [True, False])
    def test_is_accepted_and_said(self, tmp_path: Path, with_meta: bool) -> None:
        """Its lists beside the current audio, which lacks five files; and its five rows in meta.csv as well."""
        folder = Path(shutil.copytree(MICRO, tmp_path / "tau"))
        setup = folder / "evaluation_setup"
        for path, names in (
            (setup / "fold1_train.csv", tau.OLDER_FILES[:3]),
            (setup / "fold1_evaluate.csv", tau.OLDER_FILES[3:]),
        ):
            rewrite(path, lambda rows, names=names: [*rows, *(f"audio/{name}\t{name.split('-')[0]}" for name in names)])
        if with_meta:
            rows = [[name, *name.removesuffix(".wav").split("-")] for name in tau.OLDER_FILES]
            more = [
                f"audio/{name}\t{scene}\t{city}-{place}\t{recorder}" for name, scene, city, place, _, recorder in rows
            ]
            rewrite(folder / "meta.csv", lambda lines: [*lines, *more])
        listing = tau.read(folder, None, 5)
        counts = Counter(clip.split for clip in listing.clips)
        assert (counts["train"] + counts["val"], counts["test"]) == (13_962, 2_968)
        said = [notice for notice in listing.notices if "older 2020 release" in notice]
        assert "13,965 training and 2,970 test clips, where the current one has 13,962 and 2,968" in said[0]
        assert "5 of the five more files are not in the audio and are left out" in said[0]

    @real
    def test_with_its_own_audio(self, tmp_path: Path) -> None:
        folder = Path(shutil.copytree(MICRO, tmp_path / "tau"))
        setup = folder / "evaluation_setup"
        some = next((folder / "audio").iterdir())
        for path, names in (
            (setup / "fold1_train.csv", tau.OLDER_FILES[:3]),
            (setup / "fold1_evaluate.csv", tau.OLDER_FILES[3:]),
        ):
            rewrite(path, lambda rows, names=names: [*rows, *(f"audio/{name}\t{name.split('-')[0]}" for name in names)])
            for name in names:
                shutil.copy(some, folder / "audio" / name)
        listing = tau.read(folder, None, 5)
        counts = Counter(clip.split for clip in listing.clips)
        assert (counts["train"] + counts["val"], counts["test"]) == (13_965, 2_970)
        assert any("the five more files are in the audio and are used" in notice for notice in listing.notices)
        current = {clip.group for clip in of(tau.read(MICRO, None, 5), "val")}
        assert {clip.group for clip in of(listing, "val")} == current


class TestSubset:
    def write(self, folder: Path, name: str, names: list[str]) -> Path:
        path = folder / "evaluation_setup" / name
        path.write_text("filename\tscene_label\n" + "".join(f"audio/{n}\t{n.split('-')[0]}\n" for n in names))
        return path

    def test_named_split(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        whole = tau.read(folder, None, 5)
        learning = [clip.filename for clip in whole.clips if clip.split in ("train", "val")]
        self.write(folder, "split50.csv", learning[::2])
        half = tau.read(folder, "split50", 5)
        assert half.name == "tau-split50"
        assert half.subset == "split50"
        assert {clip.filename for clip in half.clips if clip.split in ("train", "val")} == set(learning[::2])
        assert of(half, "test") == of(whole, "test")
        assert {clip.filename for clip in of(half, "val")} == {c.filename for c in of(whole, "val")} & set(
            learning[::2]
        )
        assert any("subset split50.csv" in notice for notice in half.notices)

    @real
    @pytest.mark.slow
    def test_rows_that_the_published_subset_has_not(self, tmp_path: Path) -> None:
        for path in CSV_2022.glob("*.gz"):
            shutil.copy(path, tmp_path)
        names = [clip.filename for clip in of(tau.read(CSV_2022, None, 5), "train")][:100]
        (tmp_path / "split5.csv").write_text("filename\n" + "\n".join(f"audio/{name}" for name in names))
        notices = tau.read(tmp_path, "split5", 5).notices
        assert any("split5.csv has 100 rows, the published one 6,980" in notice for notice in notices)

    def test_missing_says_where_it_is_published(self, make_tau: Callable[..., Path]) -> None:
        with pytest.raises(UserError, match=r"no split5\.csv in .* get it from https://github\.com/CPJKU"):
            tau.read(make_tau(audio=False), "split5", 5)

    def test_unknown(self, make_tau: Callable[..., Path]) -> None:
        with pytest.raises(UserError, match=r"unknown subset 'split7'; did you mean 'split.*known: \['split10'"):
            tau.read(make_tau(audio=False), "split7", 5)

    def test_the_leak_trap(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        unused = of(tau.read(folder, None, 5), "unused")
        path = self.write(folder, "mine.csv", [clip.filename for clip in unused])
        with pytest.raises(UserError, match=r"names 57 clips of neither official fold, at places of the test fold"):
            tau.read(folder, str(path), 5)

    def test_part_of_test_is_said(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        whole = tau.read(folder, None, 5)
        names = [clip.filename for clip in whole.clips if clip.split != "unused"][:-1]
        listing = tau.read(folder, str(self.write(folder, "mine.csv", names)), 5)
        assert len(of(listing, "test")) == 71
        assert any("the test fold is the part of it that mine.csv names" in notice for notice in listing.notices)

    def test_names_of_the_2022_set(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        path = self.write(folder, "split5.csv", ["airport-lyon-0-0-3-a.wav"])
        with pytest.raises(UserError, match=r"names 1 clips that the data does not: .*the list is of the 2022 set"):
            tau.read(folder, str(path), 5)


class TestRepackedCopies:
    """What is unambiguous is read, and said."""

    def test_crlf_no_last_newline_and_commas(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        before = tau.read(folder, None, 5)
        for path in folder.rglob("*.csv"):
            path.write_bytes(path.read_bytes().strip().replace(b"\n", b"\r\n").replace(b"\t", b","))
        after = tau.read(folder, None, 5)
        assert after.clips == before.clips
        assert any("separated by commas" in notice for notice in after.notices)
        assert not any("separated by commas" in notice for notice in before.notices)

    @pytest.mark.parametrize("prefix", ["", "audio/audio/", "./audio/"])
    def test_prefix_in_the_lists(self, make_tau: Callable[..., Path], prefix: str) -> None:
        folder = make_tau()
        for path in folder.rglob("*.csv"):
            path.write_text(path.read_text().replace("audio/", prefix))
        listing = read_listing(folder)
        assert listing.clips[0].filename == "airport-lyon-0-0-a.wav"
        assert any("without the prefix audio/, or with it twice" in n for n in listing.notices) == (
            prefix != "./audio/"
        )
        assert len(open_dataset(str(folder)).splits.test) == 72

    @pytest.mark.parametrize("place", ["audio/audio", "."])
    def test_recordings_a_level_too_deep_or_too_high(self, make_tau: Callable[..., Path], place: str) -> None:
        folder = make_tau()
        shutil.move(folder / "audio", folder / "moved")
        target = folder / place
        target.mkdir(parents=True, exist_ok=True)
        for path in (folder / "moved").iterdir():
            shutil.move(path, target / path.name)
        dataset = open_dataset(str(folder))
        assert any("not in audio/; read from there" in notice for notice in dataset.notices)

    def test_without_meta(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        before = {clip.filename: clip for clip in tau.read(folder, None, 5).clips if clip.split != "unused"}
        (folder / "meta.csv").unlink()
        listing = tau.read(folder, None, 5)
        assert {clip.filename: clip for clip in listing.clips} == before
        assert any("meta.csv is missing" in notice for notice in listing.notices)

    @pytest.mark.parametrize("left", ["missing", "unlabelled"])
    def test_fold1_test_instead_of_fold1_evaluate(self, make_tau: Callable[..., Path], left: str) -> None:
        folder = make_tau(audio=False)
        before = tau.read(folder, None, 5)
        setup = folder / "evaluation_setup"
        if left == "missing":
            (setup / "fold1_evaluate.csv").unlink()
        else:
            shutil.copy(setup / "fold1_test.csv", setup / "fold1_evaluate.csv")
        listing = tau.read(folder, None, 5)
        assert listing.clips == before.clips
        assert any(
            "the test fold is fold1_test.csv with the labels of meta.csv" in notice for notice in listing.notices
        )


class TestWrongCopies:
    """What is ambiguous or leaks is an error that names the rule, the value and the fix."""

    def expect(self, folder: Path, message: str) -> None:
        with pytest.raises(UserError, match=message):
            open_dataset(str(folder))

    def test_archives_not_unpacked(self, tmp_path: Path) -> None:
        (tmp_path / "TAU-urban-acoustic-scenes-2020-mobile-development.meta.zip").write_bytes(b"PK")
        self.expect(tmp_path, r"1 zip archives lie there \(TAU-.*meta\.zip\): unpack them")

    def test_audio_archives_not_unpacked(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        (folder / "TAU-urban-acoustic-scenes-2020-mobile-development.audio.1.zip").write_bytes(b"PK")
        self.expect(folder, r"216 missing: .*1 zip archives lie beside the data, perhaps not unpacked")

    def test_no_audio_folder(self, make_tau: Callable[..., Path]) -> None:
        self.expect(make_tau(audio=False), r"there is no folder audio/ beside the lists: unpack the audio archives")

    def test_half_downloaded(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau()
        for clip in of(tau.read(folder, None, 5), "test"):
            (folder / "audio" / clip.filename).unlink()
        self.expect(folder, r"72 of 216 audio files cannot be used: 72 missing: .*only a part is there: a download")

    def test_folder_above(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        self.expect(folder.parent, rf"did you mean '{folder}'")

    def test_official_train_list_missing(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        (folder / "evaluation_setup" / "fold1_train.csv").unlink()
        self.expect(folder, r"lacks evaluation_setup/fold1_train\.csv, the official training fold: unpack the archive")

    def test_test_list_without_labels_or_meta(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        setup = folder / "evaluation_setup"
        (folder / "meta.csv").unlink()
        shutil.copy(setup / "fold1_test.csv", setup / "fold1_evaluate.csv")
        self.expect(folder, r"has no column 'scene_label': it is a copy of fold1_test\.csv, whose labels are left out")

    def test_lists_of_two_editions(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        other = write_2022_list(folder)
        self.expect(
            other, r"fold1_train\.csv names 144 files that meta\.csv does not: .*one is of 1 s clips, six name fields"
        )

    def test_three_class_lists_beside_ten_class_meta(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        path = folder / "evaluation_setup" / "fold1_train.csv"
        path.write_text(path.read_text().replace("\tairport", "\tindoor").replace("\tbus", "\ttransportation"))
        self.expect(
            folder, r"scenes that meta\.csv does not name: indoor, transportation: the lists of the 3-class set"
        )

    def test_three_class_set(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        for path in folder.rglob("*.csv"):
            text = path.read_text().replace("\tairport", "\tindoor").replace("\tbus", "\ttransportation")
            path.write_text(text.replace("\tpark", "\toutdoor"))
        self.expect(folder, r"the 3-class set \(DCASE 2020 Task 1B")

    def test_scene_that_meta_does_not_name(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        path = folder / "evaluation_setup" / "fold1_evaluate.csv"
        path.write_text(path.read_text().replace("\tbus", "\tbeach"))
        self.expect(folder, r"fold1_evaluate\.csv has scenes that meta\.csv does not name: beach; known: \['airport'")

    def test_lists_that_disagree(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        rewrite(
            folder / "evaluation_setup" / "fold1_train.csv",
            lambda rows: [rows[0], rows[1].replace("\tairport", "\tbus"), *rows[2:]],
        )
        self.expect(folder, r"fold1_train\.csv and meta\.csv disagree about the scene of 1 files")

    def test_file_in_both_folds(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        setup = folder / "evaluation_setup"
        rewrite(setup / "fold1_train.csv", lambda rows: [*rows, lines(setup / "fold1_evaluate.csv")[1]])
        self.expect(folder, r"1 files stand in both fold1_train\.csv and fold1_evaluate\.csv, a leak")

    def test_names_with_another_number_of_fields(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        (folder / "meta.csv").unlink()
        for path in folder.rglob("*.csv"):
            path.write_text(path.read_text().replace("-lyon-", "-"))
        self.expect(folder, r"has 4 fields between '-'; TAU's names have 5 \(10 s\) or 6 \(1 s\)")

    def test_file_named_twice(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        rewrite(folder / "meta.csv", lambda rows: [*rows, rows[1]])
        self.expect(folder, r"names 1 files more than once: airport-lyon-0-0-a\.wav; keep one row each")

    def test_column_missing(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        rewrite(folder / "meta.csv", lambda rows: [rows[0].replace("\tsource_label", ""), *rows[1:]])
        self.expect(folder, r"lacks the columns \['source_label'\]")

    def test_unreadable_folder(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        self.expect(tmp_path / "loop", r"no folder|cannot be read")

    def test_damaged_origin(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        (folder / tau.ORIGIN).write_text('{"name": "x"}')
        self.expect(folder, r"dataset\.json' is damaged \(KeyError: 'title'\): write the data out again")


class TestOrigin:
    @pytest.mark.parametrize("synthetic", [True, False])
    def test_written_out_data_is_never_called_tau(self, make_tau: Callable[..., Path], synthetic: bool) -> None:
        folder = make_tau()
        content = {"name": "esc10-recorders", "title": "ESC-10 with recorders", "source": "esc10"}
        content |= {"synthetic": synthetic, "simulated_recorders": True}
        (folder / tau.ORIGIN).write_text(json.dumps(content))
        dataset = open_dataset(str(folder))
        assert dataset.name == "esc10-recorders"
        assert dataset.synthetic == synthetic
        assert any("its recorders are simulated" in notice for notice in dataset.notices)
        assert any("recordings are synthetic" in notice for notice in dataset.notices) == synthetic
        assert not any("no official set" in notice for notice in dataset.notices)


class TestEvaluationSet:
    def write(self, folder: Path, n: int) -> Path:
        (folder / "evaluation_setup").mkdir(parents=True)
        names = "".join(f"audio/{number}.wav\n" for number in range(n))
        (folder / "evaluation_setup" / "fold1_test.csv").write_text(f"filename\n{names}")
        return folder

    def test_is_recognised_and_not_trained_on(self, tmp_path: Path) -> None:
        folder = self.write(tmp_path / "evaluation", 11_880)
        listing = read_listing(folder)
        assert listing.title == "TAU Urban Acoustic Scenes 2020 Mobile, evaluation"
        assert not listing.labelled
        assert [clip.filename for clip in listing.clips[:2]] == ["0.wav", "1.wav"]
        with pytest.raises(
            UserError, match=r"evaluation set without labels: nothing can be trained on it; python -m trainers\.predict"
        ):
            open_dataset(str(folder))

    def test_of_unknown_size(self, tmp_path: Path) -> None:
        assert read_listing(self.write(tmp_path / "mine", 7)).title == "an evaluation set of 7 clips"


def write_2022_list(folder: Path) -> Path:
    """The 2022 set's training list beside the 2020 set's others."""
    path = folder / "evaluation_setup" / "fold1_train.csv"
    path.write_text(
        "".join(f"{row}\n" for row in lines(path))
        .replace("-a.wav", "-0-a.wav")
        .replace("-b.wav", "-0-b.wav")
        .replace("-s1.wav", "-0-s1.wav")
    )
    return folder
