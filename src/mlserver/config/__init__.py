"""mlserver.yaml → frozen settings. A fault names its place in the file, what is there and what is expected.

``settings`` and ``observability`` declare them, of ``kinds``; ``checks`` says what values must be beyond
their type, ``schema`` is the same as a table; ``document`` reads the file's text, ``environment`` the
variables, ``faults`` and ``wording`` say what is wrong, and ``load`` puts them together. ``surroundings``
looks at what is outside of the file.
"""

from mlserver.config.load import dump_config, load_config, make_config
from mlserver.config.observability import ObservabilitySettings, PayloadSettings, TracingSettings
from mlserver.config.settings import (
    ApiSettings,
    ArtifactFormat,
    BatchingSettings,
    Config,
    ManagementSettings,
    ModelSettings,
    PredictorSettings,
    ServerSettings,
)

__all__ = [
    "ApiSettings",
    "ArtifactFormat",
    "BatchingSettings",
    "Config",
    "ManagementSettings",
    "ModelSettings",
    "ObservabilitySettings",
    "PayloadSettings",
    "PredictorSettings",
    "ServerSettings",
    "TracingSettings",
    "dump_config",
    "load_config",
    "make_config",
]
