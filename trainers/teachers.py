"""Teachers: finished runs, files of logits, or PaSST, whose answers and features a student learns from.

    a run's folder     a full retraining, a study's trial, a run of an ablation: trained on the same data and fold
    a csv or npz file  columns or arrays `filename` and one of logits for every class, by the class's name, from any program
    passt:FILE         a PaSST that was fine-tuned on these classes: needs the package hear21passt and is untested here

Teachers answer once, on the clean clips of train at their own input; what they said is kept in the cache folder. Logits of several are averaged.
What a file's teacher was trained on cannot be seen here: that it has not heard this fold's val and test clips is the word of whoever wrote it.

B batch, N clips of train, T frames, F mel bins, K classes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.functional import one_hot

from search_space.errors import UserError
from search_space.inference import inference_form
from search_space.model import build_model
from trainers.audio import cache_folder
from trainers.clips import first, read_rows
from trainers.config import Recipe
from trainers.datasets import Dataset
from trainers.features import Features, FrontEnd, prepare, resampled
from trainers.impulses import open_impulses
from trainers.inputs import FeatureTeacher, Inputs, Split, load_inputs
from trainers.opening import make_features, progress_bar
from trainers.recorded import MEAN, STD, load_model
from trainers.runs import Run, write_atomic
from trainers.store import sha256
from trainers.super_classes import super_classes
from trainers.teaching import PASST, feature_teacher, is_run, sealed, teacher_digest

# To be raised whenever the same weights and clips would give other logits.
_VERSION = 1
# A batch that is always as large: an answer does not depend on what else was asked. Measured by tests/test_teachers.py.
_BATCH = 32


class Answers(NamedTuple):
    """What teachers said of every clip of train, in its order: the mean of their logits (N, K)."""

    logits_NK: Tensor

    def batch(self, index_B: Tensor) -> Tensor:
        """(B, K) for these clips."""
        return self.logits_NK[index_B]


class Asked:
    """A teacher that is asked whenever a batch comes: the same answers to the bit as were written down before, on one machine."""

    def __init__(self, model: nn.Module, split: Split, device: torch.device) -> None:
        """`model` reads log-mels that are not normalised, as `load_model` gives it; `split` has train's clips at its size."""
        self._model, self._split, self._device = inference_form(model).to(device), split, device

    def batch(self, index_B: Tensor) -> Tensor:
        """The logits (B, K) of these clips, float32 on the CPU: in batches of one size, filled up with clips that do not count."""
        said = []
        with torch.inference_mode():
            for chunk in index_B.split(_BATCH):
                whole = torch.cat([chunk, chunk[:1].expand(_BATCH - len(chunk))])
                logmel_BTF = self._split.batch(whole, self._device).float()
                logits_BK = self._model(logmel_BTF.unsqueeze(1).contiguous(memory_format=torch.channels_last))
                said.append(logits_BK.float().cpu()[: len(chunk)])
        return torch.cat(said)


# ------------------------------------------------------------------------------------------------------- what they teach


def check(recipe: Recipe, dataset: Dataset, front_end: FrontEnd, digest: str, size: tuple[int, int]) -> None:
    """Whether the recipe's teachers can teach on this data (its `digest`), its front end, and at this training input: without loading clips.

    Raises `UserError` for a teacher that cannot: other classes, other data or fold, weights that do not all load, files that changed.
    """
    if recipe.digests != (found := sealed(recipe).digests):
        before, now = dict(recipe.digests), dict(found)
        changed = [
            f"{name} ({before.get(name, 'not sealed')[:12]}, now {now[name][:12]})"
            for name in now
            if before.get(name) != now[name]
        ]
        raise UserError(f"changed while the training was being prepared: {', '.join(changed)}; begin again")
    for teacher in recipe.teachers:
        if is_run(teacher):
            _check_run(Run(teacher), dataset, digest)
        elif not teacher.startswith(PASST):
            _read_file(Path(teacher), dataset.classes)
    if recipe.feature_form != "none":
        run = Run(feature_teacher(recipe))
        _check_run(run, dataset, digest)
        theirs = tuple(run.config["train_input"])
        if run.config["data"]["front_end"] != dataclasses.asdict(front_end):
            raise UserError(
                f"{run.path} teaches features, and hears log-mels made another way than the student; take soft targets alone"
            )
        if any(mine < other for mine, other in zip(size, theirs, strict=True)):
            raise UserError(
                f"{run.path} teaches features and reads {theirs[0]}x{theirs[1]} frames x mels, the student {size[0]}x{size[1]}: what the student does "
                f"not have it cannot hand on. Train the student at {theirs[0]}x{theirs[1]} or more, or take a teacher that was trained at its size"
            )
    if recipe.multitask != "none":
        super_classes(dataset.classes, recipe.super_classes)


def get_ready(
    console: Console, recipe: Recipe, dataset: Dataset, features: Features, size: tuple[int, int], device: torch.device
) -> None:
    """Check the teachers, and have each one's answers in the cache, with progress: once, before workers start. Raises what `check` raises."""
    check(recipe, dataset, features.front_end, features.digest, size)
    if recipe.soft_weight > 0:
        for teacher in recipe.teachers:
            with progress_bar(console, f"answers of {teacher}") as report:
                answers(teacher, dataset, features, device, report, console)


def taught(inputs: Inputs, recipe: Recipe, dataset: Dataset, features: Features, device: torch.device) -> Inputs:
    """The inputs with what the recipe's teachers teach; as they are where it names nothing. Raises what `check` raises."""
    if recipe.needs_teacher or not _teaches(recipe):
        return inputs
    check(recipe, dataset, features.front_end, features.digest, inputs.size)
    changes: dict[str, Any] = {}
    if recipe.teachers and recipe.soft_weight > 0:
        said = torch.stack([torch.from_numpy(answers(name, dataset, features, device)) for name in recipe.teachers])
        row_of = {dataset.clips[i].filename: row for row, i in enumerate(dataset.splits.train.tolist())}
        index_N = torch.tensor([row_of[clip.filename] for clip in inputs.splits["train"].clips])
        changes["soft"] = Answers(said.mean(0)[index_N])
    if recipe.feature_form != "none":
        run = Run(feature_teacher(recipe))
        frames, mels = run.config["train_input"]
        changes["teacher"] = FeatureTeacher(load_model(run).requires_grad_(False), (frames, mels))
    if recipe.multitask != "none":
        names, of_K = super_classes(dataset.classes, recipe.super_classes)
        changes["super_KS"] = one_hot(torch.tensor(of_K), len(names)).float()
    if recipe.impulses != "none":
        changes["impulses"] = open_impulses(recipe.impulses, inputs, features.front_end)
    return dataclasses.replace(inputs, **changes)


def _teaches(recipe: Recipe) -> bool:
    return bool(recipe.teachers) or any(
        getattr(recipe, name) != "none" for name in ("feature_form", "multitask", "impulses")
    )


def answers(
    teacher: str,
    dataset: Dataset,
    features: Features,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
    console: Console | None = None,
) -> NDArray[np.float32]:
    """The teacher's logits (N, K) for the clips of train, in their order: from its file or the cache, else asked now and kept.

    Raises `UserError` for a teacher that cannot answer.
    """
    names = [dataset.clips[i].filename for i in dataset.splits.train.tolist()]
    if not is_run(teacher) and not teacher.startswith(PASST):
        said = _read_file(Path(teacher), dataset.classes)
        missing = [name for name in names if name not in said]
        if missing:
            raise UserError(
                f"{teacher} says nothing of {len(missing):,} of the {len(names):,} training clips: {first(missing)}; write a row for each of them"
            )
        return np.stack([said[name] for name in names])
    weights = teacher_digest(teacher)
    if teacher.startswith(PASST):
        key = sha256([_VERSION, PASST, weights, features.digest])
        return _kept(key, names, lambda: _ask_passt(Path(teacher.removeprefix(PASST)), dataset, device, progress))
    run = Run(teacher)
    _check_run(run, dataset, features.digest)
    config = run.config
    key = sha256([_VERSION, weights, features.digest, config["train_input"], config["data"]["front_end"]])

    def ask() -> NDArray[np.float32]:
        front_end = FrontEnd(**config["data"]["front_end"])
        own = features
        if front_end != features.front_end:
            own = prepare(dataset, front_end) if console is None else make_features(console, dataset, front_end)
        frames, mels = config["train_input"]
        split = load_inputs(dataset, own, size=(frames, mels), splits=()).splits["train"]
        asked, said = Asked(load_model(run), split, device), []
        for index_B in torch.arange(len(split)).split(_BATCH):
            said.append(asked.batch(index_B))
            progress(int(index_B[-1]) + 1, len(split))
        return torch.cat(said).numpy()

    return _kept(key, names, ask)


def _kept(key: str, names: list[str], ask: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    """What the cache holds under the key for these clips, else what is asked now, which is then kept, whole or not at all."""
    path = cache_folder() / "teachers" / f"{key[:32]}.npz"
    with (
        contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile),
        np.load(path, allow_pickle=False) as file,
    ):
        if file["filename"].tolist() == names:
            return np.asarray(file["logits"], np.float32)
    said = ask()
    try:
        write_atomic(path, lambda file: np.savez(file, filename=np.array(names, dtype=np.str_), logits=said))
    except OSError as error:
        raise UserError(
            f"the teacher's answers cannot be written under {str(path.parent)!r} ({error}): make room or name another folder in the environment "
            f"variable DSSDN_CACHE"
        ) from error
    return said


def _check_run(run: Run, dataset: Dataset, digest: str) -> None:
    """Raises `UserError` for a run that has not finished, knows other classes, has heard what is scored here, or whose weights are not all its network's."""
    config = run.config
    data = config["data"]
    if run.status.get("state") != "finished":
        raise UserError(
            f"teacher {run.path} has not finished ({run.status.get('state') or 'never begun'}); finish it, or name another"
        )
    if list(data["classes"]) != list(dataset.classes):
        ours, theirs = set(dataset.classes), set(data["classes"])
        raise UserError(
            f"teacher {run.path} knows other classes ({len(theirs)}; here {len(ours)}): not here {first(sorted(theirs - ours)) or 'none'}, not there "
            f"{first(sorted(ours - theirs)) or 'none'}; name one that was trained on this data"
        )
    if data["digest"] != digest:
        same = data.get("fold") == dataset.spec.fold
        why = (
            f"its clips or splits are not these (digest {data['digest'][:12]}, here {digest[:12]})"
            if same
            else f"test fold {data.get('fold')}, here {dataset.spec.fold}"
        )
        raise UserError(
            f"teacher {run.path} was trained on other splits ({data['name']}: {why}): it may have learned what is scored here; name one of the same "
            f"data and fold"
        )
    check_weights(run)


def check_weights(run: Run) -> None:
    """Raises `UserError` unless all tensors of the run's network load, with none left over: how many fit is said."""
    try:
        load_model(run)
        return
    except (UserError, KeyError) as error:
        cause = error
    config = run.config
    try:
        with safe_open(run.weights_path, framework="pt") as file:
            there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except (SafetensorError, OSError):
        raise cause from None
    model = build_model(config["architecture"], len(config["data"]["classes"]), config["train_input"][1])
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wanted |= dict.fromkeys((MEAN, STD), (config["train_input"][1],))
    fit = sum(there.get(name) == shape for name, shape in wanted.items())
    strangers = sorted(set(there) - set(wanted))
    said = f"; it holds {first(strangers, 3)} instead" if strangers else ""
    raise UserError(
        f"teacher {run.path}: {fit} of the {len(wanted)} tensors of {config['architecture']} load{said}. A teacher whose weights do not all load is an "
        f"untrained one: mend the names in {run.weights_path.name}, or train it again"
    ) from cause


def _read_file(path: Path, classes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Of every clip that a csv or npz file names, its logits (K,), in the classes' order. Raises `UserError` for what is not such a file."""
    if path.suffix.lower() == ".npz":
        try:
            with np.load(path, allow_pickle=False) as file:
                columns = {name: file[name] for name in file.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no npz file of plain arrays ({error}); write it with numpy.savez") from error
    else:
        rows = read_rows(path, ("filename",))
        columns = {name: np.array([row[name] for row in rows]) for name in rows[0] if name is not None}
    lacks = [name for name in ("filename", *classes) if name not in columns]
    strangers = sorted(set(columns) - {"filename", *classes})
    if lacks or strangers:
        hint = "; probabilities as DCASE's table has them are no logits" if "scene_label" in strangers else ""
        raise UserError(
            f"{path} must have 'filename' and one column (csv) or array (npz) of logits for each of the {len(classes)} classes, by their names, and no "
            f"other: it lacks {first(lacks) or 'none'}, and has {first(strangers) or 'none'} besides{hint}"
        )
    names = [str(name) for name in columns["filename"].tolist()]
    if len(set(names)) < len(names):
        raise UserError(f"{path} names some clips more than once; keep one row each")
    try:
        logits_NK = np.stack([columns[name].astype(np.float32) for name in classes], 1)
    except ValueError as error:
        raise UserError(f"{path}: logits are numbers, one for each clip and class ({error})") from error
    if logits_NK.shape != (len(names), len(classes)) or not np.isfinite(logits_NK).all():
        raise UserError(
            f"{path}: logits are finite numbers, one for each of its {len(names):,} clips and {len(classes)} classes"
        )
    return dict(zip(names, logits_NK, strict=True))


def _ask_passt(
    path: Path, dataset: Dataset, device: torch.device, progress: Callable[[int, int], None]
) -> NDArray[np.float32]:
    """A fine-tuned PaSST's logits (N, K) for the clips of train. Untested here: the package does not import everywhere.

    `path` is the state of a `passt_s_swa_p16_128_ap476` with an output a class, as `torch.save` writes it. Source: the teachers of CP-Mobile's code
    (32 kHz, window 800, hop 320, 128 mel bins). Raises `UserError` without the package, and for weights that do not all load.
    """
    try:
        from hear21passt.models.passt import get_model  # type: ignore[import-not-found]
        from hear21passt.models.preprocess import AugmentMelSTFT  # type: ignore[import-not-found]
    except Exception as error:  # whatever its own imports bring about
        raise UserError(
            f"passt:{path} needs the package hear21passt, which cannot be imported here ({type(error).__name__}: {error}); this way is untested in "
            f"this project. Write PaSST's logits into a csv or npz file where it runs, and name that as --teacher"
        ) from error
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it does
        model = get_model(arch="passt_s_swa_p16_128_ap476", pretrained=False, n_classes=len(dataset.classes))
        mel = AugmentMelSTFT(
            n_mels=128,
            sr=32_000,
            win_length=800,
            hopsize=320,
            n_fft=1024,
            freqm=0,
            timem=0,
            fmin_aug_range=10,
            fmax_aug_range=2000,
        )
    try:
        model.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"), strict=True)
    except Exception as error:
        raise UserError(
            f"passt:{path}: its weights do not all load ({str(error).splitlines()[0]}); name a fine-tuned network's state"
        ) from error
    model, mel, said = model.eval().to(device), mel.eval().to(device), []
    train = dataset.splits.train.tolist()
    with torch.inference_mode():
        for done, i in enumerate(train, start=1):
            sound = dataset.load(dataset.clips[i])
            wave_N = resampled(torch.from_numpy(sound.waveform_N), sound.sample_rate, 32_000)
            logits = model(mel(wave_N[None].to(device))[:, None])
            said.append((logits[0] if isinstance(logits, tuple) else logits)[0].float().cpu())
            progress(done, len(train))
    return torch.stack(said).numpy()
