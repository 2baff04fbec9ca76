"""The example client against `tidegate serve` as a process: usage: client_test.py"""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import unittest.mock

SOURCE = pathlib.Path(os.environ["TIDEGATE_SOURCE"])
TINY = SOURCE / "tests/golden/tiny_llama"
sys.path.insert(0, str(SOURCE / "examples/serve_to_openai_client"))
import client  # noqa: E402

CHAT = [{"role": "user", "content": "where is crate 2?"}]


class Client(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="tidegate-client-")
        self.addCleanup(folder.cleanup)
        self.key = pathlib.Path(folder.name) / "key"
        self.key.write_text("a key of more than 16 characters\n")
        self.key.chmod(0o600)
        errors = open(pathlib.Path(folder.name) / "errors", "w+", encoding="utf-8")
        self.addCleanup(errors.close)
        serve = subprocess.Popen(
            [pathlib.Path(os.environ["TIDEGATE_PROGRAMS"]) / "tidegate", "serve", "--base", TINY, "--adapter",
             f"tuned={TINY / 'adapter_in'}", "--dtype", "f32", "--threads", "1", "--port", "0", "--api_key_file", self.key],
            stdout=subprocess.PIPE, stderr=errors, text=True)
        self.addCleanup(serve.stdout.close)
        self.addCleanup(serve.wait, 30)
        self.addCleanup(serve.terminate)
        line = serve.stdout.readline()
        if not line:
            serve.wait(30)
            errors.seek(0)
            said = errors.read()
            if "PERMISSION_DENIED" in said and "wall" in said:
                self.skipTest("this machine cannot raise the walls of a trainer: " + said[-300:])
            self.fail(said)
        self.url = next(word for word in line.split() if word.startswith("http://"))
        patch = unittest.mock.patch.dict(os.environ, TIDEGATE_API_KEY_FILE=str(self.key))
        patch.start()
        self.addCleanup(patch.stop)

    def test_it_chats_in_pieces_that_are_the_whole(self):
        self.assertEqual(client.models(self.url), ["tiny_llama", "tuned"])
        pieces = list(client.chat(self.url, "tuned", CHAT, temperature=0, max_tokens=16))
        self.assertGreater(len(pieces), 1)
        body = {"model": "tuned", "messages": CHAT, "temperature": 0, "max_tokens": 16}
        with client.ask(self.url + "/chat/completions", body) as answer:
            whole = json.load(answer)["choices"][0]["message"]["content"]
        self.assertEqual("".join(pieces), whole)
        said = io.StringIO()
        with unittest.mock.patch("sys.stdin", io.StringIO("where is crate 2?\n")), \
                contextlib.redirect_stdout(said):
            client.main(self.url, "tuned")
        self.assertTrue(said.getvalue().startswith(whole))
        with self.assertRaises(SystemExit) as caught:
            client.main(self.url, "nobody")
        self.assertIn("there is tiny_llama, tuned", str(caught.exception))
        with self.assertRaises(RuntimeError) as caught:
            list(client.chat(self.url, "tuned", [{"role": "user", "content": "x" * 2000}]))
        self.assertIn("400: ", str(caught.exception))
        with unittest.mock.patch.dict(os.environ, TIDEGATE_API_KEY_FILE=""), self.assertRaises(RuntimeError) as caught:
            client.models(self.url)
        self.assertIn("401: ", str(caught.exception))


if __name__ == "__main__":
    unittest.main()
