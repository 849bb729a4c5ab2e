"""The networks that DSSDN is compared with, by name: where each comes from, what was printed of it, and how it is built.

Reading a name, a source or a printed figure needs no torch; `build` imports it.

**How Table 1 of the paper counted its comparators.** Neither table nor text says, but one rule gives all its cells but one
(`tests/test_comparators.py` does the arithmetic): one-channel 431x256 input, ten outputs, params *with the running statistics*
of batch norm (every number of the saved state), and MACs of convolutions and linear layers *plus four for each value that a
batch norm passes*, as the counter thop does. So counted ours print as 21.30, 3.24, 2.27, 1.70 and 14.52 M and as 7.99, 1.29, 0.71,
0.14 and 3.30 G: every digit of the table but 3.25 (MobileNet V1), which biases in its convolutions would give. Our convention
counts neither, which is all of the difference in the three MobileNets' MACs.

Tried and dropped, because their counts are others, also by that rule: inputs of two or three channels; MobileNet V3 Large (4.2 M,
0.5 G); V3 Small as in later code (1.54 M, 0.13 G) or with a hidden layer of 1,280 (1.69 M, 0.13 G); Inception without its auxiliary
classifiers (5.98 M), with 3x3 in place of 5x5 (14.14 M, 3.12 G) or with batch norm (14.54 M, 3.33 G); MobileNet V1 with a stem
of stride 1 (5.1 G).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from torch import nn

TAU_2020 = "TAU Urban Acoustic Scenes 2020 Mobile"
TAU_2022 = "TAU Urban Acoustic Scenes 2022 Mobile"


class Published(NamedTuple):
    """What was printed of a network: params, MACs, accuracy in per cent, and the data set it was measured on; None: not printed."""

    params: int | None
    macs: int | None
    accuracy: float | None
    dataset: str | None = TAU_2020


@dataclass(frozen=True)
class Comparator:
    """One network: who proposed it (`source`), what was printed of it here, and at what it was counted there.

    `input` is (frames, mels), `outputs` the number of classes, `convention` one of `search_space.complexity`'s. `note` says
    why our count differs where it does. `home` and `options` are the module's class and arguments.
    """

    name: str
    source: str
    published: Published
    home: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    channels_in: int = 1
    per_mel: bool = False
    input: tuple[int, int] = (431, 256)
    outputs: int = 10
    convention: str = "conv+linear"
    note: str | None = None

    def build(self, n_classes: int = 10, n_mels: int = 256) -> nn.Module:
        """A freshly initialised network (from torch's global generator), (B, `channels_in`, T, F) to (B, K) logits.

        One channel is the log-mel, two are `search_space.dsmn.two_channels` of it. `n_mels` is the F it will read; only
        networks that are `per_mel` have parameters for each bin and hold to it, the others read every F.
        """
        module, name = self.home.split(":")
        options = {**self.options, **({"n_mels": n_mels} if self.per_mel else {})}
        return getattr(import_module(f"search_space.{module}"), name)(n_classes, **options)


_BATCH_NORM = (
    "printed with batch norm counted: running statistics among the params, 4 MACs for each value; so counted, ours round to the "
    "printed figures"
)
_PAPER = (
    Comparator(
        name="resnet34",
        source="arXiv 1512.03385, Table 1",
        published=Published(21_300_000, 7_990_000_000, 60.30),
        home="comparator_modules:ResNet34",
        note=_BATCH_NORM,
    ),
    Comparator(
        name="mobilenet-v1",
        source="arXiv 1704.04861, Table 1",
        published=Published(3_250_000, 1_290_000_000, 55.76),
        home="comparator_modules:MobileNetV1",
        note=f"{_BATCH_NORM}, but for the params (3.24 M)",
    ),
    Comparator(
        name="mobilenet-v2",
        source="arXiv 1801.04381, Table 2",
        published=Published(2_270_000, 710_000_000, 57.48),
        home="comparator_modules:MobileNetV2",
        note=_BATCH_NORM,
    ),
    Comparator(
        name="mobilenet-v3",
        source="arXiv 1905.02244, Table 2",
        published=Published(1_700_000, 140_000_000, 55.83),
        home="comparator_modules:MobileNetV3Small",
        note=_BATCH_NORM,
    ),
    Comparator(
        name="inception-v1",
        source="arXiv 1409.4842, Table 1",
        published=Published(14_520_000, 3_300_000_000, 48.89),
        home="comparator_modules:InceptionV1",
        note="8.54 M of the params are the two auxiliary classifiers, counted as printed and here not trained; 5.98 M work",
    ),
)
_SP4ASC = Comparator(
    name="sp4asc",
    source="Puy, Jain, Bursuc, DCASE 2021 Task 1A technical report; github.com/valeoai/SP4ASC",
    published=Published(62_474, 454_000_000, 66.7),
    home="comparator_modules:Sp4asc",
    per_mel=True,
    note="printed: batch norm folded into the convolutions, biases counted; ours: the form it is trained in. "
    "68.3 % with 30 augmented copies of each clip at test time",
)


def _dsmn(number: str, published: Published, note: str | None = None, **options: Any) -> Comparator:
    return Comparator(
        name=f"dsmn-{number}",
        source="Wang, Wu, Li, DCASE 2023 Task 1 technical report; github.com/Wangkkklll/DSMN_dcase2023",
        published=published,
        home="dsmn:Dsmn",
        options=options,
        channels_in=2,
        input=(44, 256),
        outputs=13,
        convention="dcase",
        note=note,
    )


_WIDE = {"cuts": (True,) * 5, "widths": (24, 128, 128, 128, 128)}
_DSMN = (
    _dsmn("1", Published(45_100, 8_640_000, 53.4, TAU_2022), cuts=(True,) * 5),
    _dsmn(
        "2",
        Published(56_100, 16_740_000, 59.2, TAU_2022),
        "in the released code this row is model3.py",
        cuts=(True, False, False, False, False),
    ),
    _dsmn(
        "3",
        Published(56_500, 25_440_000, 53.4, TAU_2022),
        "in the released code this row is model2.py",
        cuts=(False,) * 5,
    ),
    _dsmn(
        "4",
        Published(121_800, 20_920_000, 54.7, TAU_2022),
        "repaired, the released model4.py cannot be built: a hidden layer of 100 meets the printed MACs",
        **_WIDE,
    ),
    _dsmn(
        "4-64",
        Published(121_800, 20_920_000, 54.7, TAU_2022),
        "the same with a hidden layer of 64, which meets the printed params",
        **_WIDE,
        hidden=64,
    ),
)

COMPARATORS: dict[str, Comparator] = {comparator.name: comparator for comparator in (*_PAPER, _SP4ASC, *_DSMN)}
"""Every comparator by its name, in the order of the tables: those of the paper's Table 1, SP4ASC, and the DSMN networks."""


class Printed(NamedTuple):
    """What was printed of a described network (`presets.DESCRIBED`), and at what it was counted there: `input` is (frames, mels), `form` is
    'deployed' (batch norm folded), 'merged' (branches merged, batch norm left) or 'trained'."""

    source: str
    published: Published
    input: tuple[int, int]
    form: str
    convention: str = "dcase"
    outputs: int = 10
    note: str | None = None


_CPJKU = "Schmid et al., DCASE 2023 Task 1 technical report; github.com/fschmid56/cpjku_dcase23"
_KIM = "Kim et al., arXiv 2111.06531 (DCASE 2021); github.com/yqcai888/easy_dcase_task1"
PRINTED: dict[str, Printed] = {
    "cp-mobile-s1": Printed(_CPJKU, Published(5_722, 1_582_000, None, TAU_2022), (64, 256), "deployed"),
    "cp-mobile-s2": Printed(
        *(_CPJKU, Published(12_310, 4_354_000, None, TAU_2022), (64, 256), "deployed"),
        note="58.7 % on the evaluation set of DCASE 2023, where it ranked first, by a third party's note",
    ),
    "cp-mobile-s3": Printed(_CPJKU, Published(30_106, 9_638_000, None, TAU_2022), (64, 256), "deployed"),
    "cp-mobile-s4": Printed(
        *(_CPJKU, Published(54_182, 16_803_000, None, TAU_2022), (64, 256), "deployed"),
        note="62.7 % on the evaluation set of DCASE 2023, the most accurate there, by a third party's note",
    ),
    "cp-mobile-126k": Printed(
        *(_CPJKU, Published(126_952, 28_890_000, None, TAU_2022), (64, 256), "trained"),
        note="the released code's default",
    ),
    "cp-mobile-2025": Printed(
        "Li et al., DCASE 2025 Task 1 technical report; github.com/HaoWLee/dcase2025_task1_Li_NTU",
        *(Published(61_160, 17_050_260, 59.30, TAU_2022), (64, 256), "trained"),
        note="the student of a joint distillation from PaSST and CP-ResNet, 25 % of the training clips; 58.80 % with another feature loss",
    ),
    "rep-mobile": Printed(
        "Han et al., arXiv 2410.20775 (DCASE 2024); github.com/seunggyu-han/dcase2025_task1_hyu",
        *(Published(67_570, 20_430_000, None, TAU_2022), (65, 256), "merged"),
        note="widths and figures of the released network of DCASE 2025; the printed params keep 24 branch weights that nothing uses any more, ours do "
        "not. Rep-Mobile itself (DCASE 2024) prints no widths, params or MACs; 61.8 % on its evaluation set with all training clips",
    ),
    "cp-resnet": Printed(
        *(_CPJKU, Published(127_684, 28_840_000, None, TAU_2022), (43, 256), "trained"),
        note="the teacher of CP-Mobile; its figures are those of the released code, counted at 43 frames (hop 750)",
    ),
    "bc-resnet": Printed(
        *(_KIM, Published(81_770, 29_580_000, None, TAU_2022), (64, 256), "trained"),
        note="c = 40, as released for the limits of DCASE 2022 and later",
    ),
    "bc-resnet-80": Printed(
        *(_KIM, Published(306_730, None, None, TAU_2020), (64, 256), "trained"),
        note="c = 80, params of the released code; its paper prints 315 k and 76.3 % on TAU 2020 Mobile (10 s), and no MACs",
    ),
    "tf-sepnet-64": Printed(
        "Cai et al., DCASE 2024 Task 1 technical report; github.com/yqcai888/easy_dcase_task1",
        *(Published(126_858, 29_420_000, None, TAU_2022), (64, 512), "trained"),
        note="62.1 % on the evaluation set of DCASE 2024 with all training clips, by a third party's note",
    ),
}
"""CP-Mobile, Rep-Mobile, CP-ResNet, BC-ResNet and TF-SepNet as they were printed."""
