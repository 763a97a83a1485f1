from types import SimpleNamespace

import pytest

from evaluation.servers import WrongServer, budget_for, server_for, shape_of

FACTS = {
    "layers": 8,
    "kv_heads": 4,
    "head_dim": 64,
    "hidden_size": 256,
    "intermediate_size": 512,
    "dtype": "bfloat16",
    "bytes": 10_000_000,
    "vocab_size": 512,
}


def settings(server, **model):
    given = {"name": "tiny-llama", "source": "random", "dtype": "float32", "seed": 0, **model}
    return SimpleNamespace(server=server.endpoint, model=SimpleNamespace(**given))


def test_a_running_server_with_the_same_model_is_used(server):
    asked = settings(server)
    with server_for(asked, 100, 0) as running:
        assert running.endpoint == server.endpoint and running.pid is None
    said = asked.served_by
    assert (said["address"], said["device"]) == (server.endpoint, "cpu"), (
        "a result says whose machine and budget it is of"
    )
    assert said["plan"]["device_budget_bytes"] > said["plan"]["weights_bytes"]


@pytest.mark.parametrize("other", [{"seed": 1}, {"dtype": "bfloat16"}, {"name": "smollm2-135m"}])
def test_a_running_server_with_another_model_is_refused(server, other):
    with pytest.raises(WrongServer, match=next(iter(other))), server_for(settings(server, **other), 100, 0):
        pass


def test_a_budget_holds_so_many_sessions_and_not_one_more():
    shape = shape_of(FACTS)
    one = shape.kv_bytes(128) + -(-shape.hidden_bytes(100) // shape.unit_bytes) * shape.unit_bytes  # in whole units
    arenas = [budget_for(FACTS, count, 100, 100) for count in (3, 4)]
    assert arenas[1] - arenas[0] == one
