"""From log-mels to tensors: the size, the splits that are read, the statistics, the stratified subset."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from search_space.architecture import Architecture
from search_space.errors import UserError
from trainers.config import short
from trainers.datasets import Clip, open_dataset
from trainers.features import prepare
from trainers.inputs import Inputs, Split, Stored, load_inputs, stratified_subset
from trainers.loop import predict, train

CPU = torch.device("cpu")


def whole(split: Split) -> torch.Tensor:
    """All log-mels of a split, (N, T, F)."""
    return split.batch(torch.arange(len(split)), CPU)


def _clips() -> list[Clip]:
    """200 clips of two scenes, recorder a nine times as often as b, ten locations each."""
    return [
        Clip(
            filename=f"{i}.wav",
            scene=("bus", "tram")[i % 2],
            group=f"place-{i // 20}",
            recorder="b" if i % 20 in (0, 1) else "a",
            city="",
            location="",
            fold=None,
            split="train",
        )
        for i in range(200)
    ]


@pytest.mark.parametrize("count", [20, 50, 137])
def test_a_subset_keeps_the_shares_of_scenes_recorders_and_locations(count: int) -> None:
    clips = _clips()
    kept = stratified_subset(clips, count)
    assert len(set(kept.tolist())) == count
    assert kept.tolist() == sorted(kept.tolist())
    for share, counted in (
        (0.5, Counter(clips[i].scene for i in kept)["bus"]),
        (0.1, Counter(clips[i].recorder for i in kept)["b"]),
    ):
        assert abs(counted - share * count) <= 2
    places = Counter(clips[i].group for i in kept)
    assert max(places.values()) - min(places.values()) <= 4


def test_a_subset_is_always_the_same() -> None:
    assert stratified_subset(_clips(), 40).tolist() == stratified_subset(_clips(), 40).tolist()


def test_inputs_at_full_and_at_smaller_size(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    features = prepare(dataset)
    full = load_inputs(dataset, features)
    small = load_inputs(dataset, features, size=(11, 64))
    assert full.size == features.size == (44, 256)
    assert small.size == (11, 64)
    first = int(dataset.splits.train[0])
    pooled = features.read(first)[0].astype(np.float32).reshape(11, 4, 64, 4).mean((1, 3))
    np.testing.assert_allclose(whole(small.splits["train"])[0].float().numpy(), pooled, atol=0.01)


def test_statistics_are_of_train_alone(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    inputs = load_inputs(dataset, prepare(dataset))
    normal = inputs.normalise(whole(inputs.splits["train"]))
    torch.testing.assert_close(normal.mean((0, 1)), torch.zeros(256), atol=2e-3, rtol=0)
    torch.testing.assert_close(normal.std((0, 1)), torch.ones(256), atol=5e-3, rtol=0)
    assert not torch.allclose(inputs.normalise(whole(inputs.splits["val"])).mean((0, 1)), torch.zeros(256), atol=2e-3)


def test_a_search_never_holds_the_test_split(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    inputs = load_inputs(dataset, prepare(dataset))
    assert set(inputs.splits) == {"train", "val"}
    test = {dataset.clips[i].filename for i in dataset.splits.test}
    assert not test & {clip.filename for split in inputs.splits.values() for clip in split.clips}


def test_a_size_larger_than_the_logmel_is_refused(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    with pytest.raises(UserError, match="at most the full log-mel, 44x256"):
        load_inputs(dataset, prepare(dataset), size=(45, 64))


@pytest.mark.parametrize("size", [(44, 256), (11, 64), (14, 50)])
@pytest.mark.parametrize("train_clips", [None, 20])
def test_from_the_disk_come_the_same_numbers_as_from_memory(
    tiny_folder: Path, size: tuple[int, int], train_clips: int | None
) -> None:
    dataset = open_dataset(str(tiny_folder))
    features = prepare(dataset)
    memory = load_inputs(dataset, features, size=size, train_clips=train_clips)
    disk = load_inputs(dataset, features, size=size, train_clips=train_clips, share=0)
    assert torch.equal(memory.mean_F, disk.mean_F)
    assert torch.equal(memory.std_F, disk.std_F)
    assert memory.size == disk.size == size
    for name in ("train", "val"):
        held, mapped = memory.splits[name], disk.splits[name]
        assert isinstance(held.logmel_NTF, torch.Tensor)
        assert isinstance(mapped.logmel_NTF, Stored)
        assert torch.equal(whole(held), whole(mapped))
        some = torch.tensor([5, 0, 3, 3])
        assert torch.equal(mapped.batch(some, CPU), whole(held)[some])
        assert held.clips == mapped.clips
        assert torch.equal(held.labels_N, mapped.labels_N)


def test_training_from_the_disk_gives_the_same_weights(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    features = prepare(dataset)
    tiny = Architecture.parse("dssdn_c8-12-16_r0.5_sc_h16")
    weights, said = [], []
    for share in (0.5, 0):
        inputs = load_inputs(dataset, features, size=(16, 16), share=share)
        model = train(tiny, inputs, short(), 60, 0, CPU)
        weights.append(model.state_dict())
        said.append(predict(model, inputs, "val", CPU)[0])
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    np.testing.assert_array_equal(*said)


def test_only_the_rows_of_the_subset_are_read(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    features = prepare(dataset)
    part = load_inputs(dataset, features, train_clips=20).splits["train"]
    index = [dataset.clips.index(clip) for clip in part.clips]
    np.testing.assert_array_equal(whole(part).numpy(), features.read(index))
    assert len(part) == 20


def test_the_first_clips_of_a_split(tiny_folder: Path) -> None:
    dataset = open_dataset(str(tiny_folder))
    features = prepare(dataset)
    for share in (0.5, 0):
        val = load_inputs(dataset, features, share=share).splits["val"]
        few = val.first(4)
        assert few.clips == val.clips[:4]
        assert torch.equal(whole(few), whole(val)[:4])
        assert torch.equal(few.labels_N, val.labels_N[:4])
        assert len(val.first(1000)) == len(val)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("share", [0.5, 0])
def test_on_a_gpu_lie_the_same_numbers(tiny_folder: Path, share: float) -> None:
    dataset, gpu = open_dataset(str(tiny_folder)), torch.device("cuda")
    features = prepare(dataset)
    expected = whole(load_inputs(dataset, features, size=(11, 64)).splits["train"])
    train_split = load_inputs(dataset, features, size=(11, 64), share=share).splits["train"]
    before = torch.cuda.memory_allocated(gpu)
    some = torch.tensor([7, 0, 2])
    for _ in range(3):
        assert torch.equal(train_split.batch(some, gpu).cpu(), expected[some])
    resident = torch.cuda.memory_allocated(gpu) - before >= expected.nbytes
    assert resident == (share > 0)


class TestSpectrumCorrection:
    """On made-up clips, recorder b hearing what a hears and a known spectrum more; their numbers are exact in float16."""

    OFFSET = torch.tensor([0.5, -1.25, 0.0, 2.0, -0.25, 1.0])
    STD = torch.tensor([1.0, 2.0, 0.5, 4.0, 1.0, 0.25])

    def _inputs(self, takes: list[tuple[str, str, torch.Tensor]]) -> Inputs:
        """Of (file name, recorder, log-mel (T, F))."""
        clips = tuple(
            Clip(
                filename=name,
                scene="bus",
                group=name,
                recorder=recorder,
                city="",
                location="",
                fold=None,
                split="train",
            )
            for name, recorder, _ in takes
        )
        logmel = torch.stack([logmel for *_, logmel in takes])
        assert torch.equal(logmel.half().float(), logmel)
        split = Split(logmel.half(), torch.zeros(len(clips), dtype=torch.int64), clips)
        return Inputs({"train": split}, torch.full((6,), 0.5), self.STD, ("bus", "tram"))

    def _heard(self, count: int, seed: int = 0) -> torch.Tensor:
        """(N, T, F) in quarters."""
        return torch.randint(-8, 8, (count, 5, 6), generator=torch.Generator().manual_seed(seed)) / 4

    def test_over_pairs_of_one_segment_it_is_the_known_offset(self) -> None:
        heard = self._heard(90)
        takes = [(f"audio/bus-lyon-1-{n}-a.wav", "a", heard[n]) for n in range(90)]
        takes += [(f"audio/bus-lyon-1-{n}-b.wav", "b", heard[n] + self.OFFSET) for n in reversed(range(70))]
        takes += [(f"audio/bus-lyon-2-{n}-a.wav", "a", heard[n] + 7) for n in range(30)]  # nobody else heard these
        corrections = self._inputs(takes).corrections
        assert corrections is not None
        torch.testing.assert_close(corrections.offset_F, self.OFFSET / self.STD)

    def test_without_pairs_it_is_the_difference_of_the_means(self) -> None:
        heard = self._heard(80)
        takes = [(f"{n}.wav", "a", heard[n]) for n in range(80)] + [
            ("again.wav", "a", heard.mean(0).mul(64).round() / 64)
        ]
        takes += [(f"{n}.wav", "b", heard[n - 80] + self.OFFSET) for n in range(80, 160)]
        corrections = self._inputs(takes).corrections
        assert corrections is not None
        torch.testing.assert_close(corrections.offset_F, self.OFFSET / self.STD, atol=0.02, rtol=0)

    def test_of_several_recorders_it_is_the_mean_over_pairs(self) -> None:
        heard = self._heard(12)
        takes = [(f"bus-lyon-1-{n}-a.wav", "a", heard[n]) for n in range(12)]
        takes += [(f"bus-lyon-1-{n}-b.wav", "b", heard[n] + self.OFFSET) for n in range(6)]
        takes += [(f"bus-lyon-1-{n}-s1.wav", "s1", heard[n] - 2 * self.OFFSET) for n in range(4, 6)]
        corrections = self._inputs(takes).corrections
        assert corrections is not None
        torch.testing.assert_close(corrections.offset_F, (6 - 2 * 2) / 8 * self.OFFSET / self.STD)

    def test_only_clips_of_the_commonest_recorder_change(self) -> None:
        heard = self._heard(6)
        takes = [(f"bus-lyon-1-{n}-a.wav", "a", heard[n]) for n in range(3)]
        takes += [(f"bus-lyon-1-{n}-b.wav", "b", heard[n] + self.OFFSET) for n in range(6)]  # here b is
        inputs = self._inputs(takes)
        corrections = inputs.corrections
        assert corrections is not None
        added = corrections.batch(torch.tensor([8, 0, 2, 3]))
        torch.testing.assert_close(
            added, torch.stack([-self.OFFSET / self.STD, *torch.zeros(2, 6), -self.OFFSET / self.STD])
        )
        # added to what the network sees of b, it is what a heard
        seen = inputs.normalise(inputs.splits["train"].batch(torch.tensor([3, 0]), CPU))
        torch.testing.assert_close(seen[0] + added[3], seen[1])

    def test_one_recorder_needs_none(self, tiny_folder: Path) -> None:
        assert (
            self._inputs([(f"{n}-a.wav", "a", logmel) for n, logmel in enumerate(self._heard(4))]).corrections is None
        )
        dataset = open_dataset(str(tiny_folder))
        assert load_inputs(dataset, prepare(dataset)).corrections is None  # ESC-50 names none

    def test_clips_that_name_no_recorder_count_for_none(self) -> None:
        heard = self._heard(10)
        takes = [(f"bus-lyon-1-{n}-a.wav", "a", heard[n]) for n in range(4)]
        takes += [(f"bus-lyon-1-{n}.wav", "", heard[n] + 9) for n in range(10)]
        assert self._inputs(takes).corrections is None
        for name in ("bus-lyon-1-{}-b.wav", "{}.wav"):  # with pairs and without
            corrections = self._inputs(
                [*takes, *((name.format(n), "b", heard[n] + self.OFFSET) for n in range(3, -1, -1))]
            ).corrections
            assert corrections is not None
            torch.testing.assert_close(corrections.offset_F, self.OFFSET / self.STD)
            assert corrections.of_reference_N.tolist() == [True] * 4 + [False] * 14

    def test_from_the_disk_it_is_the_same(self, tiny_folder: Path) -> None:
        dataset = open_dataset(str(tiny_folder))
        features = prepare(dataset)
        found = []
        for share in (0.5, 0):
            inputs = load_inputs(dataset, features, size=(11, 64), share=share)
            held = inputs.splits["train"]
            clips = tuple(replace(clip, recorder="ab"[n % 3 == 0]) for n, clip in enumerate(held.clips))
            found.append(
                Inputs({"train": replace(held, clips=clips)}, inputs.mean_F, inputs.std_F, inputs.classes).corrections
            )
        assert found[0] is not None
        assert found[1] is not None
        assert torch.equal(found[0].offset_F, found[1].offset_F)
        assert torch.equal(found[0].of_reference_N, found[1].of_reference_N)
