"""Messages of `ModelInfer` to arrays and back, and what is refused of them."""

import re
from typing import Any

import numpy as np
import pytest

from internvl_edge.runtime.serve.protocol.grpc.infer import inputs_of, outputs_of, parameters_of, response_message
from internvl_edge.runtime.serve.protocol.grpc.messages import message
from internvl_edge.runtime.serve.refusals import BadRequestError
from internvl_edge.runtime.serve.requests import Response
from internvl_edge.runtime.serve.signature import Signature, Tensor

CONTENTS = {
    "BOOL": ("bool_contents", [True, False]),
    "UINT8": ("uint_contents", [0, 255]),
    "INT8": ("int_contents", [-128, 127]),
    "INT32": ("int_contents", [-(2**31), 2**31 - 1]),
    "INT64": ("int64_contents", [-(2**63), 2**63 - 1]),
    "FP32": ("fp32_contents", [0.5, -2.0]),
    "FP64": ("fp64_contents", [0.1, -2.0]),
    "BYTES": ("bytes_contents", [b"a", b""]),
}


def request(*tensors: dict[str, Any], raws: tuple[bytes, ...] = ()) -> Any:
    made = message("ModelInferRequest")(model_name="m", raw_input_contents=raws)
    for fields in tensors:
        size = fields.pop("size", None)
        shared = fields.pop("shared", None)
        made.inputs.add(**fields)
        if size is not None:
            made.inputs[-1].parameters["binary_data_size"].int64_param = size
        if shared is not None:
            made.inputs[-1].parameters["shared_memory_region"].string_param = shared
    return made


def tensor(datatype: str = "FP32", shape: tuple[int, ...] = (2,), name: str = "x", **more: Any) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, **more}


@pytest.mark.parametrize("datatype", CONTENTS)
def test_numbers_and_bytes_in_their_lists(datatype: str) -> None:
    field, values = CONTENTS[datatype]
    found = inputs_of(request(tensor(datatype, (1, 2), contents={field: values})))["x"]
    assert found.shape == (1, 2)
    assert found.ravel().tolist() == values


def test_raw_bytes_in_the_order_of_the_inputs() -> None:
    a, b = np.array([1.5, 2.5], np.float32), np.array([3], np.int64)
    found = inputs_of(request(tensor(name="a", size=8), tensor("INT64", (1,), "b"), raws=(a.tobytes(), b.tobytes())))
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"], a)
    np.testing.assert_array_equal(found["b"], b)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (request(tensor(), tensor(name="y"), raws=(b"12345678",)), "raw_input_contents: has 1 entries for 2 inputs"),
        (request(tensor(contents={"fp32_contents": [1, 2]}), tensor()), "input 'x': is given twice"),
        (
            request(tensor(contents={"fp32_contents": [1, 2]}), raws=(b"12345678",)),
            "input 'x': has contents beside raw_input_contents",
        ),
        (request(tensor("FP16")), "input 'x': FP16 is sent in raw_input_contents"),
        (request(tensor(contents={"int_contents": [1, 2]})), "input 'x': FP32 is in fp32_contents, got int_contents"),
        (request(tensor(contents={"fp32_contents": [1]})), "input 'x': shape [2] has 2 elements, got 1"),
        (request(tensor("INT8", contents={"int_contents": [1, 128]})), "input 'x': a number is beyond INT8"),
        (request(tensor("UINT8", contents={"uint_contents": [1, 256]})), "input 'x': a number is beyond UINT8"),
        (request(tensor("INT9")), "input 'x': datatype 'INT9' is none of"),
        (request(tensor(size=9), raws=(b"12345678",)), "input 'x': binary_data_size is 9, the bytes are 8"),
        (request(tensor(size=8)), "input 'x': binary_data_size is 8, the bytes are none in raw_input_contents"),
        (
            request(tensor(shared="mine")),
            "input 'x': parameter 'shared_memory_region' is not known; shared memory is not offered",
        ),
    ],
)
def test_a_tensor_that_is_not_what_it_says(asked: Any, told: str) -> None:
    with pytest.raises(BadRequestError, match=re.escape(told)):
        inputs_of(asked)


def test_parameters_are_plain_values() -> None:
    made = message("ModelInferRequest")()
    made.parameters["a"].int64_param = 3
    made.parameters["b"].string_param = "x"
    made.parameters["c"].bool_param = False
    assert made.parameters["d"].WhichOneof("parameter_choice") is None
    assert parameters_of(made.parameters) == {"a": 3, "b": "x", "c": False, "d": None}


def test_outputs_that_are_wanted() -> None:
    made = message("ModelInferRequest")()
    assert outputs_of(made) is None
    made.outputs.add(name="y").parameters["binary_data"].bool_param = True
    assert outputs_of(made) == ("y",)
    made.outputs[0].parameters["classification"].int64_param = 3
    with pytest.raises(BadRequestError, match="output 'y': classification and shared memory are not offered"):
        outputs_of(made)


@pytest.mark.parametrize(("part", "final"), [(False, True), (True, False), (True, True)])
def test_a_response_has_the_outputs_in_the_models_order(part: bool, final: bool) -> None:
    signature = Signature(
        name="m",
        inputs=(),
        outputs=tuple(Tensor(name=name, datatype="FP32", shape=(-1,)) for name in ("y", "z", "absent")),
        parameters={},
        batched=True,
    )
    values = {"z": np.array([[1.5]], np.float32), "y": np.array([2, 3], np.float32)}
    made = response_message(signature, "id 7", Response(outputs=values, final=final), part=part)
    assert (made.model_name, made.model_version, made.id) == ("m", "1", "id 7")
    assert [(each.name, each.datatype, list(each.shape)) for each in made.outputs] == [
        ("y", "FP32", [2]),
        ("z", "FP32", [1, 1]),
    ]
    assert list(made.raw_output_contents) == [values["y"].tobytes(), values["z"].tobytes()]
    assert parameters_of(made.parameters) == ({"triton_final_response": final} if part else {})
