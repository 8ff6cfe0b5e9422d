"""Heads that read few rows: which nodes are passed by rows, by which rule, and that the gradient is the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from cases import node
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from test_rules import opened

from onnxcam.gradients import add_gradients, backward
from onnxcam.gradients.rows import shortcut
from onnxcam.graph import symbolic as xp
from onnxcam.graph.paths import float_path
from onnxcam.graph.row_rules import ROW_RULES, MixesError, Rows, picked, target
from onnxcam.graph.symbolic import Writer
from onnxcam.model import Model, dims_of

pytestmark = pytest.mark.anyruntime
RNG = np.random.default_rng(3)
SEED, GRADIENT = "onnxcam/seed", "onnxcam/grad/n"
T, D, H = 9, 8, 2  # tokens, channels, heads


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


# A transformer's last block in the forms that exporters give it, from its input x (N, T, D) to the scores y.

NORM = "{y} = LayerNormalization<axis = -1>({x}, scale)"
IN_PARTS = """{y}_m = ReduceMean({x}, last)
    {y}_c = Sub({x}, {y}_m)
    {y}_s = Mul({y}_c, {y}_c)
    {y}_v = ReduceMean({y}_s, last)
    {y}_e = Add({y}_v, epsilon)
    {y}_d = Sqrt({y}_e)
    {y}_n = Div({y}_c, {y}_d)
    {y} = Mul({y}_n, scale)"""
ATTEND = """kt = Transpose<perm = [0, 1, 3, 2]>(k)
    q_scaled = Mul(q, half)
    scores = MatMul(q_scaled, kt)
    p = Softmax<axis = -1>(scores)
    o = MatMul(p, v)
    o_t = Transpose<perm = [0, 2, 1, 3]>(o)
    mixed = Reshape(o_t, flat)"""
FUSED = """qkv = MatMul(n, w_qkv)
    five = Reshape(qkv, split)
    ahead = Transpose<perm = [2, 0, 3, 1, 4]>(five)
    q = Gather<axis = 0>(ahead, zero)
    k = Gather<axis = 0>(ahead, one)
    v = Gather<axis = 0>(ahead, two)
    """
SPLIT = """qkv = MatMul(n, w_qkv)
    q_f, k_f, v_f = Split<axis = -1, num_outputs = 3>(qkv)
    q_h = Reshape(q_f, heads)
    k_h = Reshape(k_f, heads)
    v_h = Reshape(v_f, heads)
    q = Transpose<perm = [0, 2, 1, 3]>(q_h)
    k = Transpose<perm = [0, 2, 1, 3]>(k_h)
    v = Transpose<perm = [0, 2, 1, 3]>(v_h)
    """
SEPARATE = """q_f = MatMul(n, w_q)
    q_b = Add(q_f, w_bias)
    q_h = Reshape(q_b, heads)
    q = Transpose<perm = [0, 2, 1, 3]>(q_h)
    k_f = MatMul(n, w_k)
    k_h = Reshape(k_f, heads)
    k = Transpose<perm = [0, 2, 1, 3]>(k_h)
    v_f = MatMul(n, w_v)
    v_h = Reshape(v_f, heads)
    v = Transpose<perm = [0, 2, 1, 3]>(v_h)
    """
OUT = """proj = MatMul(mixed, w_o)
    """
TURNED = """n_t = Transpose<perm = [1, 0, 2]>(n)
    qkv = MatMul(n_t, w_qkv)
    four = Reshape(qkv, turned_split)
    five = Unsqueeze(four, zeros)
    moved = Transpose<perm = [3, 1, 2, 0, 4]>(five)
    ahead = Squeeze(moved, minus_two)
    q_f = Gather<axis = 0>(ahead, zero)
    k_f = Gather<axis = 0>(ahead, one)
    v_f = Gather<axis = 0>(ahead, two)
    q_h = Reshape(q_f, turned_heads)
    k_h = Reshape(k_f, turned_heads)
    v_h = Reshape(v_f, turned_heads)
    q = Transpose<perm = [1, 0, 2]>(q_h)
    kt = Transpose<perm = [1, 2, 0]>(k_h)
    v = Transpose<perm = [1, 0, 2]>(v_h)
    scores = MatMul(q, kt)
    p = Softmax<axis = -1>(scores)
    o = MatMul(p, v)
    o_t = Transpose<perm = [1, 0, 2]>(o)
    mixed = Reshape(o_t, turned_flat)
    out = Gemm<transB = 1>(mixed, w_o, w_bias)
    out_t = Reshape(out, turned_back)
    proj = Transpose<perm = [1, 0, 2]>(out_t)
    """
ATTENTION_3D = """q = MatMul(n, w_q)
    k = MatMul(n, w_k)
    v = MatMul(n, w_v)
    mixed = Attention<q_num_heads = 2, kv_num_heads = 2>(q, k, v, mask)
    """
EINSUM = """q_f = MatMul(n, w_q)
    k_f = MatMul(n, w_k)
    v_f = MatMul(n, w_v)
    q = Reshape(q_f, heads)
    k = Reshape(k_f, heads)
    v = Reshape(v_f, heads)
    scores = Einsum<equation = "bqhd,bkhd->bhqk">(q, k)
    p = Softmax<axis = -1>(scores)
    o = Einsum<equation = "bhqk,bkhd->bqhd">(p, v)
    mixed = Reshape(o, flat)
    """
GELU = """up = MatMul(n2, w_up)
    up_b = Add(up, b_up)
    root = Div(up_b, two_f)
    curve = Tanh(root)
    gate = Add(curve, half)
    act = Mul(up_b, gate)
    down = MatMul(act, w_down)
    """
SELECT = """row = Gather<axis = 1>(n3, zero)
    y = Gemm(row, w_head)"""
LAST = """row = Gather<axis = 1>(n3, minus_one)
    y = Gemm(row, w_head)"""
CUT = """one_row = Slice(n3, zeros, ones, ones, ones)
    row = Squeeze(one_row, ones)
    y = Gemm(row, w_head)"""
WIDE_CUT = """one_row = Slice(n3, corner, opposite)
    row = Reshape(one_row, free_flat)
    y = Gemm(row, w_head)"""
DISTILLED = """row = Gather<axis = 1>(n3, minus_two_s)
    other = Gather<axis = 1>(n3, minus_one)
    y_0 = Gemm(row, w_head)
    y_1 = Gemm(other, w_bias_head)
    y = Add(y_0, y_1)"""
MEAN = """row = ReduceMean<keepdims = 0>(n3, ones)
    y = Gemm(row, w_head)"""


def block(attention: str, head: str = SELECT, norm: str = NORM) -> str:
    return f"""
    z = MatMul(x, w_in)
    {norm.format(x="z", y="n")}
    {attention}sum = Add(z, proj)
    {norm.format(x="sum", y="n2")}
    {GELU}sum2 = Add(sum, down)
    {norm.format(x="sum2", y="n3")}
    {head}"""


def weights() -> dict[str, np.ndarray]:
    matrices = {f"w_{n}": numbers(D, D) for n in ("in", "q", "k", "v", "o")}
    matrices |= {"w_qkv": numbers(D, 3 * D), "w_up": numbers(D, 2 * D), "w_down": numbers(2 * D, D)}
    matrices |= {"w_head": numbers(D, 3), "w_bias_head": numbers(D, 3), "w_bias": numbers(D), "b_up": numbers(2 * D)}
    matrices |= {"scale": numbers(D), "mask": numbers(T, T)}
    scalars = {"half": 0.5, "two_f": 2.0, "epsilon": 1e-5}
    places = {
        "zero": 0,
        "one": 1,
        "two": 2,
        "minus_one": -1,
        "minus_two_s": -2,
        "two_s": [2],
        "three_s": [3],
        "zeros": [0],
        "ones": [1],
        "last": [-1],
    }
    places |= {"minus_two": [-2], "corner": [0, T - 1, 0], "opposite": [2**31, T, 2**63 - 1]}
    shapes = {"split": [0, 0, 3, H, -1], "heads": [0, 0, H, -1], "flat": [0, 0, D], "free_flat": [-1, D]}
    shapes |= {"turned_split": [T, 1, 3, D], "turned_heads": [T, H, D // H], "turned_flat": [T, D]}
    shapes |= {"turned_back": [T, 1, D], "tokens_and_channels": [1, 2]}
    shapes |= {"pairs": [-1, 2 * D], "halves": [1, T - 1, D // 2], "joined": [1, (T - 1) // 2, D]}
    integers = {k: np.asarray(v, np.int64) for k, v in (places | shapes).items()}
    return {k: v * 0.5 for k, v in matrices.items()} | {k: np.asarray(v) for k, v in scalars.items()} | integers


WEIGHTS = weights()


def proto(text: str, batch: int | str = "N", tokens: int | str = T, opset: int = 18) -> onnx.ModelProto:
    graph = onnx.parser.parse_graph(f"g (double[{batch},{tokens},{D}] x) => (double[{batch},3] y) {{{text}}}")
    read = {name for n in graph.node for name in n.input}
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in WEIGHTS.items() if n in read)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def by_rows(model: Model, wrt: str) -> set[str]:
    """The outputs of the nodes that are passed by rows."""
    of, value = model.values["y"], model.values[wrt]
    path = float_path(of, [value])
    found = shortcut(path, of, [value])
    return {str(n.outputs[0].name) for n in path if id(n) in found.nodes}


MLP = {"n2", "up", "up_b", "root", "curve", "gate", "act", "down", "sum2", "n3"}
BEHIND = {"proj", "sum"} | MLP
FOUR = FUSED + ATTEND + "\n    " + OUT
OF_ONE_QUERY = {"q_scaled", "scores", "p", "o", "o_t", "mixed"}
FORMS = {  # attention, head, and what of the attention is passed by rows
    "fused": (FOUR, SELECT, OF_ONE_QUERY),
    "split": (SPLIT + ATTEND + "\n    " + OUT, SELECT, OF_ONE_QUERY),
    "separate": (SEPARATE + ATTEND + "\n    " + OUT, SELECT, OF_ONE_QUERY | {"q_f", "q_b", "q_h", "q"}),
    "turned": (TURNED, SELECT, {"scores", "p", "o", "o_t", "mixed", "out", "out_t"}),
    "attention": (ATTENTION_3D + OUT, SELECT, {"q", "mixed"}),
    "einsum": (EINSUM + OUT, SELECT, {"q_f", "q", "scores", "p", "o", "mixed"}),
    "last": (FOUR, LAST, OF_ONE_QUERY),
    "cut": (FOUR, CUT, OF_ONE_QUERY),
    "wide-cut": (FOUR, WIDE_CUT, OF_ONE_QUERY),
    "distilled": (FOUR, DISTILLED, OF_ONE_QUERY),
}


def of_form(form: str, norm: str = NORM) -> onnx.ModelProto:
    attention, head, _ = FORMS[form]
    return proto(block(attention, head, norm), 1 if form == "turned" else "N", opset=23 if form == "attention" else 18)


PARTS = {f"{y}_{part}" for y in ("n2", "n3") for part in "mcsvedn"}


@pytest.mark.parametrize("form", FORMS)
def test_what_lies_behind_the_keys_and_values_is_passed_by_rows(form) -> None:
    assert by_rows(opened(of_form(form)), "n") == FORMS[form][2] | BEHIND


def test_a_normalisation_in_parts_is_passed_by_rows() -> None:
    assert by_rows(opened(of_form("fused", IN_PARTS)), "n") == OF_ONE_QUERY | BEHIND | PARTS


def test_rows_start_behind_the_value_that_is_asked_for() -> None:
    model = opened(of_form("fused"))
    assert by_rows(model, "sum") == MLP
    assert by_rows(model, "p") == BEHIND | {"o", "o_t", "mixed"}
    assert by_rows(model, "act") == {"down", "sum2", "n3"}
    assert by_rows(model, "sum2") == set()  # no product is saved
    assert by_rows(model, "x") == by_rows(model, "n")  # all of the block's input is read, by keys and values


def test_nothing_is_passed_where_all_tokens_are_read() -> None:
    assert by_rows(opened(proto(block(FOUR, MEAN))), "n") == set()


def test_many_rows_are_no_shortcut() -> None:
    """One token of three is as good as all of them."""
    text = block(*FORMS["separate"][:2])
    assert by_rows(opened(proto(text, tokens=3)), "n") == set()
    assert by_rows(opened(proto(text, tokens=4)), "n") == FORMS["separate"][2] | BEHIND


def bumped(model: onnx.ModelProto, name: str, bump: np.ndarray) -> onnx.ModelProto:
    """The model with a constant added to one of its values."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for k, n in enumerate(copy.graph.node):
        if name in n.output:
            n.output[list(n.output).index(name)] = f"{name}_before"
            copy.graph.node.insert(k + 1, node("Add", [f"{name}_before", "bump"], [name]))
            break
    copy.graph.initializer.append(numpy_helper.from_array(bump, "bump"))
    return copy


def evaluated(model: onnx.ModelProto, names: list[str], **feeds: np.ndarray) -> list[np.ndarray]:
    return ReferenceEvaluator(model).run(names, feeds)


@pytest.mark.parametrize("wrt", ["n", "x", "mixed"])
@pytest.mark.parametrize("form", FORMS)
def test_agrees_with_finite_differences(form, wrt) -> None:
    """In double precision, along a random direction at the value."""
    model, samples = of_form(form, IN_PARTS), 1 if form == "turned" else 2
    x, seed = numbers(samples, T, D), numbers(samples, 3)
    graded = ir.to_proto(add_gradients(opened(model), of="y", wrt=wrt).ir_model)
    (gradient,) = evaluated(graded, [f"onnxcam/grad/{wrt}"], **{"x": x, SEED: seed})
    direction, step = numbers(*gradient.shape), 1e-6
    if wrt == "x":
        ends = [evaluated(model, ["y"], x=x + s * direction)[0] for s in (step, -step)]
    else:
        ends = [evaluated(bumped(model, wrt, s * direction), ["y"], x=x)[0] for s in (step, -step)]
    expected = ((ends[0] - ends[1]) * seed).sum() / (2 * step)
    assert (gradient * direction).sum() == pytest.approx(expected, rel=1e-6)
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("form", ["fused", "attention"])
def test_a_normalisation_gives_the_gradient_of_its_parts(form) -> None:
    """It is float32 in the reference evaluator."""
    x, seed = numbers(2, T, D), numbers(2, 3)
    found = [
        evaluated(
            ir.to_proto(add_gradients(opened(of_form(form, norm)), "y", "n").ir_model), [GRADIENT], x=x, **{SEED: seed}
        )[0]
        for norm in (NORM, IN_PARTS)
    ]
    np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_the_models_own_nodes_stay_and_small_ones_come() -> None:
    """Beside the keys' and values' own cotangents nothing is as long as there are tokens."""
    model = opened(of_form("fused"))
    before = [n.name for n in model.graph]
    graded = add_gradients(model, of="y", wrt="n")
    assert [n.name for n in graded.graph][: len(before)] == before
    written = [n for n in graded.graph if n.name not in before]
    wide = {n.op_type for n in written if n.outputs[0].shape is not None and 2 * D in n.outputs[0].shape}
    tall = [n for n in written if n.outputs[0].shape is not None and {T, 2 * D} <= set(n.outputs[0].shape)]
    assert wide
    assert not tall  # the perceptron's inner values, (N, T, 2 D)


@pytest.mark.parametrize("policy", ["plain", "guided", "deconvnet"])
def test_policies_treat_the_models_own_rectifiers(policy) -> None:
    text = """up = MatMul(x, w_up)
        act = Relu(up)
        down = MatMul(act, w_down)
        row = Gather<axis = 1>(down, zero)
        y = Gemm(row, w_head)"""
    model, x, seed = opened(proto(text)), numbers(1, T, D), numbers(1, 3)
    graded = add_gradients(model, of="y", wrt="x", relu=policy)
    (found,) = evaluated(ir.to_proto(graded.ir_model), ["onnxcam/grad/x"], x=x, **{SEED: seed})
    at_act = WEIGHTS["w_down"] @ (WEIGHTS["w_head"] @ seed[0])
    fired, sent = x[0, 0] @ WEIGHTS["w_up"] > 0, at_act > 0
    passed = {"plain": fired, "guided": fired & sent, "deconvnet": sent}[policy]
    expected = np.zeros((1, T, D))
    expected[0, 0] = WEIGHTS["w_up"] @ np.where(passed, at_act, 0)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    assert f"changed {int(policy != 'plain')} of 1" in graded.notes[-1]


def test_several_values_share_what_is_written() -> None:
    """Each value's gradient is what it is alone, though one lies behind the other."""
    model, x, seed = opened(of_form("separate", IN_PARTS)), numbers(2, T, D), numbers(2, 3)
    names = ["x", "n", "sum"]
    together = ir.to_proto(add_gradients(model, of="y", wrt=names).ir_model)
    found = evaluated(together, [f"onnxcam/grad/{n}" for n in names], x=x, **{SEED: seed})
    for name, array in zip(names, found, strict=True):
        alone = ir.to_proto(add_gradients(model, of="y", wrt=name).ir_model)
        np.testing.assert_allclose(array, evaluated(alone, [f"onnxcam/grad/{name}"], x=x, **{SEED: seed})[0], 1e-9)


def test_a_cut_that_a_free_axis_may_not_fill_is_none_of_so_many_rows() -> None:
    """Two tokens from the second on, of two: one."""
    text = """z = MatMul(x, w_in)
        a = MatMul(z, w_q)
        b = Mul(a, a)
        c = Slice(b, {start}, {stop}, ones)
        d = ReduceMean<keepdims = 0>(c, ones)
        y = MatMul(d, w_head)"""
    source = opened(proto(text.format(start="ones", stop="three_s"), tokens="T"))
    model = ir.to_proto(add_gradients(source, of="y", wrt="z").ir_model)
    x, seed = numbers(2, 2, D), numbers(2, 3)
    z = x @ WEIGHTS["w_in"]
    expected = np.zeros_like(z)
    expected[:, 1] = (2 * (z[:, 1] @ WEIGHTS["w_q"]) * (seed @ WEIGHTS["w_head"].T)) @ WEIGHTS["w_q"].T
    np.testing.assert_allclose(evaluated(model, ["onnxcam/grad/z"], x=x, **{SEED: seed})[0], expected, 1e-9)
    assert not by_rows(source, "z")
    one = opened(proto(text.format(start="ones", stop="two_s"), tokens="T"))
    assert by_rows(one, "z") == {"a", "b"}, "where it is one, it is there"


# Means over tokens, as Grad-CAM weighs channels


def of_folded_tokens(form: str) -> Model:
    """With the mean (N, D, 1, 1) of the gradient at n over the tokens behind the first, folded to 2 x 4."""
    model = opened(of_form(form, IN_PARTS)).clone()
    writer = Writer(model.graph, model.opset)
    of, at = model.values["y"], model.values["n"]
    seed = writer.input(SEED, ir.DataType.DOUBLE, dims_of(of))
    (gradient,) = backward(model, writer, of, seed, [at]).gradients
    tokens = xp.permute_dims(xp.take(gradient, range(1, T), axis=1), (0, 2, 1))
    writer.output(xp.mean(xp.reshape(tokens, (-1, D, 2, 4)), (2, 3), keepdims=True), "mean")
    writer.sweep()
    return model


@pytest.mark.parametrize("form", FORMS)
def test_the_mean_over_tokens_is_taken_before_the_products(form) -> None:
    samples = 1 if form == "turned" else 2
    x, seed = numbers(samples, T, D), numbers(samples, 3)
    whole = ir.to_proto(add_gradients(opened(of_form(form, IN_PARTS)), of="y", wrt="n").ir_model)
    (gradient,) = evaluated(whole, [GRADIENT], x=x, **{SEED: seed})
    model = of_folded_tokens(form)
    (mean,) = evaluated(ir.to_proto(model.ir_model), ["mean"], x=x, **{SEED: seed})
    np.testing.assert_allclose(mean[..., 0, 0], gradient[:, 1:].mean(axis=1), rtol=1e-9, atol=1e-12)
    shapes = [dims_of(n.outputs[0]) for n in model.graph if (n.name or "").startswith("onnxcam/")]
    assert mean.shape == (samples, D, 1, 1)
    if form not in ("attention", "einsum"):  # which have rules of their own for the product of one query
        assert not [s for s in shapes if T in s and {D, 3 * D} & {*s}]


def test_a_mean_of_doubled_values_is_found_at_once() -> None:
    """Each step is met twice by each that follows."""
    steps = "".join(f"s{k + 1} = Add(s{k}, s{k})\n" for k in range(40))
    model = opened(
        proto(f"s0 = MatMul(x, w_in)\n{steps}all = MatMul(s40, w_head)\ny = ReduceSum<keepdims = 0>(all, ones)")
    )
    writer = Writer(model.graph, model.opset)
    seed = writer.input(SEED, ir.DataType.DOUBLE, ["N", 3])
    (gradient,) = backward(model, writer, model.values["y"], seed, [model.values["x"]]).gradients
    tokens = xp.permute_dims(xp.take(gradient, range(1, T), axis=1), (0, 2, 1))
    writer.output(xp.mean(xp.reshape(tokens, (-1, D, 2, 4)), (2, 3), keepdims=True), "mean")
    y = numbers(1, 3)
    (mean,) = evaluated(ir.to_proto(model.ir_model), ["mean"], x=numbers(1, T, D), **{SEED: y})
    expected = WEIGHTS["w_in"] @ (WEIGHTS["w_head"] @ y[0]) * 2.0**40
    np.testing.assert_allclose(mean[0, :, 0, 0], expected, rtol=1e-12)


MEANT = {  # from x to y, and samples and tokens
    "a token and the sum over all": (
        """a = MatMul(x, w_in)
        first = Gather<axis = 1>(a, zero)
        of_one = MatMul(first, w_head)
        all = ReduceSum<keepdims = 0>(a, tokens_and_channels)
        of_all = Unsqueeze(all, ones)
        y = Add(of_one, of_all)""",
        (D, T),
    ),
    "a product of two tokens at a time": (
        """a = Reshape(x, pairs)
        b = MatMul(a, w_down)
        c = Reshape(b, halves)
        d = Tanh(c)
        e = Reshape(d, joined)
        f = MatMul(e, w_head)
        y = ReduceSum<keepdims = 0>(f, ones)""",
        (1, T - 1),
    ),
}


@pytest.mark.parametrize(("text", "dims"), MEANT.values(), ids=MEANT)
def test_a_mean_where_zeros_are_stretched_or_rows_are_not_tokens(text, dims) -> None:
    """A number for all channels stays the mean of as many; a matrix of pairs is none of tokens."""
    samples, tokens = dims
    source = opened(proto(text, batch="N" if samples > 1 else 1, tokens=tokens))
    x, y = numbers(samples, tokens, D), numbers(samples, 3)
    whole = ir.to_proto(add_gradients(source, of="y", wrt="x").ir_model)
    (expected,) = evaluated(whole, ["onnxcam/grad/x"], x=x, **{SEED: y})
    model = source.clone()
    writer = Writer(model.graph, model.opset)
    seed = writer.input(SEED, ir.DataType.DOUBLE, dims_of(model.values["y"]))
    (gradient,) = backward(model, writer, model.values["y"], seed, [model.values["x"]]).gradients
    turned = xp.permute_dims(xp.take(gradient, range(tokens - 8, tokens), axis=1), (0, 2, 1))
    writer.output(xp.mean(xp.reshape(turned, (-1, D, 2, 4)), (2, 3), keepdims=True), "mean")
    (mean,) = evaluated(ir.to_proto(model.ir_model), ["mean"], x=x, **{SEED: y})
    np.testing.assert_allclose(mean[..., 0, 0], expected[:, -8:].mean(axis=1), rtol=1e-9, atol=1e-12)


# Parts of a value, read one by one


@pytest.mark.parametrize(
    ("parts", "joined"),
    [
        ([(0, 2), (2, 6)], True),
        ([(4, 6), (0, 4)], True),
        ([(0, 4), (2, 6)], False),
        ([(0, 2), (3, 6)], False),
        ([(0, 2), (2, 5)], False),
    ],
)
def test_cotangents_of_parts_are_joined_where_they_tile_the_value(parts, joined) -> None:
    text = "".join(
        f"a{k} = Slice(x, from{k}, to{k}, axis)\nb{k} = Mul(a{k}, c{k})\nd{k} = ReduceSum<keepdims = 0>(b{k})\n"
        for k in range(len(parts))
    )
    graph = onnx.parser.parse_graph(f"g (double[2,6] x) => (double y) {{{text} y = Add(d0, d1)}}")
    held, expected = {"axis": np.asarray([1])}, np.zeros((2, 6))
    for k, (start, stop) in enumerate(parts):
        held |= {f"from{k}": np.asarray([start]), f"to{k}": np.asarray([stop]), f"c{k}": numbers(2, stop - start)}
        expected[:, start:stop] += held[f"c{k}"]
    graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in held.items())
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    graded = add_gradients(opened(made), of="y", wrt="x")
    feeds = {"x": numbers(2, 6), SEED: np.ones(())}
    np.testing.assert_allclose(evaluated(ir.to_proto(graded.ir_model), ["onnxcam/grad/x"], **feeds)[0], expected)
    assert ("Concat" in {n.op_type for n in graded.graph}) is joined


# The rules: rows of an operator's output are what it gives of the rows of its inputs that the rule names.

RULE_CASES = [
    (node("Slice", ["a", "i0", "i2", "i1"]), [(5, 3, 6)], {"i0": [0], "i2": [2], "i1": [1]}, 2),
    (node("Slice", ["a", "i0", "i9"]), [(5, 3, 6)], {"i0": [0, 1, 0], "i9": [9, 3, 2**40]}, 0),
    (node("Gather", ["a", "places"], axis=1), [(5, 3, 6)], {"places": [[2, 0], [1, 1]]}, 0),
    (node("Gather", ["a", "places"], axis=1), [(5, 3, 6)], {"places": [[2, 0], [1, 1]]}, 3),
    (node("Gather", ["a", "places"], axis=-3), [(5, 3, 6)], {"places": 2}, 1),
    (node("Split", ["a"], ["y", "z"], axis=-1, num_outputs=2), [(5, 3, 6)], {}, 0),
    (node("Concat", ["a", "b"], axis=-1), [(5, 4), (5, 2)], {}, 0),
    (node("Add", ["a", "b"]), [(2, 5, 1), (5, 3)], {}, 1),
    (node("Mul", ["a", "b"]), [(2, 5, 3), (1, 1)], {}, 1),
    (node("Where", ["c", "a", "b"]), [(5, 3), (3,)], {"c": np.eye(5, 3) > 0}, 0),
    (node("PRelu", ["a", "b"]), [(5, 3), (5, 1)], {}, 0),
    (node("Clip", ["a", "low"]), [(5, 3)], {"low": -0.1}, 1),
    (node("Softmax", ["a"]), [(2, 5, 3)], {}, 1),
    (node("LogSoftmax", ["a"], axis=1), [(2, 5, 3)], {}, 2),
    (node("LayerNormalization", ["a", "b"], axis=-2), [(5, 3, 4), (3, 4)], {}, 0),
    (node("RMSNormalization", ["a", "b"]), [(2, 5, 4), (4,)], {}, 1),
    (node("ReduceMean", ["a", "axes"]), [(2, 5, 4)], {"axes": [-1]}, 1),
    (node("ReduceSum", ["a", "axes"], keepdims=0), [(2, 5, 4)], {"axes": [0]}, 0),
    (node("ReduceMax", ["a", "axes"], keepdims=0), [(2, 5, 4)], {"axes": [1]}, 1),
    (node("ReduceMin", ["a", "axes"]), [(2, 5, 4)], {"axes": [2, 0]}, 1),
    (node("ReduceL2", ["a", "axes"]), [(2, 5, 4)], {"axes": [2]}, 1),
    (node("ReduceSumSquare", ["a", "axes"]), [(2, 5, 4)], {"axes": [-1]}, 1),
    (node("Transpose", ["a"], perm=[1, 2, 0]), [(2, 5, 4)], {}, 0),
    (node("Transpose", ["a"]), [(2, 5, 4)], {}, 0),
    (node("Squeeze", ["a", "axes"]), [(1, 2, 1, 5)], {"axes": [0, -2]}, 1),
    (node("Unsqueeze", ["a", "axes"]), [(2, 5)], {"axes": [0, -1]}, 2),
    (node("Reshape", ["a", "shape"]), [(2, 5, 12)], {"shape": [1, 2, 5, 3, -1]}, 2),
    (node("Reshape", ["a", "shape"]), [(6, 2, 3)], {"shape": [6, 6]}, 0),
    (node("Flatten", ["a"]), [(5, 2, 3)], {}, 0),
    (node("MatMul", ["a", "b"]), [(2, 5, 3), (3, 4)], {}, 1),
    (node("MatMul", ["a", "b"]), [(5, 3), (2, 3, 4)], {}, 1),
    (node("MatMul", ["a", "b"]), [(2, 5, 3), (3, 4)], {}, 2),
    (node("MatMul", ["a", "b"]), [(6, 2, 3), (6, 3, 4)], {}, 0),
    (node("MatMul", ["a", "b"]), [(6, 2, 3), (1, 3, 4)], {}, 0),
    (node("Gemm", ["a", "b", "c"], transA=1, alpha=0.5), [(3, 5), (3, 4), (5, 1)], {}, 0),
    (node("Gemm", ["a", "b", "c"]), [(5, 3), (3, 4), (4,)], {}, 0),
    (node("Einsum", ["a", "b"], equation="bqhd,bkhd->bhqk"), [(2, 5, 3, 4), (2, 7, 3, 4)], {}, 2),
    (node("Einsum", ["a", "b"], equation="bqhd,bkhd->bhqk"), [(2, 5, 3, 4), (2, 7, 3, 4)], {}, 3),
    (node("Attention", ["a", "b", "b"]), [(1, 2, 5, 4), (1, 2, 7, 4)], {}, 2),
    (node("Attention", ["a", "b", "b", "c"]), [(1, 2, 5, 4), (1, 2, 7, 4), (5, 7)], {}, 2),
    (node("Attention", ["a", "b", "b", "c"]), [(1, 2, 5, 4), (1, 2, 7, 4), (1, 7)], {}, 2),
]
POINTWISE = sorted(o for o in ROW_RULES if ROW_RULES[o] is ROW_RULES["Neg"])
ONE_INPUT = [o for o in POINTWISE if o not in ("Add", "Sub", "Mul", "Div", "Pow", "Where", "PRelu", "Clip", "Cast")]
NEWEST = {"Swish": 24}


def one_node(made: onnx.NodeProto, arrays: dict[str, np.ndarray], constants: set[str], opset: int) -> Model:
    known = onnx.helper.np_dtype_to_tensor_dtype
    inputs = [helper.make_tensor_value_info(n, known(a.dtype), a.shape) for n, a in arrays.items()]
    outputs = [helper.make_tensor_value_info(n, onnx.TensorProto.DOUBLE, None) for n in made.output]
    held = [numpy_helper.from_array(arrays[n], n) for n in constants]
    graph = helper.make_graph([made], "g", [i for i in inputs if i.name not in constants], outputs, held)
    return opened(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10))


@pytest.mark.parametrize("case", RULE_CASES, ids=lambda c: f"{c[0].op_type}{c[3]}")
def test_rows_of_the_output_are_computed_from_the_rows_of_the_inputs(case) -> None:
    made, shapes, constants, axis = case
    arrays = {n: numbers(*s) for n, s in zip("abc", shapes, strict=False)}
    arrays |= {n: np.asarray(v) for n, v in constants.items()}
    model = one_node(made, arrays, set(constants), 23)
    raw = next(iter(model.graph))
    needs = ROW_RULES[made.op_type](raw, Rows(axis, 1, 3))
    assert any(needs)
    whole = ReferenceEvaluator(made, opsets={"": 23}).run(None, arrays)
    cut = {n: arrays[n] for n in made.input}
    for name, rows in zip(made.input, needs, strict=True):
        if rows is not None:
            cut[name] = np.take(arrays[name], range(rows.start, rows.stop), rows.axis)
    if made.op_type in ("Reshape", "Flatten"):
        made, cut = node("Reshape", ["a", "to"]), {"a": cut["a"], "to": np.asarray(target(raw, Rows(axis, 1, 3)))}
    found = ReferenceEvaluator(made, opsets={"": 23}).run(None, cut)
    for a, b in zip(found, whole, strict=True):
        np.testing.assert_allclose(a, np.take(b, [1, 2], axis), rtol=1e-12)


@pytest.mark.parametrize("op_type", ONE_INPUT)
def test_operators_that_work_element_by_element(op_type) -> None:
    opset = NEWEST.get(op_type, 22)
    a = {"a": np.abs(numbers(2, 5)) + 0.1}
    model = one_node(node(op_type, ["a"]), a, set(), opset)
    assert ROW_RULES[op_type](next(iter(model.graph)), Rows(1, 1, 3)) == [Rows(1, 1, 3)]
    whole, part = (evaluated(ir.to_proto(model.ir_model), ["y"], a=x)[0] for x in (a["a"], a["a"][:, 1:3]))
    np.testing.assert_allclose(part, whole[:, 1:3], rtol=1e-12)


def test_every_rule_has_a_case() -> None:
    assert {made.op_type for made, *_ in RULE_CASES} | set(POINTWISE) == set(ROW_RULES)


@pytest.mark.parametrize(
    ("made", "shapes", "constants", "axis"),
    [
        (node("Slice", ["a", "i0", "i2", "i1"]), [(5, 3, 6)], {"i0": [0], "i2": [2], "i1": [1]}, 1),
        (node("Slice", ["a", "i0", "i2", "i1", "i3"]), [(5, 3, 6)], {"i0": [0], "i2": [3], "i1": [1], "i3": [2]}, 0),
        (node("Gather", ["a", "places"], axis=1), [(5, 3, 6)], {"places": [[2, 0], [1, 1]]}, 1),
        (node("Gather", ["a", "places"], axis=1), [(5, 3, 6)], {"places": [[2, 0], [1, 1]]}, 2),
        (node("Split", ["a"], ["y", "z"], axis=1, num_outputs=2), [(5, 4, 6)], {}, 1),
        (node("Concat", ["a", "b"], axis=0), [(5, 4), (3, 4)], {}, 0),
        (node("Softmax", ["a"]), [(2, 5, 3)], {}, 2),
        (node("LayerNormalization", ["a", "b"], axis=-2), [(5, 3, 4), (3, 4)], {}, 1),
        (node("ReduceMean", ["a"]), [(2, 5, 4)], {}, 1),
        (node("Unsqueeze", ["a", "axes"]), [(2, 5)], {"axes": [0]}, 0),
        (node("Reshape", ["a", "shape"]), [(2, 5, 12)], {"shape": [10, 12]}, 0),
        (node("Reshape", ["a", "shape"]), [(2, 5, 12)], {"shape": [5, 2, 12]}, 0),
        (node("MatMul", ["a", "b"]), [(5, 3), (3,)], {}, 0),
        (node("Gemm", ["a", "b"]), [(5, 3), (3, 4)], {}, 1),
        (node("Einsum", ["a"], equation="...ij->...ji"), [(5, 3, 4)], {}, 0),
        (node("Einsum", ["a"], equation="iij->ij"), [(5, 5, 4)], {}, 0),
        (node("Attention", ["a", "b", "b"], is_causal=1), [(1, 2, 7, 4), (1, 2, 7, 4)], {}, 2),
        (node("Attention", ["a", "b", "b"]), [(1, 2, 5, 4), (1, 2, 7, 4)], {}, 3),
    ],
    ids=lambda v: v.op_type if isinstance(v, onnx.NodeProto) else "",
)
def test_axes_along_which_an_operator_mixes_are_refused(made, shapes, constants, axis) -> None:
    arrays = {n: numbers(*s) for n, s in zip("ab", shapes, strict=False)}
    arrays |= {n: np.asarray(v) for n, v in constants.items()}
    raw = next(iter(one_node(made, arrays, set(constants), 23).graph))
    with pytest.raises(MixesError):
        ROW_RULES[made.op_type](raw, Rows(axis, 1, 3))


@pytest.mark.parametrize(
    ("made", "constants", "rows"),
    [
        (node("Gather", ["a", "i"], axis=1), {"i": 2}, Rows(1, 2, 3)),
        (node("Gather", ["a", "i"], axis=-1), {"i": [-1]}, Rows(2, 5, 6)),
        (node("Gather", ["a", "i"], axis=1), {"i": [0, 1]}, None),
        (node("Gather", ["a", "i"], axis=1), {"i": [[0]]}, None),
        (node("Slice", ["a", "i", "j", "k"]), {"i": [-2], "j": [2**62], "k": [-1]}, Rows(2, 4, 6)),
        (node("Slice", ["a", "i", "j"]), {"i": [0, 1, 0], "j": [5, 2, 9]}, Rows(1, 1, 2)),
        (node("Slice", ["a", "i", "j"]), {"i": [0, 1, 0], "j": [4, 2, 9]}, None),
        (node("Slice", ["a", "i", "j"]), {"i": [0], "j": [5]}, None),
        (node("Slice", ["a", "i", "j", "k", "s"]), {"i": [4], "j": [0], "k": [0], "s": [-1]}, None),
        (node("Neg", ["a"]), {}, None),
    ],
)
def test_what_picks_rows(made, constants, rows) -> None:
    arrays = {"a": numbers(5, 3, 6)} | {n: np.asarray(v) for n, v in constants.items()}
    raw = next(iter(one_node(made, arrays, set(constants), 23).graph))
    if rows is None:
        with pytest.raises(MixesError):
            picked(raw)
    else:
        assert picked(raw) == rows
        taken = ReferenceEvaluator(made, opsets={"": 23}).run(None, arrays)[0]
        named = np.take(arrays["a"], range(rows.start, rows.stop), rows.axis)
        assert np.array_equal(named.reshape(-1), taken.reshape(-1))


def test_rows_that_are_chosen_at_run_time_are_not_picked() -> None:
    made = node("Gather", ["a", "i"], axis=1)
    raw = next(iter(one_node(made, {"a": numbers(5, 3), "i": np.asarray(1)}, set(), 23).graph))
    with pytest.raises(MixesError):
        picked(raw)
