"""Each request as one graph: the step models of an ensemble joined, so that Triton hands nothing from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from recsys_plugin.export.description import (
    BEST_RESULTS,
    COUNTS,
    KNOWN_EMBEDDING,
    PACK_VALUES,
    QUERY_VECTOR,
    VALUE_COLUMNS,
    Model,
    Step,
    Tensor,
)
from recsys_plugin.export.graph_parts import leading_to, prefix_names, read_by
from recsys_plugin.export.index_graphs import IR_VERSION, OPSET, best_graph, pack_graph
from recsys_plugin.export.query_graphs import query_vector_graph

__all__ = ["lay_out", "merge_descriptions", "merged_graph", "unpacked"]

Array = np.ndarray[Any, np.dtype[Any]]

#: Requests whose graph knows the order of the page, so that not every candidate need be sent back, and that order.
#: What a search is ordered by is known to the client alone, which blends relevance and taste.
_ORDERED_BY = {"recommend": "scores"}


def lay_out(models: tuple[Model, ...], graphs: str) -> tuple[Model, ...]:
    """The repository of one of the :data:`~recsys_plugin.export.options.GRAPHS`."""
    return merge_descriptions(models) if graphs == "merged" else models


def merge_descriptions(models: tuple[Model, ...]) -> tuple[Model, ...]:
    """The same repository with one graph for each ensemble; step models that only ensembles need are left out.

    ``search`` takes tokens, since the tokenizer is no graph, and answers with the vector of the text too: it is the
    same for everybody, so that clients keep it and bring it along instead the next time. What remains of the step
    models are those that mean something by themselves: the vector of a user, of an item, of a text.
    """
    merged: list[Model] = []
    for model in models:
        if model.is_ensemble:
            merged.append(_merged(model, {step.name: step for step in models}))
        elif model.name not in ("item_index", "text_index", "ctr_ranker", "user_index"):
            merged.append(model)
    return tuple(merged)


def _merged(model: Model, models: Mapping[str, Model]) -> Model:
    steps, inputs = list(model.steps), list(model.inputs)
    outputs = tuple(tensor for tensor in model.outputs if not tensor.name.endswith("_version"))
    vector: tuple[Tensor, ...] = ()
    if steps[0].model == "tokenizer":
        encoder = models["text_encoder"]
        vector = tuple(tensor for tensor in encoder.outputs if tensor.name in steps[1].outputs.values())
        known = replace(vector[0], name=KNOWN_EMBEDDING, meaning="unit vector of the text, where no token is given")
        inputs = [tensor for tensor in inputs if tensor.name not in steps[0].inputs.values()]
        inputs += [*encoder.inputs, known]
        takes = {tensor.name: tensor.name for tensor in (*encoder.inputs, known)}
        steps[:2] = [Step(QUERY_VECTOR, takes, {tensor.name: tensor.name for tensor in vector})]
    if model.name in _ORDERED_BY:
        every = {f"candidate_{tensor.name}": f"all_{tensor.name}" for tensor in outputs}
        steps = [_renamed(step, {tensor.name: f"all_{tensor.name}" for tensor in outputs}) for step in steps]
        own = {tensor.name: tensor.name for tensor in outputs}
        steps.append(Step(BEST_RESULTS, {**every, COUNTS: COUNTS}, own))
    columns = [tensor.name for tensor in outputs if tensor.datatype == "FP32"]
    parameters = dict(model.parameters)
    if len(columns) > 1:
        steps.append(Step(PACK_VALUES, {name: name for name in columns}, {"values": "values"}))
        meaning = ", ".join(f"{tensor.name} ({tensor.meaning})" for tensor in outputs if tensor.name in columns)
        values = Tensor("values", "FP32", (-1, len(columns)), f"the columns {meaning}")
        outputs = (*(tensor for tensor in outputs if tensor.name not in columns), values)
        parameters[VALUE_COLUMNS] = ",".join(columns)
    return replace(
        model,
        inputs=tuple(inputs),
        outputs=(*outputs, *vector),
        steps=(),
        merged_from=tuple(steps),
        parameters=parameters,
    )


def _renamed(step: Step, names: Mapping[str, str]) -> Step:
    """The step between tensors of other names."""
    return Step(
        step.model,
        {own: names.get(shared, shared) for own, shared in step.inputs.items()},
        {own: names.get(shared, shared) for own, shared in step.outputs.items()},
    )


def unpacked(model: Model, answer: Mapping[str, Array]) -> dict[str, Array]:
    """A model's answer with ``values`` taken apart into its columns [B, K]."""
    named = dict(answer)
    if VALUE_COLUMNS in model.parameters:
        values = named.pop("values")
        named |= {name: values[..., at] for at, name in enumerate(model.parameters[VALUE_COLUMNS].split(","))}
    return named


def _own_graph(model: Model, step: Step, graphs: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """The graph of a step that only merged requests have."""
    if step.model == QUERY_VECTOR:
        return query_vector_graph(graphs["text_encoder"])
    if step.model == PACK_VALUES:
        return pack_graph(model.parameters[VALUE_COLUMNS].split(","))
    floats = dict.fromkeys(model.parameters[VALUE_COLUMNS].split(","), TensorProto.FLOAT)
    return best_graph(_ORDERED_BY[model.name], {"rows": TensorProto.INT64, **floats})


def merged_graph(model: Model, graphs: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """Join the graphs of a model's steps as its description says.

    Args:
        model: a model with ``merged_from``.
        graphs: the graph of each step model, by its name; the others are made here.

    Returns:
        A graph with the model's inputs and outputs; what leads to no output is left out. Weights that lie outside the
        steps' graphs stay where they are.
    """
    nodes: list[onnx.NodeProto] = []
    initializers: list[onnx.TensorProto] = []
    given: dict[str, onnx.ValueInfoProto] = {}
    made: dict[str, onnx.ValueInfoProto] = {}
    opsets: dict[str, int] = {"": OPSET}
    functions: list[onnx.FunctionProto] = []
    for number, step in enumerate(model.merged_from):
        source = graphs[step.model] if step.model in graphs else _own_graph(model, step, graphs)
        for opset in source.opset_import:
            opsets[opset.domain] = max(opset.version, opsets.get(opset.domain, 0))
        functions += [found for found in source.functions if found not in functions]
        outer = {**step.inputs, **step.outputs}
        graph = onnx.GraphProto()
        graph.CopyFrom(source.graph)
        prefix_names(graph, f"{step.model}_{number}/", ends=True)
        _rename(graph, {f"{step.model}_{number}/{own}": shared for own, shared in outer.items()})
        nodes += graph.node
        initializers += graph.initializer
        for value in graph.input:
            if value.name not in made:
                given.setdefault(value.name, value)
        made.update({value.name: value for value in graph.output})
    wanted = [tensor.name for tensor in model.outputs]
    kept = leading_to(nodes, set(wanted))
    used = {name for node in kept for name in read_by(node)}
    joined = helper.make_graph(
        kept,
        model.name,
        [_with_axes(given[tensor.name], tensor) for tensor in model.inputs],
        [_with_axes(made[name], tensor) for name, tensor in zip(wanted, model.outputs, strict=True)],
        [tensor for tensor in initializers if tensor.name in used],
    )
    result = helper.make_model(
        joined,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=IR_VERSION,
        functions=functions,
    )
    # The checker wants external weights where the graph will be, and checks such a graph once it is saved.
    if all(tensor.data_location != TensorProto.EXTERNAL for tensor in joined.initializer):
        onnx.checker.check_model(result, full_check=False)
    return result


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Rename values of a graph, and of the graphs that its nodes hold."""
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, names)
        for values in (node.input, node.output):
            for position, name in enumerate(values):
                if name in names:
                    values[position] = names[name]
    for value in (*graph.input, *graph.output):
        value.name = names.get(value.name, value.name)


def _with_axes(value: onnx.ValueInfoProto, tensor: Tensor) -> onnx.ValueInfoProto:
    """The same value with axes named alike in all steps: the batch, and a length of its own for each open one."""
    axes = ["batch", *(size if size >= 0 else f"{tensor.name}_length" for size in tensor.dims)]
    return helper.make_tensor_value_info(tensor.name, value.type.tensor_type.elem_type, axes)
