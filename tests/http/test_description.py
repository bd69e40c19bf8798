"""/openapi.json: valid, and of everything that is served."""

import json

from google.protobuf.json_format import MessageToDict
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator, validate

from holdsvc.api.rpcs import RPCS, Effect
from tests.support.harness import Harness
from tests.support.http import RESERVE, request


async def test_the_description_is_valid_and_names_every_rpc(service: Harness) -> None:
    reply = await request(service, "/openapi.json")
    assert reply.headers["content-type"] == "application/json"
    document = reply.json
    validate(document, cls=OpenAPIV31SpecValidator)
    paths = document["paths"]
    for path, rpc in RPCS.items():
        assert ("post" in paths[path], "get" in paths[path]) == (True, rpc.effect is Effect.READ), path
        assert paths[path]["post"]["description"]
    assert {"/watch", "/events", "/livez", "/readyz"} <= paths.keys()
    again = await request(service, "/openapi.json", headers={"if-none-match": reply.headers["etag"]})
    assert (again.status, again.body) == (304, b"")


async def test_requests_and_answers_are_as_it_says(service: Harness) -> None:
    await service.create_item("seat", 5)
    document = (await request(service, "/openapi.json")).json
    schemas = json.loads(json.dumps(document["components"]["schemas"]).replace("#/components/schemas/", "#/$defs/"))

    def fits(name: str, value: object) -> bool:
        return bool(Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": schemas}).is_valid(value))

    wanted = {"lines": [{"sku": "seat", "quantity": 1}], "ttl": "600s", "metadata": {"a": "b"}}
    assert fits("ReserveRequest", wanted)
    reply = await request(service, RESERVE, wanted)
    assert fits("ReserveResponse", reply.json)
    held = await service.get(reply.json["reservation"]["reservationId"])
    assert fits("Reservation", MessageToDict(held))
    assert not fits("ReserveRequest", {**wanted, "requestid": "a"})
    assert not fits("ReserveRequest", {**wanted, "lines": []})
    assert not fits("ReserveRequest", {**wanted, "ttl": "10 minutes"})
    refused = await request(service, RESERVE, {"lines": [{"sku": "seat", "quantity": 9}]})
    assert fits("Error", refused.json)
