"""Whether a study that goes on is still about the same: what it remembers of its beginning, held against what is asked now. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from search_space.errors import UserError
from trainers.runs import provenance

CAPS = ("max_params", "max_macs", "max_bytes", "precision", "limits")
_DECISIVE = ("space", "input", "train_input", "budget", "halving", "recipe", "seed", *CAPS, "heartbeat_s")
"""What must be as it was; `data` and its front end are compared by what tells them apart."""


def check_same(name: str, then: Mapping[str, Any], now: Mapping[str, Any], with_artifacts: bool = False) -> None:
    """Raises `UserError` with everything that differs when the study `name` was made with something else. The code is `check_code`'s.

    `with_artifacts` says that a place for artifacts was named, which must then be the study's.
    """
    keys = (*_DECISIVE, *(("artifacts",) if with_artifacts else ()))
    differences = [f"{key}: {difference(then.get(key), now[key])}" for key in keys if then.get(key) != now[key]]
    if then["data"]["front_end"] != now["data"]["front_end"]:
        differences.insert(0, f"front end: {difference(then['data']['front_end'], now['data']['front_end'])}")
    if then["data"]["digest"] != now["data"]["digest"]:
        differences.insert(0, f"data: {_described(then['data'])}, now {_described(now['data'])}")
    if differences:
        raise UserError(
            f"study {name!r} was made with something else; give the same options, or another --study name. "
            f"Then and now: {'; '.join(differences)}"
        )


def check_code(name: str, then: Mapping[str, Any], code: str, accept: bool) -> str:
    """What to say where the code that decides results has changed and `accept` allows it; nothing where it is the same.

    Raises `UserError` where it is not accepted. Refused and not just warned of: scores of two codes in one front can not be told apart
    afterwards, and nobody reads the warnings of a machine that joins by itself.
    """
    before = then.get("code")
    if before == code:
        return ""
    revision = then["provenance"].get("git")
    said = "not recorded" if before is None else before[:12]
    if not accept:
        raise UserError(
            f"study {name!r} was made by other code of search_space and trainers (digest {said}, revision {revision}; now "
            f"{code[:12]}, {provenance()['git']}): its scores may not compare. Go back to that revision, name another --study, or "
            f"go on in spite of it with --accept-code"
        )
    return f"the study goes on with other code: digest {said}, now {code[:12]}"


def difference(then: Any, now: Any) -> str:
    """Only what differs of two values."""
    if isinstance(then, dict) and isinstance(now, dict):
        return ", ".join(
            f"{key} {then.get(key)!r}, now {now.get(key)!r}" for key in {**now, **then} if then.get(key) != now.get(key)
        )
    return f"{then!r}, now {now!r}"


def _described(data: Mapping[str, Any]) -> str:
    counts = "/".join(str(number) for number in data["counts"].values())
    return f"{data['name']} ({counts} clips, test fold {data['fold']}, digest {data['digest'][:12]})"
