"""effc behind the interface of `onnx.backend`: arrays of every type, values built in."""

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from effc.ir.errors import InputError, UnsupportedError
from effc.onnx_backend import EffcBackend, to_array, to_tensor

TYPES = [
    (np.float32, TensorProto.FLOAT),
    (np.uint64, TensorProto.UINT64),
    (np.bool_, TensorProto.BOOL),
    (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
    (ml_dtypes.float8_e5m2, TensorProto.FLOAT8E5M2),
    (ml_dtypes.float8_e4m3fn, TensorProto.FLOAT8E4M3FN),
    (ml_dtypes.int4, TensorProto.INT4),
    (ml_dtypes.uint2, TensorProto.UINT2),
    (ml_dtypes.float4_e2m1fn, TensorProto.FLOAT4E2M1),
]


def model(op, inputs, outputs, **attributes):
    node = helper.make_node(op, [v.name for v in inputs], [v.name for v in outputs], **attributes)
    graph = helper.make_graph([node], "one", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def value(name, kind, shape):
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.mark.parametrize(("dtype", "number"), TYPES)
def test_arrays_of_every_type(dtype, number):
    array = np.array([0, 1, 1, 0]).astype(dtype).reshape(2, 2)
    found = to_array(to_tensor(array), number)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found.astype(np.float32), array.astype(np.float32))


def test_messages_are_arrays():
    array = np.array([1.5, -2.0], np.float16)
    assert to_tensor(numpy_helper.from_array(array)).tolist() == [1.5, -2.0]


def test_sequences_are_refused():
    with pytest.raises(InputError, match="sequences as inputs are not supported"):
        to_tensor([np.ones(2), np.ones(3)])


def test_shapes_are_built_in_and_checked():
    shape = value("shape", TensorProto.INT64, [2])
    proto = model("Reshape", [value("x", 1, [4]), shape], [value("y", 1, [None, None])])
    rep = EffcBackend.prepare(proto)
    x = np.arange(4, dtype=np.float32)
    assert rep.run([x, np.array([2, 2])])[0].tolist() == [[0, 1], [2, 3]]
    assert rep.run([x, np.array([1, -1])])[0].shape == (1, 4)
    assert rep.run([x + 1, np.array([2, 2])])[0].tolist() == [[1, 2], [3, 4]]
    assert [list(t.values) for t in rep.translations] == [["shape"], ["shape"]]


def test_large_inputs_are_not_built_in():
    proto = model("NonZero", [value("x", 1, [2, 3])], [value("y", TensorProto.INT64, [2, None])])
    with pytest.raises(UnsupportedError, match="NonZero at y: the size of its result depends"):
        EffcBackend.prepare(proto).run([np.ones((2, 3), np.float32)])


@pytest.mark.slow
def test_compiled_bfloat16():
    kind = TensorProto.BFLOAT16
    proto = model("Add", [value("x", kind, [3]), value("y", kind, [3])], [value("z", kind, [3])])
    x = np.array([1.0, 2.5, -3.0]).astype(ml_dtypes.bfloat16)
    found = EffcBackend.prepare(proto, target="native").run([x, x])[0]
    assert found.dtype == ml_dtypes.bfloat16
    assert found.astype(np.float32).tolist() == [2.0, 5.0, -6.0]
