"""The Python package as built, with the real programs: a finetune, the README's quickstart as written, the hook."""

import json
import os
import pathlib
import re
import struct
import tempfile
import threading
import types
import unittest

import tidegate
from tidegate import _flags

SOURCE = pathlib.Path(os.environ["TIDEGATE_SOURCE"])
TINY = SOURCE / "tests/golden/tiny_llama"


def write_records(path, count=8):
    path.write_text("".join(json.dumps({"prompt": f"code {i} is in ", "completion": f"row {i % 3}"}) + "\n"
                            for i in range(count)))


def read_safetensors(folder):
    """Header and bytes of a PEFT folder's weights."""
    raw = (pathlib.Path(folder) / "adapter_model.safetensors").read_bytes()
    size = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8:8 + size]), raw[8 + size:]


def walls_missing(error):
    return isinstance(error, tidegate.Error) and error.code == "PERMISSION_DENIED" and "wall" in error.message


class Here(unittest.TestCase):
    def setUp(self):
        self._dir = tempfile.TemporaryDirectory(prefix="tidegate-py-")
        self.addCleanup(self._dir.cleanup)
        self.dir = pathlib.Path(self._dir.name)
        before = os.getcwd()
        os.chdir(self.dir)
        self.addCleanup(os.chdir, before)
        write_records(self.dir / "train.jsonl")

    def run(self, result=None):
        return super().run(result)

    def guarded(self, ask):
        try:
            return ask()
        except tidegate.Error as error:
            if walls_missing(error):
                self.skipTest("this machine cannot raise the walls of a trainer: " + error.message)
            raise


class Finetune(Here):
    def test_a_finetune_is_a_peft_folder_and_tells_its_steps(self):
        told = []

        def train():
            job = tidegate.start_finetune(TINY, "train.jsonl", eval_data="train.jsonl", output_dir="ft", max_steps=4,
                                          logging_steps=1, eval_steps=2, packing=False, dtype="f32", threads=1,
                                          per_device_train_batch_size=2, max_length=64, learning_rate=5e-3,
                                          lora_target_modules=["q_proj", "v_proj"])
            told.extend(job)
            return job.result()

        result = self.guarded(train)
        steps = [one for one in told if isinstance(one, tidegate.Step)]
        self.assertEqual([step.step for step in steps], [1, 2, 3, 4])
        self.assertEqual(steps[0].total_steps, 4)
        self.assertLess(steps[3].loss, steps[0].loss)
        evaluations = [one for one in told if isinstance(one, tidegate.Evaluation)]
        self.assertEqual({one.step for one in evaluations}, {2, 4})
        self.assertEqual(result["steps"], 4)
        header, _ = read_safetensors("ft")
        self.assertTrue(any(".q_proj.lora_A" in name for name in header))

    def test_an_error_has_the_code_and_the_words_of_the_program(self):
        with self.assertRaises(tidegate.Error) as caught:
            tidegate.finetune(TINY, "nowhere.jsonl")
        self.assertEqual(caught.exception.code, "NOT_FOUND")
        self.assertIn("nowhere.jsonl", caught.exception.message)
        with self.assertRaises(tidegate.Error) as caught:
            tidegate.finetune(TINY, "train.jsonl", learning_rat=1)
        self.assertIn("learning_rat", caught.exception.message)

    def test_a_job_is_stopped_by_another_thread(self):
        def train():
            job = tidegate.start_finetune(TINY, "train.jsonl", output_dir="ft", max_steps=100000, logging_steps=1,
                                          packing=False, dtype="f32", threads=1, max_length=64, per_device_train_batch_size=2)
            for told in job:
                if isinstance(told, tidegate.Step):
                    threading.Thread(target=job.stop).start()
                    break
            return job.result()

        with self.assertRaises(tidegate.Error) as caught:
            self.guarded(train)
        self.assertEqual(caught.exception.code, "CANCELLED")
        self.assertIn("saved", caught.exception.message)

    def test_flags_are_toml(self):
        text = _flags.to_toml({"a": True, "b": 2, "c": 1e-4, "d": 'x"\n\x7f', "e": ["q", "v"], "f": None,
                               "g": {"q_proj": 8}, "h": pathlib.Path("/x")})
        import tomllib
        self.assertEqual(tomllib.loads(text), {"a": True, "b": 2, "c": 1e-4, "d": 'x"\n\x7f', "e": ["q", "v"],
                                               "g": {"q_proj": 8}, "h": "/x"})


class Readme(Here):
    def test_the_quickstart_runs_as_it_is_written(self):
        block = re.search(r"```python\n(.*?)```", (SOURCE / "README.md").read_text(), re.DOTALL)
        self.assertIsNotNone(block, "README.md has no Python quickstart")
        (self.dir / "smollm2-135m-instruct").symlink_to(TINY)
        self.guarded(lambda: exec(compile(block.group(1), "README.md", "exec"), {}))
        self.assertTrue((self.dir / "ft" / "adapter_model.safetensors").is_file())


class Hook(Here):
    def test_the_callback_submits_what_a_trainer_saves(self):
        submitted = {}

        class Round:
            def submit(self, folder, **kwargs):
                submitted.update(kwargs, file=os.listdir(folder))
                return tidegate.Verdict(1, True, False, "")

        class Model:
            def save_pretrained(self, folder):
                (pathlib.Path(folder) / "adapter_model.safetensors").write_bytes(b"")

        hook = tidegate.GateCallback(Round())
        control = object()
        args = types.SimpleNamespace(train_batch_size=4)
        state = types.SimpleNamespace(global_step=8, log_history=[{"loss": 2.0}, {"eval_loss": 1.5}, {"loss": 1.0}])
        for event in ("on_init_end", "on_train_begin", "on_step_end", "on_log"):
            self.assertIs(getattr(hook, event)(args, state, control, model=Model()), control)
        self.assertIsNone(hook.verdict)
        hook.on_train_end(args, state, control, model=Model())
        self.assertTrue(hook.verdict.released)
        self.assertEqual(submitted, {"weight": 32, "train_loss": 1.0, "heldout_loss": 1.5, "timeout": -1,
                                     "file": ["adapter_model.safetensors"]})
        with self.assertRaises(AttributeError):
            hook.nothing


class Types(unittest.TestCase):
    def test_everything_public_says_what_it_is(self):
        for name in tidegate.__all__:
            thing = getattr(tidegate, name)
            self.assertTrue(thing.__doc__, name)
            for inner, value in vars(thing).items() if isinstance(thing, type) else ():
                if callable(value) and not inner.startswith("_"):
                    self.assertTrue(value.__doc__, f"{name}.{inner}")
                    self.assertIn("return", value.__annotations__, f"{name}.{inner}")


if __name__ == "__main__":
    unittest.main()
