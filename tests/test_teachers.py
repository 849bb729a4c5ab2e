"""Teachers: who may teach, what they answer, and that a student learns the same from what was written down as from one that is asked."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CLASSES
from safetensors.torch import load_file, save_file

from search_space.errors import UserError
from studies import ablate
from studies import run as studies_run
from trainers import retrain, teachers
from trainers.config import Recipe, get_recipe, short
from trainers.datasets import Dataset, open_dataset
from trainers.features import Features, prepare
from trainers.inputs import Inputs, data_record, load_inputs
from trainers.loop import train
from trainers.recorded import load_model, train_recorded
from trainers.runs import Run
from trainers.teachers import Asked, answers, taught
from trainers.teaching import parsed, recipe_of, sealed, teacher_digest, with_options, words_of

CPU = torch.device("cpu")
TEACHER, STUDENT = "dssdn_c8-12-16_r0.5_sc_h16", "dssdn_c4-6_r0.5_sc_h8"
SIZE = (16, 16)


def make_teacher(folder: Path, path: Path, fold: int = 5, clips: int = 64, size: tuple[int, int] = SIZE) -> Path:
    """A finished run of a small network on the folder's data."""
    dataset = open_dataset(str(folder), fold=fold)
    features = prepare(dataset)
    run = Run(path)
    path.mkdir(parents=True)
    config = {
        "architecture": TEACHER,
        "data": data_record(dataset, features),
        "input": list(features.size),
        "train_input": list(size),
        "recipe": short().record(),
        "clips": clips,
        "seed": 0,
    }
    run.write_json("run.json", config)
    train_recorded(run, TEACHER, load_inputs(dataset, features, size=size), short(), clips, 0, CPU)
    run.write_status("finished", epoch=1, epochs=1)
    return path


@pytest.fixture(scope="module")
def teacher(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on the tiny data; not to be changed."""
    return make_teacher(tiny_folder, tmp_path_factory.mktemp("teacher") / "run")


@pytest.fixture
def own_teacher(teacher: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(teacher, tmp_path / "own"))


@pytest.fixture(scope="module")
def data(tiny_folder: Path) -> tuple[Dataset, Features]:
    dataset = open_dataset(str(tiny_folder))
    return dataset, prepare(dataset)


def taught_by(*names: Path | str, **changes: Any) -> Recipe:
    values = {"soft_weight": 0.9, **changes}
    return sealed(dataclasses.replace(short(), teachers=tuple(map(str, names)), **values))


def inputs_of(recipe: Recipe, data: tuple[Dataset, Features], size: tuple[int, int] = SIZE) -> Inputs:
    return taught(load_inputs(*data, size=size), recipe, *data, CPU)


def weights(recipe: Recipe, inputs: Inputs, clips: int = 96) -> dict[str, torch.Tensor]:
    return train(STUDENT, inputs, recipe, clips, 0, CPU).state_dict()


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def write_logits(
    path: Path, names: list[str], logits_NK: np.ndarray, classes: tuple[str, ...] = tuple(sorted(CLASSES))
) -> Path:
    if path.suffix == ".npz":
        np.savez(path, filename=np.array(names), **{name: logits_NK[:, k] for k, name in enumerate(classes)})
    else:
        with path.open("w", newline="") as file:
            rows = ([name, *map(repr, map(float, row))] for name, row in zip(names, logits_NK, strict=True))
            csv.writer(file).writerows([["filename", *classes], *rows])
    return path


def train_names(dataset: Dataset) -> list[str]:
    return [dataset.clips[i].filename for i in dataset.splits.train]


class TestAnswers:
    def test_a_student_learns_the_same_from_the_cache_as_from_a_teacher_in_the_loop(
        self, teacher: Path, data: tuple[Dataset, Features]
    ) -> None:
        recipe = taught_by(teacher, mixup_alpha=0.4)
        cached = inputs_of(recipe, data)
        online = dataclasses.replace(cached, soft=Asked(load_model(Run(teacher)), cached.splits["train"], CPU))
        learned = weights(recipe, cached)
        assert equal(learned, weights(recipe, online))
        assert not equal(learned, weights(short(), cached))

    def test_an_answer_does_not_depend_on_what_else_is_asked(
        self, teacher: Path, data: tuple[Dataset, Features]
    ) -> None:
        asked = Asked(load_model(Run(teacher)), load_inputs(*data, size=SIZE).splits["train"], CPU)
        all_NK = asked.batch(torch.arange(27))
        shuffled = torch.randperm(27, generator=torch.Generator().manual_seed(0))
        assert torch.equal(asked.batch(shuffled), all_NK[shuffled])
        assert torch.equal(asked.batch(torch.tensor([11, 3])), all_NK[[11, 3]])

    def test_they_are_written_down_once(self, teacher: Path, data: tuple[Dataset, Features]) -> None:
        asked: list[int] = []

        def count(done: int, total: int) -> None:
            asked.append(total)

        first = answers(str(teacher), *data, CPU)
        again = answers(str(teacher), *data, CPU, count)
        assert asked == []
        assert np.array_equal(first, again)

    def test_a_torn_cache_is_written_anew(self, teacher: Path, data: tuple[Dataset, Features]) -> None:
        first = answers(str(teacher), *data, CPU)
        for path in (teachers.cache_folder() / "teachers").glob("*.npz"):
            path.write_bytes(path.read_bytes()[:40])
        asked: list[int] = []
        assert np.array_equal(answers(str(teacher), *data, CPU, lambda done, total: asked.append(total)), first)
        assert asked

    def test_those_of_several_are_averaged(self, data: tuple[Dataset, Features], tmp_path: Path) -> None:
        names = train_names(data[0])
        logits = np.random.default_rng(0).normal(size=(2, len(names), 3)).astype(np.float32)
        files = [write_logits(tmp_path / name, names, of) for name, of in zip(("a.npz", "b.csv"), logits, strict=True)]
        soft = inputs_of(taught_by(*files), data).soft
        assert soft is not None
        said = soft.batch(torch.tensor([4, 2]))
        assert np.allclose(said.numpy(), logits.mean(0)[[4, 2]], atol=1e-6)

    def test_a_part_of_train_has_its_own_clips_answers(self, data: tuple[Dataset, Features], tmp_path: Path) -> None:
        names = train_names(data[0])
        numbers = np.arange(len(names), dtype=np.float32)[:, None].repeat(3, 1)
        recipe = taught_by(write_logits(tmp_path / "a.csv", names[::-1], numbers))
        part = taught(load_inputs(*data, size=SIZE, train_clips=9), recipe, *data, CPU)
        assert part.soft is not None
        said = part.soft.batch(torch.arange(9))[:, 0].tolist()
        assert said == [len(names) - 1 - names.index(clip.filename) for clip in part.splits["train"].clips]

    def test_a_teacher_answers_at_its_own_input(
        self, tiny_folder: Path, data: tuple[Dataset, Features], tmp_path: Path
    ) -> None:
        large = make_teacher(tiny_folder, tmp_path / "large", size=(20, 24))
        soft = inputs_of(taught_by(large), data).soft
        own = load_inputs(*data, size=(20, 24)).splits["train"]
        assert soft is not None
        assert torch.equal(
            soft.batch(torch.arange(27)), Asked(load_model(Run(large)), own, CPU).batch(torch.arange(27))
        )


class TestRefused:
    def test_a_wrong_prefix(self, own_teacher: Path, data: tuple[Dataset, Features]) -> None:
        path = own_teacher / "weights.safetensors"
        renamed = {
            (name if name.startswith("normalise") else f"model.{name}"): t for name, t in load_file(path).items()
        }
        save_file(renamed, path)
        with pytest.raises(UserError, match=r"2 of the \d+ tensors of dssdn.* load; it holds model\.") as refused:
            inputs_of(taught_by(own_teacher), data)
        assert "untrained" in str(refused.value)

    def test_a_tensor_that_is_missing(self, own_teacher: Path, data: tuple[Dataset, Features]) -> None:
        path = own_teacher / "weights.safetensors"
        tensors = load_file(path)
        del tensors["head.classes.bias"]
        save_file(tensors, path)
        n = len(tensors)
        with pytest.raises(UserError, match=rf"{n} of the {n + 1} tensors"):
            inputs_of(taught_by(own_teacher), data)

    def test_weights_that_changed_since(self, own_teacher: Path, data: tuple[Dataset, Features]) -> None:
        recipe = taught_by(own_teacher)
        path = own_teacher / "weights.safetensors"
        save_file({name: tensor + 1 for name, tensor in load_file(path).items()}, path)
        with pytest.raises(UserError, match="changed"):
            inputs_of(recipe, data)

    def test_one_of_another_fold(self, tiny_folder: Path, data: tuple[Dataset, Features], tmp_path: Path) -> None:
        other = make_teacher(tiny_folder, tmp_path / "fold4", fold=4, clips=32)
        with pytest.raises(UserError, match=r"other splits .*test fold 4, here 5"):
            inputs_of(taught_by(other), data)

    def test_one_of_other_classes(self, own_teacher: Path, data: tuple[Dataset, Features]) -> None:
        config = Run(own_teacher).config
        config["data"]["classes"] = ["high", "low", "music"]
        Run(own_teacher).write_json("run.json", config)
        with pytest.raises(UserError, match=r"other classes.*not here music, not there noise"):
            inputs_of(taught_by(own_teacher), data)

    def test_one_that_has_not_finished(self, own_teacher: Path, data: tuple[Dataset, Features]) -> None:
        Run(own_teacher).write_status("interrupted")
        with pytest.raises(UserError, match="has not finished"):
            inputs_of(taught_by(own_teacher), data)

    def test_one_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no teacher"):
            taught_by(tmp_path / "nothing")

    @pytest.mark.parametrize("suffix", [".csv", ".npz"])
    def test_a_file_without_all_clips(self, suffix: str, data: tuple[Dataset, Features], tmp_path: Path) -> None:
        names = train_names(data[0])
        path = write_logits(tmp_path / f"a{suffix}", names[2:], np.zeros((len(names) - 2, 3)))
        with pytest.raises(UserError, match=f"nothing of 2 of the 27 training clips: {names[0]}, {names[1]}"):
            inputs_of(taught_by(path), data)

    def test_a_file_of_other_classes(self, data: tuple[Dataset, Features], tmp_path: Path) -> None:
        names = train_names(data[0])
        path = write_logits(tmp_path / "a.csv", names, np.zeros((len(names), 3)), ("high", "low", "music"))
        with pytest.raises(UserError, match="lacks noise, and has music besides"):
            inputs_of(taught_by(path), data)

    def test_a_file_of_nonsense(self, data: tuple[Dataset, Features], tmp_path: Path) -> None:
        names = train_names(data[0])
        path = write_logits(tmp_path / "a.npz", names, np.full((len(names), 3), np.nan))
        with pytest.raises(UserError, match="finite numbers"):
            inputs_of(taught_by(path), data)

    @pytest.mark.skipif(importlib.util.find_spec("hear21passt") is not None, reason="it is there")
    def test_passt_without_its_package_says_what_to_do(self, data: tuple[Dataset, Features], tmp_path: Path) -> None:
        (tmp_path / "passt.pt").write_bytes(b"x")
        with pytest.raises(UserError, match=r"hear21passt.*untested.*csv or npz"):
            inputs_of(taught_by(f"passt:{tmp_path / 'passt.pt'}"), data)

    def test_a_recipe_that_needs_one_and_has_none(self, data: tuple[Dataset, Features]) -> None:
        with pytest.raises(UserError, match="name one with --teacher"):
            with_options(get_recipe("taught"))
        with pytest.raises(UserError, match="name one with --teacher"):
            weights(get_recipe("joint"), load_inputs(*data, size=SIZE), 32)
        with pytest.raises(UserError, match="--soft-weight is about a teacher"):
            with_options(short(), soft_weight=0.5)


class TestFeatures:
    @pytest.mark.parametrize("form", ["projection", "gram"])
    def test_a_student_learns_from_them(self, form: str, teacher: Path, data: tuple[Dataset, Features]) -> None:
        recipe = taught_by(teacher, soft_weight=0.0, feature_form=form, feature_weight=1.0)
        inputs = inputs_of(recipe, data)
        assert not equal(weights(recipe, inputs), weights(short(), inputs))

    def test_a_smaller_teacher_reads_the_students_input_at_its_size(
        self, teacher: Path, data: tuple[Dataset, Features]
    ) -> None:
        recipe = taught_by(teacher, feature_form="projection")
        assert all(
            tensor.isfinite().all() for tensor in weights(recipe, inputs_of(recipe, data, (32, 32)), 32).values()
        )

    def test_a_larger_one_is_refused(self, teacher: Path, data: tuple[Dataset, Features]) -> None:
        with pytest.raises(UserError, match=r"reads 16x16 .* the student 12x16"):
            inputs_of(taught_by(teacher, feature_form="projection"), data, (12, 16))

    def test_a_file_teaches_none(self, data: tuple[Dataset, Features], tmp_path: Path) -> None:
        names = train_names(data[0])
        path = write_logits(tmp_path / "a.csv", names, np.zeros((len(names), 3)))
        with pytest.raises(UserError, match="features are taught by a run"):
            inputs_of(taught_by(path, feature_form="gram"), data)

    def test_the_network_that_is_kept_is_the_students_alone(
        self, teacher: Path, data: tuple[Dataset, Features], tmp_path: Path
    ) -> None:
        recipe = taught_by(teacher, feature_form="gram", multitask="none")
        run = Run(tmp_path / "run")
        run.path.mkdir()
        config = {**Run(teacher).config, "architecture": STUDENT, "recipe": recipe.record()}
        run.write_json("run.json", config)
        train_recorded(run, STUDENT, inputs_of(recipe, data), recipe, 32, 0, CPU)
        plain = train(STUDENT, load_inputs(*data, size=SIZE), short(), 32, 0, CPU).state_dict()
        assert {name for name in load_file(run.weights_path) if not name.startswith("normalise.")} == set(plain)
        load_model(run)


class TestRecords:
    def test_a_recipe_without_teachers_is_recorded_as_before(self) -> None:
        assert set(short().record()) == {f.name for f in dataclasses.fields(Recipe)[:21]}
        assert json.loads(json.dumps(short().record())) == short().record()

    def test_teachers_stand_there_as_they_were_named_with_what_they_held(self, teacher: Path, monkeypatch: Any) -> None:
        monkeypatch.chdir(teacher.parent)
        record = with_options(get_recipe("strong"), teacher=["run"]).record()
        assert record["teachers"] == ["run"]
        assert [name for name, _ in record["digests"]] == ["run"]
        assert record["soft_weight"] == 0.98

    def test_a_command_s_words_make_a_recorded_recipe_again(self, teacher: Path) -> None:
        for name, options in (
            ("strong", {"prune": 0.5, "prune_steps": 8, "precision": "int8-qat"}),
            ("strong", {"teacher": [str(teacher)], "temperature": 4.0}),
            ("joint-gram", {"teacher": [str(teacher)], "precision": "int8-ptq"}),
            ("paper", {"teacher": [str(teacher)], "features": "gram", "feature_weight": 0.2}),
            ("mixstyle", {"multitask": "pcgrad", "impulses": "generated"}),
        ):
            recipe = recipe_of({"recipe": name, **options})
            record = json.loads(json.dumps(recipe.record()))
            assert Recipe.of(record) == recipe
            assert parsed(name, words_of(record)) == recipe

    def test_a_record_of_another_version_is_said_to_be_one(self) -> None:
        record = get_recipe("strong").record()
        for other in ({**record, "momentum_of_inertia": 1}, {"name": "strong"}, {**record, "temperature": "warm"}):
            with pytest.raises(UserError, match="records no recipe of this version"):
                Recipe.of(other)

    def test_the_int8_network_of_the_same_weights_is_another_teacher(self, own_teacher: Path) -> None:
        before = teacher_digest(str(own_teacher))
        run = Run(own_teacher)
        (own_teacher / "int8.safetensors").write_bytes(b"int8")
        assert teacher_digest(str(own_teacher)) == before
        run.write_json("run.json", {**run.config, "final": {**run.final, "precision": "int8-ptq"}})
        assert teacher_digest(str(own_teacher)) == hashlib.sha256(b"int8").hexdigest()

    def test_two_recipes_share_no_folders_name(self, teacher: Path) -> None:
        mine = with_options(get_recipe("taught"), teacher=[str(teacher)])
        other = with_options(get_recipe("taught"), teacher=[str(teacher)], temperature=4.0)
        assert get_recipe("taught").label == "taught"
        assert mine.label.startswith("taught-with-")
        assert mine.label != other.label
        assert dataclasses.replace(mine, digests=(("x", "y"),)).label == mine.label


def tiny(folder: Path, runs: Path, *more: str) -> list[str]:
    options = ["--data", str(folder), "--runs", str(runs), "--device", "cpu"]
    return [*options, *more]


class TestRetraining:
    def options(self, folder: Path, runs: Path, *more: str) -> list[str]:
        return tiny(folder, runs, "--architecture", STUDENT, "--epochs", "1", *more)

    def test_it_is_taught_and_records_by_whom(
        self, teacher: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        more = ["--recipe", "joint", "--teacher", str(teacher), "--temperature", "3", "--multitask", "none"]
        assert retrain.main(self.options(tiny_folder, tmp_path, *more, "--json")) == 0
        told = capsys.readouterr()
        report = json.loads(told.out)
        assert f"taught by {teacher}: soft targets at temperature 3, weights by phases, and features" in told.err
        recipe = report["recipe"]
        assert (recipe["teachers"], recipe["temperature"], recipe["feature_form"]) == (
            [str(teacher)],
            3.0,
            "projection",
        )
        assert dict(recipe["digests"]) == {str(teacher): teachers.teacher_digest(str(teacher))}
        assert "-joint-with-" in report["run"]
        assert report["params"] < 2_000  # the student's alone
        assert retrain.main(self.options(tiny_folder, tmp_path, *more)) == 0  # finished already: its scores
        assert f"\ntaught by {teacher}\n" in capsys.readouterr().out

    def test_another_teacher_under_the_same_name_is_refused_and_what_differs_is_said(
        self, own_teacher: Path, tiny_folder: Path, tmp_path: Path
    ) -> None:
        options = self.options(tiny_folder, tmp_path, "--recipe", "taught", "--teacher", str(own_teacher))
        assert retrain.main(options) == 0
        (run,) = (tmp_path / "retrain").glob("esc-*-taught-with-*")
        before = Run(run).config["recipe"]["digests"][0][1]
        (run / "scores.json").unlink()
        weights = own_teacher / "weights.safetensors"
        save_file({name: tensor + 1e-3 for name, tensor in load_file(weights).items()}, weights)
        with pytest.raises(
            UserError, match=f"digests .*{before[:20]}.*now .*{teachers.teacher_digest(str(own_teacher))[:20]}"
        ):
            retrain.main([*options, "--resume"])

    def test_super_classes_and_responses_of_ones_own(
        self, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        own = tmp_path / "own.csv"
        own.write_text("label,super_class\nhigh,tone\nlow,tone\nnoise,noise\n")
        more = ["--multitask", "pcgrad", "--super-classes", str(own), "--impulses", "generated", "--json"]
        assert retrain.main(self.options(tiny_folder, tmp_path, *more)) == 0
        recipe = json.loads(capsys.readouterr().out)["recipe"]
        assert (recipe["multitask"], recipe["impulses"]) == ("pcgrad", "generated")
        with pytest.raises(UserError, match="no super-class for 3 of the 3 classes"):
            retrain.main(self.options(tiny_folder, tmp_path, "--multitask", "sum"))

    def test_recorded_before_there_were_teachers_it_is_still_the_same_run(
        self, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert retrain.main(self.options(tiny_folder, tmp_path)) == 0
        (run,) = (tmp_path / "retrain").glob("esc-*-strong-e1-s0")
        assert set(Run(run).config["recipe"]) == {field.name for field in dataclasses.fields(Recipe)[:21]}
        capsys.readouterr()
        assert retrain.main(self.options(tiny_folder, tmp_path)) == 0
        assert "has finished already" in " ".join(capsys.readouterr().out.split())


class TestStudy:
    def options(self, folder: Path, runs: Path, *more: str) -> list[str]:
        sizes = ["--budget", "96", "--train-input", "16x16", "--workers", "1", "--study", "taught"]
        return tiny(folder, runs, *sizes, *more)

    def test_all_its_networks_are_taught_and_another_teacher_is_refused(
        self, teacher: Path, own_teacher: Path, tiny_folder: Path, tmp_path: Path
    ) -> None:
        runs = tmp_path / "runs"
        (tmp_path / "study.toml").write_text(f'teacher = ["{teacher}"]\nsoft-weight = 0.9\n')
        config = ["--config", str(tmp_path / "study.toml")]
        assert studies_run.main(self.options(tiny_folder, runs, "--trials", "1", *config)) == 0
        recipe = Run(runs / "taught" / "trials" / "00000").config["recipe"]
        assert (recipe["name"], recipe["teachers"], recipe["soft_weight"]) == ("short", [str(teacher)], 0.9)
        again = self.options(tiny_folder, runs, "--trials", "1")
        assert (
            studies_run.main([*again, "--teacher", str(teacher), "--soft-weight", "0.9"]) == 0
        )  # nothing is left to do
        with pytest.raises(UserError, match=r"recipe: teachers .*, now .*own.*digests "):
            studies_run.main([*again, "--teacher", str(own_teacher), "--soft-weight", "0.9"])
        with pytest.raises(UserError, match=r"teachers .*, now None"):
            studies_run.main(again)

    def test_a_retraining_says_what_taught_the_study(
        self, teacher: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        runs = tmp_path / "runs"
        given = ["--teacher", str(teacher), "--soft-weight", "0.9"]
        assert studies_run.main(self.options(tiny_folder, runs, "--trials", "1", *given)) == 0
        capsys.readouterr()
        options = [*("--runs", str(runs), "--study", "taught", "--trial", "0"), *("--epochs", "1", "--device", "cpu")]
        for words, said in (([], True), (given, False)):
            assert retrain.main([*options, "--recipe", "short", *words]) == 0
            out = " ".join(capsys.readouterr().out.split())
            assert (f"--teacher {teacher} --soft-weight 0.9" in out) is said


class TestAblation:
    def options(self, folder: Path, runs: Path, *more: str) -> list[str]:
        sizes = [
            "--budget",
            "32",
            "--train-input",
            "16x16",
            "--workers",
            "1",
            "--seeds",
            "2",
            "--base",
            STUDENT,
            "--name",
            "t",
        ]
        return tiny(folder, runs, *sizes, *more)

    @pytest.mark.slow
    def test_with_and_without_a_teacher_and_with_its_features_alone(
        self, teacher: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        taught_both = ["--teacher", str(teacher), "--features", "projection"]
        chosen = ["--factors", "teacher=none,soft_weight=0", "--seeds", "1"]
        assert ablate.main([*self.options(tiny_folder, tmp_path), *taught_both, *chosen, "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert len(report["rows"]) == 3
        configs = [Run(path).config["recipe"] for path in (tmp_path / "t").glob("dssdn_*")]
        said = {(r.get("soft_weight"), r.get("feature_form"), "teachers" in r, "digests" in r) for r in configs}
        assert said == {(0.98, "projection", True, True), (None, None, False, False), (None, "projection", True, True)}

    def test_without_a_teacher_they_are_inactive_and_say_why(
        self, teacher: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert ablate.main([*self.options(tiny_folder, tmp_path), "--list", "--json"]) == 0
        listed = {row["factor"]: row for row in json.loads(capsys.readouterr().out)["factors"]}
        for name in ("temperature", "soft_weight", "kl_reduction", "features", "feature_weight"):
            assert "--teacher gives it one" in listed[name]["inactive"], name
        assert "no super-class" in listed["multitask"]["inactive"]
        assert (listed["teacher"]["level"], listed["teacher"]["inactive"]) == ("none", None)
        assert "taught" not in listed["recipe"]["options"]
