"""Tidegate: language models learn from records that may not leave the country.

``finetune`` trains an adapter here, behind walls; ``Site`` is a site's daemon, its datasets, jobs,
gate and ledger; ``Model`` answers with a base and its adapters; ``Coordinator`` is a federation's; ``GateCallback`` sends a transformers run's
adapter through the gate. docs/sdk.md.
"""

from . import _native
from ._errors import Error
from ._jobs import Evaluation, Job, Step, finetune, run_tidegate, start_finetune
from ._model import Answer, Model
from ._site import Adapter, Dataset, Event, Round, Site, SiteStatus, Verdict
from ._coordinator import Coordinator, EnrolledSite, FederatedJob, PublishedBase, RoundEvent
from .callback import GateCallback

__version__: str = _native.version()

__all__ = [
    "Adapter", "Answer", "Coordinator", "Dataset", "EnrolledSite", "Error", "Evaluation", "Event",
    "FederatedJob", "GateCallback", "Job", "Model", "PublishedBase", "Round", "RoundEvent", "Site",
    "SiteStatus", "Step", "Verdict", "finetune", "run_tidegate", "start_finetune",
]
