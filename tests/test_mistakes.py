"""What a network said of single clips: on predictions made by hand, and on a real run's data."""

from __future__ import annotations

import numpy as np
import pytest

from search_space.errors import UserError
from studies import open_study
from studies.mistakes import Clips, accuracy_by_recorder, accuracy_by_scene, val_predictions, worst_mistakes
from trainers.runs import Predictions, Run

CLASSES = ("bus", "park", "tram")
SAID = Predictions(
    np.array([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.1, 0.0, 0.9], [0.2, 0.5, 0.3]], dtype=np.float32),
    np.array([0, 1, 0, 1]),
    ["a.wav", "b.wav", "c.wav", "d.wav"],
    ["s1", "s1", "a", "a"],
)


def test_the_surest_mistake_comes_first():
    first, second = worst_mistakes(SAID, CLASSES, 5)
    assert (first.filename, first.said, first.truth, first.recorder) == ("c.wav", "tram", "bus", "a")
    assert (first.confidence, first.right) == (pytest.approx(0.9), pytest.approx(0.1))
    assert (second.filename, second.said, second.truth) == ("b.wav", "bus", "park")
    assert worst_mistakes(SAID, CLASSES, 1) == [first]


def test_shares_are_counted_by_scene_and_recorder_the_worst_first():
    assert accuracy_by_scene(SAID, CLASSES).to_numpy().tolist() == [["bus", 2, 0.5], ["park", 2, 0.5]]
    assert accuracy_by_recorder(SAID)["name"].tolist() == ["a", "s1"]
    nameless = Predictions(SAID.probabilities_NK, SAID.labels_N, SAID.filenames, [""] * 4)
    assert accuracy_by_recorder(nameless).empty
    some = Predictions(SAID.probabilities_NK, SAID.labels_N, SAID.filenames, ["", "", "", "a"])
    assert accuracy_by_recorder(some)["clips"].tolist() == [3, 1]


def test_predictions_are_held_against_the_classes(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(UserError, match="holds no predictions"):
        val_predictions(run, CLASSES)
    run.write_predictions("val", SAID)
    assert val_predictions(run, CLASSES).accuracy == 0.5
    with pytest.raises(UserError, match="of other classes"):
        val_predictions(run, CLASSES[:2])


class TestClips:
    def test_a_listed_clip_is_heard_and_seen(self, tiny_study):
        study = open_study(tiny_study[1], tiny_study[0])
        clips = Clips(study.info["data"])
        name = val_predictions(study.run(0), study.info["data"]["classes"]).filenames[0]
        waveform_N, rate = clips.sound(name)
        assert waveform_N.shape == (rate * study.info["data"]["duration_s"],)
        assert np.abs(waveform_N).max() > 0.01
        logmel_TF = clips.logmel(name)
        assert logmel_TF is not None
        assert logmel_TF.shape == tuple(study.info["input"])

    def test_the_synthetic_data_is_heard(self):
        front_end = {"sample_rate": 44_100, "hop_length": 1024, "n_mels": 256}
        clips = Clips({"source": "synthetic", "subset": None, "fold": 5, "duration_s": 3.0, "front_end": front_end})
        name = next(iter(clips._by_name))
        assert clips.sound(name)[0].shape == (132_300,)
        assert clips.logmel(name) is None  # of a front end that nothing was made with

    def test_a_long_file_is_left_to_a_player(self, make_folder, tmp_path, tiny_study):
        import soundfile

        folder = make_folder()
        data = open_study(tiny_study[1], tiny_study[0]).info["data"] | {"source": str(folder)}
        name = sorted(path.name for path in (folder / "audio").iterdir())[0]
        soundfile.write(folder / "audio" / name, np.zeros(121 * 8000), 8000)
        with pytest.raises(UserError, match="is longer than 120 s"):
            Clips(data).sound(name)
