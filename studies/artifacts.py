"""Where the files of a study's runs are kept for other machines: Optuna's artifact store in a folder or on S3."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from optuna.artifacts import Boto3ArtifactStore, FileSystemArtifactStore, download_artifact, upload_artifact
from optuna.artifacts import get_all_artifact_meta as artifacts_of
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial

from search_space.errors import UserError

_FILES = (
    "run.json",
    "status.json",
    "metrics.jsonl",
    "predictions-val.npz",
    "weights.safetensors",
    "provenance.json",
)


class _Bucket(Boto3ArtifactStore):
    """Optuna's store on S3, below a prefix of the bucket."""

    def __init__(self, bucket: str, prefix: str) -> None:
        super().__init__(bucket)
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""

    def open_reader(self, artifact_id: str) -> BinaryIO:
        return super().open_reader(self._prefix + artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        super().write(self._prefix + artifact_id, content_body)

    def remove(self, artifact_id: str) -> None:
        super().remove(self._prefix + artifact_id)


class Artifacts:
    """The store that `place` names: a folder that all machines see, or `s3://bucket/prefix` with boto3's usual credentials.

    Raises `UserError` for a place that can not be used.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        if place.startswith("s3://"):
            bucket, _, prefix = place.removeprefix("s3://").partition("/")
            if not bucket:
                raise UserError(f"--artifacts s3://bucket/prefix names a bucket, {place!r} does not")
            try:
                self._store: Any = _Bucket(bucket, prefix)
            except ImportError as error:
                raise UserError(
                    f"--artifacts {place}: {error}; pip install 'dssdn-explorer[s3]', or name a folder"
                ) from error
            except Exception as error:  # boto3 has no common one for a region or credentials that are missing
                raise UserError(f"--artifacts {place}: {type(error).__name__}: {error}") from error
        elif "://" in place:
            raise UserError(f"--artifacts is a folder or s3://bucket/prefix, not {place!r}")
        else:
            Path(place).mkdir(parents=True, exist_ok=True)
            self._store = FileSystemArtifactStore(place)

    def keep(self, folder: Path, trial: Trial) -> None:
        """Copy a finished run's files into the store, named on the trial. Raises `OSError` when that can not be done."""
        with self._named("kept"):
            for name in _FILES:
                if (folder / name).exists():
                    upload_artifact(artifact_store=self._store, file_path=str(folder / name), study_or_trial=trial)

    def fetch(self, folder: Path, trial: FrozenTrial, storage: BaseStorage) -> bool:
        """Bring a run's folder to this machine, whole or not at all; whether the store had it. Raises `UserError` where it can not be read."""
        files = {meta.filename: meta.artifact_id for meta in artifacts_of(trial, storage=storage)}
        if not files:
            return False
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        try:
            with self._named("read"):
                for name, identity in files.items():
                    if name in _FILES:
                        download_artifact(
                            artifact_store=self._store, file_path=str(temporary / name), artifact_id=identity
                        )
            temporary.chmod(0o755)
            if folder.exists():
                shutil.rmtree(folder)
            os.replace(temporary, folder)
        except (OSError, ArtifactNotFound) as error:
            raise UserError(f"trial {trial.number} can not be fetched from {self.place} ({error})") from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return True

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """boto3's errors are many and have no name here: they become `OSError`."""
        try:
            yield
        except (OSError, ArtifactNotFound):
            raise
        except Exception as error:
            raise OSError(f"{self.place}: an artifact could not be {what}: {type(error).__name__}: {error}") from error
