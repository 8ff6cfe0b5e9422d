"""A model behind an HTTP address, on a loopback server that speaks the protocol, or breaks it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from served import IMAGE, corners

from onnxcam import BlackBox, Endpoint
from onnxcam.errors import ModelError, OptionError, UnknownNameError
from onnxcam.image import InputSpec

pytestmark = pytest.mark.anyruntime


@pytest.fixture
def picture():
    p = np.zeros((24, 32, 3), np.uint8)
    p[:12, :16, 0], p[12:, 16:, 2] = 180, 240
    return p


def test_a_served_model_gets_the_map_of_the_same_function(server, picture):
    served = Endpoint(server.url)
    assert served.spec == InputSpec("NHWC", 3, 12, 16, np.uint8)
    found = BlackBox(served, spec=served.spec, method="occlusion", batch=7).explain(picture)
    expected = BlackBox(corners, (12, 16), method="occlusion", batch=7).explain(picture)
    np.testing.assert_allclose(found.cam, expected.cam, atol=1e-6)
    assert np.ptp(found.cam) > 0.05
    assert (found.class_index, found.to_dict()["model"]) == (1, server.url)
    first = server.requests[0]["inputs"][0]
    assert (first["name"], first["datatype"], first["shape"]) == ("image", "UINT8", [1, 12, 16, 3])
    assert max(r["inputs"][0]["shape"][0] for r in server.requests) == 7


def test_floats_arrive_exactly_in_the_models_layout(server):
    server.metadata["inputs"] = [{"name": "image", "datatype": "FP32", "shape": [-1, 3, -1, -1]}]
    seen = []
    server.model = lambda x: seen.append(x) or x.mean((2, 3))
    served = Endpoint(server.url)
    assert served.spec == InputSpec("NCHW", 3, None, None, np.float32)
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    np.testing.assert_allclose(served(x), x.mean((2, 3)), rtol=1e-6)
    np.testing.assert_array_equal(seen[0], x)


def test_a_fixed_batch_is_filled_up(server):
    server.metadata["inputs"] = [{**IMAGE, "shape": [4, 12, 16, 3]}]
    x = np.random.default_rng(0).integers(0, 255, (6, 12, 16, 3), dtype=np.uint8)
    np.testing.assert_allclose(Endpoint(server.url)(x), corners(x), rtol=1e-6)
    assert [r["inputs"][0]["shape"][0] for r in server.requests] == [4, 4]


def test_headers_versions_and_the_address_of_infer(server):
    Endpoint(f"{server.url}/infer", headers={"Authorization": "Bearer x"})(np.zeros((1, 12, 16, 3), np.uint8))
    assert all(h["Authorization"] == "Bearer x" for h in server.headers)
    assert Endpoint("https://host/prefix/v2/models/a/versions/2/").url == "https://host/prefix/v2/models/a/versions/2"


def test_an_output_is_chosen_by_name_or_by_its_shape(server):
    boxes = {"name": "boxes", "datatype": "FP32", "shape": [1, 5, 4], "data": [0.0] * 20}
    more = {"name": "other", "datatype": "FP32", "shape": [1, 3], "data": [[1, 2, 3]]}
    pooled = {"name": "pooled", "datatype": "FP32", "shape": [1, 2, 1, 1], "data": [[[[0.25]], [[0.5]]]]}
    x = np.zeros((1, 12, 16, 3), np.uint8)
    server.answers = [(200, None), (200, json.dumps({"outputs": [boxes, pooled]}))]
    assert Endpoint(server.url)(x).tolist() == [[0.25, 0.5]]
    server.answers = [(200, None), (200, json.dumps({"outputs": [boxes, pooled, more]}))]
    assert Endpoint(server.url, output="other")(x).tolist() == [[1, 2, 3]]
    assert server.requests[-1]["outputs"] == [{"name": "other"}]
    server.answers = [(200, None), (200, json.dumps({"outputs": [boxes, pooled, more]}))]
    with pytest.raises(ModelError, match=r"which output.*boxes FP32.*pooled.*other"):
        Endpoint(server.url)(x)
    server.answers = [(200, None), (200, json.dumps({"outputs": [more]}))]
    with pytest.raises(UnknownNameError, match=r"scores.*other"):
        Endpoint(server.url, output="scores")(x)


@pytest.mark.parametrize(
    ("inputs", "error", "say"),
    [
        ([{"name": "x", "datatype": "FP32", "shape": [-1, 10]}], ModelError, r"no input takes.*x FP32 \[-1, 10\]"),
        ([{"name": "x", "datatype": "BYTES", "shape": [-1, 3, 8, 8]}], ModelError, "x BYTES"),
        ([], ModelError, "its inputs: none"),
        ([{"name": "n", "datatype": "INT64", "shape": [-1, 1]}, IMAGE], OptionError, "more than a picture: n INT64"),
    ],
)
def test_models_that_take_no_picture_are_refused(server, inputs, error, say):
    server.metadata["inputs"] = inputs
    with pytest.raises(error, match=say):
        _ = Endpoint(server.url).spec


def test_a_named_input_that_is_not_there_is_refused(server):
    with pytest.raises(UnknownNameError, match=r"'pixels'.*image"):
        _ = Endpoint(server.url, input="pixels").spec


@pytest.mark.parametrize("url", ["localhost:8000/v2/models/a", "http://host/", "http://host/v2/models/", "file:///etc"])
def test_an_address_of_no_model_is_refused(url):
    with pytest.raises(OptionError, match="http://HOST:PORT/v2/models/NAME"):
        Endpoint(url)


@pytest.mark.parametrize("settings", [{"timeout": 0}, {"retries": -1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(OptionError, match="timeout="):
        Endpoint("http://host/v2/models/a", **settings)


def test_a_fault_of_the_server_is_asked_again_and_a_refusal_is_not(server):
    x = np.zeros((1, 12, 16, 3), np.uint8)
    served = Endpoint(server.url, retries=2)
    assert served.input.name == "image"
    server.answers = [(503, "busy"), (500, "busy")]
    assert served(x).shape == (1, 2)
    assert len(server.requests) == 3
    server.answers = [(500, '{"error": "out of memory"}')] * 3
    with pytest.raises(ModelError, match=r"500.*out of memory"):
        served(x)
    assert len(server.requests) == 6
    server.answers = [(400, '{"error": "unexpected shape"}'), (400, "<html>" + "x" * 900)]
    with pytest.raises(ModelError, match=r"400 Bad Request: unexpected shape$"):
        served(x)
    with pytest.raises(ModelError, match=r"<html>x{294} \.\.\.$"):
        served(x)
    assert len(server.requests) == 8


def test_an_unknown_model_is_told(server):
    with pytest.raises(ModelError, match=r"404.*no such model"):
        _ = Endpoint(server.url + "s").spec


def test_silence_and_absence_are_told(server):
    served = Endpoint(server.url, timeout=0.1, retries=0)
    assert served.input.name == "image"
    server.answers = [(200, 0.4)]
    with pytest.raises(ModelError, match=r"no answer within 0\.1 s"):
        served(np.zeros((1, 12, 16, 3), np.uint8))
    with pytest.raises(ModelError, match=r"asked 2 times: .*refused"):
        _ = Endpoint("http://127.0.0.1:9/v2/models/a", retries=1).spec


@pytest.mark.parametrize(
    ("text", "say"),
    [
        ("<html>", "no JSON"),
        ("{}", "KeyError: 'outputs'"),
        ('{"outputs": []}', "Its outputs: none"),
        ('{"outputs": [{"name": "s", "datatype": "FP32", "shape": [1, 2], "data": [1]}]}', "reshape"),
        ('{"outputs": [{"name": "s", "datatype": "FP32", "shape": [1, 2], "data": ["a", "b"]}]}', "could not convert"),
        (
            '{"outputs": [{"name": "s", "datatype": "FP32", "shape": [3, 2], "data": [1, 2, 3, 4, 5, 6]}]}',
            r"\(1, classes",
        ),
        ("[1]", "TypeError"),
    ],
)
def test_answers_that_break_the_protocol_are_refused(server, text, say):
    served = Endpoint(server.url)
    assert served.input.name == "image"
    server.answers = [(200, text)]
    with pytest.raises(ModelError, match=say):
        served(np.zeros((1, 12, 16, 3), np.uint8))


@pytest.mark.parametrize("text", ['{"name": "a"}', "[]", '{"inputs": [{"name": "x"}], "outputs": []}'])
def test_metadata_that_are_none_are_refused(server, text):
    server.answers = [(200, text)]
    with pytest.raises(ModelError, match="not with a model's metadata"):
        _ = Endpoint(server.url).spec


def test_scores_that_are_no_numbers_are_refused(server, picture):
    served = Endpoint(server.url)
    server.model = lambda x: np.full((len(x), 2), np.nan)
    with pytest.raises(ModelError, match="NaN or infinite"):
        BlackBox(served, spec=served.spec, method="occlusion").explain(picture)
    server.answers = [(200, '{"outputs": [{"name": "s", "datatype": "FP32", "shape": [1, 2], "data": [null, 1]}]}')]
    with pytest.raises(ModelError, match="NaN or infinite"):
        BlackBox(served, spec=served.spec, method="occlusion").explain(picture, 0)
