"""The configuration: its only schema, its errors in words, and the parts of it that each rule depends on.

No torch here: the Snakefile imports this on every call.
"""

from __future__ import annotations

import hashlib
import json
import os
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from djinn.errors import BadRequest, DjinnError
from djinn.sizes import parse_bytes
from evaluation import wording
from evaluation.limits import beyond_the_budget, beyond_the_model, not_here, of_another_device, of_another_source

WHOLE = "DJINN_CONFIG"  # environment variable: the whole config of this run as JSON, for the scripts


class ConfigError(DjinnError):
    """The configuration cannot be used; one line for each thing that is wrong with it."""

    code = "config"


def _size(value: Any) -> str | int:
    try:
        parse_bytes("no size" if isinstance(value, bool) else value)
    except BadRequest:
        raise ValueError("expected a size such as 750MB or 2GiB") from None
    return value


def _whole(value: Any) -> Any:
    if isinstance(value, (bool, float)):
        raise ValueError("expected a whole number")
    return value


def _distinct(values: list[Any]) -> list[Any]:
    twice = [value for number, value in enumerate(values) if value in values[:number]]
    if twice:
        raise ValueError(f"expected each once, {twice[0]!r} is there twice")
    return values


def _port(address: str) -> str:
    if not 1 <= int(address.rpartition(":")[2]) <= 65535:
        raise ValueError("expected a port of 1 to 65535")
    return address


Whole = Annotated[int, BeforeValidator(_whole)]
Count = Annotated[Whole, Field(ge=1)]
Size = Annotated[Any, AfterValidator(_size)]  # "750MB", "2GiB" or a number of bytes
Layers = Annotated[list[Whole], Field(min_length=1), AfterValidator(_distinct)]


class Section(BaseModel):
    # Not strict: Snakemake's --config gives what stands inside a section as text, and a name of digits as a number.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Model(Section):
    name: str
    source: Literal["wheel", "hub", "path", "random"]
    dtype: Literal["float32", "bfloat16", "float16"]
    seed: Whole = 0
    path: str | None = None
    hub_id: str | None = None
    revision: str | None = None


class Budget(Section):
    device: Size
    overhead: Size  # of `device`: what CUDA itself takes beside weights, workspace and KV
    host: Size


class Oversubscription(Section):
    sessions: Annotated[Whole, Field(ge=2)]  # one fits, or nothing does
    prompt_tokens: Count
    # two before a session of a peer is put aside and one behind it: with fewer nothing is seen of whether it went on as it should
    new_tokens: Annotated[Whole, Field(ge=3)]
    break_at: Whole


class Resume(Section):
    layers: Layers
    prompt_tokens: Count
    samples: Count
    warmup: Annotated[Whole, Field(ge=0)]


class Eager(Section):
    max_sessions: Count
    allocators: Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]


class Peers(Section):
    vllm: Literal["auto", "on", "off"]
    vllm_python: str
    rounds: Count
    together: bool
    samples: Count
    warmup: Annotated[Whole, Field(ge=0)]
    tune_sessions: Annotated[Whole, Field(ge=0)]
    tune_seconds: Count


class ActivationSteering(Section):
    enabled: bool
    modification_type: Literal["scale"]
    modification_factor: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    steering_layer: Whole


class Breakpoints(Section):
    layers: Layers
    dtype: Literal["float32", "bfloat16", "float16"]
    prompts: Count
    prompt_tokens: Count
    new_tokens: Annotated[Whole, Field(ge=2)]  # one pause in prefill, one in decode, and something behind it
    gpt2_layers: Layers
    gpt2_prompts: Count
    gpt2_source: Literal["random", "hub"]


class CheckpointCost(Section):
    prompt_tokens: Count
    pairs: Count


class Dispatch(Section):
    samples: Count


class Concurrent(Section):
    clients: Count


class Settings(Section):
    scale: Literal["smoke", "laptop", "laptop-float32", "paper"]
    name: str | None = None
    server: (
        Annotated[str, Field(pattern=r"^tcp://(127\.0\.0\.1|localhost|\[::1\]):\d+$"), AfterValidator(_port)] | None
    ) = None
    device: Annotated[str, Field(pattern=r"^(cpu|cuda:\d+)$")]
    # more than this machine has is slow, not wrong; no machine has more than that
    threads: Annotated[Whole, Field(ge=1, le=1024)]
    model: Model
    budget: Budget
    oversubscription: Oversubscription
    resume: Resume
    eager: Eager
    peers: Peers
    activation_steering: ActivationSteering
    breakpoints: Breakpoints
    checkpoint_cost: CheckpointCost
    dispatch: Dispatch
    concurrent: Concurrent


def parse(config: dict[str, Any]) -> Settings:
    """The merged configuration, checked. Raises ConfigError that names every key that is wrong and what was expected."""
    try:
        settings = Settings.model_validate(config)
    except ValidationError as error:
        raise ConfigError("\n".join(wording.line(item, _all_names()) for item in error.errors())) from None
    wrong = of_another_source(settings) + beyond_the_model(settings) + of_another_device(settings)
    wrong += beyond_the_budget(settings) + not_here(settings)
    if wrong:
        raise ConfigError("\n".join(wrong))
    return settings


def leave_for_scripts(settings: Settings) -> None:
    """Called by the Snakefile: `of_this_run` finds it."""
    os.environ[WHOLE] = settings.model_dump_json()


def of_this_run() -> Settings:
    """What the Snakefile left in the environment. Raises ConfigError in a script that was not started by it."""
    if WHOLE not in os.environ:
        raise ConfigError(f"{WHOLE} is not set: run this through snakemake")
    return Settings.model_validate_json(os.environ[WHOLE])


def digest(settings: Settings) -> str:
    """16 hex digits of everything that can change a number (a campaign's name and a server's address cannot)."""
    return hashlib.sha256(_canonical(settings.model_dump(exclude={"name", "server"})).encode()).hexdigest()[:16]


def part(settings: Settings, *paths: str) -> str:
    """The named keys (`"resume"`, `"budget.device"`) as canonical JSON: what a rule reruns for when it changes."""
    whole, chosen = settings.model_dump(), {}
    for path in paths:
        section, _, key = path.partition(".")
        if key:
            chosen.setdefault(section, {})[key] = whole[section][key]
        else:
            chosen[section] = whole[section]
    return _canonical(chosen)


def read_part(text: str) -> Any:
    """What `part` wrote, with attributes; a key that the rule does not declare is an AttributeError."""
    return json.loads(text, object_hook=lambda keys: SimpleNamespace(**keys))


def given_out(budget: Any) -> int:
    """Bytes of the device budget that are for weights, workspace and KV; the driver's reading of the process shows all of it."""
    return parse_bytes(budget.device) - parse_bytes(budget.overhead)


def _canonical(data: Any) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def _all_names() -> list[str]:
    names = []
    for key, field in Settings.model_fields.items():
        names.append(key)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            names += [f"{key}.{inner}" for inner in field.annotation.model_fields]
    return names
