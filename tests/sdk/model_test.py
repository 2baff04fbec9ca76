"""tidegate.Model with the real walled trainer behind it."""

import os
import pathlib
import signal
import tempfile
import unittest
import unittest.mock

import tidegate

SOURCE = pathlib.Path(os.environ["TIDEGATE_SOURCE"])
TINY = SOURCE / "tests/golden/tiny_llama"
CHAT = [{"role": "user", "content": "where is crate 2?"}]


def children_that_answer():
    """Processes of ours that are `tidegate-trainer answer`."""
    found = []
    for folder in pathlib.Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(") ")[2].split()[1])
        except OSError:
            continue
        if parent == os.getpid() and words[1:2] == [b"answer"]:
            found.append(int(folder.name))
    return found


class Answers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        try:
            cls.model = tidegate.Model(TINY, adapters={"tuned": TINY / "adapter_in"}, dtype="f32", threads=1)
        except tidegate.Error as error:
            if error.code == "PERMISSION_DENIED" and "wall" in error.message:
                raise unittest.SkipTest("this machine cannot raise the walls of a trainer: " + error.message)
            raise

    @classmethod
    def tearDownClass(cls):
        cls.model.close()

    def generated(self, prompt, *words):
        return tidegate.run_tidegate("generate", "--base", TINY, "--prompt", prompt, "--raw", "--dtype", "f32",
                                     "--threads", "1", "--max_new_tokens", "24", *words)["text"]

    def test_it_says_what_generate_says_whole_and_in_pieces(self):
        self.assertEqual(self.model.models, ["tiny_llama", "tuned"])
        prompt = "where is crate 2?"
        whole = self.model.complete(prompt, max_new_tokens=24)
        self.assertEqual(whole, self.generated(prompt))
        answer = self.model.complete(prompt, max_new_tokens=24, model="tuned", stream=True)
        pieces = list(answer)
        self.assertGreater(len(pieces), 1)
        self.assertEqual("".join(pieces), self.generated(prompt, "--adapter", TINY / "adapter_in"))
        self.assertEqual((answer.reason, answer.new_tokens), ("length", 24))
        self.assertEqual(list(answer), [])

    def test_chats_stops_and_seeds(self):
        whole = self.model.chat(CHAT, max_new_tokens=16)
        self.assertEqual("".join(self.model.chat(CHAT, max_new_tokens=16, stream=True)), whole)
        self.assertNotEqual(whole, self.model.complete(CHAT[0]["content"], max_new_tokens=16))
        stop = whole[4:6]
        self.assertEqual(self.model.chat(CHAT, max_new_tokens=16, stop=stop), whole[:whole.index(stop)])
        drawn = [self.model.chat(CHAT, max_new_tokens=16, temperature=1.5, seed=seed) for seed in (1, 1, 2)]
        self.assertEqual(drawn[0], drawn[1])
        self.assertNotEqual(drawn[0], drawn[2])

    def test_what_cannot_be_asked_is_named(self):
        with self.assertRaises(tidegate.Error) as caught:
            self.model.chat(CHAT, model="nobody")
        self.assertEqual(caught.exception.code, "NOT_FOUND")
        self.assertIn("nobody; there is tiny_llama, tuned", caught.exception.message)
        for wrong in ({"stop": ["x"] * 17}, {"top_p": 7.0}, {"temperature": float("nan")}):
            with self.assertRaises(tidegate.Error) as caught:
                self.model.chat(CHAT, **wrong)
            self.assertEqual(caught.exception.code, "INVALID_ARGUMENT")
        with self.assertRaises(tidegate.Error):
            self.model.chat([])
        with self.assertRaises(tidegate.Error) as caught:
            tidegate.Model("nowhere/to/be/found")
        self.assertEqual(caught.exception.code, "NOT_FOUND")
        self.assertIn("nowhere/to/be/found", caught.exception.message)
        self.assertTrue(self.model.complete("still there?", max_new_tokens=4))

    # Only 32 advance together: the last of 40 waits for one of them.
    def test_an_answer_is_taken_back(self):
        answers = [self.model.complete(f"question {i}", max_new_tokens=200, stream=True) for i in range(40)]
        answers[-1].cancel()
        self.assertEqual(list(answers[-1]), [])
        self.assertEqual(answers[-1].reason, "cancelled")

    def test_ctrl_c_ends_the_loading(self):
        with tempfile.TemporaryDirectory(prefix="tidegate-model-") as folder, \
                unittest.mock.patch.dict(os.environ, TIDEGATE_PROGRAMS=folder):
            loads_for_ever = pathlib.Path(folder) / "tidegate-trainer"
            loads_for_ever.write_text("#!/bin/sh\nkill -INT $PPID\nexec sleep 600\n")
            loads_for_ever.chmod(0o700)
            with self.assertRaises(KeyboardInterrupt):
                tidegate.Model(TINY)
            with self.assertRaises(tidegate.Error) as caught:
                loads_for_ever.write_text("#!/bin/sh\nexec sleep 600\n")
                tidegate.Model(TINY, timeout=0.05)
            self.assertEqual(caught.exception.code, "DEADLINE_EXCEEDED")

    def test_a_killed_process_is_an_error(self):
        before = children_that_answer()
        with tidegate.Model(TINY, name="mine", dtype="f32", threads=1) as model:
            self.assertEqual(model.models, ["mine"])
            answers = [model.complete("x", max_new_tokens=200, stream=True) for _ in range(40)]
            child, = set(children_that_answer()) - set(before)
            os.kill(child, signal.SIGKILL)
            for ask in (answers[-1].text, lambda: model.complete("x")):
                with self.assertRaises(tidegate.Error) as caught:
                    ask()
                self.assertEqual(caught.exception.code, "UNAVAILABLE")
        self.assertEqual(children_that_answer(), before)
        with self.assertRaises(tidegate.Error) as caught:
            model.complete("x")
        self.assertEqual(caught.exception.code, "FAILED_PRECONDITION")


if __name__ == "__main__":
    unittest.main()
