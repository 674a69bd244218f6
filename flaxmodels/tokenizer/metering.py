"""Chat templates with calls in them that spend what they cost, where Jinja calls nothing that can be overridden.

The functions that are called are those of `sandbox.Sandbox`.
"""

from __future__ import annotations

from typing import Any

from jinja2 import compiler, nodes
from jinja2.visitor import NodeTransformer


class CodeGenerator(compiler.CodeGenerator):
    """Calls the functions of the environment itself, which are safe."""

    # Jinja's decorator of the method makes `self` one of its arguments for a type checker.
    def visit_Call(  # noqa: N802  # pyright: ignore[reportIncompatibleMethodOverride]
        self, node: nodes.Call, frame: Any, **kwargs: Any
    ) -> None:
        """Write a call: one of a function of the environment without the checks of other calls."""
        if not isinstance(node.node, nodes.EnvironmentAttribute):
            super().visit_Call(node, frame, **kwargs)
            return
        self.visit(node.node, frame)
        self.write("(")
        for argument in node.args:
            self.visit(argument, frame)
            self.write(", ")
        self.write(")")


class Metering(NodeTransformer):
    """Puts calls of the environment's functions into a template, where Jinja calls none that can be overridden."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """A loop, each turn of which is counted, those that its test skips too."""
        turn = _turn(node)
        self._body(node)
        if node.test is not None:  # it is run on its own, before the loop
            node.test = nodes.And(turn, node.test)
        return node

    def _body(self, node: Any) -> nodes.Node:
        turn = _turn(node)
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(turn, lineno=node.lineno))
        return node

    visit_Macro = visit_CallBlock = visit_Block = _body  # noqa: N815

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """A concatenation, the size of whose parts is counted."""
        self.generic_visit(node)
        node.nodes = [_call("text", part) for part in node.nodes]
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """A slice, the size of what it is taken from counted."""
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _call("sliced", node.node)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802
        """A pair of a dict, the size of its key counted."""
        self.generic_visit(node)
        node.key = _call("text", node.key)
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802
        """A comparison, the sizes of its operands counted."""
        self.generic_visit(node)
        if len(node.ops) > 1:
            node.expr = _call("text", node.expr)
            for operand in node.ops:
                operand.expr = _call("text", operand.expr)
            return node
        name, right = node.ops[0].op, node.ops[0].expr
        if name not in ("in", "notin") and any(isinstance(side, nodes.Const) for side in (node.expr, right)):
            return node
        return _call("compared", nodes.Const(name), node.expr, right)


def _call(name: str, *arguments: Any) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(arguments), [], None, None, lineno=arguments[0].lineno)


def _turn(node: Any) -> nodes.Call:
    """The call that spends what the body of a node costs; bodies in it spend for themselves."""
    steps = chars = 0
    rest = list(node.body)
    while rest:
        part = rest.pop()
        steps += 1
        chars += len(part.data) if isinstance(part, nodes.TemplateData) else 0
        has_own = isinstance(part, (nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block))
        rest += part.iter_child_nodes(exclude=("body",) if has_own else None)
    return _call("turn", nodes.Const(steps, lineno=node.lineno), nodes.Const(chars, lineno=node.lineno))
