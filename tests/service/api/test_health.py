import logging
import shutil

import pytest

from mcdrop.settings import Settings
from tests.support import service_nets as nets
from tests.support.asgi import Served, good, strict
from tests.support.fakes import OneModel


def ready(served):
    answer = served.get("/healthz/ready")
    return answer.status_code, strict(answer.content)


def test_a_server_with_models_is_live_and_ready(bundles):
    with Served(Settings(bundles=bundles)) as served:
        assert good(served.loaded().get("/healthz/live")) == {"live": True}
        assert good(served.get("/healthz/ready")) == {"ready": True, "models": ["digits/2", "heights/1"]}


def test_a_server_that_is_loading_is_live_and_not_ready(bundles, digits):
    catalogue = OneModel(digits)
    with Served(Settings(bundles=bundles), catalogue) as served:
        assert good(served.get("/healthz/live")) == {"live": True}
        assert ready(served) == (503, {"ready": False, "reason": "the bundles are being loaded."})

        catalogue.may_load.set()

        assert ready(served.loaded()) == (200, {"ready": True, "models": ["digits/2"]})


def test_a_server_that_is_loading_answers_who_does_not_wait_and_is_not_ready_yet(bundles, digits):
    catalogue = OneModel(digits)
    with Served(Settings(bundles=bundles), catalogue) as served:
        assert served.predict("digits", nets.images(1).tolist())["version"] == 2
        assert catalogue.loaded()
        assert ready(served)[0] == 503

        catalogue.may_load.set()
        assert ready(served.loaded())[0] == 200


def test_without_bundles_a_server_is_live_and_says_how_to_get_some(tmp_path):
    with Served(Settings(bundles=tmp_path / "nowhere")) as served:
        status, body = ready(served.loaded())

        assert good(served.get("/healthz/live")) == {"live": True}
    assert (status, body["ready"]) == (503, False)
    assert "mcdrop publish, mcdrop train" in body["reason"]
    assert "docker run -v $PWD/bundles:/bundles:ro" in body["reason"]


@pytest.fixture
def tampered(bundles, tmp_path):
    root = shutil.copytree(bundles, tmp_path / "bundles")
    for path in root.glob("*/*/program.json"):
        path.write_bytes(b"{}")
    return root


def test_a_server_of_tampered_bundles_is_not_ready_and_logs_every_reason(tampered, caplog):
    def warned():
        return [
            message for logger, level, message in caplog.record_tuples if (logger, level) == ("mcdrop", logging.WARNING)
        ]

    with Served(Settings(bundles=tampered)) as served:
        status, body = ready(served.loaded().until(lambda: len(warned()) >= 3))

    assert (status, body["ready"]) == (503, False)
    assert sorted(message.partition(":")[0] for message in warned()) == [
        "digits/1 is not served",
        "digits/2 is not served",
        "heights/1 is not served",
    ]


def test_a_folder_that_cannot_be_read_is_logged_and_the_server_is_not_ready(tmp_path, caplog):
    class Forbidden(OneModel):
        def refresh(self):
            raise PermissionError(13, "Permission denied", "bundles")

    with Served(Settings(bundles=tmp_path), Forbidden(predictor=None)) as served:
        status, body = ready(served.loaded().until(lambda: bool(caplog.text)))

    assert (status, body["ready"]) == (503, False)
    assert "the bundles cannot be read: [Errno 13] Permission denied" in caplog.text
