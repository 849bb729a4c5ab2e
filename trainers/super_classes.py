"""Super-classes: what kind of place or sound a class is of, which a network may learn to name too. The one home of these lists.

Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from search_space.errors import UserError
from trainers.clips import first, read_rows

# Source: DSMN's code, and DCASE 2020 Task 1B's classes: the ten scenes of TAU, which the synthetic data has too.
TAU = {
    "indoor": ("airport", "metro_station", "shopping_mall"),
    "outdoor": ("park", "public_square", "street_pedestrian", "street_traffic"),
    "transport": ("bus", "metro", "tram"),
}
# Source: ESC-50's README: five major categories of ten classes each.
ESC_50 = {
    "animals": ("dog", "rooster", "pig", "cow", "frog", "cat", "hen", "insects", "sheep", "crow"),
    "natural": (
        *("rain", "sea_waves", "crackling_fire", "crickets", "chirping_birds"),
        *("water_drops", "wind", "pouring_water", "toilet_flush", "thunderstorm"),
    ),
    "human": (
        *("crying_baby", "sneezing", "clapping", "breathing", "coughing"),
        *("footsteps", "laughing", "brushing_teeth", "snoring", "drinking_sipping"),
    ),
    "domestic": (
        *("door_wood_knock", "mouse_click", "keyboard_typing", "door_wood_creaks", "can_opening"),
        *("washing_machine", "vacuum_cleaner", "clock_alarm", "clock_tick", "glass_breaking"),
    ),
    "urban": (
        *("helicopter", "chainsaw", "siren", "car_horn", "engine"),
        *("train", "church_bells", "airplane", "fireworks", "hand_saw"),
    ),
}
KNOWN: tuple[Mapping[str, Sequence[str]], ...] = (TAU, ESC_50)


def super_classes(classes: Sequence[str], path: str = "") -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The super-classes' names, sorted, and which one every class is of, K indices into them.

    They are those of a csv with the columns label and super_class, or those known for TAU's scenes and ESC-50's sounds. Raises `UserError` where a
    class has none, or all have the same.
    """
    if path:
        rows = read_rows(Path(path), ("label", "super_class"))
        of = {row["label"]: row["super_class"] for row in rows}
        if len(of) < len(rows):
            raise UserError(f"{path} names a label more than once; keep one row each")
    else:
        tables = ({name: group for group, names in table.items() for name in names} for table in KNOWN)
        of = next((table for table in tables if set(classes) <= set(table)), {})
    missing = [name for name in classes if name not in of]
    if missing:
        raise UserError(
            f"no super-class for {len(missing)} of the {len(classes)} classes ({first(missing)}): they are known for TAU's scenes and ESC-50's sounds; "
            f"name a csv with the columns label and super_class by --super-classes"
        )
    names = tuple(sorted({of[name] for name in classes}))
    if len(names) < 2:
        raise UserError(
            f"all {len(classes)} classes are of one super-class, {names[0]!r}: there is nothing to learn of it; leave --multitask out"
        )
    return names, tuple(names.index(of[name]) for name in classes)
