"""A change is known by the constants that it sets and by its hunks, wherever they stand."""

from autoresearch_mcp.server.proposals.changes import constants, fingerprint

HEAD = "diff --git a/train.py b/train.py\n--- a/train.py\n+++ b/train.py\n"


def test_constants_are_those_that_get_another_value() -> None:
    diff = HEAD + (
        "@@ -1,9 +1,9 @@\n-BATCH_TOKENS = 1024  # tokens\n+BATCH_TOKENS = 512  # fewer\n-    LR: float = 3e-4\n+    LR: float = 1e-3\n"
        "-DEPTH = 2\n+DEPTH = 2  # layers\n+x = 3\n+A = 1\n+A = 2\n+assert B == 3\n C = 1\n"
    )
    assert constants(diff) == {"BATCH_TOKENS": "512", "LR": "1e-3"}


def test_the_same_hunks_elsewhere_are_the_same_change() -> None:
    one, other = (f"{HEAD}@@ -{at} +{at} @@\n around {at}\n-a = 1\n+a = 2\n" for at in (3, 9))
    assert fingerprint(one) == fingerprint(other) != fingerprint(one.replace("+a = 2", "+a = 3"))
