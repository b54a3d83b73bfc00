"""The vector of a query within a request: encoded from its tokens, unless the request brings the vector itself."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recsys_plugin.export.description import KNOWN_EMBEDDING
from recsys_plugin.export.graph_parts import leading_to
from recsys_plugin.export.index_graphs import IR_VERSION, OPSET

__all__ = ["query_vector_graph"]

_VECTOR = "text_embedding"


def query_vector_graph(encoder: onnx.ModelProto) -> onnx.ModelProto:
    """Put a text encoder into a branch that is taken only if some line of the batch has a token.

    Args:
        encoder: ``input_ids`` and ``attention_mask`` int64 [B, T] → ``text_embedding`` float32 [B, D], and others.

    Returns:
        A graph with the encoder's inputs and :data:`KNOWN_EMBEDDING` float32 [B, D], and ``text_embedding``: of lines
        without any token in ``attention_mask`` the known vector as it is. The encoder's weights are the outer graph's,
        since those of a branch could not lie in a file beside it.
    """
    source = encoder.graph
    (encoded,) = (value for value in source.output if value.name == _VECTOR)
    elements = TensorProto.FLOAT
    if encoded.type.tensor_type.elem_type != elements:
        raise TypeError(f"a text encoder answers with float32, not with type {encoded.type.tensor_type.elem_type}")
    inner, chosen, known = "encoded_query", "chosen_query", "known_query"
    nodes = [_with_output(node, encoded.name, inner) for node in leading_to(source.node, [_VECTOR])]
    nodes.append(helper.make_node("Where", ["has_tokens", inner, KNOWN_EMBEDDING], [chosen]))
    width = ["batch", None]
    then = helper.make_graph(nodes, "encode", [], [helper.make_tensor_value_info(chosen, elements, width)])
    otherwise = helper.make_graph(
        [helper.make_node("Identity", [KNOWN_EMBEDDING], [known])],
        "keep",
        [],
        [helper.make_tensor_value_info(known, elements, width)],
    )
    constants = [
        numpy_helper.from_array(np.zeros((), np.int64), "no_token"),
        numpy_helper.from_array(np.array([1], np.int64), "token_axis"),
    ]
    outer = [
        helper.make_node("ReduceMax", ["attention_mask", "token_axis"], ["most_of_line"], keepdims=1),
        helper.make_node("Greater", ["most_of_line", "no_token"], ["has_tokens"]),
        helper.make_node("ReduceMax", ["most_of_line"], ["most_of_all"], keepdims=0),
        helper.make_node("Greater", ["most_of_all", "no_token"], ["encodes"]),
        helper.make_node("If", ["encodes"], [encoded.name], then_branch=then, else_branch=otherwise),
    ]
    vector = helper.make_tensor_value_info(KNOWN_EMBEDDING, elements, width)
    graph = helper.make_graph(
        outer, "query_vector", [*source.input, vector], [encoded], [*source.initializer, *constants]
    )
    opsets = {opset.domain: opset.version for opset in encoder.opset_import}
    opsets[""] = max(opsets.get("", 0), OPSET)
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=IR_VERSION,
        functions=list(encoder.functions),
    )


def _with_output(node: onnx.NodeProto, old: str, new: str) -> onnx.NodeProto:
    """The node between values of which one has another name, if it is among its own."""
    if old not in (*node.input, *node.output):
        return node
    renamed = onnx.NodeProto()
    renamed.CopyFrom(node)
    for values in (renamed.input, renamed.output):
        values[:] = [new if name == old else name for name in values]
    return renamed
