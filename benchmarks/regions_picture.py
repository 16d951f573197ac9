"""Draws docs/incremental.svg: every region of a transformer as the plan of an edit has it.

A line is what one layer of the model computes, in order; a field is a region. Red is built, green
is reused; the plan, the regions and their reasons are those of a real build of 12 layers and of the
edited file.
"""

from __future__ import annotations

import argparse
import tempfile
from html import escape
from pathlib import Path

import edits

from nexus_compiler import CompileOptions, compile, pipeline, plan
from nexus_compiler.build import Memory
from nexus_compiler.passes.record import Place
from nexus_compiler.planning.plan import BUILD, Planned
from nexus_compiler.store.local import LocalStore

MODEL = edits.Model("transformer", 64, 16, 256, layers=12)
WIDER = 320
SIDE, LEFT, TOP = 34, 90, 70
GREEN, RED = "#009e73", "#d55e00"


def planned(folder: Path) -> tuple[tuple[Place, ...], dict[str, Planned]]:
    """Every place of the edited model in order, and by region what the plan says."""
    options = CompileOptions(store=LocalStore(folder / "store"), memory=Memory())
    before = compile(edits.write(MODEL, folder / "before.onnx"), options=options)
    after = edits.write(MODEL, folder / "after.onnx", WIDER)
    (found,) = plan(after, against=before, options=options)
    (record,) = pipeline.regions(after, options=options).values()
    return record.places, {row.region: row for row in found.regions}


def lines(places: tuple[Place, ...]) -> list[tuple[str, list[Place]]]:
    """Places by the layer whose weights they use; what has none goes with what is before it."""
    found: list[tuple[str, list[Place]]] = []
    for place in places:
        layer = place.origin.removeprefix("behind ").partition(".")[0]
        if not found or (found[-1][0] != layer and layer.isdigit()):
            found.append((layer, []))
        found[-1][1].append(place)
    return found


def drawing(places: tuple[Place, ...], rows: dict[str, Planned]) -> str:
    """The SVG."""
    numbers: dict[str, int] = {}
    parts: list[str] = []
    layers = lines(places)
    for line, (layer, own) in enumerate(layers):
        top = TOP + line * SIDE
        parts.append(_text(LEFT - 10, top + 20, f"layer {layer}", "end"))
        for column, place in enumerate(own):
            row, left = rows[place.region], LEFT + column * SIDE
            number = numbers.setdefault(place.region, len(numbers) + 1)
            colour = RED if row.action == BUILD else GREEN
            told = f"{place.origin}: {', '.join(row.operators)}; {row.reason or 'reused'}"
            parts += [
                f'<g><title>{escape(told)}</title><rect x="{left}" y="{top}" width="{SIDE - 4}" '
                f'height="{SIDE - 6}" rx="4" fill="{colour}"/>'
                + _text(left + (SIDE - 4) / 2, top + 19, str(number), "middle", "white")
                + "</g>"
            ]
    built = [row for row in rows.values() if row.action == BUILD]
    width = max(LEFT + SIDE * max(len(own) for _, own in layers) + 20, 900)
    height = TOP + len(layers) * SIDE + 30 + 20 * len(built)
    legend = [
        _text(20, 26, f"feed-forward of one layer: {MODEL.usual} → {WIDER} wide", "start"),
        _text(
            *(20, 48),
            f"{len(places)} places of {len(rows)} regions (equal numbers are one region): "
            f"{len(built)} to build (red), {len(rows) - len(built)} reused (green)",
            "start",
        ),
    ]
    for index, row in enumerate(built):
        said = f"{numbers[row.region]}: {row.origin}: {row.reason}"
        legend.append(_text(20, TOP + len(layers) * SIDE + 26 + 20 * index, said, "start", RED))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>\n'
        + "\n".join([*legend, *parts])
        + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str, colour: str = "black") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    folder = Path(__file__).parent.parent / "docs"
    parser.add_argument("--output", type=Path, default=folder / "incremental.svg")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        given.output.write_text(drawing(*planned(Path(scratch))))


if __name__ == "__main__":
    main()
