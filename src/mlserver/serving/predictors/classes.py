"""Predictors that are a class of the user's: found, made, and looked at once, when loaded."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any

from mlserver.errors import ModelLoadError
from mlserver.serving.predictors.wording import a, brief, missing, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from mlserver.config import Config
    from mlserver.serving.predictors.trained import Step

_logger = logging.getLogger("mlserver.predictor")
_folders: set[str] = set()


def import_from(folder: Path) -> None:
    """Makes the modules in a folder importable, before any others."""
    entry = str(folder)
    if entry in sys.path:
        sys.path.remove(entry)
    sys.path.insert(0, entry)
    _folders.add(entry)
    importlib.invalidate_caches()


def load_object(config: Config) -> Any:
    """An object of the class that ``predictor.module`` and ``class_name`` name.

    Raises:
        ModelLoadError: the module or class is not there, or what it runs raised.
    """
    name, class_name = config.predictor.module or "", config.predictor.class_name or ""
    module = _module(name, config.folder)
    cls = getattr(module, class_name, None)
    if cls is None:
        own = [key for key, value in vars(module).items() if inspect.isclass(value)]
        raise ModelLoadError(
            f"Module {name} ({_origin(module)}) has no class {class_name}{nearest(class_name, own)}"
        )
    if not inspect.isclass(cls):
        raise ModelLoadError(f"{name}.{class_name} is {_kind(cls)}: expected a class with a predict method.")
    return _make(cls, config.predictor.init_kwargs)


def steps_of(instance: Any) -> dict[str, tuple[Step, ...]]:
    """What rows go through for each operation: ``preprocess``, the method itself, ``postprocess``.

    The outer two are the user's choice; ``postprocess`` takes what ``predict`` gives, never probabilities.
    A method that calls one of them itself keeps doing so: it is not called for it again.

    Raises:
        ModelLoadError: there is no ``predict`` that takes the rows.
    """
    if _method(instance, "predict") is None:
        raise ModelLoadError(f"{type(instance).__name__} has no predict method: expected predict(self, X).")
    steps = {"predict": _chain(instance, "preprocess", "predict", "postprocess")}
    if _method(instance, "predict_proba") is not None:
        steps["predict_proba"] = _chain(instance, "preprocess", "predict_proba")
    return steps


def feature_names_of(instance: Any) -> tuple[str, ...] | None:
    """The object's ``feature_names``, if it has any.

    Raises:
        ModelLoadError: it is not a sequence of names.
    """
    names = getattr(instance, "feature_names", None)
    if names is None:
        return None
    listed = [] if isinstance(names, str) or not hasattr(names, "__iter__") else list(names)
    if not listed or not all(isinstance(name, str) for name in listed):
        raise ModelLoadError(
            f"{type(instance).__name__}.feature_names is {names!r}: expected a list of the features' names."
        )
    return tuple(map(str, listed))


def wants_frame(instance: Any) -> bool:
    """Whether the object asks for data frames with ``input = "dataframe"``.

    Raises:
        ModelLoadError: ``input`` is something else.
    """
    wanted = getattr(instance, "input", "ndarray")
    if isinstance(wanted, str) and wanted in ("ndarray", "dataframe"):
        return wanted == "dataframe"
    raise ModelLoadError(
        f"{type(instance).__name__}.input is {wanted!r}: expected 'dataframe', or 'ndarray' as it is without."
    )


def _module(name: str, folder: Path) -> ModuleType:
    module = _import(name, folder)
    beside = folder.joinpath(*name.split("."))
    here = [path for path in (beside.with_suffix(".py"), beside / "__init__.py") if path.is_file()]
    origin = getattr(module, "__file__", None)
    if not here or (origin and Path(origin).resolve() in [path.resolve() for path in here]):
        return module
    top = name.partition(".")[0]
    if origin is None or not any(Path(origin).is_relative_to(entry) for entry in _folders - {str(folder)}):
        raise ModelLoadError(
            f"Module {name} is {_origin(module)}, which was imported before: "
            f"{here[0]} cannot have the same name. Rename it and set predictor.module."
        )
    # Another model in this process has a module of this name; it keeps it.
    for loaded in [key for key in list(sys.modules) if f"{key}.".startswith(f"{top}.")]:
        del sys.modules[loaded]
    return _import(name, folder)


def _import(name: str, folder: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{name}.".startswith(f"{error.name}."):
            files = [path.stem for path in folder.glob("*.py")]
            raise ModelLoadError(
                f"There is no module {name} in {folder}, nor is one installed{nearest(name, files)}"
            ) from error
        raise ModelLoadError(f"Module {name} imports {missing(error)}") from error
    except BaseException as error:  # a module may raise anything, SystemExit too
        raise ModelLoadError(f"Module {name} could not be imported: {brief(error)}") from error


def _make(cls: type, kwargs: dict[str, Any]) -> Any:
    try:
        signature = inspect.signature(cls)
        signature.bind(**kwargs)
    except ValueError:  # a class without a signature, made in C
        pass
    except TypeError as error:
        raise ModelLoadError(
            f"{cls.__name__}{signature} cannot be made with predictor.init_kwargs of "
            f"{', '.join(kwargs) or 'no arguments'}: {error}."
        ) from error
    try:
        return cls(**kwargs)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ModelLoadError(f"Making {a(cls.__name__)} raised {brief(error)}") from error


def _method(instance: Any, name: str) -> Step | None:
    method = getattr(instance, name, None)
    if method is None:
        return None
    if not callable(method):
        raise ModelLoadError(f"{type(instance).__name__}.{name} is {_kind(method)}: expected a method.")
    try:
        inspect.signature(method).bind(None)
    except ValueError:
        pass
    except TypeError as error:
        raise ModelLoadError(
            f"{type(instance).__name__}.{name}{inspect.signature(method)} cannot be called with one "
            f"argument, as it will be: {error}."
        ) from error
    step: Step = method
    return step


def _chain(instance: Any, before: str, operation: str, after: str = "") -> tuple[Step, ...]:
    chain = []
    for name in (before, operation, after):
        step = _method(instance, name) if name else None
        if step is not None and name != operation and mentions(type(instance), operation, name):
            _logger.info("%s.%s calls %s itself", type(instance).__name__, operation, name)
        elif step is not None:
            chain.append(step)
    return tuple(chain)


def mentions(cls: type, method: str, name: str) -> bool:
    """Whether the code of a method, or of a method of its class that it uses, speaks of ``name``."""
    seen: set[str] = set()
    todo = {method}
    while todo:
        seen |= todo
        used = {other for current in todo for other in _names_in(cls, current)}
        if name in used:
            return True
        todo = {other for other in used if callable(getattr(cls, other, None))} - seen
    return False


def _names_in(cls: type, method: str) -> set[str]:
    """The attributes and globals that a method's code uses, in the base classes too where it calls those."""
    names: set[str] = set()
    for owner in cls.__mro__:
        if method in vars(owner):
            function = inspect.unwrap(getattr(owner, method))
            names |= set(_names(getattr(function, "__code__", None)))
            if "super" not in names:
                break
    return names


def _names(code: Any) -> Iterable[str]:
    if isinstance(code, CodeType):
        yield from code.co_names
        for constant in code.co_consts:
            yield from _names(constant)


def _origin(module: ModuleType) -> str:
    return getattr(module, "__file__", None) or "built into Python"


def _kind(value: Any) -> str:
    return a(type(value).__name__)
