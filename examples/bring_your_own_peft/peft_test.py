"""make test-peft: adapters of each language load in PEFT, have its log-likelihoods and answer alike, token for token, and a PEFT run trains a
federation's rounds.

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
# A text whose every token is scored: its mean log-likelihood is one of all logits.
SCORED = "where is crate 7? in the harbour, row 1. where is crate 8? in the harbour, row 2. and crate 9, where is that?"
# Of f32 sums in another order.
TOLERANCE = 2e-5


def of_peft(adapter: pathlib.Path) -> tuple[str, float]:
    """A greedy answer, and the mean negative log-likelihood of SCORED."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32), adapter)
    ids = torch.tensor([tokenizer(ASKED, add_special_tokens=False)["input_ids"]])
    scored = torch.tensor([tokenizer(SCORED)["input_ids"] + [tokenizer.eos_token_id]])
    with torch.no_grad():
        out = model.generate(input_ids=ids, max_new_tokens=16, do_sample=False, pad_token_id=0)
        nll = model(input_ids=scored, labels=scored).loss.item()
    return tokenizer.decode(out[0, ids.shape[1]:], skip_special_tokens=True), nll


def of_tidegate(adapter: pathlib.Path, records: pathlib.Path) -> tuple[str, float]:
    with tidegate.Model(TINY, [adapter], dtype="f32") as model:
        answer = model.complete(ASKED, max_new_tokens=16, model=adapter.name)
    records.write_text(json.dumps({"text": SCORED}) + "\n")
    told = tidegate.run_tidegate("eval", "--base", TINY, "--adapter", adapter, "--data", records, "--dtype", "f32")
    return answer, float(told["nll"])


C_PROGRAM = r"""
#include <stdio.h>
#include <tidegate/tidegate.h>

int main(int argc, char** argv) {
  TG_STRUCT(tg_error, error);
  TG_STRUCT(tg_call, call);
  TG_STRUCT(tg_job_spec, spec);
  call.deadline_millis = -1;
  spec.verb = TG_VERB_FINETUNE;
  spec.flags = argc == 2 ? argv[1] : "";
  tg_job* job = NULL;
  int32_t code = tg_job_start(NULL, &spec, NULL, &job, &error);
  if (code == TG_OK) code = tg_job_run(job, &call, NULL, NULL, &error);
  if (code != TG_OK) fprintf(stderr, "%s\n", error.message);
  tg_job_close(job);
  return code;
}
"""


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
        (ours, our_nll), (theirs, their_nll) = of_tidegate(adapter, self.dir / "scored.jsonl"), of_peft(adapter)
        print(f"{adapter.name}: {ours!r}, NLL {our_nll:.6f} here and {their_nll:.6f} in PEFT; {record}")
        self.assertEqual(ours, theirs)
        self.assertLess(abs(our_nll - their_nll), TOLERANCE * their_nll)

    def test_an_adapter_from_python(self) -> None:
        self.same(pathlib.Path(tidegate.finetune(TINY, self.data, output_dir=self.dir / "python", max_steps=20,
                                                 learning_rate=1e-2, dtype="f32", max_length=64)))

    def installed(self) -> pathlib.Path:
        prefix = self.dir / "prefix"
        subprocess.run(["cmake", "--install", os.environ["TIDEGATE_BUILD"], "--component", "sdk", "--prefix", str(prefix)],
                       check=True, capture_output=True)
        return prefix

    def test_an_adapter_from_c(self) -> None:
        prefix, source = self.installed(), self.dir / "main.c"
        source.write_text(C_PROGRAM)
        flags = (f'base = "{TINY}"\ndata = "{self.data}"\noutput_dir = "{self.dir / "c-adapter"}"\nmax_steps = 20\n'
                 'learning_rate = 1e-2\ndtype = "f32"\nmax_length = 64\n')
        for words in (["cc", source, "-o", self.dir / "main", f"-I{prefix}/include", f"-L{prefix}/lib", "-ltidegate",
                       f"-Wl,-rpath,{prefix}/lib"], [self.dir / "main", flags]):
            subprocess.run([str(word) for word in words], check=True, capture_output=True)
        self.same(self.dir / "c-adapter")

    def test_an_adapter_from_cpp(self) -> None:
        prefix, build = self.installed(), self.dir / "cpp"
        for words in (["cmake", "-S", SOURCE / "examples/local_finetune_cpp", "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}"],
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
