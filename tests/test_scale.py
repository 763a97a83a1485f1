"""Which scale `auto` takes, without asking torch."""

from __future__ import annotations

import pytest

from evaluation import scale


@pytest.mark.parametrize(
    ("card_bytes", "torch", "chosen"),
    [
        (0, "2.13.0", "laptop"),
        (24 * 2**30, "2.13.0", "laptop"),
        (80 * 2**30, "2.13.0", "paper"),
        (80 * 2**30, "2.13.0+cpu", "laptop"),
    ],
)
def test_auto_takes_what_the_machine_can_do(monkeypatch, card_bytes, torch, chosen):
    monkeypatch.setattr(scale, "_largest_card_bytes", lambda: card_bytes)
    monkeypatch.setattr(scale.importlib.metadata, "version", lambda name: torch)
    monkeypatch.setattr(scale, "has_bfloat16", lambda: True)
    assert scale.choose_scale("auto")[0] == chosen
    monkeypatch.setattr(scale, "has_bfloat16", lambda: False)
    assert scale.choose_scale("auto")[0] == chosen.replace("laptop", "laptop-float32")


@pytest.mark.parametrize(
    ("flags", "has"),
    [("fpu avx512f avx512_vnni", False), ("avx512_bf16", True), ("fpu amx_bf16", True), ("bf16", False)],
)
def test_bfloat16_is_asked_of_the_processor(tmp_path, flags, has):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n" * 2)
    assert scale.has_bfloat16(cpuinfo) is has
    cpuinfo.write_text("processor: 0\n")  # another architecture
    assert not scale.has_bfloat16(cpuinfo)


def test_a_scale_that_is_named_is_taken():
    assert scale.choose_scale("smoke") == ("smoke", "as the config says")


def test_hidden_cards_do_not_count(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert scale._largest_card_bytes() == 0
