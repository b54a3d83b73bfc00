"""The tiny shop's users as each other's neighbours: vectors (1, purchases), so that cosines are easy to work out."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from recsys_plugin.export.index_graphs import IR_VERSION, OPSET
from recsys_plugin.export.user_graphs import user_index_graph
from recsys_plugin.pseudonyms import Pseudonyms, halves_of
from recsys_plugin.training.communities import MOST_ITEMS, Communities, People

KEY = "the tiny shop's own key"
#: Nearest to mug-lover (one purchase) first, behind himself; then those who bought nothing.
USERS = {"mug-lover": 1.0, "second": 1.5, "third": 0.5, "fourth": 4.0, "fifth": 0.0}
PSEUDONYMS = Pseudonyms(KEY)


def people() -> People:
    """Buyers are community 0, the others 1; what is told of the second one is nothing."""
    vectors = np.array([[1.0, purchases] for purchases in USERS.values()], np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = np.full((2, MOST_ITEMS), -1, np.int64)
    rows[0, :2] = [3, 0]
    centroids = np.array([[np.sqrt(0.5), np.sqrt(0.5)], [1.0, 0.0]], np.float32)
    return People(
        vectors,
        np.array([halves_of(PSEUDONYMS.of(user_id)) for user_id in USERS], np.int64),
        np.array(halves_of(PSEUDONYMS.check), np.int64),
        Communities(centroids, np.array([40, 30]), rows, (("kitchen", "food"), ())),
    )


def similar_users_graph() -> onnx.ModelProto:
    """The users' index behind a tower that makes (1, purchases) of a user's features."""

    def constant(name: str, values: list[list[float]]) -> onnx.NodeProto:
        array: NDArray[np.float32] = np.array(values, np.float32)
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))

    kinds = {"user_float": TensorProto.FLOAT, "user_int": TensorProto.INT64, "user_string": TensorProto.STRING}
    tower = helper.make_graph(
        [
            constant("one_column", [[0.0, 1.0]]),
            constant("beginning", [[1.0, 0.0]]),
            helper.make_node("MatMul", ["user_float", "one_column"], ["bought"]),
            helper.make_node("Add", ["bought", "beginning"], ["user_vector"]),
        ],
        "tower",
        [
            helper.make_tensor_value_info(name, kind, ["batch", {"user_int": 3}.get(name, 1)])
            for name, kind in kinds.items()
        ],
        [helper.make_tensor_value_info("user_vector", TensorProto.FLOAT, ["batch", 2])],
    )
    model = helper.make_model(tower, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return compose.merge_models(model, user_index_graph(people()), io_map=[("user_vector", "user_vector")])
