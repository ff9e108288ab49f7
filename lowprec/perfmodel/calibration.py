"""Both models of one machine, to and from JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lowprec.checks import bad_file
from lowprec.perfmodel.paper import PaperModel
from lowprec.perfmodel.roofline import Costs, RooflineModel
from lowprec.perfmodel.roofs import Roofs

__all__ = ["Calibration", "load"]

#: Number of the layout of a calibration.
VERSION = 1


@dataclass(frozen=True)
class Calibration:
    """What is known about a machine.

    Parameters
    ----------
    paper : PaperModel
    roofline : RooflineModel
    machine : mapping
        Which machine; the machine block of docs/results-schema.md.
    """

    paper: PaperModel
    roofline: RooflineModel
    machine: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        costs = {name: asdict(c) for name, c in self.roofline.costs.items()}
        roofs = asdict(self.roofline.roofs) | {"read": [list(pair) for pair in self.roofline.roofs.read]}
        paper = {"base": dict(self.paper.base), "cap": self.paper.cap, "slope": self.paper.slope}
        return {"version": VERSION, "paper": paper, "roofs": roofs, "costs": costs}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], machine: Mapping[str, Any] | None = None) -> Calibration:
        """From what `to_dict` gave.

        Parameters
        ----------
        data : mapping
        machine : mapping, optional
            Which machine; `to_dict` leaves it out, for it stands beside the calibration in a file of results.

        Returns
        -------
        Calibration

        Raises
        ------
        ValueError, TypeError, KeyError
            If it is something else.
        """
        if data["version"] != VERSION:
            raise ValueError(f"a calibration of version {data['version']!r}; this lowprec reads version {VERSION}")
        roofs = Roofs(**{**data["roofs"], "read": tuple((int(size), float(ns)) for size, ns in data["roofs"]["read"])})
        costs = {name: Costs(**values) for name, values in data["costs"].items()}
        return cls(PaperModel(**data["paper"]), RooflineModel(roofs, costs), dict(machine or {}))


def load(path: str | Path) -> Calibration:
    """The calibration in a file that `lowprec model` wrote.

    Parameters
    ----------
    path : str or Path
        Its model.json.

    Returns
    -------
    Calibration

    Raises
    ------
    OSError
        If there is no such file.
    ValueError
        If it is something else.
    """
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise bad_file(path, f"not JSON: {error}", expected="the model.json that lowprec model writes") from None
    try:
        return Calibration.from_dict(results["calibration"], results["machine"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise bad_file(path, f"holds no calibration ({why})", expected="the model.json that lowprec model writes") from None
