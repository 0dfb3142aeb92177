"""Tables as text, Markdown and LaTeX, with names of groups as somebody's table has them."""

from __future__ import annotations

from metrics.tables import aligned, latex, markdown

CELLS = [["group", "n"], [r"100% A^B~{c}\d_e$#&", "1"], ["two\nlines", "<2>"]]


def test_signs_of_latex_are_escaped() -> None:
    """Escapes of the LaTeX companion: ten special characters, of which three have a command."""
    rows = latex(CELLS).splitlines()
    assert rows[4] == r"100\% A\textasciicircum{}B\textasciitilde{}\{c\}\textbackslash{}d\_e\$\#\& & 1 \\"
    assert rows[5] == r"two lines & $<$2$>$ \\"


def test_a_row_is_one_line() -> None:
    assert aligned(CELLS).splitlines()[-1].split() == ["two", "lines", "<2>"]
    assert markdown(CELLS).splitlines()[-1] == "| two lines | <2> |"
