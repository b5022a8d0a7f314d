"""The one place that makes text encoders."""

from minimagen.text.encoding import TextEncoder
from minimagen.text.pretrained import PretrainedEncoder


def build(name: str, max_num_words: int) -> TextEncoder:
    """Return the frozen text encoder called ``name``; nothing is loaded before it is used.

    Args:
        name: ``t5_mini``, ``minilm_mini``, another short name (``minilm``, ``t5_small`` ...), a hub
            id or a local folder.
        max_num_words: Longest caption in tokens; longer ones are cut.

    Raises:
        UserError: No encoder has this name, or ``max_num_words`` is below 1.
    """
    return PretrainedEncoder(name, max_num_words)
