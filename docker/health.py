"""Whether the server in this container lives: ends with 0, or with 1 and the reason. Imports nothing slow."""

import os
import ssl
import sys
import urllib.error
import urllib.request

secure = bool(os.environ.get("MCDROP_TLS_CERTIFICATE"))
url = f"{'https' if secure else 'http'}://127.0.0.1:{os.environ['MCDROP_PORT']}/healthz/live"
context = ssl._create_unverified_context() if secure else None  # noqa: S323 - it asks itself
handlers = [urllib.request.ProxyHandler({}), *([urllib.request.HTTPSHandler(context=context)] if secure else [])]
try:
    urllib.request.build_opener(*handlers).open(url, timeout=4)
except urllib.error.HTTPError as answer:
    if answer.code != 401:  # where health is not open, who refuses lives
        sys.exit(str(answer))
except OSError as error:
    sys.exit(str(error))
