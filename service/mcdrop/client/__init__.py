"""The client: `Client("http://127.0.0.1:8000").predict("digits", x).outputs["mutual_information"]`."""

from mcdrop.client.aio import AsyncClient as AsyncClient
from mcdrop.client.errors import ServerError as ServerError
from mcdrop.client.errors import Unreachable as Unreachable
from mcdrop.client.responses import Prediction as Prediction
from mcdrop.client.responses import RankedRows as RankedRows
from mcdrop.client.responses import Row as Row
from mcdrop.client.sync import Client as Client
