"""Variants: each differs from the base in one thing, what means nothing is said to, and two names of one network are one variant."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search_space.architecture import Architecture
from search_space.errors import UserError
from search_space.presets import NETWORKS, PRESETS, resolve
from search_space.space import get_space
from studies.factors import Factor, Setting, factors
from studies.variants import Variant, choose, factorial, one_change, table2
from trainers.config import RECIPES, get_recipe, mixstyle, paper, short
from trainers.teaching import with_options

FRONT_END = {"mels": 256, "n_fft": 2048, "hop": 1024}
SPACE = get_space("dssdn")
AXES = ("depth", "stem", "growth", "split_ratio", "operator", "osc_mid", "partial_ratio")


def setting(network: str = "dssdn-middle", recipe: str = "short") -> Setting:
    return Setting(resolve(network), get_recipe(recipe), FRONT_END)


def variants(network: str, text: str | None, recipe: str = "short", recorders: int = 1) -> dict[str, Variant]:
    base = setting(network, recipe)
    return {variant.label: variant for variant in one_change(base, choose(factors(base, recorders), text))}


def networks(network: str, text: str | None) -> dict[str, str]:
    return {label: str(variant.setting.network) for label, variant in variants(network, text).items()}


class TestAxes:
    @pytest.mark.parametrize("name", PRESETS)
    def test_each_moves_one_choice_of_the_space_to_each_other_option(self, name: str) -> None:
        """But for the operator's own option, which is the paper's network's."""
        base = SPACE.encode(PRESETS[name])
        known = factors(setting(name))
        for axis in AXES:
            assert bool(known[axis].inactive) == (axis not in base), axis
            if known[axis].inactive:
                continue
            assert known[axis].level == f"{base[axis]:g}" if isinstance(base[axis], float) else f"{base[axis]}"
            moved = set()
            for variant in one_change(setting(name), {axis: known[axis]}):
                if variant.label in ("operator=conv", "operator=rep"):
                    continue  # not in the space: plain 3x3 is the paper's DL-O, rep is our own
                chosen = SPACE.encode(variant.setting.network)
                moved.add(chosen[axis])
                own = {"operator": {"osc_mid", "partial_ratio"}}.get(axis, set())
                assert {key for key in chosen if chosen[key] != base.get(key)} - own == {axis}
                assert (variant.setting.recipe, variant.setting.front_end) == (short(), FRONT_END)
            assert moved == set(SPACE.choices[axis]) - {base[axis]}

    def test_middle_and_small_together_have_all_axes(self) -> None:
        active = [
            {n for n, f in factors(setting(name)).items() if not f.inactive} for name in ("dssdn-middle", "dssdn-small")
        ]
        assert set(AXES) <= active[0] | active[1]

    def test_an_inactive_one_says_why(self) -> None:
        known = factors(setting("dssdn-large"))
        assert known["osc_mid"].inactive == "the base's operator is sc, not osc"
        assert known["partial_ratio"].inactive == "the base's operator is sc, not spc"
        uneven = factors(setting("dssdn_c8-12-8_r0.5_sc_h16"))
        assert "its widths do not grow twice" in uneven["depth"].inactive
        assert uneven["operator"].options == ("osc", "spc", "conv", "rep")

    def test_operators_come_with_the_papers_options(self) -> None:
        found = networks("dssdn-large", "operator")
        assert found == {
            "operator=osc": str(PRESETS["dssdn-small"]),
            "operator=spc": str(PRESETS["dssdn-middle"]),
            "operator=conv": str(NETWORKS["dl-o"]),
            "operator=rep": str(PRESETS["dssdn-large"]).replace("_sc_", "_rep_"),
        }

    def test_what_else_the_base_departs_in_stays(self) -> None:
        found = networks(
            "dssdn_c8-12-16_r0.5_sc_h16_high_t1-2_eca0_chain", "depth=3,operator=conv,stem=12,split_ratio=0.25"
        )
        assert found == {
            "depth=3": "dssdn_c8-12-16-16_r0.5_sc_h16_high_t1-2-3_eca0_chain",
            "operator=conv": "dssdn_c8-12-16_r0.5_conv_h16_high_t1-2_eca0_chain",
            "stem=12": "dssdn_c12-16-20_r0.5_sc_h16_high_t1-2_eca0_chain",
            "split_ratio=0.25": "dssdn_c8-12-16_r0.25_sc_h16_high_t1-2_eca0_chain",
        }


class TestParts:
    def test_each_is_the_notation_one_would_write(self) -> None:
        found = networks("dssdn-large", "distillation,attention,taps,cut,heavy,block")
        base = str(PRESETS["dssdn-large"])
        assert found == {
            "distillation=off": f"{base}_chain",
            "attention=off": f"{base}_eca0",
            "taps=last": f"{base}_t5",
            "taps=all": f"{base}_t1-2-3-4-5",
            "cut=off": base.replace("r0.5", "r1"),
            "heavy=high": f"{base}_high",
            "block=plain": base.replace("r0.5", "r1") + "_plain",
            "block=dl-b-pooled": str(NETWORKS["dl-b-pooled"]),
            "block=dl-b": str(NETWORKS["dl-b"]),
        }

    def test_they_are_switched_on_where_the_base_has_them_off(self) -> None:
        found = networks("dssdn_c8-12-16_r0.5_sc_h16_high_t2_eca0", "attention,heavy,taps")
        assert set(found) == {"attention=on", "heavy=low", "taps=all"}
        assert found["attention=on"] == "dssdn_c8-12-16_r0.5_sc_h16_high"
        assert networks("dssdn_c8-12-16_r0.5_sc_h16_chain", "distillation") == {
            "distillation=on": "dssdn_c8-12-16_r0.5_sc_h16"
        }

    def test_a_plain_network_has_few(self) -> None:
        known = factors(setting("dl-b-pooled"))
        inactive = {name for name, factor in known.items() if factor.inactive and factor.kind == "architecture"}
        assert inactive == {
            *("split_ratio", "osc_mid", "partial_ratio", "distillation", "attention", "cut", "heavy", "block"),
        }

    def test_two_names_of_one_network_are_one_variant(self) -> None:
        found = variants("dssdn-large", "split_ratio=1,cut")
        assert list(found) == ["split_ratio=1"]
        assert found["split_ratio=1"].also == ("cut=off",)
        small = variants("dl-o", "block=plain|dl-b-pooled")
        assert (list(small), small["block=plain"].also) == (["block=plain"], ("block=dl-b-pooled",))

    @pytest.mark.parametrize(
        "name",
        [*NETWORKS, "dssdn_c8-12-16_r0.5-1_sc-osc.m4_h16", "dssdn_c8-12_r0.5_sc_h16_add", "dssdn_c8-12_r1_sc_h8"],
    )
    def test_all_variants_of_any_base_are_different_networks(self, name: str) -> None:
        base = setting(name)
        found = one_change(base, choose(factors(base), None))
        written = [str(variant.setting.network) for variant in found]
        assert len(set(written)) == len(written) > 5
        assert str(base.network) not in written
        assert all(
            Architecture.parse(text) == variant.setting.network for text, variant in zip(written, found, strict=True)
        )


class TestRecipes:
    def test_augmentations_are_switched_with_the_values_of_the_recipe_that_has_them(self) -> None:
        found = variants("dssdn-large", "roll,mixup,masks,mix_style,correction", recorders=3)
        changed = {label: variant.setting.recipe for label, variant in found.items()}
        like, has = paper(), mixstyle()
        assert changed == {
            "roll=off": dataclasses.replace(short(), roll=False),
            "mixup=on": dataclasses.replace(short(), mixup_alpha=like.mixup_alpha, mixup_schedule=like.mixup_schedule),
            "masks=on": dataclasses.replace(short(), masks=like.masks, mask_width=like.mask_width),
            "mix_style=on": dataclasses.replace(short(), mix_style=has.mix_style, mix_style_alpha=has.mix_style_alpha),
            "correction=on": dataclasses.replace(short(), correction=like.correction),
        }
        assert all(variant.setting.network == PRESETS["dssdn-large"] for variant in found.values())

    def test_those_that_are_on_are_switched_off(self) -> None:
        found = variants("dssdn-large", "roll,mixup,masks,correction", "paper", recorders=3)
        assert set(found) == {"roll=on", "mixup=off", "masks=off", "correction=off"}
        recipe = found["masks=off"].setting.recipe
        assert (recipe.masks, recipe.mixup_alpha) == (0, paper().mixup_alpha)

    def test_what_has_nothing_to_work_on_is_inactive(self) -> None:
        assert factors(setting())["correction"].inactive == "one recorder made all training clips"
        assert "no OSC" in factors(setting("dssdn-middle"))["orthonormal"].inactive
        assert [v.setting.recipe.orthonormal for v in variants("dssdn-small", "orthonormal").values()] == [0, 0.01, 1]

    def test_any_number_will_do_for_a_weight(self) -> None:
        found = variants("dssdn-small", "orthonormal=0.5,label_smoothing=0.05|0.0")
        assert list(found) == ["orthonormal=0.5", "label_smoothing=0.05", "label_smoothing=0"]
        assert found["label_smoothing=0.05"].setting.recipe.label_smoothing == 0.05

    def test_other_recipes(self) -> None:
        found = variants("dssdn-large", "recipe")
        untaught = [name for name, recipe in RECIPES.items() if not recipe().needs_teacher]
        assert list(found) == [f"recipe={name}" for name in untaught if name != "short"]
        assert found["recipe=paper"].setting.recipe == paper()


class TestSmaller:
    """Pruning and int8."""

    def test_schedules_remove_the_same_share(self) -> None:
        found = {label: v.setting.recipe for label, v in variants("dssdn-small", "prune,precision").items()}
        told = {label: (recipe.prune, recipe.prune_steps, recipe.precision) for label, recipe in found.items()}
        assert told == {
            "prune=one-step": (0.5, 1, "float32"),
            "prune=progressive": (0.5, 8, "float32"),
            "precision=int8-ptq": (0, 1, "int8-ptq"),
            "precision=int8-qat": (0, 1, "int8-qat"),
            "precision=int8-qat-scratch": (0, 1, "int8-qat-scratch"),
        }

    def test_a_base_that_shrinks_is_told_apart_from_one_that_does_not(self) -> None:
        base = dataclasses.replace(setting(), recipe=dataclasses.replace(short(), prune=0.3, prune_steps=4))
        known = factors(base)["prune"]
        assert (known.level, known.options) == ("progressive", ("none", "one-step"))
        recipes = [variant.setting.recipe for variant in one_change(base, {"prune": known})]
        assert [(recipe.prune, recipe.prune_steps) for recipe in recipes] == [(0.0, 1), (0.3, 1)]

    def test_networks_whose_channels_are_tied_are_not_pruned(self) -> None:
        assert "groups" in factors(setting("dssdn_c8-12_r0.5_sc.g2_h16"))["prune"].inactive


class TestFrontEnds:
    def test_mels_window_and_hop(self) -> None:
        found = variants("dssdn-large", "mels,n_fft,hop")
        changed = {label: dict(variant.setting.front_end) for label, variant in found.items()}
        assert changed == {
            "mels=64": {**FRONT_END, "mels": 64},
            "mels=128": {**FRONT_END, "mels": 128},
            "n_fft=1024": {**FRONT_END, "n_fft": 1024},
            "n_fft=4096": {**FRONT_END, "n_fft": 4096},
            "hop=512": {**FRONT_END, "hop": 512},
            "hop=2048": {**FRONT_END, "hop": 2048},
        }
        assert list(variants("dssdn-large", "mels=40")) == ["mels=40"]


class TestChoosing:
    def test_without_names_it_is_the_architecture(self) -> None:
        chosen = choose(factors(setting()), None)
        assert {factor.kind for factor in chosen.values()} == {"architecture"}
        assert set(AXES) < set(chosen)

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("operators", r"unknown factor 'operators'; .*known: \['attention'"),
            ("operator=mc", r"unknown level of operator 'mc'; .*known: \['conv', 'osc', 'rep', 'sc'\]"),
            ("operator=spc", r"operator=spc is the base's own level; name others: \['sc', 'osc', 'conv', 'rep'\]"),
            ("operator,operator=sc", "names 'operator' twice"),
            ("mels=none", "mels is a whole number of at least 1, not 'none'"),
            ("label_smoothing=2", "label_smoothing is a number from 0 on such as 0.1, not '2'"),
            ("osc_mid", "no variant of dssdn_c28.* among these factors .osc_mid: the base's operator is spc, not osc"),
        ],
    )
    def test_what_is_not_there_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            variants("dssdn-middle", text)


class TestFactorial:
    def grid(self, text: str) -> tuple[dict[str, tuple[str, ...]], dict[tuple[str, ...], Variant]]:
        base = setting("dssdn-large")
        return factorial(base, choose(factors(base), text))

    def test_it_is_every_combination_the_base_first(self) -> None:
        levels, cells = self.grid("operator=osc|spc,distillation,roll")
        assert levels == {"operator": ("sc", "osc", "spc"), "distillation": ("on", "off"), "roll": ("on", "off")}
        assert len(cells) == 12
        first = next(iter(cells))
        assert (first, cells[first].changes) == (("sc", "on", "on"), ())
        both = cells["spc", "off", "off"]
        assert str(both.setting.network) == f"{PRESETS['dssdn-middle']}_chain"
        assert not both.setting.recipe.roll
        assert both.label == "operator=spc, distillation=off, roll=off"
        assert len({(str(v.setting.network), v.setting.recipe.roll) for v in cells.values()}) == 12

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("operator", "at least two active factors"),
            ("operator,osc_mid", r"at least two active factors, not \['operator'\]"),
            (
                "depth,stem,operator",
                r"at most 64 combinations, not 175 \(5 of depth x 7 of stem x 5 of operator\); choose fewer",
            ),
            ("cut,heavy", "heavy=high and cut=off, heavy=low are the same network"),
            ("block=plain,distillation", "block=plain, distillation=off can not be: one of these undoes another"),
            ("block=dl-b,operator=osc", "block=dl-b, operator=osc can not be: one of these undoes another"),
            ("heavy,block=plain", "heavy=high, block=plain"),
        ],
    )
    def test_what_does_not_cross_is_refused(self, text: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            self.grid(text)


def test_table_2_has_the_papers_rows_and_those_that_take_its_changes_apart() -> None:
    base = setting("dssdn-large")
    found = {variant.label: variant.setting.network for variant in table2(base)}
    assert found == {
        "operator=conv": NETWORKS["dl-o"],
        "block=plain": Architecture.parse(str(PRESETS["dssdn-large"]).replace("r0.5", "r1") + "_plain"),
        "block=dl-b-pooled": NETWORKS["dl-b-pooled"],
        "block=dl-b": NETWORKS["dl-b"],
    }


def test_a_factor_reads_as_a_row() -> None:
    factor = factors(setting())["operator"]
    assert isinstance(factor, Factor)
    assert (factor.name, factor.kind, factor.level, factor.options) == (
        "operator",
        "architecture",
        "spc",
        ("sc", "osc", "conv", "rep"),
    )


def test_variants_are_named_without_torch() -> None:
    code = "import sys, studies.variants; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_an_osc_the_orthonormal_loss_is_no_change() -> None:
    """A factorial would train the same network twice."""
    base = setting("dssdn-middle")
    other = dataclasses.replace(base, recipe=dataclasses.replace(base.recipe, orthonormal=0.0))
    assert base.same(other)
    base = setting("dssdn-small")
    other = dataclasses.replace(base, recipe=dataclasses.replace(base.recipe, orthonormal=0.0))
    assert not base.same(other)


class TestOtherFamilies:
    def test_the_factors_of_cp_mobile_are_its_space_s_choices(self) -> None:
        known = factors(setting("cp-mobile-s2"))
        space = get_space("cp-mobile")
        architectural = [name for name, factor in known.items() if factor.kind == "architecture"]
        assert architectural == [*space.choices, "family"]
        assert (known["base"].level, known["base"].options) == ("16", ("8", "24", "32"))
        found = networks("cp-mobile-s2", "base,depth_3,expansion=2.1")
        base = space.encode(resolve("cp-mobile-s2"))
        assert set(found) == {"base=8", "base=24", "base=32", "depth_3=2", "expansion=2.1"}
        for label, notation in found.items():
            name, level = label.split("=")
            again = space.sample(lambda asked, _, of={**base, name: float(level)}: of[asked])
            assert str(again) == notation

    def test_the_family_itself_is_one(self) -> None:
        assert networks("cp-mobile-s2", "family") == {
            "family=rep-mobile": str(resolve("cp-mobile-s2")).replace("cpm_", "repm_")
        }

    def test_pruned_widths_are_in_no_space(self) -> None:
        known = factors(setting("cpm_c4-13-13-20_b1-1_x20-30"))
        assert "it is none of the networks of the space 'cp-mobile'" in known["base"].inactive
        assert not known["family"].inactive

    @pytest.mark.parametrize(
        ("base", "family", "change", "becomes"),
        [
            ("cp-resnet", "cp-resnet", "rho=5", "cpr_c32-32-64-92_b2-1-1_k31-33-33-11_g1-2-1"),
            ("cp-resnet", "cp-resnet", "groups=1", "cpr_c32-32-64-92_b2-1-1_k31-33-33-31"),
            ("bc-resnet", "bc-resnet", "depth_4=2", "bcr_c80-40-60-80-100_b2-2-2-2"),
            ("bc-resnet-80", "bc-resnet", "last_pool=yes", "bcr_c160-80-120-160-200_b2-2-2-3_p1-2-2-2"),
            ("tf-sepnet-64", "tf-sepnet", "width=40", "tfs_c20-80-40-60-80-100_b2-2-2-3"),
        ],
    )
    def test_every_family_with_a_space_is_changed_along_it(
        self, base: str, family: str, change: str, becomes: str
    ) -> None:
        known = factors(setting(base))
        choices = list(get_space(family).choices)
        assert [name for name, factor in known.items() if factor.kind == "architecture"] == [*choices, "family"]
        assert networks(base, change) == {change: becomes}
        assert "nothing says which of its channels" in known["prune"].inactive
        assert not known["precision"].inactive

    def test_bc_resnet_and_tf_sepnet_have_each_other_s_widths(self) -> None:
        assert networks("bc-resnet", "family") == {"family=tf-sepnet": "tfs_c20-80-40-60-80-100_b2-2-2-3_p1-2-2-1"}
        assert networks("tf-sepnet-64", "family") == {"family=bc-resnet": "bcr_c128-64-96-128-160_b2-2-2-3_p1-2-2-2"}
        assert factors(setting("cp-resnet"))["family"].inactive == "no other family has its widths"
        assert factors(setting("bcr_c3-5_b1"))["family"].inactive == "no other family has its widths"

    def test_a_level_that_the_other_family_lacks_is_no_combination(self) -> None:
        base = setting("cp-mobile-s2")
        with pytest.raises(UserError, match=r"can not be: multiplier is one of \[1\.5, 1\.8, 2\.1\]"):
            factorial(base, choose(factors(base), "family,multiplier=1.7"))

    def test_the_orthonormal_loss_is_for_osc_alone(self) -> None:
        base = setting("cp-mobile-s1")
        assert factors(base)["orthonormal"].inactive
        assert base.same(replace(base, recipe=replace(base.recipe, orthonormal=0.0)))

    def test_the_rows_of_table_2_are_dssdns(self) -> None:
        with pytest.raises(UserError, match="unknown factor 'operator'"):
            table2(setting("cp-mobile-s2"))


class TestTeaching:
    """What teaches a network besides its labels."""

    @pytest.fixture
    def run(self, tmp_path: Path) -> str:
        """What looks like a finished run from outside."""
        (tmp_path / "run.json").write_text('{"architecture": "dssdn-small"}')
        (tmp_path / "weights.safetensors").write_bytes(b"weights")
        return str(tmp_path)

    def taught(self, run: str, text: str, **more: Any) -> dict[str, Variant]:
        base = setting()
        base = dataclasses.replace(base, recipe=with_options(base.recipe, teacher=[run], **more))
        return {variant.label: variant for variant in one_change(base, choose(factors(base), text))}

    def test_each_part_is_a_factor(self, run: str) -> None:
        found = self.taught(run, "temperature,features,multitask,impulses,kl_reduction,soft_weight=0.5")
        assert list(found) == [
            *(
                "temperature=1",
                "temperature=4",
                "features=projection",
                "features=gram",
                "multitask=sum",
                "multitask=pcgrad",
            ),
            *("impulses=generated", "kl_reduction=mean", "soft_weight=0.5"),
        ]
        assert found["temperature=4"].setting.recipe.temperature == 4
        assert found["features=gram"].setting.recipe.digests == ((run, hashlib.sha256(b"weights").hexdigest()),)

    def test_without_a_teacher_it_is_the_plain_recipe(self, run: str) -> None:
        base = setting()
        (variant,) = self.taught(run, "teacher", features="gram").values()
        assert variant.label == "teacher=none"
        assert variant.setting.same(base)

    def test_features_that_are_all_that_is_taught_are_one_variant_with_no_teacher(self, run: str) -> None:
        """Soft targets of weight 0 and no features are no teaching."""
        (variant,) = self.taught(run, "teacher=none,soft_weight=0").values()
        assert (variant.label, variant.also) == ("teacher=none", ("soft_weight=0",))

    def test_a_teacher_can_be_a_level(self, run: str) -> None:
        (variant,) = variants("dssdn-middle", f"teacher={run}").values()
        recipe = variant.setting.recipe
        assert (recipe.teachers, recipe.soft_weight) == ((run,), 0.98)
        with pytest.raises(UserError, match="no teacher 'nowhere'"):
            variants("dssdn-middle", "teacher=nowhere")

    def test_without_one_its_factors_are_inactive_and_say_why(self) -> None:
        known = factors(setting())
        for name in ("temperature", "soft_weight", "kl_reduction", "features", "feature_weight"):
            assert "--teacher gives it one" in known[name].inactive, name

    def test_a_file_teaches_no_features(self, tmp_path: Path) -> None:
        path = tmp_path / "logits.csv"
        path.write_text("filename")
        base = setting()
        base = dataclasses.replace(base, recipe=with_options(base.recipe, teacher=[str(path)]))
        assert "is a run" in factors(base)["features"].inactive

    def test_features_leave_the_network_as_it_is(self, run: str) -> None:
        base = setting()
        known = factors(dataclasses.replace(base, recipe=with_options(base.recipe, teacher=[run], features="gram")))
        assert "learned by layers beside a network" in known["prune"].inactive
        assert set(known["precision"].options) <= {"int8-ptq"}

    def test_classes_without_super_classes_make_multitask_inactive(self) -> None:
        assert "no super-class" in factors(setting(), classes=("high", "low"))["multitask"].inactive
        assert not factors(setting(), classes=("bus", "park"))["multitask"].inactive

    def test_another_recipe_keeps_the_teacher(self, run: str) -> None:
        found = self.taught(run, "recipe=paper|joint")
        assert all(variant.setting.recipe.teachers == (run,) for variant in found.values())
        assert (found["recipe=paper"].setting.recipe.soft_weight, found["recipe=joint"].setting.recipe.weights(0)) == (
            0.98,
            (0.02, 0.88, 0.10),
        )
