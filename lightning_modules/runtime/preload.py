"""What nearly every job imports, imported once for all jobs of a sweep (`forks`). Nothing else happens here."""

from lightning_modules.runtime import quiet

quiet.hush()

import mlflow  # noqa: E402, F401
import pytorch_lightning  # noqa: E402, F401
import transformers  # noqa: E402, F401

import lightning_modules.runtime.run  # noqa: E402, F401
