"""Compiled programs are kept where they are valid, and a damaged one is compiled again."""

import dataclasses
import warnings

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from fjt.core import console, records
from fjt.core.errors import UserError
from fjt.core.options import CacheConfig, ExecutionConfig
from fjt.experiment import program_cache

KEYS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_compilation_cache")


@pytest.fixture(autouse=True)
def restored():
    before = {key: getattr(jax.config, key) for key in KEYS}
    compilation_cache.reset_cache()
    yield
    for key, value in before.items():
        jax.config.update(key, value)
    compilation_cache.reset_cache()


def folder_of(tmp_path, compilation=None, there=None):
    jax.config.update("jax_compilation_cache_dir", there)
    execution = dataclasses.replace(ExecutionConfig(), cache=CacheConfig(dir=str(tmp_path), compilation=compilation))
    program_cache.keep_programs(execution)
    return jax.config.jax_compilation_cache_dir


def test_a_folder_of_the_user_s_own_is_used_unless_the_config_says_otherwise(tmp_path):
    mine = folder_of(tmp_path)
    assert mine.startswith(str(tmp_path / "compiled"))
    assert folder_of(tmp_path, there="elsewhere") == "elsewhere"
    assert folder_of(tmp_path, True, "elsewhere") == mine
    assert folder_of(tmp_path, False, "elsewhere") is None


FLAG = "--xla_cpu_multi_thread_eigen=true"  # XLA's own default


@pytest.mark.parametrize(
    ("name", "value"), [("processor", "another"), ("instructions", "fpu avx"), ("cores", 3), ("XLA_FLAGS", FLAG)]
)
def test_what_programs_depend_on_is_in_the_name_of_their_folder(tmp_path, monkeypatch, name, value):
    before = folder_of(tmp_path)
    if name == "XLA_FLAGS":
        monkeypatch.setenv(name, value)
    else:
        monkeypatch.setattr(records, name, lambda: value)
    assert folder_of(tmp_path) != before


def test_a_platform_that_is_not_there_is_a_sentence(tmp_path, monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'abc'")

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(UserError, match="JAX finds no device"):
        folder_of(tmp_path)


class Warned(console.Silent):
    def __init__(self):
        self.texts = []

    def warn(self, text):
        self.texts.append(text)


def compiled():
    def kept_program(x):
        return jnp.sin(x) @ x.T

    return jax.jit(kept_program).lower(jnp.ones((3, 3))).compile()(jnp.ones((3, 3)))


def test_a_damaged_program_is_removed_said_and_compiled_again(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    wanted = compiled()
    (path,) = tmp_path.glob("jit_kept_program-*-cache")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    view = Warned()
    with program_cache.damaged_removed(view):
        found = compiled()
    assert jnp.array_equal(found, wanted) and not path.exists()
    assert len(view.texts) == 1 and "a kept program was damaged" in view.texts[0]
    with program_cache.damaged_removed(view):
        compiled()
    assert path.exists() and len(view.texts) == 1


@pytest.mark.parametrize(
    ("error", "words"),
    [(FileNotFoundError(2, "gone"), "it is removed"), (PermissionError(13, "denied"), "cannot be removed (denied)")],
)
def test_a_damaged_program_that_is_not_removed_here_ends_nothing(tmp_path, monkeypatch, error, words):
    def remove(path):
        raise error

    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    (tmp_path / "jit_a-0-cache").write_bytes(b"")
    monkeypatch.setattr(program_cache.os, "remove", remove)
    view = Warned()
    with program_cache.damaged_removed(view):
        warnings.warn("Error reading persistent compilation cache entry for 'jit_a': bad", stacklevel=1)
    assert len(view.texts) == 1 and words in view.texts[0]


def test_a_folder_that_cannot_be_written_ends_nothing(tmp_path):
    (tmp_path / "file").write_text("in the way")
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file" / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    view = Warned()
    with program_cache.damaged_removed(view):
        compiled()
    assert view.texts and all("compiled programs cannot be kept" in text for text in view.texts)


def test_other_warnings_pass_through():
    with pytest.warns(UserWarning, match="of something else"), program_cache.damaged_removed(Warned()):
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("of something else", UserWarning, stacklevel=1)
