"""Runs the server with uvicorn, from its start to its orderly end."""

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

# The exit code that uvicorn uses; it has printed the reason.
_NOT_STARTED = 3
# Seconds to write the last refusals.
_ANSWER_S = 2


def run_server(app: FastAPI, settings: Settings) -> None:
    """Serve until a signal ends the process.

    Args:
        app: The application.
        settings: Settings of the server.

    Raises:
        InvalidConfig: The certificate cannot be used.
    """
    server = _Server(config_of(app, settings), app.state.mcdrop)
    signal.signal(signal.SIGTERM, _end)
    with suppress(KeyboardInterrupt):  # uvicorn sends it again when its own work is done
        server.run()
    if not server.started:
        sys.exit(_NOT_STARTED)


class _Server(uvicorn.Server):
    """A server that reports itself not ready while it drains, and answers 503 to requests that it cannot finish."""

    def __init__(self, config: uvicorn.Config, state: ServerState) -> None:
        super().__init__(config)
        self._state = state

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let running requests finish; those that take longer than the drain time are answered 503."""
        self._state.ending = True
        drain_s = self._state.settings.drain_ms / 1000
        asyncio.get_running_loop().call_later(drain_s, self._state.batcher.close)
        await super().shutdown(sockets)


def config_of(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """Return the configuration of uvicorn.

    Args:
        app: The application.
        settings: Settings of the server.

    Returns:
        The configuration.

    Raises:
        InvalidConfig: The certificate cannot be used.
    """
    _check_certificate(settings)
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        timeout_graceful_shutdown=settings.drain_ms // 1000 + _ANSWER_S,  # uvicorn counts in whole seconds
        log_config=None,  # the command configures logging, and its access lines say more
        access_log=False,
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
    )


def _check_certificate(settings: Settings) -> None:
    """Load certificate and key as uvicorn will, whose own error is a traceback that names neither file."""
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
            f"{settings.tls_certificate} and {settings.tls_key} are not a certificate and its key: {error}. Both must "
            "be PEM, and the key without a passphrase."
        ) from error


def _end(*_: object) -> None:
    """End the process. uvicorn sends itself the signal again when it has finished.

    A computation that still runs has no client left, so it is not awaited.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
