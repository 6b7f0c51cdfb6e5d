"""`source.where`: a condition on the source's columns, in Python syntax. It is parsed, never executed as Python.

Names are columns. Supported: comparisons (also chained), `and`, `or`, `not`, `in (...)`, `is None`, arithmetic,
substrings (`"cat" in text`), `len(text)`, and `column("odd name")`. As in SQL, a comparison with null selects nothing;
NaN counts as null.
"""

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from jobs.errors import ConfigError

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge,
    ast.Eq: operator.eq, ast.NotEq: operator.ne,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: pc.add, ast.Sub: pc.subtract, ast.Mult: pc.multiply, ast.Div: pc.divide,
}  # fmt: skip
_MAX_COMPARISONS = 2000
_HINT = "for example: watermark_score < 0.5 and width >= 256 and lang in ('en', 'de')"


@dataclass(frozen=True)
class Condition:
    """A parsed condition and the `columns` that it names.

    `numbers` are the columns used in arithmetic; `floats` those compared with a float. `nulls`: it tests for null, so
    row group statistics do not apply: they do not count NaN as null.
    """

    condition: pc.Expression
    columns: tuple[str, ...]
    numbers: tuple[str, ...]
    floats: tuple[str, ...]
    nulls: bool

    def evaluate(self, table: pa.Table) -> pa.ChunkedArray:
        """Evaluate the condition for each row, bool [rows]. Raises ConfigError if it does not fit a column's type."""
        for name in self.numbers:
            if not _is_number(table.schema.field(name).type):
                raise ConfigError(f"source.where: {name} is {table.schema.field(name).type}, not a number", _HINT)
        try:
            result = ds.dataset(self._prepare(table)).to_table(columns={"": self.condition}).column(0)
        except pa.ArrowException as exc:
            kinds = ", ".join(f"{field.name} is {field.type}" for field in table.schema)
            raise ConfigError(f"source.where: {str(exc).splitlines()[0]}", f"the columns: {kinds}") from exc
        if not pa.types.is_boolean(result.type):
            raise ConfigError(f"source.where: the result is {result.type}, not true or false", _HINT)
        return result.fill_null(False)

    def _prepare(self, table: pa.Table) -> pa.Table:
        """Replace NaN by null, and cast integers that are compared with a float to float64: Arrow would use float32."""
        for index, field in enumerate(table.schema):
            column = table.column(index)
            if field.name in self.floats and pa.types.is_integer(field.type):
                table = table.set_column(index, field.name, column.cast(pa.float64(), safe=False))
            elif pa.types.is_float32(field.type) or pa.types.is_float64(field.type):
                column = pc.if_else(pc.is_nan(column), pa.scalar(None, field.type), column)
                table = table.set_column(index, field, column)
        return table


def parse(text: str) -> Condition:
    """Parse a condition. Raises ConfigError with the position of the mistake."""
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        # Deep recursion crashes Arrow.
        if sum(isinstance(node, ast.Compare) for node in ast.walk(tree)) > _MAX_COMPARISONS:
            raise ConfigError(f"source.where: more than {_MAX_COMPARISONS:,} comparisons", "use column in (...)")
        parser = _Parser(text.strip())
        condition = _expression(parser.convert(tree))
        columns, numbers, floats = map(dict.fromkeys, (parser.columns, parser.numbers, parser.floats))
        return Condition(condition, tuple(columns), tuple(numbers), tuple(floats), parser.nulls)
    except SyntaxError as exc:
        raise ConfigError(f"source.where: {text[:200]!r}: {exc.msg} at character {exc.offset}", _HINT) from None
    except (RecursionError, MemoryError, ValueError, OverflowError) as exc:
        raise ConfigError(f"source.where: {text[:60]!r}: cannot be parsed: {exc!s:.80}", _HINT) from None


def _expression(value: Any) -> pc.Expression:
    return value if isinstance(value, pc.Expression) else pc.scalar(value)


def _is_float(node: ast.expr) -> bool:
    inner = node.operand if isinstance(node, ast.UnaryOp) else node
    return isinstance(inner, ast.Constant) and isinstance(inner.value, float)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


class _Parser:
    """Turns supported syntax nodes into Arrow expressions, numbers and strings; raises ConfigError for all others."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns, self.numbers, self.floats = list[str](), list[str](), list[str]()
        self.nulls = False

    def convert(self, node: ast.expr) -> Any:
        match node:
            case ast.Constant(value=int() | float() | str() as value):
                return value
            case ast.Name(id=name):
                return self._column(name)
            case ast.Call(func=ast.Name(id="column"), args=[ast.Constant(value=str() as name)], keywords=[]):
                return self._column(name)
            case ast.Call(func=ast.Name(id="len"), args=[text], keywords=[]):
                return pc.utf8_length(_expression(self.convert(text)))
            case ast.BoolOp(op=op, values=values):
                join = operator.and_ if isinstance(op, ast.And) else operator.or_
                return reduce(join, [_expression(self.convert(value)) for value in values])
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~_expression(self.convert(operand))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                # As float64: integers would overflow, and divide to integers.
                return _ARITHMETIC[type(op)](*(self._number(side) for side in (left, right)))
            case ast.Compare(left=left, ops=ops, comparators=rights):
                sides = [left, *rights]
                pairs = [self._comparison(a, op, b) for a, op, b in zip(sides, ops, rights, strict=False)]
                return reduce(operator.and_, pairs)
        raise self._refused(node)

    def _comparison(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        match op, right:
            case ((ast.Is() | ast.IsNot()), ast.Constant(value=None)):
                self.nulls = True
                null = _expression(self.convert(left)).is_null()
                return null if isinstance(op, ast.Is) else ~null
            case ((ast.In() | ast.NotIn()), (ast.Tuple(elts=items) | ast.List(elts=items))):
                value = _expression(self.convert(left))
                member = value.isin([self._literal(item) for item in items])
                return (member if isinstance(op, ast.In) else ~member) & value.is_valid()
            case ((ast.In() | ast.NotIn()), _):
                if not (isinstance(left, ast.Constant) and isinstance(left.value, str)):
                    raise self._refused(left)
                contains = pc.match_substring(_expression(self.convert(right)), left.value)
                return contains if isinstance(op, ast.In) else ~contains
        if type(op) not in _COMPARE:
            raise self._refused(right)
        sides = left, right
        self.floats += [a.id for a, b in (sides, sides[::-1]) if isinstance(a, ast.Name) and _is_float(b)]
        return _COMPARE[type(op)](_expression(self.convert(left)), _expression(self.convert(right)))

    def _number(self, node: ast.expr) -> pc.Expression:
        before = len(self.columns)
        value = _expression(self.convert(node))
        if not isinstance(node, ast.Call):  # len(text) is a number, text is not
            self.numbers += self.columns[before:]
        return value.cast(pa.float64(), safe=False)

    def _column(self, name: str) -> pc.Expression:
        self.columns.append(name)
        return pc.field(name)

    def _literal(self, node: ast.expr) -> Any:
        value = self.convert(node)
        if isinstance(value, pc.Expression):
            raise self._refused(node)
        return value

    def _refused(self, node: ast.expr) -> ConfigError:
        part = ast.get_source_segment(self.text, node) or self.text
        return ConfigError(f"source.where: {self.text!r}: {part!r} is not supported", _HINT)
