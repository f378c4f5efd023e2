"""A table of text, and the same as Markdown, CSV and LaTeX."""

import csv
import io
from dataclasses import dataclass

NOTHING = "–"
_LATEX = str.maketrans(
    {c: "\\" + c for c in "&%_#$"} | {"\\": r"\textbackslash{}", "±": r"$\pm$", "≥": r"$\geq$"}
    | {"–": "--", ">": "$>$", "<": "$<$"}
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """Text cells below a header; `best`: (row, column) of cells to emphasise; `is_prose`: cells hold sentences."""

    title: str
    caption: str
    header: list[str]
    rows: list[list[str]]
    best: frozenset[tuple[int, int]] = frozenset()
    is_prose: bool = False

    def markdown(self) -> str:
        """A GitHub table; the first column is aligned left, the others right."""
        lines = [self.header, ["---"] + ["---:"] * (len(self.header) - 1)]
        for i, row in enumerate(self.rows):
            lines.append([f"**{cell}**" if (i, j) in self.best else cell for j, cell in enumerate(row)])
        return (
            "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
            + "\n"
        )

    def csv(self) -> str:
        """Comma-separated values with a header line."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([self.header, *self.rows])
        return text.getvalue()

    def latex(self) -> str:
        """A booktabs table."""
        header, *body = [[cell.translate(_LATEX) for cell in row] for row in [self.header, *self.rows]]
        for i, j in self.best:
            body[i][j] = rf"\textbf{{{body[i][j]}}}"
        return "\n".join(
            [
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{self.caption.translate(_LATEX)}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
                r"\toprule",
                " & ".join(header) + r" \\",
                r"\midrule",
                *(" & ".join(row) + r" \\" for row in body),
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table}",
                "",
            ]
        )
