"""The spaces of the families with a published rule and the one across families: enumerated, drawn, walked; and a study across families with its pages."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
from conftest import tiny_arguments
from pages import add_trials, main_module_is_given_back, metrics, page, runs, texts

from search_space import count, resolve
from search_space.errors import UserError
from search_space.families import family_of
from search_space.family_spaces import RULE_SPACES
from search_space.presets import CP_MOBILE, RELATED, REP_MOBILE
from search_space.space import AnySpace, get_space
from studies import ablate, open_study
from studies import run as studies_run
from studies.drawings import cost_by_part, network_svg
from studies.factors import Setting, factors
from studies.observed import effects_report
from trainers.config import short

__all__ = ["main_module_is_given_back", "page", "runs"]

DIGESTS = {
    "cp-mobile": "b7f074e712a3",
    "rep-mobile": "81cae7a8d5a3",
    "cp-resnet": "c68b559be505",
    "bc-resnet": "157222df9c2f",
    "tf-sepnet": "3594f293fe33",
    "all": "c8aa6740e8f0",
}
OF_A_RULE = [space.name for space in RULE_SPACES]
FAMILIES = ["dssdn", *OF_A_RULE]
every_space = pytest.mark.parametrize("name", DIGESTS)
S1 = "cpm_c2-8-8-16-32_b3-2-1_x16-16-16-16-32-32"


def drawn(space: AnySpace, number: int) -> list[object]:
    rng = random.Random(0)
    return [space.sample(lambda _, options: rng.choice(options)) for _ in range(number)]


class TestSpaces:
    @every_space
    def test_digest_is_pinned(self, name: str) -> None:
        """A change here makes every earlier study one of another space: change the literal only when that is meant."""
        assert get_space(name).digest == DIGESTS[name]

    @pytest.mark.parametrize("name", OF_A_RULE)
    def test_size_is_the_number_of_networks(self, name: str) -> None:
        space = get_space(name)
        networks = list(space)
        assert len(set(networks)) == len(networks) == space.size
        assert set(drawn(space, 50)) <= set(networks)

    @every_space
    def test_choices_that_encode_gives_make_the_network_again(self, name: str) -> None:
        space = get_space(name)
        for network in drawn(space, 60):
            chosen = space.encode(network)
            assert space.sample(lambda asked, _, chosen=chosen: chosen[asked]) == network
            assert set(chosen) <= set(space.choices)
            assert all(option in space.choices[key] for key, option in chosen.items())

    @every_space
    def test_neighbours_are_inside_others_and_mutual(self, name: str) -> None:
        space = get_space(name)
        for network in drawn(space, 8):
            near = space.neighbours(network)
            assert network not in near
            assert len(set(near)) == len(near) > 0
            assert all(network in space.neighbours(other) for other in near[:4])
            assert {family_of(other) for other in near} == {family_of(network)}

    @pytest.mark.parametrize("name", OF_A_RULE)
    def test_the_corners_are_the_extremes(self, name: str) -> None:
        space = get_space(name)
        costs = [count(network, (130, 64), 10) for network in random.Random(0).sample(list(space), 300)]
        most_params, most_macs = space.largest((130, 64), 10)
        cheapest = [count(network, (130, 64), 10) for network in space.cheapest()]
        assert most_params >= max(cost.params for cost in costs)
        assert most_macs >= max(cost.macs for cost in costs)
        assert min(cost.params for cost in cheapest) <= min(cost.params for cost in costs)
        assert min(cost.macs for cost in cheapest) <= min(cost.macs for cost in costs)

    def test_across_families_the_first_choice_is_the_family(self) -> None:
        space, asked = get_space("all"), []
        parts = [get_space(name) for name in FAMILIES]
        assert space.size == sum(part.size for part in parts)
        assert set(space.presets) == {name for part in parts for name in part.presets}
        largest = [part.largest((130, 64), 10) for part in parts]
        assert space.largest((130, 64), 10) == (max(p for p, _ in largest), max(m for _, m in largest))

        def choose(name: str, options: tuple[object, ...]) -> object:
            asked.append(name)
            return family if name == "family" else options[0]

        for family, begins in (("rep-mobile", "repm"), ("bc-resnet", "bcr")):
            assert family_of(space.sample(choose)) == family
            assert asked == ["family", *(f"{begins}_{name}" for name in get_space(family).choices)]
            asked.clear()

    def test_the_submissions_are_the_presets_and_the_others_are_inside(self) -> None:
        space = get_space("cp-mobile")
        assert list(space.presets) == [f"cp-mobile-s{number}" for number in (1, 2, 3, 4)]
        assert all(space.encode(network) for network in CP_MOBILE.values())
        assert get_space("rep-mobile").presets == REP_MOBILE
        assert {name for family in OF_A_RULE[2:] for name in get_space(family).presets} == set(RELATED)

    def test_what_is_outside_is_said(self) -> None:
        with pytest.raises(UserError, match="is outside the space 'cp-mobile'"):
            get_space("cp-mobile").encode(resolve("cpm_c4-13-13-20_b1-1_x20-30"))
        with pytest.raises(UserError, match="the space 'dssdn' takes a network of DSSDN"):
            get_space("dssdn").encode(resolve("cp-mobile-s1"))
        with pytest.raises(UserError, match="outside the space 'rep-mobile'"):
            get_space("rep-mobile").encode(resolve("cp-mobile-s1"))
        with pytest.raises(UserError, match=r"family is one of \['dssdn', 'cp-mobile', .*'tf-sepnet'\]; got 7"):
            get_space("all").sample(lambda _, options: 7)
        with pytest.raises(UserError, match=r"outside the space 'tf-sepnet': it is made by no width of \[8, 16"):
            get_space("tf-sepnet").encode(resolve("bc-resnet"))


class TestDrawing:
    @pytest.mark.parametrize(
        "name", [*CP_MOBILE, *REP_MOBILE, *RELATED, "cpm_c2-4-4-5-4-9_b1-1-2-1_x3-4-5-6-7", "tfs_c3-12-12-8_b1-2_p2-1"]
    )
    def test_every_part_is_drawn_and_costs_add_up(self, name: str) -> None:
        network = resolve(name)
        cost = count(network, (130, 64), 10)
        parts = cost_by_part(cost, network)
        assert (parts["params"].sum(), parts["macs"].sum()) == (cost.params, cost.macs)
        svg = network_svg(network, (130, 64), 10)
        for part in parts["part"]:
            assert f">{part[0].upper()}{part[1:]}<" in svg
        assert svg.count("four branches merged") == (len(network.expanded) if name in REP_MOBILE else 0)


@pytest.fixture(scope="module")
def families(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs folder of a finished study across families: all presets and one network more; not to be changed."""
    runs = tmp_path_factory.mktemp("families") / "runs"
    arguments = [
        *tiny_arguments(tiny_folder, runs),
        "--space",
        "all",
        "--study",
        "families",
        "--trials",
        "13",
        "--no-halving",
    ]
    assert studies_run.main(arguments) == 0
    return runs


class TestStudy:
    def test_the_presets_of_every_family_come_first(self, families: Path) -> None:
        study = open_study("families", families)
        trials = study.trials()
        assert trials["preset"].tolist()[:12] == list(get_space("all").presets)
        families_of = [family for family in FAMILIES for _ in get_space(family).presets]
        assert trials["family"].tolist()[:12] == families_of
        assert (trials["state"] == "complete").sum() == 13
        for row in trials.itertuples():
            cost = count(resolve(row.architecture), tuple(study.info["input"]), study.info["n_classes"])
            assert (row.params, row.macs) == (cost.params, cost.macs)
        assert study.model(3) is not None

    def test_its_pages_open(self, families: Path, tmp_path: Path, page) -> None:  # type: ignore[no-untyped-def]
        shutil.copytree(families, tmp_path / "families")
        folder = tmp_path / "families"
        app = page("pareto", folder=folder, study="families", colour="family")
        assert not app.exception
        for section in ("Structure", "Neighbours", "Listen"):
            app = page("network", folder=folder, study="families", trial="3", section=section)
            assert not app.exception
            assert S1 in texts(app)
            assert metrics(app)["Parameters"]
            assert "can not be shown" not in texts(app)
        app = page("network", folder=folder, study="families", trial="7", section="Structure")
        table = next(found.value for found in app.dataframe if "macs" in found.value.columns)
        assert "stages.0.0.depthwise.conv" in table["name"].tolist()
        assert "batch norm is part of the convolution" in texts(app)
        for trial, layer in (("8", "stages.0.1.first.conv"), ("9", "stages.0.0.mix"), ("11", "stages.0.0.mel.norm")):
            app = page("network", folder=folder, study="families", trial=trial, section="Structure")
            assert not app.exception
            table = next(found.value for found in app.dataframe if "macs" in found.value.columns)
            assert layer in table["name"].tolist()
            assert "The form that is trained and counted" in texts(app)
            assert not page("network", folder=folder, study="families", trial=trial, section="Neighbours").exception
        assert not page("pareto", folder=folder, study="families", colour="bcr_width").exception

    def test_what_to_ablate_next_are_factors_of_the_best_network_s_own_family(
        self, families: Path, tmp_path: Path
    ) -> None:
        shutil.copytree(families / "families", tmp_path / "families")
        add_trials(tmp_path, "families", ["complete"] * 60)
        records = open_study("families", tmp_path)
        words = effects_report(records)["ablation"].split()
        best = records.trials().set_index("trial").loc[int(words[words.index("--trial") + 1]), "architecture"]
        known = factors(Setting(resolve(best), short(), {"mels": 256, "n_fft": 2048, "hop": 1024}))
        named = words[words.index("--factors") + 1].split(",")
        assert named
        assert all(not known[name].inactive for name in named)

    @pytest.mark.slow
    def test_a_network_of_it_is_ablated_along_its_own_family(
        self, families: Path, tiny_folder: Path, tmp_path: Path
    ) -> None:
        arguments = [
            "--base",
            "cp-mobile-s1",
            "--data",
            str(tiny_folder),
            "--runs",
            str(tmp_path / "runs"),
            "--name",
            "s1",
        ]
        arguments += ["--workers", "1", "--budget", "32", "--train-input", "16x16", "--seeds", "1"]
        assert ablate.main([*arguments, "--factors", "depth_1=2"]) == 0
        found = {path.name.split("-")[0] for path in (tmp_path / "runs" / "s1").glob("cpm_*")}
        assert len(list((tmp_path / "runs" / "s1").glob("cpm_*"))) == 2
        assert found == {"cpm_c2"}
