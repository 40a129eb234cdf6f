"""The class `InternVL` of the public API. Its methods are tasks, each written in a module of `runtime/tasks`."""

from internvl_edge.runtime.tasks import captions, classification, connect, matching, retrieval, texts, video
from internvl_edge.runtime.tasks.chat import chat as answers
from internvl_edge.runtime.tasks.chat import generate as chat_ids
from internvl_edge.runtime.tasks.chat import prompts, score
from internvl_edge.runtime.tasks.opened import OpenedGraphs


class InternVL(OpenedGraphs):
    """An opened bundle: each graph is loaded when it is first needed. Threads may share it; `with` closes it.

    Pictures are paths, PIL pictures or uint8 arrays, or `pixel_values` as floats ``[B, 3, S, S]``; texts are strings,
    or `input_ids` int64 ``[T, L]``. Every method takes a `Monitor`, which gets the times and progress of this call
    alone.
    """

    tokenize = texts.tokenize
    encode_image = retrieval.encode_image
    encode_text = retrieval.encode_text
    similarity = retrieval.similarity
    encode_video = video.encode_video
    classify = classification.classify
    classifier = classification.classifier
    match = matching.match
    caption = captions.caption
    stream = captions.stream
    generate = captions.generate
    continue_from = captions.continue_from
    connect = connect.connect
    chat = answers.chat
    chat_stream = answers.chat_stream
    chat_prompt = prompts.chat_prompt
    generate_chat = chat_ids.generate_chat
    score = score.score
