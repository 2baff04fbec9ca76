"""Chats with `tidegate serve` as any client of the OpenAI API does; nothing but Python's own library.

usage: client.py URL MODEL      URL: as serve printed it, http://127.0.0.1:8000/v1; MODEL: a base or an adapter that it has.
With a key: its file in TIDEGATE_API_KEY_FILE.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

SECONDS = 600


def ask(url: str, body: dict[str, Any] | None = None) -> Any:
    """The server's answer, opened; where it refuses, its words."""
    headers = {"Content-Type": "application/json"}
    key_file = os.environ.get("TIDEGATE_API_KEY_FILE", "")
    if key_file:
        with open(key_file, encoding="utf-8") as file:
            headers["Authorization"] = "Bearer " + file.read().strip()
    data = None if body is None else json.dumps(body).encode()
    try:
        return urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            raise RuntimeError(f"{error.code}: {json.load(error)['error']['message']}") from None


def models(url: str) -> list[str]:
    """What can be asked: the base and its adapters."""
    with ask(url + "/models") as answer:
        return [model["id"] for model in json.load(answer)["data"]]


def chat(url: str, model: str, messages: list[dict[str, str]], **more: Any) -> Iterator[str]:
    """The assistant's next turn, in pieces as the server sends them."""
    body = {"model": model, "messages": messages, "stream": True, **more}
    with ask(url + "/chat/completions", body) as answer:
        for line in answer:
            if not line.startswith(b"data: "):
                continue
            data = line[len(b"data: "):].strip()
            if data == b"[DONE]":
                return
            event = json.loads(data)
            if "error" in event:
                raise RuntimeError(event["error"]["message"])
            for choice in event["choices"]:
                text = choice["delta"].get("content")
                if text:
                    yield text


def main(url: str, model: str) -> None:
    if model not in models(url):
        sys.exit(f"there is no model {model}; there is {', '.join(models(url))}")
    messages: list[dict[str, str]] = []
    for line in sys.stdin:
        messages.append({"role": "user", "content": line.rstrip("\n")})
        said = ""
        for text in chat(url, model, messages, temperature=0, max_tokens=256):
            print(text, end="", flush=True)
            said += text
        print(flush=True)
        messages.append({"role": "assistant", "content": said})


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
