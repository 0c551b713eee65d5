"""mlserver.yaml → frozen settings. A fault names its place in the file, what is there and what is expected.

``settings`` declares them, ``checks`` says what values must be beyond their type, ``schema`` is the same as
a table; ``document`` reads the file's text, ``environment`` the variables, ``faults`` and ``wording`` say
what is wrong, and ``load`` puts them together. ``surroundings`` looks at what is outside of the file.
"""

from mlserver.config.load import dump_config, load_config, make_config
from mlserver.config.settings import (
    ApiSettings,
    ArtifactFormat,
    BatchingSettings,
    Config,
    ManagementSettings,
    ModelSettings,
    ObservabilitySettings,
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
    "PredictorSettings",
    "ServerSettings",
    "dump_config",
    "load_config",
    "make_config",
]
