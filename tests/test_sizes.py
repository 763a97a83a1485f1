import pytest

from djinn.errors import BadRequest
from djinn.model.presets import PRESETS
from djinn.sizes import KVShape, format_bytes, format_seconds, kv_bytes_per_token, parse_bytes, parse_seconds


@pytest.mark.parametrize(
    ("text", "count"),
    [("750MB", 750_000_000), ("2GiB", 2 * 2**30), ("1.5 GB", 1_500_000_000), (12, 12), ("80 gb", 80 * 10**9)],
)
def test_sizes_are_read(text, count):
    assert parse_bytes(text) == count


@pytest.mark.parametrize("text", ["", "MB", "-1GB", "5 parsecs", "1e9", 10**400, f"{10**305}GB"])
def test_what_is_no_size_is_refused_with_an_example(text):
    with pytest.raises(BadRequest, match="750MB"):
        parse_bytes(text)


def test_a_number_that_python_does_not_write_down_is_no_size():
    with pytest.raises(BadRequest, match="750MB"):
        parse_bytes(10**5000)


def test_sizes_are_written_for_people():
    assert format_bytes(1_311_000_000) == "1.31 GB"
    assert format_bytes(999) == "999 B"


@pytest.mark.parametrize(
    ("text", "seconds"), [("24h", 86400), ("30m", 1800), ("1.5 d", 129600), ("90s", 90), (2.5, 2.5)]
)
def test_lengths_of_time_are_read(text, seconds):
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "0", "-1h", "1 week", "inf", 10**400, f"{10**305}d"])
def test_what_is_no_length_of_time_is_refused_with_an_example(text):
    with pytest.raises(BadRequest, match="24h"):
        parse_seconds(text)


def test_lengths_of_time_are_written_for_people():
    assert [format_seconds(s) for s in (86400, 90, 5)] == ["24.0 h", "1.5 min", "5 s"]


def test_llama_13b_takes_what_measures_says():
    shape = PRESETS["llama-2-13b"]
    head_dim = shape["hidden_size"] // shape["num_attention_heads"]
    assert kv_bytes_per_token(40, shape["num_key_value_heads"], head_dim, "bfloat16") == 819_200
    kv = KVShape(40, 40, 128, 5120, "bfloat16")
    assert kv.kv_bytes(1600) == 1_310_720_000
    assert kv.hidden_bytes(2048) == 20_971_520
