"""Graphs taken apart and put together: names that do not collide, and what depends on what."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx
from onnx import compose

__all__ = ["leading_to", "prefix_names", "read_by"]


def prefix_names(graph: onnx.GraphProto, prefix: str, *, ends: bool) -> None:
    """Put a prefix before the names of everything in a graph, in place; ``ends``: of its inputs and outputs too."""
    # Told of the weights, since otherwise graphs within a node would go on calling them by their old names.
    weights = {tensor.name: prefix + tensor.name for tensor in graph.initializer}
    compose.add_prefix_graph(graph, prefix, rename_inputs=ends, rename_outputs=ends, inplace=True, name_map=weights)


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
