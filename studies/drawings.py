"""Drawings of one network and of one clip: its diagram block by block, its cost by block, a log-mel with the network's cut in it.

Plain functions: a spec or arrays in, SVG text or a plotly figure out. Colours and number formats are those of `studies.charts`.

Legend of array suffixes: T frames, F mel bins.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from search_space.architecture import Architecture, Block
from search_space.complexity import Cost, LayerCost, count, cut, eca_kernel, pool_after
from search_space.errors import UserError
from search_space.families import FAMILIES, Network, family_of
from search_space.mobile import Mobile
from search_space.related import Related
from studies.charts import BLUE, GREEN, GREY, VERMILLION, layout, quantity

_WIDTH, _LEFT, _RIGHT, _RAIL = 420, 8, 384, 406
_ROW = 21  # height of one operator's box
_NARROWEST = 0.15  # share of the width below which a part's words do not fit any more
_INK = {False: "#1d2733", True: "#e4eaf0"}  # of texts, by whether the page is dark
_DECIBELS = 10 / np.log(10)  # of one unit of a natural logarithm of power
_LOUDEST_DB = 80.0  # Assumed: what lies further below the loudest is no more seen than heard
_TICKS_HZ = (300, 1000, 3000, 10_000, 20_000)


# ------------------------------------------------------------------------------------------------------- a network's cost


def cost_by_part(cost: Cost, network: Network) -> pd.DataFrame:
    """`part` (stem, block 1, ..., head), `params`, `macs` and the part's output `shape` (C, T, F), in order of execution."""
    rows: list[dict[str, Any]] = []
    for part, layers in _parts(cost).items():
        sums = {what: sum(getattr(layer, what) for layer in layers) for what in ("params", "macs")}
        rows.append({"part": part, **sums, "shape": layers[-1].shape})
    if isinstance(network, Architecture):
        for number, block in enumerate(network.blocks, start=1):  # batch norm and attention come after the merging
            rows[number]["shape"] = (block.out_channels, *rows[number]["shape"][1:])
    if isinstance(network, Related):  # what a block spreads over its map is smaller than the map
        widths = [block.c_out for stage in network.blocks for block in stage]
        for row, layers, width in zip(rows[1:-1], list(_parts(cost).values())[1:-1], widths, strict=True):
            if layers[-1].name.count(".") > 2:
                frames, mels = (max(layer.shape[axis] for layer in layers) for axis in (1, 2))
                row["shape"] = (width, frames, mels)
    return pd.DataFrame(rows)


def _parts(cost: Cost) -> dict[str, list[LayerCost]]:
    """The layers of every part, in order of execution: stem, block 1, ..., head; blocks of a family with stages are called by stage and place. A pool or
    norm between the blocks of a stage belongs to the block before it, one that opens the stage to its first block."""
    parts: dict[str, list[LayerCost]] = {}
    blocks: dict[str, dict[str, int]] = {}
    for layer in cost.layers:
        first, *rest = layer.name.split(".")
        part = first
        if first == "blocks":
            part = f"block {int(rest[0]) + 1}"
        elif first == "stages":
            stage, place, *within = rest
            seen = blocks.setdefault(stage, {})
            number = seen.setdefault(place, len(seen) + 1) if within else max(len(seen), 1)
            part = f"stage {int(stage) + 1}, block {number}"
        parts.setdefault(part, []).append(layer)
    return parts


def cost_figure(parts: pd.DataFrame, title: str = "", synthetic: bool = False) -> go.Figure:
    """Params and MACs of every part (`cost_by_part`) as bars, the first part on top, each with its share of the whole under the pointer."""
    figure = make_subplots(rows=1, cols=2, shared_yaxes=True, horizontal_spacing=0.06)
    for column, (what, name, colour) in enumerate((("params", "parameters", BLUE), ("macs", "MACs", GREEN)), start=1):
        total = max(int(parts[what].sum()), 1)
        values = parts[what].tolist()
        bars = go.Bar(
            x=values,
            y=parts["part"].tolist(),
            orientation="h",
            marker={"color": colour},
            text=[quantity(value) for value in values],
            textposition="outside",
            cliponaxis=False,
            customdata=[[f"{value:,}", 100 * value / total] for value in values],
            hovertemplate=f"%{{y}}: %{{customdata[0]}} {name}, %{{customdata[1]:.1f}} % of all<extra></extra>",
        )
        figure.add_trace(bars, row=1, col=column)
        # Room for the number behind the longest bar; no ticks, for every bar has its number.
        end = 1.45 * max([1, *values])
        figure.update_xaxes(
            title=name, range=[0, end], showticklabels=False, showgrid=False, zeroline=False, col=column
        )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_layout(layout(title, synthetic), showlegend=False, bargap=0.35, dragmode=False)
    return figure


# ----------------------------------------------------------------------------------------------------- a network's diagram


def network_svg(network: Network, input: tuple[int, int], n_classes: int, dark: bool = False) -> str:
    """The network as an SVG drawing, from the log-mel above to the classes below, for a clip of `input` = (frames, mels).

    Of a DSSDN network, from left to right lies the mel axis, low bins to the left: a block's heavy and light part are as wide as their shares of it (15 % at
    least), with the cut between them. Lines at the side are what is distilled; the rail on the right is what the head sees. `dark` fits the texts to a
    dark page; they are legible from 350 pixels on.
    """
    if not isinstance(network, Architecture):
        return _staged_svg(network, input, n_classes, dark)
    architecture = network
    cost = count(architecture, input, n_classes)
    parts = {row["part"]: row for row in cost_by_part(cost, architecture).to_dict("records")}
    pen = _Pen(_INK[dark])
    pen.text(_LEFT, 14, f"log-mel, {input[0]} × {input[1]} (frames × mels)", strong=True)
    pen.y = 22
    pen.arrow()
    _draw_stem(pen, architecture, parts["stem"])
    taps: list[float] = []
    size = parts["stem"]["shape"]
    for number, block in enumerate(architecture.blocks, start=1):
        part = parts[f"block {number}"]
        _draw_block(pen, architecture, number, block, size, part)
        size = part["shape"]
        if number in architecture.tap_numbers:
            taps.append(pen.y + 9)
        pen.arrow(f"{_by(part['shape'])}", tapped=number in architecture.tap_numbers)
    _draw_head(pen, architecture, n_classes, parts["head"], taps)
    words = (
        f"Diagram of {architecture}: {len(architecture.blocks)} blocks, {cost.params:,} parameters, {cost.macs:,} MACs"
    )
    return pen.svg(words)


def _staged_svg(network: Mobile | Related, input: tuple[int, int], n_classes: int, dark: bool) -> str:
    """The network in the form that is counted, a box each layer, with the batch norm behind it if it has one; a line at the side is a block's input that
    is added behind the last layer of the block's own, before attention and response norm."""
    cost = count(network, input, n_classes)
    pen = _Pen(_INK[dark])
    pen.text(_LEFT, 14, f"log-mel, {input[0]} × {input[1]} (frames × mels)", strong=True)
    pen.y = 22
    pen.arrow()
    adds = iter(_adds(network))
    layers = _parts(cost)
    for part in cost_by_part(cost, network).to_dict("records"):
        name = str(part["part"])
        _draw_title(pen, f"{name[0].upper()}{name[1:]}", part)
        of_block = name.startswith("stage")
        begins, added, within = pen.y, 0.0, False
        for layer, behind in zip(layers[name], [*layers[name][1:], None], strict=True):
            if layer.kind == "batch norm":
                continue
            normed = ", norm" * (behind is not None and behind.kind == "batch norm")
            if not within and layer.name.count(".") > 2:
                begins, within = pen.y, True  # behind a pool that opens the stage
            colour = BLUE if layer.kind.startswith("channel-wise") else GREY
            pen.box(_LEFT, _RIGHT, f"{_words_of(layer, network)}{normed} → {_by(layer.shape)}", colour)
            if layer.name.split(".")[3:4] in (["project"], ["second"], ["shortcut"], ["mix"]):
                added = pen.y - _ROW / 2
        if of_block and next(adds):
            pen.path(f"M{_RIGHT} {begins - 8} H{_RAIL} V{added} H{_RIGHT}", GREEN)
        pen.arrow(f"{_activation(network)}, {_by(part['shape'])}".lstrip(", ") if of_block else _by(part["shape"]))
    pen.text(_LEFT, pen.y + 12, f"mean over the map: {n_classes} classes", strong=True)
    pen.y += 20
    title = FAMILIES[family_of(network)].title
    return pen.svg(
        f"Diagram of {network}: {title} of {sum(network.depths)} blocks, {cost.params:,} parameters, {cost.macs:,} MACs"
    )


def _adds(network: Mobile | Related) -> list[bool]:
    """Whether each block adds its input, in order."""
    if isinstance(network, Mobile):
        return [block.adds for stage in network.blocks for block in stage]
    return [network.adds(block) for stage in network.blocks for block in stage]


def _activation(network: Mobile | Related) -> str:
    """What a block ends in, if it is no norm of the stage."""
    return {"cpm": "ReLU", "repm": "SiLU"}.get(network.kind, "")


def _words_of(layer: LayerCost, network: Mobile | Related) -> str:
    """A layer's box in words."""
    of = layer.name.removesuffix(".conv").rpartition(".")[2]
    words = {
        **{"time": "attention along time", "mel": "attention along mels", "channel": "attention across channels"},
        "response": "response norm",
    }
    if network.kind == "repm" and of == "depthwise":
        return f"{layer.kind} convolution (four branches merged)"
    if isinstance(network, Mobile):
        return words.get(of, f"{layer.kind} convolution")
    words = {
        "shortcut": f"{layer.kind} of the block's input",
        "mix": f"{layer.kind}, spread over the mels",
        "mel_mix": f"{layer.kind}, spread over the mels",
        "time_mix": f"{layer.kind}, spread over the frames",
    }
    if layer.kind == "residual norm" or layer.kind.endswith("max"):
        return layer.kind.replace(" max", " max pool")
    return words.get(of, f"{layer.kind} convolution")


def _draw_stem(pen: _Pen, architecture: Architecture, part: Mapping[Any, Any]) -> None:
    _draw_title(pen, "Stem", part)
    pen.box(_LEFT, _RIGHT, "3×3 convolution, norm, ReLU", GREY)
    pen.arrow(_by(part["shape"]))


def _draw_title(pen: _Pen, name: str, part: Mapping[Any, Any]) -> None:
    pen.text(_LEFT, pen.y + 11, name, strong=True)
    pen.text(_RIGHT, pen.y + 11, f"{quantity(part['params'])} params · {quantity(part['macs'])} MACs", anchor="end")
    pen.y += 18


def _draw_block(
    pen: _Pen, architecture: Architecture, number: int, block: Block, size: tuple[int, ...], part: Mapping[Any, Any]
) -> None:
    """One block on a map of `size` (C, T, F)."""
    _draw_title(pen, f"Block {number}", part)
    operator = operator_label(block)
    if architecture.kind == "plain":
        pen.box(_LEFT, _RIGHT, f"{operator}, norm, ReLU", BLUE)
        pen.y += 5
        pen.box(_LEFT, _RIGHT, _pooling(block.pool) or "no pooling", GREY)
        return
    n_heavy, n_light = cut(block, architecture.merge, size[2])
    left, right, middle = float(_LEFT), float(_RIGHT), 0.0
    if block.cut and n_light:
        share = min(max(n_heavy / (n_heavy + n_light), _NARROWEST), 1 - _NARROWEST)
        middle = _LEFT + (_RIGHT - _LEFT) * (share if architecture.heavy == "low" else 1 - share)
        left, right = (_LEFT, middle - 4) if architecture.heavy == "low" else (middle + 4, _RIGHT)
    top, width = pen.y, right - left
    bins = f"{n_heavy} of {size[2]} bins" if width > 150 else f"{n_heavy}"
    pen.text((left + right) / 2, top + 10, f"heavy, {bins}", anchor="middle", faint=True)
    pen.y += 15
    distils = architecture.kind == "distillation"
    # The lines of what is distilled need a margin within the heavy part.
    edge = left + 12 if distils else left
    ends = []
    for _ in range(3):
        pen.box(edge, right, operator, BLUE, strong=True)
        ends.append(pen.y)
        pen.y += 5
    fuse = pen.y
    pen.box(edge if not distils else left, right, "join, 1×1" if distils else "1×1", BLUE)
    if distils:
        # The input and what the first operator gives are distilled; the third operator's output goes straight down.
        pen.path(f"M{left + 7} {top + 14} V{fuse}", GREEN)
        pen.path(f"M{edge} {ends[0] - 6} H{left + 2.5} V{fuse}", GREEN)
    if middle:
        a, b = (middle + 4, _RIGHT) if architecture.heavy == "low" else (_LEFT, middle - 4)
        light = f"light, {n_light} bins" if b - a > 100 else f"light, {n_light}"
        pen.text((a + b) / 2, top + 10, light, anchor="middle", faint=True)
        bottom, pen.y = pen.y, top + 15
        pen.box(a, b, "1×1", GREY, height=bottom - pen.y)
        pen.path(f"M{middle:.1f} {top - 1} V{bottom + 1}", VERMILLION, dash="3 3")
    pen.y += 5
    pen.box(_LEFT, _RIGHT, _after(architecture, block), GREY)


def _after(architecture: Architecture, block: Block) -> str:
    """What comes behind the two parts of a block."""
    merged = {"splice": "spliced", "add": "added", "concat": "concatenated"}[architecture.merge]
    kernel = eca_kernel(block.out_channels) if architecture.eca is None else architecture.eca
    words = [merged] if block.cut else []
    words += [f"attention {kernel}"] if kernel else []
    pool = _pooling(pool_after(block, architecture.merge))
    return ", ".join(filter(None, [*words, "norm", "ReLU", pool]))


def _draw_head(
    pen: _Pen, architecture: Architecture, n_classes: int, part: Mapping[Any, Any], taps: Sequence[float]
) -> None:
    _draw_title(pen, "Head", part)
    numbers, seen = architecture.tap_numbers, sum(block.out_channels for block in architecture.taps)
    of = f"block {numbers[0]}" if len(numbers) == 1 else f"blocks {_spans(numbers)}"
    middle = pen.y + _ROW / 2
    pen.box(_LEFT, _RIGHT, f"means of {of}: {seen} values", GREEN)
    for y in taps:
        pen.path(f"M{(_LEFT + _RIGHT) / 2 + 62} {y:.1f} H{_RAIL} V{middle:.1f}", GREEN)
    pen.path(f"M{_RAIL} {middle:.1f} H{_RIGHT + 2}", GREEN)
    pen.y += 5
    pen.box(_LEFT, _RIGHT, f"linear {architecture.head}, ReLU", GREY)
    pen.y += 5
    pen.box(_LEFT, _RIGHT, f"linear {n_classes}: one value a class", GREY)


def operator_label(block: Block) -> str:
    """A block's operator as the diagram writes it: OSC m6."""
    letters = {option.name: option.letter for option in block.module.options()}
    return " ".join([block.operator.upper(), *(f"{letters[name]}{value:g}" for name, value in block.options)])


def _pooling(pool: tuple[int, int]) -> str:
    return "" if pool == (1, 1) else f"{pool[0]}×{pool[1]} mean"


def _by(shape: Sequence[int]) -> str:
    return " × ".join(f"{size}" for size in shape)


def _spans(numbers: Sequence[int]) -> str:
    """Numbers for people: 2–5, or 1, 3, 5."""
    whole = list(range(numbers[0], numbers[-1] + 1)) == list(numbers)
    return f"{numbers[0]}–{numbers[-1]}" if whole else ", ".join(map(str, numbers))


class _Pen:
    """What is drawn so far, and how far down it goes."""

    def __init__(self, ink: str) -> None:
        self.y = 0.0
        self._ink = ink
        self._parts: list[str] = []

    def text(
        self, x: float, y: float, words: str, anchor: str = "start", strong: bool = False, faint: bool = False
    ) -> None:
        style = ' font-weight="600"' if strong else ' opacity="0.75"' if faint else ""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style} fill="{self._ink}">{html.escape(words)}</text>'
        )

    def box(
        self, left: float, right: float, words: str, colour: str, height: float = _ROW, strong: bool = False
    ) -> None:
        self._parts.append(
            f'<rect x="{left:.1f}" y="{self.y:.1f}" width="{right - left:.1f}" height="{height:.1f}" rx="3" fill="{colour}" '
            f'fill-opacity="{0.28 if strong else 0.16}" stroke="{colour}"/>'
        )
        self.text((left + right) / 2, self.y + height / 2 + 4.5, words, anchor="middle")
        self.y += height

    def path(self, data: str, colour: str, dash: str = "") -> None:
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self._parts.append(f'<path d="{data}" fill="none" stroke="{colour}" stroke-width="1.6"{dashed}/>')

    def arrow(self, words: str = "", tapped: bool = False) -> None:
        """Down to the next part, with what goes down: a map's shape."""
        x, end = (_LEFT + _RIGHT) / 2, self.y + 24
        if words:
            self._parts.append(
                f'<path d="M{x - 62} {self.y + 3} V{end - 5} m-4 -5 l4 5 l4 -5" fill="none" stroke="{GREY}"/>'
            )
            self.text(x, self.y + 15, words, anchor="middle", strong=tapped)
        else:
            self._parts.append(
                f'<path d="M{x} {self.y + 1} V{end - 6} m-4 -5 l4 5 l4 -5" fill="none" stroke="{GREY}"/>'
            )
        self.y = end

    def svg(self, words: str) -> str:
        height = self.y + 4
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:.0f}" role="img" '
            f'aria-label="{html.escape(words)}" font-size="12.5" font-family="sans-serif"'
            f">{''.join(self._parts)}</svg>"
        )


# ------------------------------------------------------------------------------------------------------------ a clip's log-mel


def mel_edges_hz(front_end: Mapping[str, Any]) -> NDArray[np.float64]:
    """The frequencies (Hz) of the n_mels + 2 corners of the mel filters; bin k peaks at corner k + 1.

    Raises `UserError` for an unknown mel scale. Source: the scales of torchaudio's `melscale_fbanks`: Slaney's (Auditory Toolbox, 1998:
    linear to 1 kHz, then logarithmic, 27 steps for a factor of 6.4) and HTK's, 2595 log10(1 + f / 700).
    """
    scale = front_end["mel_scale"]
    if scale not in ("slaney", "htk"):
        raise UserError(f"unknown mel scale {scale!r} in the record of the front end; known: ['slaney', 'htk']")
    step = np.log(6.4) / 27

    def to_mel(hz: float) -> float:
        if scale == "htk":
            return float(2595 * np.log10(1 + hz / 700))
        return float(3 * hz / 200 if hz < 1000 else 15 + np.log(hz / 1000) / step)

    mel = np.linspace(to_mel(front_end["f_min"]), to_mel(front_end["f_max"]), int(front_end["n_mels"]) + 2)
    if scale == "htk":
        return np.asarray(700 * (10 ** (mel / 2595) - 1))
    return np.where(mel < 15, 200 * mel / 3, 1000 * np.exp(step * (np.maximum(mel, 15) - 15)))


def mel_cuts(architecture: Network, train_mels: int, n_mels: int) -> dict[float, list[int]]:
    """Where the network cuts the mel axis, as a place on an axis of `n_mels` bins (0 to n_mels), each with the blocks that cut there; nowhere
    but in DSSDN.

    The network reads `train_mels` bins, an average of the full ones. Cuts of later blocks that lie within one bin of its input are one: they come of rounding.
    Behind a merging that lays the halves over each other there is no place on the axis left, so the first cut alone counts.
    """
    cuts: dict[float, list[int]] = {}
    if not isinstance(architecture, Architecture):
        return cuts
    mels = train_mels
    for number, block in enumerate(architecture.blocks, start=1):
        n_heavy, n_light = cut(block, architecture.merge, mels)
        if block.cut and n_light:
            low = n_heavy if architecture.heavy == "low" else n_light
            place = low / (n_heavy + n_light)
            near = [old for old in cuts if abs(old / n_mels - place) < 1.5 / mels]
            cuts.setdefault(near[0] if near else place * n_mels, []).append(number)
            if architecture.merge != "splice":
                break
        mels = max(mels // block.pool[1], 1)
    return cuts


def logmel_figure(
    logmel_TF: NDArray[np.floating[Any]],
    front_end: Mapping[str, Any],
    cuts: Mapping[float, Sequence[int]] | None = None,
    heavy: str = "low",
    title: str = "",
    synthetic: bool = False,
    dark: bool = False,
) -> go.Figure:
    """A clip's log-mel (natural logarithm of power) over seconds and kHz, in dB below its loudest, with the network's `cuts` (`mel_cuts`) as lines.

    Values are rounded to a third of a dB, a byte each: a page with several of these stays light.
    """
    decibels_TF = np.asarray(logmel_TF, dtype=np.float32) * _DECIBELS
    decibels_TF = np.nan_to_num(decibels_TF, nan=-1e3, posinf=1e3, neginf=-1e3)
    shades_FT = np.clip((decibels_TF - decibels_TF.max() + _LOUDEST_DB) / _LOUDEST_DB * 255, 0, 255).T.astype(np.uint8)
    step_s = float(front_end["hop_length"]) / float(front_end["sample_rate"])
    frames, mels = decibels_TF.shape
    scale = ["#11171e", "#0b5394", "#93c9f5", "#fdf6dc"] if dark else ["#ffffff", "#93c9f5", "#0b5394", "#0a1a2c"]
    picture = go.Heatmap(
        z=shades_FT,
        x0=0,
        dx=step_s,
        y0=0.5,
        dy=1,
        colorscale=scale,
        zmin=0,
        zmax=255,
        showscale=False,
        hoverinfo="skip",
    )
    figure = go.Figure(picture)
    peaks_hz = mel_edges_hz(front_end)[1:-1]
    ticks = [hz for hz in _TICKS_HZ if peaks_hz[0] <= hz <= peaks_hz[-1]]
    figure.update_yaxes(
        title="frequency (kHz)",
        tickvals=[float(np.interp(hz, peaks_hz, np.arange(mels) + 0.5)) for hz in ticks],
        ticktext=[f"{hz / 1000:g}" for hz in ticks],
        range=[0, mels],
        showgrid=False,
        zeroline=False,
    )
    figure.update_xaxes(title="time (s)", range=[0, frames * step_s], showgrid=False, zeroline=False)
    for place, blocks in (cuts or {}).items():
        figure.add_hline(y=place, line={"color": VERMILLION, "width": 2, "dash": "dash"})
        of = f"cut of block{'s' * (len(blocks) > 1)} {_spans(blocks)}"
        side = {"low": "heavy below", "high": "heavy above"}[heavy]
        figure.add_annotation(
            x=1, xref="paper", xanchor="right", y=place, yanchor="bottom", text=f"{of}, {side}", showarrow=False,
            font={"color": "#ffffff", "size": 12}, bgcolor="rgba(17,23,30,0.72)", borderpad=2,
        )  # fmt: skip
    figure.update_layout(layout(title, synthetic), dragmode=False)
    return figure
