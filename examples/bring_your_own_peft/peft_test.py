"""make test-peft: adapters of each language load in PEFT and answer alike, token for token, and a PEFT run trains a federation's rounds.

Not in `make test`: needs torch, transformers and peft. The C++ program is the example's.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import tidegate

SOURCE = pathlib.Path(os.environ["TIDEGATE_SOURCE"])
TINY = SOURCE / "tests/golden/tiny_llama"
for example in ("federation_from_python", "bring_your_own_peft"):
    sys.path.insert(0, str(SOURCE / "examples" / example))
sys.path.insert(0, str(SOURCE / "tests/golden"))
import check_peft_load  # noqa: E402
import federation  # noqa: E402
import outside  # noqa: E402

ASKED = "where is crate 2?"


def answer_of_peft(adapter: pathlib.Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32), adapter)
    ids = torch.tensor([tokenizer(ASKED, add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        out = model.generate(input_ids=ids, max_new_tokens=16, do_sample=False, pad_token_id=0)
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True)


def answer_of_tidegate(adapter: pathlib.Path) -> str:
    told = tidegate.run_tidegate("generate", "--base", TINY, "--adapter", adapter, "--prompt", ASKED, "--raw",
                                 "--dtype", "f32", "--max_new_tokens", "16")
    return str(told["text"])


class Peft(unittest.TestCase):
    def setUp(self) -> None:
        self._dir = tempfile.TemporaryDirectory(prefix="tidegate-peft-")
        self.addCleanup(self._dir.cleanup)
        self.dir = pathlib.Path(self._dir.name)
        self.data = self.dir / "train.jsonl"
        self.data.write_text("".join(json.dumps(r) + "\n" for r in federation.invented("the harbour")))

    def same(self, adapter: pathlib.Path) -> None:
        # Nothing that PEFT has to say, every tensor bit for bit.
        problems, record = check_peft_load.check(str(TINY), str(adapter))
        self.assertEqual(problems, [])
        ours, theirs = answer_of_tidegate(adapter), answer_of_peft(adapter)
        print(f"{adapter.name}: {ours!r} {record}")
        self.assertEqual(ours, theirs)

    def test_an_adapter_from_python(self) -> None:
        self.same(pathlib.Path(tidegate.finetune(TINY, self.data, output_dir=self.dir / "python", max_steps=20,
                                                 learning_rate=1e-2, dtype="f32", max_length=64)))

    def test_an_adapter_from_cpp(self) -> None:
        build = self.dir / "cpp"
        prefix = self.dir / "prefix"
        for words in (["cmake", "--install", os.environ["TIDEGATE_BUILD"], "--component", "sdk", "--prefix", prefix],
                      ["cmake", "-S", SOURCE / "examples/local_finetune_cpp", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"],
                      ["cmake", "--build", build],
                      [build / "local_finetune", TINY, self.data, self.dir / "cpp-adapter"]):
            subprocess.run([str(word) for word in words], check=True, capture_output=True)
        self.same(self.dir / "cpp-adapter")

    def test_rounds_trained_by_peft(self) -> None:
        with federation.Federation(self.dir / "fed", TINY, {"lab": federation.invented("the lab")}) as fed:
            coordinator = fed.start()
            job = fed.submit(coordinator, federation.JOB)
            fed.site("lab").pause()
            verdicts = outside.main(str(fed.site_dir("lab")), str(TINY), str(self.data))
            self.assertEqual([v.released for v in verdicts], [True, True], verdicts)
            for _ in coordinator.watch(job.id):
                pass
            self.same(pathlib.Path(coordinator.export(job.id, self.dir / "federated")))
            found = fed.site("lab").verify_ledger(fed.key)
            self.assertEqual((found["exports"], found["verified"]), (2, True))


if __name__ == "__main__":
    unittest.main()
