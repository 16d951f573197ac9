"""Where a layer was written."""

from __future__ import annotations

from pathlib import Path

from nexus_compiler.frontend.locations import caller, innermost

TRACE = """
  File "/home/me/model.py", line 41, in forward
    x = self.norm(x)
  File "/env/torch/nn/modules/normalization.py", line 217, in forward
    return F.layer_norm(
"""


def test_the_line_of_the_user_counts_and_not_that_of_the_library() -> None:
    assert innermost(TRACE, (Path("/env/torch"),)) == "model.py:41"
    assert innermost(TRACE, ()) == "normalization.py:217"
    assert innermost("", ()) == ""


def test_the_caller_is_outside_of_the_package() -> None:
    assert caller((Path("/somewhere/else"),)).startswith("test_locations.py:")


def test_code_without_a_file_has_no_place() -> None:
    scope = {"caller": caller}
    exec("found = caller(())", scope)
    assert scope["found"] == ""
