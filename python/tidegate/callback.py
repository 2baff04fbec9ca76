"""A hook that sends a transformers/PEFT training run's adapter through the gate.

Transformers is not needed to import it: the class has the methods that ``Trainer`` calls, and no
base class. Five lines beside an ordinary run::

    site = tidegate.Site("/srv/site")
    for round in site.rounds("round"):
        model = PeftModel.from_pretrained(base, round.adapter, is_trainable=True)
        Trainer(model=model, args=args, train_dataset=records,
                callbacks=[GateCallback(round)]).train()
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

from ._site import Round, Verdict


class GateCallback:
    """A ``transformers.TrainerCallback`` by its methods: when training ends, the model's adapter is
    saved and submitted for ``round``; ``verdict`` is what the gate made of it."""

    def __init__(self, round_: Round, *, weight: int | None = None, timeout: float = -1) -> None:
        """``weight``: the targets that were trained on; without one the steps times the batch."""
        self._round = round_
        self._weight = weight
        self._timeout = timeout
        self.verdict: Verdict | None = None

    def __getattr__(self, name: str) -> Any:
        # Trainer calls an on_... for each of its events, whatever its version.
        if name.startswith("on_"):
            return lambda args, state, control, **kwargs: control
        raise AttributeError(name)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Saves the adapter and submits it."""
        weight = self._weight
        if weight is None:
            weight = max(1, int(state.global_step) * int(getattr(args, "train_batch_size", 1)))
        losses = [line["loss"] for line in state.log_history if "loss" in line]
        evals = [line["eval_loss"] for line in state.log_history if "eval_loss" in line]
        with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
            kwargs["model"].save_pretrained(folder)
            self.verdict = self._round.submit(
                os.fspath(folder), weight=weight, train_loss=losses[-1] if losses else 0.0,
                heldout_loss=evals[-1] if evals else 0.0, timeout=self._timeout)
        return control
