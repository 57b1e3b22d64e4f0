"""OneBitAblations: put a distillation to one bit together; see what each ingredient is worth."""

from __future__ import annotations

import base64
import json
import math
from collections import Counter
from typing import Any

import numpy as np
import traitlets

from qtools.explore._base import Explorable, module_text, state_trait
from qtools.results import read_record

#: The record that is shown, written by ``python -m benchmarks.onebit_chargpt --write``.
RECORD = "onebit_chargpt"
#: What makes a setting, in the order of the controls, each with its values in theirs. Numbers are
#: sorted.
FIELDS: dict[str, tuple[Any, ...]] = {
    "start": ("svid", "copied", "random"),
    "layer_norm": (False, True),
    "alpha": (),
    "layer": ("onebit", "bitnet", "ternary", "two bits"),
    "latent": ("weights", "sign"),
    "gradient": ("tanh", "released", "clipped", "identity"),
    "data": ("text", "written", "both"),
    "steps": (),
}
#: The setting from which the others differ, with the number of steps that most of them have.
BASE = {
    "start": "svid",
    "layer_norm": False,
    "alpha": 1.0,
    "layer": "onebit",
    "latent": "weights",
    "gradient": "tanh",
    "data": "text",
}
#: Points of a curve and characters of a sample that a page carries.
POINTS, CHARACTERS = 60, 240

_ROW = ("nats", "deviation", "seeds", "perplexity", "top1", "bytes", "bits_per_weight")


class OneBitAblations(Explorable):
    """Choose a distillation of CharGPT that was run, and compare it with another one.

    Nothing here is a model: each number was measured. Settings that were not run cannot be chosen.
    A setting is named by what differs from the base: ``"base"``, ``"layer_norm=yes"``,
    ``"start=random, alpha=0"``; the fields stand in the order of `FIELDS`.

    Parameters
    ----------
    record : dict, optional
        With ``teacher``, ``summary`` and ``runs``. By default the one of
        ``python -m benchmarks.onebit_chargpt``.
    run : str
        The setting shown.
    pinned : str
        The setting it is compared with.
    at : int
        Step at which the curves are read: the last point that is not after it, else the first.

    Raises
    ------
    ValueError
        If there is no record, or it has no rows, one setting twice, or a row without its runs.
    """

    script = "one_bit_ablations.js"
    moves = (
        "Choose the ingredients of a distillation to one bit: see how it learned, how well it"
        " reads new text and what it writes, and compare it with another one."
    )

    run = state_trait(traitlets.Unicode("base"))
    pinned = state_trait(traitlets.Unicode("base"))
    at = state_trait(traitlets.Int(1, min=1))

    def __init__(self, record: dict[str, Any] | None = None, **state: Any) -> None:
        self._data = data(read_record(RECORD) if record is None else record)
        # Of the instance: each record is another page. AnyWidget makes it the trait that is sent.
        text = json.dumps(self._data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        self._esm = f"const DATA = {text};\n" + module_text(self.script)
        steps = self._data["steps"][self._data["runs"][self._data["keys"].index("base")][0][2]]
        super().__init__(**({"at": steps[len(steps) // 4]} | state))

    @traitlets.validate("run", "pinned")
    def _known(self, proposal: Any) -> str:
        name: str = proposal["value"]
        if name not in self._data["keys"]:
            raise traitlets.TraitError(
                f"{proposal['trait'].name} must be one of {self._data['keys']}, got {name!r}"
            )
        return name

    @traitlets.validate("at")
    def _reached(self, proposal: Any) -> int:
        step: int = proposal["value"]
        longest = max(steps[-1] for steps in self._data["steps"])
        if step > longest:
            raise traitlets.TraitError(f"at must be a step from 1 to {longest}, got {step}")
        return step

    def compute(self) -> dict[str, float]:
        """Return the numbers shown.

        Returns
        -------
        dict
            Of the run, on held-out text: ``nats`` a character, mean over ``seeds``, with their
            ``deviation``, ``low`` and ``high``; ``perplexity``, ``perplexity_low`` and
            ``perplexity_high``; ``top1``, percent of characters that were the likeliest; ``bytes``
            of its file and its ``bits_per_weight``. ``teacher``, its nats, and ``gap`` to it;
            ``rank`` among ``settings``, 1 the best. ``pinned``, the other's nats, ``difference``
            of the two, and ``doubt``: twice the standard deviation of a difference of such means,
            as seeds alone make it (0 if no setting has two). ``loss`` (eq. 7 in nats, first seed)
            at ``step`` of the training, and ``pinned_loss`` at ``pinned_step``.
        """
        d = self._data
        i, j = (d["keys"].index(name) for name in (self.run, self.pinned))
        row, other = (dict(zip(_ROW, d["rows"][k], strict=True)) for k in (i, j))
        nats, perplexities = ([run[k] for run in d["runs"][i]] for k in (0, 1))
        step, loss = self._read(i)
        pinned_step, pinned_loss = self._read(j)
        return {
            **row,
            "top1": 100 * row["top1"],
            "low": min(nats),
            "high": max(nats),
            "perplexity_low": min(perplexities),
            "perplexity_high": max(perplexities),
            "teacher": d["teacher"]["nats"],
            "gap": row["nats"] - d["teacher"]["nats"],
            "rank": 1 + sum(r[0] < row["nats"] for r in d["rows"]),
            "settings": len(d["rows"]),
            "pinned": other["nats"],
            "difference": row["nats"] - other["nats"],
            "doubt": 2 * d["scatter"] * math.sqrt(1 / row["seeds"] + 1 / other["seeds"]),
            "step": step,
            "loss": loss,
            "pinned_step": pinned_step,
            "pinned_loss": pinned_loss,
        }

    def _read(self, setting: int) -> tuple[int, float]:
        """Step and loss of the curve of a setting's first run."""
        _, _, where, packed = self._data["runs"][setting][0]
        steps, losses = self._data["steps"][where], unpack(packed)
        k = max(sum(step <= self.at for step in steps) - 1, 0)
        return steps[k], losses[k]


def name(setting: dict[str, Any], base: dict[str, Any]) -> str:
    """Name of a setting: the fields that differ from the base, or ``"base"``."""
    others = (f"{f}={_written(setting[f])}" for f in FIELDS if setting[f] != base[f])
    return ", ".join(others) or "base"


def base_of(settings: list[dict[str, Any]]) -> dict[str, Any]:
    """The setting `BASE` with the commonest number of steps; the first one if it is not there."""
    steps = Counter(s["steps"] for s in settings).most_common(1)[0][0]
    base = BASE | {"steps": steps}
    return base if base in settings else settings[0]


def thin(curve: list[list[float]], most: int = POINTS) -> tuple[list[int], list[float]]:
    """Steps and losses of a curve; where there are too many, means of neighbours."""
    size = math.ceil(len(curve) / most)
    groups = [np.mean(curve[i : i + size], axis=0) for i in range(0, len(curve), size)]
    return [round(float(step)) for step, _ in groups], [float(loss) for _, loss in groups]


def pack(losses: list[float]) -> str:
    """Thousandths of a nat up to 65.535, two bytes each, in base64."""
    codes = np.clip(np.rint(1000 * np.array(losses)), 0, 65535).astype("<u2")
    return base64.b64encode(codes.tobytes()).decode()


def unpack(packed: str) -> list[float]:
    """Undo `pack`, but for the rounding."""
    losses: list[float] = (np.frombuffer(base64.b64decode(packed), "<u2") / 1000).tolist()
    return losses


def short(text: str, most: int = CHARACTERS) -> str:
    """First words of a text, in one paragraph."""
    words = " ".join(text.split())
    return words if len(words) <= most else words[:most].rsplit(" ", 1)[0] + " …"


def data(record: dict[str, Any]) -> dict[str, Any]:
    """What the page carries of a record: settings by index, thinned curves, shortened samples."""
    try:
        summary, runs, teacher = (record[k] for k in ("summary", "runs", "teacher"))
    except (KeyError, TypeError) as error:
        raise ValueError(f"record must have teacher, summary and runs, {error} fails") from error
    if not summary:
        raise ValueError("record must have a row in summary, got none")
    settings = [{f: row[f] for f in FIELDS} for row in summary]
    base = base_of(settings)
    keys = [name(s, base) for s in settings]
    if twice := [key for key, count in Counter(keys).items() if count > 1]:
        raise ValueError(f"record must have each setting once in summary, got {twice} again")
    values = {f: _ordered(known, {s[f] for s in settings}) for f, known in FIELDS.items()}
    steps: list[list[int]] = []
    per_setting: list[list[list[Any]]] = []
    samples = []
    for key, setting in zip(keys, settings, strict=True):
        own = [r for r in runs if all(r[f] == setting[f] for f in FIELDS)]
        own.sort(key=lambda run: run["seed"])
        if not own or not all(run["curve"] for run in own):
            raise ValueError(f"record must have runs with curves of each setting, not of {key!r}")
        per_setting.append([])
        for run in own:
            at, losses = thin(run["curve"])
            if at not in steps:
                steps.append(at)
            per_setting[-1].append([run["nats"], run["perplexity"], steps.index(at), pack(losses)])
        samples.append(short(next((run["sample"] for run in own if run["sample"]), "")))
    return {
        "fields": [[f, found] for f, found in values.items()],
        "base": keys.index("base"),
        "keys": keys,
        "settings": [[values[f].index(s[f]) for f in FIELDS] for s in settings],
        "rows": [[row[k] for k in _ROW] for row in summary],
        "steps": steps,
        "stride": (steps[0][:2][-1] - steps[0][0]) or 1,
        "runs": per_setting,
        "samples": samples,
        "teacher": {"nats": teacher["nats_per_char"], "sample": short(teacher["sample"])},
        "scatter": scatter([(row["deviation"], row["seeds"]) for row in summary]),
    }


def scatter(rows: list[tuple[float, int]]) -> float:
    """``√(Σ (n − 1) d² / Σ (n − 1))``, the deviation between seeds, pooled; 0 if there is none."""
    freedom = sum(seeds - 1 for _, seeds in rows)
    squares = sum((seeds - 1) * deviation**2 for deviation, seeds in rows)
    return math.sqrt(squares / freedom) if freedom else 0.0


def _ordered(known: tuple[Any, ...], found: set[Any]) -> list[Any]:
    new = sorted(found - set(known), key=lambda v: (isinstance(v, str), v))
    return [v for v in known if v in found] + new


def _written(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
