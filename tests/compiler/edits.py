"""The edit corpus: what is changed in a model or around it, and exactly what that makes dirty."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import edit_models
from edit_settings import Around, described, flag, limit, option, version

ALL = ("*",)
"""Every place is dirty."""

# The places where regions stand, in order; `*` counts those of one origin.
_BLOCK = "block{0}_na, block{0}_a; block{0}_nb, block{0}_b"
_LAYER = "l{0}_att; l{0}_att; l{0}_att; behind l{0}_att; l{0}_att, l{0}_n2; l{0}_up"
PLACES = {
    "mlp": "layer0; layer1; layer2; layer_head",
    "training": "layer0; layer1; layer2; layer_head; layer0; layer1; layer2; layer_head;"
    " behind layer_head; layer_head; behind layer_head; layer2; behind layer2; layer1;"
    " behind layer1; layer0; layer0; layer1; layer1; layer2; layer2; layer_head; layer_head",
    "residual_network": "stem_norm, stem; "
    + "; ".join(_BLOCK.format(number) for number in range(3))
    + "; head",
    "transformer": f"l0_n1; {_LAYER.format(0)}; l0_down, l1_n1; {_LAYER.format(1)};"
    f" l1_down, l2_n1; {_LAYER.format(2)}; l2_down, norm; head",
    "recurrent": "cell; cell; cell; cell; cell; head",
    "branches": "left, right; last",
}


@dataclass(frozen=True)
class Edit:
    """A change and what follows from it.

    Attributes:
        model: a function of `edit_models`.
        title: what is changed.
        arguments: what the edited model is made with.
        dirty: origins of the places that are dirty, with `#1` for the second of one origin; all
            others are clean.
        places: the places of the edited model; those of the base unless told.
        reason: what the plan must say of at least one.
        around: what changes beside the model.
    """

    model: str
    title: str
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    dirty: tuple[str, ...] = ()
    places: str = ""
    reason: str = ""
    around: Around | None = None

    def make(self) -> Any:
        """The edited model."""
        return getattr(edit_models, self.model)(**self.arguments)


def _edits(model: str, *rows: tuple[Any, ...]) -> list[Edit]:
    return [Edit(model, *row) for row in rows]


def _renamed(model: str) -> str:
    """The places of a model whose every name has a prefix."""
    if model in ("mlp", "training"):
        return PLACES[model].replace("layer", "new")
    places = []
    for place in PLACES[model].split("; "):
        behind, names = ("behind ", place[7:]) if place.startswith("behind ") else ("", place)
        places.append(behind + ", ".join(f"new_{name}" for name in names.split(", ")))
    return "; ".join(places)


def _harmless(model: str) -> list[Edit]:
    prefix = "new" if model in ("mlp", "training") else "new_"
    return [
        Edit(model, "every name", {"prefix": prefix}, (), _renamed(model)),
        Edit(model, "other weights", {"seed": 7}),
    ]


_UPDATES = (
    *("layer0#2", "layer0#3", "layer1#3", "layer1#4", "layer2#3", "layer2#4"),
    *("layer_head#3", "layer_head#4"),
)
_FOUR: dict[str, Any] = {"widths": (16,) * 4, "biases": (True,) * 4}
_CONVOLUTIONS = tuple(PLACES["residual_network"].split("; ")[:-1])
_SECOND = PLACES["residual_network"].split("; ")[3]


def _inserted(model: str, before: str, *more: str) -> str:
    """The places of `model` with `more` in front of the last place of `before`."""
    head, _, tail = PLACES[model].rpartition(before)
    return head + "".join(f"{place}; " for place in more) + before + tail


EDITS = [
    *(edit for model in PLACES for edit in _harmless(model)),
    *_edits(
        "mlp",
        ("a wider layer", {"widths": (16, 24, 16)}, ("layer1", "layer2"), "", "[16, 24]"),
        ("an activation", {"activations": ("relu", "tanh", "relu")}, ("layer1",), "", "→ tanh"),
        ("the last activation", {"last": "sigmoid"}, ("layer_head",), "", "softmax → sigmoid"),
        ("no bias", {"biases": (True, False, True)}, ("layer1",), "", "operator add gone"),
        ("more features", {"features": 10}, ("layer0",), "", "float32[4, 8] → float32[4, 10]"),
        ("another batch", {"batch": 5}, ALL, "", "float32[4, 8] → float32[5, 8]"),
        ("an open batch", {"batch": None}, ALL, "", "float32[4, 8] → float32[batch, 8]"),
        ("shared weights", {"shared": True}, (), "layer0; layer1; layer1; layer_head"),
        (
            "a layer twice",
            {**_FOUR, "activations": ("relu",) * 4},
            (),
            _inserted("mlp", "layer_head", "layer3"),
        ),
        (
            "an inserted layer",
            {**_FOUR, "activations": ("relu", "tanh", "relu", "relu")},
            ("layer1",),
            _inserted("mlp", "layer_head", "layer3"),
        ),
        ("a layer less", {"widths": (16, 16)}, (), "layer0; layer1; layer_head"),
    ),
    *_edits(
        "training",
        ("the momentum", {"options": {"momentum": 0.5}}, _UPDATES, "", '→ R.const(0.5, "float32")'),
        (
            "decay of weights",
            {"options": {"weight_decay": 0.1}},
            ("behind layer1#1", *_UPDATES),
            PLACES["training"].replace("behind layer1;", "behind layer1; behind layer1;"),
            "operator subtract new",
        ),
        (
            "the optimiser",
            {"optimizer": "adam"},
            ("behind layer1#1", "behind layer1#2", *_UPDATES),
            PLACES["training"].replace("behind layer1;", "behind layer1;" + " behind layer1;" * 2),
            "operator multiply new",
        ),
        (
            "the loss",
            {"loss": "mse"},
            ("behind layer_head", "layer_head#1"),
            PLACES["training"].replace("layer_head;", "layer_head; behind layer_head;", 1),
            "operator argmax gone",
        ),
        (
            "an activation",
            {"activations": ("relu", "tanh", "relu")},
            # Forwards, forwards with what the gradient needs, and the gradient of what follows.
            ("layer1", "layer1#1", "layer2#2"),
            "",
            "operator nn.relu → tanh",
        ),
        (
            "a wider layer",
            {"widths": (16, 24, 16)},
            (
                *("layer1", "layer2", "layer1#1", "layer2#1"),
                *("behind layer_head#1", "layer2#2", "behind layer2", "layer1#2"),
                # layer2 has as many biases as before.
                *("layer1#3", "layer1#4", "layer2#3"),
            ),
            "",
            "[16, 24]",
        ),
    ),
    *_edits(
        "residual_network",
        (
            "a block less",
            {"blocks": 2},
            (),
            PLACES["residual_network"].replace(f"; {_BLOCK.format(2)}", ""),
        ),
        (
            "more blocks",
            {"blocks": 5},
            (),
            _inserted("residual_network", "head", _BLOCK.format(3), _BLOCK.format(4)),
        ),
        ("padding by name", {"padding": "same"}),
        ("the stride", {"stride": 2}, _CONVOLUTIONS, "", "attr strides (1, 1) → (2, 2)"),
        ("the padding", {"padding": 0}, _CONVOLUTIONS, "", "attr padding (1, 1, 1, 1) → (0, "),
        ("the window", {"stem": 5, "padding": 2}, _CONVOLUTIONS[:1], "", "[8, 3, 5, 5]"),
        ("epsilon of the stem", {"epsilons": {-1: 1e-3}}, _CONVOLUTIONS[:1], "", "→ R.const(0.001"),
        ("epsilon of a block", {"epsilons": {1: 1e-3}}, (_SECOND,), "", "→ R.const(0.001"),
        ("an activation", {"activations": {1: "silu"}}, (_SECOND,), "", "nn.relu → nn.silu"),
        ("dilation", {"dilations": {1: 2}}, (_SECOND,), "", "attr dilation (1, 1) → (2, 2)"),
        ("a wider block", {"inner": {1: 16}}, _CONVOLUTIONS[3:5], "", "[8, 16, 3, 3]"),
        ("more classes", {"classes": 5}, ("head",), "", "float32[8, 4] → float32[8, 5]"),
        ("larger images", {"size": 10}, _CONVOLUTIONS, "", "[1, 3, 6, 6] → float32[1, 3, 10, 10]"),
        ("another batch", {"batch": 2}, ALL, "", "[1, 3, 6, 6] → float32[2, 3, 6, 6]"),
    ),
    *_edits(
        "transformer",
        (
            "a layer less",
            {"layers": 2},
            (),
            PLACES["transformer"].replace(f"; l1_down, l2_n1; {_LAYER.format(2)}; l2", "; l1"),
        ),
        (
            "a layer more",
            {"layers": 4},
            (),
            _inserted("transformer", "l2_down, norm", "l2_down, l3_n1", _LAYER.format(3)).replace(
                "l2_down, norm", "l3_down, norm"
            ),
        ),
        (
            "a layer without attention",
            {"without_attention": (1,)},
            (),
            PLACES["transformer"].replace(f"l1_n1; {_LAYER.format(1)}", "l1_n2; l1_up"),
        ),
        (
            "an inserted product",
            {"extra": True},
            ("pool",),
            _inserted("transformer", "head", "pool"),
            "new",
        ),
        ("a wider layer", {"inner": {1: 24}}, ("l1_up", "l1_down, l2_n1"), "", "→ float32[8, 24]"),
        ("an activation", {"activations": {1: "relu"}}, ("l1_up",), "", "nn.gelu → nn.relu"),
        (
            "epsilon",
            {"epsilons": {1: 1e-6}},
            # A normalisation stands with the sum that it follows.
            ("l0_down, l1_n1", "l1_att, l1_n2"),
            "",
            "attr epsilon 1e-05 → 1e-06 of nn.layer_norm",
        ),
        ("one causal layer", {"causal": (1,)}, ("behind l1_att",), "", "operator greater new"),
        (
            "more heads",
            {"heads": 4},
            ("behind l0_att", "behind l1_att", "behind l2_att"),
            "",
            "other sizes or constants",
        ),
        ("more steps", {"steps": 7}, ALL, "", "float32[1, 6, 8] → float32[1, 7, 8]"),
        ("another batch", {"batch": 2}, ALL, "", "float32[1, 6, 8] → float32[2, 6, 8]"),
        ("an open batch", {"batch": None}, ALL, "", "float32[1, 6, 8] → float32[batch, 6, 8]"),
    ),
    *_edits(
        "recurrent",
        # The first product takes all steps at once; a step is the same as before.
        ("more steps", {"steps": 6}, ("cell",), "; ".join(["cell"] * 7 + ["head"]), "[2, 6, 4]"),
        ("from the end", {"backwards": True}),
        ("another kind", {"kind": "gru"}, ("cell", "cell#1", "cell#2", "cell#3", "cell#4")),
        ("more units", {"units": 6}, ALL, "", "float32[2, 5] → float32[2, 6]"),
        ("more features", {"features": 5}, ("cell",), "", "float32[2, 4, 5]"),
        ("fewer classes", {"classes": 2}, ("head",), "", "float32[5, 3] → float32[5, 2]"),
        ("another batch", {"batch": 3}, ALL, "", "float32[2, 4, 4] → float32[3, 4, 4]"),
    ),
    *_edits(
        "branches",
        ("the order of lines", {"order": (3, 4, 0, 1, 2, 5, 6, 7)}),
        ("another order of lines", {"order": (3, 0, 4, 1, 2, 5, 6, 7)}),
        ("an axis by its other number", {"axis": 1}),
        ("the order of a sum", {"swapped": True}, ("right, left",), "right, left; last"),
        ("a constant", {"scale": 0.25}, ("left, right",), "", "0.5"),
        ("the slope", {"slope": 0.2}, ("left, right",), "", "attr alpha 0.1"),
        ("the dtype", {"dtype": "float64"}, ALL, "", "float32[8, 3] → float64[8, 3]"),
        ("half precision", {"dtype": "float16"}, ALL, "", "operator astype new"),
        ("another batch", {"batch": 3}, ALL, "", "float32[2, 6] → float32[3, 6]"),
        ("an open batch", {"batch": "n"}, ALL, "", "float32[2, 6] → float32[n, 6]"),
    ),
    *_edits(
        "mlp",
        ("width of vectors", {}, ALL, "", "factor target.limits", limit("vector_bits", 512)),
        ("number of registers", {}, ALL, "", "factor target.limits", limit("vector_registers", 8)),
        ("the processor", {}, ALL, "", "factor target.options", flag("mcpu", "generic")),
        ("its features", {}, ALL, "", "factor target.options", flag("features", ["+crc"])),
        ("an option of a pass", {}, ALL, "", "factor passes", option("Fuse", max_kernels=63)),
        ("TVM", {}, ALL, "", "factor tvm", version("tvm")),
        ("LLVM", {}, ALL, "", "factor llvm", version("llvm")),
        ("the linker", {}, (), "", "", described(toolchain={"linker": ["another"]})),
        ("the rank", {}, (), "", "", described(rank=99, description="another")),
    ),
    Edit(
        "transformer",
        "an option of a pass over the graph",
        # Larger heads are no kernel of their own: two products, and their own way to them.
        dirty=tuple(
            f"{origin}{number}"
            for n in range(3)
            for origin, numbers in (
                (f"l{n}_att", ("", "#1", "#2")),
                (f"behind l{n}_att", ("", "#1")),
            )
            for number in numbers
        ),
        places="; ".join(
            f"{place}; {place}" if place.startswith("behind") else place
            for place in PLACES["transformer"].split("; ")
        ),
        around=option("FuseAttention", largest_head=2),
    ),
]
