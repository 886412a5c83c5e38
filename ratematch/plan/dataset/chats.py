"""Chats: OpenAI messages a line, OpenAI batch lines, TensorRT-LLM's ``trtllm_custom``, ShareGPT's conversations.

Messages are sent as they are, to the chat API. Where they are one message of the user and nothing else, its text can
be sent to the completions API too.
"""

from __future__ import annotations

import json
from dataclasses import replace

from ratematch.plan.dataset.entry import Entry, Reading
from ratematch.plan.dataset.fields import (
    IDS,
    INPUT_LENGTHS,
    TEXTS,
    Item,
    given,
    objects,
    one_length,
    output_length,
    refuse_media,
    refuse_near_misses,
    short,
    short_name,
    string,
)
from ratematch.plan.dataset.lines import named_unit, read_line, with_timing

CHARACTERS_A_TOKEN = 4
"""How long a recorded answer is taken to be where no tokenizer counts it: characters of English a token."""

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_ASKS, _ANSWERS = ("human", "user"), ("gpt", "assistant", "chatgpt", "bing", "bard", "model")
_PATHS = ("/chat/completions", "/completions")


def read_messages(item: Item) -> Reading:
    """A line with ``messages``.

    Raises:
        ValueError: messages that cannot be sent as they are.
    """
    refuse_media(item)
    refuse_near_misses(item)
    if more := given(item, (*TEXTS, *IDS, "hash_ids")):  # also inside a batch line's body
        raise ValueError(f"has both messages and {more[0]}: which of them is the prompt?")
    if item.get("message_mode") == "delta":
        raise ValueError(
            "message_mode delta: later turns need the server's own answers, which are not put into prompts"
        )
    osl = output_length(item)
    if osl == 0:
        return Reading("OpenAI messages", left_out="have no output token")
    isl = one_length(item, INPUT_LENGTHS, "input")
    entry = with_timing(replace(_chat(item), isl=isl, osl=osl), item)
    return Reading("OpenAI messages", (entry,), named_unit(item))


def _chat(item: Item) -> Entry:
    messages = objects("messages", item["messages"])
    for position, message in enumerate(messages):
        _check_message(f"messages[{position}]", message)
    if messages[-1].get("role") == "assistant":
        raise ValueError("the last message is the assistant's; a request ends with what is to be answered")
    body = {"messages": messages}
    if item.get("tools") is not None:
        body["tools"] = objects("tools", item["tools"])
    said = [message for message in messages if message.get("content") not in ("", None)]
    alone = said[0].get("content") if len(said) == 1 and said[0].get("role") == "user" else None
    text = alone if isinstance(alone, str) and "tools" not in body else None
    return Entry(text=text, chat=_to_json(body))


def _check_message(where: str, message: Item) -> None:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        raise ValueError(f"{where} has the role {short(role)}; roles are {', '.join(_ROLES[:5])}")
    if isinstance(content, list):
        for position, part in enumerate(objects(f"{where}.content", content)):
            if part.get("type") != "text":
                raise ValueError(f"{where}.content[{position}] is {short(part.get('type'))}; only text is sent")
            string(f"{where}.content[{position}].text", part.get("text"))
    elif content is None:
        if not message.get("tool_calls") and not message.get("function_call"):
            raise ValueError(f"{where} has no content (fields: {', '.join(map(short_name, message))})")
    elif content != "":
        string(f"{where}.content", content)
    elif role == "user":
        raise ValueError(f"{where}.content is empty")


def _to_json(body: object) -> str:
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("messages hold half of a surrogate pair, which no server takes") from None
    return text


def read_batch(item: Item) -> Reading:
    """A line of OpenAI's batch API, or one of AIPerf's with a whole ``payload``: the request is inside.

    Raises:
        ValueError: a request of another API, or one that is not read.
    """
    name = "body" if item.get("body") is not None else "payload"
    body, path = item[name], item.get("url")
    if not isinstance(body, dict):
        raise ValueError(f"{name} is {short(body)}, not an object")
    if isinstance(path, str) and not path.rstrip("/").endswith(_PATHS):
        raise ValueError(f"url {short_name(path)}: only requests to {' and '.join(_PATHS)} are sent")
    method = item.get("method")
    if isinstance(method, str) and method.upper() != "POST":
        raise ValueError(f"method {short_name(method)}: requests are sent by POST")
    if body.get("n") not in (None, 1):
        raise ValueError(f"{name}.n is {short(body['n'])}: several answers a request are not measured")
    try:
        inside = read_messages(body) if body.get("messages") is not None else read_line(body)
        if inside.format not in ("OpenAI messages", "prompt lines", "trtllm-bench lines"):
            raise ValueError("has no messages and no prompt")
    except ValueError as problem:
        raise ValueError(f"{name}: {problem}") from problem
    outer = {key: value for key, value in item.items() if key != name}
    entries = tuple(
        replace(timed, osl=entry.osl or output_length(outer))
        for entry in inside.entries
        for timed in (with_timing(entry, outer),)
    )
    return Reading("OpenAI batch", entries, named_unit(outer), left_out=inside.left_out)


def read_trtllm_custom(item: Item) -> Reading:
    """``input`` with ``messages`` and ``max_tokens``: the prompt is the user's message, as TensorRT-LLM's client
    sends it; messages beside it that say something go to the chat API.

    Raises:
        ValueError: a request that is not read.
    """
    request = item["input"]
    if not isinstance(request, dict):
        raise ValueError(f"input is {short(request)}, not an object with messages (a prompt's text is called prompt)")
    if request.get("messages") is None:
        raise ValueError(f"input has no messages (fields: {', '.join(map(short_name, request)) or 'none'})")
    try:
        inside = read_messages(request)
    except ValueError as problem:
        raise ValueError(f"input: {problem}") from problem
    isl = one_length(request, ("num_tokens",), "input")
    entries = tuple(replace(entry, isl=isl) for entry in inside.entries)
    return Reading("trtllm_custom", entries, left_out=inside.left_out)


def read_sharegpt(item: Item) -> Reading:
    """The first question of a conversation; its answer says how long the output is. One that does not begin with a
    question and its answer is left out, as other clients do.

    Raises:
        ValueError: turns that are none.
    """
    refuse_media(item)
    name = "conversations" if item.get("conversations") is not None else "conversation"
    value = item.get(name)
    if value == []:
        return Reading("ShareGPT", left_out="have no question with an answer")
    turns = [_read_turn(f"{name}[{position}]", turn) for position, turn in enumerate(objects(name, value)[:2])]
    if (
        len(turns) < 2
        or turns[0][0] not in _ASKS
        or turns[1][0] not in _ANSWERS
        or not turns[0][1]
        or not turns[1][1]
    ):
        return Reading("ShareGPT", left_out="do not begin with a question and its answer")
    osl = output_length(item)
    answer = None if osl else turns[1][1]
    entry = Entry(text=string(name, turns[0][1]), osl=osl or max(1, len(turns[1][1]) // CHARACTERS_A_TOKEN))
    return Reading("ShareGPT", (replace(entry, answer=answer),))


def _read_turn(where: str, turn: Item) -> tuple[str, str]:
    role = next((turn[name] for name in ("from", "role") if isinstance(turn.get(name), str)), None)
    text = next((turn[name] for name in ("value", "content") if isinstance(turn.get(name), str)), None)
    if text is None:
        raise ValueError(f"{where} has no value (fields: {', '.join(map(short_name, turn)) or 'none'})")
    if role is None:
        raise ValueError(f"{where} does not say who speaks; it needs from, human or gpt")
    return str(role).lower(), str(text)
