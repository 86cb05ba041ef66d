"""The JSON Schemas of the records, generated from their types.

`python -m isthmus.evidence.schema` writes them anew; a test fails where a file and its types
differ.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from isthmus.evidence.certificate_record import Certificates
from isthmus.evidence.compression_record import Compression
from isthmus.evidence.detection_record import Detection
from isthmus.evidence.health_record import AttackHealth
from isthmus.evidence.record import Document, Report
from isthmus.runs.files import write_json

DOCUMENTS: dict[str, type[Document]] = {
    "report": Report,
    "certificate": Certificates,
    "detection": Detection,
    "compression": Compression,
    "health": AttackHealth,
}
"""The records that have a schema, by the name of its file."""


class _Schema(GenerateJsonSchema):
    """Leaves out titles, which repeat the names, and defaults: an entry is there or absent."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner: Any = schema["schema"]
        if inner["type"] == "nullable" and schema.get("default", ...) is None:
            return self.generate_inner(inner["schema"])
        return self.generate_inner(inner)


def generate(name: str = "report") -> dict[str, Any]:
    """Return the schema (2020-12) that the types of a record give."""
    body = DOCUMENTS[name].model_json_schema(by_alias=True, schema_generator=_Schema)
    parts = body["$defs"]
    names = {part: part.removesuffix("Part").lower() for part in parts}
    body["$defs"] = {names[part]: schema for part, schema in parts.items()}
    for part, short in names.items():
        body = _refer(body, f"#/$defs/{part}", f"#/$defs/{short}")
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": f"urn:isthmus:{name}:1",
        **body,
        "title": f"isthmus {name}, version 1",
    }


def _refer(schema: Any, name: str, short: str) -> Any:
    """Return a schema that refers to a part by its short name; titles, which repeat names, go."""
    if isinstance(schema, dict):
        return {
            key: _refer(entry, name, short)
            for key, entry in schema.items()
            if key != "title" or isinstance(entry, dict)
        }
    if isinstance(schema, list):
        return [_refer(entry, name, short) for entry in schema]
    return short if schema == name else schema


def schema(name: str = "report") -> dict[str, Any]:
    """Return the published schema of a record, which every report.json of its kind satisfies."""
    file = resources.files("isthmus.evidence").joinpath(f"{name}.schema.json")
    return dict(json.loads(file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    for document in DOCUMENTS:
        print(write_json(Path(__file__).with_name(f"{document}.schema.json"), generate(document)))
