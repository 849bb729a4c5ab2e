"""Lists as people write them, and groups shared out so that no split leaks."""

from __future__ import annotations

import gzip
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search_space.errors import UserError
from trainers.clips import (
    SPLITS,
    Clip,
    Listing,
    carve,
    check_splits,
    check_unique,
    first,
    read_rows,
    share_out,
    write_rows,
)


class TestShareOut:
    def draw(self, seed: int = 0, n: int = 2_000) -> tuple[list[str], list[str]]:
        rng = np.random.default_rng(seed)
        groups = [f"place {number}" for number in rng.integers(0, 100, n)]
        strata = [f"{group[-1]} {recorder}" for group, recorder in zip(groups, rng.choice(list("abc"), n), strict=True)]
        return groups, strata

    def test_groups_stay_whole(self) -> None:
        groups, strata = self.draw()
        part_of = share_out(groups, strata, 5)
        of_group: dict[str, set[int]] = {}
        for group, part in zip(groups, part_of.tolist(), strict=True):
            of_group.setdefault(group, set()).add(part)
        assert all(len(parts) == 1 for parts in of_group.values())
        assert set(part_of.tolist()) == set(range(5))

    def test_strata_are_shared_evenly(self) -> None:
        """Every stratum in every part between half and one and a half of its fifth, with ten groups a kind."""
        groups, strata = self.draw()
        part_of = share_out(groups, strata, 5)
        total, parts = Counter(strata), Counter(zip(strata, part_of.tolist(), strict=True))
        shares = [parts[stratum, part] / total[stratum] for stratum in total for part in range(5)]
        assert min(shares) > 0.1
        assert max(shares) < 0.3

    def test_single_clips_are_shared_exactly(self) -> None:
        groups = [str(number) for number in range(100)]
        part_of = share_out(groups, ["x", "y"] * 50, 5)
        assert Counter(zip(["x", "y"] * 50, part_of.tolist(), strict=True)) == {
            (stratum, part): 10 for stratum in "xy" for part in range(5)
        }

    def test_order_of_clips_does_not_matter(self) -> None:
        groups, strata = self.draw()
        before = dict(zip(groups, share_out(groups, strata, 5).tolist(), strict=True))
        order = np.random.default_rng(1).permutation(len(groups))
        shuffled = [groups[i] for i in order]
        after = dict(zip(shuffled, share_out(shuffled, [strata[i] for i in order], 5).tolist(), strict=True))
        assert after == before

    def test_a_clip_may_be_in_several_strata(self) -> None:
        groups = [str(number) for number in range(80)]
        pairs = [(f"scene {n % 2}", f"city {n % 4}") for n in range(80)]
        part_of = share_out(groups, pairs, 4)
        for k in (0, 1):
            counts = Counter((pair[k], part) for pair, part in zip(pairs, part_of.tolist(), strict=True))
            assert max(counts.values()) - min(counts.values()) <= 1

    def test_carve_takes_whole_groups_of_about_the_share(self) -> None:
        groups, strata = self.draw()
        taken = carve(groups, strata, 7)
        inside = {group for group, is_in in zip(groups, taken, strict=True) if is_in}
        outside = {group for group, is_in in zip(groups, taken, strict=True) if not is_in}
        assert not inside & outside
        assert 1 / 9 < taken.mean() < 1 / 5


class TestReadRows:
    @pytest.mark.parametrize("separator", [",", "\t"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    @pytest.mark.parametrize("last", [True, False])
    @pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
    def test_forms(self, tmp_path: Path, separator: str, end: str, last: bool, mark: bytes) -> None:
        text = end.join(separator.join(row) for row in (("filename", "label"), ("a.wav", "x"), ("b.wav", "y")))
        path = tmp_path / "list.csv"
        path.write_bytes(mark + (text + end * last).encode())
        expected = [{"filename": "a.wav", "label": "x"}, {"filename": "b.wav", "label": "y"}]
        assert read_rows(path, ("filename", "label")) == expected
        packed = tmp_path / "list.csv.gz"
        packed.write_bytes(gzip.compress(path.read_bytes()))
        assert read_rows(packed, ("filename", "label")) == expected

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"filename,label\n", "has a header and no rows"),
            (b"file,label\na,b\n", r"lacks the columns \['filename'\]; its first line names \['file', 'label'\]"),
            (b"filename,label\na.wav,\n", r"row 2: no 'label'"),
            (b"filename,label\n\xff\xfe,x\n", r"is not UTF-8 text \(byte 15\)"),
        ],
    )
    def test_bad(self, tmp_path: Path, content: bytes, message: str) -> None:
        (tmp_path / "list.csv").write_bytes(content)
        with pytest.raises(UserError, match=message):
            read_rows(tmp_path / "list.csv", ("filename", "label"))

    def test_torn_gzip(self, tmp_path: Path) -> None:
        (tmp_path / "list.csv.gz").write_bytes(gzip.compress(b"filename,label\n" * 100)[:-10])
        with pytest.raises(UserError, match="cannot be read"):
            read_rows(tmp_path / "list.csv.gz", ("filename",))

    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        rows = [("a\tb.wav", 'say "x"'), ("c, d.wav", "ü")]
        write_rows(tmp_path / "deep" / "list.csv", ("filename", "label"), rows)
        assert [tuple(row.values()) for row in read_rows(tmp_path / "deep" / "list.csv", ("filename",))] == rows
        assert (tmp_path / "deep" / "list.csv").read_bytes().startswith(b"filename\tlabel\n")

    def test_twice(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"names 1 files more than once: a; keep one row each"):
            check_unique(tmp_path / "list.csv", ["a", "b", "a"])


def test_one_class_is_no_classifier() -> None:
    with pytest.raises(UserError, match="one class only"):
        check_splits(listing_of([Clip("a.wav", "bus", "a", "train")]))


@pytest.mark.parametrize(("fold", "fix"), [(None, "add clips$"), (2, "add clips or choose another --fold$")])
def test_a_split_without_a_class(fold: int | None, fix: str) -> None:
    clips = [Clip(f"{c}-{s}", c, f"{c}-{s}", s, fold) for c in ("bus", "park") for s in SPLITS]
    check_splits(listing_of(clips))
    without = [replace(clip, split="unused") if clip.filename == "park-val" else clip for clip in clips]
    with pytest.raises(UserError, match=rf"val has none of 1 of the 2 classes \(park\); .*{fix}"):
        check_splits(listing_of(without))


def listing_of(clips: list[Clip]) -> Listing:
    return Listing("x", "x", Path("x"), None, Path("x"), tuple(clips), ())


def test_first() -> None:
    assert first(list("abc"), 2) == "a, b and 1 more"
    assert first(list("ab"), 2) == "a, b"
