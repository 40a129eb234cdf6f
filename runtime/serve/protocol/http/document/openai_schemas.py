"""The JSON Schemas of OpenAI's bodies, whose fields are those that are read."""

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

EMBEDDINGS_FIELDS: Mapping[str, Schema] = {
    "model": {
        "type": "string",
        "description": "Whose picture features are meant, of those that GET /v1/models lists; texts have one kind.",
    },
    "input": {
        "description": "A text, a data URL or the base64 of a picture, or a list of them.",
        "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
    },
    "encoding_format": {"enum": ["float", "base64", None]},
    "dimensions": {"type": ["integer", "null"], "description": "The size that embeddings have, no other."},
    "user": {"type": ["string", "null"]},
}
"""Field of a request for embeddings -> its schema."""


def _nullable(kind: str, description: str, **limits: float) -> Schema:
    return {"type": [kind, "null"], "description": description, **limits}


_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": ["system", "developer", "user", "assistant"]},
        "content": {
            "description": "A text, or parts: texts, and of the user also pictures as data URLs.",
            "oneOf": [
                {"type": "string"},
                {
                    "type": "array",
                    "minItems": 1,
                    "items": {
                        "oneOf": [
                            {
                                "type": "object",
                                "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
                                "required": ["type", "text"],
                                "additionalProperties": False,
                            },
                            {
                                "type": "object",
                                "properties": {
                                    "type": {"const": "image_url"},
                                    "image_url": {
                                        "type": "object",
                                        "properties": {
                                            "url": {"type": "string", "description": "A data URL of a picture."},
                                            "detail": {
                                                "enum": ["auto", "high", "low", None],
                                                "description": "low: one tile.",
                                            },
                                        },
                                        "required": ["url"],
                                        "additionalProperties": False,
                                    },
                                },
                                "required": ["type", "image_url"],
                                "additionalProperties": False,
                            },
                        ]
                    },
                },
            ],
        },
    },
    "required": ["role", "content"],
}
CHAT_FIELDS: Mapping[str, Schema] = {
    "model": {"type": "string", "description": "The chat model that GET /v1/models lists."},
    "messages": {
        "type": "array",
        "items": _MESSAGE,
        "minItems": 1,
        "description": "System messages, then questions and answers in turn; the last is a question.",
    },
    "max_completion_tokens": _nullable("integer", "Tokens of the answer at most.", minimum=1),
    "max_tokens": _nullable("integer", "The same.", minimum=1),
    "stop": {
        "description": "Texts that end the answer and are not in it.",
        "oneOf": [
            {"type": ["string", "null"]},
            {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 4},
        ],
    },
    "temperature": _nullable(
        "number",
        "0: the most likely token; also without it and top_p, top_k and min_p.",
        minimum=0,
        maximum=2,
    ),
    "top_p": _nullable("number", "Probability of the tokens that are drawn from.", minimum=0, maximum=1),
    "seed": _nullable("integer", "Equal seeds give equal answers."),
    "top_k": _nullable("integer", "Number of most likely tokens that are drawn from; 0: all.", minimum=0),
    "min_p": _nullable("number", "Least probability that is drawn, of the largest.", minimum=0, maximum=1),
    "repetition_penalty": _nullable("number", "Factor by which tokens get less likely.", minimum=0.01, maximum=100),
    "logprobs": _nullable("boolean", "Whether the answer has the log-probabilities of its tokens."),
    "top_logprobs": _nullable("integer", "Most likely tokens that are listed with each token.", minimum=0, maximum=20),
    "max_tiles": _nullable("integer", "Tiles of a picture at most.", minimum=1),
    "stream": _nullable("boolean", "Whether the answer comes in chunks, as server-sent events."),
    "stream_options": {
        "type": ["object", "null"],
        "properties": {
            "include_usage": _nullable("boolean", "Whether the last chunk has the numbers of tokens."),
            "include_obfuscation": {"enum": [False, None]},
        },
        "additionalProperties": False,
    },
}
"""Field of a request for a chat completion that is honoured -> its schema."""
_USAGE: Schema = {
    "type": "object",
    "properties": {f"{kind}_tokens": {"type": "integer"} for kind in ("prompt", "completion", "total")},
    "required": ["prompt_tokens", "completion_tokens", "total_tokens"],
    "additionalProperties": False,
}
CHAT_COMPLETION: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "chat.completion"},
        "created": {"type": "integer", "description": "Seconds since 1970."},
        "model": {"type": "string"},
        "choices": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "index": {"const": 0},
                    "message": {
                        "type": "object",
                        "properties": {
                            "role": {"const": "assistant"},
                            "content": {"type": "string"},
                            "refusal": {"type": "null"},
                        },
                        "required": ["role", "content", "refusal"],
                        "additionalProperties": False,
                    },
                    "logprobs": {"type": ["object", "null"]},
                    "finish_reason": {"enum": ["stop", "length"]},
                },
                "required": ["index", "message", "logprobs", "finish_reason"],
                "additionalProperties": False,
            },
        },
        "usage": _USAGE,
    },
    "required": ["id", "object", "created", "model", "choices", "usage"],
    "additionalProperties": False,
}
