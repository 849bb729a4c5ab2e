"""Structured pruning: shapes really shrink, what stays computes what it did, and a training that shrinks goes on exactly from any batch."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from search_space.architecture import Architecture
from search_space.blocks import Cross, plain
from search_space.complexity import count
from search_space.errors import UserError, open_console
from search_space.mobile import Mobile, count_mobile
from search_space.model import build_model
from studies import export
from trainers import pruning, retrain
from trainers.changes import check_changes
from trainers.clips import Clip
from trainers.config import Recipe, get_recipe, short
from trainers.inputs import Inputs, Split, load_inputs
from trainers.loop import Course, Epoch, Stopped, train
from trainers.opening import open_data
from trainers.recorded import load_model, train_recorded
from trainers.runs import Run

CPU = torch.device("cpu")
TINY = "dssdn_c12-16-20_r0.5_sc_h16"
ALIKE = [
    "dssdn_c8-12-16_r0.5_sc_h16_eca0",
    "dssdn_c8-12-16_r0.5_sc.d2_h16_high_eca0",
    "dssdn_c8-12-16_r0.5_osc.m4_h16_add_t1-2_eca0",
    "dssdn_c8-12-16_r0.5_spc.p0.5_h16_eca0",
    "dssdn_c8-12-16_r0.5_conv_h16_concat_eca0",
    "dssdn_c8-12-16_r1_sc_h16_eca0_chain",
    "dssdn_c8-12-16_r1_spc.p0.5_h16_plain",
    "dssdn_c8-12-16_r0.5_rep_h16_eca0",
]
MOBILE = ["cpm_c4-8-8-12_b2-1_x16-16-16", "repm_c4-8-8-12_b2-1_x16-16-16"]


def _inputs() -> Inputs:
    """Clips whose class is the third of the mels that is loud."""

    def split(count: int, seed: int) -> Split:
        generator = torch.Generator().manual_seed(seed)
        labels_N = torch.arange(count) % 3
        logmel_NTF = torch.randn(count, 12, 12, generator=generator)
        for index, label in enumerate(labels_N):
            logmel_NTF[index, :, 4 * int(label) : 4 * (int(label) + 1)] += 1.5
        clip = Clip(filename="x.wav", scene="a", group="g", recorder="", city="", location="", fold=None, split="train")
        return Split(logmel_NTF.half(), labels_N, (clip,) * count)

    return Inputs({"train": split(96, 0), "val": split(33, 1)}, torch.zeros(12), torch.ones(12), ("a", "b", "c"))


def _settled(network: str) -> nn.Module:
    """A network whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    model = build_model(network, 3)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias)
    return model.eval()


def _silence(model: nn.Module, spec: Architecture, widths: list[int]) -> nn.Module:
    """Make as many channels of every group as a network of these widths lacks say nothing, by what they are made of."""
    narrow = pruning.like(model, pruning.family_of(spec)[0].narrower(spec, widths))
    shapes = {name: tensor.shape for name, tensor in narrow.state_dict().items()}
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                # Half of them at either end: each side of a partial convolution's, or a concatenation's, cut loses its share.
                lost = len(layer.weight) - shapes[f"{name}.weight"][0]
                silent = [*range(lost // 2), *range(len(layer.weight) - (lost - lost // 2), len(layer.weight))]
                for tensor in (layer.weight, layer.bias):
                    tensor[silent] = 0
            elif name.endswith("partial.cross"):  # what a silent channel is mixed of there is not silent
                assert isinstance(layer, Cross)
                lost = len(layer.along_time) - shapes[f"{name}.along_time"][0]
                layer.along_time[:lost], layer.along_mel[:lost] = 0, 0
            elif name.endswith(("distil_input", "distil_first")):
                assert isinstance(layer, nn.Conv2d)
                lost = len(layer.weight) - shapes[f"{name}.weight"][0]
                layer.weight[:lost], layer.bias[:lost] = 0, 0  # type: ignore[index]
    return model


class TestNarrower:
    @pytest.mark.parametrize("network", ALIKE)
    def test_without_channels_that_say_nothing_it_answers_the_same(self, network: str) -> None:
        """SPC's first channels are among those that go, concat's from both halves."""
        spec, widths = Architecture.parse(network), [6, 8, 12]
        model = _silence(_settled(network), spec, widths)
        family, _ = pruning.family_of(network)
        small = family.narrower(spec, widths)
        narrow = pruning.like(model, small)
        kept = family.kept(spec, family.importance(model), widths)
        pruning.transfer(model, narrow, family.selection(model, spec, narrow, kept))
        logmel_BCTF = torch.randn(4, 1, 16, 16)
        with torch.no_grad():
            torch.testing.assert_close(narrow.eval()(logmel_BCTF), model(logmel_BCTF), rtol=1e-4, atol=1e-5)
        n_params = sum(parameter.numel() for parameter in plain(narrow).parameters())
        assert n_params == count(small, (16, 16), 3).params < count(spec, (16, 16), 3).params

    @pytest.mark.parametrize("network", MOBILE)
    def test_nor_does_a_mobile_network_without_them(self, network: str) -> None:
        """Silent are expanded channels, which the channel-wise convolutions pass on as they are, and channels of the map."""
        spec, model = Mobile.parse(network), _settled(network)
        family, _ = pruning.family_of(network)
        widths = [3, 6, 9, 12, 11, 10]
        narrow = pruning.like(model, small := family.narrower(spec, widths))
        shapes = {name: tensor.shape for name, tensor in narrow.state_dict().items()}
        with torch.no_grad():
            for name, layer in model.named_modules():
                if isinstance(layer, nn.BatchNorm2d):
                    lost = len(layer.weight) - shapes[f"{name}.weight"][0]
                    layer.weight[:lost], layer.bias[:lost] = 0, 0
        kept = family.kept(spec, family.importance(model), widths)
        assert [len(of) for of in kept] == widths
        pruning.transfer(model, narrow, family.selection(model, spec, narrow, kept))
        logmel_BCTF = torch.randn(4, 1, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(narrow.eval()(logmel_BCTF), model(logmel_BCTF), rtol=1e-4, atol=1e-5)
        assert count_mobile(small, (32, 32), 3).params < count_mobile(spec, (32, 32), 3).params

    def test_nothing_goes_where_nothing_is_asked_for(self) -> None:
        model = _settled(TINY)
        params = count(TINY, (16, 16), 3).params
        spec, narrow, _ = pruning.shrunk(TINY, model, params, (16, 16))
        assert str(spec) == TINY
        logmel_BCTF = torch.randn(2, 1, 16, 16)
        assert torch.equal(narrow.eval()(logmel_BCTF), model(logmel_BCTF))

    def test_the_least_important_channels_go_first(self) -> None:
        model = _settled(TINY)
        with torch.no_grad():
            norm = model.get_submodule("blocks.0.norm")
            norm.weight[torch.tensor([1, 5, 6])] = 1e-3  # type: ignore[index, operator]
        first, params = count(TINY, (16, 16), 3).params, count(TINY.replace("-16-", "-13-"), (16, 16), 3).params
        spec, _, selection = pruning.shrunk(TINY, model, params, (16, 16))
        assert params < first
        assert str(spec) == TINY.replace("-16-", "-13-")
        kept_C = selection["blocks.0.norm.weight"][0]
        assert kept_C is not None
        assert sorted(set(range(16)) - set(kept_C.tolist())) == [1, 5, 6]

    @pytest.mark.parametrize("share", [0.75, 0.5, 0.3])
    def test_one_step_and_many_end_at_the_same_size(self, share: float) -> None:
        network = "dssdn_c28-44-60-60_r0.5_sc_h64"
        model, first = _settled(network), count(network, (32, 32), 3).params
        family, spec = pruning.family_of(network)
        sizes = []
        for number in (1, 8):
            became, narrow = spec, model
            for _, left in pruning.steps(1 - share, number, 0.3, 0.7):
                became, narrow, _ = pruning.shrunk(became, narrow, round(left * first), (32, 32), family.widths(spec))
            sizes.append(count(became, (32, 32), 3).params)
        assert sizes == pytest.approx([share * first] * 2, rel=0.01)

    def test_macs_fall_with_the_params(self) -> None:
        model, wide = _settled(TINY), count(TINY, (64, 64), 3)
        spec, _, _ = pruning.shrunk(TINY, model, wide.params // 2, (16, 16))
        assert count(spec, (64, 64), 3).macs < 0.7 * wide.macs

    def test_no_layer_goes_below_its_floor(self) -> None:
        network = "dssdn_c28-44-60_r0.5_sc_h16"
        spec, _, _ = pruning.shrunk(network, _settled(network), 0, (16, 16))
        assert pruning.family_of(network)[0].widths(spec) == (7, 11, 15)


class TestRefused:
    @pytest.mark.parametrize(
        ("network", "why"),
        [
            ("dssdn_c8-12_r0.5_sc.g2_h16", "groups"),
            ("dsmn-1", "nothing says which of its channels"),
            ("bc-resnet", "nothing says which"),
        ],
    )
    def test_networks_that_can_not_be_pruned(self, network: str, why: str) -> None:
        with pytest.raises(UserError, match=why):
            pruning.family_of(network)

    def test_a_share_that_leaves_less_than_the_floors(self) -> None:
        with pytest.raises(UserError, match=r"choose at most --prune 0\.\d"):
            pruning.check_prunable(TINY, 0.97, (16, 16), 3)

    @pytest.mark.parametrize(
        ("changes", "rule"),
        [
            ({"prune": 1.0}, "from 0 to below 1"),
            ({"prune": 0.5, "prune_steps": 0}, "at least 1"),
            ({"prune": 0.5, "prune_from": 0.8}, "the first not behind the second"),
        ],
    )
    def test_values_out_of_range(self, changes: dict[str, Any], rule: str) -> None:
        with pytest.raises(UserError, match=rule):
            check_changes(dataclasses.replace(short(), **changes), 10_000)

    def test_too_few_clips_before_anything_is_trained(self) -> None:
        with pytest.raises(UserError, match="too few to be pruned"):
            train(TINY, _inputs(), dataclasses.replace(short(), prune=0.5, prune_steps=4), 64, 0, CPU)


def _recipe(steps: int = 2, **changes: Any) -> Recipe:
    return dataclasses.replace(short(), prune=0.4, prune_steps=steps, **changes)


class TestTraining:
    @pytest.mark.parametrize("steps", [1, 4])
    def test_the_network_shrinks_and_still_learns(self, steps: int) -> None:
        courses: list[Course] = []
        epochs: list[Epoch] = []
        options: dict[str, Any] = {"on_batch": courses.append, "on_epoch": epochs.append}
        model = train(TINY, _inputs(), _recipe(steps), 1440, 0, CPU, **options)
        history, first = courses[-1].history, count(TINY, (12, 12), 3).params
        assert [row["params"] for row in history] == sorted((row["params"] for row in history), reverse=True)
        assert len(history) == steps
        assert sum(parameter.numel() for parameter in model.parameters()) == history[-1]["params"]
        assert history[-1]["params"] == pytest.approx(0.6 * first, rel=0.02)
        assert history[-1]["architecture"] == courses[-1].network == epochs[-1].state["network"]
        assert epochs[-1].row["val_accuracy"] > 1 / 3 + 0.3

    @pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
    def test_it_goes_on_exactly_from_any_batch(self, optimizer: str) -> None:
        recipe = dataclasses.replace(_recipe(), optimizer=optimizer, lr=1e-3)
        inputs, kept, moments = _inputs(), {}, []

        def keep(course: Course) -> None:
            file = io.BytesIO()
            torch.save(course.state(), file)
            kept[course.epoch, course.batch] = file
            moments.append(len(course.history))

        whole = train(TINY, inputs, recipe, 384, 0, CPU, on_batch=keep)
        assert set(moments) == {0, 1, 2}
        for place in [(1, 0), (1, 2), (2, 1), (3, 1)]:
            kept[place].seek(0)
            start = torch.load(kept[place], weights_only=True)
            again = train(TINY, inputs, recipe, 384, 0, CPU, start=start)
            state: dict[str, Tensor] = again.state_dict()
            assert all(torch.equal(tensor, state[name]) for name, tensor in whole.state_dict().items()), place

    def test_moments_of_the_channels_that_stay_are_kept(self) -> None:
        model = _settled(TINY).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        model(torch.randn(4, 1, 16, 16)).square().sum().backward()
        optimizer.step()
        _, narrow, selection = pruning.shrunk(TINY, model, count(TINY, (16, 16), 3).params // 2, (16, 16))
        fresh = torch.optim.AdamW(narrow.parameters(), lr=1e-3)
        pruning.transfer_moments(model, optimizer, narrow, fresh, selection)
        kept_C = selection["stem.conv.weight"][0]
        assert kept_C is not None
        assert len(kept_C) < 12
        wide, small = (dict(net.named_parameters())["stem.conv.weight"] for net in (model, narrow))
        assert torch.equal(fresh.state[small]["exp_avg"], optimizer.state[wide]["exp_avg"][kept_C])
        assert fresh.state[small]["step"] == 1


def _arguments(folder: Path, runs: Path, *more: str) -> list[str]:
    options = ["--architecture", TINY, "--data", str(folder), "--runs", str(runs), "--device", "cpu"]
    return [*options, "--epochs", "10", "--prune", "0.4", "--prune-steps", "3", *more]


@pytest.fixture(scope="module")
def finished(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A full training that shrank its network in three steps; not to be changed."""
    runs = tmp_path_factory.mktemp("pruned") / "runs"
    assert retrain.main(_arguments(tiny_folder, runs)) == 0
    (path,) = (runs / "retrain").glob("*-strong-pruned0.4x3-e10-s0")
    return Run(path)


class TestRecord:
    def test_it_says_what_the_network_has_become(self, finished: Run) -> None:
        config, final = finished.config, finished.final
        assert config["architecture"] == TINY
        assert len(final["steps"]) == 3
        assert final["architecture"] == final["steps"][-1]["architecture"] != TINY
        for of in (final, *final["steps"]):
            cost = count(of["architecture"], tuple(config["input"]), 3)
            assert (of["params"], of["macs"]) == (cost.params, cost.macs)
        assert final["params"] == pytest.approx(0.6 * config["params"], rel=0.02)
        clips = [step["clips"] for step in final["steps"]]
        assert clips == sorted(clips)
        assert finished.metrics()[-1]["params"] == final["params"]

    def test_weights_load_as_the_narrower_network(self, finished: Run) -> None:
        model = load_model(finished)
        assert str(model.get_submodule("1").architecture) == finished.final["architecture"]
        assert finished.scores is not None

    def test_a_card_is_of_it(self, finished: Run, tmp_path: Path) -> None:
        assert export.main([str(finished.path), "--to", "card", "--out", str(tmp_path / "card.md")]) == 0
        card = (tmp_path / "card.md").read_text()
        assert card.startswith(f"# {finished.final['architecture']}\n")
        assert f"{finished.final['params']:,}" in card
        assert f"`{TINY}`, in 3 steps" in card
        assert "--prune 0.4 --prune-steps 3" in card

    def test_a_training_that_is_stopped_ends_like_one_that_is_not(
        self, finished: Run, tiny_folder: Path, tmp_path: Path
    ) -> None:
        """Stopped between the second step and the third: an epoch is one batch, and is judged by another."""
        config = finished.config
        dataset, features = open_data(open_console(stderr=True), config["data"]["source"], None, config["data"]["fold"])
        inputs, run = load_inputs(dataset, features), Run(tmp_path / "run")
        run.path.mkdir()
        run.write_json("run.json", {key: value for key, value in config.items() if key != "final"})
        recipe = Recipe.of(config["recipe"])
        batches: list[int] = []

        def stop() -> None:
            batches.append(1)
            if len(batches) == 13:
                raise Stopped

        def training(**options: Any) -> nn.Module:
            network: Any = (run, TINY, inputs, recipe, config["clips"], 0, CPU)
            return train_recorded(*network, keep_checkpoints=True, **options)[0]

        with pytest.raises(Stopped):
            training(check=stop)
        assert run.final["steps"] == finished.final["steps"][:2]
        training(resume=True)
        assert run.final == finished.final
        whole, again = (load_file(of.weights_path) for of in (finished, run))
        assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())

    def test_a_run_of_before_there_was_pruning_reads_as_it_did(self, finished: Run, tmp_path: Path) -> None:
        config = finished.config
        old = {
            key: value for key, value in config["recipe"].items() if not key.startswith(("prune", "precision", "quant"))
        }
        assert old == get_recipe("strong").record()
        assert Recipe.of(old) == get_recipe("strong")
        run = Run(tmp_path)
        run.write_json("run.json", {key: value for key, value in config.items() if key != "final"} | {"recipe": old})
        assert run.final == {key: config[key] for key in ("architecture", "params", "macs")}
