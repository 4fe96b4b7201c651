"""`fjt.aot`: its table, its record, and what it refuses."""

import json

import pytest

TINY = ["--config", "configs/quickstart.py", "--encoder", "1x32x4x64", "--padded", "16"]


def test_a_table_and_a_record_for_the_devices_at_hand(launch, tmp_path):
    record = tmp_path / "record.json"
    flags = ["--topology", "local", "--batch", "8,16", "--mesh", "4x1,2x2", "--shard_params", "True"]
    done = launch(*TINY, *flags, "--output", record, program="fjt.aot")
    assert done.code == 0, done.text
    found = json.loads(record.read_text())
    steps = found["steps"]
    assert [(step["mesh"]["data"], step["mesh"]["shard_params"], step["batch"]) for step in steps] == [
        (data, True, batch) for data in (4, 2) for batch in (8, 16)
    ]
    assert all(step["fits"] and step["flops"] > 0 and step["sent_bytes"] for step in steps)
    assert "--topology local" in found["command"] and found["versions"]["jax"]
    assert "4x1 spread" in done.text and "all-gather float32" in done.text


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--topology"]),
        (["--topology", "v5e:2x5"], ["--topology=v5e:2x5", "v5e:2x4"]),
        (["--topology", "local", "--batch", "eight"], ["--batch=eight", "largest"]),
        (["--topology", "local", "--batch", "0"], ["--batch=0"]),
        (["--topology", "local", "--mesh", "4"], ["--mesh=4", "8x1"]),
        (["--topology", "local", "--mesh", "4x3"], ["4", "3", "heads"]),
        (["--topology", "local", "--mesh", "8x1"], ["there are 4 cpu devices"]),
        (["--topology", "local", "--shard_params", "yes"], ["--shard_params=yes", "both"]),
        (["--topology", "local", "--mesh", "4x1", "--batch", "2"], ["batch_size=2"]),
    ],
)
def test_mistakes(launch, flags, words):
    done = launch(*TINY, *flags, program="fjt.aot")
    assert done.code == 2 and "Traceback" not in done.text
    assert all(word in done.text for word in words), done.text


def no_libtpu():
    import sys

    sys.modules["libtpu"] = None


def test_without_the_compiler_of_tpus_it_says_what_to_install(launch):
    done = launch(*TINY, "--topology", "v5e-8", program="fjt.aot", hook=no_libtpu)
    assert done.code == 2 and "pip install -e .[tpu]" in done.text, done.text


def little_memory():
    from fjt.core import memory

    memory.device_bytes = lambda: 30e6


@pytest.mark.slow
def test_a_batch_that_does_not_fit_names_the_largest_that_does(launch):
    done = launch(*TINY, "--topology", "local", "--batch", "8192", program="fjt.aot", hook=little_memory)
    assert done.code == 2 and "The largest batch that does:" in done.text, done.text
