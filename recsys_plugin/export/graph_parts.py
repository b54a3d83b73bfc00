"""Which nodes and values of a graph depend on each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx

__all__ = ["leading_to", "read_by"]


def leading_to(nodes: Iterable[onnx.NodeProto], wanted: Iterable[str]) -> list[onnx.NodeProto]:
    """The nodes that a value of ``wanted`` depends on, in their order; the nodes are sorted topologically."""
    wanted = set(wanted)
    kept: list[onnx.NodeProto] = []
    for node in reversed(list(nodes)):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted = wanted.union(read_by(node))
    return kept[::-1]


def read_by(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node takes, those that the graphs within it take from around them included."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for part in inner.node:
                yield from read_by(part)
            # What a branch hands through is an output of it and nobody's input.
            yield from (value.name for value in inner.output)
