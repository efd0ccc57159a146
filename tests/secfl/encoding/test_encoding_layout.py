"""Layout: order, digest, mismatches named, one canonical encoding, numpy and torch both ways."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from protocols.errors import EncodingError, MissingExtra, UsageError
from secfl.encoding import TensorEntry, TensorLayout


def model() -> dict[str, np.ndarray]:
    return {
        "layer.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "layer.bias": np.array([0.5, -0.5], np.float16),
        "empty": np.zeros((0, 4), np.float32),
        "scale": np.array(2.25, np.float64),
    }


def refused(name: str, match: str) -> pytest.RaisesContext:
    return pytest.raises(EncodingError, match=rf"^tensor {name!r}: .*{match}")


def test_import_of_the_package_does_not_import_torch():
    code = "import sys, secfl.encoding; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_flatten_concatenates_in_layout_order_and_unflatten_restores_dtypes_and_shapes():
    layout = TensorLayout.of(model())
    reordered = dict(reversed(model().items()))
    vector = layout.flatten(reordered)
    assert vector.dtype == np.float32
    assert vector.tolist() == [0, 1, 2, 3, 4, 5, 0.5, -0.5, 2.25]
    assert layout.size == 9
    restored = layout.unflatten(vector)
    assert list(restored) == list(model())
    for name, array in model().items():
        assert restored[name].dtype == array.dtype
        assert restored[name].shape == array.shape
        assert np.array_equal(restored[name], array)


def test_flatten_copies_strided_and_byte_swapped_arrays_in_c_order():
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    layout = TensorLayout.of({"w": values.T})
    assert layout.flatten({"w": values.T}).tolist() == values.T.ravel().tolist()
    assert layout.flatten({"w": values.T.astype(">f4")}).tolist() == values.T.ravel().tolist()


def test_unflatten_does_not_alias_the_vector():
    layout = TensorLayout.of({"w": np.zeros(3, np.float32)})
    vector = np.zeros(3, np.float32)
    layout.unflatten(vector)["w"][:] = 7
    assert vector.tolist() == [0, 0, 0]


def test_flatten_writes_into_out_and_refuses_an_out_that_does_not_fit():
    layout = TensorLayout.of({"w": np.ones(4, np.float32)})
    out = np.empty(4, np.float32)
    assert layout.flatten({"w": np.ones(4, np.float32)}, out) is out
    read_only = np.empty(4, np.float32)
    read_only.flags.writeable = False
    for bad in (np.empty(5, np.float32), np.empty(4), np.empty(8, np.float32)[::2], read_only):
        with pytest.raises(UsageError):
            layout.flatten({"w": np.ones(4, np.float32)}, bad)


def test_locate_names_the_tensor_across_empty_ones():
    layout = TensorLayout.of({"e0": np.zeros(0, np.float32), **model(), "e1": np.zeros(0, np.float32)})
    assert [layout.locate(i) for i in (0, 5, 6, 7, 8)] == [
        ("layer.weight", 0),
        ("layer.weight", 5),
        ("layer.bias", 0),
        ("layer.bias", 1),
        ("scale", 0),
    ]
    for outside in (-1, 9):
        with pytest.raises(UsageError):
            layout.locate(outside)


def test_missing_tensor_is_named():
    mapping = model()
    del mapping["layer.bias"]
    with refused("layer.bias", "missing"):
        TensorLayout.of(model()).flatten(mapping)


def test_extra_tensor_is_named():
    with refused("more", "extra"):
        TensorLayout.of(model()).flatten({**model(), "more": np.zeros(1, np.float32)})


def test_other_shape_is_named_even_of_equal_size():
    with refused("layer.weight", r"shape \(3, 2\), the layout has \(2, 3\)"):
        TensorLayout.of(model()).flatten({**model(), "layer.weight": np.zeros((3, 2), np.float32)})


def test_other_dtype_is_named():
    with refused("scale", "dtype float32, the layout has float64"):
        TensorLayout.of(model()).flatten({**model(), "scale": np.array(1.0, np.float32)})


def test_the_first_tensor_that_differs_is_the_one_named():
    mapping = {**model(), "layer.bias": np.zeros(2, np.float32), "scale": np.zeros(3)}
    with refused("layer.bias", "dtype"):
        TensorLayout.of(model()).flatten(mapping)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("name", "position"), [("layer.weight", 4), ("layer.bias", 1), ("scale", 0)])
def test_value_that_is_not_finite_names_its_tensor_and_position(bad: float, name: str, position: int):
    mapping = model()
    mapping[name].reshape(-1)[position] = bad
    with refused(name, f"not finite .* at position {position}$"):
        TensorLayout.of(model()).flatten(mapping)


def test_float64_beyond_float32_is_refused_not_made_infinite():
    with refused("scale", "not finite"):
        TensorLayout.of(model()).flatten({**model(), "scale": np.array(1e39)})


def test_unflatten_refuses_a_value_beyond_float16():
    layout = TensorLayout.of(model())
    vector = np.zeros(9)
    vector[7] = 1e5
    with refused("layer.bias", "beyond the range of float16"):
        layout.unflatten(vector)


def test_unflatten_refuses_another_length_another_dtype_and_nan():
    layout = TensorLayout.of(model())
    for bad in (np.zeros(8), np.zeros(9, np.int32), np.zeros((9, 1)), np.full(9, np.nan)):
        with pytest.raises(EncodingError):
            layout.unflatten(bad)


def test_integer_tensors_are_refused_by_default_and_all_named():
    mapping = {"n": np.zeros(1, np.int64), "w": np.zeros(1, np.float32), "mask": np.zeros(2, np.bool_)}
    with refused("n", "n, mask$"):
        TensorLayout.of(mapping)


def test_skipped_integer_tensors_may_be_present_or_absent_but_not_turn_into_floats():
    mapping = {"n": np.zeros(1, np.int64), "w": np.ones(1, np.float32)}
    layout = TensorLayout.of(mapping, integers="skip")
    assert layout.skipped == ("n",)
    assert layout.size == 1
    assert layout.flatten(mapping).tolist() == [1]
    assert layout.flatten({"w": np.ones(1, np.float32)}).tolist() == [1]
    assert list(layout.unflatten(np.zeros(1))) == ["w"]
    with refused("n", "skips it"):
        layout.flatten({**mapping, "n": np.zeros(1, np.float32)})
    assert layout.digest != TensorLayout.of({"w": np.ones(1, np.float32)}).digest


def test_unknown_choices_are_refused():
    with pytest.raises(UsageError):
        TensorLayout.of(model(), integers="ignore")  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        TensorLayout.of(model()).unflatten(np.zeros(9), container="jax")  # type: ignore[arg-type]


@pytest.mark.parametrize("mapping", [{}, {"w": np.zeros((0, 3), np.float32)}, {"n": np.zeros(3, np.int64)}])
def test_empty_model_is_refused(mapping: dict[str, np.ndarray]):
    with pytest.raises(EncodingError, match="coordinates, not 0"):
        TensorLayout.of(mapping, integers="skip")


@pytest.mark.parametrize(
    "value", [np.zeros(2, np.complex64), np.zeros(2, np.longdouble), np.array(["a"]), [1.0], np.ma.zeros(2), None]
)
def test_unsupported_values_are_refused_by_name(value: object):
    with pytest.raises(EncodingError, match="tensor 'odd'"):
        TensorLayout.of({"odd": value})


@pytest.mark.parametrize("name", ["", 3, "\ud800"])
def test_unusable_names_are_refused(name: object):
    with pytest.raises(EncodingError):
        TensorLayout.of({name: np.zeros(1, np.float32)})  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "entry",
    [
        TensorEntry("w", "float32", (-1,)),
        TensorEntry("w", "float32", (True,)),
        TensorEntry("w", "int64", (1,)),  # type: ignore[arg-type]
        TensorEntry("w", "float32", (2**20, 2**21)),
        TensorEntry("w", "float32", (0, 2**40, 2**40)),
        TensorEntry("w", "float32", (1,) * 65),
        TensorEntry("kept", "float32", (1,)),
    ],
)
def test_entries_out_of_bounds_are_refused(entry: TensorEntry):
    with pytest.raises(EncodingError):
        TensorLayout((TensorEntry("kept", "float32", (1,)), entry))


def test_digest_depends_on_order_names_shapes_and_dtypes():
    a, b = np.zeros(2, np.float32), np.zeros(2, np.float32)
    digests = {
        TensorLayout.of(mapping).digest
        for mapping in (
            {"a": a, "b": b},
            {"b": b, "a": a},
            {"a": a, "c": b},
            {"a": a, "b": b.reshape(1, 2)},
            {"a": a, "b": b.astype(np.float64)},
        )
    }
    assert len(digests) == 5
    assert {len(digest) for digest in digests} == {32}


def test_canonical_bytes_and_digest_are_what_they_have_always_been():
    layout = TensorLayout.of({"w": np.zeros((2, 3), np.float32), "n": np.zeros(1, np.int8)}, integers="skip")
    assert layout.to_bytes().hex() == "93019193a177a7666c6f61743332920203" + "91a16e"
    assert layout.digest.hex() == "ec31d18c905364bef666daa2da47d4170fac1ec3fc0b5ece27686cc3b90a3ba4"


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
entries = st.builds(
    TensorEntry,
    names,
    st.sampled_from(["float16", "bfloat16", "float32", "float64"]),
    st.lists(st.integers(0, 300), max_size=3).map(tuple),
)
layouts = (
    st.lists(entries, min_size=1, max_size=5, unique_by=lambda entry: entry.name)
    .map(tuple)
    .filter(lambda some: any(0 not in entry.shape for entry in some))
    .map(TensorLayout)
)


@given(layouts)
def test_bytes_round_trip(layout: TensorLayout):
    again = TensorLayout.from_bytes(layout.to_bytes())
    assert again == layout
    assert again.digest == layout.digest


@given(layouts, st.data())
@settings(max_examples=200)
def test_changed_bytes_are_refused_or_give_another_layout_that_encodes_to_them(
    layout: TensorLayout, data: st.DataObject
):
    encoded = bytearray(layout.to_bytes())
    encoded[data.draw(st.integers(0, len(encoded) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        other = TensorLayout.from_bytes(bytes(encoded))
    except EncodingError:
        return
    assert other != layout
    assert other.to_bytes() == bytes(encoded)


def test_trailing_truncated_longer_unknown_and_oversized_bytes_are_refused():
    wire = msgspec.msgpack.decode(TensorLayout.of(model()).to_bytes())
    encode = msgspec.msgpack.encode
    good = encode(wire)
    long_form = good.replace(bytes([2, 3]), bytes([0xCC, 2, 3]), 1)
    assert msgspec.msgpack.decode(long_form) == wire
    for bad, match in (
        (good + b"\0", "malformed"),
        (good[:-1], "malformed"),
        (good.replace(b"scale", b"\xffcale"), "malformed"),
        (b"", "malformed"),
        (long_form, "canonical"),
        (encode([*wire, 0]), "malformed"),
        (encode([2, *wire[1:]]), "malformed"),
        (encode([1, [[*wire[1][0], 0]], []]), "malformed"),
        (encode([1, [["w", "float32", [1.0]]], []]), "malformed|canonical"),
        (encode([1, [["w", "float32", [True]]], []]), "malformed"),
        (encode([1, [["w", "int32", [1]]], []]), "malformed"),
        (encode([1, [], []]), "not 0"),
        (b"\x91" * 100_000, "malformed"),
        (bytes(16 * 2**20 + 1), "at most"),
    ):
        with pytest.raises(EncodingError, match=match):
            TensorLayout.from_bytes(bad)


@given(
    st.dictionaries(
        names,
        hnp.arrays(
            st.sampled_from([np.float16, np.float32]),
            hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
            elements=st.floats(-60000, 60000, width=16),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_flatten_then_unflatten_is_the_identity(mapping: dict[str, np.ndarray]):
    layout = TensorLayout.of(mapping)
    for name, array in layout.unflatten(layout.flatten(mapping)).items():
        assert array.dtype == mapping[name].dtype
        assert np.array_equal(array, mapping[name])


class TestTorch:
    @pytest.fixture
    def torch(self):
        import torch

        return torch

    def test_tensors_of_every_float_dtype_go_there_and_back(self, torch):
        mapping = {
            name: torch.tensor([[1.5, -2.0], [0.25, 3.0]], dtype=getattr(torch, name), requires_grad=True)
            for name in ("float16", "bfloat16", "float32", "float64")
        }
        layout = TensorLayout.of(mapping)
        vector = layout.flatten(mapping)
        assert vector.tolist() == [1.5, -2.0, 0.25, 3.0] * 4
        read_only = vector.copy()
        read_only.flags.writeable = False
        for source in (vector, vector.astype(np.float64), read_only, vector[::-1].copy()[::-1]):
            restored = layout.unflatten(source, container="torch")
            for name, tensor in mapping.items():
                assert restored[name].dtype == tensor.dtype
                assert torch.equal(restored[name], tensor)
        restored["float32"].zero_()
        assert vector.tolist() == [1.5, -2.0, 0.25, 3.0] * 4

    def test_numpy_and_torch_give_one_layout_and_one_vector(self, torch):
        arrays = model()
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        assert TensorLayout.of(tensors) == TensorLayout.of(arrays)
        layout = TensorLayout.of(arrays)
        assert layout.flatten(tensors).tobytes() == layout.flatten(arrays).tobytes()

    def test_transposed_and_shared_tensors_are_copied_by_value(self, torch):
        weight = torch.arange(6.0).reshape(2, 3)
        mapping = {"w": weight.t(), "tied": weight}
        assert TensorLayout.of(mapping).flatten(mapping).tolist() == [0, 3, 1, 4, 2, 5, 0, 1, 2, 3, 4, 5]

    def test_a_state_dict_with_counters_needs_a_decision(self, torch):
        state = torch.nn.BatchNorm1d(3).state_dict()
        with pytest.raises(EncodingError, match="num_batches_tracked"):
            TensorLayout.of(state)
        assert TensorLayout.of(state, integers="skip").skipped == ("num_batches_tracked",)

    def test_bfloat16_as_numpy_is_refused_by_name(self, torch):
        layout = TensorLayout.of({"h": torch.zeros(2, dtype=torch.bfloat16)})
        with pytest.raises(EncodingError, match="tensor 'h': numpy has no bfloat16"):
            layout.unflatten(np.zeros(2))

    def test_value_that_bfloat16_rounds_to_infinity_is_refused(self, torch):
        layout = TensorLayout.of({"h": torch.zeros(1, dtype=torch.bfloat16)})
        with pytest.raises(EncodingError, match=r"tensor 'h': .*bfloat16"):
            layout.unflatten(np.array([np.finfo(np.float32).max]), container="torch")

    def test_float64_beyond_float32_and_nan_are_refused(self, torch):
        layout = TensorLayout.of({"h": torch.zeros(2, dtype=torch.float64)})
        for bad in (1e39, float("nan")):
            with pytest.raises(EncodingError, match=r"tensor 'h': not finite .* position 1"):
                layout.flatten({"h": torch.tensor([0.0, bad], dtype=torch.float64)})

    def test_sparse_meta_and_complex_tensors_are_refused(self, torch):
        for bad in (
            torch.zeros(2).to_sparse(),
            torch.zeros(2, device="meta"),
            torch.zeros(2, dtype=torch.complex64),
        ):
            with pytest.raises(EncodingError, match="tensor 'odd'"):
                TensorLayout.of({"odd": bad})


def test_torch_tensors_without_torch_name_the_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingExtra, match=r"secfl\[train\]"):
        TensorLayout.of(model()).unflatten(np.zeros(9), container="torch")


def test_a_broken_torch_is_not_reported_as_a_missing_one(monkeypatch: pytest.MonkeyPatch):
    def broken(name: str) -> None:
        raise ModuleNotFoundError("No module named 'part_of_torch'", name="part_of_torch")

    monkeypatch.setattr("importlib.import_module", broken)
    with pytest.raises(ModuleNotFoundError, match="part_of_torch"):
        TensorLayout.of(model()).unflatten(np.zeros(9), container="torch")
