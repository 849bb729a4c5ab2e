"""The store of log-mels, found and read: the folder of a data set's rows, and the row of a clip. Nothing here imports torch; `features` fills it.

Legend of array suffixes: T frames, F mel bins, R rows of the store.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainers.audio import cache_folder

# To be raised whenever the same sound and front end would give other rows, or the files here change their form.
STORE_VERSION = 2
KEY_BYTES, CRC_BYTES = 16, 4


class LogmelStore:
    """The log-mels of one place's clips for one front end and length, read: two files that only grow, record i is of row i.

        logmel.f16   one row a clip: (T, F) float16
        journal      one record a row: hash of the clip's key, digest of its sound, mean and variance of every mel bin, CRC-32
        store.json   what is in the store, for people
        lock         held by the one process that appends

    Rows are on the disk before their records are written, so a record always has its row. Rows are never changed, so readers need
    no lock. A record with a wrong CRC counts for nothing, and its clip as missing.
    """

    def __init__(self, source_key: str, duration_s: float, front_end: Mapping[str, Any]) -> None:
        frames = 1 + round(duration_s * front_end["sample_rate"]) // front_end["hop_length"]
        self.size: tuple[int, int] = frames, front_end["n_mels"]
        self.row_bytes = math.prod(self.size) * np.dtype(np.float16).itemsize
        self.record = np.dtype(
            [
                ("key", f"V{KEY_BYTES}"),
                ("digest", "V32"),
                ("moments", np.float32, (2, self.size[1])),
                ("crc", np.uint32),
            ]
        )
        about = {
            "version": STORE_VERSION,
            "source": source_key,
            "duration_s": duration_s,
            "front_end": dict(front_end),
        }
        self.about = {**about, "size": self.size}
        self.folder = cache_folder() / "features" / sha256(about)[:32]
        self.rows_path, self.journal_path = self.folder / "logmel.f16", self.folder / "journal"

    def records(self) -> NDArray[np.void]:
        """The journal's whole records (R,) that have their rows, mapped from the disk."""
        n = self.n_whole()
        if not n:
            return np.empty(0, self.record)
        return np.asarray(np.memmap(self.journal_path, self.record, mode="r", shape=(n,)))

    def look_up(
        self, keys: Sequence[bytes], known: NDArray[np.int64] | None = None, n_known: int = 0
    ) -> tuple[NDArray[np.int64], int]:
        """The row of every key, -1 where there is none, and the number of records that need no second look.

        These two, given to the next call, spare it all but the records behind: in a large journal checking them takes time.
        """
        records = self.records()
        if known is None or len(records) < n_known:
            known, n_known = np.full(len(keys), -1), 0
        records = records[n_known:]
        data, step = records.view(np.uint8).data, self.record.itemsize
        starts = range(0, len(data), step)
        crcs = np.fromiter((zlib.crc32(data[start : start + step - CRC_BYTES]) for start in starts), np.uint32)
        whole_R = crcs == records["crc"]
        stored = records["key"].tobytes()
        row_of = {stored[KEY_BYTES * i : KEY_BYTES * (i + 1)]: n_known + i for i in np.flatnonzero(whole_R).tolist()}
        rows = np.fromiter((row_of.get(key, row) for key, row in zip(keys, known.tolist(), strict=True)), np.int64)
        # One that is not whole may be one that another process is just writing.
        return rows, n_known + (len(records) if whole_R.all() else int(whole_R.argmin()))

    def logmels(self, n: int) -> NDArray[np.float16]:
        """The first `n` rows (R, T, F), mapped from the disk."""
        return np.asarray(np.memmap(self.rows_path, np.float16, mode="r", shape=(n, *self.size)))

    def find(self, key: str) -> NDArray[np.float16] | None:
        """The log-mel (T, F) of the clip with this key (`Dataset.row_keys`), or None where the store has none."""
        records = self.records()
        wanted = np.frombuffer(row_key(key), np.uint64)
        keys_R2 = np.frombuffer(records["key"].tobytes(), np.uint64).reshape(-1, 2)
        # The last one counts, as in `look_up`; of the whole journal only these records are checked.
        for row in np.flatnonzero((keys_R2 == wanted).all(axis=1))[::-1].tolist():
            record = records[row : row + 1].tobytes()
            if zlib.crc32(record[:-CRC_BYTES]) == records["crc"][row]:
                return np.array(self.logmels(row + 1)[row])
        return None

    def n_whole(self) -> int:
        """How many rows have their record, and records their row."""
        sizes = ((self.rows_path, self.row_bytes), (self.journal_path, self.record.itemsize))
        try:
            return min(path.stat().st_size // step for path, step in sizes)
        except (FileNotFoundError, NotADirectoryError):
            return 0


def row_key(key: str) -> bytes:
    """What a clip's row is found under, 16 bytes."""
    return hashlib.sha256(key.encode()).digest()[:KEY_BYTES]


def sha256(value: object) -> str:
    """Of the value as JSON, 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
