"""What stands in addresses: names and versions of models."""

from typing import Annotated

from fastapi import Path

from mcdrop_models.bundle.manifest import NAME_PATTERN

# Not enforced here: that there is no model of a wrong name is for the catalogue to say.
ModelName = Annotated[
    str, Path(description="A model.", examples=["digits"], json_schema_extra={"pattern": NAME_PATTERN})
]
ModelVersion = Annotated[int, Path(ge=1, description="One version of it.", examples=[1])]
