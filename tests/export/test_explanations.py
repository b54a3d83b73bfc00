"""The exported model ``explain`` on the small shop: it adds up for whatever is shown, and a wrong one is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from exports import Exported
from onnx import numpy_helper

from recsys_plugin.errors import CheckFailed
from recsys_plugin.export.explain_parity import check_explanations
from recsys_plugin.export.parity import TOLERANCE, user_inputs
from recsys_plugin.export.torch_graphs import SCORE_WEIGHTS
from recsys_plugin.inference.explanation import FEATURE_GROUPS
from recsys_plugin.training.packing import first_users


def test_every_item_of_every_user_adds_up(exported: Exported) -> None:
    material, local = exported.material, exported.local()
    users, size = first_users(material.users, 16), len(material.catalogue)
    packed = user_inputs(users)
    new = np.zeros((len(users), 1, dict(local_widths(exported))["new_items"]), np.float32)
    highest = sum(SCORE_WEIGHTS[head] for head in material.models.heads)
    for start in range(0, min(size, 200), 50):
        rows = np.tile(np.arange(start, min(start + 50, size)), (len(users), 1))
        asked = {**packed, "candidate_rows": rows, "new_items": new}
        answer = {name: values[:, : rows.shape[1]] for name, values in local.named("explain", asked).items()}
        added = answer["base"] + sum(answer[group] for group in FEATURE_GROUPS)
        np.testing.assert_allclose(added, answer["logit"], atol=TOLERANCE)
        chance = 1 / (1 + np.exp(-answer["logit"]))
        np.testing.assert_allclose(chance, local.named("rank", asked)["scores"] / highest, atol=TOLERANCE)
        assert ((answer["reason_rows"] >= -1) & (answer["reason_rows"] < size)).all()
        assert (answer["reason_rows"] != rows[..., None]).all()


def local_widths(exported: Exported) -> list[tuple[str, int]]:
    (model,) = (model for model in exported.described if model.name == "explain")
    return [(tensor.name, tensor.dims[-1]) for tensor in model.inputs]


def test_a_wrong_graph_is_refused(exported: Exported, tmp_path: Path) -> None:
    material = exported.material
    assert exported.manifest["explanations"].startswith("integrated gradients")
    differences = check_explanations(exported.local(), material.models, material.users, material.catalogue)
    assert differences.keys() == {"explain.sum", "explain.score", "explain.values"}
    assert max(differences.values()) < TOLERANCE
    model = onnx.load(exported.graphs["explain"])
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.02), tensor.name))
    onnx.save(model, tmp_path / "model.onnx")
    local = exported.local(explain=tmp_path / "model.onnx")
    with pytest.raises(CheckFailed, match=r"explanations differ from the trained models: explain\.\S+ by"):
        check_explanations(local, material.models, material.users, material.catalogue)
