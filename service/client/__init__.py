"""A client in a few lines: `Client("http://127.0.0.1:8000").predict("digits", x).outputs["mutual_information"]`."""

from service.client.aio import AsyncClient as AsyncClient
from service.client.answers import Prediction as Prediction
from service.client.answers import RankedRows as RankedRows
from service.client.answers import Row as Row
from service.client.errors import ServerError as ServerError
from service.client.errors import Unreachable as Unreachable
from service.client.sync import Client as Client
