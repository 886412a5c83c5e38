"""Runs inside the container: what the TensorRT-LLM there takes, printed as one line of JSON.

Nothing of ratematch is there, only the standard library and what the image has, so this file stands alone and is
started as ``python3 -c``. It asks the package's own pydantic models for their JSON schema. A module that has moved, a
class that is gone or a field that has no schema is named under ``missing``; it never ends the script. The package is
imported in a child process with a time limit, which prints to nowhere and sees no GPU.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import json
import os
import re
import signal
import sys
import tempfile
import time
import typing
from pathlib import Path

Json = typing.Dict[str, typing.Any]  # noqa: UP006 - whatever Python the image has

MARK = "RATEMATCH-SCHEMA "
FORMAT = 1
LIMIT_S = 600.0
MOST_BYTES = 4 << 20
MOST_HELP = 60_000
MOST_MODELS = 500
MOST_WORDS = 300

ARGS_MODULES = ("tensorrt_llm.llmapi.llm_args", "tensorrt_llm.llmapi", "tensorrt_llm")
DISAGG_MODULES = ("tensorrt_llm.llmapi.disagg_utils", "tensorrt_llm.serve.disagg_utils", "tensorrt_llm.llmapi")
COMMAND_MODULES = ("tensorrt_llm.commands.serve", "tensorrt_llm.serve.commands")
BLOCKS = {
    "conditional_disagg_config": "ConditionalDisaggConfig",
    "otlp_config": "OtlpConfig",
    "disagg_cluster": "DisaggClusterConfig",
}
TAGS = ("decoding_type", "algorithm")
FIRST = ("BeforeValidator", "PlainValidator", "WrapValidator")


class Answer:
    """What is known so far, and what could not be found."""

    def __init__(self) -> None:
        self.missing: list[str] = []

    def attempt(self, what: str, function: typing.Callable[[], typing.Any]) -> typing.Any:
        """The function's value; ``None``, and a line under ``missing``, when it fails."""
        try:
            return function()
        except Exception as error:
            self.missing.append(f"{what}: {_one_line(error)}")
            return None

    def find(self, name: str, modules: typing.Sequence[str]) -> typing.Any:
        """What the package calls ``name``: in one of ``modules``, else wherever its files define it."""
        errors = []
        for places in (modules, _defining(name)):
            for module in places:
                try:
                    return getattr(importlib.import_module(module), name)
                except Exception as error:
                    errors.append(f"{module}: {_one_line(error)}")
        self.missing.append(f"{name} is in none of {', '.join(modules)} ({errors[0]})")
        return None


def _defining(name: str) -> typing.Iterator[str]:
    """Modules of the package whose text defines ``name``."""
    root = Path(sys.modules["tensorrt_llm"].__file__ or "").parent
    for path in sorted(path for path in root.rglob("*.py") if os.access(path, os.R_OK)):
        if re.search(rf"^(class|def) {name}\b", path.read_text("utf-8", "replace"), re.MULTILINE):
            yield ".".join(("tensorrt_llm", *path.relative_to(root).with_suffix("").parts))


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def collect() -> Json:
    """Everything that the installed package says of itself."""
    answer = Answer()
    document: Json = {"format": FORMAT, "python": sys.version.split()[0], "missing": answer.missing}
    package = answer.attempt("tensorrt_llm", lambda: importlib.import_module("tensorrt_llm"))
    if package is None:
        return document
    document["version"] = answer.attempt("version", lambda: _version(package))
    document["path"] = answer.attempt("path", lambda: str(Path(package.__file__).absolute().parent))
    json_schema = answer.attempt("pydantic", lambda: importlib.import_module("pydantic.json_schema"))
    if json_schema is not None:
        document["pydantic"] = importlib.import_module("pydantic").VERSION
        document.update(_schemas(answer, _lenient(json_schema, answer)))
    document.update(_commands(answer))
    return document


def _version(package: typing.Any) -> str:
    version = getattr(package, "__version__", None)
    return str(version or importlib.import_module("importlib.metadata").version("tensorrt_llm"))


def _lenient(json_schema: typing.Any, answer: Answer) -> typing.Any:
    """pydantic's generator, which describes what has no JSON schema as "anything" and leaves out such defaults."""

    core = importlib.import_module("pydantic_core")

    class Lenient(json_schema.GenerateJsonSchema):  # type: ignore[misc]
        def handle_invalid_for_json_schema(self, schema: typing.Any, error_info: str) -> Json:
            return {}

        def encode_default(self, dft: typing.Any) -> typing.Any:
            try:
                return super().encode_default(dft)
            except Exception:
                raise core.PydanticSerializationError("it has no JSON form") from None

        def emit_warning(self, kind: typing.Any, detail: str) -> None:
            if len(answer.missing) < MOST_WORDS and kind != "non-serializable-default":
                answer.missing.append(f"{kind}: {' '.join(detail.split())[:200]}")

    return Lenient


def _schemas(answer: Answer, generator: typing.Any) -> Json:
    found: Json = {}
    args = answer.find("TorchLlmArgs", ARGS_MODULES)
    if args is not None:
        found["worker"] = answer.attempt("TorchLlmArgs", lambda: _worker(args, generator, answer))
        found["models"] = answer.attempt("models", lambda: _models(args)) or {}
        removed = answer.attempt("removed arguments", lambda: _removed(args))
        found["models"].setdefault(args.__name__, {}).setdefault("reads", []).extend(removed or [])
    found["orchestrator"] = answer.attempt("orchestrator", lambda: _orchestrator(answer, generator))
    blocks = {}
    for key, name in BLOCKS.items():
        block = answer.find(name, DISAGG_MODULES)
        if block is not None:
            blocks[key] = answer.attempt(name, lambda block=block: _of_type(block, generator))  # type: ignore[misc]
    found["blocks"] = {key: block for key, block in blocks.items() if block is not None}
    return found


def _worker(args: typing.Any, generator: typing.Any, answer: Answer) -> Json:
    """The schema of the whole model; else field by field."""
    try:
        schema: Json = args.model_json_schema(by_alias=True, mode="validation", schema_generator=generator)
        return schema
    except Exception as error:
        answer.missing.append(f"schema of {args.__name__} as a whole: {_one_line(error)}")
    properties, definitions = {}, {}
    for name, field in args.model_fields.items():
        part = answer.attempt(name, lambda field=field: _of_type(field.annotation, generator)) or {}  # type: ignore[misc]
        definitions.update(part.pop("$defs", {}))
        properties[_keys_of(name, field, False)[0]] = part
    forbids = args.model_config.get("extra") == "forbid"
    return {
        "type": "object",
        "properties": properties,
        "$defs": definitions,
        **({"additionalProperties": False} if forbids else {}),
    }


def _of_type(annotation: typing.Any, generator: typing.Any) -> Json:
    adapter = importlib.import_module("pydantic").TypeAdapter(annotation)
    schema: Json = adapter.json_schema(by_alias=True, mode="validation", schema_generator=generator)
    if dataclasses.is_dataclass(annotation) and not hasattr(annotation, "__pydantic_fields__"):
        # Made from a map with ``**``, so a key that is no field is an error.
        for part in (schema, *schema.get("$defs", {}).values()):
            if part.get("type") == "object":
                part.setdefault("additionalProperties", False)
    return schema


def _models(root: typing.Any) -> Json:
    """Of every model that ``root`` reaches what its schema does not say: other names of keys, validators that see a
    value first, and the class attribute that a union is told apart by."""
    models: Json = {}
    waiting, twice = [root], set()
    seen: set[typing.Any] = set()
    while waiting and len(seen) < MOST_MODELS:
        model = waiting.pop()
        if model in seen:
            continue
        seen.add(model)
        if model.__name__ in models:  # two classes of one name have longer names in the schema
            twice.add(model.__name__)
        models[model.__name__] = _model(model)
        for field in model.model_fields.values():
            waiting.extend(_classes(field.annotation))
    return {name: model for name, model in models.items() if name not in twice and model}


def _classes(annotation: typing.Any, depth: int = 0) -> typing.Iterator[typing.Any]:
    if isinstance(annotation, type) and hasattr(annotation, "model_fields"):
        yield annotation
    if depth < 8:
        for part in typing.get_args(annotation):
            yield from _classes(part, depth + 1)


def _model(model: typing.Any) -> Json:
    by_name = bool(model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name"))
    keys = {}
    before: set[str] = set()
    reads: set[str] = set()
    for name, field in model.model_fields.items():
        names = _keys_of(name, field, by_name)
        if names != [name]:
            keys[names[0]] = names
        if any(type(part).__name__ in FIRST for part in field.metadata):
            before.add(name)
    decorators = model.__pydantic_decorators__
    for kind in ("field_validators", "validators", "model_validators", "root_validators"):
        for decorator in getattr(decorators, kind, {}).values():
            if getattr(decorator.info, "mode", "before") == "after":
                continue
            words = _words(decorator.func)
            fields = getattr(decorator.info, "fields", words & set(model.model_fields))
            before.update(model.model_fields if "*" in fields else fields)
            reads |= words
    for parent in model.__mro__:
        if "__init__" in parent.__dict__ and not parent.__module__.startswith(("pydantic", "builtins", "abc")):
            reads |= _words(parent.__dict__["__init__"])
    tags = {tag: getattr(model, tag, None) for tag in TAGS if tag not in model.model_fields}
    entry: Json = {
        "keys": keys,
        "before": sorted(before),
        "reads": sorted(reads - set(model.model_fields))[:MOST_WORDS],
        "tags": {tag: value for tag, value in tags.items() if isinstance(value, str)},
    }
    return {name: value for name, value in entry.items() if value}


def _keys_of(name: str, field: typing.Any, by_name: bool) -> list[str]:
    """The keys that give a field its value, the one in the schema first."""
    alias = field.validation_alias if field.validation_alias is not None else field.alias
    if alias is None:
        return [name]
    choices = list(getattr(alias, "choices", [alias]))
    names = [str(getattr(choice, "path", [choice])[0]) for choice in choices]
    return list(dict.fromkeys([*names, *([name] if by_name else [])]))


def _words(function: typing.Any) -> set[str]:
    """Names that stand in a function as text: the keys that it may look at."""
    function = getattr(function, "__func__", function)
    code = getattr(inspect.unwrap(function) if callable(function) else function, "__code__", None)
    waiting, words = [code] if code is not None else [], set()
    while waiting:
        for constant in waiting.pop().co_consts:
            for part in constant if isinstance(constant, (tuple, frozenset)) else (constant,):
                if isinstance(part, str) and part.isidentifier():
                    words.add(part)
                elif hasattr(part, "co_consts"):
                    waiting.append(part)
    return words


def _removed(args: typing.Any) -> list[str]:
    """Arguments that are gone and still taken, which newer releases list beside the model."""
    there = vars(sys.modules[args.__module__])
    lists = [value for name, value in there.items() if name.endswith("_REMOVED_ARGS")]
    return sorted({word for words in lists if isinstance(words, (set, frozenset, dict)) for word in words})


def _orchestrator(answer: Answer, generator: typing.Any) -> Json | None:
    """The keys of the orchestrator's file: the model of it where there is one, else the function that takes them."""
    model = answer.find("DisaggServerConfig", DISAGG_MODULES)
    if model is not None and hasattr(model, "model_fields") and "context_servers" in model.model_fields:
        return _of_type(model, generator)
    function = answer.find("extract_disagg_cfg", DISAGG_MODULES)
    if function is None:
        return None
    hints = answer.attempt("types of extract_disagg_cfg", lambda: typing.get_type_hints(function)) or {}
    schema: Json = {"type": "object", "properties": {}, "$defs": {}, "additionalProperties": False}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            schema["additionalProperties"] = True
            continue
        part = answer.attempt(name, lambda name=name: _of_type(hints.get(name, typing.Any), generator)) or {}  # type: ignore[misc]
        schema["$defs"].update(part.pop("$defs", {}))
        if parameter.default is None or isinstance(parameter.default, (str, int, float)):
            part["default"] = parameter.default
        schema["properties"][name] = part
    return schema


def _commands(answer: Answer) -> Json:
    """Options and help of every command, and the keys of the worker's file that the command itself reads."""
    serve = answer.find("serve", COMMAND_MODULES)
    if serve is None:
        return {}
    module = sys.modules[getattr(serve, "callback", serve).__module__]
    group = next((value for value in vars(module).values() if hasattr(value, "commands")), None)
    commands = answer.attempt("commands", lambda: _help(group))
    read = answer.attempt("keys that serve reads", lambda: _keys_read(module))
    return {"commands": commands or {}, "serve_reads": read or []}


def _help(group: typing.Any) -> Json:
    click = importlib.import_module("click")
    commands = {}
    for name, command in group.commands.items():
        options = [word for option in command.params for word in (*option.opts, *option.secondary_opts)]
        text = command.get_help(click.Context(command, info_name=name))
        plain = "".join(sign for sign in text if sign.isprintable() or sign == "\n")
        commands[str(name)] = {"options": sorted(options), "help": plain[:MOST_HELP]}
    return commands


def _keys_read(module: typing.Any) -> list[str]:
    """Keys that the module takes out of the worker's file before the model sees it: ``extra.pop("key")``,
    ``take(extra, "key")``, where the map's name speaks of arguments."""
    keys: set[str] = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        name, file = (called.attr, called.value) if isinstance(called, ast.Attribute) else ("", None)
        if isinstance(called, ast.Name) and node.args:
            name, file = called.id, node.args[0]
        if "pop" in name and isinstance(file, ast.Name) and "extra" in file.id:
            words = [part.value for part in node.args if isinstance(part, ast.Constant)]
            keys.update(word for word in words[:1] if isinstance(word, str) and word.isidentifier())
    return sorted(keys)


def main() -> int:
    """Ask in a child that may be ended, and print what it wrote."""
    limit_s = float(sys.argv[1]) if len(sys.argv) > 1 else LIMIT_S
    handle, path = tempfile.mkstemp(prefix="ratematch-schema-")
    os.close(handle)
    child = os.fork()
    if child == 0:
        _child(path)
    why = _wait(child, limit_s)
    try:
        with Path(path).open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    finally:
        Path(path).unlink()
    if len(content) > MOST_BYTES:
        why, content = f"its schema has more than {MOST_BYTES >> 20} MiB", b""
    text = content.decode("ascii", "replace") or json.dumps(
        {"format": FORMAT, "missing": [why or "it wrote nothing"]}
    )
    sys.stdout.write(f"\n{MARK}{text}\n")
    sys.stdout.flush()
    return 0 if content else 1


def _child(path: str) -> None:
    try:
        os.setsid()
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        # NaN and infinities are no JSON: they go as text.
        document = json.loads(json.dumps(collect(), default=str), parse_constant=str)
    except BaseException as error:
        document = {"format": FORMAT, "missing": [_one_line(error)]}
    try:
        Path(path).write_text(json.dumps(document, sort_keys=True), encoding="ascii")
    finally:
        os._exit(0)


def _wait(child: int, limit_s: float) -> str | None:
    """Wait for the child, and end it with all of its own when it takes too long; why there is no answer."""
    deadline = time.monotonic() + limit_s
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    while time.monotonic() < deadline and not stopped:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return f"importing it ended the process by signal {status & 127}" if status & 127 else None
        time.sleep(0.02)
    for end in (os.killpg, os.kill):
        try:
            end(child, signal.SIGKILL)
        except OSError:
            continue
    os.waitpid(child, 0)
    return f"importing it took longer than {limit_s:.0f} s"


if __name__ == "__main__":
    sys.exit(main())
