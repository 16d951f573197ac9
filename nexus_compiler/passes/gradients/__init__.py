"""Gradients of operators for which TVM has none, or one that fails: a file for each family.

`table.find` is consulted before TVM's own table. To add one: a function in the file of its family
and its line in that file's `RULES`; a case in `tests/compiler/test_differentiate_operators.py`.
"""
