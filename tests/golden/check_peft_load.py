"""Loads an adapter folder of Tidegate with PEFT and refuses anything that PEFT has to say about it.

  python tests/golden/check_peft_load.py --base FOLDER --adapter FOLDER

FOLDER of --base is the Hugging Face folder that the adapter was trained on. An error is: every
warning while loading (but deprecations), every line that peft or transformers log then at WARNING
or above, a tensor that does not arrive bit for bit, an adapter that has no effect. Saving it again
with PEFT must keep the names, shapes and values. Exit status 0 and a line of JSON when all is well.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import warnings

import torch
from safetensors.torch import load_file

WEIGHTS = "adapter_model.safetensors"


class Collector(logging.Handler):
    def __init__(self):
        super().__init__(level=logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(f"{record.name}: {record.getMessage()}")


def differences(ours, theirs):
    """What is not the same in two sets of tensors, as lines."""
    lines = [f"tensor {name} is only in one" for name in sorted(set(ours) ^ set(theirs))]
    for name in sorted(set(ours) & set(theirs)):
        a, b = ours[name], theirs[name]
        if a.shape != b.shape or a.dtype != b.dtype or not torch.equal(a, b):
            lines.append(f"tensor {name} differs")
    return lines


def check(base, adapter):
    import peft
    import transformers

    collector = Collector()
    for name in ("", "peft", "transformers"):
        logging.getLogger(name).addHandler(collector)
    # The base's own loading may warn; only the adapter's is on trial.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, local_files_only=True
    )
    ids = torch.arange(3, 40)[None] % model.config.vocab_size
    with torch.no_grad():
        plain = model(ids).logits
    collector.lines.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = peft.PeftModel.from_pretrained(model, adapter)
    # One library telling the other that a name is going away says nothing about the folder.
    own = (DeprecationWarning, FutureWarning, PendingDeprecationWarning)
    problems = [f"warning: {w.message}" for w in caught if not issubclass(w.category, own)]
    problems += collector.lines
    with torch.no_grad():
        adapted = model(ids).logits
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = load_file(os.path.join(folder, WEIGHTS))
    file = load_file(os.path.join(adapter, WEIGHTS))
    in_model = {
        name.replace(".default.", "."): parameter.detach()
        for name, parameter in model.named_parameters()
        if ".lora_" in name
    }
    problems += [f"in the model: {line}" for line in differences(file, in_model)]
    problems += [f"saved again: {line}" for line in differences(file, saved)]
    effect = float((adapted - plain).abs().max())
    if any(bool(t.any()) for name, t in file.items() if "lora_B" in name) and effect == 0:
        problems.append("the adapter changes no logit")
    record = {"tensors": len(file), "largest_change_of_a_logit": effect, "peft": peft.__version__}
    return problems, record


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", required=True)
    parser.add_argument("--adapter", required=True)
    args = parser.parse_args()
    problems, record = check(args.base, args.adapter)
    for problem in problems:
        print(f"check_peft_load: {args.adapter}: {problem}", file=sys.stderr)
    if problems:
        return 1
    print(json.dumps(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
