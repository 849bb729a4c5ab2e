"""Networks handed out: programs that agree with torch, tables that agree with the records, cards that give no path away."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from search_space.blocks import Cross, plain
from search_space.comparators import COMPARATORS
from search_space.complexity import count_network
from search_space.errors import UserError
from search_space.model import build_model
from search_space.operators import OPERATORS
from search_space.presets import RELATED
from search_space.rounding import per_cent
from studies import open_study
from studies.card import card, licence, without_paths
from studies.export import main
from trainers import programs
from trainers.features import FrontEnd
from trainers.inputs import Inputs
from trainers.metrics import scores
from trainers.programs import METADATA, PROGRAMS, TOLERANCE, Probe, as_call, latency_ms
from trainers.recorded import Normalise, load_model, save_weights
from trainers.runs import Predictions, Run
from trainers.synthetic import SyntheticDataset

ROOT = Path(__file__).parent.parent
SIZE = (34, 33)
NETWORKS = [
    "dssdn_c4-6_r0.5_sc_h8",
    "dssdn_c4-6-6_r0.375-1_osc.m4-spc.p0.5_h8_high",
    "dssdn_c4-6-6_r0.5_conv_h8_add_t1-2",
    "dssdn_c4-8_r0.5_sc.d2_h8_concat_p1x2_eca0",
    "dssdn_c8-8_r1_sc.g0_h8_plain",
    "cpr_c4-4-6_b1-1_k31-13_g1-2",
    "bcr_c8-4-6_b1-2",
    "tfs_c2-8-4-6_b1-2",
    "sp4asc",
    "dsmn-1",
]


def network_of(name: str, *, plainly: bool = False) -> nn.Sequential:
    """A network with weights and statistics that are nobody's defaults, in eval mode."""
    torch.manual_seed(1)
    model = build_model(name, 3, SIZE[1])
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
    model = plain(model) if plainly else model
    return nn.Sequential(Normalise(torch.full((SIZE[1],), -6.0), torch.full((SIZE[1],), 2.0)), model).eval()


def noise(count: int = 4) -> Probe:
    rng = np.random.default_rng(0)
    return Probe((rng.standard_normal((count, 1, *SIZE)) * 2 - 6).astype(np.float32), why="a test")


def run_onnx(content: bytes, logmel_BCTF: np.ndarray) -> np.ndarray:
    """What onnxruntime says, with nothing of ours in between."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"logmel": logmel_BCTF})[0])


def run_pt2(content: bytes, logmel_BCTF: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        said: torch.Tensor = torch.export.load(io.BytesIO(content)).module()(torch.from_numpy(logmel_BCTF))
    return said.numpy()


class TestPrograms:
    def test_all_operators_are_among_the_networks(self):
        named = set(re.findall("|".join(OPERATORS), " ".join(name for name in NETWORKS if name.startswith("dssdn"))))
        assert named == set(OPERATORS) - {"rep"}  # whose programs have no branches: test_branches_are_merged

    @pytest.mark.parametrize(
        "name", [*NETWORKS[:-2], *(pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS[-2:])]
    )
    def test_says_what_torch_says_whatever_the_batch(self, name):
        network, probe = network_of(name), noise()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        wanted_BK = as_call(network)(probe.logmel_BCTF)
        assert np.ptp(wanted_BK, axis=0).max() > 1e-3  # clips differ, so a mixed-up batch would be seen
        for kind, run in (("onnx", run_onnx), ("pt2", run_pt2)):
            program = PROGRAMS[kind](network, probe, {})
            assert program.greatest_difference <= TOLERANCE
            for few in (slice(4), slice(1, 4), slice(2, 3)):
                said_BK = run(program.content, probe.logmel_BCTF[few])
                np.testing.assert_allclose(said_BK, wanted_BK[few], rtol=0, atol=TOLERANCE)
        assert not network.training
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())

    def test_branches_are_merged(self):
        network, probe = network_of("repm_c2-4-4_b1_x6"), noise()
        program = PROGRAMS["onnx"](network, probe, {})
        assert program.greatest_difference <= TOLERANCE
        kernels = [
            tuple(attribute.ints)
            for node in onnx.load_from_string(program.content).graph.node
            for attribute in node.attribute
            if attribute.name == "kernel_shape" and node.op_type == "Conv"
        ]
        assert sorted(kernels) == sorted([(1, 1)] * 3 + [(3, 3)] * 3 + [(3,)] * 3)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", sorted({*COMPARATORS, *RELATED} - set(NETWORKS)))
    def test_so_do_the_other_comparators_and_their_like(self, name):
        for make in PROGRAMS.values():
            assert make(network_of(name), noise(), {}).greatest_difference <= TOLERANCE

    @pytest.mark.slow
    def test_either_form_of_the_cross_gives_the_same_program(self):
        """The one 3x3 that `Cross` runs as, and the two convolutions of its equation."""
        name, probe = NETWORKS[0], noise()
        fused, two = network_of(name), network_of(name, plainly=True)
        assert any(isinstance(layer, Cross) for layer in fused.modules())
        assert not any(isinstance(layer, Cross) for layer in two.modules())
        contents = [PROGRAMS["onnx"](network, probe, {}).content for network in (fused, two)]
        kernels = [
            {
                tuple(attribute.ints)
                for node in onnx.load_from_string(content).graph.node
                for attribute in node.attribute
                if attribute.name == "kernel_shape" and node.op_type == "Conv"
            }
            for content in contents
        ]
        assert (3, 1) not in kernels[0]
        assert (3, 1) in kernels[1]
        np.testing.assert_allclose(
            run_onnx(contents[0], probe.logmel_BCTF), run_onnx(contents[1], probe.logmel_BCTF), rtol=0, atol=1e-5
        )

    def test_is_refused_when_it_differs(self, monkeypatch):
        monkeypatch.setattr(programs, "TOLERANCE", -1.0)
        with pytest.raises(UserError, match=r"differ from torch's by up to .* more than -1: it is not written"):
            PROGRAMS["onnx"](network_of(NETWORKS[0]), noise(), {})

    def test_is_refused_when_it_says_no_number(self):
        network = network_of(NETWORKS[0])
        network.get_parameter("1.head.classes.bias").data[1] = float("nan")
        with pytest.raises(UserError, match="by up to inf"):
            PROGRAMS["pt2"](network, noise(), {})

    def test_latency_has_a_number_for_everyone(self):
        probe, seen, threads = noise(), set(), torch.get_num_threads()

        def call(logmel_BCTF: np.ndarray) -> np.ndarray:
            seen.add((logmel_BCTF.shape, torch.get_num_threads()))
            return logmel_BCTF

        assert set(latency_ms({"a": call, "b": call}, probe.logmel_BCTF)) == {"a", "b"}
        assert seen == {((1, 1, *SIZE), 1)}
        assert torch.get_num_threads() == threads


def exported(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def own_run(own_study: Path) -> Run:
    """A trial that a test may write into."""
    return Run(own_study / "tiny" / "trials" / "00001")


def score_test(run: Run) -> None:
    """Score 'test' of a run as a full retraining does, of two recorders of which training had one."""
    classes = run.config["data"]["classes"]
    said = Predictions(
        np.eye(3, dtype=np.float32)[[0, 1, 2, 0]] * 0.7 + 0.1,
        np.array([0, 1, 2, 2]),
        ["a.wav", "b.wav", "c.wav", "d.wav"],
        ["a", "a", "s4", "s4"],
    )
    run.write_predictions("test", said)
    run.write_json("scores.json", {"split": "test", **scores(said, tuple(classes), {"a"})})


class TestCommand:
    @pytest.mark.slow
    def test_all_formats_at_once(self, own_run, tiny_folder, capsys):
        document = exported(capsys, own_run.path, "--to", "onnx,pt2,csv,card")
        folder = own_run.path / "export"
        names = ["card.md", "curve.csv", "network.onnx", "network.pt2", "predictions-val.csv"]
        assert sorted(path.name for path in folder.iterdir()) == names
        assert sorted(Path(file["path"]).name for file in document["files"]) == names
        assert all(Path(file["path"]).stat().st_size == file["bytes"] for file in document["files"])
        val = own_run.predictions("val")
        for kind in ("onnx", "pt2"):
            parity = document["parity"][kind]
            assert parity["greatest_difference"] <= parity["tolerance"]
            assert set(parity["clips"]) <= set(val.filenames)
            assert len(parity["clips"]) == min(8, len(val.filenames))
            # the clips' log-mels are those of training: the network says of them what it said then
            assert parity["recorded_difference"] < 1e-4
        assert set(document["latency"]["ms"]) == {"torch", "onnxruntime"}
        assert document["latency"]["threads"] == 1
        self.check_onnx(own_run, folder / "network.onnx")
        self.check_no_paths(folder, [str(ROOT), str(own_run.path.parents[3]), str(tiny_folder.parent), sys.prefix])

    def check_onnx(self, run: Run, path: Path) -> None:
        model = onnx.load(path)
        properties = {entry.key: entry.value for entry in model.metadata_props}
        config = run.config
        assert json.loads(properties["classes"]) == config["data"]["classes"]
        assert json.loads(properties["front_end"]) == config["data"]["front_end"]
        assert json.loads(properties["synthetic"]) is False
        assert [int(properties["frames"]), int(properties["mels"])] == config["train_input"]
        assert int(properties["sample_rate"]) == config["data"]["front_end"]["sample_rate"]
        assert properties["network"] == config["architecture"]
        assert "area average" in properties["input"]
        (logmel,), (logits,) = model.graph.input, model.graph.output
        shapes = [
            [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in (logmel, logits)
        ]
        assert shapes == [["batch", 1, *config["train_input"]], ["batch", 3]]
        rng = np.random.default_rng(0)
        clips_BCTF = rng.normal(-5, 3, (5, 1, *config["train_input"])).astype(np.float32)
        np.testing.assert_allclose(
            run_onnx(path.read_bytes(), clips_BCTF), as_call(load_model(run))(clips_BCTF), rtol=0, atol=TOLERANCE
        )

    def check_no_paths(self, folder: Path, secrets: list[str]) -> None:
        with zipfile.ZipFile(folder / "network.pt2") as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        metadata = next(content for name, content in members.items() if name.endswith(METADATA))
        assert json.loads(metadata)["classes"] == json.dumps(["high", "low", "noise"])
        files = members | {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix != ".pt2"}
        assert [
            (name, secret) for name, content in files.items() for secret in secrets if secret.encode() in content
        ] == []

    def test_tables_hold_what_the_run_recorded(self, own_run, capsys):
        score_test(own_run)
        document = exported(capsys, own_run.path, "--to", "csv")
        assert {Path(file["path"]).name: file["rows"] for file in document["files"]} == {
            "curve.csv": len(own_run.metrics()),
            "predictions-val.csv": len(own_run.predictions("val").filenames),
            "predictions-test.csv": 4,
        }
        classes = own_run.config["data"]["classes"]
        for split in ("val", "test"):
            rows, said = rows_of(own_run.path / "export" / f"predictions-{split}.csv"), own_run.predictions(split)
            assert [row["filename"] for row in rows] == said.filenames
            assert [row["label"] for row in rows] == [classes[k] for k in said.labels_N]
            assert [row["predicted"] for row in rows] == [classes[k] for k in said.probabilities_NK.argmax(1)]
            read = np.array([[row[f"p_{name}"] for name in classes] for row in rows], dtype=np.float32)
            np.testing.assert_array_equal(read, said.probabilities_NK)
        curve = rows_of(own_run.path / "export" / "curve.csv")
        assert [float(row["loss"]) for row in curve] == [row["loss"] for row in own_run.metrics()]

    @pytest.mark.parametrize("by_name", [True, False])
    def test_a_study_is_a_table_of_its_trials(self, own_study, capsys, by_name):
        where = ("tiny", "--runs", own_study) if by_name else (own_study / "tiny",)
        document = exported(capsys, *where, "--to", "csv")
        rows, trials = rows_of(own_study / "tiny" / "export" / "trials.csv"), open_study("tiny", own_study).trials()
        assert document["files"][0]["rows"] == len(rows) == len(trials)
        assert list(rows[0]) == list(trials.columns)
        assert [row["architecture"] for row in rows] == list(trials["architecture"])
        assert [float(row["val_accuracy"]) for row in rows] == list(trials["val_accuracy"])

    def test_random_inputs_are_said_where_the_data_is_gone(self, own_run, capsys):
        config = own_run.config
        own_run.write_json("run.json", {**config, "data": {**config["data"], "source": "/nowhere/private/esc"}})
        document = exported(capsys, own_run.path, "--to", "pt2,card")
        assert document["parity"]["pt2"]["input"] == "8 random inputs"
        assert document["parity"]["pt2"]["clips"] == []
        assert "'esc' is not on this machine" in document["notices"][0]
        text = (own_run.path / "export" / "card.md").read_text()
        assert "8 random inputs" in text
        assert "private" not in text

    def test_generated_clips_are_made_again(self, tmp_path, capsys):
        """Synthetic data lies nowhere: its clips are functions of their names."""
        dataset, run = SyntheticDataset.generate(), Run(tmp_path / "run")
        names = [dataset.clips[row].filename for row in dataset.splits.val[:2]]
        front_end = FrontEnd(n_mels=32)
        data = {"source": "synthetic", "subset": None, "fold": 5, "name": "synthetic", "synthetic": True, "digest": ""}
        data |= {"classes": list(dataset.classes), "duration_s": dataset.duration_s}
        data |= {"front_end": dataclasses.asdict(front_end), "counts": {"train": 1, "val": 2, "test": 1}}
        notation, full = "dssdn_c4-6_r0.5_sc_h8", [front_end.frames(dataset.duration_s), 32]
        config = {
            "architecture": notation,
            "data": data,
            "input": full,
            "train_input": [40, 16],
            "recipe": {},
            "seed": 0,
        }
        run.write_json("run.json", config)
        said_NK = np.full((2, 10), 0.1, dtype=np.float32)
        run.write_predictions("val", Predictions(said_NK, np.zeros(2, dtype=np.int64), names, ["a", "a"]))
        save_weights(
            run, build_model(notation, 10), Inputs({}, torch.full((16,), -6.0), torch.ones(16), dataset.classes)
        )
        document = exported(capsys, run.path, "--to", "pt2")
        assert document["synthetic"] is True
        assert document["parity"]["pt2"]["clips"] == names
        assert 0 < document["parity"]["pt2"]["recorded_difference"] < 1

    def test_what_it_wrote_is_replaced_and_other_files_are_not(self, own_run, tmp_path, capsys):
        for _ in range(2):
            exported(capsys, own_run.path, "--to", "csv")
        dest = tmp_path / "elsewhere"
        exported(capsys, own_run.path, "--to", "csv", "--out", dest)
        (dest / "curve.csv").write_text("mine")
        with pytest.raises(UserError, match=r"curve\.csv' exists; .*--force"):
            main([str(own_run.path), "--to", "csv", "--out", str(dest)])
        assert (dest / "curve.csv").read_text() == "mine"
        exported(capsys, own_run.path, "--to", "csv", "--out", dest, "--force")
        assert (dest / "curve.csv").read_text() != "mine"

    def test_one_file_may_be_named(self, own_run, tmp_path, capsys):
        target = tmp_path / "new" / "about.md"
        exported(capsys, own_run.path, "--to", "card", "--out", target)
        assert target.read_text().startswith(f"# {own_run.config['architecture']}\n")
        for formats in ("card,csv", "onnx", "csv"):
            with pytest.raises(UserError, match=r"names one file, and --to .* name a folder"):
                main([str(own_run.path), "--to", formats, "--out", str(target)])

    def test_a_refused_program_leaves_no_file_and_holds_no_other_back(self, own_run, monkeypatch, capsys):
        (own_run.path / "export").mkdir(exist_ok=True)
        (own_run.path / "export" / "network.pt2").write_bytes(b"an earlier one")
        monkeypatch.setattr(programs, "TOLERANCE", -1.0)
        with pytest.raises(UserError, match=r"pt2: .* it is not written"):
            main([str(own_run.path), "--to", "csv,pt2,card", "--json"])
        document = json.loads(capsys.readouterr().out)
        assert list(document["refused"]) == ["pt2"]
        names = {path.name for path in (own_run.path / "export").iterdir()}
        assert names == {Path(file["path"]).name for file in document["files"]} >= {"curve.csv", "card.md"}
        assert "network.pt2" not in names
        assert "`network.pt2` is refused: " in (own_run.path / "export" / "card.md").read_text()


class TestBadInput:
    def check(self, message: str, *arguments: object) -> None:
        with pytest.raises(UserError, match=message):
            main([*map(str, arguments)])

    def test_formats(self, own_run):
        self.check(
            r"unknown format 'h5'; known: \['card', 'csv', 'onnx', 'onnx-int8', 'pt2'\]", own_run.path, "--to", "csv,h5"
        )
        self.check("at least one format", own_run.path, "--to", ",")

    def test_a_folder_without_a_run_names_those_near(self, own_study, tmp_path):
        self.check(r"holds no run .*runs with weights near it: .*00000", own_study / "tiny" / "trials", "--to", "csv")
        self.check("name a trial's folder", tmp_path / "nothing", "--to", "csv", "--runs", tmp_path / "none")

    def test_a_study_has_no_network(self, own_study):
        self.check(r"is a study, and --to onnx is of one run: .*00000", own_study / "tiny", "--to", "onnx")

    def test_a_run_that_has_not_finished(self, own_run):
        own_run.weights_path.unlink()
        own_run.write_status("interrupted", epoch=2, epochs=9)
        self.check(r"its training is interrupted, epoch 2 of 9; .*--resume", own_run.path, "--to", "card")

    def test_a_record_of_another_program(self, tmp_path):
        (tmp_path / "run.json").write_text('{"lr": 0.1}')
        self.check("is no run of this project", tmp_path, "--to", "card")

    def test_weights_of_another_network(self, own_run, own_study):
        other = next(run for k in range(4) if (run := open_study("tiny", own_study).run(k)).path != own_run.path)
        assert other.config["architecture"] != own_run.config["architecture"]
        shutil.copy(other.weights_path, own_run.weights_path)
        self.check("weights of another network", own_run.path, "--to", "pt2")

    def test_places_that_cannot_be_written(self, own_run, tmp_path):
        (tmp_path / "file").write_text("")
        self.check("is a file; name a folder", own_run.path, "--to", "csv", "--out", tmp_path / "file")
        self.check("cannot be written", own_run.path, "--to", "csv", "--out", tmp_path / "file" / "deeper")
        (tmp_path / "dest" / "card.md").mkdir(parents=True)
        self.check("is a folder", own_run.path, "--to", "card", "--out", tmp_path / "dest")

    def test_onnx_that_is_not_installed(self, own_run, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        self.check(r"needs onnxruntime: pip install -e '\.\[export\]'", own_run.path, "--to", "onnx")
        assert not (own_run.path / "export").exists()


class TestCard:
    def test_costs_and_scores_are_the_records(self, own_run):
        text, config, val = card(own_run), own_run.config, own_run.predictions("val")
        cost = count_network(config["architecture"], tuple(config["input"]), 3)
        assert f"| params | {cost.params:,} |" in text
        assert f"| {cost.macs:,} |" in text
        assert f"{cost.param_bytes('float16'):,} as float16" in text
        assert f"| val | {len(val.filenames)} | {per_cent(val.accuracy)} ± " in text
        assert "The test split was not scored" in text
        assert "a study's candidate" in text
        assert own_run.provenance["git"] in text
        assert f"| seed | {config['seed']} |" in text

    def test_test_scores_by_scene_and_recorder(self, own_run):
        score_test(own_run)
        text = card(own_run)
        assert "| test, scored once | 4 | 75.0 % ± 21.7 % |" in text
        assert "recorders that training had heard: 100.0 %; of recorders that it had not: 50.0 %" in text
        assert "| noise | 50.0 % |" in text
        assert "| s4 | 50.0 % |" in text
        assert "Not comparable with means over several folds" in text

    @pytest.fixture
    def retrained(self, own_run) -> Run:
        """The record of a full retraining of seed 1, by a command that trained three and went on after two breaks."""
        config = {**own_run.config, "kind": "retrain", "study": "tiny", "trial": 1, "epochs": 7, "seed": 1}
        own_run.write_json("run.json", {**config, "device": "cpu", "threads": 5, "accumulate": 4})
        command = "python -m trainers.retrain --study tiny --trial 1 --seeds 3 --resume"
        before = [{"started": "2001-01-01"}, {"started": "2002-02-02"}]
        kept = {**own_run.provenance, "command": command, "started": "2003-03-03", "resumed_from": before}
        own_run.write_json("provenance.json", kept)
        return own_run

    def test_the_command_of_a_retraining_makes_that_run(self, retrained):
        score_test(retrained)
        text, recipe = card(retrained), retrained.config["recipe"]["name"]
        command = f"python -m trainers.retrain --study tiny --trial 1 --recipe {recipe} --epochs 7 --seed 1 --device cpu --accumulate 4"
        assert f"```\n{command}\n```" in text
        retrained.write_json("scores.json", {**retrained.scores, "tta": {**retrained.scores, "draws": 8}})
        assert f"```\n{command} --tta 8\n```" in card(retrained)

    def test_the_command_of_a_network_that_no_study_found(self, retrained):
        config = retrained.config
        data = {**config["data"], "source": "/home/ann/ESC-50", "subset": "esc10", "fold": 2}
        named = {**config, "study": None, "trial": None, "architecture": "sp4asc", "preset": "sp4asc", "data": data}
        retrained.write_json("run.json", named)
        start = "python -m trainers.retrain --architecture sp4asc --data ESC-50 --subset esc10 --fold 2 --recipe "
        assert start in card(retrained)

    def test_threads_parts_and_breaks_are_told_where_recorded(self, retrained):
        text = card(retrained)
        assert "| threads | 5 |" in text
        assert "| parts that a batch passes in | 4 |" in text
        assert "| started | 2001-01-01 |" in text
        assert "| resumed | 2 times, last 2003-03-03; " in text
        config = {key: value for key, value in retrained.config.items() if key not in ("threads", "accumulate")}
        retrained.write_json("run.json", config)
        retrained.write_json("provenance.json", {"started": "2003-03-03"})
        text = card(retrained)
        assert "| started | 2003-03-03 |" in text
        assert not re.search(r"^\| (threads|parts|resumed)", text, re.MULTILINE)

    def test_a_retraining_without_scores_is_told_to_go_on(self, retrained):
        text = card(retrained)
        assert "not scored yet: this training has not finished" in text
        assert "`--resume`" in text
        assert "that is for full trainings" not in text

    def test_synthetic_data_is_called_so(self, own_run):
        config = own_run.config
        data = {**config["data"], "name": "synthetic", "source": "synthetic", "synthetic": True}
        own_run.write_json("run.json", {**config, "data": data})
        text = card(own_run)
        assert "synthetic data, no recordings" in text
        assert "say nothing about real scenes" in text

    def test_every_section_has_something_to_say(self, own_run):
        parts = re.split(r"^## .*$", card(own_run), flags=re.MULTILINE)
        assert len(parts) == 8
        assert all(part.strip() for part in parts)

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("esc10", "CC BY 3.0 or CC0"),
            ("esc50-mine", "NonCommercial 3.0"),
            ("tau2022-split25", "Tampere University, non-commercial"),
            ("esc10-recorders", "Not recorded"),
            ("own-street", "Not recorded"),
        ],
    )
    def test_licences(self, name, said):
        assert said in licence(name, synthetic=False)
        assert "generated" in licence(name, synthetic=True)

    @pytest.mark.parametrize(
        ("command", "shown"),
        [
            (
                "python -m studies.run --data /home/ann/ESC-50 --trials 3",
                "python -m studies.run --data ESC-50 --trials 3",
            ),
            ("python -m studies.run --data=/home/ann/ESC-50/", "python -m studies.run --data=ESC-50"),
            ("python -m x ../../ann/data '~/my sounds'", "python -m x data 'my sounds'"),
            ("python -m x --data 'C:\\Users\\ann\\tau'", "python -m x --data tau"),
            ("python -m x --storage postgresql://ann:***@db.example/s", "python -m x --storage URL"),
            ("python -m x --runs runs/mine --lr 1/2", "python -m x --runs runs/mine --lr 1/2"),
        ],
    )
    def test_commands_lose_their_paths(self, command, shown):
        assert without_paths(command) == shown


def test_the_command_loads_torch_only_for_networks():
    code = "import sys, studies.export; assert 'torch' not in sys.modules and 'onnx' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
