"""The command that serves bundles."""

from typing import TYPE_CHECKING, Any

from mcdrop.cli.flags import flagged
from mcdrop.cli.options import read_settings
from mcdrop.settings import Settings

if TYPE_CHECKING:
    from mcdrop.inference.catalogue import Catalogue


@flagged(Settings)
def serve(**flags: Any) -> None:
    """Serve the bundles of a folder over HTTP. Every setting is a flag, a variable, or a line of the --config file.

    A flag wins over a variable, and a variable over the file. The key of MCDROP_API_KEY has no flag, since other users
    of the machine could read it.

    Example: `mcdrop serve --bundles ./bundles --port 8000`
    """
    from mcdrop.cli import console
    from mcdrop.observability import logs
    from mcdrop.server.app import create_app
    from mcdrop.server.memory import freeze_heap, share_heap
    from mcdrop.server.run import run_server

    settings = read_settings(Settings, flags)
    logs.configure(settings)
    share_heap()

    def ready(catalogue: "Catalogue") -> None:
        freeze_heap()
        console.announce(settings, catalogue)

    run_server(create_app(settings, on_ready=ready), settings)
