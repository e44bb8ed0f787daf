"""``python -m cmp_rerank``: the same as the command ``cmp-rerank``."""

from cmp_rerank.cli.main import app

if __name__ == "__main__":
    app(prog_name="cmp-rerank")
