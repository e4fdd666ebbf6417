"""Where named data sets live, and the SHA-256 of their files."""

from __future__ import annotations

from typing import NamedTuple


class File(NamedTuple):
    """A file and its checksum."""

    name: str
    sha256: str


class Source(NamedTuple):
    """A data set's public home: files are fetched from `home` + name."""

    home: str
    reader: str  # "idx" or "cifar"
    files: tuple[File, ...]
    num_classes: int = 10
    train_members: tuple[str, ...] = ()
    test_members: tuple[str, ...] = ()
    label_bytes: int = 1


# MNIST's own home no longer serves files; this mirror has them byte for byte.
SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "idx",
        (
            File("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            File("train-labels-idx1-ubyte.gz", "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"),
            File("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
            File("t10k-labels-idx1-ubyte.gz", "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"),
        ),
    ),
    "fashion-mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "idx",
        (
            File("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            File("train-labels-idx1-ubyte.gz", "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            File("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            File("t10k-labels-idx1-ubyte.gz", "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
        ),
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        "cifar",
        (File("cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),),
        train_members=tuple(f"cifar-10-batches-bin/data_batch_{k}.bin" for k in range(1, 6)),
        test_members=("cifar-10-batches-bin/test_batch.bin",),
    ),
    "cifar100": Source(
        "https://www.cs.toronto.edu/~kriz/",
        "cifar",
        (File("cifar-100-binary.tar.gz", "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"),),
        num_classes=100,
        train_members=("cifar-100-binary/train.bin",),
        test_members=("cifar-100-binary/test.bin",),
        label_bytes=2,
    ),
}
