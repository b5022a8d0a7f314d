"""Which encoder exactly: what its encodings are filed under."""

import hashlib
from pathlib import Path

VOCABULARIES = ("vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spm.model")
FILES = ("config.json", "spiece.model", "tokenizer.json", "*.safetensors", *VOCABULARIES)
READ_UP_TO = 512 * 2**20  # bytes; reading a file of 20 GB at every start would take a minute
SAMPLES, SAMPLE_BYTES = 64, 2**16  # of a larger file, the first one at its start


def fingerprint_of(folder: Path, max_num_words: int) -> str:
    """Return what changes with an encoder's files or with the longest caption.

    A revision in the hub's cache is known by its commit: its weights may not be there yet. In other
    folders the files are hashed, of a large one its size and samples of its content.

    Args:
        folder: holds the files.
        max_num_words: longest caption in tokens.
    """
    digest = hashlib.blake2b(f"{max_num_words} tokens".encode(), digest_size=16)
    if folder.parent.name == "snapshots":
        digest.update(f"{folder.parents[1].name} {folder.name}".encode())
        return digest.hexdigest()
    for path in sorted(path for name in FILES for path in folder.glob(name)):
        stat = path.stat()
        digest.update(f"{path.name} {stat.st_size} ".encode())
        with path.open("rb") as file:
            if stat.st_size <= READ_UP_TO:
                digest.update(hashlib.file_digest(file, "sha256").digest())
                continue
            for i in range(SAMPLES):
                file.seek(i * (stat.st_size - SAMPLE_BYTES) // (SAMPLES - 1))
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
