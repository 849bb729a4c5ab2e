"""Folders in ESC-50's layout: splits without leaks, and every kind of bad input named before any training."""

from __future__ import annotations

import csv
import errno
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from search_space.errors import UserError
from trainers.audio import MISSING, NO_RIGHTS, scan
from trainers.datasets import BadAudio, open_dataset

SHARED = Path(__file__).parents[2] / "shared" / "data"
RATE = 16_000


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "meta" / "esc50.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "meta" / "esc50.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def tone(seconds: float = 1.0, rate: int = RATE) -> np.ndarray:
    return 0.1 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


class TestSplits:
    def test_default_is_test_fold_5_and_val_fold_4(self, tiny_folder: Path) -> None:
        dataset = open_dataset(str(tiny_folder))
        folds = {split: {c.fold for c in dataset.clips if c.split == split} for split in ("train", "val", "test")}
        assert folds == {"train": {1, 2, 3}, "val": {4}, "test": {5}}
        assert dataset.classes == ("high", "low", "noise")
        assert dataset.sample_rate == RATE
        assert dataset.duration_s == 1.0
        assert not dataset.synthetic

    @pytest.mark.parametrize("fold", [1, 2, 3, 4, 5])
    def test_rotation_keeps_sources_apart(self, tiny_folder: Path, fold: int) -> None:
        dataset = open_dataset(str(tiny_folder), fold=fold)
        assert {clip.fold for clip in dataset.clips if clip.split == "test"} == {fold}
        assert {clip.fold for clip in dataset.clips if clip.split == "val"} == {fold - 1 or 5}
        of_group: dict[str, set[str]] = {}
        for clip in dataset.clips:
            of_group.setdefault(clip.group, set()).add(clip.split)
        assert all(len(splits) == 1 for splits in of_group.values())

    def test_rows_are_partitioned(self, tiny_folder: Path) -> None:
        dataset = open_dataset(str(tiny_folder))
        rows = np.concatenate([dataset.splits.train, dataset.splits.val, dataset.splits.test])
        assert sorted(rows) == list(range(len(dataset.clips)))
        assert [dataset.classes[k] for k in dataset.labels] == [clip.scene for clip in dataset.clips]

    @pytest.mark.parametrize(("fold", "unused"), [(5, 1), (4, 1), (2, 0)])
    def test_straddling_source_leaves_the_official_test_fold_whole(
        self, make_folder: Callable[..., Path], fold: int, unused: int
    ) -> None:
        folder = make_folder()
        rows = read_rows(folder)
        of_fold_4, of_fold_5 = (next(row for row in rows if row["fold"] == number) for number in ("4", "5"))
        of_fold_4["src_file"] = of_fold_5["src_file"]
        write_rows(folder, rows)
        dataset = open_dataset(str(folder), fold=fold)
        assert sum(clip.split == "unused" for clip in dataset.clips) == unused
        assert len(dataset.splits.test) == 9
        assert any(of_fold_5["src_file"] in notice for notice in dataset.notices) == bool(unused)

    @pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not here")
    def test_real_esc_counts(self) -> None:
        esc10, esc50 = open_dataset(str(SHARED / "esc10")), open_dataset(str(SHARED / "esc50"))
        assert (esc10.name, len(esc10.classes), esc10.sample_rate, esc10.duration_s) == (
            "esc10",
            10,
            44_100,
            5,
        )
        assert [len(s) for s in (esc10.splits.train, esc10.splits.val, esc10.splits.test)] == [238, 80, 80]
        assert (esc50.name, len(esc50.classes), esc50.sample_rate, esc50.duration_s) == (
            "esc50",
            50,
            16_000,
            5,
        )
        assert [len(s) for s in (esc50.splits.train, esc50.splits.val, esc50.splits.test)] == [1200, 398, 400]
        assert any("209698" in notice and "234879" in notice for notice in esc50.notices)


class TestSubset:
    def test_esc10(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        write_rows(folder, [row | {"esc10": str(row["category"] != "noise")} for row in read_rows(folder)])
        dataset = open_dataset(str(folder), subset="esc10")
        assert dataset.name == "esc10"
        assert dataset.classes == ("high", "low")

    def test_csv_keeps_the_named_rows(self, tiny_folder: Path, tmp_path: Path) -> None:
        names = [row["filename"] for row in read_rows(tiny_folder) if row["category"] != "noise"]
        (tmp_path / "part.csv").write_text("filename\n" + "\n".join(names))
        dataset = open_dataset(str(tiny_folder), subset=str(tmp_path / "part.csv"))
        assert [clip.filename for clip in dataset.clips] == names
        assert dataset.name == f"{tiny_folder.name}-part"

    def test_csv_with_strangers(self, tiny_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "part.csv").write_text("filename\nnobody.wav\n")
        with pytest.raises(UserError, match=r"1 clips that meta/esc50.csv does not: nobody\.wav"):
            open_dataset(str(tiny_folder), subset=str(tmp_path / "part.csv"))

    def test_unknown(self, tiny_folder: Path) -> None:
        with pytest.raises(UserError, match=r"unknown subset 'esc11'; .*known: \['esc10'\], or the path of a csv"):
            open_dataset(str(tiny_folder), subset="esc11")

    def test_esc10_without_such_rows(self, tiny_folder: Path) -> None:
        with pytest.raises(UserError, match=r"no row of meta/esc50\.csv has True in a column 'esc10'"):
            open_dataset(str(tiny_folder), subset="esc10")

    def test_synthetic_has_neither_subset_nor_folds(self) -> None:
        with pytest.raises(UserError, match="leave --subset out"):
            open_dataset("synthetic", subset="esc10")
        with pytest.raises(UserError, match="leave --fold out"):
            open_dataset("synthetic", fold=1)


class TestWhichData:
    def test_environment_variable(self, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DSSDN_DATA", str(tiny_folder))
        dataset = open_dataset()
        assert dataset.name == tiny_folder.name
        assert "from DSSDN_DATA" in dataset.notices[0]

    def test_synthetic_when_nothing_is_named(self) -> None:
        dataset = open_dataset()
        assert dataset.synthetic
        assert "neither --data nor DSSDN_DATA" in dataset.notices[0]

    def test_torch_is_not_imported(self) -> None:
        code = "import sys; from trainers.datasets import open_dataset; open_dataset('synthetic'); assert 'torch' not in sys.modules"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def a_file_for_a_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def no_csv(folder: Path) -> None:
    (folder / "meta" / "esc50.csv").unlink()


def one_level_too_deep(folder: Path) -> None:
    (folder / "ESC-50-master").mkdir()
    for name in ("meta", "audio"):
        (folder / name).rename(folder / "ESC-50-master" / name)


def no_audio_folder(folder: Path) -> None:
    shutil.rmtree(folder / "audio")


def semicolons(folder: Path) -> None:
    path = folder / "meta" / "esc50.csv"
    path.write_text(path.read_text().replace(",", ";"))


def renamed_column(folder: Path) -> None:
    write_rows(
        folder,
        [{("label" if k == "category" else k): v for k, v in row.items()} for row in read_rows(folder)],
    )


def not_text(folder: Path) -> None:
    (folder / "meta" / "esc50.csv").write_bytes(b"PK\x03\x04\xff\xfe\x00")


def empty_csv(folder: Path) -> None:
    (folder / "meta" / "esc50.csv").write_text("")


def header_only(folder: Path) -> None:
    path = folder / "meta" / "esc50.csv"
    path.write_text(path.read_text().splitlines()[0])


def empty_cell(folder: Path) -> None:
    rows = read_rows(folder)
    rows[2]["src_file"] = ""
    write_rows(folder, rows)


def fold_in_words(folder: Path) -> None:
    write_rows(folder, [row | {"fold": "one"} for row in read_rows(folder)])


def paths_for_names(folder: Path) -> None:
    write_rows(folder, [row | {"filename": "../" + row["filename"]} for row in read_rows(folder)])


def named_twice(folder: Path) -> None:
    rows = read_rows(folder)
    write_rows(folder, [*rows, rows[0]])


def one_class(folder: Path) -> None:
    write_rows(folder, [row for row in read_rows(folder) if row["category"] == "low"])


def two_folds(folder: Path) -> None:
    write_rows(folder, [row for row in read_rows(folder) if row["fold"] in "45"])


def no_fold_5(folder: Path) -> None:
    write_rows(folder, [row for row in read_rows(folder) if row["fold"] != "5"])


def class_missing_in_val(folder: Path) -> None:
    write_rows(folder, [row for row in read_rows(folder) if (row["fold"], row["category"]) != ("4", "low")])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_folder, r"no folder '.*esc'.*known names: \['synthetic'\]"),
        (a_file_for_a_folder, "is a file; --data takes a folder or a csv"),
        (no_csv, r"is not a data folder: expected ESC-50's layout \(meta/esc50.csv, audio/\).*found audio, meta"),
        (one_level_too_deep, r"did you mean '.*ESC-50-master'\?"),
        (no_audio_folder, r"no folder '.*audio'.*unpack the audio there"),
        (
            semicolons,
            r"lacks the columns \['filename', 'fold', 'category', 'src_file'\]; its first line names \['filename;fold",
        ),
        (renamed_column, r"lacks the columns \['category'\].*'label'"),
        (not_text, r"is not UTF-8 text \(byte 4\)"),
        (empty_csv, r"lacks the columns .* its first line names \[\]"),
        (header_only, "has a header and no rows"),
        (empty_cell, "row 4: no 'src_file'"),
        (fold_in_words, "row 2: fold 'one' is not a whole number"),
        (paths_for_names, r"row 2: filename '\.\./.*' is not a plain name"),
        (named_twice, "names 1 files more than once"),
        (one_class, r"one class only \('low'\)"),
        (two_folds, r"folds \[4, 5\]: .* at least three folds"),
        (no_fold_5, r"fold 5 is not in the data; known: \[1, 2, 3, 4\]"),
        (class_missing_in_val, r"too few clips to split: val has none of 1 of the 3 classes \(low\)"),
    ],
)
def test_bad_folder(make_folder: Callable[..., Path], spoil: Callable[[Path], None], message: str) -> None:
    folder = make_folder()
    spoil(folder)
    with pytest.raises(UserError, match=message):
        open_dataset(str(folder))


def delete(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def blank(path: Path) -> None:
    path.write_bytes(b"")


def no_frames(path: Path) -> None:
    soundfile.write(path, np.zeros(0), RATE)


def words(path: Path) -> None:
    path.write_text("404: not found")


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (delete, r"2 missing: .*\(only a part is there: a download or an unpacking"),
        (cut, "2 truncated"),
        (blank, "2 empty"),
        (no_frames, "2 empty"),
        (words, "2 not readable as audio"),
    ],
)
def test_bad_files_are_named_together(
    make_folder: Callable[..., Path], spoil: Callable[[Path], None], fault: str
) -> None:
    folder = make_folder()
    names = [row["filename"] for row in read_rows(folder)]
    for name in (names[3], names[40]):
        spoil(folder / "audio" / name)
    with pytest.raises(UserError, match=rf"2 of 45 audio files cannot be used: {fault}") as error:
        open_dataset(str(folder))
    assert names[3] in str(error.value)
    assert names[40] in str(error.value)
    assert "--subset" in str(error.value)


def close_to_us(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    """The system refuses what lies below a place, as it refuses it to people without rights; root has them all."""

    def refusing(function: Callable[..., Any]) -> Callable[..., Any]:
        def asked(path: Any, *arguments: Any, **options: Any) -> Any:
            if isinstance(path, str | os.PathLike) and place in Path(os.fspath(path)).parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return function(path, *arguments, **options)

        return asked

    monkeypatch.setattr(os, "stat", refusing(os.stat))
    monkeypatch.setattr(io, "open", refusing(io.open))


class TestRights:
    def test_files_without_rights_are_named_with_what_to_do(
        self, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = make_folder()
        dataset = open_dataset(str(folder))
        with monkeypatch.context() as patch:
            close_to_us(patch, folder / "audio")
            with pytest.raises(
                UserError, match=r"45 of 45 audio files .* 45 not readable for lack of rights: .*chmod -R u\+rX"
            ) as error:
                open_dataset(str(folder))
            assert "Copy or download" not in str(error.value)
            with pytest.raises(BadAudio, match="not readable for lack of rights"):
                dataset.load(dataset.clips[0])
            closed = dataset.row_keys()
        assert not set(closed) & set(dataset.row_keys())
        assert open_dataset(str(folder)).clips == dataset.clips

    def test_only_what_is_closed_needs_rights(
        self, make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = make_folder()
        rows = read_rows(folder)
        (folder / "audio" / "closed").mkdir()
        for row in rows[:2]:
            (folder / "audio" / row["filename"]).rename(folder / "audio" / "closed" / row["filename"])
        names = [row["filename"] for row in rows]
        with monkeypatch.context() as patch:
            close_to_us(patch, folder / "audio" / "closed")
            paths = [f"closed/{name}" for name in names[:2]]
            scanned = scan(folder / "audio", [*paths, *names[2:], "nobody.wav"])
        assert [(problem.filename, problem.fault) for problem in scanned.problems] == [
            *((path, NO_RIGHTS) for path in paths),
            ("nobody.wav", MISSING),
        ]
        assert list(scanned.filenames) == names[2:]


@pytest.mark.parametrize("keep", [0.3, 0.6, 0.99])
def test_cut_ogg_is_no_short_recording(make_folder: Callable[..., Path], keep: float) -> None:
    folder = make_folder()
    rows = read_rows(folder)
    path = folder / "audio" / "long.ogg"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 20 * RATE), RATE)
    write_rows(folder, [rows[0] | {"filename": path.name}, *rows[1:]])
    open_dataset(str(folder))
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(UserError, match=r"1 truncated .*long\.ogg"):
        open_dataset(str(folder))


class TestLoad:
    def test_mono_is_the_mean_of_the_channels(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        dataset = open_dataset(str(folder))
        soundfile.write(folder / "audio" / dataset.clips[0].filename, np.stack([tone(), np.zeros(RATE)], 1), RATE)
        waveform_N, rate, _ = dataset.load(dataset.clips[0])
        assert (waveform_N.shape, waveform_N.dtype, rate) == ((RATE,), np.float32, RATE)
        np.testing.assert_allclose(waveform_N, tone() / 2, atol=1e-4)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_not_finite(self, make_folder: Callable[..., Path], value: float) -> None:
        folder = make_folder()
        dataset = open_dataset(str(folder))
        samples = tone()
        samples[7] = value
        soundfile.write(folder / "audio" / dataset.clips[0].filename, samples, RATE, subtype="FLOAT")
        with pytest.raises(BadAudio, match="NaN or infinite"):
            dataset.load(dataset.clips[0])

    def test_cut_flac_is_found_by_decoding(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        rows = read_rows(folder)
        path = folder / "audio" / "noise.flac"
        soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
        path.write_bytes(path.read_bytes()[:-4000])
        write_rows(folder, [rows[0] | {"filename": path.name}, *rows[1:]])
        dataset = open_dataset(str(folder))
        with pytest.raises(BadAudio, match="truncated"):
            dataset.load(dataset.clips[0])


class TestNotices:
    def test_rates_that_differ(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        soundfile.write(folder / "audio" / read_rows(folder)[0]["filename"], tone(rate=48_000), 48_000)
        dataset = open_dataset(str(folder))
        assert dataset.sample_rate == RATE
        assert "files are resampled to 16,000 Hz (44 at 16,000 Hz, 1 at 48,000 Hz)" in dataset.notices

    @pytest.mark.parametrize(("n_slow", "rate"), [(2, RATE), (3, 8_000)])
    def test_a_few_slow_files_do_not_take_the_high_end_from_all(
        self, make_folder: Callable[..., Path], n_slow: int, rate: int
    ) -> None:
        folder = make_folder()
        names = sorted(row["filename"] for row in read_rows(folder))[:n_slow]  # 2 of 45 are fewer than 5 %
        for name in names:
            soundfile.write(folder / "audio" / name, tone(rate=8_000), 8_000)
        dataset = open_dataset(str(folder))
        assert dataset.sample_rate == rate
        said = [notice for notice in dataset.notices if "sampled below" in notice]
        assert len(said) == (rate == RATE)
        assert all(", ".join(names) in notice and "nothing above 4,000 Hz" in notice for notice in said)
        assert (
            f"files are resampled to {rate:,} Hz ({n_slow} at 8,000 Hz, {45 - n_slow} at 16,000 Hz)" in dataset.notices
        )

    def test_rates_above_the_papers_count_as_it(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        for number, row in enumerate(read_rows(folder)):
            rate = 8_000 if number == 7 else 44_100 if number % 2 else 48_000
            soundfile.write(folder / "audio" / row["filename"], tone(rate=rate), rate)
        assert open_dataset(str(folder)).sample_rate == 44_100

    def test_lengths_that_differ(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        for row, seconds in zip(read_rows(folder), (0.5, 1.4, 1.02), strict=False):
            soundfile.write(folder / "audio" / row["filename"], tone(seconds), RATE)
        dataset = open_dataset(str(folder))
        assert dataset.duration_s == 1.0
        assert any("1 padded with zeros, 1 trimmed (0.50 to 1.40 s)" in notice for notice in dataset.notices)

    def test_nothing_above_half_the_rate(self, tiny_folder: Path) -> None:
        assert any("nothing above 8,000 Hz" in notice for notice in open_dataset(str(tiny_folder)).notices)


class TestIdentity:
    def test_row_key_sees_a_file_replaced_under_the_same_size_and_date(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        dataset = open_dataset(str(folder))
        before, path = dataset.row_keys(), folder / "audio" / dataset.clips[0].filename
        stat = path.stat()
        soundfile.write(path, tone(), RATE)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
        after = dataset.row_keys()
        assert after[0] != before[0]
        assert after[1:] == before[1:]

    def test_row_keys_do_not_hang_on_the_fold(self, tiny_folder: Path) -> None:
        assert len({tuple(open_dataset(str(tiny_folder), fold=fold).row_keys()) for fold in (1, 3, 5)}) == 1

    def test_digest_is_of_the_content(self, tiny_folder: Path, tmp_path: Path) -> None:
        here = open_dataset(str(tiny_folder))
        there = open_dataset(str(shutil.copytree(tiny_folder, tmp_path / "copy")))
        digests = [here.load(clip).digest for clip in here.clips]
        assert digests == [there.load(clip).digest for clip in there.clips]
        assert len(set(digests)) == len(here.clips)
