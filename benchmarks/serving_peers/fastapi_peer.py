"""FastAPI with a loop in a plain endpoint, which FastAPI runs in its pool of threads.

Run: python fastapi_peer.py NET PORT PASSES
"""

import sys

import torch
import uvicorn
from fastapi import FastAPI
from loop import living, passes, summary
from pydantic import BaseModel

NET, PORT, PASSES = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
app = FastAPI()
model = living(NET)


class Vectors(BaseModel):
    inputs: list[list[float]]


class Images(BaseModel):
    inputs: list[list[list[float]]]


Rows = Vectors if NET == "mlp" else Images


@app.get("/health")
def health() -> str:
    return "ok"


@app.post("/predict")
def predict(rows: Rows) -> dict[str, list[list[float]] | list[float]]:
    found = summary(passes(model, torch.tensor(rows.inputs), PASSES))
    return {name: values.tolist() for name, values in found.items()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT)
