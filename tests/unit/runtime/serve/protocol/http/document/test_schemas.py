"""The schemas say what their parser takes, and refer only to each other."""

import json
import re

import pytest

from internvl_edge.runtime.serve.protocol.http.document.openai_schemas import CHAT_FIELDS, EMBEDDINGS_FIELDS
from internvl_edge.runtime.serve.protocol.http.document.schemas import SCHEMAS, reference
from internvl_edge.runtime.serve.signature import DATATYPES


def test_a_reference_leads_to_a_schema_of_the_document() -> None:
    assert reference("Error") == {"$ref": "#/components/schemas/Error"}
    assert set(re.findall(r'"#/components/schemas/(\w+)"', json.dumps(dict(SCHEMAS)))) <= SCHEMAS.keys()


@pytest.mark.parametrize("name", sorted(SCHEMAS.keys() - {"Anything"}))
def test_what_is_required_is_described(name: str) -> None:
    schema = SCHEMAS[name]
    assert schema["type"] == "object"
    assert set(schema["required"]) <= schema["properties"].keys()


def test_tensors_have_the_types_of_the_protocol() -> None:
    tensor = SCHEMAS["InferRequest"]["properties"]["inputs"]["items"]
    assert tensor["properties"]["datatype"] == {"enum": list(DATATYPES)}
    assert tensor["required"] == ["name", "datatype", "shape"], "data may stand behind the JSON"


def test_openai_s_bodies_have_the_fields_that_are_read() -> None:
    schema = SCHEMAS["EmbeddingsRequest"]
    assert list(schema["properties"]) == list(EMBEDDINGS_FIELDS)
    assert schema["additionalProperties"] is False
    assert list(SCHEMAS["ChatRequest"]["properties"]) == list(CHAT_FIELDS)


def test_fields_of_other_servers_may_come_along_in_triton_s_and_chat_bodies() -> None:
    assert [name for name, schema in SCHEMAS.items() if schema.get("additionalProperties") is True] == [
        "InferRequest",
        "Generate",
        "Generated",
        "ChatRequest",
    ]
