"""Clients that others wrote, against a listening server: the numbers they get are the engine's."""

import asyncio
import time
from dataclasses import replace

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from open_inference.openapi.client import OpenInferenceClient
from open_inference.openapi.core.api_error import ApiError
from open_inference.openapi.errors import BadRequestError, NotFoundError
from open_inference.openapi.types import InferenceRequest, RequestInput
from tritonclient.utils import InferenceServerException

from mcdrop.server.app import create_app
from mcdrop.settings import Settings
from tests.support import service_nets as nets
from tests.support.asgi import listening

ROWS = nets.images(5, seed=11)
NAMES = ("mean", "mutual_information", "passes_used")
FORMS = [(True, True), (True, False), (False, True), (False, False)]


@pytest.fixture(scope="module")
def address(bundles):
    """Of a server of its own, without the scheme, as tritonclient wants it."""
    app = create_app(Settings(bundles=bundles, watch=False))
    with listening(app) as url:
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        while not client.is_server_ready():
            time.sleep(0.005)
        client.close()
        yield url.removeprefix("http://")


@pytest.fixture
def client(address):
    with triton.InferenceServerClient(address) as found:
        yield found


@pytest.fixture(scope="module")
def wanted(digits):
    """The engine's own answer to the rows, with 40 passes of seed 5."""
    estimate = digits.predict(ROWS, replace(digits.manifest.pass_options, passes=40, seed=5))
    return {name: estimate.measure(name).numpy() for name in NAMES}


ASKED = {"passes": 40, "seed": 5}


def question(module, as_bytes, rows=ROWS):
    values = rows.numpy()
    tensor = module.InferInput("x", values.shape, "FP32")
    tensor.set_data_from_numpy(values, binary_data=as_bytes)
    return [tensor]


def asked_for(module, as_bytes, names=NAMES):
    return [module.InferRequestedOutput(name, binary_data=as_bytes) for name in names]


def assert_wanted(result, wanted, close=0.0):
    """close: how far a number may be from the engine's, of the largest one."""
    for name, values in wanted.items():
        found = result.as_numpy(name)
        assert found.dtype == values.dtype
        np.testing.assert_allclose(found, values, rtol=0, atol=close * np.abs(values).max())


@pytest.mark.parametrize(("sent", "got"), FORMS)
@pytest.mark.parametrize("encoding", [None, "gzip", "deflate"])
def test_triton_gets_the_engines_numbers(client, wanted, sent, got, encoding):
    result = client.infer(
        "digits",
        question(triton, sent),
        outputs=asked_for(triton, got),
        request_id="r1",
        parameters=ASKED,
        request_compression_algorithm=encoding,
        response_compression_algorithm=encoding,
    )

    assert_wanted(result, wanted)
    head = result.get_response()
    assert (head["id"], head["model_name"], head["model_version"]) == ("r1", "digits", "2")
    assert head["parameters"]["seed"] == 5


def test_triton_gets_all_measures_as_bytes_by_default(client, wanted):
    result = client.infer("digits", question(triton, True), parameters=ASKED)

    assert_wanted(result, wanted)
    assert len(result.get_response()["outputs"]) == 10


def test_triton_sends_levels_and_a_time(client, digits):
    parameters = {**ASKED, "quantiles": "0.1,0.9"}
    result = client.infer("digits", question(triton, True), parameters=parameters, timeout=30_000_000)

    estimate = digits.predict(ROWS, replace(digits.manifest.pass_options, passes=40, seed=5), keep_draws=True)
    np.testing.assert_array_equal(result.as_numpy("quantiles"), estimate.quantiles([0.1, 0.9]).movedim(0, 1).numpy())


def test_triton_asks_for_a_version(client):
    first, second = (client.infer("digits", question(triton, True), version, parameters=ASKED) for version in "12")

    assert not np.array_equal(first.as_numpy("mean"), second.as_numpy("mean"))


@pytest.mark.parametrize(
    ("name", "version", "inputs", "parameters", "status", "said"),
    [
        ("no", "", ROWS, {}, "404", "Request for unknown model: there is no model 'no'"),
        ("digits", "9", ROWS, {}, "404", "Request for unknown model: digits has no version 9"),
        ("digits", "", nets.features(2), {}, "400", "x takes float32 of shape"),
        ("digits", "", ROWS, {"passes": 0}, "400", "passes is 0"),
        ("digits", "", ROWS, {"n_samples": 30}, "400", "parameters.n_samples"),
    ],
)
def test_triton_reads_what_is_refused(client, name, version, inputs, parameters, status, said):
    with pytest.raises(InferenceServerException, match=said) as refused:
        client.infer(name, question(triton, True, inputs), version, parameters=parameters)

    assert refused.value.status() == status


def test_triton_reads_what_there_is(client):
    assert client.is_server_live()
    assert client.is_model_ready("digits")
    assert not client.is_model_ready("no")
    assert client.get_server_metadata()["name"] == "mcdrop"
    assert client.get_model_metadata("digits", "2")["inputs"][0]["shape"] == [-1, 8, 8]
    assert client.get_model_config("digits")["input"][0]["data_type"] == "TYPE_FP32"
    assert client.get_inference_statistics("digits", "2")["model_stats"][0]["version"] == "2"
    assert client.get_inference_statistics()["model_stats"]


def test_triton_unloads_and_loads(client):
    def states():
        return {(one["name"], one["version"]): one["state"] for one in client.get_model_repository_index()}

    assert states()["heights", "1"] == "READY"
    client.unload_model("heights")
    assert states()["heights", "1"] == "UNAVAILABLE"
    assert not client.is_model_ready("heights")
    client.load_model("heights")
    assert states()["heights", "1"] == "READY"
    with pytest.raises(InferenceServerException, match=r"parameters\.config"):
        client.load_model("heights", config="{}")


def test_triton_without_blocking(address, wanted):
    async def ask():
        async with triton_aio.InferenceServerClient(address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("digits"))["name"] == "digits"
            answers = [
                client.infer(
                    "digits",
                    question(triton_aio, sent),
                    outputs=asked_for(triton_aio, got),
                    parameters=ASKED,
                    request_compression_algorithm=encoding,
                )
                for sent, got in FORMS
                for encoding in (None, "gzip", "deflate")
            ]
            for result in await asyncio.gather(*answers):
                assert_wanted(result, wanted, close=1e-5)  # they were computed together
            with pytest.raises(InferenceServerException, match="unknown model"):
                await client.infer("no", question(triton_aio, True))
            await client.unload_model("heights")
            await client.load_model("heights")
            assert {one["state"] for one in await client.get_model_repository_index()} <= {"READY", "UNAVAILABLE"}

    asyncio.run(ask())


@pytest.fixture
def generated(address):
    with httpx.Client() as http:
        yield OpenInferenceClient(base_url=f"http://{address}", httpx_client=http)


def test_open_inference_openapi(generated, wanted):
    values = ROWS.numpy()
    tensor = RequestInput(name="x", shape=list(values.shape), datatype="FP32", data=values.reshape(-1).tolist())
    request = InferenceRequest(id="r2", parameters=ASKED, inputs=[tensor])

    generated.check_server_readiness()
    generated.check_model_readiness("digits")
    assert generated.read_server_metadata().name == "mcdrop"
    assert generated.read_model_metadata("digits").versions == ["2", "1"]
    answer = generated.model_infer("digits", request=request)

    assert (answer.id, answer.model_name, answer.model_version) == ("r2", "digits", "2")
    found = {out.name: np.reshape(out.data.__root__, out.shape) for out in answer.outputs}
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)
    with pytest.raises(NotFoundError):
        generated.check_model_readiness("no")
    with pytest.raises(ApiError, match=r"404.*Request for unknown model"):
        generated.model_infer("no", request=request)
    with pytest.raises(BadRequestError):
        generated.model_infer("digits", request=InferenceRequest(inputs=[]))
