"""KServe's InferenceRESTClient."""

import asyncio

import httpx
from checks import Served, check, run
from kserve import InferenceRESTClient, InferInput, InferRequest, RESTConfig
from kserve.protocol.infer_type import RequestedOutput

served = Served()


def ask(call):
    """What a call of a client gives, without blocking as it is meant."""

    async def asked():
        client = InferenceRESTClient(RESTConfig(protocol="v2"))
        try:
            return await call(client)
        finally:
            await client.close()

    return asyncio.run(asked())


def infer(sent, got, name="digits", parameters=None):
    """The outputs by name; sent and got: as bytes."""
    tensor = InferInput("x", list(served.rows.shape), "FP32")
    tensor.set_data_from_numpy(served.rows, binary_data=sent)
    request = InferRequest(
        name,
        [tensor],
        request_id="q1",
        parameters={"passes": 40, "seed": 5} if parameters is None else parameters,
        request_outputs=[RequestedOutput(output, parameters={"binary_data": got}) for output in served.wanted],
    )
    answer = ask(lambda client: client.infer(served.url, request, model_name=name))
    assert (answer.model_name, answer.id) == (name, "q1")
    return {output.name: output.as_numpy() for output in answer.outputs}


def refusal(**asked):
    """The error of what must not be answered."""
    try:
        infer(sent=False, got=False, **asked)
    except httpx.HTTPStatusError as error:
        return error
    raise AssertionError("it was answered")


@check
def health():
    assert ask(lambda client: client.is_server_live(served.url)) is True
    assert ask(lambda client: client.is_server_ready(served.url)) is True
    assert ask(lambda client: client.is_model_ready(served.url, "digits")) is True
    assert ask(lambda client: client.is_model_ready(served.url, "no")) is False


@check
def json_both_ways():
    served.assert_wanted(infer(sent=False, got=False))


@check
def bytes_both_ways():
    served.assert_wanted(infer(sent=True, got=True))


@check
def bytes_one_way():
    served.assert_wanted(infer(sent=True, got=False))
    served.assert_wanted(infer(sent=False, got=True))


@check
def refusals_are_read():
    unknown, wrong = refusal(name="no"), refusal(parameters={"passes": 0})
    assert (unknown.response.status_code, wrong.response.status_code) == (404, 400)
    assert "Request for unknown model" in str(unknown)
    assert "passes is 0" in str(wrong)


run()
