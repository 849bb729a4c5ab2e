"""`python -m trainers.data check`: what a folder is, what is missing, what is broken."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from search_space.errors import UserError
from trainers import data
from trainers.datasets import read_listing

SHARED = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not here")


class TestOfficialMetadata:
    @real
    def test_2020_with_19_of_its_recordings(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert data.main(["check", str(SHARED / "tau2020-micro")]) == 1
        said = capsys.readouterr().out
        for text in ("23,035", "13,962", "2,968", "10,215", "14,400", "6,105", "1,969", "11,993"):
            assert text in said
        assert "missing: 23,016 of 23,035 files, 16,9" in said
        assert (
            "likely cause: only a part is there: a download or an unpacking of the audio archives has not finished"
            in said
        )
        assert "TAU Urban Acoustic Scenes 2020 Mobile, development" in said
        assert "not usable as it is" in said

    @real
    def test_2020_as_json(self, capsys: pytest.CaptureFixture[str]) -> None:
        data.main(["check", str(SHARED / "tau2020-micro"), "--json", "--deep"])
        report = json.loads(capsys.readouterr().out)
        counts = report["counts"]
        assert [counts[part]["clips"] for part in ("train + val", "test", "unused", "all")] == [
            13_962,
            2_968,
            6_105,
            23_035,
        ]
        assert counts["train + val"]["recorder"] == {"a": 10_215, "b": 749, "c": 748, "s1": 750, "s2": 750, "s3": 750}
        assert (counts["train + val"]["groups"], counts["test"]["groups"]) == (365, 146)
        assert counts["train + val"]["scene"]["airport"] == 1_393
        assert counts["test"]["scene"]["tram"] == 296
        assert report["missing"]["count"] == 23_016
        assert len(report["missing"]["first"]) == 5
        assert report["broken"] == {}
        assert report["format"]["sample_rate"] == 44_100
        assert report["format"]["input"] == [431, 256]

    @real
    @pytest.mark.slow
    def test_2022(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Unpacked into the published layout, as its archive has it; no recording is there."""
        (tmp_path / "evaluation_setup").mkdir()
        for path in (SHARED / "tau2022-csv").glob("*.csv.gz"):
            name = path.name.removesuffix(".gz")
            place = tmp_path if name == "meta.csv" else tmp_path / "evaluation_setup"
            (place / name).write_bytes(gzip.decompress(path.read_bytes()))
        assert data.main(["check", str(tmp_path)]) == 1
        said = capsys.readouterr().out
        for text in ("230,350", "139,620", "29,680", "102,150", "19,690"):
            assert text in said
        assert "missing: 230,350 of 230,350 files" in said
        assert "there is no folder audio/ beside the lists" in said


class TestOwnFolders:
    def test_whole(self, make_tau: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
        assert data.main(["check", str(make_tau()), "--deep"]) == 0
        said = capsys.readouterr().out
        assert "ready to train on (every file decoded)" in said
        assert "missing" not in said

    def test_counts_are_the_dataset_s(self, tiny_folder: Path) -> None:
        counts = data.check(tiny_folder)["counts"]
        assert [counts[split]["clips"] for split in ("train", "val", "test", "all")] == [27, 9, 9, 45]
        assert counts["test"]["scene"] == {"high": 3, "low": 3, "noise": 3}

    def test_broken_files_by_fault(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau()
        used = [clip.filename for clip in read_listing(folder).clips if clip.split == "train"]
        audio = folder / "audio"
        (audio / used[0]).write_bytes(b"")
        (audio / used[1]).write_bytes((audio / used[1]).read_bytes()[:2000])
        (audio / used[2]).write_bytes(b"no audio at all")
        soundfile.write(audio / used[3], np.full(16_000, np.nan, dtype=np.float32), 16_000, subtype="FLOAT")
        (audio / used[4]).unlink()
        shallow = data.check(folder)
        assert sorted(fault["count"] for fault in shallow["broken"].values()) == [1, 1, 1]
        assert (shallow["missing"]["count"], shallow["missing"]["used"]) == (1, 1)
        assert not shallow["usable"]
        deep = data.check(folder, deep=True)
        assert deep["broken"]["with NaN or infinite samples"] == {"count": 1, "first": [used[3]]}

    def test_what_no_split_needs_may_be_missing(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau()
        unused = next(clip for clip in read_listing(folder).clips if clip.split == "unused")
        (folder / "audio" / unused.filename).unlink()
        report = data.check(folder)
        assert (report["missing"]["count"], report["missing"]["used"], report["usable"]) == (1, 0, True)

    def test_too_few_clips_to_split(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder(clips_per_fold=1)
        path = folder / "meta" / "esc50.csv"
        rows = [row for row in path.read_text().splitlines() if not (row.startswith("5-") and ",noise," in row)]
        path.write_text("\n".join(rows))
        report = data.check(folder)
        assert "test has none of 1 of the 3 classes" in report["unsplit"]
        assert not report["usable"]

    def test_evaluation_set(self, make_tau: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
        folder = make_tau()
        for name in ("fold1_train.csv", "fold1_evaluate.csv"):
            (folder / "evaluation_setup" / name).unlink()
        (folder / "meta.csv").unlink()
        assert data.main(["check", str(folder)]) == 0
        said = capsys.readouterr().out
        assert "an evaluation set without labels: for prediction only" in said
        assert "ready to predict" in said

    def test_synthetic_data_is_no_folder(self) -> None:
        with pytest.raises(UserError, match="generated as it is read: there is nothing to check"):
            data.main(["check", "synthetic"])

    def test_the_folder_of_the_lists(self, make_tau: Callable[..., Path]) -> None:
        folder = make_tau(audio=False)
        with pytest.raises(UserError, match=rf"did you mean '{folder}'"):
            data.check(folder / "evaluation_setup")

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no folder"):
            data.main(["check", str(tmp_path / "nowhere")])


def test_names_are_printed_as_they_are(make_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    """Rich would take a part of these for markup."""
    folder = make_folder()
    place = folder.parent / "data [" / "red] [bold]"
    place.parent.mkdir()
    folder.rename(place)
    sound = next((place / "audio").iterdir())
    sound.write_bytes(b"no sound")
    assert data.main(["check", str(place)]) == 1
    assert f"in {place}" in capsys.readouterr().out
