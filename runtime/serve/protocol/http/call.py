"""One HTTP request with the objects that its handler needs."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request as HttpRequest

from internvl_edge.runtime.serve.observe.exchange import Exchange
from internvl_edge.runtime.serve.protocol.checks import deadline_of, usual_seconds
from internvl_edge.runtime.serve.protocol.http.body import Body, json_object
from internvl_edge.runtime.serve.protocol.http.disconnect import cancel_on_disconnect
from internvl_edge.runtime.serve.protocol.http.infer import Asked
from internvl_edge.runtime.serve.protocol.service import Service
from internvl_edge.runtime.serve.requests import Request, Response
from internvl_edge.runtime.serve.signature import Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """The argument of a path's handler."""

    http: HttpRequest
    service: Service
    exchange: Exchange
    body: Body

    def model(self) -> Signature:
        """Return the signature of the model that the path names.

        Raises:
            UnknownModelError: The model is not served.
        """
        path = self.http.path_params
        return self.service.model(self.exchange, path["model"], path.get("version", ""))

    async def json(self) -> dict[str, Any]:
        """Return the JSON object of the body; an empty object if there is no body.

        Raises:
            RefusalError: The body is no JSON object, or too large.
        """
        return json_object(await self.body.read() or b"{}", self.service.options.json_bytes)

    def request(self, signature: Signature, asked: Asked) -> Request:
        """Return the engine's request of a parsed body."""
        usual_s = usual_seconds(signature, asked.inputs, self.service.options)
        return Request(
            model=signature.name,
            inputs=asked.inputs,
            outputs=asked.outputs,
            parameters=asked.parameters,
            id=asked.id,
            client=self.exchange.client,
            deadline=deadline_of(asked.protocol_parameters, usual_s) - self.exchange.held_s,
            trace=self.exchange.trace.header,
        )

    async def infer(self, request: Request) -> Response:
        """Return the engine's response.

        Raises:
            RefusalError: There is no answer, for the reason that the error gives.
            ClientDisconnectedError: The client has disconnected.
        """
        return await cancel_on_disconnect(self.http.receive, self.service.infer(self.exchange, request))

    async def infer_rows(self, model: str, inputs: dict[str, np.ndarray], parameters: dict[str, str]) -> np.ndarray:
        """Run the model of this name and return its first output."""
        signature = self.service.model(self.exchange, model)
        asked = Asked(inputs=inputs, parameters=parameters)
        response = await self.infer(self.request(signature, asked))
        return response.outputs[signature.outputs[0].name]
