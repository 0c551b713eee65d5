"""The types of settings: what each takes and how it is checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
)

from mlserver.config.checks import (
    Expected,
    absolute,
    buckets,
    collector_url,
    endpoint,
    header_token,
    host,
    label_text,
    level,
    log_target,
    metric_prefix,
    names_or_file,
    patterns,
    sequence,
    unique,
    words,
)

Port = Annotated[int, Field(ge=0, le=65535)]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Pause = Annotated[float, Field(ge=0, le=86400)]
Host = Annotated[str, AfterValidator(host), Expected("an IP address or a host name, without a port")]
Label = Annotated[str, AfterValidator(label_text), Expected("printable text of 1 to 200 characters")]
Words = Annotated[str, AfterValidator(words), Expected("text that is not empty")]
Texts = Annotated[tuple[Words, ...], BeforeValidator(sequence), Expected("a list of texts")]
Names = Annotated[
    tuple[Words, ...],
    BeforeValidator(names_or_file),
    AfterValidator(unique),
    Expected("a list of names, or the path of a JSON file that holds one"),
]
FilePath = Annotated[Path, BeforeValidator(absolute), Expected("the path of a file")]
LogFile = Annotated[
    Path,
    BeforeValidator(absolute),
    AfterValidator(log_target),
    Expected("the path of a file in a folder that exists"),
]
Token = Annotated[
    SecretStr, AfterValidator(header_token), Expected("text of visible ASCII characters without spaces")
]
Prefix = Annotated[
    str,
    AfterValidator(metric_prefix),
    Expected("the start of a Prometheus metric name: letters, digits, _ and :, no digit first"),
]
Endpoint = Annotated[
    str, AfterValidator(endpoint), Expected("a path that starts with / and is not one of the server's own")
]
Buckets = Annotated[
    dict[str, Any],
    AfterValidator(buckets),
    Expected("a mapping of a histogram's name, without the prefix, to a list of rising numbers"),
]
Patterns = Annotated[
    tuple[Words, ...],
    BeforeValidator(sequence),
    AfterValidator(patterns),
    Expected("a list of regular expressions"),
]
CollectorUrl = Annotated[
    str,
    AfterValidator(collector_url),
    Expected("an address such as http://localhost:4318"),
]
Ratio = Annotated[float, Field(ge=0, le=1)]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR"], BeforeValidator(level)]


class Settings(BaseModel):
    """A frozen group of settings."""

    model_config = ConfigDict(
        strict=True, frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )
