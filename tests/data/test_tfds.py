"""TFDS's own GLUE builder, offline, without TensorFlow, on small archives made here; what it says without a net."""

import errno
import pathlib
import shutil
import socket
import sys
import time
import zipfile
from unittest import mock

import numpy as np
import pytest
import requests
from glue_files import load, refusal, write, write_glue
from tensorflow_datasets.core.download import checksums
from tensorflow_datasets.text.glue import Glue

from fjt.data import tfds

ARCHIVES = {
    "CoLA": "CoLA.zip",
    "SST-2": "SST-2.zip",
    "STS-B": "STS-B.zip",
    "QQP": "QQP.zip",
    "MNLI": "MNLI.zip",
    "QNLI": "QNLIv2.zip",
    "RTE": "RTE.zip",
    "WNLI": "WNLI.zip",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """(folder of TSV files, folder of the same as archives), with TFDS's checksums set to those of the archives."""
    root = tmp_path_factory.mktemp("glue")
    files, manual = root / "files", root / "manual"
    write_glue(files)
    manual.mkdir()
    rows = (files / "QQP/train.tsv").read_text().splitlines()  # with the defects of the real file
    write(files / "QQP/train.tsv", *rows[:2], "7\t7\t7\ta question", "goes on\tother", "8\t8\t8\tq\tr\t", *rows[2:])
    for name, archive in ARCHIVES.items():
        with zipfile.ZipFile(manual / archive, "w") as z:
            for path in sorted((files / name).iterdir()):
                z.write(path, f"{name}/{path.name}")
    shutil.copy(files / "diagnostic/diagnostic.tsv", manual / "tsvsWithoutLabels_AX.tsv")
    # MRPC comes as its authors published it: train and dev in one file, told apart by a list of ids.
    train, dev = ((files / f"MRPC/{n}.tsv").read_text("utf-8").splitlines() for n in ("train", "dev"))
    renumbered = [row.replace(f"\t{i}\t{90 + i}\t", f"\t{50 + i}\t{70 + i}\t") for i, row in enumerate(dev[1:])]
    write(manual / "msr_paraphrase_train.txt", train[0], *renumbered[:2], *train[1:], *renumbered[2:])
    write(manual / "data_mrpc_dev_ids.tsv", *[f"{50 + i}\t{70 + i}" for i in range(4)])
    shutil.copy(files / "MRPC/test.tsv", manual / "msr_paraphrase_test.txt")
    with mock.patch.object(Glue, "url_infos", _infos(manual)):
        yield files, manual


def _infos(folder):
    known = checksums.load_url_infos(Glue._checksums_path)
    return {url: checksums.compute_url_info(str(folder / info.filename)) for url, info in known.items()}


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # `load` calls its cache folder "unused"

    def refuse(host, *args, **kwargs):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def load_tfds(task, data_dir, manual_dir="", **flags):
    return load(task, data_dir, data__source="tfds", data__manual_dir=str(manual_dir), **flags)


@pytest.mark.parametrize("name", ("cola", "sst2", "mrpc", "stsb", "qqp", "qnli", "mnli", "mnli_mismatched", "ax"))
def test_the_real_builder_gives_the_rows_of_the_files(places, tmp_path, name):
    files, manual = places
    task, splits = load_tfds(name, tmp_path, manual)
    same_task, expected = load(name, files)
    assert task == same_task and list(splits) == list(expected)
    for split, rows in expected.items():
        got = splits[split]
        assert (got.text, got.text_pair) == (rows.text, rows.text_pair)
        assert got.label.dtype == rows.label.dtype and np.array_equal(got.label, rows.label, equal_nan=name == "stsb")
        if name != "mrpc":  # there idx counts the rows of train and dev together
            assert got.id == rows.id
    assert "tensorflow" not in sys.modules
    assert not list(tmp_path.glob("extracted-*"))


def test_a_full_disk_names_the_folder_of_the_data_and_a_killed_one_s_archive_is_removed(places, tmp_path, monkeypatch):
    def full(archive, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    left = tmp_path / "extracted-glue-rte" / "ZIP.RTE.zip"
    left.mkdir(parents=True)
    (left / "old").write_text("of a process that was killed")
    monkeypatch.setattr(zipfile.ZipFile, "extractall", full)
    with pytest.raises(OSError, match="No space left") as raised:
        load_tfds("rte", tmp_path, places[1])
    assert raised.value.filename == str(tmp_path)
    assert not list(tmp_path.glob("extracted-*"))


def test_prepared_data_are_read_again_without_archives(places, tmp_path):
    first = load_tfds("rte", tmp_path, places[1])[1]
    second = load_tfds("rte", tmp_path)[1]
    assert first["train"].text == second["train"].text and len(second["train"]) == 6


def test_data_prepared_for_tensorflow_are_refused(places, tmp_path):
    load_tfds("rte", tmp_path, places[1])
    info = tmp_path / "glue/rte/2.0.0/dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    refusal("rte", "tfrecord", "TensorFlow", "config.data.dir", call=lambda: load_tfds("rte", tmp_path))


def test_offline_message_names_the_flags(places, tmp_path):
    start = time.monotonic()
    refusal(
        "dl.fbaipublicfiles.com",
        "could not be reached",
        "--config.data.source=files",
        "--config.data.manual_dir=DIR",
        "SST-2.zip",
        "--config.data.dir=DIR",
        call=lambda: load_tfds("sst2", tmp_path),
    )
    assert time.monotonic() - start < 10
    refusal("firebasestorage", "data_mrpc_dev_ids.tsv", call=lambda: load_tfds("mrpc", tmp_path))


def test_a_resolver_that_hangs_is_not_waited_for(places, tmp_path, monkeypatch):
    assert tfds.CONNECT_SECONDS <= 5  # the promise is ten seconds for the whole command
    monkeypatch.setattr(tfds, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: time.sleep(5))
    start = time.monotonic()
    refusal("could not be reached", "--config.data.source=files", call=lambda: load_tfds("sst2", tmp_path))
    assert time.monotonic() - start < 3


def test_bad_archives(places, tmp_path):
    manual = tmp_path / "manual"
    manual.mkdir()
    refusal("config.data.manual_dir=", "RTE.zip", call=lambda: load_tfds("rte", tmp_path, manual))
    shutil.copy(places[1] / "WNLI.zip", manual / "RTE.zip")
    refusal("RTE.zip", "sha256", "download", call=lambda: load_tfds("rte", tmp_path, manual))


class Answer:
    """What `requests.get` gives for a local file."""

    def __init__(self, path, status=200):
        self.data = path.read_bytes()
        self.status_code = status

    def raise_for_status(self):
        if self.status_code != 200:
            raise requests.HTTPError("refused", response=self)

    def iter_content(self, size):
        yield self.data[:10]
        yield self.data[10:]


def test_download_is_checked_and_kept(places, tmp_path, monkeypatch):
    asked = []

    def get(url, **kwargs):
        asked.append(url)
        return Answer(places[1] / "WNLI.zip")

    monkeypatch.setattr(requests, "get", get)
    cache = tmp_path / "cache"
    assert len(load_tfds("wnli", "")[1]["train"]) == 6
    assert pathlib.Path("unused/downloads/WNLI.zip").exists() and len(asked) == 1
    load_tfds("wnli", cache)  # prepared anew from the archive that was kept
    assert len(asked) == 1
    refusal("dl.fbaipublicfiles.com", "sha256", "manual_dir", call=lambda: load_tfds("rte", cache))
    assert sorted(path.name for path in pathlib.Path("unused/downloads").iterdir()) == ["WNLI.zip"]
    monkeypatch.setattr(requests, "get", lambda url, **kwargs: Answer(places[1] / "RTE.zip", 403))
    refusal("HTTP status 403", "manual_dir", call=lambda: load_tfds("rte", cache))


def test_mnli_goes_on_without_the_diagnostics(places, tmp_path, caplog):
    manual = tmp_path / "manual"
    manual.mkdir()
    shutil.copy(places[1] / "MNLI.zip", manual)
    splits = load_tfds("mnli", tmp_path, manual)[1]
    assert list(splits) == ["train", "dev", "dev_mismatched", "test", "test_mismatched"]
    assert "glue/ax" in caplog.text
    refusal("tsvsWithoutLabels_AX.tsv", call=lambda: load_tfds("ax", tmp_path, manual))
