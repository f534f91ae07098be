"""Bodies that are no JSON, for the schemathesis command."""

import io

import numpy as np
import schemathesis
from hypothesis import strategies as st

ROWS = np.array([[[0, 0, 5, 13, 9, 1, 0, 0]] * 8], dtype=np.float32)


def written(write, *args, **kwargs):
    file = io.BytesIO()
    write(file, *args, **kwargs)
    return file.getvalue()


NPY, NPZ = written(np.save, ROWS), written(np.savez, x=ROWS)
BODIES = {
    "application/x-npy": [NPY, written(np.save, ROWS[:, 0]), NPY[:-1], b""],
    "application/x-npz": [NPZ, written(np.savez, y=ROWS), NPZ[:-1], b""],
    "application/octet-stream": [ROWS.tobytes(), ROWS.tobytes()[1:], b"{}", b""],
}
for name, bodies in BODIES.items():
    schemathesis.openapi.media_type(name, st.sampled_from(bodies))
