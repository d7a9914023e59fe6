"""From `module:attribute` to an `App`.

Owns: the import of the user's code, and one line for each way in which that goes wrong.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
import traceback
from types import ModuleType

from engine.app import App
from engine.errors import ConfigError, StartupError

DEMO = "engine.demo:app"

_TARGET = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def load_app(target: str) -> App:
    """Import `module` from the current directory or the environment, and take `attribute` of it.

    Raises:
        ConfigError: it has not the form `module:attribute`, or the app's own settings or routes are wrong.
        StartupError: the import fails, or what is found is not an `App`.
    """
    if _TARGET.fullmatch(target) is None:
        raise ConfigError("TARGET", target, f"write module:attribute, such as {_suggestion(target)}")
    module_name, _, attribute = target.partition(":")
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    found: object = _import(module_name)
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise StartupError(f"{module_name} has no {attribute!r}; {_apps_of(sys.modules[module_name])}")
        found = getattr(found, name)
    if not isinstance(found, App):
        kind = type(found).__name__
        raise StartupError(
            f"{target} is not an engine.App but a value of type {kind}; {_apps_of(sys.modules[module_name])}"
        )
    return found


def _suggestion(target: str) -> str:
    """What was probably meant."""
    module = target.partition(":")[0].removesuffix(".py").strip("./\\").replace("/", ".").replace("\\", ".")
    return f"{module}:app" if _TARGET.fullmatch(f"{module}:app") else "myapp:app"


def _apps_of(module: ModuleType) -> str:
    apps = [name for name, value in vars(module).items() if isinstance(value, App)]
    if apps:
        return f"it has {', '.join(f'{module.__name__}:{name}' for name in apps)}"
    return "make one there: app = engine.App()"


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ConfigError:
        raise  # of a route or a setting, and it says itself what to change
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if name != missing and not name.startswith(f"{missing}."):
            hint = f"it needs {missing}, which is not installed{_where(error)}"
            raise StartupError(f"importing {name} failed: {hint}") from None
        near = difflib.get_close_matches(name, _modules_here(), 1)
        hint = f"did you mean {near[0]}?" if near else f"run from the folder that holds {name.partition('.')[0]}.py"
        raise StartupError(f"there is no module {missing}; {hint}") from None
    except (Exception, SystemExit) as error:  # a module may call sys.exit when it is imported
        detail = f": {error}" if str(error) else ""
        raise StartupError(f"importing {name} failed with {type(error).__name__}{detail}{_where(error)}") from None


def _where(error: BaseException) -> str:
    """The innermost place in the user's code, for one line of output."""
    if isinstance(error, SyntaxError):
        return ""  # its own text tells
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    theirs = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    here = [frame for frame in theirs if frame.filename.startswith(os.getcwd())]  # rather than a library's own code
    place = (here or theirs)[-1:]
    return f" ({place[0].filename}, line {place[0].lineno})" if place else ""


def _modules_here() -> list[str]:
    return [entry.removesuffix(".py") for entry in os.listdir() if entry.endswith(".py")]
