"""Sizes as expressions of the number of rows, "rows", and of free dimensions by name."""

from collections.abc import Mapping
from dataclasses import dataclass

Expression = int | str | tuple[str, "Expression", "Expression"]
_SIGNS = {"add": "+", "mul": "*", "floordiv": "//", "mod": "%"}


@dataclass(frozen=True)
class Size:
    """An integer that depends on the number of rows or on free dimensions, such as ("mul", 4, "rows").

    Attributes:
        expression: The expression.
    """

    expression: Expression

    def __call__(self, sizes: Mapping[str, int]) -> int:
        """Return the value for given sizes, by name."""
        return _evaluate(self.expression, sizes)

    @property
    def names(self) -> set[str]:
        """The names that it depends on: "rows" and free dimensions."""
        return _names(self.expression)

    def __str__(self) -> str:
        text = _text(self.expression)
        return text[1:-1] if isinstance(self.expression, tuple) else text


def _names(expression: Expression) -> set[str]:
    if isinstance(expression, tuple):
        return _names(expression[1]) | _names(expression[2])
    return {expression} if isinstance(expression, str) else set()


def _text(expression: Expression) -> str:
    if not isinstance(expression, tuple):
        return str(expression)
    operator, left, right = expression
    return f"({_text(left)} {_SIGNS[operator]} {_text(right)})"


def _evaluate(expression: Expression, sizes: Mapping[str, int]) -> int:
    if isinstance(expression, int):
        return expression
    if isinstance(expression, str):
        return sizes[expression]
    operator, left, right = expression
    a, b = _evaluate(left, sizes), _evaluate(right, sizes)
    match operator:
        case "add":
            return a + b
        case "mul":
            return a * b
        case "floordiv":
            return a // b
        case _:
            return a % b
