"""CharGPT distilled to one bit for long: the model that comes with the package, and its record.

    python -m benchmarks.onebit_long [--write]

Runs ``qtools distill --config recipes/chargpt_onebit.toml`` (about 35 minutes on two quiet cores)
unless it has been run, from its checkpoint if it was interrupted. Then the student is packed, signs
as bits and all else in float16, and what the file holds foretells the held-out text. With
``--write`` the file goes into ``qtools/weights``, the record into ``results``.
"""

from __future__ import annotations

import csv
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks._runs import wants_to_write
from qtools import evaluation, onebit
from qtools.distillation.recipe import Recipe
from qtools.files import sha256
from qtools.models import WEIGHTS
from qtools.results import write_record

ROOT = Path(__file__).parent.parent
RESULT = ROOT / "results" / "chargpt_onebit.json"
RECIPE = ROOT / "recipes" / "chargpt_onebit.toml"
WEIGHT_FILE = WEIGHTS / "chargpt_onebit.safetensors"


def table(path: Path) -> tuple[list[str], list[list[float]]]:
    """Columns and rows of a CSV file that a run wrote, numbers with the digits that matter."""
    with path.open(encoding="utf-8", newline="") as file:
        columns, *rows = csv.reader(file)
    return columns, [[float(f"{float(cell):.6g}") for cell in row] for row in rows]


def main() -> None:
    write = wants_to_write(__doc__, RESULT)
    recipe = Recipe.read(RECIPE)
    if not (recipe.out / "run.json").is_file():
        recipe.run()
    run: dict[str, Any] = json.loads((recipe.out / "run.json").read_text(encoding="utf-8"))
    student = recipe.student()
    in_float = evaluation.evaluate(student).nats_per_char  # type: ignore[arg-type]
    onebit.pack_(student)
    with tempfile.TemporaryDirectory() as folder:
        path = WEIGHT_FILE if write else Path(folder) / WEIGHT_FILE.name
        print(onebit.save(student.half(), path))
        torch.set_num_threads(1)
        found = evaluation.evaluate(evaluation.load(str(path)))
        weights = {"file": path.name, "sha256": sha256(path.read_bytes())}
    print(f"before packing {in_float:.4f} nats a character, of the file {found}")
    if not write:
        return
    columns, steps = table(recipe.out / "steps.csv")
    write_record(
        RESULT,
        value=round(found.nats_per_char, 4),
        unit="nats a character, held-out text, of the packed file",
        command="python -m benchmarks.onebit_long --write",
        seconds=run["seconds"],
        code=run["code"],
        recipe=run["recipe"],
        weights=weights,
        found=found._asdict(),
        before_packing=round(in_float, 4),
        columns=columns,
        steps=steps,
        evaluations=table(recipe.out / "evaluations.csv")[1],
    )


if __name__ == "__main__":
    main()
