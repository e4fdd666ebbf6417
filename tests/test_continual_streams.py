"""Streams hand out every example once, where they should; data sets are found, fetched and checked."""

import gzip
import hashlib
import io
import struct
import tarfile

import numpy as np
import pytest

import continual
from continual import sources
from probinf.errors import ArgumentError, DataError, UnknownNameError


@pytest.fixture(scope="module")
def numbered() -> continual.Dataset:
    """Six classes; every input is its own row number, so that it can be recognised."""

    def part(start: int, size: int) -> continual.Examples:
        rows = np.arange(start, start + size)
        return continual.Examples(np.stack([rows, rows % 6], axis=1).astype(float), rows % 6)

    return continual.Dataset("numbered", part(0, 120), part(1000, 36), 6)


def rows_of(examples):
    return sorted(examples.inputs[:, 0].astype(int))


def all_rows(stream):
    return sorted(row for task in stream.tasks for row in rows_of(task.train) + rows_of(task.validation))


def test_split_hands_out_every_example_once_in_its_own_task(numbered):
    stream = continual.split(numbered, [[4, 1], [0], [2, 3, 5]], validation=0.25, seed=1)
    assert all_rows(stream) == list(range(120))
    assert [task.classes for task in stream.tasks] == [(1, 4), (0,), (2, 3, 5)]
    for task in stream.tasks:
        assert set(task.train.targets) <= set(task.classes)
        assert len(task.validation.inputs) == round(0.25 * 20 * len(task.classes))
        assert not set(rows_of(task.train)) & set(rows_of(task.validation))
        np.testing.assert_array_equal(task.test.inputs[:, 1], task.test.targets)
    back = stream.with_validation_in_training()
    assert [len(task.train.inputs) for task in back.tasks] == [40, 20, 60]
    assert all(len(task.validation.inputs) == 0 for task in back.tasks)


def test_the_seed_decides_the_order(numbered):
    first, again, other = (continual.split(numbered, seed=seed).tasks[0].train.inputs for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_domain_incremental_tasks_share_their_labels(numbered):
    stream = continual.split(numbered, [[5, 0], [1, 4]], scenario="domain")
    assert stream.num_classes == 2
    for task, pair in zip(stream.tasks, [(5, 0), (1, 4)], strict=True):
        assert task.classes == (0, 1)
        np.testing.assert_array_equal(np.array(pair)[task.test.targets], task.test.inputs[:, 1])


def test_blurry_streams_move_a_share_and_lose_nothing(numbered):
    stream = continual.split(numbered, 2)
    mixed = continual.blurry(stream, 0.5, seed=0)
    assert all_rows(mixed) == list(range(120))
    strangers = [np.mean(~np.isin(task.train.targets, task.classes)) for task in mixed.tasks]
    assert 0.35 < np.mean(strangers) < 0.65
    for task in mixed.tasks:  # labels stay with their inputs
        np.testing.assert_array_equal(task.train.inputs[:, 1], task.train.targets)
    assert all_rows(continual.blurry(stream, 0.0)) == list(range(120))


def test_imbalanced_streams_have_the_counts_asked_for(numbered):
    found = continual.imbalanced(continual.split(numbered, 2), [3, 40, 1])
    assert [len(task.train.inputs) for task in found.tasks] == [3, 40, 1]
    assert [len(task.test.inputs) for task in found.tasks] == [12, 12, 12]
    with pytest.raises(ArgumentError, match="counts: 41 examples of task '2/3', which has 40"):
        continual.imbalanced(continual.split(numbered, 2), [3, 41, 1])


def test_permuted_tasks_keep_the_multiset_of_pixels_and_share_it_with_the_test():
    data = continual.load("digits")
    stream = continual.permuted(data, 3, seed=4, first=False)
    assert stream.scenario == "domain"
    plain = np.sort(data.test.inputs.reshape(500, -1), axis=1)
    for k, task in enumerate(stream.tasks):
        np.testing.assert_array_equal(np.sort(task.test.inputs.reshape(500, -1), axis=1), plain)
        assert (task.test.inputs == data.test.inputs).all() == (k == 0)
    # one permutation in all examples of a task: columns' means are permuted alike in training and test
    pixel = np.random.default_rng([4, 1]).permutation(64)
    np.testing.assert_array_equal(
        stream.tasks[1].test.inputs.reshape(500, -1), data.test.inputs.reshape(500, -1)[:, pixel]
    )


def test_rotation_by_a_right_angle_is_exact():
    data = continual.load("digits")
    stream = continual.rotated(data, [0, 90])
    np.testing.assert_array_equal(stream.tasks[0].test.inputs, data.test.inputs)
    np.testing.assert_array_equal(stream.tasks[1].test.inputs, np.rot90(data.test.inputs, axes=(1, 2)))


def test_streams_from_arrays_are_cut_where_they_say():
    x = np.arange(10.0)[:, None]
    stream = continual.cut(
        continual.Examples(x, 2 * x[:, 0]), continual.Examples(x, 2 * x[:, 0]), [3, 4], test_boundaries=[5, 6]
    )
    assert [rows_of(task.train) for task in stream.tasks] == [[0, 1, 2], [3], [4, 5, 6, 7, 8, 9]]
    assert stream.num_classes == 0
    assert [task.name for task in stream.in_order([2, 0]).tasks] == ["2", "0"]
    doubled = stream.map(lambda inputs: 2 * inputs)
    np.testing.assert_array_equal(doubled.tasks[1].train.inputs, [[6.0]])
    with pytest.raises(DataError, match="task 1: no training example"):
        continual.cut(*[continual.Examples(x, x[:, 0])] * 2, [3, 3], test_boundaries=[3, 4])


def test_toy_gaussians_have_their_centres():
    stream = continual.toy_gaussians(2000, seed=0)
    assert (stream.scenario, stream.num_classes, len(stream.tasks)) == ("domain", 2, 5)
    for part in ("train", "test"):
        inputs, targets = getattr(stream.tasks[3], part)
        for label, centre, spread in ((0, (1.6, -0.1), (0.16, 0.05)), (1, (1.7, -0.4), (0.24, 0.05))):
            blob = inputs[targets == label]
            assert len(blob) == 2000
            # five standard errors of eight means, false alarm below 1e-5
            assert (np.abs(blob.mean(axis=0) - centre) < 5 * np.array(spread) / np.sqrt(2000)).all()
            np.testing.assert_allclose(blob.std(axis=0), spread, rtol=5 / np.sqrt(4000))
    assert (stream.tasks[0].train.inputs != stream.tasks[0].test.inputs).all()


@pytest.mark.bad_input
def test_impossible_streams_are_refused(numbered):
    with pytest.raises(ArgumentError, match="different labels below 6"):
        continual.split(numbered, [[0, 1], [1, 2]])
    with pytest.raises(ArgumentError, match="equal numbers of classes"):
        continual.split(numbered, [[0, 1], [2]], scenario="domain")
    with pytest.raises(ArgumentError, match="validation: expected a share"):
        continual.split(numbered, validation=1.0)
    with pytest.raises(ArgumentError, match="scenario: expected one of"):
        continual.split(numbered, scenario="online")
    with pytest.raises(ArgumentError, match="share: expected a number from 0 to 1"):
        continual.blurry(continual.split(numbered), 1.5)
    one_class = continual.Dataset("thin", numbered.train, numbered.test, 7)
    with pytest.raises(DataError, match="task '6' of split-thin: no training example"):
        continual.split(one_class, [[0], [6]])


def idx_file(array: np.ndarray) -> bytes:
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


class Server:
    """An opener that serves bytes by the last part of the address, and remembers what was asked."""

    def __init__(self, files):
        self.files, self.asked = files, []

    def __call__(self, address):
        self.asked.append(address)
        if address.rsplit("/", 1)[1] not in self.files:
            raise OSError("404")
        return io.BytesIO(self.files[address.rsplit("/", 1)[1]])


@pytest.fixture
def tiny_mnist(monkeypatch):
    """MNIST with three and two images, under their own checksums."""
    rng = np.random.default_rng(0)
    train, test = (rng.integers(0, 256, (n, 28, 28), dtype=np.uint8) for n in (3, 2))
    arrays = [train, np.array([4, 0, 9], np.uint8), test, np.array([1, 7], np.uint8)]
    names = [file.name for file in sources.SOURCES["mnist"].files]
    files = {name: idx_file(array) for name, array in zip(names, arrays, strict=True)}
    checked = tuple(sources.File(name, hashlib.sha256(content).hexdigest()) for name, content in files.items())
    monkeypatch.setitem(sources.SOURCES, "mnist", sources.SOURCES["mnist"]._replace(files=checked))
    return files, arrays


def test_files_are_fetched_once_and_parsed(tiny_mnist, tmp_path):
    files, arrays = tiny_mnist
    server = Server(files)
    data = continual.load("mnist", tmp_path, download=True, opener=server)
    np.testing.assert_array_equal(data.train.inputs, arrays[0])
    np.testing.assert_array_equal(data.test.targets, [1, 7])
    assert len(server.asked) == 4
    again = continual.load("mnist", tmp_path, opener=server)
    assert len(server.asked) == 4
    np.testing.assert_array_equal(again.train.targets, [4, 0, 9])


def test_the_environment_variable_names_the_folder(tiny_mnist, tmp_path, monkeypatch):
    (tmp_path / "mnist").mkdir()
    for name, content in tiny_mnist[0].items():
        (tmp_path / "mnist" / name).write_bytes(content)
    monkeypatch.setenv("PROBINF_DATA", str(tmp_path))
    assert continual.load("mnist").train.inputs.shape == (3, 28, 28)


def test_absent_damaged_and_unreachable_data_say_what_to_do(tiny_mnist, tmp_path):
    files, _ = tiny_mnist
    with pytest.raises(DataError, match=r"is not there. Pass download=True to fetch it from https.*PROBINF_DATA"):
        continual.load("mnist", tmp_path)
    with pytest.raises(DataError, match=r"could not be fetched \(404\). Fetch it by other means"):
        continual.load("mnist", tmp_path, download=True, opener=Server({}))
    name = next(iter(files))
    with pytest.raises(DataError, match=f"{name} has SHA-256 .*, expected .*: try again"):
        continual.load("mnist", tmp_path, download=True, opener=Server(files | {name: b"not it"}))
    assert not (tmp_path / "mnist" / name).exists()
    continual.load("mnist", tmp_path, download=True, opener=Server(files))
    (tmp_path / "mnist" / name).write_bytes(files[name][:-1])
    with pytest.raises(DataError, match="remove it and load again"):
        continual.load("mnist", tmp_path)
    with pytest.raises(UnknownNameError, match="Did you mean 'mnist'"):
        continual.load("mnst")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_binary_cifar_is_read_in_its_own_layout(name, tmp_path, monkeypatch):
    source = sources.SOURCES[name]
    rng, buffer, expected = np.random.default_rng(0), io.BytesIO(), {}
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member in (*source.train_members, *source.test_members):
            planes = rng.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)
            labels = rng.integers(0, 10, (2, source.label_bytes), dtype=np.uint8)
            content = np.concatenate([labels, planes.reshape(2, -1)], axis=1).tobytes()
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            expected[member] = (planes, labels[:, -1])
    content = buffer.getvalue()
    file = sources.File(source.files[0].name, hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(sources.SOURCES, name, source._replace(files=(file,)))
    data = continual.load(name, tmp_path, download=True, opener=Server({file.name: content}))
    planes, labels = expected[source.test_members[0]]
    np.testing.assert_array_equal(data.test.inputs[1, 3, 5], planes[1, :, 3, 5])
    np.testing.assert_array_equal(data.test.targets, labels)
    assert len(data.train.inputs) == 2 * len(source.train_members)
