"""The JSON Schema of a report, generated from the types of `isthmus.evidence.record`.

`python -m isthmus.evidence.schema` writes it anew; a test fails where the file and the types
differ.
"""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from isthmus.evidence.record import Report
from isthmus.runs.files import write_json


class _Schema(GenerateJsonSchema):
    """Leaves out titles, which repeat the names, and defaults: an entry is there or absent."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner: Any = schema["schema"]
        if inner["type"] == "nullable" and schema.get("default", ...) is None:
            return self.generate_inner(inner["schema"])
        return self.generate_inner(inner)


def generate() -> dict[str, Any]:
    """Return the schema (2020-12) that the types give."""
    body = Report.model_json_schema(by_alias=True, schema_generator=_Schema)
    parts = body["$defs"]
    names = {name: name.removesuffix("Part").lower() for name in parts}
    body["$defs"] = {names[name]: part for name, part in parts.items()}
    for name, short in names.items():
        body = _refer(body, f"#/$defs/{name}", f"#/$defs/{short}")
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        "$id": "urn:isthmus:report:1",
        **body,
        "title": "isthmus report, version 1",
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


def schema() -> dict[str, Any]:
    """Return the published schema, which every report.json satisfies."""
    file = resources.files("isthmus.evidence").joinpath("report.schema.json")
    return dict(json.loads(file.read_text(encoding="utf-8")))


if __name__ == "__main__":
    print(write_json(Path(__file__).with_name("report.schema.json"), generate()))
