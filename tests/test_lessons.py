"""What a network learns besides its labels: the losses by closed form, and a training that goes on exactly."""

from __future__ import annotations

import copy
import dataclasses
import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, log_softmax, one_hot

from search_space.errors import UserError
from search_space.model import build_model
from trainers.config import Recipe, get_recipe, short
from trainers.datasets import Clip
from trainers.inputs import FeatureTeacher, Inputs, Split
from trainers.lessons import Lesson, gram_loss, kl_divergence, pairs, pcgrad, penultimate, stages
from trainers.loop import Course, seeded_model, train
from trainers.teachers import Answers

CPU = torch.device("cpu")
STUDENT, TEACHER = "dssdn_c8-12-16_r0.5_sc_h16", "dssdn_c6-8-10-12-14_r1_conv_h8_plain"
PLAIN = dataclasses.replace(short(), roll=False, label_smoothing=0.0)
SUPER_KS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def _split(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    clip = Clip(filename="x.wav", scene="a", group="g", split="train")
    return Split(torch.randn(count, 16, 16, generator=generator).half(), torch.arange(count) % 3, (clip,) * count)


@pytest.fixture
def inputs() -> Inputs:
    """Clips with a teacher's answers, a teacher of features and super-classes."""
    answers = Answers(torch.randn(70, 3, generator=torch.Generator().manual_seed(2)))
    teacher = FeatureTeacher(seeded_model(TEACHER, 3, 5, 16).eval().requires_grad_(False), (16, 16))
    return Inputs(
        {"train": _split(70, 0), "val": _split(9, 1)},
        *(torch.full((16,), 0.5), torch.full((16,), 2.0), ("a", "b", "c")),
        soft=answers,
        teacher=teacher,
        super_KS=SUPER_KS,
    )


def taught(**changes: Any) -> Recipe:
    return dataclasses.replace(PLAIN, teachers=("t",), **changes)


ALL = taught(soft_weight=0.5, feature_form="gram", multitask="pcgrad", mixup_alpha=0.3)


class TestSoftTargets:
    def test_the_divergence_is_torchs(self) -> None:
        generator = torch.Generator().manual_seed(0)
        logits, soft = torch.randn(4, 5, generator=generator), torch.randn(4, 5, generator=generator).softmax(1)
        theirs = kl_div(log_softmax(logits / 3, 1), soft, reduction="batchmean")
        assert kl_divergence(logits, soft, 3.0, "batchmean").item() == pytest.approx(theirs.item(), abs=1e-6)

    def test_the_mean_over_classes_too_is_that_many_times_smaller(self) -> None:
        logits, soft = torch.tensor([[1.0, 0.0, 2.0, 0.0]]), torch.tensor([[0.1, 0.2, 0.3, 0.4]])
        whole = kl_divergence(logits, soft, 2.0, "batchmean")
        assert kl_divergence(logits, soft, 2.0, "mean").item() == pytest.approx(whole.item() / 4)

    def test_a_certain_teacher_is_a_label(self) -> None:
        """0 log 0 is 0, and the divergence from one class is the cross entropy."""
        logits, label = torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([2])
        divergence = kl_divergence(logits, one_hot(label, 3).float(), 1.0, "batchmean")
        assert divergence.item() == pytest.approx(cross_entropy(logits, label).item())

    def test_the_loss_is_the_two_terms_written_plainly(self, inputs: Inputs) -> None:
        recipe = taught(soft_weight=0.7, temperature=4.0)
        lesson = Lesson(recipe, inputs, seeded_model(STUDENT, 3, 0, 16), 0)
        index, labels, logits = torch.tensor([5, 1]), torch.tensor([2, 1]), torch.tensor([[0.1, 0.2, 0.9], [1.0, 0, 0]])
        targets = lesson.targets(labels, index)
        (loss,) = lesson.losses(cross_entropy(logits, labels), logits, targets, torch.zeros(2, 16, 16), 0.0)
        assert inputs.soft is not None
        soft = (inputs.soft.batch(index) / 4).softmax(1)
        plain = (
            0.3 * cross_entropy(logits, labels)
            + 0.7 * 16 * (soft * (soft.log() - (logits / 4).log_softmax(1))).sum(1).mean()
        )
        assert loss.item() == pytest.approx(plain.item(), rel=1e-6)

    def test_weight_0_is_as_without_a_teacher_to_the_bit(self, inputs: Inputs) -> None:
        without = train(STUDENT, inputs, PLAIN, 40, 0, CPU).state_dict()
        zero = train(STUDENT, inputs, taught(soft_weight=0.0), 40, 0, CPU).state_dict()
        assert all(torch.equal(tensor, zero[name]) for name, tensor in without.items())


class TestWeights:
    def test_phases_take_over_at_their_share(self) -> None:
        recipe = dataclasses.replace(get_recipe("joint-gram"), teachers=("t",))
        assert recipe.weights(0.849) == (0.01, 1.0, 0.1)
        assert recipe.weights(0.85) == (1.0, 0.1, 0.05)
        assert recipe.weights(1.0) == (1.0, 0.1, 0.05)

    def test_what_no_soft_target_teaches_labels_do(self) -> None:
        joint = dataclasses.replace(get_recipe("joint"), teachers=("t",))
        assert joint.weights(0.5) == (0.02, 0.88, 0.10)
        assert dataclasses.replace(joint, soft_weight=0.0).weights(0.5) == pytest.approx((0.90, 0.0, 0.10))
        assert dataclasses.replace(joint, feature_form="none").weights(0.5) == (0.02, 0.88, 0.0)
        assert short().weights(0.5) == (1.0, 0.0, 0.0)

    def test_cp_mobiles_stand_in_the_recipe_that_names_it(self) -> None:
        taught = get_recipe("taught")
        assert (taught.soft_weight, taught.temperature, taught.kl_reduction) == (0.98, 2.0, "batchmean")

    @pytest.mark.parametrize(
        "wrong",
        [
            {"temperature": 0.0},
            {"soft_weight": 1.1},
            {"feature_weight": math.nan},
            {"kl_reduction": "sum"},
            {"feature_form": "maps"},
            {"phases": ((0.5, 1.0, 0.0, 0.0),)},
        ],
        ids=str,
    )
    def test_values_that_cannot_be_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(UserError, match=next(iter(wrong))):
            dataclasses.replace(short(), **wrong)


class TestFeatures:
    def test_stages_are_spread_to_the_last(self) -> None:
        assert pairs(3, 3, "gram") == [(0, 0), (1, 1), (2, 2)]
        assert pairs(5, 4, "gram") == [(0, 0), (2, 2), (4, 3)]
        assert pairs(2, 5, "gram") == [(0, 0), (1, 4)]
        assert pairs(1, 5, "gram") == [(0, 4)]
        assert pairs(2, 5, "projection") == [(1, 4)]

    def test_a_gram_matrix_by_hand(self) -> None:
        """Two clips, one place, two channels: products 1, 0, 4 against 1, 2, 4, halved; the mean of four squares."""
        student = torch.tensor([[1.0, 0.0], [0.0, 2.0]])[:, :, None, None]
        teacher = torch.tensor([[1.0, 0.0], [2.0, 0.0]])[:, :, None, None]
        assert gram_loss(student, teacher).item() == pytest.approx((0 + 1 + 1 + 0) / 4)

    def test_a_gram_form_does_not_see_a_turn_of_the_channels(self) -> None:
        generator = torch.Generator().manual_seed(0)
        maps, turn = (
            torch.randn(4, 6, 5, 3, generator=generator),
            torch.linalg.qr(torch.randn(6, 6, generator=generator))[0],
        )
        assert gram_loss(torch.einsum("dc,bctf->bdtf", turn, maps), maps).item() == pytest.approx(0, abs=1e-10)
        assert gram_loss(2 * maps, maps).item() > 0.1

    def test_the_teacher_hears_the_students_input_as_log_mels(self, inputs: Inputs) -> None:
        lesson = Lesson(taught(feature_form="projection"), inputs, seeded_model(STUDENT, 3, 0, 16), 0)
        raw = inputs.splits["train"].batch(torch.arange(4), CPU).float()
        heard: list[Tensor] = []
        assert inputs.teacher is not None
        handle = inputs.teacher.model.register_forward_pre_hook(lambda module, args: heard.append(args[0]))
        lesson._hear_teacher(inputs.normalise(raw))
        handle.remove()
        assert torch.allclose(heard[0][:, 0], raw, atol=1e-5)

    @pytest.mark.parametrize("form", ["projection", "gram"])
    def test_only_the_student_and_its_projections_learn(self, form: str, inputs: Inputs) -> None:
        assert inputs.teacher is not None
        before = copy.deepcopy(inputs.teacher.model.state_dict())
        kept: list[Course] = []
        recipe = taught(soft_weight=0.0, feature_form=form, feature_weight=10.0)
        train(STUDENT, inputs, recipe, 40, 0, CPU, on_batch=kept.append)
        after = inputs.teacher.model.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
        begun = Lesson(recipe, inputs, seeded_model(STUDENT, 3, 0, 16), 0).state_dict()
        moved = {name for name, tensor in kept[0].lesson.state_dict().items() if not torch.equal(tensor, begun[name])}
        assert moved == {name for name in begun if name.startswith("projections.")}

    def test_a_student_comes_nearer_to_its_teacher(self, inputs: Inputs) -> None:
        recipe = taught(soft_weight=0.0, feature_form="projection", feature_weight=10.0)

        def apart(clips: int) -> float:
            kept: list[Course] = []
            model = train(STUDENT, inputs, recipe, clips, 0, CPU, on_batch=kept.append)
            lesson = kept[0].lesson
            assert isinstance(lesson, Lesson)
            read = inputs.normalise(inputs.splits["train"].batch(torch.arange(32), CPU))
            with torch.no_grad(), lesson.listening(model):
                logits = model(read[:, None])
                (loss,) = lesson.losses(torch.zeros(()), logits, torch.zeros(32, 3), read, 0.0)
            return float(loss)

        assert apart(700) < 0.7 * apart(32)

    def test_a_network_without_stages_is_refused(self) -> None:
        with pytest.raises(UserError, match="names no stages"):
            stages(nn.Sequential(nn.Conv2d(1, 3, 1)))


class TestSuperClasses:
    def test_two_gradients_against_each_other_lose_what_they_fight_over(self) -> None:
        """(1, 0) and (-1, 1): the first becomes (0.5, 0.5), the second (0, 1); their mean is (0.25, 0.75)."""
        (merged,) = pcgrad([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 1.0])])
        assert merged is not None
        assert merged.tolist() == [0.25, 0.75]

    def test_two_that_agree_are_averaged(self) -> None:
        (merged,) = pcgrad([torch.tensor([1.0, 0.0])], [torch.tensor([1.0, 2.0])])
        assert merged is not None
        assert merged.tolist() == [1.0, 1.0]

    def test_what_one_task_alone_reaches_keeps_its_gradient(self) -> None:
        """And does not count in the fight: the shared weights' gradients are the first test's."""
        first = [torch.tensor([1.0, 0.0]), torch.tensor([7.0]), None, None]
        second = [torch.tensor([-1.0, 1.0]), None, torch.tensor([9.0]), None]
        merged = [None if tensor is None else tensor.tolist() for tensor in pcgrad(first, second)]
        assert merged == [[0.25, 0.75], [7.0], [9.0], None]

    def test_a_networks_fast_form_gives_the_gradients_of_two_losses(self) -> None:
        """Of one pass, each as it is when it is the only one."""
        model, read = seeded_model(STUDENT, 3, 0, 256), torch.randn(8, 1, 44, 256)
        parameters = list(model.parameters())

        def gradients(loss: Tensor, retain: bool) -> tuple[Tensor, ...]:
            return torch.autograd.grad(loss, parameters, retain_graph=retain)

        alone = [gradients(model(read)[:, k].sum(), False) for k in (0, 1)]
        logits = model(read)
        both = [gradients(logits[:, 0].sum(), True), gradients(logits[:, 1].sum(), False)]
        for mine, theirs in zip(both, alone, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))

    def test_their_targets_are_sums_of_the_classes(self, inputs: Inputs) -> None:
        model = seeded_model(STUDENT, 3, 0, 16)
        lesson = Lesson(dataclasses.replace(PLAIN, multitask="sum", super_weight=0.5), inputs, model, 0)
        read = torch.randn(2, 16, 16)
        with lesson.listening(model.eval()):
            logits = model(read[:, None])
        mixed = torch.tensor([[0.2, 0.3, 0.5], [0.0, 1.0, 0.0]])
        losses = lesson.losses(cross_entropy(logits, mixed), logits, mixed, read, 0.0)
        heard: list[Tensor] = []
        handle = penultimate(model, 3).register_forward_pre_hook(lambda module, args: heard.append(args[0]))
        model(read[:, None])
        handle.remove()
        theirs = 0.5 * cross_entropy(lesson.super_head(heard[0]), torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        assert losses[1].item() == pytest.approx(theirs.item(), rel=1e-5)

    def test_the_sums_gradient_is_that_of_one_loss(self, inputs: Inputs) -> None:
        first, second = (torch.tensor([2.0], requires_grad=True) for _ in range(2))
        lesson = Lesson(dataclasses.replace(PLAIN, multitask="sum"), inputs, seeded_model(STUDENT, 3, 0, 16), 0)
        lesson.backward([first.square().sum(), (first * second).sum()], nn.ParameterList([first, second]))
        assert (first.grad, second.grad) == (torch.tensor([6.0]), torch.tensor([2.0]))

    @pytest.mark.parametrize("how", ["sum", "pcgrad"])
    def test_the_second_head_learns_and_is_not_the_networks(self, how: str, inputs: Inputs) -> None:
        kept: list[Course] = []
        recipe = dataclasses.replace(PLAIN, multitask=how)
        model = train(STUDENT, inputs, recipe, 70, 0, CPU, on_batch=kept.append)
        assert set(model.state_dict()) == set(build_model(STUDENT, 3, 16).state_dict())
        begun = Lesson(recipe, inputs, seeded_model(STUDENT, 3, 0, 16), 0).state_dict()
        assert not torch.equal(kept[0].lesson.state_dict()["super_head.weight"], begun["super_head.weight"])

    @pytest.mark.parametrize("network", ["dssdn-small", "mobilenet-v2", "sp4asc"])
    def test_the_features_behind_the_classes_are_found(self, network: str) -> None:
        model = build_model(network, 7, 32)
        read: list[Tensor] = []
        last = penultimate(model, 7)
        last.register_forward_pre_hook(lambda module, args: read.append(args[0]))
        logits = model.eval()(torch.randn(2, 1, 32, 32))
        assert torch.allclose(last(read[0]), logits)


class TestGoingOn:
    @pytest.mark.parametrize("form", ["projection", "gram"])
    def test_within_an_epoch_equals_never_having_stopped(self, form: str, inputs: Inputs, tmp_path: Path) -> None:
        recipe = dataclasses.replace(ALL, feature_form=form)
        states: list[bytes] = []

        def keep(course: Course) -> None:
            content = io.BytesIO()
            torch.save(course.state(), content)
            states.append(content.getvalue())

        whole = train(STUDENT, inputs, recipe, 140, 0, CPU, on_batch=keep).state_dict()
        state = torch.load(io.BytesIO(states[4]), weights_only=True)
        assert state["batch"] > 0
        on = train(STUDENT, inputs, recipe, 140, 0, CPU, start=state).state_dict()
        assert all(torch.equal(tensor, on[name]) for name, tensor in whole.items())

    def test_a_state_of_before_there_were_lessons_goes_on(self, inputs: Inputs) -> None:
        states: list[dict[str, Any]] = []
        whole = train(STUDENT, inputs, PLAIN, 140, 0, CPU, on_epoch=lambda e: states.append(copy.deepcopy(e.state)))
        del states[0]["lesson"]
        on = train(STUDENT, inputs, PLAIN, 140, 0, CPU, start=states[0]).state_dict()
        assert all(torch.equal(tensor, on[name]) for name, tensor in whole.state_dict().items())

    def test_parts_of_a_batch_train_too(self, inputs: Inputs) -> None:
        model = train(STUDENT, inputs, ALL, 70, 0, CPU, accumulate=2)
        assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())

    def test_the_students_first_weights_do_not_depend_on_the_lesson(self, inputs: Inputs) -> None:
        begun: list[dict[str, Tensor]] = []
        for recipe in (PLAIN, ALL):
            seen: list[dict[str, Tensor]] = []

            def keep(course: Course, seen: list[dict[str, Tensor]] = seen) -> None:
                seen.append(copy.deepcopy(course.model.state_dict()))

            train(STUDENT, inputs, recipe, 32, 3, CPU, on_batch=keep)
            begun.append(seen[0])
        assert all(torch.equal(tensor, begun[1][name]) for name, tensor in begun[0].items())
