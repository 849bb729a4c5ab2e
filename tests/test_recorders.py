"""The simulated recorders: response, compression, level and noise are what the table says, and the same every time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from trainers.recorders import (
    KNOTS_HZ,
    LEVEL_SD_DB,
    PAUSE_DB,
    RECORDERS,
    RIPPLE_SD_DB,
    TAKE_SD_DB,
    compressed,
    noise_floor,
    record,
    response,
    wander,
)

RATE = 44_100


def noise(seconds: float = 1.0, rate: int = RATE, rms: float = 0.1, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return rms * rng.standard_normal(round(seconds * rate), dtype=np.float32)


def level_db(sound_N: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.mean(np.square(sound_N, dtype=np.float64))))


class TestResponse:
    @pytest.mark.parametrize("recorder", RECORDERS)
    def test_mean_of_takes_is_the_table(self, recorder: str) -> None:
        """At the knots, over takes of as many copies of the recorder as there are takes.

        What is added to the table has mean zero, so that its mean over n takes strays by its standard deviation by root n;
        four of them are allowed, and 0.2 dB for the grid on the steepest flank (22 dB an octave, 1/100 octave a row).
        """
        n, n_spectrum = 400, 2**16
        bins = np.round(np.array(KNOTS_HZ) * n_spectrum / RATE).astype(int)
        takes = [response(recorder, k, np.random.default_rng(k), n_spectrum, RATE)[bins] for k in range(n)]
        mean_db = 20 * np.log10(takes).mean(axis=0)
        tolerance_db = 4 * np.hypot(TAKE_SD_DB, RIPPLE_SD_DB) / np.sqrt(n) + 0.2
        np.testing.assert_allclose(mean_db, RECORDERS[recorder].response_db, atol=tolerance_db)

    def test_the_reference_has_no_ripple(self) -> None:
        same = [response("a", seed, np.random.default_rng(0), 4096, RATE) for seed in (0, 1)]
        np.testing.assert_array_equal(*same)

    def test_ripple_is_the_recorders_own(self) -> None:
        """The same in every take, another in another copy and in another recorder."""
        of = {
            (recorder, seed): response(recorder, seed, np.random.default_rng(0), 4096, RATE)
            / response(recorder, seed, np.random.default_rng(1), 4096, RATE)
            for recorder in ("b", "s1")
            for seed in (0, 1)
        }
        np.testing.assert_allclose(
            of["b", 0], of["b", 1], rtol=1e-4
        )  # what takes differ by does not depend on the copy
        copies = [response("b", seed, np.random.default_rng(0), 4096, RATE) for seed in (0, 1)]
        assert np.abs(20 * np.log10(copies[0] / copies[1])).mean() > 1

    def test_at_a_lower_rate_is_the_same_up_to_half_of_it(self) -> None:
        """Bins of 1 Hz at both rates."""
        high, low = (response("s2", 0, np.random.default_rng(0), rate, rate) for rate in (RATE, 16_000))
        np.testing.assert_array_equal(low, high[: len(low)])

    @pytest.mark.parametrize("rate", [RATE, 16_000])
    def test_is_what_a_recording_shows(self, rate: int) -> None:
        """Third-octave bands of 10 s of noise: 230 bins or more from 100 Hz on, 0.3 dB (standard deviation) each."""
        sound_N = noise(10, rate)
        recorded_N = record(sound_N, "s2", rate, 0, np.random.default_rng(3))
        expected = response("s2", 0, np.random.default_rng(3), len(sound_N), rate)
        edges_hz = 100 * 2 ** np.arange(0, np.log2(rate / 2 / 100), 1 / 3)
        hz = np.fft.rfftfreq(len(sound_N), 1 / rate)
        bands = [(hz >= low) & (hz < high) for low, high in pairwise(edges_hz)]
        before, after = (np.abs(np.fft.rfft(x)) ** 2 for x in (sound_N, recorded_N))
        shown_db = np.array([10 * np.log10(after[band].sum() / before[band].sum()) for band in bands])
        table_db = np.array([10 * np.log10(np.mean(expected[band] ** 2)) for band in bands])
        np.testing.assert_allclose(shown_db - shown_db.mean(), table_db - table_db.mean(), atol=1)
        assert np.ptp(table_db) > 10


class TestCompression:
    @pytest.mark.parametrize("recorder", RECORDERS)
    def test_ratio(self, recorder: str) -> None:
        """Two seconds of a tone, two seconds of it 12 dB lower: 12 dB by the ratio is left, once the level has settled."""
        tone_N = np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE).astype(np.float32)
        sound_N = np.concatenate([tone_N, tone_N * np.float32(10 ** (-12 / 20))])
        heard_N = compressed(sound_N, recorder, RATE, np.random.default_rng(0))
        left_db = level_db(heard_N[RATE : 2 * RATE - 2000]) - level_db(heard_N[3 * RATE : 4 * RATE - 2000])
        assert left_db == pytest.approx(12 / RECORDERS[recorder].ratio, abs=0.05)

    def test_pauses_are_raised_no_further_than_quiet_passages(self) -> None:
        loud_N = noise(2)
        lift_db = {}
        for below_db in (-30, -60):
            sound_N = np.concatenate([loud_N, loud_N * np.float32(10 ** (below_db / 20))])
            heard_N = compressed(sound_N, "s5", RATE, np.random.default_rng(0), PAUSE_DB)
            after_db = level_db(heard_N[3 * RATE : 4 * RATE - 2000]) - level_db(heard_N[RATE : 2 * RATE - 2000])
            lift_db[below_db] = after_db - below_db
        # The loud half is 3 dB over the mean power of both.
        assert lift_db[-60] == pytest.approx((1 - 1 / RECORDERS["s5"].ratio) * (3 - PAUSE_DB), abs=0.5)
        assert lift_db[-30] == pytest.approx(lift_db[-60], abs=0.1)

    def test_cuts_to_whole_blocks(self) -> None:
        assert len(compressed(noise()[: 3 * 512 + 100], "b", RATE, np.random.default_rng(0))) == 3 * 512


class TestLevelAndNoise:
    @pytest.mark.parametrize("recorder", RECORDERS)
    @pytest.mark.parametrize("rms", [0.2, 0.001])
    def test_level_is_the_recorders_whatever_the_recordings(self, recorder: str, rms: float) -> None:
        """Mean over n takes of steady noise; three standard deviations of that mean are allowed, and what a level held
        below full scale takes away (0.2 dB)."""
        n = 64
        sound_N = noise(0.3, rms=rms)
        levels = [level_db(record(sound_N, recorder, RATE, 0, np.random.default_rng(k))) for k in range(n)]
        tolerance_db = 3 * LEVEL_SD_DB / np.sqrt(n) + 0.2
        assert np.mean(levels) == pytest.approx(RECORDERS[recorder].level_db, abs=tolerance_db)
        assert np.std(levels) == pytest.approx(LEVEL_SD_DB, rel=0.35)

    @pytest.mark.parametrize("recorder", RECORDERS)
    def test_silence_is_the_noise_floor(self, recorder: str) -> None:
        recorded_N = record(np.zeros(RATE, np.float32), recorder, RATE, 0, np.random.default_rng(0))
        assert level_db(recorded_N) == pytest.approx(RECORDERS[recorder].floor_db, abs=0.1)
        assert 20 * np.log10(noise_floor(recorder)) == pytest.approx(RECORDERS[recorder].floor_db)

    def test_a_knock_in_silence_stays_within_full_scale_unclipped(self) -> None:
        sound_N = np.zeros(5 * RATE, np.float32)
        sound_N[2 * RATE : 2 * RATE + 2000] = noise()[:2000]
        for recorder in RECORDERS:
            recorded_N = record(sound_N, recorder, RATE, 0, np.random.default_rng(1))
            assert np.isfinite(recorded_N).all()
            assert np.abs(recorded_N).max() <= 1
            assert (np.abs(recorded_N) == 1).sum() <= 1


class TestRecord:
    def test_is_a_function_of_its_values(self) -> None:
        sound_N = noise(0.5)
        one, same = (record(sound_N, "s3", RATE, 7, np.random.default_rng(1)) for _ in range(2))
        np.testing.assert_array_equal(one, same)
        others = [
            record(sound_N, "s3", RATE, 7, np.random.default_rng(2)),
            record(sound_N, "s3", RATE, 8, np.random.default_rng(1)),
            record(sound_N, "s4", RATE, 7, np.random.default_rng(1)),
        ]
        assert not any(np.array_equal(one, other) for other in others)

    def test_leaves_the_recording_alone(self) -> None:
        sound_N = noise(0.5)
        before = sound_N.copy()
        record(sound_N, "s1", RATE, 0, np.random.default_rng(0))
        np.testing.assert_array_equal(sound_N, before)

    @pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100])
    @pytest.mark.parametrize("n", [1, 511, 44_100, 50_001])
    def test_length_and_type(self, rate: int, n: int) -> None:
        recorded_N = record(noise(2)[:n], "b", rate, 0, np.random.default_rng(0))
        assert recorded_N.shape == (n,)
        assert recorded_N.dtype == np.float32
        assert np.isfinite(recorded_N).all()

    def test_is_not_late(self) -> None:
        """What every recorder made of a knock has its peak where the knock was: recordings of a segment are parallel."""
        sound_N = noise(rms=1e-4)
        sound_N[20_000] = 0.5
        for recorder in RECORDERS:
            recorded_N = record(sound_N, recorder, RATE, 0, np.random.default_rng(0))
            assert abs(int(np.abs(recorded_N).argmax()) - 20_000) <= 2


def test_wander_has_its_standard_deviation_and_is_smooth() -> None:
    curves = np.stack([wander(np.random.default_rng(k), 20, 2.0) for k in range(2000)])
    assert curves.std() == pytest.approx(2, rel=0.03)
    assert np.corrcoef(curves[:, 5], curves[:, 6])[0, 1] == pytest.approx(2 / 3, abs=0.05)
