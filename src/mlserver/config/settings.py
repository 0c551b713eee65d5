"""The settings of mlserver.yaml, each declared once: its type, bounds, default and meaning.

What a fault says it expected, the environment's variables and the reference page come from here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    PrivateAttr,
    model_validator,
)

from mlserver.config.checks import (
    Expected,
    dotted_name,
    identifier,
    is_file,
    refused,
)
from mlserver.config.kinds import (
    Count,
    FilePath,
    Host,
    Label,
    Names,
    Pause,
    Port,
    Seconds,
    Settings,
    Texts,
    Token,
)
from mlserver.config.observability import ObservabilitySettings
from mlserver.processors import processors

if TYPE_CHECKING:
    from collections.abc import Iterator

ArtifactFormat = Literal["skops", "joblib", "pickle", "catboost", "xgboost", "lightgbm", "onnx"]

SUFFIXES: dict[str, ArtifactFormat] = {
    ".skops": "skops",
    ".joblib": "joblib",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".cbm": "catboost",
    ".json": "xgboost",
    ".ubj": "xgboost",
    ".txt": "lightgbm",
    ".onnx": "onnx",
}
RUNS_CODE: frozenset[ArtifactFormat] = frozenset({"joblib", "pickle"})
"""Formats whose files can run any code when they are loaded."""


class ManagementSettings(Settings):
    """The supervisor's own listener: probes, metrics and reload."""

    host: Host = Field(
        "127.0.0.1", description="Address to listen on; every other one is open to the network."
    )
    port: Port | None = Field(8001, description="Port; 0 takes a free one, `null` means no such listener.")
    token: Token | None = Field(
        None,
        description="Bearer token asked for by everything but probes and metrics. Without one, a listener "
        "off loopback serves only those.",
    )
    allowed_hosts: Texts = Field(
        (), description="Names accepted in the `Host` header beside loopback's own, without a port."
    )


class ServerSettings(Settings):
    """Processes, sockets and limits."""

    host: Host = Field("0.0.0.0", description="Address that predictions are served on.")  # noqa: S104
    port: Port = Field(8000, description="Port that predictions are served on; 0 takes a free one.")
    workers: Count | Literal["auto"] = Field(
        1, description='Worker processes; `"auto"` is one per CPU that the server may use.'
    )
    management: ManagementSettings = ManagementSettings()
    graceful_timeout_s: Seconds = Field(
        30.0, description="Seconds that a stopping worker has to answer what it accepted."
    )
    drain_delay_s: Pause = Field(
        0.0, description="Seconds to go on accepting after SIGTERM, while `/readyz` is 503 already."
    )
    request_timeout_s: Seconds = Field(
        30.0, description="Seconds from a request's headers to its answer; beyond them it is answered 504."
    )
    header_timeout_s: Seconds = Field(
        10.0, description="Seconds a client may take to send a request's headers; beyond them 408."
    )
    max_body_bytes: Count = Field(10 * 2**20, description="Bytes of one request body; beyond them 413.")
    max_header_bytes: Count = Field(
        32 * 2**10, description="Bytes of one request's headers; beyond them 431."
    )
    max_connections: Count = Field(10_000, description="Open connections of one worker; beyond them 503.")
    max_buffered_bytes: Count = Field(
        256 * 2**20,
        description="Bytes of bodies waiting in one worker, all connections together; beyond them 503.",
    )

    @property
    def worker_count(self) -> int:
        """Number of worker processes, ``auto`` resolved to the processors there are for this process."""
        return processors() if self.workers == "auto" else self.workers

    @model_validator(mode="after")
    def _listeners_differ(self) -> Self:
        other = self.management
        wide = {"0.0.0.0", "::"}  # noqa: S104
        if (
            self.port
            and self.port == other.port
            and (self.host == other.host or wide & {self.host, other.host})
        ):
            reason = f"{other.port} is server.port, too; expected another port, or null for no such listener"
            raise refused(("management.port", reason))
        return self


class ModelSettings(Settings):
    """What the model is called in responses, metrics and log lines."""

    name: Label = Field("model", description="Name of the model.")
    version: Label = Field(
        "0", description="Version of the model. A number is taken as it is written: `1.10` is the text 1.10."
    )


class PredictorSettings(Settings):
    """What answers: a class (`module` and `class_name`) or a model file (`artifact`)."""

    module: Annotated[str, AfterValidator(dotted_name), Expected("a module's name, without .py")] | None = (
        Field(None, description="Module of the predictor's class; the folder of the YAML file is importable.")
    )
    class_name: Annotated[str, AfterValidator(identifier), Expected("the name of a class")] | None = Field(
        None, description="The predictor's class in that module."
    )
    init_kwargs: Annotated[dict[str, Any], Expected("a mapping of names to values")] = Field(
        {}, description="Keyword arguments that the class is made with.", repr=False
    )
    artifact: FilePath | None = Field(None, description="A model file, in place of a class.")
    format: ArtifactFormat | None = Field(
        None, description="Format of the model file; `null`: by its suffix."
    )
    trusted: Texts = Field(
        (), description="Types that a skops file may hold beyond those that skops itself trusts."
    )
    allow_pickle: bool = Field(
        default=False,
        description="Load joblib and pickle files. They can run any code when loaded: only for files "
        "of people you trust.",
    )

    @property
    def artifact_format(self) -> ArtifactFormat | None:
        """The model file's format, by its suffix unless given; None for a class."""
        return self.format or (SUFFIXES.get(self.artifact.suffix.lower()) if self.artifact else None)

    @model_validator(mode="after")
    def _one_predictor(self) -> Self:
        if faults := list(self._faults()):
            raise refused(*faults)
        return self

    def _faults(self) -> Iterator[tuple[str, str]]:
        by_class = self.module is not None or self.class_name is not None
        if by_class and self.artifact is not None:
            yield "", "has both a class and an artifact; keep module and class_name, or artifact"
        elif by_class:
            yield from self._class_faults()
        elif self.artifact is not None:
            yield from self._artifact_faults(self.artifact)
        else:
            yield "", "says no predictor; expected a class (module and class_name) or a model file (artifact)"

    def _class_faults(self) -> Iterator[tuple[str, str]]:
        if self.class_name is None:
            yield "class_name", f"missing; expected the name of a class in module {self.module}"
        if self.module is None:
            yield "module", f"missing; expected the name of the module that holds {self.class_name}"
        for key in ("format", "trusted", "allow_pickle"):
            if getattr(self, key):
                yield key, "is for a model file (artifact), and this predictor is a class; remove it"

    def _artifact_faults(self, artifact: Path) -> Iterator[tuple[str, str]]:
        if self.init_kwargs:
            yield "init_kwargs", "is for a class, and this predictor is a model file (artifact); remove it"
        if not is_file(artifact):
            yield "artifact", f"no such file: {artifact}; a relative path starts at the YAML file's folder"
        if self.artifact_format is None:
            known = ", ".join(f"{suffix} ({name})" for suffix, name in SUFFIXES.items())
            yield (
                "artifact",
                f"{artifact.name} has no known suffix; expected {known}. For another, set format",
            )
        if self.artifact_format in RUNS_CODE and not self.allow_pickle:
            risk = f"{self.artifact_format} files can run any code when loaded, so {artifact.name} is refused"
            yield "artifact", f"{risk}; set allow_pickle: true if you trust its maker, or save it with skops"


class BatchingSettings(Settings):
    """Answering several waiting calls with one run of the predictor."""

    enabled: bool | None = Field(
        None, description="`null`: on for model files, off for a class unless it says `batchable = True`."
    )
    max_rows: Count = Field(64, description="Rows of one run; a call with more runs alone.")
    max_wait_ms: Annotated[float, Field(ge=0, le=60_000)] = Field(
        0.0, description="Milliseconds to wait for more calls before a run; 0 takes what is queued."
    )


class ApiSettings(Settings):
    """How requests become rows, and how many may wait."""

    adapter: Literal["auto", "records", "ndarray"] = Field(
        "auto", description="Input form that is taken; `auto` goes by each request's own."
    )
    feature_order: Names | None = Field(
        None, description="Names of the columns in the model's order. `null`: see the HTTP reference."
    )
    batching: BatchingSettings = BatchingSettings()
    concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(
        1, description="Runs at once of a predictor that is not batched."
    )
    max_queue: Count = Field(1024, description="Waiting calls of one worker; beyond them 429.")
    categorical_features: Texts = Field((), description="Columns that hold categories: text, not numbers.")

    @model_validator(mode="after")
    def _categories_are_features(self) -> Self:
        unknown = [name for name in self.categorical_features if name not in (self.feature_order or [name])]
        if unknown:
            reason = f"names {', '.join(unknown)}; expected names in feature_order"
            raise refused(("categorical_features", reason))
        return self


class Config(Settings):
    """All settings of one server."""

    server: ServerSettings = ServerSettings()
    model: ModelSettings = ModelSettings()
    predictor: PredictorSettings
    api: ApiSettings = ApiSettings()
    observability: ObservabilitySettings = ObservabilitySettings()

    _folder: Path = PrivateAttr()
    _path: Path | None = PrivateAttr()

    def model_post_init(self, context: dict[str, Any] | None, /) -> None:
        """Keep where the settings come from; relative paths were resolved there."""
        self._folder = (context or {}).get("folder", Path.cwd())
        self._path = (context or {}).get("path")

    @property
    def folder(self) -> Path:
        """Absolute folder of the YAML file: where relative paths start and the predictor's module is."""
        return self._folder

    @property
    def path(self) -> Path | None:
        """Absolute path of the YAML file; None for settings made in Python."""
        return self._path
