"""Path parameters: names and versions of models."""

from typing import Annotated

from fastapi import Path

from mcdrop_models.bundle.manifest import NAME_PATTERN

# The pattern is documented, not enforced: the catalogue reports a model that does not exist.
ModelName = Annotated[
    str, Path(description="Name of the model.", examples=["digits"], json_schema_extra={"pattern": NAME_PATTERN})
]
ModelVersion = Annotated[int, Path(ge=1, description="Version of the model.", examples=[1])]
