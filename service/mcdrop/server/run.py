"""A server from its start to its end."""

import asyncio
import os
import signal
import socket
import ssl
import sys
from contextlib import suppress

import uvicorn
from fastapi import FastAPI

from mcdrop.inference.state import ServerState
from mcdrop.settings import InvalidConfig, Settings

# As `uvicorn` itself ends, which has said why.
_NOT_STARTED = 3
# After the last refusal was made: what writing it may take.
_ANSWER_S = 2


def run_server(app: FastAPI, settings: Settings) -> None:
    """Serve until a signal ends it. Raises InvalidConfig where its certificate cannot be used."""
    server = _Server(config_of(app, settings), app.state.mcdrop)
    signal.signal(signal.SIGTERM, _end)
    with suppress(KeyboardInterrupt):  # uvicorn sends it again when its own work is done
        server.run()
    if not server.started:
        sys.exit(_NOT_STARTED)


class _Server(uvicorn.Server):
    """A server that is not ready once it was told to stop, and refuses what it could not finish in time."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self._state = state

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what runs finish; what is not finished then is answered 503."""
        self._state.ending = True
        drain_s = self._state.settings.drain_ms / 1000
        asyncio.get_running_loop().call_later(drain_s, self._state.batcher.close)
        await super().shutdown(sockets)


def config_of(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves an app. Raises InvalidConfig where the certificate cannot be used."""
    _check_certificate(settings)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=settings.drain_ms // 1000 + _ANSWER_S,  # uvicorn counts in whole seconds
        log_config=None,  # the command configures logging, and our own line of a request says more
        access_log=False,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )


def _check_certificate(settings: Settings) -> None:
    """Load them as uvicorn will, for its own complaint is a traceback that names neither file."""
    if settings.tls_certificate is None or settings.tls_key is None:
        return
    for path in (settings.tls_certificate, settings.tls_key):
        try:
            path.open("rb").close()
        except OSError as error:
            raise InvalidConfig(f"{path} cannot be read: {error.strerror}.") from error
    try:
        # Without a passphrase given here, openssl would ask the terminal for one.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            settings.tls_certificate, settings.tls_key, password=""
        )
    except (ssl.SSLError, ValueError) as error:
        raise InvalidConfig(
            f"{settings.tls_certificate} and {settings.tls_key} are no certificate and its key, both PEM and the key "
            f"without a passphrase: {error}."
        ) from error


def _end(*_: object) -> None:
    """The end of a server that was told to stop: uvicorn sends itself the signal again when its own work is done.

    What still computes has nobody left who waits for it, so it is not waited for.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
